"""Feedback: rows that people have marked, by their keys, as false alarms or as confirmed.

Keys, in the slot of their detector; ``service.outliers.feed`` has the one of the counts:

    farfield:{NAME}:feedback         hash, key of a row -> verdict, a blank, the rest of the mark as JSON
    farfield:{NAME}:feedback:times   sorted set, key of a row -> when it was marked last
"""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from numpy.typing import NDArray

from service import errors
from service.connection import Connection, Declined, reached
from service.names import Verdict
from service.outliers.feed import Feed, counts_key, encoded, packed, unpacked
from service.settings import Settings

MOST_MARKS = 10_000  # of a detector


@dataclass(frozen=True, slots=True)
class Mark:
    """What was said of a row, with what is known of it."""

    key: str
    verdict: Verdict
    time: float  # seconds since 1970
    version: int | None = None  # with score and p-value: of the outlier of that key, where the feed had one
    score: float | None = None
    p_value: float | None = None
    extractor: str = ""
    features: NDArray[Any] | None = None  # (d,)


class Feedback:
    """The marks of all detectors. Every method raises StoreUnavailable when the server cannot be reached."""

    def __init__(self, connection: Connection, feed: Feed, settings: Settings) -> None:
        self._connection, self._feed = connection, feed
        self._seconds = settings.feedback_seconds

    def mark(self, name: str, keys: Sequence[str], verdict: Verdict | None, rows: NDArray[Any] | None = None) -> int:
        """Mark rows, or with None take marks back; how many were marked otherwise before.

        The features of a row are its row in ``rows`` (n, d), or else what the feed has kept. All are marked or none.
        Raises UploadsFull where there would be too many.
        """
        seen = self._feed.by_key(name, keys) if verdict else {}
        told: list[Any] = []
        for index, key in enumerate(keys):
            outlier = seen.get(key)
            features = rows[index] if rows is not None else outlier.features if outlier else None
            mark: dict[str, Any] = {"time": time.time()}
            if outlier:
                mark |= {"version": outlier.version, "score": outlier.score, "p_value": outlier.p_value, "extractor": outlier.extractor}
            if features is not None:
                mark["features"] = encoded(packed(features))
            told += [key, orjson.dumps(mark)]
        stored = [f"farfield:{{{name}}}:feedback", f"farfield:{{{name}}}:feedback:times", counts_key(name)]
        try:
            return int(self._connection.run("put_feedback.lua", stored, [MOST_MARKS, self._seconds, verdict or "", *told]))
        except Declined:
            raise errors.FeedbackFull(f"detector {name!r} has {MOST_MARKS} marked rows at most: take some back first") from None

    def all(self, name: str) -> list[Mark]:
        """The marks of a detector, the last set first."""
        with reached():
            found = self._connection.client.hgetall(f"farfield:{{{name}}}:feedback")
        oldest = time.time() - self._seconds
        marks = (_mark(key, value) for key, value in found.items())
        return sorted((mark for mark in marks if mark.time >= oldest), key=lambda mark: (-mark.time, mark.key))


def _mark(key: bytes, value: bytes) -> Mark:
    verdict, _, text = value.partition(b" ")
    told = orjson.loads(text)
    if "features" in told:
        told["features"] = unpacked(base64.b64decode(told["features"]))
    return Mark(key=key.decode(), verdict=verdict.decode(), **told)  # type: ignore[arg-type]  # of those that a script put there
