"""The JSON of uploads, and the headers of the tus protocol that carry more than a number."""

from __future__ import annotations

import base64
import binascii
import hashlib
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, Literal

from pydantic import Field

from service import errors
from service.schemas import Schema
from service.uploads.data_sets import PREFIX
from service.uploads.parts import Upload

ALGORITHMS = ("sha256", "sha1")  # of Upload-Checksum; tus asks for the second
LONGEST_METADATA = 4096


class UploadAnswer(Schema):
    id: str
    data: str = Field(description="What a fit names as its `data`, once the upload is complete.")
    name: str
    state: Literal["open", "complete", "refused"]
    size: int = Field(description="Bytes that were announced.")
    offset: int = Field(description="Bytes that are there.")
    sha256: str | None = Field(description="As announced; of a complete upload, as found.")
    rows: int | None = Field(description="Of a complete upload, where the form counts its rows.")
    reason: str | None = Field(description="Why it was refused.")
    created: str
    expires: str


class UploadList(Schema):
    uploads: list[UploadAnswer]


def told(upload: Upload) -> dict[str, Any]:
    """What is told of an upload over HTTP and by the command line, as ``UploadAnswer`` has it."""
    return {
        "id": upload.id,
        "data": PREFIX + upload.id,
        "name": upload.name,
        "state": upload.state,
        "size": upload.size,
        "offset": upload.offset,
        "sha256": upload.sha256,
        "rows": upload.rows,
        "reason": upload.reason,
        "created": _time(upload.created).isoformat(timespec="milliseconds"),
        "expires": _time(upload.expires).isoformat(timespec="milliseconds"),
    }


def headers(upload: Upload) -> dict[str, str]:
    """What tus tells of an upload in every answer about it."""
    return {
        "Upload-Offset": str(upload.offset),
        "Upload-Length": str(upload.size),
        "Upload-Expires": format_datetime(_time(upload.expires), usegmt=True),
        "Cache-Control": "no-store",
    }


def metadata(text: str) -> dict[str, str]:
    """Keys and values of an ``Upload-Metadata`` header: ``filename cm93cy5ucHk=,sha256 ...``, values in Base64.

    >>> metadata("filename cm93cy5ucHk=")
    {'filename': 'rows.npy'}
    """
    found: dict[str, str] = {}
    for pair in text.split(",") if text.strip() else []:
        key, _, value = pair.strip().partition(" ")
        try:
            found[key] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise errors.InvalidInput(f"the value of {key[:80]!r} is no Base64 of UTF-8: {value[:80]!r}", "Upload-Metadata") from None
    if "filename" not in found:
        raise errors.InvalidInput("the file has no name: send 'filename' and the Base64 of a name such as rows.npy", "Upload-Metadata")
    return found


def check_sum(part: bytes, header: str | None) -> None:
    """Raises ChecksumMismatch unless ``part`` has the sum in an ``Upload-Checksum`` header, and InvalidInput where that has none."""
    if header is None:
        return
    algorithm, _, value = header.strip().partition(" ")
    if algorithm not in ALGORITHMS:
        raise errors.InvalidInput(f"checksums are by {' or '.join(ALGORITHMS)}, not {algorithm[:80]!r}", "Upload-Checksum")
    try:
        given = base64.b64decode(value, validate=True)
    except binascii.Error:
        raise errors.InvalidInput(f"the {algorithm} must be in Base64, not {value[:80]!r}", "Upload-Checksum") from None
    found = hashlib.new(algorithm, part, usedforsecurity=False).digest()
    if found != given:
        raise errors.ChecksumMismatch(
            f"the {len(part)} bytes that came have the {algorithm} {base64.b64encode(found).decode()}, not {value}: send them again"
        )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
