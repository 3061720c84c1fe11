"""Outliers on their way from scoring to the feed: put on a heap in memory, and added to the store off the path of requests.

While the store is away they wait, up to a bound beyond which the oldest are dropped and counted; scoring goes on as ever.
"""

from __future__ import annotations

import io
import logging
import secrets
import threading
import time
from collections import deque
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models import ImageError
from models.preprocessing import DEFAULT_MAX_PIXELS, decode
from service.errors import InvalidInput, StoreUnavailable
from service.features import Batch, EncodedImage, Features
from service.outliers.feed import Feed, Outlier, event_id
from service.outliers.figures import OutlierFigures
from service.verdicts import Verdicts
from service.versions import Loaded

log = logging.getLogger(__name__)

MOST_OF_A_BATCH = 100  # outliers: those with the highest scores
MOST_WAITING = 1000  # outliers
MOST_BYTES = 64 * 2**20  # of their features and images
MOST_FEATURE_BYTES = 65_536  # of a row that is kept
SHARES = 5  # parts named in an attribution
THUMBNAIL = 96  # pixels, the longer side


class Asked(Protocol):
    """What a request was, beside what came of it."""

    batch: Batch | None
    keys: list[str] | None  # of its rows, where the caller named them
    request: str  # its own name, or ""


@dataclass(frozen=True, slots=True)
class Sighting:
    """The outliers of one batch."""

    loaded: Loaded
    time: float
    alpha: float
    keys: list[str]
    scores: NDArray[np.float64]
    p_values: NDArray[np.float64]
    features: Features
    images: list[EncodedImage]

    @classmethod
    def of(cls, loaded: Loaded, verdicts: Verdicts, asked: Asked | None) -> Sighting | None:
        """None where no row is an outlier."""
        chosen = np.flatnonzero(verdicts.is_outlier)
        if not len(chosen):
            return None
        if len(chosen) > MOST_OF_A_BATCH:
            highest = np.argsort(-verdicts.scores[chosen], kind="stable")[:MOST_OF_A_BATCH]
            chosen = np.sort(chosen[highest])
        keys, images = asked.keys if asked else None, asked.batch.images if asked and asked.batch else None
        request = asked.request if asked and asked.request else secrets.token_hex(8)
        return cls(
            loaded,
            time.time(),
            verdicts.alpha,
            [keys[i] if keys else f"{request}:{i}" for i in chosen.tolist()],
            verdicts.scores[chosen],
            verdicts.p_values[chosen],
            verdicts.features[chosen],
            [images[i] for i in chosen.tolist()] if images is not None else [],
        )

    @property
    def size(self) -> int:
        """Bytes."""
        return self.features.nbytes + sum(len(image) if isinstance(image, bytes) else image.nbytes for image in self.images)

    def outliers(self, shares: NDArray[np.float64] | None, *, inputs: bool) -> list[Outlier]:
        """As the feed has them, with their ``shares`` (n, d), and with ``inputs`` also what they were scored from."""
        fitted = self.loaded.fitted
        kept = inputs and self.features[:1].nbytes <= MOST_FEATURE_BYTES
        attributions: list[list[dict[str, Any]]] = [[]] * len(self.keys) if shares is None else fitted.largest_shares(shares, SHARES)
        return [
            Outlier(
                id=event_id(self.loaded.name, self.loaded.number, key, float(self.scores[i])),
                key=key,
                version=self.loaded.number,
                score=float(self.scores[i]),
                p_value=float(self.p_values[i]),
                alpha=self.alpha,
                time=self.time,
                attribution=attributions[i],
                extractor=fitted.extractor.digest if fitted.extractor else "",
                features=self.features[i] if kept else None,
                thumbnail=_thumbnail(self.images[i]) if inputs and self.images else b"",
            )
            for i, key in enumerate(self.keys)
        ]


class Sightings:
    """The heap of a process."""

    def __init__(self, feed: Feed, figures: OutlierFigures, *, inputs: bool) -> None:
        self._feed, self._figures, self._inputs = feed, figures, inputs
        self._waiting: deque[Sighting] = deque()
        self._rows = self._bytes = 0  # of what waits
        self._lock = threading.Lock()  # guards the heap
        self._flushing = threading.Lock()  # one flush at a time

    def observe(self, loaded: Loaded, verdicts: Verdicts, asked: Asked | None) -> None:
        """Rows were scored. Takes microseconds where none is an outlier, whatever the store does."""
        if sighting := Sighting.of(loaded, verdicts, asked):
            self._figures.last.labels(loaded.name).set(sighting.time)
            with self._lock:
                self._waiting.append(sighting)
                self._count(sighting, +1)

    def flush(self) -> None:
        """Add what waits to the feed. Raises StoreUnavailable; what was not added waits on then."""
        with self._flushing:
            while sightings := self._next():
                name = sightings[0].loaded.name
                try:
                    shares = _shares(sightings)
                    found = [one.outliers(part, inputs=self._inputs) for one, part in zip(sightings, shares, strict=True)]
                    self._feed.add(name, list(chain.from_iterable(found)))
                except StoreUnavailable:
                    with self._lock:
                        for sighting in reversed(sightings):
                            self._waiting.appendleft(sighting)
                            self._count(sighting, +1)
                    raise
                except Exception:  # some that cannot be fed must not keep the others waiting for ever
                    self._figures.dropped.labels(name).inc(sum(len(sighting.keys) for sighting in sightings))
                    raise

    def _next(self) -> list[Sighting]:
        """All that wait of the version that waits longest: together they cost hardly more than one."""
        with self._lock:
            taken = [sighting for sighting in self._waiting if sighting.loaded is self._waiting[0].loaded]
            self._waiting = deque(sighting for sighting in self._waiting if sighting.loaded is not self._waiting[0].loaded)
            for sighting in taken:
                self._rows -= len(sighting.keys)
                self._bytes -= sighting.size
            return taken

    def _popped(self) -> Sighting:
        """The oldest."""
        sighting = self._waiting.popleft()
        self._count(sighting, -1)
        return sighting

    def _count(self, sighting: Sighting, sign: int) -> None:
        """Count what came or went, and drop the oldest, down to the limits."""
        self._rows += sign * len(sighting.keys)
        self._bytes += sign * sighting.size
        while self._rows > MOST_WAITING or self._bytes > MOST_BYTES:
            dropped = self._popped()
            self._figures.dropped.labels(dropped.loaded.name).inc(len(dropped.keys))


def _shares(sightings: list[Sighting]) -> list[NDArray[np.float64] | None]:
    """Shares in the scores of sightings by one version; None where the detector gives none, or where they would take too long."""
    fitted = sightings[0].loaded.fitted
    together = np.concatenate([sighting.features for sighting in sightings])
    try:
        fitted.check_cost_of_shares(len(together))
        shares = fitted.shares(together, "feature")
    except InvalidInput:
        return [part for one in sightings for part in _shares([one])] if len(sightings) > 1 else [None]
    except (ValueError, NotImplementedError):
        return [None] * len(sightings)
    return list(np.split(shares, np.cumsum([len(sighting.keys) for sighting in sightings])[:-1]))


def _thumbnail(image: EncodedImage) -> bytes:
    """A small PNG of an image that was scored."""
    try:
        small = decode(image, max_pixels=DEFAULT_MAX_PIXELS) if isinstance(image, bytes) else Image.fromarray(image)
    except ImageError:
        return b""
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    small.convert("RGB").save(stream, "PNG")
    return stream.getvalue()
