"""Uploads: files that are sent in parts and kept in the store for fits to name, see ``service.uploads.data_sets``.

All keys of uploads carry one hash tag and so lie in one cluster slot:

    farfield:{uploads}:all                    sorted set, id -> when it expires
    farfield:{uploads}:bytes                  hash, id -> bytes that it may take
    farfield:{uploads}:upload:ID              hash, see ``Upload``
    farfield:{uploads}:parts:ID               hash, offset -> length and sha256 of the part
    farfield:{uploads}:part:ID:OFFSET:SHA256  hash, index -> a chunk of the part

Times are milliseconds of the server's own clock. The chunks of a part are written first, with a limited time to live, and one
script then adds the part where the upload ends. Until it has run nobody sees any of them; two senders of the same part write
the same keys. Everything expires by itself, at the latest when the upload does.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from service import errors
from service.connection import Connection, Declined, reached
from service.settings import Settings
from service.sources.urls import suffix

ID_PATTERN = r"^[0-9a-f]{32}$"
CHUNK_BYTES = 2**20
STAGED_SECONDS = 600  # time to live of the chunks of a part that is not added yet
REFUSED_SECONDS = 3600  # that it is told why an upload was refused
MOST_PARTS = 10_000  # of an upload
LONGEST_NAME = 255  # characters
SUFFIXES = (".npy", ".npz", ".parquet", ".arrow", ".feather", ".csv")  # of files that a part at a time can describe


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload as it stands. Times are seconds since 1970."""

    id: str
    name: str  # of the file, for people; its suffix says what form it has
    size: int  # bytes that were announced
    offset: int  # bytes that are there
    state: Literal["open", "complete", "refused"]  # open until every byte is there and the file was opened
    sha256: str | None  # as announced; of a complete one, as found
    rows: int | None  # of a complete one, where the form counts them
    reason: str | None  # why it was refused
    created: float
    expires: float
    kept_seconds: int  # once it is complete


