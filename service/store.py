"""The store: versions, blobs and aliases of detectors in Redis or Valkey, alone, under Sentinel or as a cluster.

Keys of one detector carry its name as hash tag and so lie in one cluster slot:

    farfield:detectors                     set of names
    farfield:{NAME}:versions               hash, number -> sha256 of the manifest, a blank, the manifest
    farfield:{NAME}:last                   the last number given; numbers are never given twice
    farfield:{NAME}:blob:SHA256:INDEX      a chunk of a blob
    farfield:{NAME}:aliases                hash, alias -> number
    farfield:{NAME}:history:ALIAS          list, where the alias was before, newest first
    farfield:{NAME}:done:TOKEN             result of a write, so that a retried one is not done twice

Chunks are written first, with a limited time to live, and made permanent by the one script that
also adds the version. Until that script has run no reader sees anything; a publisher that dies
before it leaves nothing but chunks that expire by themselves.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Self

from service import errors
from service.connection import Connection, Declined, reached
from service.manifest import BlobReference, Manifest, ManifestError

CHUNK_BYTES = 2**20
CHUNKS_PER_READ = 16
ORPHAN_SECONDS = 3600  # time to live of chunks that no version refers to yet
PUBLISH_ATTEMPTS = 3  # of writing chunks that are gone again at the end
DONE_SECONDS = 3600
TOKEN_SECONDS = 30 * 24 * 3600  # that a caller's own token is remembered
_REFERENCE = re.compile(rb'\{"chunk_bytes":[1-9]\d{0,9},"sha256":"[0-9a-f]{64}","size":\d{1,12}\}')  # in a canonical manifest


class Store:
    """All state of farfield. Every method raises StoreUnavailable when the server cannot be reached."""

    def __init__(self, connection: Connection, *, orphan_seconds: int = ORPHAN_SECONDS) -> None:
        self.connection = connection
        self._orphan_seconds = orphan_seconds

    @classmethod
    def open(cls, url: str, *, timeout: float = 5.0, orphan_seconds: int = ORPHAN_SECONDS) -> Self:
        """The store at ``url``, a setting of the form that ``Settings.store`` describes.

        ``timeout`` is the time in seconds for each call and each of its retries.
        """
        return cls(Connection.open(url, timeout), orphan_seconds=orphan_seconds)

    def close(self) -> None:
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ping(self) -> str:
        """Name and version of the server; starts an embedded one again that has died."""
        return self.connection.ping()

    # Reading

    def names(self) -> list[str]:
        """Names of all detectors that have a version."""
        return [name for name, (_, numbers) in self.routings(sorted(self.known())).items() if numbers]

    def known(self) -> set[str]:
        """Names of all detectors, those included whose first version is only being published."""
        with reached():
            return {name.decode() for name in self.connection.client.smembers("farfield:detectors")}

    def routings(self, names: Iterable[str]) -> dict[str, tuple[dict[str, int], list[int]]]:
        """Aliases and version numbers, ascending, of each of ``names``, in one round trip; both empty for one that does not exist."""
        names = list(names)
        with reached():
            asked = self.connection.client.pipeline(transaction=False)
            for name in names:
                asked.hgetall(_key(name, "aliases"))
                asked.hkeys(_key(name, "versions"))
            found = asked.execute()
        return {
            name: (
                {alias.decode(): int(number) for alias, number in sorted(aliases.items())},
                sorted(int(number) for number in numbers if number.isdigit()),
            )
            for name, aliases, numbers in zip(names, found[::2], found[1::2], strict=True)
        }

    def numbers(self, name: str) -> list[int]:
        """Version numbers of a detector, ascending; empty if it does not exist."""
        return self.routings([name])[name][1]

    def manifest(self, name: str, number: int) -> Manifest:
        """Manifest of a version, checked against its digest. Raises UnknownDetector, UnknownVersion or VersionRefused."""
        with reached():
            stored = self.connection.client.hget(_key(name, "versions"), str(number))
        if stored is None:
            raise self._unknown(name, number)
        digest, _, text = stored.partition(b" ")
        if hashlib.sha256(text).hexdigest().encode() != digest:
            raise errors.VersionRefused(name, number, "its manifest does not match its sha256")
        try:
            return Manifest.parse(text)
        except ManifestError as error:
            raise errors.VersionRefused(name, number, str(error)) from None

    def manifests(self, name: str) -> tuple[dict[int, Manifest], dict[int, str]]:
        """Manifests of all versions by number, and for the damaged ones the reason. Raises UnknownDetector."""
        whole: dict[int, Manifest] = {}
        damaged: dict[int, str] = {}
        for number in self.numbers(name):
            try:
                whole[number] = self.manifest(name, number)
            except errors.VersionRefused as refused:
                damaged[number] = refused.reason
            except errors.UnknownVersion:
                continue  # deleted since
        if not whole and not damaged:
            raise errors.UnknownDetector(name)
        return whole, damaged

    def aliases(self, name: str) -> dict[str, int]:
        """Where each alias of a detector points."""
        return self.routings([name])[name][0]

    def history(self, name: str, alias: str) -> list[dict[str, Any]]:
        """Where the alias was before, newest first: ``{"version": n, "until": time}``."""
        with reached():
            entries = [json.loads(entry) for entry in self.connection.client.lrange(_key(name, "history", alias), 0, -1)]
        return [{"version": entry["version"], "until": entry["until_"]} for entry in entries]

    def blob(self, name: str, number: int, reference: BlobReference) -> bytes:
        """Bytes of a blob of a version, checked against their sha256. Raises VersionRefused if they are damaged."""
        keys = _chunk_keys(name, reference)
        chunks: list[bytes | None] = []
        with reached():
            for start in range(0, len(keys), CHUNKS_PER_READ):
                chunks += self.connection.client.mget(keys[start : start + CHUNKS_PER_READ])
        if any(chunk is None for chunk in chunks):
            raise errors.VersionRefused(name, number, f"a chunk of blob {reference.sha256[:12]} is missing")
        data = b"".join(chunk for chunk in chunks if chunk is not None)
        if hashlib.sha256(data).hexdigest() != reference.sha256:
            raise errors.VersionRefused(name, number, f"blob {reference.sha256[:12]} does not match its sha256")
        return data

    # Writing

    def publish(
        self,
        name: str,
        manifest: Manifest,
        blobs: Mapping[str, bytes],
        *,
        written: Callable[[int], None] | None = None,
        token: str | None = None,
    ) -> int:
        """Add a version, whole or not at all, and return its number.

        ``blobs`` are the bytes of every blob that the manifest refers to, by the same names.
        ``written`` is told the bytes written so far. What was published before with the same ``token``
        is not published again: its number is returned. Chunks that are gone at the end, because a version
        that shared them was deleted meanwhile, are written again.
        """
        text = manifest.canonical()
        with reached():
            self.connection.client.sadd("farfield:detectors", name)
        fixed = [_key(name, "versions"), _key(name, "last"), _done_key(name, token)]
        stored = hashlib.sha256(text).hexdigest().encode() + b" " + text
        for _ in range(PUBLISH_ATTEMPTS):
            keys = self._write_chunks(name, manifest, blobs, written or (lambda _: None))
            try:
                return int(self.connection.run("publish.lua", [*fixed, *keys], [stored, TOKEN_SECONDS if token else DONE_SECONDS]))
            except Declined as declined:
                gone = str(declined)
        raise errors.StoreUnavailable(
            f"{gone} is gone again, because publishing took more than {self._orphan_seconds} s "
            "or the version that it was shared with was deleted meanwhile: try again"
        )

    def published(self, name: str, token: str) -> int | None:
        """Number of the version that was published with ``token``; None where there is none, or it was more than 30 days ago."""
        with reached():
            number = self.connection.client.get(_done_key(name, token))
        return None if number is None else int(number)

    def move_alias(self, name: str, alias: str, number: int, *, expected: int | None = None, token: str | None = None) -> int | None:
        """Point ``alias`` at version ``number``; return where it was. ``expected`` 0 means: not set.

        The same ``token`` again, which must not be that of a publish, moves nothing.
        Raises UnknownDetector, UnknownVersion, or AliasMoved if it is not at ``expected``.
        """
        keys = [_key(name, "versions"), _key(name, "aliases"), _key(name, "history", alias), _done_key(name, token)]
        remembered = TOKEN_SECONDS if token else DONE_SECONDS
        try:
            before = self.connection.run("move_alias.lua", keys, [alias, number, "" if expected is None else expected, _now(), remembered])
        except Declined as declined:
            if declined.kind == "NOVERSION":
                raise self._unknown(name, number) from None
            raise errors.AliasMoved(name, alias, expected or 0, int(declined.detail) or None) from None
        return int(before) or None

    def rollback(self, name: str, alias: str) -> tuple[int, int]:
        """Point ``alias`` back at where it was before its last move; return both versions, left and reached.

        Raises UnknownAlias or NothingToRollBack.
        """
        keys = [_key(name, "versions"), _key(name, "aliases"), _key(name, "history", alias), _done_key(name)]
        try:
            left, reached = self.connection.run("rollback.lua", keys, [alias, DONE_SECONDS])
        except Declined as declined:
            if declined.kind == "NOALIAS":
                raise errors.UnknownAlias(name, alias) from None
            raise errors.NothingToRollBack(name, alias) from None
        return int(left), int(reached)

    def delete_alias(self, name: str, alias: str) -> None:
        """Remove an alias, and where it was before. Raises UnknownAlias."""
        keys = [_key(name, "aliases"), _key(name, "history", alias), _done_key(name)]
        if not self.connection.run("delete_alias.lua", keys, [alias, DONE_SECONDS]):
            raise errors.UnknownAlias(name, alias)

    def delete_version(self, name: str, number: int) -> None:
        """Delete a version and what it alone refers to. Raises UnknownVersion, or VersionInUse if an alias points at it."""
        references = self._references(name, number)
        chunks = [(key, reference.sha256) for reference in references for key in _chunk_keys(name, reference)]
        keys = [_key(name, "versions"), _key(name, "aliases"), _key(name, "drift", str(number)), *(key for key, _ in chunks)]
        try:
            self.connection.run("delete_version.lua", keys, [number, *(sha256 for _, sha256 in chunks)])
        except Declined:
            using = [alias for alias, at in self.aliases(name).items() if at == number]
            raise errors.VersionInUse(name, number, using) from None

    def _write_chunks(self, name: str, manifest: Manifest, blobs: Mapping[str, bytes], written: Callable[[int], None]) -> list[str]:
        keys: list[str] = []
        total = 0
        for blob_name, reference in manifest.blobs.items():
            data = blobs[blob_name]
            for index, key in enumerate(_chunk_keys(name, reference)):
                chunk = data[index * reference.chunk_bytes : (index + 1) * reference.chunk_bytes]
                self.connection.run("put_chunk.lua", [key], [chunk, self._orphan_seconds])
                total += len(chunk)
                written(total)
                keys.append(key)
        return keys

    def _unknown(self, name: str, number: int) -> errors.NotFound:
        return errors.UnknownVersion(name, number) if self.numbers(name) else errors.UnknownDetector(name)

    def _references(self, name: str, number: int) -> list[BlobReference]:
        """The blobs of a version; of one whose manifest is damaged, those that can still be made out."""
        try:
            return list(self.manifest(name, number).blobs.values())
        except errors.VersionRefused:
            with reached():
                text = self.connection.client.hget(_key(name, "versions"), str(number)) or b""
            return [BlobReference.model_validate_json(found) for found in _REFERENCE.findall(text)]


def _key(name: str, *parts: str) -> str:
    return ":".join(("farfield", f"{{{name}}}", *parts))


def _done_key(name: str, token: str | None = None) -> str:
    """A key, new without ``token``, under which a script notes its result, for the case that its answer is lost and it runs again."""
    return _key(name, "done", token or uuid.uuid4().hex)


def _chunk_keys(name: str, reference: BlobReference) -> list[str]:
    return [_key(name, "blob", reference.sha256, str(index)) for index in range(reference.chunks)]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
