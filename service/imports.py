"""Imports of much at once."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unswept() -> Iterator[None]:
    """A context without the garbage collector: nothing that an import makes is garbage, and looking for some is a tenth of its time.

    Nor does the collector ever look at it later: going through all that was imported would halt every request for a tenth of a second.
    """
    swept = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if swept:
            gc.enable()
