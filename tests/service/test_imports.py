"""Imports without the garbage collector."""

from __future__ import annotations

import gc

import pytest

from service.imports import unswept


def test_what_an_import_makes_is_never_looked_through() -> None:
    """The collector rests inside, and what was made there is out of its sight afterwards; so too after an import that fails."""
    before = gc.get_freeze_count()
    try:
        with pytest.raises(ImportError), unswept():
            assert not gc.isenabled()
            made: list[list[int]] = [[] for _ in range(1000)]
            raise ImportError
        assert gc.isenabled()
        assert gc.get_freeze_count() >= before + len(made)
    finally:
        gc.unfreeze()
