"""NumPy's files: .npy by ranges of rows, mapped where they lie on this machine, and .npz by streaming one member."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidInput
from service.sources.files import File
from service.sources.losses import Losses, reading
from service.sources.parts import Chunk, Layout, Stretch, Wanted, one_layout, ranges, row_numbers, size_of

ROWS_KEY = "X"  # of an .npz with several arrays
NUMBERS = "biuf"
WHOLE_BYTES = 2**30  # of labels, and of an array in Fortran order that cannot be mapped
BOMB_BYTES, BOMB_RATIO = 2**30, 200  # a member above both is refused


@dataclass(frozen=True, slots=True)
class Header:
    """The header of an .npy file, with the offset of its data."""

    shape: tuple[int, ...]
    columns_first: bool  # Fortran order
    dtype: np.dtype[Any]
    offset: int

    @property
    def row(self) -> tuple[int, ...]:
        """Shape of a row; an array of one axis is a column."""
        return self.shape[1:] if len(self.shape) > 1 else (1,)

    @property
    def rows(self) -> int:
        return self.shape[0] if self.shape else 1

    @property
    def row_bytes(self) -> int:
        return size_of(self.row, self.dtype)


def header(file: IO[bytes], size: int) -> Header:
    """The header at the start of ``file`` of ``size`` bytes; raises ValueError where the data are not as long as it says."""
    start = file.read(8)
    if start[:4] == b"PK\x03\x04":
        raise ValueError("it is an .npz archive, not an .npy file")
    version = np.lib.format.read_magic(io.BytesIO(start))
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"it is of version {version}; {sorted(readers)} are read")
    shape, columns_first, dtype = readers[version](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, not numbers")
    if min(shape, default=0) < 0:
        raise ValueError(f"its header says shape {shape}")
    found = Header(shape, columns_first and len(shape) > 1, dtype, file.tell())
    if found.offset + size_of(found.shape, dtype) != size:
        raise ValueError(
            f"its header says {dtype} of shape {found.shape}, {size_of(found.shape, dtype)} bytes, and {size - found.offset} bytes follow"
        )
    return found


def labels_of(file: File) -> NDArray[Any]:
    """An .npy file of one label per row."""
    with reading(file.shown), file.open() as opened:
        found = header(opened, file.size)
        return _array(opened, found)


def scan_npy(files: Sequence[File], wanted: Wanted, losses: Losses) -> Layout:
    """Reads the headers."""

    def head(file: File, index: int) -> Layout:
        with file.open() as opened:
            return _layout(header(opened, file.size), file, index, wanted)

    return one_layout(files, head, losses)


def read_npy(stretch: Stretch) -> Iterator[Chunk]:
    """Chunks of a range of rows; of a file of this machine, each is a view that is mapped by itself and never copied.

    A mapped file must not be cut short while it is read: the operating system would end the process.
    """
    file, part = stretch.file, stretch.part
    with file.open() as opened:
        found = header(opened, file.size)
        take = partial(_mapped, file, found) if file.local else _taker(opened, found)
        for first, last in _steps(stretch):
            yield numbers(take(part.first + first, last - first), stretch.number, first, row_numbers(part, first, last))


def whole_npy(file: File, labels: NDArray[Any] | None) -> Chunk:
    """All rows of an .npy file of this machine in one chunk, mapped and not read."""
    with reading(file.shown), file.open() as opened:
        found = header(opened, file.size)
        return numbers(_mapped(file, found, 0, found.rows), 0, 0, np.arange(found.rows), labels)


def _mapped(file: File, found: Header, first: int, count: int) -> NDArray[Any]:
    """Rows of an .npy file of this machine, as a view of the file."""
    if found.columns_first:
        whole: NDArray[Any] = np.memmap(file.url, found.dtype, "r", found.offset, found.shape, order="F")
        return whole[first : first + count]
    return np.memmap(file.url, found.dtype, "r", found.offset + first * found.row_bytes, (count, *found.row))


def numbers(block: NDArray[Any], part: int, start: int, keys: NDArray[np.int64], labels: NDArray[Any] | None = None) -> Chunk:
    """A chunk of rows, or of pixels if they are bytes of shape [n, height, width, 3]."""
    pixels = block.ndim == 4 and block.shape[3] == 3 and block.dtype == np.uint8
    rows, images = (None, list(block)) if pixels else (block, None)
    return Chunk(part, start, start + len(block), keys, rows, images, labels)


def scan_npz(files: Sequence[File], wanted: Wanted, losses: Losses) -> Layout:
    """Reads the directory of each archive and the header of its array of rows."""

    def head(file: File, index: int) -> Layout:
        with _archive(file) as archive, _member(archive, _rows_name(archive, file, wanted)) as (_, found):
            return replace(_layout(found, file, index, wanted), labelled=f"{wanted.labels}.npy" in archive.namelist())

    return one_layout(files, head, losses)


def read_npz(stretch: Stretch) -> Iterator[Chunk]:
    """Chunks of the array of rows, unpacked as a stream; a later start unpacks all that is before it."""
    file, part = stretch.file, stretch.part
    with _archive(file) as archive:
        labels = None
        if stretch.layout.labelled:
            with _member(archive, str(stretch.wanted.labels)) as (opened, found):
                labels = _array(opened, found)
        with _member(archive, _rows_name(archive, file, stretch.wanted)) as (opened, found):
            if labels is not None and len(labels) != found.rows:
                raise InvalidInput(f"there are {len(labels)} labels for the {found.rows} rows of {file.shown}")
            take = _taker(opened, found)
            for first, last in _steps(stretch):
                block = take(part.first + first, last - first)
                taken = None if labels is None else labels[part.first + first : part.first + last]
                yield numbers(block, stretch.number, first, row_numbers(part, first, last), taken)
            opened.read(1)  # at its end a member's checksum is compared


def _layout(found: Header, file: File, index: int, wanted: Wanted) -> Layout:
    if wanted.columns or wanted.key:
        raise InvalidInput(f"{file.shown} has no named columns: columns and key go with tables")
    if found.dtype.kind not in NUMBERS:
        raise ValueError(f"it holds {found.dtype}; numbers are needed")
    if found.columns_first and not (file.local and file.suffix == ".npy") and found.row_bytes * found.rows > WHOLE_BYTES:
        raise ValueError(f"its rows are in Fortran order, which is read whole and up to {WHOLE_BYTES} bytes only: save them in C order")
    return Layout(tuple(ranges(file.name, index, found.rows, found.row_bytes)), found.row, str(found.dtype))


def _steps(stretch: Stretch) -> Iterator[tuple[int, int]]:
    """First and last row of each chunk, within the part."""
    end = stretch.part.rows or 0
    for first in range(stretch.start, end, stretch.rows):
        yield first, min(first + stretch.rows, end)


def _taker(opened: IO[bytes], found: Header) -> Callable[[int, int], NDArray[Any]]:
    """A function of the first row and the number of rows that reads them; an array in Fortran order is read whole, here."""
    if found.columns_first:
        whole = _array(opened, found).reshape(found.shape, order="F")
        return lambda first, count: whole[first : first + count]

    def take(first: int, count: int) -> NDArray[Any]:
        opened.seek(found.offset + first * found.row_bytes)
        return _rows(opened, found, count)

    return take


def _rows(opened: IO[bytes], found: Header, count: int) -> NDArray[Any]:
    size = count * found.row_bytes
    data = opened.read(size)
    if len(data) != size:
        raise ValueError(f"it ends early: {size} bytes of rows were expected and {len(data)} found")
    return np.frombuffer(data, found.dtype).reshape(count, *found.row)


def _array(opened: IO[bytes], found: Header) -> NDArray[Any]:
    """All of an array, in one axis, in the order in which it is stored."""
    if found.row_bytes * found.rows > WHOLE_BYTES:
        raise ValueError(f"an array in it has {found.row_bytes * found.rows} bytes; at most {WHOLE_BYTES} are read whole")
    return _rows(opened, found, found.rows).reshape(-1)


@contextmanager
def _archive(file: File) -> Iterator[zipfile.ZipFile]:
    with file.open() as opened:
        if not zipfile.is_zipfile(opened):
            raise ValueError("it is no .npz archive")
        with zipfile.ZipFile(opened) as archive:
            yield archive


def _rows_name(archive: zipfile.ZipFile, file: File, wanted: Wanted) -> str:
    names = [name.removesuffix(".npy") for name in archive.namelist()]
    others = [name for name in names if name != wanted.labels]
    if ROWS_KEY in others:
        return ROWS_KEY
    if len(others) != 1:
        raise InvalidInput(f"{file.shown} holds the arrays {names}: name the one with the rows {ROWS_KEY!r}")
    return others[0]


@contextmanager
def _member(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[IO[bytes], Header]]:
    about = archive.getinfo(f"{name}.npy")
    if about.file_size > max(BOMB_BYTES, BOMB_RATIO * about.compress_size):
        raise ValueError(
            f"its array {name!r} is packed {about.file_size // max(1, about.compress_size)} to 1 and would unpack to "
            f"{about.file_size} bytes; over {BOMB_BYTES} bytes at most {BOMB_RATIO} to 1 is read"
        )
    with archive.open(about) as opened:
        yield opened, header(opened, about.file_size)
