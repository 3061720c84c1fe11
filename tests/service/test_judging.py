"""Small requests that come together are scored together, and none of them can tell."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from starlette.requests import ClientDisconnect

from service import archive, engine, errors
from service.features import Batch
from service.gate import Gate
from service.manifest import Source
from service.recipe import Recipe
from service.schemas import Options
from service.scoring import judging, scoring
from service.scoring.callers import Caller
from service.scoring.judging import Judging
from service.scoring.work import judged
from service.settings import Settings
from service.verdicts import Verdicts
from service.versions import Loaded
from tests.service.samples import fitted
from tests.service.served import npy, rows

SETTINGS = Settings(device="cpu")


class Told:
    """Watchers that note of each batch what it was, and the requests in it."""

    def __init__(self) -> None:
        self.batches: list[tuple[Verdicts, list[Any]]] = []
        self.metrics = self
        self.failures = 0

    def observe(self, _loaded: Loaded, verdicts: Verdicts, requests: Sequence[Any]) -> None:
        self.batches.append((verdicts, [work for work, _ in requests]))

    def failed(self, *_: Any) -> None:
        self.failures += 1

    @property
    def sizes(self) -> list[int]:
        """Requests in each batch."""
        return [len(requests) for _, requests in self.batches]


def version(scale: float = 1.0, name: str = "pumps", kind: str = "gaussian") -> Loaded:
    detector = fitted(scale) if kind == "gaussian" else engine.fit(Recipe(type=kind, alpha=0.05), Batch(rows=rows(300)))
    manifest, _ = archive.pack(detector, name, Source(name="rows", rows=1, sha256="0" * 64))
    return Loaded(name, 1, manifest, detector)


LOADED = version()


async def silence() -> Any:
    await asyncio.Event().wait()


def task(data: Any, **options: Any) -> scoring.Task:
    return scoring.Task("npy", npy(data), "", Options(**options), "application/json", Caller(silence))


def answers(tasks: Sequence[scoring.Task | tuple[Loaded, scoring.Task]]) -> tuple[list[Any], Told]:
    """What comes of tasks that come in one turn of the event loop: the plain answer or the error of each."""
    told = Told()

    async def together() -> list[Any]:
        judge = Judging(SETTINGS, Gate(1, 8), told).judge  # type: ignore[arg-type]  # only what is told of is noted
        pairs = [one if isinstance(one, tuple) else (LOADED, one) for one in tasks]
        return await asyncio.gather(*[judge(loaded, one) for loaded, one in pairs], return_exceptions=True)

    found = asyncio.run(together())
    return [json.loads(one.body) if isinstance(one, scoring.Scored) else one for one in found], told


def alone(one: scoring.Task, loaded: Loaded = LOADED) -> Any:
    """The answer to a task by itself."""
    return json.loads(judged(loaded, one, SETTINGS)[0].body)


def assert_same(found: Any, expected: Any) -> None:
    """But for the rounding of scores."""
    assert len(found["results"]) == len(expected["results"])
    for row, other in zip(found.pop("results"), expected.pop("results"), strict=True):
        assert row.pop("score") == pytest.approx(other.pop("score"), rel=1e-12)
        assert row == other
    assert found == expected


def test_requests_that_come_together_are_scored_together() -> None:
    """Each answer is that of its own rows, whatever their number; times of all stages are in each."""
    batches = [3 * rows(1 + index % 4, seed=index) for index in range(20)]
    found, told = answers([task(batch) for batch in batches])
    for answer, batch in zip(found, batches, strict=True):
        assert_same(answer, alone(task(batch)))
    ((verdicts, requests),) = told.batches
    assert len(requests) == 20 and len(verdicts.scores) == sum(map(len, batches))
    assert verdicts.features.tolist() == np.concatenate(batches).tolist()


def test_who_counts_may_fail_and_nobody_waits_for_ever() -> None:
    """Here where one of several is refused, and the others are scored one by one."""
    wrong = rows(1)
    wrong[0, 0] = np.nan

    class Failing(Told):
        def observe(self, *_: Any) -> None:
            raise MemoryError

    async def together() -> list[Any]:
        judge = Judging(SETTINGS, Gate(1, 8), Failing()).judge  # type: ignore[arg-type]  # only what is told of is noted
        works = [judge(LOADED, task(data)) for data in (rows(1), wrong, rows(2))]
        return await asyncio.wait_for(asyncio.gather(*works, return_exceptions=True), 60)

    assert [type(one) for one in asyncio.run(together())] == [scoring.Scored, errors.InvalidInput, scoring.Scored]


def test_only_what_is_judged_alike_is_scored_together() -> None:
    """Not by other versions, at another alpha, of another type or width, and not where the decisions are those of a batch."""
    other = version(5.0, "fans")
    tasks: list[Any] = [
        task(rows(2)), task(rows(2).astype(np.float32)), task(rows(2), alpha=0.2), (other, task(rows(2))), task(rows(2), chi_square=True),
        task(2 * rows(5), fdr=True, alpha=0.2), task(2 * rows(3), fdr=True, alpha=0.2), task(rows(3)), task(rows(1), alpha=0.2),
        (other, task(rows(4))),
    ]  # fmt: skip
    found, told = answers(tasks)
    assert sorted(told.sizes) == [1, 1, 1, 1, 2, 2, 2]
    for answer, one in zip(found, tasks, strict=True):
        loaded, own = one if isinstance(one, tuple) else (LOADED, one)
        again = scoring.Task(own.form, npy(own.batch.rows), "", own.options, own.answer, own.caller)
        assert_same(answer, alone(again, loaded))


def test_one_that_is_refused_takes_nobody_with_it() -> None:
    """What is wrong is said of its own rows, whether it is found as a request is decoded, joined or scored."""
    wrong = rows(3)
    wrong[1, 2] = np.nan
    narrow, tiny = rows(2)[:, :3], task(rows(1), alpha=1e-9)
    found, told = answers([task(rows(2)), task(wrong), task(rows(1)), task(narrow), tiny, task(rows(2)[:, 0]), task(rows(3))])
    for answer, count in zip((found[0], found[2], found[6]), (2, 1, 3), strict=True):
        assert_same(answer, alone(task(rows(count))))
    refused = [error for error in found if isinstance(error, errors.InvalidInput)]
    assert [error.pointer for error in refused] == ["#/rows/1/2", "#/rows/0", "#/alpha", "#/rows"]
    assert told.failures == 4 and sum(told.sizes) == 3


def test_who_has_left_is_not_scored() -> None:
    """Nor who was cancelled, nor who waits no longer; the others are."""
    gone, late = task(rows(1)), task(rows(2))
    gone.caller.left, late.caller.deadline = True, 0.0
    told = Told()

    async def together() -> list[Any]:
        judge = Judging(SETTINGS, Gate(1, 8), told).judge  # type: ignore[arg-type]  # only what is told of is noted
        works = [asyncio.ensure_future(judge(LOADED, one)) for one in (task(rows(5)), gone, late, task(rows(3)), task(rows(4)))]
        await asyncio.sleep(0)  # all of them are in line
        works[4].cancel()
        return await asyncio.gather(*works, return_exceptions=True)

    found = asyncio.run(together())
    kinds = [scoring.Scored, ClientDisconnect, errors.DeadlineExceeded, scoring.Scored, asyncio.CancelledError]
    assert [type(one) for one in found] == kinds
    assert [len(verdicts.scores) for verdicts, _ in told.batches] == [8]


@pytest.mark.parametrize(("kind", "limit"), [("gaussian", "TOGETHER_BY_COVARIANCE"), ("knn", "TOGETHER_PRODUCTS")])
def test_no_more_are_scored_at_a_time_than_the_loop_can_spare(monkeypatch: pytest.MonkeyPatch, kind: str, limit: str) -> None:
    """The next ones have their turn after the others that wait, in the order in which they came; so much is one product of a covariance."""
    loaded = version(kind=kind)
    monkeypatch.setattr(judging, limit, 10 * loaded.manifest.state_bytes / 8)
    tasks = [task(rows(4)), task(rows(4)), task(rows(4)), task(rows(10)), task(rows(3), alpha=0.2), task(rows(1))]
    _, told = answers([(loaded, one) for one in tasks])
    assert [[len(work.batch) for work in requests] for _, requests in told.batches] == [[4, 4], [3], [4], [10], [1]]
