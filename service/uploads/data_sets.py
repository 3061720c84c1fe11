"""Data sets: complete uploads, opened once to see that they are what their names say, and fetched by fits."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from service import errors
from service.sources import Source, open_source
from service.sources.urls import suffix
from service.store import Store
from service.uploads.parts import Upload, Uploads

PREFIX = "upload:"  # of data, before the id


def named(data: str) -> str | None:
    """The id of the upload that ``data`` names; None where it is a path or URL.

    >>> named("upload:0f0e0d0c0b0a09080706050403020100"), named("/data/pumps.parquet")
    ('0f0e0d0c0b0a09080706050403020100', None)
    """
    return data.removeprefix(PREFIX) if data.startswith(PREFIX) else None


def settled(uploads: Uploads, upload_id: str) -> Upload:
    """The upload, looked at if every byte of it is there: complete if it has its sha256 and opens in its form, else refused.

    Looking writes the file to a temporary folder. Raises UnknownUpload, and UploadsFull where this machine has no room for the file.
    """
    upload = uploads.get(upload_id)
    if upload.state != "open" or upload.offset < upload.size:
        return upload
    try:
        with _room(upload), TemporaryDirectory(prefix="farfield-") as folder:
            path = Path(folder, upload.id + suffix(upload.name))
            digest = _written(uploads, upload, path)
            uploads.settle(upload, sha256=digest, rows=_opened(upload, path, digest).rows)
    except errors.InvalidInput as error:
        uploads.settle(upload, reason=str(error))
    return uploads.get(upload_id)


def complete(store: Store, upload_id: str) -> Upload:
    """The data set that an upload has become. Raises UnknownUpload, or InvalidInput if it is refused or bytes are missing."""
    upload = settled(Uploads(store.connection), upload_id)
    if upload.state != "complete":
        why = upload.reason or f"{upload.offset} of {upload.size} bytes are there"
        raise errors.InvalidInput(f"upload {upload_id!r} is {upload.state}, not complete: {why}", "#/data")
    return upload


def fetched(store: Store, upload_id: str, folder: Path) -> Path:
    """Write a data set to a file in ``folder``, each part of it checked against its sha256, and return its path; memory: 1 MiB.

    Raises as ``complete`` does, InvalidInput if the stored bytes are damaged, and UploadsFull where the folder takes no more.
    """
    upload = complete(store, upload_id)
    path = folder / (upload.id + suffix(upload.name))
    with _room(upload):
        _written(Uploads(store.connection), upload, path)
    return path


@contextmanager
def readable(store: Store, data: str | list[str], roots: list[str]) -> Iterator[tuple[str | list[str], list[str]]]:
    """Where ``data`` can be read, and what may be read there: under ``roots``, or of an upload in a folder that lasts as long.

    The file of an upload looks the same every time, so that data are known again by their fingerprint.
    """
    upload_id = named(data) if isinstance(data, str) else None
    if upload_id is None:
        yield data, roots
        return
    with TemporaryDirectory(prefix="farfield-") as folder:
        path = fetched(store, upload_id, Path(folder))
        os.utime(path, (0, 0))
        with _named(path, Uploads(store.connection).get(upload_id)):
            yield str(path), [folder]


@contextmanager
def _named(path: Path, upload: Upload) -> Iterator[None]:
    """What is refused of an upload in a file at ``path`` is told by the name of the upload."""
    try:
        yield
    except errors.InvalidInput as error:
        told = str(error).replace(str(path), upload.name).replace(path.name, upload.name)
        raise errors.InvalidInput(told, error.pointer) from error


@contextmanager
def _room(upload: Upload) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise errors.UploadsFull(f"this machine has no room for the {upload.size} bytes of the upload: {error.strerror}") from None


def _written(uploads: Uploads, upload: Upload, path: Path) -> str:
    """Write the bytes of an upload to ``path`` and return their sha256."""
    summed = hashlib.sha256()
    with path.open("wb") as file:
        for chunk in uploads.chunks(upload):
            file.write(chunk)
            summed.update(chunk)
    return summed.hexdigest()


def _opened(upload: Upload, path: Path, digest: str) -> Source:
    """The source at ``path``, of a table the columns of numbers, for a fit may name those that it takes.

    Raises InvalidInput, without the place of the file, if it is not what was announced.
    """
    if upload.sha256 not in (None, digest):
        raise errors.InvalidInput(f"the sha256 of the whole is {digest}, not {upload.sha256} as announced")
    with _named(path, upload):
        source = open_source(path, numbers_alone=True)
        if source.rows == 0:
            raise errors.InvalidInput(f"{path} holds no rows")
    return source
