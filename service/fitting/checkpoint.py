"""Checkpoints of a fit in the store, where whoever takes the fit up again finds them, on whatever machine."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from service import errors
from service.connection import Connection, reached

CHUNK_BYTES = 4 * 2**20
KEPT_SECONDS = 7 * 86_400
SHARE_OF_TIME = 0.05  # that writing checkpoints may take

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a fit has come: ``progress`` as plain JSON, and what it has gathered."""

    progress: dict[str, Any]
    arrays: Arrays


class Checkpoints:
    """The checkpoint of one fit. ``identity`` is all that decides what the fit gives: only the same fit finds it again."""

    def __init__(self, connection: Connection, name: str, identity: dict[str, Any], every: float) -> None:
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
        self._key = f"farfield:{{{name}}}:checkpoint:{digest}"
        self._connection = connection
        self._every, self._due = every, time.monotonic() + every

    def load(self) -> Checkpoint | None:
        """The last one that was written whole; None where there is none, or where it is damaged."""
        with reached():
            text = self._connection.client.get(self._key)
            if text is None:
                return None
            index = json.loads(text)
            chunks = [self._connection.client.get(key) for key in self._chunk_keys(index)]
        data = b"".join(chunk or b"" for chunk in chunks)
        if hashlib.sha256(data).hexdigest() != index["sha256"]:
            return None
        try:
            return Checkpoint(index["progress"], load(data))
        except SafetensorError:
            return None

    def due(self) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() >= self._due

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the last one, whole or not at all. While the store is away or full the fit goes on without."""
        began = time.monotonic()
        with suppress(errors.StoreUnavailable):  # the one before stays, and the next is tried in its turn
            self._write(checkpoint)
        now = time.monotonic()
        self._due = now + max(self._every, (now - began) / SHARE_OF_TIME)

    def drop(self) -> None:
        """Delete it, since the fit is done; one that stays because the store is away expires."""
        with suppress(errors.StoreUnavailable), reached():
            self._delete(self._connection.client.get(self._key))
            self._connection.client.unlink(self._key)

    def _write(self, checkpoint: Checkpoint) -> None:
        data = save({name: np.ascontiguousarray(array).reshape(array.shape) for name, array in checkpoint.arrays.items()})
        index = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "progress": checkpoint.progress}
        client = self._connection.client
        with reached():
            before = client.get(self._key)
            for number, key in enumerate(self._chunk_keys(index)):
                client.set(key, data[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES], ex=KEPT_SECONDS)
            client.set(self._key, json.dumps(index), ex=KEPT_SECONDS)
            if before is not None and json.loads(before)["sha256"] != index["sha256"]:
                self._delete(before)

    def _delete(self, text: bytes | None) -> None:
        for key in self._chunk_keys(json.loads(text)) if text else ():
            self._connection.client.unlink(key)

    def _chunk_keys(self, index: dict[str, Any]) -> list[str]:
        return [f"{self._key}:{index['sha256']}:{number}" for number in range(-(-index["size"] // CHUNK_BYTES))]
