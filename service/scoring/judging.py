"""From requests to answers: large ones each in a thread, small ones on the event loop and together."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from service import engine
from service.drift.monitor import Drift
from service.features import Batch
from service.gate import Gate
from service.metrics import Metrics
from service.outliers.shadow import Shadows
from service.outliers.sightings import Sightings
from service.scoring.work import Work, answered, judged
from service.settings import Settings
from service.verdicts import Verdicts
from service.versions import Loaded

log = logging.getLogger(__name__)

# The most that is scored on the event loop at a time, where it makes the others wait for no more than a few times the way to a
# thread and back, which python -m benchmarks.serving_path measures.
INLINE_PRODUCTS = 5_000_000  # of one request, as rows times numbers in the state: rows * d**2 for a covariance
TOGETHER_PRODUCTS = 4 * INLINE_PRODUCTS  # of several, which take less time than one by one

T = TypeVar("T")
Judged = tuple[Work[Any], Verdicts]


@dataclass(frozen=True, slots=True)
class Watchers:
    """Who is told of what was scored, for all of a process."""

    metrics: Metrics
    drift: Drift
    sightings: Sightings
    shadows: Shadows

    def observe(self, loaded: Loaded, verdicts: Verdicts, requests: Sequence[Judged]) -> None:
        """``verdicts`` were found together; each of ``requests`` has its part of them."""
        seconds = [part.seconds for _, part in requests]
        self.metrics.scored(loaded.name, loaded.number, verdicts, seconds)
        self.metrics.stages(seconds)
        self.drift.observe(loaded, verdicts)
        for work, part in requests:
            self.sightings.observe(loaded, part, work)
            self.shadows.observe(loaded, part, work)


@dataclass(slots=True)
class Place:
    """A small request that waits for the others that came with it."""

    work: Work[Any]
    loaded: Loaded
    batch: Batch
    answer: asyncio.Future[Any]
    since: float


class Judging:
    """The judging of a process.

    What scores a row of a small batch reads all of the version's state, and so takes hardly longer for ten rows than for one.
    Small requests that came in the same turn of the event loop, for one version and on the same terms, are therefore scored as one
    batch: none of them waits for others still to come. A row's score is that of any batch it could have been sent in: the same
    but for rounding.
    """

    def __init__(self, settings: Settings, gate: Gate, watchers: Watchers) -> None:
        self._settings, self._gate, self._watchers = settings, gate, watchers
        self._waiting: dict[tuple[Any, ...], list[Place]] = {}  # by what has to be the same for all that are scored together

    async def judge(self, loaded: Loaded, work: Work[T]) -> T:
        """The answer to ``work``; counted, and so is a refusal. Raises ServiceError, and what ``Caller.check`` does."""
        arrived = time.perf_counter()
        try:
            if work.at_once(loaded, self._settings):
                return await self._together(loaded, work)
            answer: T
            answer, verdicts = await self._gate.run(self._in_thread, loaded, work, time.perf_counter(), key=loaded.name, caller=work.caller)
        except Exception:
            self._watchers.metrics.failed(loaded.name, loaded.number, time.perf_counter() - arrived)
            raise
        self._watchers.observe(loaded, verdicts, [(work, verdicts)])
        return answer

    def _in_thread(self, loaded: Loaded, work: Work[T], ready: float) -> tuple[T, Verdicts]:
        work.seconds["queue"] = time.perf_counter() - ready
        work.caller.check()
        return judged(loaded, work, self._settings)

    async def _together(self, loaded: Loaded, work: Work[T]) -> T:
        loop, batch = asyncio.get_running_loop(), work.decode(loaded, self._settings)
        place = Place(work, loaded, batch, loop.create_future(), time.perf_counter())
        if not self._waiting:
            loop.call_soon(self._turn)
        self._waiting.setdefault(_company(place), []).append(place)
        answer: T = await place.answer
        return answer

    def _turn(self) -> None:
        """Score as many of those that wait longest as may go together; the event loop has a turn before the next ones."""
        company, places = next(iter(self._waiting.items()))
        del self._waiting[company]
        count, rows = 1, len(places[0].batch)
        while count < len(places) and little(places[0].loaded, rows := rows + len(places[count].batch), TOGETHER_PRODUCTS):
            count += 1
        if count < len(places):
            self._waiting[company] = places[count:]  # behind the others
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._turn)
        self._score([place for place in places[:count] if not place.answer.done()])

    def _score(self, places: list[Place]) -> None:
        """Answer requests by one version, on the same terms; where that fails, each by itself."""
        if not places:
            return
        begun = time.perf_counter()
        try:
            loaded, terms = places[0].loaded, places[0].work.terms()
            for place in places:
                place.work.seconds["queue"] = begun - place.since
                place.work.caller.check()
            batches = [place.batch for place in places]
            together = batches[0] if len(batches) == 1 else Batch(rows=np.concatenate([batch.rows for batch in batches]))
            verdicts = engine.score(loaded.fitted, together, **terms._asdict(), max_pixels=self._settings.max_pixels)
            end, found = 0, []
            for place in places:
                start, end = end, end + len(place.batch)
                part = verdicts if len(places) == 1 else verdicts.part(slice(start, end))
                found.append((place, part, answered(loaded, place.work, part)))
        except Exception as error:  # noqa: BLE001  # whoever waits for the answer raises it
            if len(places) == 1:
                places[0].answer.set_exception(error)
            else:
                for place in places:
                    self._score([place])
            return
        for place, _, answer in found:
            place.answer.set_result(answer)
        try:
            self._watchers.observe(loaded, verdicts, [(place.work, part) for place, part, _ in found])
        except Exception:  # nobody is left to raise it to, and others wait for their turn
            log.exception("what was scored could not be counted")


def _company(place: Place) -> tuple[Any, ...]:
    """What is the same for requests that may be scored together."""
    rows, terms = place.batch.rows, place.work.terms()
    if rows is None or rows.ndim != 2 or not len(rows) or terms.fdr:  # false discoveries are counted within a batch
        return (id(place),)
    return id(place.loaded), terms, rows.dtype, rows.shape[1]


def little(loaded: Loaded, rows: int, most: int = INLINE_PRODUCTS) -> bool:
    """Whether so many rows are scored at once."""
    return rows * loaded.manifest.state_bytes <= most * 8
