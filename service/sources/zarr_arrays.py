"""Zarr: one array of rows in a folder or under a URL, by runs of whole Zarr chunks. Needs the extra ``zarr``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from service.errors import InvalidInput
from service.sources.arrays import NUMBERS, ROWS_KEY, numbers
from service.sources.files import File, options
from service.sources.losses import Losses, reading
from service.sources.parts import Chunk, Layout, Stretch, Wanted, ranges, row_numbers, size_of
from service.sources.tries import awaited
from service.sources.urls import SCHEME

DESCRIPTIONS = ("zarr.json", ".zarray", ".zgroup")
BLOCK_BYTES = 2**28  # a Zarr chunk is unpacked whole


def scan_zarr(files: Sequence[File], wanted: Wanted, _losses: Losses) -> Layout:
    """Reads the description of the array at the root, or of the group's array ``X``."""
    root = root_of(files)
    if wanted.columns or wanted.key:
        raise InvalidInput(f"{root} has no named columns: columns and key go with tables")
    with reading(root):
        rows, labels = _arrays(root, wanted)
        if rows.dtype.kind not in NUMBERS:
            raise ValueError(f"it holds {rows.dtype}; numbers are needed")
        if size_of(rows.chunks, rows.dtype) > BLOCK_BYTES:
            raise ValueError(f"its chunks have {size_of(rows.chunks, rows.dtype)} bytes; at most {BLOCK_BYTES} are read")
        if labels is not None and labels.shape[0] != rows.shape[0]:
            raise InvalidInput(f"there are {labels.shape[0]} labels for the {rows.shape[0]} rows of {root}")
        row = rows.shape[1:] or (1,)
        parts = ranges(root.rsplit("/", 1)[-1], 0, rows.shape[0], size_of(row, rows.dtype), rows.chunks[0])
        return Layout(tuple(parts), row, str(rows.dtype), labelled=labels is not None)


def read_zarr(stretch: Stretch) -> Iterator[Chunk]:
    """Chunks of a range of rows. A Zarr chunk that more than one of ours takes rows from is unpacked for each."""
    rows, labels = _arrays(root_of(stretch.files), stretch.wanted)
    part, end = stretch.part, stretch.part.rows or 0
    for start in range(stretch.start, end, stretch.rows):
        last = min(start + stretch.rows, end)
        where = slice(part.first + start, part.first + last)
        try:
            block = np.asarray(rows[where]).reshape(last - start, *(rows.shape[1:] or (1,)))
        except RuntimeError as error:  # of what unpacks chunks
            raise ValueError(f"rows {where.start} to {where.stop - 1}: {error}") from None
        taken = None if labels is None else np.asarray(labels[where])
        yield numbers(block, stretch.number, start, row_numbers(part, start, last), taken)


def root_of(files: Sequence[File]) -> str:
    """The folder of the description that lies highest."""
    found = min((file.url for file in files if file.url.rsplit("/", 1)[-1] in DESCRIPTIONS), key=len, default=None)
    if found is None:
        raise InvalidInput(f"{files[0].url.rsplit('/', 1)[0]} holds no {' or '.join(DESCRIPTIONS)} of Zarr")
    return found.rsplit("/", 1)[0]


def _arrays(root: str, wanted: Wanted) -> tuple[Any, Any]:
    """The array of rows, and that of the labels or None."""
    try:
        import zarr
    except ImportError:
        raise InvalidInput(f"{root} needs Zarr, which is not installed: pip install 'farfield[zarr]'") from None
    opened = zarr.open(_store(root) if SCHEME.match(root) else root, mode="r")
    if isinstance(opened, zarr.Array):
        return opened, None
    if ROWS_KEY not in opened:
        raise ValueError(f"the group has no array {ROWS_KEY!r}; it has {sorted(opened)[:5]}")
    return opened[ROWS_KEY], opened[wanted.labels] if wanted.labels and wanted.labels in opened else None


def _store(root: str) -> Any:
    """A folder under a URL, for Zarr; what it reads from a network it tries ``again`` to read."""
    from zarr.storage import FsspecStore

    store: Any = FsspecStore.from_url(root, storage_options=options(root), read_only=True)
    store.get = partial(awaited, store.get)
    return store
