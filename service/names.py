"""How detectors, versions, aliases and methods of calibration are named and written."""

from __future__ import annotations

import re
import reprlib
from typing import Any, Literal, get_args

from service.errors import InvalidInput

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
ALIAS_PATTERN = r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$"
RESERVED_ALIAS = re.compile(r"latest|[vV][0-9]+")

Method = Literal["split-conformal", "class-conditional", "cross-conformal", "combined"]  # of calibration
Verdict = Literal["false_alarm", "confirmed"]  # of people, on an outlier
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
LONGEST_KEY = 256  # characters


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


def row_keys(given: Any, rows: int | None = None) -> list[str]:
    """The names that a caller gives to ``rows`` rows, numbers among them as text. Raises InvalidInput, naming the place."""
    if not isinstance(given, list):
        raise InvalidInput("keys must be a list of strings or whole numbers, one for each row", "#/keys")
    if rows is not None and len(given) != rows:
        raise InvalidInput(f"there are {len(given)} keys for {rows} rows; one for each is needed", "#/keys")
    for index, key in enumerate(given):
        text = isinstance(key, str) and 0 < len(key) <= LONGEST_KEY and key.isprintable()
        number = isinstance(key, int) and not isinstance(key, bool) and abs(key) < 2**63
        if not (text or number):
            raise InvalidInput(
                f"key {index} must be a whole number or 1 to {LONGEST_KEY} printable characters, not {reprlib.repr(key)}", f"#/keys/{index}"
            )
    return [str(key) for key in given]
