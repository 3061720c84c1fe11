"""Watching for drift: the rows that all replicas score with a version join one stream in the store, each row once.

Scoring only puts its rows on a heap, in memory. Once a second they are added to the stream: the new state is computed from the one known,
and a script puts it into the store unless another process was faster, whose state is then what is computed from. A write whose
answer was lost is found by its token and not done twice. While the store is away rows wait, up to a bound, and scoring goes on.

Keys, in the slot of their detector:

    farfield:{NAME}:drift:NUMBER           hash, the state of the stream and the token of the write that made it
    farfield:{NAME}:drift:NUMBER:WRITER    the last token of a process, for an hour
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from service.connection import Connection, Declined, reached
from service.drift.figures import DriftFigures
from service.drift.report import figures
from service.drift.stream import Floats, Reference, Sighting, Stream
from service.verdicts import Verdicts
from service.versions import Loaded

log = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0
WRITER_SECONDS = 3600  # that the token of a process is remembered after its last write
UNSURE_SECONDS = 3000.0  # after which a write without an answer is given up, while its token is still remembered
TRIES = 10  # against other processes that write at the same time, per flush
MOST_ROWS = 20_000  # of a version that wait to be added; further ones are scored as ever but not watched
MOST_FEATURES = 256  # rows that wait with their features
MOST_NUMBERS = 2**20  # in those features

Key = tuple[str, int]  # detector, version


@dataclass(slots=True)
class Waiting:
    """Rows on the heap."""

    scores: list[Floats] = field(default_factory=list)
    features: list[Floats] = field(default_factory=list)
    rows: int = 0
    kept: int = 0  # of them with features
    outliers: int = 0

    def add(self, verdicts: Verdicts, alpha: float) -> None:
        room = min(len(verdicts.scores), MOST_ROWS - self.rows)
        if room <= 0:
            return
        width = verdicts.features.shape[1]
        sampled = max(min(room, min(MOST_FEATURES, max(MOST_NUMBERS // width, 1)) - self.kept), 0)
        self.scores.append(verdicts.scores[:room])
        self.features.append(np.array(verdicts.features[:sampled], dtype=np.float64))
        self.rows += room
        self.kept += sampled
        self.outliers += int((verdicts.p_values[:room] <= alpha).sum())

    def sighting(self) -> Sighting:
        return Sighting(np.concatenate(self.scores), self.outliers, np.concatenate(self.features), time.time())


@dataclass(slots=True)
class Watched:
    """A version's stream as this process last saw it, and the write that is being tried."""

    reference: Reference
    token: str = ""
    stream: Stream | None = None
    writing: tuple[str, Sighting, float] | None = None  # token, what is added, and since when
    figures: dict[str, float] | None = None  # of the stream; None where it has changed since

    def saw(self, token: bytes, state: bytes) -> None:
        self.now(token.decode(), Stream.unpacked(state, self.reference) if state else Stream.begun(self.reference))

    def now(self, token: str, stream: Stream) -> None:
        self.token, self.stream, self.figures = token, stream, None


