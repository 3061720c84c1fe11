"""The plain values that sources are made of: what is asked for, the parts of the data, and chunks of their rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidInput
from service.sources.files import File
from service.sources.losses import Losses, reading

CHUNK_BYTES = 2**23  # two chunks read ahead, one in use and one in the making are 32 MiB
PART_BYTES = 2**28
ROW_BYTES = 2**28  # a row above it is refused
ROW = re.compile(r"\brow (\d+)\b")  # as refusals of rows name one of them
FILE_ROWS = 2**40  # row numbers of the next file begin this much higher

Keys = NDArray[Any] | Sequence[str]  # integers (n,), or strings


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of the data is asked for, by names of columns or arrays."""

    columns: tuple[str, ...] | None = None
    labels: str | None = None
    key: str | None = None
    features: tuple[str, ...] | None = None  # of a version, where the columns that hold them are asked for; of tables alone
    numbers_alone: bool = False  # of a table of which no columns are named, those that hold numbers, instead of all


@dataclass(frozen=True, slots=True)
class Part:
    """A piece that can be read without the others: a file, a Parquet row group, a range of rows, a shard."""

    name: str
    file: int  # its place among the source's files
    group: int  # row group of the file
    first: int  # number of its first row in the file
    rows: int | None  # None where only reading would tell


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows ``start`` to ``end`` of part ``part``: rows of numbers or images, exactly one of the two.

    ``end`` is where a reader that stopped after this chunk goes on. It is not ``start`` plus the length where
    images were left out.
    """

    part: int
    start: int
    end: int
    keys: Keys  # one per row
    rows: NDArray[Any] | None = None  # (n, *shape of the source)
    images: Sequence[bytes | NDArray[np.uint8]] | None = None  # encoded, or pixels [height, width, 3]
    labels: NDArray[Any] | None = None  # (n,)
    file: str = ""  # for people; none of images that are files themselves
    first: int = 0  # number of the first row in its file

    def __len__(self) -> int:
        inputs = self.images if self.rows is None else self.rows
        return len(inputs) if inputs is not None else 0

    def head(self, rows: int) -> Chunk:
        """The first ``rows`` rows of a chunk of numbers."""
        numbers = None if self.rows is None else self.rows[:rows]
        labels = None if self.labels is None else self.labels[:rows]
        return replace(self, end=self.start + rows, keys=self.keys[:rows], rows=numbers, labels=labels)

    def where(self, place: int) -> str:
        """Where the row at ``place`` of the chunk is, for people."""
        if isinstance(self.keys, np.ndarray) or self.images is None:
            return f"row {self.first + place} of {self.file}"
        return str(self.keys[place])

    def placed(self, refusal: str) -> str:
        """What is said against a row of the chunk, or against all of them, with the place of that row, or of all.

        >>> chunk = Chunk(0, 8, 12, np.arange(4), np.ones((4, 1)), file="b.npy", first=8)
        >>> chunk.placed("row 1 is too long"), chunk.placed("they are odd")
        ('row 9 of b.npy is too long', 'rows 8 to 11 of b.npy: they are odd')
        """
        if found := ROW.search(refusal):
            return refusal.replace(found[0], self.where(int(found[1])), 1)
        if isinstance(self.keys, np.ndarray) or self.images is None:
            return f"rows {self.first} to {self.first + len(self) - 1} of {self.file}: {refusal}"
        return f"{self.keys[0]} to {self.where(len(self) - 1)}: {refusal}"


@dataclass(frozen=True, slots=True)
class Layout:
    """What headers, footers and listings tell of the data."""

    parts: tuple[Part, ...]
    shape: tuple[int, ...] | None = None  # of one row; None for encoded images
    dtype: str = "bytes"
    names: tuple[str, ...] | None = None  # of the features, as tables have them
    labelled: bool = False  # the labels that are asked for stand in the data

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of numbers."""
        return size_of(self.shape, np.dtype(self.dtype)) if self.shape is not None else 0

    @property
    def feature_bytes(self) -> int:
        """Bytes of a row of numbers as it is learned: in single precision if it came so, else in double."""
        return size_of(self.shape, np.dtype("f4" if self.dtype == "float32" else "f8")) if self.shape is not None else 0


@dataclass(frozen=True, slots=True)
class Stretch:
    """What a reader is to read: a part from row ``start`` on, in chunks of ``rows``."""

    files: tuple[File, ...]
    layout: Layout
    wanted: Wanted
    number: int  # of the part
    start: int
    rows: int
    losses: Losses  # where images can be left out one by one

    @property
    def part(self) -> Part:
        return self.layout.parts[self.number]

    @property
    def file(self) -> File:
        return self.files[self.part.file]


def repeated(names: Iterable[str]) -> list[str]:
    """Up to five of the names that come more than once.

    >>> repeated(["a", "b", "a"])
    ['a']
    """
    return [name for name, count in Counter(names).items() if count > 1][:5]


def size_of(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """Bytes of an array, as a Python integer that cannot overflow."""
    size = dtype.itemsize
    for axis in shape:
        size *= axis
    return size


def rows_of(row_bytes: int, budget: int = CHUNK_BYTES) -> int:
    """How many rows a budget of bytes holds, at least one."""
    return max(1, budget // max(1, row_bytes))


def row_numbers(part: Part, start: int, end: int) -> NDArray[np.int64]:
    """Keys of rows ``start`` to ``end`` of a part: the number of the row in its file, plus 2^40 for each file before."""
    base = part.file * FILE_ROWS + part.first
    return np.arange(base + start, base + end, dtype=np.int64)


def ranges(name: str, file: int, rows: int, row_bytes: int, step: int = 1) -> Iterator[Part]:
    """Parts of about PART_BYTES that are ranges of rows; their ends are multiples of ``step``."""
    if row_bytes > ROW_BYTES:
        raise InvalidInput(f"a row of {name} has {row_bytes} bytes; at most {ROW_BYTES} are read")
    each = max(1, rows_of(row_bytes, PART_BYTES) // step) * step
    for first in range(0, rows, each):
        last = min(first + each, rows)
        yield Part(name if rows <= each else f"{name}[{first}:{last}]", file, 0, first, last - first)


def one_layout(files: Sequence[File], head: Callable[[File, int], Layout], losses: Losses) -> Layout:
    """The parts of all files, each read by ``head``; raises InvalidInput, naming two files, where their rows differ.

    A file without rows has no say in what rows look like, and none in the answer if another file has some.
    """
    parts: list[Part] = []
    empty: Layout | None = None
    model: tuple[str, Layout] | None = None
    for index, file in enumerate(files):
        try:
            with reading(file.shown):
                found = head(file, index)
            if all(part.rows == 0 for part in found.parts):
                empty = empty or found
                continue
            if model is None:
                model = file.shown, found
            _agree(file.shown, found, *model)
            parts.extend(found.parts)
        except InvalidInput as error:
            losses.add(file.url, error)
    layout = model[1] if model else empty or Layout(())
    return replace(layout, parts=tuple(parts))


def _agree(name: str, found: Layout, first: str, expected: Layout) -> None:
    for what, here, there in (
        ("columns", found.names, expected.names),
        ("shape of a row", found.shape, expected.shape),
        ("type of the numbers", found.dtype, expected.dtype),
        ("labels", found.labelled, expected.labelled),
    ):
        if here != there:
            raise InvalidInput(f"{name} and {first} differ in {what}: {_short(here)} and {_short(there)}")


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) < 200 else f"{text[:200]}…"
