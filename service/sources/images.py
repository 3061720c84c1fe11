"""Encoded images: files in folders, and tar shards in the form of WebDataset, which are never unpacked to disk."""

from __future__ import annotations

import gzip
import itertools
import json
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, Self, cast

import numpy as np

from service.errors import InvalidInput
from service.sources.files import File
from service.sources.losses import Losses, reading
from service.sources.parts import CHUNK_BYTES, Chunk, Layout, Part, Stretch, Wanted
from service.sources.urls import suffix

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
IMAGES_PER_PART = 1024
IMAGE_BYTES = 2**26  # an encoded image above it is refused
LABEL_BYTES = 2**20

Sample = tuple[str, bytes | InvalidInput, Any]  # key, encoded image or what is wrong with it, label


def scan_images(files: Sequence[File], wanted: Wanted, _losses: Losses) -> Layout:
    """Files in the order given, in parts of IMAGES_PER_PART."""
    _refuse_columns(files[0], wanted)
    starts = range(0, len(files), IMAGES_PER_PART)
    return Layout(tuple(Part(f"images from {files[i].key}", 0, 0, i, min(IMAGES_PER_PART, len(files) - i)) for i in starts))


def read_images(stretch: Stretch) -> Iterator[Chunk]:
    """Chunks of the bytes of files, whose names are the keys."""
    first, count = stretch.part.first, stretch.part.rows or 0
    return _chunks(stretch, ((file.key, _content(file), None) for file in stretch.files[first + stretch.start : first + count]))


def scan_shards(files: Sequence[File], wanted: Wanted, _losses: Losses) -> Layout:
    """One part per shard; only reading would tell how many samples it has."""
    _refuse_columns(files[0], wanted)
    parts = tuple(Part(file.name, index, 0, 0, None) for index, file in enumerate(files))
    return Layout(parts, labelled=wanted.labels is not None and suffix(wanted.labels) != ".npy")


def read_shards(stretch: Stretch) -> Iterator[Chunk]:
    """Chunks of samples, as a stream; a later start reads over all that is before it. The keys are the names of shard and image.

    Members that follow each other and have the same name up to the first dot of its last part are one sample. Its
    image is the first member with a suffix of IMAGE_SUFFIXES; its label the number in ``.cls`` if ``cls`` is asked for, else an
    entry of the object in ``.json``.
    """
    with stretch.file.open() as raw, _unpacked(raw, stretch.file) as plain, tarfile.open(fileobj=plain, mode="r|", tarinfo=_Strict) as tar:
        samples = _samples(tar, stretch.file, stretch.wanted.labels if stretch.layout.labelled else None)
        told = ((f"{stretch.file.key}/{name}", image, label) for name, image, label in itertools.islice(samples, stretch.start, None))
        yield from _chunks(stretch, told)


def begun_shard(file: File, most: int) -> tuple[int, int]:
    """Images in about the first ``most`` bytes of a shard as it is stored, and how many bytes these are."""
    found = 0
    with file.open() as raw, _unpacked(raw, file) as plain, tarfile.open(fileobj=plain, mode="r|", tarinfo=_Strict) as tar:
        for _, image, _ in _samples(tar, file, None):
            found += not isinstance(image, InvalidInput)
            if raw.tell() >= most:
                return found, raw.tell()
    return found, file.size


def _chunks(stretch: Stretch, samples: Iterator[Sample]) -> Iterator[Chunk]:
    """Chunks of at most ``stretch.rows`` images; one that has reached CHUNK_BYTES is given as it is."""
    keys: list[str] = []
    images: list[bytes] = []
    labels: list[Any] = []
    start = end = stretch.start
    for key, image, label in samples:
        end += 1
        if isinstance(image, InvalidInput):
            stretch.losses.add(key, image)
            continue
        keys.append(key)
        images.append(image)
        labels.append(label)
        if len(images) == stretch.rows or sum(map(len, images)) >= CHUNK_BYTES:
            yield _chunk(stretch, start, end, keys, images, labels)
            start, keys, images, labels = end, [], [], []
    if images:
        yield _chunk(stretch, start, end, keys, images, labels)


def _chunk(stretch: Stretch, start: int, end: int, keys: list[str], images: list[bytes], labels: list[Any]) -> Chunk:
    return Chunk(stretch.number, start, end, keys, images=images, labels=np.array(labels) if stretch.layout.labelled else None)


def _content(file: File) -> bytes | InvalidInput:
    try:
        with reading(file.shown), file.open() as opened:
            return _image(opened, file.shown, file.size)
    except InvalidInput as error:
        return error


def _image(opened: IO[bytes], name: str, size: int) -> bytes:
    if not 0 < size <= IMAGE_BYTES:
        raise InvalidInput(f"{name} has {size} bytes; an image has 1 to {IMAGE_BYTES}")
    data = opened.read(size)
    if len(data) != size:
        raise InvalidInput(f"{name} ends early: {size} bytes were expected and {len(data)} found")
    return data


def _refuse_columns(file: File, wanted: Wanted) -> None:
    if wanted.columns or wanted.key:
        raise InvalidInput(f"{file.shown} has no named columns: columns and key go with tables")


@contextmanager
def _unpacked(raw: IO[bytes], file: File) -> Iterator[IO[bytes]]:
    if file.url.endswith(("gz", "GZ")):
        with gzip.open(raw) as plain:
            yield cast("IO[bytes]", plain)
    else:
        yield raw


class _Strict(tarfile.TarInfo):
    """Raises where tarfile would take a damaged header in the middle, or a missing end mark, for the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):  # the end mark
                raise
            raise tarfile.ReadError(f"it is cut or damaged: {error}") from None


def _samples(tar: tarfile.TarFile, file: File, labels: str | None) -> Iterator[Sample]:
    files = (member for member in tar if member.isreg())
    for stem, members in itertools.groupby(files, key=_stem):
        key, image, label = stem, None, None
        for member in members:
            suffix = posixpath.splitext(member.name)[1].lower()
            if suffix in IMAGE_SUFFIXES and image is None:
                key, image = member.name, _member_image(tar, member, file)
            elif labels is not None and suffix == (".cls" if labels == "cls" else ".json"):
                label = _label(tar, member, labels)
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every header that it has seen
        if image is None:
            image = InvalidInput(f"sample {stem!r} of {file.shown} has no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
        elif labels is not None and label is None:
            image = InvalidInput(f"sample {stem!r} of {file.shown} has no label {labels!r} ")
        yield key, image, label


def _stem(member: tarfile.TarInfo) -> str:
    folder, name = posixpath.split(member.name)
    return posixpath.join(folder, name.split(".", 1)[0])


def _member_image(tar: tarfile.TarFile, member: tarfile.TarInfo, file: File) -> bytes | InvalidInput:
    opened = cast("IO[bytes]", tar.extractfile(member))  # reads; nothing is written
    try:
        return _image(opened, f"{member.name} in {file.shown}", member.size)
    except InvalidInput as error:
        return error


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> int | float | str | None:
    opened = cast("IO[bytes]", tar.extractfile(member))
    if member.size > LABEL_BYTES:
        raise ValueError(f"{member.name} has {member.size} bytes; a label has at most {LABEL_BYTES}")
    text = opened.read()
    if name == "cls":
        return int(text)
    found = json.loads(text)
    label = found.get(name) if isinstance(found, dict) else None
    return label if isinstance(label, int | float | str) else None
