"""The rows of a chunk as a fit takes them in: some are held out, the others learned."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.rows import RowError
from service.errors import InvalidInput
from service.features import Batch, Features
from service.reserve import digests_of
from service.sources import Chunk, hashed, held_out

_OWN = threading.local()  # of each thread


@dataclass(frozen=True, slots=True)
class Parted:
    """The rows of a chunk, parted into those that are held out and those that are learned."""

    chunk: Chunk
    features: Features  # (n, d), of all rows; finite
    hashes: NDArray[np.uint64]  # (n,), of their keys
    held: NDArray[np.bool_]  # (n,)
    inputs: Batch  # raw inputs of the rows that are held out
    digests: NDArray[np.uint64]  # of those

    @classmethod
    def of(cls, chunk: Chunk, features: Features, seed: int, share: float) -> Parted:
        """A chunk with its ``features`` (n, d), of whose rows those are held out whose hashes, seeded, fall under ``share``."""
        hashes = hashed(chunk.keys, seed)
        held = held_out(hashes, share)
        inputs = Batch(rows=chunk.rows, images=chunk.images).take(np.flatnonzero(held))
        return cls(chunk, features, hashes, held, inputs, digests_of(inputs))

    @property
    def learned(self) -> int:
        """Number of the rows that are learned."""
        return len(self.held) - int(np.count_nonzero(self.held))

    def rows(self) -> Features:
        """Features of the rows that are learned; where some are held out a copy."""
        return self.features[~self.held] if self.held.any() else self.features

    def passing(self) -> Features:
        """The same for who keeps nothing of them: the copy is in the caches of its core, and the thread's until it asks again."""
        if not self.held.any():
            return self.features
        return np.take(self.features, np.flatnonzero(~self.held), axis=0, out=_room(self.features, self.learned), mode="clip")

    def labels(self) -> NDArray[Any] | None:
        """Classes of the rows that are learned."""
        return None if self.chunk.labels is None else self.chunk.labels[~self.held]


def _room(features: Features, rows: int) -> Features:
    """Room for so many rows like these, the same each time for a thread: fresh memory of this size costs as much as the copy."""
    room: Features | None = getattr(_OWN, "room", None)
    if room is None or room.shape[1:] != features.shape[1:] or room.dtype != features.dtype or len(room) < rows:
        room = _OWN.room = np.empty((len(features), *features.shape[1:]), features.dtype)
    return room[:rows]


@contextmanager
def refused(chunk: Parted) -> Iterator[None]:
    """Turn what a detector refuses of the rows that are learned into InvalidInput that says where they are."""
    try:
        yield
    except RowError as error:
        place = int(np.flatnonzero(~chunk.held)[error.row])
        raise InvalidInput(f"not to be learned: {chunk.chunk.where(place)} {error.wrong}", "#/data") from None
    except ValueError as error:
        raise InvalidInput(f"not to be learned: {chunk.chunk.placed(str(error))}", "#/data") from None
