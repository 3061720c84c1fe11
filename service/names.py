"""How detectors, versions, aliases and methods of calibration are named and written."""

from __future__ import annotations

import re
from typing import Literal

from service.errors import InvalidInput

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
ALIAS_PATTERN = r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$"
RESERVED_ALIAS = re.compile(r"latest|[vV][0-9]+")

Method = Literal["split-conformal", "class-conditional", "cross-conformal", "combined"]  # of calibration


def checked_name(name: str) -> str:
    """``name``, if a detector can have it; raises InvalidInput otherwise."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise InvalidInput(f"{name!r} cannot name a detector: up to 64 letters, digits, '.', '_' and '-', a letter or digit first")
    return name


def checked_alias(alias: str) -> str:
    """``alias``, if a user can set it; raises InvalidInput for the reserved ``latest`` and ``v1``, ``v2`` …"""
    if not re.fullmatch(ALIAS_PATTERN, alias) or RESERVED_ALIAS.fullmatch(alias):
        raise InvalidInput(
            f"{alias!r} cannot be an alias: up to 64 letters, digits, '_' and '-', a letter first; 'latest' and 'v1', 'v2' … are reserved"
        )
    return alias


def parsed_reference(text: str) -> tuple[str, str | int | None]:
    """Name and reference in ``NAME``, ``NAME@ALIAS`` or ``NAME:VERSION``.

    >>> parsed_reference("screws"), parsed_reference("screws@champion"), parsed_reference("screws:3")
    (('screws', None), ('screws', 'champion'), ('screws', 3))
    """
    name, at, alias = text.partition("@")
    if at:
        return checked_name(name), alias
    name, colon, number = text.partition(":")
    if colon and not number.isdecimal():
        raise InvalidInput(f"{text!r} names no version: write NAME, NAME@ALIAS or NAME:NUMBER")
    return checked_name(name), int(number) if colon else None
