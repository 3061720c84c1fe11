"""From requests to answers: small ones on the event loop and together, others in threads, and together where a network has to run."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect

from detectors import Gaussian, RobustShrinkage
from service import engine
from service.drift.monitor import Drift
from service.errors import ServiceError
from service.features import Batch, joined
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
TOGETHER_BY_COVARIANCE = 14 * INLINE_PRODUCTS  # the same of types whose score is one product: 256 rows of 512 in about a millisecond

INLINE_BYTES = 2**17  # of a request that is decoded on the event loop
COLLECTED_BYTES = 2**18  # of one for a network, which is decoded there to be joined with others: images stay encoded

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)
Judged = tuple[Work[Any], Verdicts]
Company = tuple[Any, ...]  # equal for those that may be judged together


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


@dataclass(slots=True, eq=False)
class Place:
    """A request that waits for the others with which it may be judged."""

    loaded: Loaded
    work: Work[Any]
    rows: int  # in it; 0 where it was too large to be decoded yet
    company: Company
    since: float
    answer: asyncio.Future[Any]
    taken: asyncio.Future[None]  # done once the work has begun


@dataclass(frozen=True, slots=True)
class Found:
    """What came of requests that were judged together: verdicts, with the part and the answer of each."""

    works: Sequence[Work[Any]]
    verdicts: Verdicts
    parts: Sequence[Verdicts]
    answers: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Refused:
    work: Work[Any]
    error: BaseException


class Judging:
    """The judging of a process.

    What scores a row of a small batch reads all of the version's state, and so takes hardly longer for ten rows than for one.
    Small requests that came in the same turn of the event loop, for one version and on the same terms, are therefore scored as one
    batch; and so are those that wait for a thread to run the same network, as many as suit it (see ``Extractor.measure``), when
    the first of them gets one. None waits for others still to come. A row's score is that of any batch it could have been sent
    in: the same but for rounding.
    """

    def __init__(self, settings: Settings, gate: Gate, watchers: Watchers) -> None:
        self._settings, self._gate, self._watchers = settings, gate, watchers
        # Who waits, by what has to be the same for all that are judged together: for the next turn of the loop, and for a thread.
        self._waiting: dict[Company, list[Place]] = {}
        self._lines: dict[Company, list[Place]] = {}
        self._batches: set[asyncio.Future[None]] = set()  # in threads; a loop itself keeps none of its tasks

    async def judge(self, loaded: Loaded, work: Work[T]) -> T:
        """The answer to ``work``; counted, and so is a refusal. Raises ServiceError, and what ``Caller.check`` does."""
        arrived = time.perf_counter()
        try:
            place = self._place(loaded, work)
            if not self._inline(place):
                await self._in_line(place)
            try:
                answer: T = await place.answer
                return answer
            finally:
                del place  # whose answer may be an error, which keeps this frame, and so would keep itself and the request
        except Exception:
            self._watchers.metrics.failed(loaded.name, loaded.number, time.perf_counter() - arrived)
            raise

    def _place(self, loaded: Loaded, work: Work[Any]) -> Place:
        """The request, decoded where it is small."""
        small = work.size is not None and work.size <= (COLLECTED_BYTES if loaded.fitted.extractor else INLINE_BYTES)
        batch, loop = work.decode(loaded, self._settings) if small else None, asyncio.get_running_loop()
        company = _company(loaded, work, batch)
        return Place(loaded, work, len(batch or ()), company, time.perf_counter(), loop.create_future(), loop.create_future())

    def _inline(self, place: Place) -> bool:
        """Let a request be judged in the next turn of the event loop, if it is too little to be worth the way to a thread and back."""
        if not place.rows or place.loaded.fitted.extractor or place.work.terms().attribute_by or not little(place.loaded, place.rows):
            return False
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._turn)
        self._waiting.setdefault(place.company, []).append(place)
        return True

    def _turn(self) -> None:
        """Score as many of those that wait longest as may go together; the event loop has a turn before the next ones."""
        company, places = next(iter(self._waiting.items()))
        del self._waiting[company]
        count, rows, loaded = 1, places[0].rows, places[0].loaded
        most = TOGETHER_BY_COVARIANCE if _by_covariance(loaded) else TOGETHER_PRODUCTS
        while count < len(places) and little(loaded, rows := rows + places[count].rows, most):
            count += 1
        if count < len(places):
            self._waiting[company] = places[count:]  # behind the others
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._turn)
        judged_now = [place for place in places[:count] if not place.answer.done()]
        self._tell(judged_now, self._judged(judged_now))

    async def _in_line(self, place: Place) -> None:
        """Wait until a thread has judged a request, by itself or with others of its company, or has begun to with theirs."""
        self._lines.setdefault(place.company, []).append(place)
        try:
            async with self._gate.turn(place.loaded.name, place.work.caller, unless=place.taken) as entered:
                if entered and not place.taken.done():
                    await self._lead(self._taken(place))
        except BaseException:
            if not place.taken.done():
                self._step_out(place)
            place.answer.cancel()  # nobody will ask for it
            raise

    async def _lead(self, places: list[Place]) -> None:
        """Judge in a thread, also where the first of ``places`` is cancelled meanwhile: the others wait for it."""
        batch = asyncio.ensure_future(self._gate.thread(self._in_thread, asyncio.get_running_loop(), places))
        self._batches.add(batch)
        batch.add_done_callback(self._batches.discard)
        await asyncio.shield(batch)

    def _taken(self, first: Place) -> list[Place]:
        """``first`` with those in its line that fit into a batch of the network, in the order in which they came."""
        extractor = first.loaded.fitted.extractor
        taken, room = [first], (extractor.batch if extractor else 0) - first.rows
        for place in self._lines[first.company]:
            if place is not first and place.rows <= room:
                taken.append(place)
                room -= place.rows
        for place in taken:
            self._step_out(place)
            place.taken.set_result(None)
        return taken

    def _step_out(self, place: Place) -> None:
        line = self._lines[place.company]
        line.remove(place)
        if not line:
            del self._lines[place.company]

    def _in_thread(self, loop: asyncio.AbstractEventLoop, places: list[Place]) -> None:
        loop.call_soon_threadsafe(self._tell, places, self._judged(places))

    def _judged(self, places: list[Place]) -> list[Found | Refused]:
        """What comes of requests to one version, on the same terms."""
        begun, works = time.perf_counter(), []
        refused: list[Found | Refused] = []
        for place in places:
            place.work.seconds["queue"] = begun - place.since
            if (refusal := _unwanted(place.work)) is None:
                works.append(place.work)
            else:
                refused.append(Refused(place.work, refusal))
        return refused + self._together(places[0].loaded, works) if works else refused

    def _together(self, loaded: Loaded, works: list[Work[Any]]) -> list[Found | Refused]:
        """The same of those that are wanted; where that fails, of each by itself."""
        try:
            if len(works) == 1:
                answer, verdicts = judged(loaded, works[0], self._settings)
                return [Found(works, verdicts, [verdicts], [answer])]
            batches = [work.decode(loaded, self._settings) for work in works]
            verdicts = engine.score(loaded.fitted, joined(batches), **works[0].terms()._asdict(), max_pixels=self._settings.max_pixels)
            end, parts = 0, []
            for batch in batches:
                start, end = end, end + len(batch)
                parts.append(verdicts.part(slice(start, end)))
            return [Found(works, verdicts, parts, [answered(loaded, work, part) for work, part in zip(works, parts, strict=True)])]
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001  # whoever waits for the answer raises it, a panic of a parser too
            if len(works) == 1:
                return [Refused(works[0], _bare(error))]
        return [found for work in works for found in self._together(loaded, [work])]

    def _tell(self, places: list[Place], found: list[Found | Refused]) -> None:
        """Answer those who wait, and count."""
        waiting = {id(place.work): place.answer for place in places if not place.answer.done()}
        for one in found:
            if isinstance(one, Refused):
                if answer := waiting.get(id(one.work)):
                    answer.set_exception(one.error)
                continue
            for work, result in zip(one.works, one.answers, strict=True):
                if answer := waiting.get(id(work)):
                    answer.set_result(result)
            try:
                self._watchers.observe(places[0].loaded, one.verdicts, list(zip(one.works, one.parts, strict=True)))
            except Exception:  # nobody is left to raise it to, and others wait for their turn
                log.exception("what was scored could not be counted")


def _unwanted(work: Work[Any]) -> Exception | None:
    """Why nobody would read an answer; None where somebody would."""
    try:
        work.caller.check()
    except (ServiceError, ClientDisconnect) as error:
        return _bare(error)
    return None


def _bare(error: E) -> E:
    """A refusal without its traceback, whose frames hold the request and whoever waits with this error: a circle, and so kept."""
    if isinstance(error, ServiceError | ClientDisconnect):
        error.__traceback__ = error.__context__ = None
    return error


def _company(loaded: Loaded, work: Work[Any], batch: Batch | None) -> Company:
    """What is the same for requests that may be judged together."""
    if not batch or (terms := work.terms()).fdr:  # false discoveries are counted within a batch
        return (id(work),)
    if batch.rows is None:
        return id(loaded), terms
    return id(loaded), terms, batch.rows.dtype, batch.rows.shape[1:]


def _by_covariance(loaded: Loaded) -> bool:
    return all(isinstance(detector, Gaussian | RobustShrinkage) for detector in loaded.fitted.judge.detectors)


def little(loaded: Loaded, rows: int, most: int = INLINE_PRODUCTS) -> bool:
    """Whether so many rows are scored at once."""
    return rows * loaded.manifest.state_bytes <= most * 8