class Drift:
    """The streams of all loaded versions of a process."""

    def __init__(self, connection: Connection, told: DriftFigures) -> None:
        self._connection = connection
        self._told = told
        self._writer = uuid.uuid4().hex
        self._waiting: dict[Key, Waiting] = {}
        self._watched: dict[Key, Watched] = {}
        self._lock = threading.Lock()  # guards the heap
        self._flushing = threading.Lock()  # one flush at a time

    def observe(self, loaded: Loaded, verdicts: Verdicts) -> None:
        """Rows were scored. Takes microseconds, whatever the store does."""
        with self._lock:
            self._waiting.setdefault((loaded.name, loaded.number), Waiting()).add(verdicts, loaded.fitted.recipe.alpha)

    def flush(self, loaded: Iterable[Loaded]) -> None:
        """Add what waits to the streams of these versions, and look at the others. Raises StoreUnavailable; rows wait on then."""
        with self._flushing:
            versions = {(version.name, version.number): version for version in loaded}
            self._keep(versions.keys())
            for key, version in versions.items():
                if key not in self._watched:
                    self._watched[key] = Watched(Reference.of(version.fitted))
                watched = self._watched[key]
                self._take(key, watched)
                if watched.writing:
                    self._write(key, watched, *watched.writing[:2])
            self._look({key: self._watched[key] for key in versions if key in self._watched})
            for key, watched in self._watched.items():
                if watched.stream and watched.figures is None:
                    watched.figures = figures(watched.reference, watched.stream, versions[key].fitted)
            self._told.current = {(name, str(number)): watched.figures or {} for (name, number), watched in self._watched.items()}

    def stream(self, loaded: Loaded) -> tuple[Reference, Stream]:
        """The stream of a version, as it is in the store. Raises StoreUnavailable."""
        watched = Watched(Reference.of(loaded.fitted))
        with reached():
            found = self._connection.client.hmget(_stream_key((loaded.name, loaded.number)), "token", "state")
        watched.saw(*(part or b"" for part in found))
        return watched.reference, watched.stream or Stream.begun(watched.reference)

    def reset(self, name: str, number: int) -> None:
        """Begin a version's stream anew, for all replicas. Raises StoreUnavailable."""
        with reached():
            self._connection.client.unlink(_stream_key((name, number)))

    def _keep(self, keys: Iterable[Key]) -> None:
        """Forget versions that are no longer loaded: what is told of stays bounded as they are."""
        keys = set(keys)
        with self._lock:
            self._waiting = {key: waiting for key, waiting in self._waiting.items() if key in keys}
        self._watched = {key: watched for key, watched in self._watched.items() if key in keys}

    def _take(self, key: Key, watched: Watched) -> None:
        """Make what waits the next write, unless one is without an answer yet."""
        if watched.writing and time.monotonic() - watched.writing[2] > UNSURE_SECONDS:
            watched.writing = None  # it may have been done
        if watched.writing is None:
            with self._lock:
                waiting = self._waiting.pop(key, None)
            if waiting and waiting.rows:
                watched.writing = (uuid.uuid4().hex, waiting.sighting(), time.monotonic())

    def _write(self, key: Key, watched: Watched, token: str, sighting: Sighting) -> None:
        """Add the rows of the write to the stream, whoever else adds to it."""
        name, number = key
        keys = [f"farfield:{{{name}}}:versions", _stream_key(key), f"{_stream_key(key)}:{self._writer}"]
        for _ in range(TRIES):
            try:
                stream = (watched.stream or Stream.begun(watched.reference)).after(watched.reference, sighting)
            except ValueError:  # a damaged sketch must not keep the rows of other versions from being watched
                log.exception("%d rows of %s:%d cannot be compared with its calibration rows", len(sighting.scores), name, number)
                watched.writing = None
                return
            try:
                arguments = [number, watched.token, token, stream.packed(watched.reference), WRITER_SECONDS]
                answer, *found = self._connection.run("add_to_stream.lua", keys, arguments)
            except Declined:  # the version is deleted
                del self._watched[key]
                return
            if answer == b"written":
                watched.now(token, stream)
                watched.writing = None
                return
            watched.saw(*found)
            if answer == b"before":
                watched.writing = None
                return
        log.info("the rows of %s:%d wait: too many processes add to its stream at the same time", name, number)

    def _look(self, watched: dict[Key, Watched]) -> None:
        """Read the streams that others have added to."""
        with reached():
            asked = self._connection.client.pipeline(transaction=False)
            for key in watched:
                asked.hget(_stream_key(key), "token")
            tokens = asked.execute() if watched else []
            for (key, known), token in zip(watched.items(), tokens, strict=True):
                if known.stream is None or known.token != (token or b"").decode():
                    known.saw(*(part or b"" for part in self._connection.client.hmget(_stream_key(key), "token", "state")))


def _stream_key(key: Key) -> str:
    return f"farfield:{{{key[0]}}}:drift:{key[1]}"
