"""Training and scoring data from files: arrays, tables, folders of images."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv, feather, parquet

from service.engine import Batch, EncodedImage
from service.errors import InvalidInput

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
ROWS_KEY = "X"  # of an .npz with several arrays


@dataclass(frozen=True, slots=True)
class Data:
    """A batch with what is known of its rows."""

    batch: Batch
    name: str
    feature_names: list[str] | None = None
    keys: Sequence[str] | None = None  # one per row: the file of an image
    labels: NDArray[Any] | None = None


class ImageFiles(Sequence[EncodedImage]):
    """Image files, each read when it is asked for and not kept."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> ImageFiles: ...

    def __getitem__(self, index: int | slice) -> bytes | ImageFiles:
        return ImageFiles(self.paths[index]) if isinstance(index, slice) else self.paths[index].read_bytes()

    def __iter__(self) -> Iterator[bytes]:
        return (path.read_bytes() for path in self.paths)


def read(path: Path, labels: str | None = None) -> Data:
    """The data at ``path``: ``.npy``, ``.npz``, ``.csv``, ``.parquet``, ``.arrow``/``.feather``, or a folder of images.

    ``labels`` is the name of a column or array in the same file, taken out of the rows, or another
    ``.npy`` file. Raises InvalidInput, naming the file and what is wrong with it.
    """
    if not path.exists():
        raise InvalidInput(f"{path} does not exist")
    try:
        data = _images(path) if path.is_dir() else _file(path, labels)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, pa.ArrowException) as error:
        raise InvalidInput(f"{path} cannot be read: {error}") from None
    if labels and data.labels is None:
        found = read(Path(labels)).batch.rows if Path(labels).suffix == ".npy" else None
        if found is None:
            raise InvalidInput(f"{path} holds no labels named {labels!r}, and that is no .npy file")
        data = Data(data.batch, data.name, data.feature_names, data.keys, found.reshape(-1))
    if data.labels is not None and len(data.labels) != len(data.batch):
        raise InvalidInput(f"there are {len(data.labels)} labels for the {len(data.batch)} rows of {path}")
    if len(data.batch) == 0:
        raise InvalidInput(f"{path} holds no rows")
    return data


def aligned(data: Data, names: list[str] | None) -> Data:
    """``data`` with its columns in the order of ``names``, those of the fit; raises InvalidInput where one is missing."""
    if names is None or data.feature_names is None or data.batch.rows is None or data.feature_names == names:
        return data
    missing = [name for name in names if name not in data.feature_names]
    if missing:
        raise InvalidInput(f"{data.name} lacks the columns {missing[:5]} that the detector was fitted on; it has {data.feature_names[:5]}")
    columns = [data.feature_names.index(name) for name in names]
    return replace(data, batch=Batch(rows=data.batch.rows[:, columns]), feature_names=names)


def _file(path: Path, labels: str | None) -> Data:
    suffix = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    if suffix == ".npy":
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            array.close()
            raise ValueError("it is an .npz archive, not an .npy file")
        return Data(_batch(array), path.name)
    if suffix == ".npz":
        return _archive(path, labels)
    readers = {
        ".csv": csv.read_csv,
        ".csv.gz": csv.read_csv,
        ".parquet": parquet.read_table,
        ".arrow": feather.read_table,
        ".feather": feather.read_table,
    }
    if suffix not in readers:
        raise InvalidInput(f"{path}: files of type {suffix or 'none'!r} are not read, only .npy, .npz, {', '.join(readers)}")
    table = readers[suffix](path)
    if suffix.startswith(".csv") and all(_is_number(name) for name in table.column_names):
        raise InvalidInput(f"the first line of {path} holds numbers: give it one with the names of the columns")
    return _table(table, path.name, labels)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _archive(path: Path, labels: str | None) -> Data:
    with path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError("it is no .npz archive")
    with np.load(path, allow_pickle=False) as archive:
        found = labels if labels in archive.files else None
        keys = [key for key in archive.files if key != found]
        key = ROWS_KEY if ROWS_KEY in keys else keys[0] if len(keys) == 1 else None
        if key is None:
            raise InvalidInput(f"{path} holds the arrays {archive.files}: name the one with the rows {ROWS_KEY!r}")
        return Data(_batch(archive[key]), path.name, labels=archive[found].reshape(-1) if found else None)


def _batch(array: NDArray[Any]) -> Batch:
    if array.ndim == 4 and array.shape[3] == 3 and array.dtype == np.uint8:
        return Batch(images=list(array))
    return Batch(rows=array.reshape(-1, 1) if array.ndim < 2 else array)


def _table(table: pa.Table, name: str, labels: str | None) -> Data:
    taken = None
    if labels in table.column_names:
        taken = table[labels].to_numpy()
        table = table.drop_columns([labels])
    if table.num_rows == 0:
        raise InvalidInput(f"{name} holds no rows")
    for field in table.schema:
        if not (pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_boolean(field.type)):
            raise InvalidInput(f"column {field.name!r} of {name} holds {field.type}; numbers are needed")
        if table[field.name].null_count:
            raise InvalidInput(f"column {field.name!r} of {name} has {table[field.name].null_count} empty cells")
    rows = np.empty((table.num_rows, table.num_columns))
    for index, column in enumerate(table.columns):
        rows[:, index] = column.to_numpy()
    return Data(Batch(rows=rows), name, table.column_names, labels=taken)


def _images(folder: Path) -> Data:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise InvalidInput(f"folder {folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    keys = [str(path.relative_to(folder)) for path in paths]
    return Data(Batch(images=ImageFiles(paths)), folder.name, keys=keys)