class Uploads:
    """All uploads. Every method raises StoreUnavailable when the server cannot be reached, and StoreFull when it has no memory left."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(self, name: str, size: int, settings: Settings, sha256: str | None = None) -> Upload:
        """Begin an upload of ``size`` bytes, which are set aside for it until it expires.

        ``sha256`` (hex) is what the whole must have. Raises InvalidInput for a name or digest that cannot be, TooLarge, and UploadsFull
        where there are too many uploads or they would take too much.
        """
        if not 0 < size <= settings.max_upload_bytes:
            raise errors.TooLarge(f"the file has {size} bytes; an upload has 1 to {settings.max_upload_bytes}", "Upload-Length")
        _check_name(name)
        if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise errors.InvalidInput(f"sha256 is 64 lower-case hexadecimal digits, not {sha256[:80]!r}", "Upload-Metadata")
        upload_id = uuid.uuid4().hex
        limits = [settings.upload_open_seconds, settings.max_uploads, settings.max_uploads_bytes]
        noted = ["name", name, "kept", settings.upload_kept_seconds, *(["sha256", sha256] if sha256 else [])]
        try:
            self._connection.run("create_upload.lua", _keys(upload_id), [upload_id, *limits, size, *noted])
        except Declined as declined:
            if declined.kind == "COUNT":
                raise errors.UploadsFull(f"there are {declined.detail} uploads, and no more are kept: delete one first") from None
            held = f"uploads take {declined.detail} bytes of {settings.max_uploads_bytes}"
            raise errors.UploadsFull(f"{held}, which leaves no room for {size} more: delete one first") from None
        return self.get(upload_id)

    def get(self, upload_id: str) -> Upload:
        """Raises UnknownUpload, also for one that has expired, and for an id that none can have."""
        if not re.fullmatch(ID_PATTERN, upload_id):
            raise errors.UnknownUpload(upload_id)
        with reached():
            fields = self._connection.client.hgetall(_key("upload", upload_id))
        if not fields:
            raise errors.UnknownUpload(upload_id)
        return _upload(fields)

    def all(self) -> list[Upload]:
        """The newest last."""
        with reached():
            ids = self._connection.client.zrange(_key("all"), 0, -1)
            asked = self._connection.client.pipeline(transaction=False)
            for upload_id in ids:
                asked.hgetall(_key("upload", upload_id.decode()))
            found = [_upload(fields) for fields in asked.execute() if fields]
        return sorted(found, key=lambda upload: upload.created)

    def append(self, upload_id: str, offset: int, part: bytes) -> int:
        """Add ``part`` at ``offset``, whole or not at all, and return where the upload goes on.

        The same bytes again at their offset are acknowledged and change nothing. Raises UnknownUpload, OffsetMoved where the
        upload ends elsewhere, TooLarge where it would be longer than announced, and InvalidInput for one that was refused.
        """
        upload = self.get(upload_id)
        if upload.state == "refused":
            raise errors.InvalidInput(f"upload {upload_id!r} was refused: {upload.reason}")
        if not part and offset == upload.offset:
            return offset
        digest = hashlib.sha256(part).hexdigest()
        key = _part_key(upload_id, offset, digest)
        if offset == upload.offset and offset + len(part) <= upload.size:  # else the script knows what to say without them
            for index, start in enumerate(range(0, len(part), CHUNK_BYTES)):
                self._connection.run("put_part_chunk.lua", [key], [index, part[start : start + CHUNK_BYTES], STAGED_SECONDS])
        arguments = [offset, f"{len(part)} {digest}", len(part), _chunks(len(part)), MOST_PARTS]
        try:
            keys = [_key("upload", upload_id), _key("parts", upload_id), key]
            return int(self._connection.run("append_part.lua", keys, arguments))
        except Declined as declined:
            raise self._not_added(declined, upload_id, offset, len(part)) from None

    def settle(self, upload: Upload, *, sha256: str | None = None, rows: int | None = None, reason: str | None = None) -> None:
        """Note that an upload is complete, or with a ``reason`` that it is refused. One that is settled already stays as it is."""
        state, seconds = ("refused", REFUSED_SECONDS) if reason else ("complete", upload.kept_seconds)
        noted = {"sha256": sha256, "rows": rows, "reason": reason}
        given = [text for name, value in noted.items() if value is not None for text in (name, value)]
        keys = [*_keys(upload.id), *self._part_keys(upload.id)]
        self._connection.run("settle_upload.lua", keys, [upload.id, state, seconds, *given])

    def delete(self, upload_id: str) -> None:
        """End an upload. Raises UnknownUpload."""
        self.get(upload_id)
        self._connection.run("delete_upload.lua", _keys(upload_id), [upload_id])
        keys = self._part_keys(upload_id)
        with reached():
            self._connection.client.unlink(*keys)

    def chunks(self, upload: Upload) -> Iterator[bytes]:
        """The bytes of an upload, each part of them compared with its sha256; memory: one chunk.

        Raises UnknownUpload if it ends meanwhile, and InvalidInput if its bytes are not those that came.
        """
        end = 0
        for offset, length, digest in self._parts(upload.id):
            if offset != end:
                raise self._damaged(upload)
            summed, end = hashlib.sha256(), offset + length
            for index in range(_chunks(length)):
                with reached():
                    chunk: bytes | None = self._connection.client.hget(_part_key(upload.id, offset, digest), str(index))
                summed.update(chunk or b"")
                yield chunk or b""
            if summed.hexdigest() != digest:
                raise self._damaged(upload)
        if end != upload.size:
            raise self._damaged(upload)

    def _damaged(self, upload: Upload) -> errors.InvalidInput:
        self.get(upload.id)  # which raises UnknownUpload where it has ended meanwhile
        return errors.InvalidInput(f"upload {upload.id!r} is damaged in the store: send the file again", "#/data")

    def _parts(self, upload_id: str) -> list[tuple[int, int, str]]:
        """Offset, length and sha256 of each part, in order."""
        with reached():
            found = self._connection.client.hgetall(_key("parts", upload_id))
        parts = [(int(offset), *about.decode().split()) for offset, about in found.items()]
        return sorted((offset, int(length), digest) for offset, length, digest in parts)

    def _part_keys(self, upload_id: str) -> list[str]:
        """Of what the parts of an upload lie under, their list first."""
        return [_key("parts", upload_id), *(_part_key(upload_id, offset, digest) for offset, _, digest in self._parts(upload_id))]

    def _not_added(self, declined: Declined, upload_id: str, offset: int, length: int) -> errors.ServiceError:
        match declined.kind:
            case "GONE":
                return errors.UnknownUpload(upload_id)
            case "ELSEWHERE":
                return errors.OffsetMoved(upload_id, int(declined.detail), offset)
            case "BEYOND":
                return errors.TooLarge(f"{length} bytes at offset {offset} are more than the {declined.detail} that were announced")
            case "PARTS":
                return errors.TooLarge(f"the upload has {MOST_PARTS} parts already: begin again, with larger ones")
        return errors.StoreUnavailable(
            f"a chunk of a part of upload {upload_id} is gone again, because writing it took too long: try again"
        )


def _check_name(name: str) -> None:
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable() or "/" in name or "\\" in name:
        reason = f"is no name of a file: up to {LONGEST_NAME} printable characters, without a folder"
        raise errors.InvalidInput(f"{name[:80]!r} {reason}", "Upload-Metadata")
    if suffix(name) not in SUFFIXES:
        raise errors.InvalidInput(f"{name[-80:]!r} has none of the forms that are taken: {', '.join(SUFFIXES)}", "Upload-Metadata")


def _upload(fields: dict[bytes, bytes]) -> Upload:
    text = {name.decode(): value.decode() for name, value in fields.items()}
    return Upload(
        id=text["id"],
        name=text["name"],
        size=int(text["size"]),
        offset=int(text["offset"]),
        state=text["state"],  # type: ignore[arg-type]
        sha256=text.get("sha256"),
        rows=int(text["rows"]) if "rows" in text else None,
        reason=text.get("reason"),
        created=int(text["created"]) / 1000,
        expires=int(text["expires"]) / 1000,
        kept_seconds=int(text["kept"]),
    )


def _chunks(length: int) -> int:
    return -(-length // CHUNK_BYTES)


def _keys(upload_id: str) -> list[str]:
    return [_key("all"), _key("bytes"), _key("upload", upload_id)]


def _part_key(upload_id: str, offset: int, digest: str) -> str:
    return _key("part", upload_id, str(offset), digest)


def _key(*parts: str) -> str:
    return ":".join(("farfield", "{uploads}", *parts))
