"""Data read whole, as fit, score and evaluate take them when they fit in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidInput
from service.features import Batch, EncodedImage, Progress
from service.sources.arrays import labels_of, whole_npy
from service.sources.files import LOCAL
from service.sources.losses import Losses
from service.sources.parts import Chunk
from service.sources.source import Source, open_source
from service.sources.urls import shown


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


def read(
    place: str | os.PathLike[str], labels: str | None = None, *, features: Sequence[str] | None = None, allow: Sequence[str] = LOCAL
) -> Data:
    """All rows at ``place``, in any form that ``open_source`` takes; an ``.npy`` and image files of this machine stay where they are.

    ``labels`` is the name of a column or array in the same file, taken out of the rows, or another ``.npy`` file.
    ``features`` and ``allow``: see ``open_source``. Raises InvalidInput, naming the file and what is wrong with it.
    """
    source = open_source(place, labels=labels, features=features, allow=allow)
    if source.rows == 0:
        raise InvalidInput(f"{shown(os.fspath(place))} holds no rows")
    names = list(source.layout.names) if source.layout.names else None
    if source.form == "images" and source.files[0].local:
        labels_beside = labels_of(source.label_file) if source.label_file else None
        files = ImageFiles([Path(file.url) for file in source.files])
        return Data(Batch(images=files), source.name, keys=[file.name for file in source.files], labels=labels_beside)
    chunks = list(_chunks(source))
    if not chunks:
        raise InvalidInput(f"{shown(os.fspath(place))} holds no rows")
    found = len(labels_of(source.label_file)) if source.label_file else None
    if found not in (None, sum(map(len, chunks))):  # a form whose rows are not counted before
        raise InvalidInput(f"there are {found} labels for the {sum(map(len, chunks))} rows of {shown(os.fspath(place))}")
    taken = [chunk.labels for chunk in chunks if chunk.labels is not None]
    return Data(_batch(chunks), source.name, names, _keys(chunks), np.concatenate(taken) if taken else None)


def whole(
    source: Source,
    losses: Losses,
    progress: Progress = lambda phase, done, total: None,
    rows: int | None = None,
    each: Callable[[Chunk], Chunk] = lambda chunk: chunk,
) -> Data:
    """All rows of a source, read in chunks of ``rows``, ``each`` made what goes into the whole. Raises InvalidInput."""
    chunks: list[Chunk] = []
    seen = 0
    progress("read", 0, source.rows or 0)
    for chunk in source.walk(rows=rows, losses=losses):
        chunks.append(each(chunk))
        seen += len(chunk)
        progress("read", seen, max(source.rows or 0, seen))
    if not any(map(len, chunks)):
        raise InvalidInput(f"{source.name} holds no rows" + (f" that can be read: {losses.lost[-1].reason}" if losses.lost else ""))
    labels = [chunk.labels for chunk in chunks if chunk.labels is not None]
    names = list(source.layout.names) if source.layout.names else None
    return Data(_batch(chunks), source.name, names, _keys(chunks), np.concatenate(labels) if labels else None)


def aligned(data: Data, names: list[str] | None) -> Data:
    """``data`` with its columns in the order of ``names``, those of the fit; raises InvalidInput where one is missing."""
    if names is None or data.feature_names is None or data.batch.rows is None or data.feature_names == names:
        return data
    missing = [name for name in names if name not in data.feature_names]
    if missing:
        raise InvalidInput(f"{data.name} lacks the columns {missing[:5]} that the detector was fitted on; it has {data.feature_names[:5]}")
    columns = [data.feature_names.index(name) for name in names]
    return replace(data, batch=Batch(rows=data.batch.rows[:, columns]), feature_names=names)


def _chunks(source: Source) -> Iterator[Chunk]:
    if source.form == "npy" and len(source.files) == 1 and source.files[0].local:
        yield whole_npy(source.files[0], labels_of(source.label_file) if source.label_file else None)
        return
    for number in range(len(source.parts)):
        yield from source.chunks(number)


def _batch(chunks: Sequence[Chunk]) -> Batch:
    blocks = [chunk.rows for chunk in chunks if chunk.rows is not None]
    if blocks:
        return Batch(rows=np.concatenate(blocks) if len(blocks) > 1 else blocks[0])
    return Batch(images=[image for chunk in chunks for image in chunk.images or ()])


def _keys(chunks: Sequence[Chunk]) -> list[str] | None:
    """Those that are names; numbers of rows tell nothing here."""
    if isinstance(chunks[0].keys, np.ndarray):
        return None
    return [str(key) for chunk in chunks for key in chunk.keys]
