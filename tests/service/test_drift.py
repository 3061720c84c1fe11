"""Drift: one stream for all replicas, each row in it once, whatever happens to processes and to the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from service import engine
from service.drift.figures import FIGURES, DriftFigures
from service.drift.monitor import MOST_ROWS, Drift
from service.drift.report import figures, report
from service.drift.stream import RECENT, WINDOW, Reference, Sighting, Stream
from service.features import Batch
from service.recipe import Recipe
from service.settings import Settings
from service.store import Store
from service.verdicts import Verdicts
from service.versions import Loaded, load
from tests.servers import LossyProxy, RedisServer, ServiceProcess, eventually
from tests.service.samples import fitted, publish_fitted
from tests.service.served import npy, rows

FITTED = fitted()
NORMAL = [engine.score(FITTED, Batch(rows=rows(100, seed=seed))) for seed in range(10)]


def sighting(count: int, *, seed: int = 1, shift: float = 0.0, width: int = 4) -> Sighting:
    verdicts = engine.score(FITTED, Batch(rows=rows(count, seed=seed) + shift * np.eye(4)[1]))
    return Sighting(verdicts.scores, int((verdicts.p_values <= 0.05).sum()), verdicts.features, 1e9)


def published(store: Store, name: str) -> Loaded:
    return load(store, Settings(), name, publish_fitted(store, name, FITTED))


class Watcher:
    """The part of a process that watches: rows in by ``see``, what is told out of ``told``."""

    def __init__(self, store: Store) -> None:
        self.figures = DriftFigures(lambda labels: True)
        self.drift = Drift(store.connection, self.figures)

    def see(self, loaded: Loaded, *verdicts: Verdicts) -> None:
        for some in verdicts:
            self.drift.observe(loaded, some)
        self.drift.flush([loaded])

    def rows(self, loaded: Loaded) -> int:
        return self.drift.stream(loaded)[1].rows


# The stream of a version


def test_a_stream_has_a_bounded_size_and_is_stored_whole() -> None:
    """As many bytes after 10 000 rows as after 2000, and bit for bit the same after a round through them."""
    reference = Reference.of(FITTED)
    stream = Stream.begun(reference)
    sizes = []
    for turn in range(10):
        stream = stream.after(reference, sighting(1000, seed=turn))
        sizes.append(len(stream.packed(reference)))
        again = Stream.unpacked(stream.packed(reference), reference)
        assert again.packed(reference) == stream.packed(reference)
    assert len(set(sizes[1:])) == 1
    assert (stream.rows, stream.martingale.rows, len(stream.recent)) == (10_000, 10_000, RECENT)
    assert 0 <= stream.windows[1, :, 0].sum() < WINDOW <= stream.windows[0, :, 0].sum()


def test_what_was_stored_for_other_bins_is_begun_anew() -> None:
    """A state that another release wrote, with other bins or bets, is no state of this one."""
    reference = Reference.of(FITTED)
    other = Reference.of(fitted(rows=200))
    stream = Stream.begun(other).after(other, sighting(100))
    assert Stream.unpacked(stream.packed(other), other).rows == 100
    assert Stream.unpacked(stream.packed(other), reference).rows == 0


def test_a_moved_feature_is_named_and_raises_the_alarm() -> None:
    """Normal rows tell of nothing; a second feature that is two deviations off is named first, and the distance grows."""
    reference = Reference.of(FITTED)
    stream = Stream.begun(reference).after(reference, sighting(600))
    calm = report("pumps", 1, FITTED, reference, stream, 2)
    assert calm.martingale is not None and calm.features is not None and calm.wasserstein is not None
    assert (calm.martingale.alarm, calm.features.moved, len(calm.features.ranked)) == (False, 0, 2)
    for seed in range(2, 6):
        stream = stream.after(reference, sighting(200, seed=seed, shift=2.0))
    told = report("pumps", 1, FITTED, reference, stream, 4)
    assert told.martingale is not None and told.features is not None and told.wasserstein is not None
    assert told.martingale.alarm
    assert 600 < (told.martingale.alarm_row or 0) <= 1400
    assert [feature.feature for feature in told.features.ranked if feature.moved] == ["features[1]"]
    assert told.features.ranked[0].rank_shift > 0.2
    assert (told.wasserstein.ratio or 0) > 2 > (calm.wasserstein.ratio or 0)
    assert told.false_alarms.lower > 0.05
    assert figures(reference, stream, FITTED).keys() == FIGURES.keys()


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(alpha=0.1, trim=0.1),
        Recipe(alpha=0.1, method="cross-conformal"),
        Recipe(type="gaussian+knn", alpha=0.1, method="combined"),
    ],
    ids=["trimmed", "cross-conformal", "combined"],
)
def test_where_ranks_prove_nothing_there_is_no_martingale(recipe: Recipe) -> None:
    """The report says why; features are watched all the same."""
    other = engine.fit(recipe, Batch(rows=rows(200)))
    reference = Reference.of(other)
    stream = Stream.begun(reference).after(reference, sighting(100))
    told = report("pumps", 1, other, reference, stream, 1)
    assert told.martingale is None
    assert told.no_martingale
    assert told.features is not None
    assert "farfield_drift_alarm" not in figures(reference, stream, other)


def test_a_version_without_a_sketch_says_so() -> None:
    """As those that earlier releases published."""
    old = replace(FITTED, sketch=None)
    reference = Reference.of(old)
    told = report("pumps", 1, old, reference, Stream.begun(reference).after(reference, sighting(50)), 3)
    assert (told.features, told.wasserstein) == (None, None)
    assert "sketch" in (told.no_features or "")
    assert told.martingale is not None


# One stream in the store


@pytest.fixture
def store(any_server: Any) -> Iterator[Store]:
    with Store.open(any_server.url, timeout=5) as opened:
        yield opened


def test_rows_of_all_processes_are_one_stream(store: Store, name: str) -> None:
    """Two watchers add in turn, each from an old state; every row counts once, both tell the same, and a third one reads it."""
    loaded = published(store, name)
    one, other = Watcher(store), Watcher(store)
    for first, second in zip(NORMAL[::2], NORMAL[1::2], strict=True):
        one.see(loaded, first)
        other.see(loaded, second)
    one.see(loaded)
    assert one.figures.current == other.figures.current
    assert one.figures.current[name, "1"]["farfield_drift_rows"] == 1000
    assert Watcher(store).rows(loaded) == 1000


def test_a_deleted_version_takes_its_stream_along(store: Store, name: str, raw: Any) -> None:
    """Nothing is left of it, and rows that come too late do not bring it back."""
    loaded, watcher = published(store, name), Watcher(store)
    watcher.see(loaded, NORMAL[0])
    store.delete_version(name, 1)
    watcher.see(loaded, NORMAL[1])
    assert raw.exists(f"farfield:{{{name}}}:drift:1") == 0
    assert watcher.figures.current == {}


def test_a_reset_begins_anew_for_all(store: Store, name: str) -> None:
    """A watcher that has the old state in memory goes on from nothing."""
    loaded, watcher, other = published(store, name), Watcher(store), Watcher(store)
    watcher.see(loaded, NORMAL[0])
    other.drift.reset(name, 1)
    watcher.see(loaded, NORMAL[1])
    assert watcher.rows(loaded) == 100
    watcher.see(loaded)
    assert watcher.figures.current[name, "1"]["farfield_drift_rows"] == 100


def test_a_write_whose_answer_is_lost_counts_once(redis_server: RedisServer, redis_url: str) -> None:
    """The connection breaks after the script has run, and another process writes before the next try."""
    with Store.open(redis_url) as plain:
        loaded = published(plain, "pumps")
        proxy = LossyProxy(redis_server.port)
        try:
            with Store.open(proxy.url) as lossy:
                watcher = Watcher(lossy)
                watcher.see(loaded, NORMAL[0])
                proxy.marker = b"HEXISTS"
                watcher.see(loaded, NORMAL[1])
                assert proxy.marker is None
                Watcher(plain).see(loaded, NORMAL[2])
                watcher.see(loaded, NORMAL[3])
                assert watcher.rows(loaded) == 400
        finally:
            proxy.close()


def test_while_the_store_is_away_a_bounded_number_of_rows_waits(redis_server: RedisServer, redis_url: str) -> None:
    """They join the stream when it is back, at most ``MOST_ROWS`` besides those whose write was under way."""
    with Store.open(redis_url, timeout=0.05) as store:
        loaded, watcher = published(store, "pumps"), Watcher(store)
        watcher.see(loaded, NORMAL[0])
        redis_server.freeze()
        many = replace(NORMAL[1], scores=np.tile(NORMAL[1].scores, 90), p_values=np.tile(NORMAL[1].p_values, 90))
        for turn in range(4):
            with pytest.raises(Exception, match="did not answer"):
                watcher.see(loaded, many if turn else NORMAL[2])
        redis_server.thaw()
        watcher.see(loaded)
        watcher.see(loaded)
        assert watcher.rows(loaded) == 100 + 100 + MOST_ROWS


def test_figures_are_of_what_is_loaded_alone(redis_url: str) -> None:
    """Versions that are no longer loaded are told of no longer, and leave nothing on the heap."""
    with Store.open(redis_url) as store:
        versions = [published(store, name) for name in ("a", "b", "c")]
        watcher = Watcher(store)
        for version in versions:
            watcher.drift.observe(version, NORMAL[0])
        watcher.drift.flush(versions[:2])
        assert set(watcher.figures.current) == {("a", "1"), ("b", "1")}
        watcher.drift.flush(versions)
        samples = [sample for family in watcher.figures.collect() for sample in family.samples]
        assert len(samples) <= 3 * len(FIGURES)
        assert watcher.figures.current["c", "1"]["farfield_drift_rows"] == 0


# Over HTTP


def test_two_replicas_and_a_restart(redis_url: str, service_process: Callable[..., ServiceProcess]) -> None:
    """Both score, both tell of the same rows, at /drift and at /metrics; a replica that starts anew goes on from there."""
    with Store.open(redis_url) as store:
        publish_fitted(store, "pumps", FITTED)
    replicas = [service_process(redis_url), service_process(redis_url)]
    body, kind = npy(rows(50, seed=7)), {"content-type": "application/x-npy"}

    def scored() -> None:
        for replica in replicas:
            assert httpx2.post(f"{replica.url}/v1/detectors/pumps:score", content=body, headers=kind, timeout=30).status_code == 200

    def all_tell(count: int) -> bool:
        line = f'farfield_drift_rows{{detector="pumps",version="1"}} {float(count)}'
        told = [httpx2.get(f"{replica.url}/v1/detectors/pumps/drift", timeout=30).json()["rows"] for replica in replicas]
        return told == [count] * 2 and all(line in httpx2.get(f"{replica.url}/metrics", timeout=30).text for replica in replicas)

    scored()
    scored()
    eventually(lambda: all_tell(200), "every row of both, once")
    scored()
    replicas[0].process.terminate()
    replicas[0].process.wait()
    replicas[0] = service_process(redis_url)
    eventually(lambda: all_tell(300), "what was scored just before the end is kept, and nothing is lost by the restart")
    assert httpx2.post(f"{replicas[1].url}/v1/detectors/pumps:reset-drift", timeout=30).status_code == 204
    eventually(lambda: all_tell(0), "begun anew for both")
    missing = httpx2.get(f"{replicas[0].url}/v1/detectors/nobody/drift", timeout=30)
    assert (missing.status_code, missing.json()["type"]) == (404, "urn:farfield:problem:unknown-detector")
    wrong = httpx2.get(f"{replicas[0].url}/v1/detectors/pumps/drift?features=-1", timeout=30)
    assert (wrong.status_code, json.loads(wrong.text)["errors"][0]["pointer"]) == (422, "features")


def test_scoring_goes_on_without_the_store(
    redis_server: RedisServer, redis_url: str, tmp_path: Path, service_process: Callable[..., ServiceProcess]
) -> None:
    """Rows scored meanwhile are in the stream afterwards; the report needs the store and says so."""
    with Store.open(redis_url) as store:
        publish_fitted(store, "pumps", FITTED)
    service = service_process(redis_url, FARFIELD_STORE_TIMEOUT="0.1")
    body, kind = npy(rows(50, seed=7)), {"content-type": "application/x-npy"}
    redis_server.freeze()
    for _ in range(20):
        assert httpx2.post(f"{service.url}/v1/detectors/pumps:score", content=body, headers=kind, timeout=30).status_code == 200
    away = httpx2.get(f"{service.url}/v1/detectors/pumps/drift", timeout=30)
    assert (away.status_code, away.json()["type"]) == (503, "urn:farfield:problem:store-unavailable")
    redis_server.thaw()
    told = f"{service.url}/v1/detectors/pumps/drift"
    eventually(lambda: httpx2.get(told, timeout=30).json().get("rows") == 1000, "all rows joined the stream")
