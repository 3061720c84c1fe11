"""Orphans: chunks of blobs that are kept for good though no version refers to them, as a damaged manifest leaves them behind."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Container

from service.connection import reached
from service.store import Store

BATCH = 500  # chunks looked at, or collected, in one round trip
_CHUNK = re.compile(r"(farfield:\{([^{}]+)\}):blob:([0-9a-f]{64}):\d+")


def orphans(store: Store, names: Container[str] | None = None) -> dict[str, dict[str, int]]:
    """The orphans of each of ``names``, of every detector without it: their keys with their sizes in bytes.

    Chunks that a publisher has written and not referred to yet have a time to live, and are none. Walks over all keys of the server.
    """
    with reached():
        keys = {key.decode() for key in store.connection.client.scan_iter(match="farfield:{*}:blob:*", count=BATCH)}
    by_name: dict[str, list[str]] = defaultdict(list)
    for key in sorted(keys):
        found = _CHUNK.fullmatch(key)
        if found and (names is None or found[2] in names):
            by_name[found[2]].append(key)
    unreferred = {name: _unreferred(store, name, keys) for name, keys in by_name.items()}
    return {name: sizes for name, sizes in unreferred.items() if sizes}


def collect(store: Store, name: str, keys: list[str]) -> int:
    """Delete those of ``keys`` to which no version refers even now, and return how many those were."""
    versions = f"farfield:{{{name}}}:versions"
    return sum(
        int(store.connection.run("collect_chunks.lua", [versions, *batch], [_digest(key) for key in batch])) for batch in _batches(keys)
    )


def _unreferred(store: Store, name: str, keys: list[str]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for batch in _batches(keys):
        with reached():
            asked = store.connection.client.pipeline(transaction=False)
            for key in batch:
                asked.ttl(key)
                asked.strlen(key)
            found = asked.execute()
        sizes |= {key: size for key, left, size in zip(batch, found[::2], found[1::2], strict=True) if left == -1}
    with reached():
        referring = b"".join(store.connection.client.hvals(f"farfield:{{{name}}}:versions"))
    return {key: size for key, size in sizes.items() if _digest(key).encode() not in referring}


def _digest(key: str) -> str:
    return key.split(":")[-2]


def _batches(keys: list[str]) -> list[list[str]]:
    return [keys[start : start + BATCH] for start in range(0, len(keys), BATCH)]
