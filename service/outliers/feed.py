"""The feed of outliers: one Redis stream for each detector, bounded in length and in time.

Keys, in the slot of their detector:

    farfield:{NAME}:outliers          stream; the fields of an entry are those of ``Outlier``
    farfield:{NAME}:outliers:ids      sorted set, id of an outlier -> when it was added: none is added twice
    farfield:{NAME}:outliers:counts   hash, what became of webhooks and feedback, over all processes

An outlier has an id that follows from its detector, version, key and score. So a write whose answer was lost adds nothing when it is
done again, and neither does a client that sends the same rows with the same keys again.
"""

from __future__ import annotations

import base64
import hashlib
import io
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service.connection import Connection, reached
from service.settings import Settings

BATCH = 100  # outliers added by one script
PAGE = 200  # outliers read at a time in the search for keys


@dataclass(frozen=True, slots=True)
class Outlier:
    """A row that an answer called an outlier. ``place`` is its entry in the stream."""

    id: str
    key: str
    version: int
    score: float
    p_value: float
    alpha: float  # by which it is one
    time: float  # when it was scored, in seconds since 1970
    attribution: list[dict[str, Any]] = field(default_factory=list)  # the largest shares in its score
    extractor: str = ""  # digest of the one that made the features
    features: NDArray[Any] | None = None  # (d,), where inputs are kept
    thumbnail: bytes = b""  # PNG, where inputs are kept
    place: str = ""

    @classmethod
    def read(cls, place: bytes, fields: dict[bytes, bytes]) -> Outlier:
        """An entry of the stream."""
        text = {name.decode(): value for name, value in fields.items()}
        return cls(
            id=text["id"].decode(),
            key=text["key"].decode(),
            version=int(text["version"]),
            score=float(text["score"]),
            p_value=float(text["p_value"]),
            alpha=float(text["alpha"]),
            time=float(text["time"]),
            attribution=orjson.loads(text["attribution"]),
            extractor=text["extractor"].decode(),
            features=unpacked(text["features"]) if "features" in text else None,
            thumbnail=text.get("thumbnail", b""),
            place=place.decode(),
        )

    def fields(self) -> dict[str, bytes | str]:
        """As an entry of the stream."""
        told: dict[str, bytes | str] = {
            "id": self.id,
            "key": self.key,
            "version": str(self.version),
            "score": repr(self.score),
            "p_value": repr(self.p_value),
            "alpha": repr(self.alpha),
            "time": repr(self.time),
            "attribution": orjson.dumps(self.attribution),
            "extractor": self.extractor,
        }
        if self.features is not None:
            told["features"] = packed(self.features)
        if self.thumbnail:
            told["thumbnail"] = self.thumbnail
        return told

    def plain(self) -> dict[str, Any]:
        """What anybody may be told of it as JSON: all but the input."""
        return {
            "id": self.id,
            "key": self.key,
            "version": self.version,
            "score": self.score,
            "p_value": self.p_value,
            "alpha": self.alpha,
            "time": timestamp(self.time),
            "attribution": self.attribution,
        }


class Feed:
    """The streams of all detectors. Every method raises StoreUnavailable when the server cannot be reached."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection = connection
        self._most, self._seconds = settings.max_outliers, settings.outlier_seconds

    def add(self, name: str, outliers: Sequence[Outlier]) -> None:
        """Add those that are not in the stream yet, and drop what is too old or too much."""
        for start in range(0, len(outliers), BATCH):
            arguments: list[Any] = [self._most, self._seconds]
            for outlier in outliers[start : start + BATCH]:
                told = [part for pair in outlier.fields().items() for part in pair]
                arguments += [outlier.id, len(told), *told]
            self._connection.run("add_outliers.lua", [stream_key(name), f"{stream_key(name)}:ids"], arguments)

    def newest(self, name: str, count: int, before: str | None = None, since: float = 0.0, until: float | None = None) -> list[Outlier]:
        """The ``count`` newest, newest first: added before the one at ``before``, between two times in seconds since 1970."""
        last = f"({before}" if before else "+" if until is None else str(int(until * 1000))
        first = int(1000 * max(since, time.time() - self._seconds))
        with reached():
            found = self._connection.client.xrevrange(stream_key(name), last, str(first), count)
        return [Outlier.read(*entry) for entry in found]

    def by_key(self, name: str, keys: Iterable[str]) -> dict[str, Outlier]:
        """The newest outlier of each of ``keys`` that is still in the stream. Reads it until all are found."""
        wanted, found = set(keys), dict[str, Outlier]()
        before = None
        while wanted and (page := self.newest(name, PAGE, before)):
            for outlier in page:
                if outlier.key in wanted:
                    wanted.discard(outlier.key)
                    found[outlier.key] = outlier
            before = page[-1].place
        return found

    def trim(self, names: Sequence[str]) -> None:
        """Drop what is too old, also where nothing new is added."""
        oldest = int(1000 * (time.time() - self._seconds))
        with reached():
            asked = self._connection.client.pipeline(transaction=False)
            for name in names:
                asked.xtrim(stream_key(name), minid=str(oldest), approximate=False)
            asked.execute()

    def counts(self, names: Sequence[str]) -> dict[str, dict[str, int]]:
        """What became of webhooks and feedback of each of ``names``."""
        with reached():
            asked = self._connection.client.pipeline(transaction=False)
            for name in names:
                asked.hgetall(counts_key(name))
            found = asked.execute()
        return {name: {what.decode(): int(count) for what, count in counts.items()} for name, counts in zip(names, found, strict=True)}


def event_id(name: str, version: int, key: str, score: float) -> str:
    """The same for the same row, key and version, whatever rows were scored with it, on which the last digits of a score depend."""
    return hashlib.blake2b(orjson.dumps([name, version, key, f"{score:.4g}"]), digest_size=16).hexdigest()


def packed(features: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, features, allow_pickle=False)
    return stream.getvalue()


def unpacked(data: bytes) -> NDArray[Any]:
    found: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    return found


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def timestamp(seconds: float) -> str:
    """In the form of RFC 3339, in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def stream_key(name: str) -> str:
    return f"farfield:{{{name}}}:outliers"


def counts_key(name: str) -> str:
    return f"{stream_key(name)}:counts"
