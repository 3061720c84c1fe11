"""The feed of outliers and feedback on it: what gets in, once, for how long, and what callers may say of it."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry, generate_latest
from typer.testing import CliRunner, Result

from service import engine, errors
from service.cli import app
from service.features import Batch
from service.outliers.feed import Feed, Outlier, event_id
from service.outliers.feedback import MOST_MARKS, Feedback
from service.outliers.figures import OutlierFigures
from service.outliers.sightings import MOST_OF_A_BATCH, MOST_WAITING, Sightings
from service.recipe import Recipe
from service.settings import Settings
from service.store import Store
from service.versions import Loaded, load
from tests.servers import LossyProxy, RedisServer, ServiceProcess, eventually
from tests.service.samples import fitted, publish_fitted
from tests.service.served import ODD, Served, fitted_images, rows, served

FITTED = fitted()
FAR = rows(3) + 9.0
HOSTILE = "<script>alert(1)</script>"


@dataclass
class Request:
    """What is known of a request beside its verdicts."""

    batch: Batch | None = None
    keys: list[str] | None = None
    request: str = ""


class Watcher:
    """The part of a process that feeds."""

    def __init__(self, store: Store, *, inputs: bool = False, **settings: Any) -> None:
        self.figures = OutlierFigures(CollectorRegistry())
        self.feed = Feed(store.connection, Settings(**settings))
        self.sightings = Sightings(self.feed, self.figures, inputs=inputs)

    def see(self, loaded: Loaded, batch: Any, **request: Any) -> None:
        self.sightings.observe(loaded, engine.score(loaded.fitted, Batch(rows=batch)), Request(**request))
        self.sightings.flush()

    def keys(self, name: str, **where: Any) -> list[str]:
        return [outlier.key for outlier in self.feed.newest(name, 1000, **where)]


@pytest.fixture
def store(any_server: Any) -> Iterator[Store]:
    with Store.open(any_server.url, timeout=5) as opened:
        yield opened


def published(store: Store, name: str) -> Loaded:
    return load(store, Settings(), name, publish_fitted(store, name, FITTED))


def entry(key: str, **other: Any) -> Outlier:
    return Outlier(**{"id": f"id-{key}", "key": key, "version": 1, "score": 9.5, "p_value": 0.01, "alpha": 0.05, "time": 1e9, **other})


# The feed, on every kind of server


def test_an_outlier_is_one_whatever_is_scored_with_it() -> None:
    """The last digits of a score depend on that."""
    score = 1234.5678
    assert event_id("pumps", 1, "k", score) == event_id("pumps", 1, "k", score * (1 + 1e-7)) != event_id("pumps", 1, "k", score * 1.01)


def test_outliers_and_they_alone_are_fed(store: Store, name: str) -> None:
    """With score, p-value, version, key and the features that made them odd; inputs only where they are kept."""
    loaded, watcher = published(store, name), Watcher(store)
    watcher.see(loaded, np.concatenate([np.zeros((1, 4)), [[0.0, 0.0, 9.0, 0.0]]]), keys=["calm", HOSTILE])
    (found,) = watcher.feed.newest(name, 10)
    assert (found.key, found.version, found.alpha, found.features, found.thumbnail) == (HOSTILE, 1, 0.05, None, b"")
    assert found.attribution[0]["feature"] == "features[2]"
    assert sum(share["share"] for share in found.attribution) == pytest.approx(found.score)
    assert found.p_value == pytest.approx(1 / 61)
    keeping = Watcher(store, inputs=True)
    keeping.see(loaded, FAR[:1], keys=["kept"])
    assert keeping.feed.newest(name, 1)[0].features.tolist() == FAR[0].tolist()


def test_rows_without_keys_are_named_by_their_request(store: Store, name: str) -> None:
    """By the name that it has, else by one that no other request has, and the place of the row."""
    loaded, watcher = published(store, name), Watcher(store)
    watcher.see(loaded, np.concatenate([np.zeros((1, 4)), FAR[:1]]), request="r7")
    watcher.see(loaded, FAR[:1])
    watcher.see(loaded, FAR[:1])
    unnamed, again, named = watcher.keys(name)
    assert named == "r7:1"
    assert unnamed != again
    assert unnamed.endswith(":0")


@pytest.mark.parametrize("kind", ["gaussian", "knn"])
def test_outliers_of_many_requests_are_fed_together(store: Store, name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order in which they came, each with the shares of its own row, also where those of all at once would take too long."""
    normal = np.random.default_rng(0).normal(1, 0.1, (300, 4))
    loaded = load(store, Settings(), name, publish_fitted(store, name, engine.fit(Recipe(type=kind, alpha=0.05), Batch(rows=normal))))
    monkeypatch.setattr(engine, "MOST_LEFT_OUT", 2 * 4)
    watcher, odd = Watcher(store), np.ones((4, 4)) + 9 * np.eye(4)
    for place, row in enumerate(odd):
        watcher.sightings.observe(loaded, engine.score(loaded.fitted, Batch(rows=row[None])), Request(keys=[f"k{place}"]))
    watcher.sightings.flush()
    found = watcher.feed.newest(name, 10)[::-1]
    assert [one.key for one in found] == [f"k{place}" for place in range(4)]
    for row, one in zip(odd, found, strict=True):
        alone = loaded.fitted.largest_shares(loaded.fitted.shares(row[None], "feature"), len(one.attribution))[0]
        assert [share["feature"] for share in one.attribution] == [share["feature"] for share in alone]
        assert [share["share"] for share in one.attribution] == pytest.approx([share["share"] for share in alone])
        assert one.attribution


def test_the_same_row_under_the_same_key_is_fed_once(store: Store, name: str) -> None:
    """As when a client sends its request again; another score under that key is another outlier."""
    loaded, watcher = published(store, name), Watcher(store)
    for _ in range(3):
        watcher.see(loaded, FAR[:1], keys=["a"])
    watcher.see(loaded, FAR[1:2], keys=["a"])
    assert watcher.keys(name) == ["a", "a"]


def test_the_feed_is_read_in_pages_and_by_time(store: Store, name: str) -> None:
    """The newest first; each page begins before the place where the last one ended."""
    watcher = Watcher(store)
    watcher.feed.add(name, [entry(str(i)) for i in range(250)])
    first = watcher.feed.newest(name, 100)
    assert [o.key for o in first] == [str(i) for i in range(249, 149, -1)]
    assert watcher.keys(name, before=first[-1].place)[0] == "149"
    assert watcher.keys(name, since=time.time() + 60) == watcher.keys(name, until=time.time() - 60) == []
    assert set(watcher.feed.by_key(name, ["3", "249", "nobody"])) == {"3", "249"}


def test_the_feed_is_bounded_in_length(store: Store, name: str, raw: Any) -> None:
    """The newest stay, and no more is remembered of the others than of them."""
    watcher = Watcher(store, max_outliers=50)
    watcher.feed.add(name, [entry(str(i)) for i in range(130)])
    assert watcher.keys(name) == [str(i) for i in range(129, 79, -1)]
    assert raw.zcard(f"farfield:{{{name}}}:outliers:ids") == 50


def test_the_feed_is_bounded_in_time(store: Store, name: str, raw: Any) -> None:
    """What is too old is told no more, leaves the store at the next look without anything new, and the rest expires by itself."""
    watcher = Watcher(store, outlier_seconds=2)
    watcher.feed.add(name, [entry("old", features=np.ones(4))])
    stream = f"farfield:{{{name}}}:outliers"
    assert 0 < raw.ttl(stream) <= 2
    raw.persist(stream)
    eventually(lambda: not watcher.keys(name), "no longer told")
    assert raw.xlen(stream) == 1
    watcher.feed.trim([name])
    assert raw.xlen(stream) == 0
    watcher.feed.add(name, [entry("old")])
    assert watcher.keys(name) == ["old"]


def test_a_write_whose_answer_is_lost_adds_once(redis_server: RedisServer, redis_url: str) -> None:
    """The connection breaks after the script has run, and it runs again."""
    proxy = LossyProxy(redis_server.port)
    try:
        with Store.open(proxy.url) as lossy:
            watcher = Watcher(lossy)
            proxy.marker = b"XADD"
            watcher.feed.add("pumps", [entry("a"), entry("b")])
            assert proxy.marker is None
            assert watcher.keys("pumps") == ["b", "a"]
    finally:
        proxy.close()


def test_while_the_store_is_away_a_bounded_number_waits(redis_server: RedisServer, redis_url: str) -> None:
    """The newest of them are fed when it is back, the others counted as dropped; of one batch the highest scores alone."""
    with Store.open(redis_url, timeout=0.05) as store:
        loaded, watcher = published(store, "pumps"), Watcher(store)
        many = np.arange(1, 151)[:, None] * np.ones((1, 4)) + 9
        redis_server.freeze()
        for turn in range(12):
            with pytest.raises(errors.StoreUnavailable):
                watcher.see(loaded, many, request=f"r{turn}")
        redis_server.thaw()
        watcher.sightings.flush()
        keys = watcher.keys("pumps")
        assert len(keys) == MOST_WAITING
        assert set(keys) == {f"r{turn}:{row}" for turn in range(2, 12) for row in range(150 - MOST_OF_A_BATCH, 150)}
        assert watcher.figures.dropped.labels("pumps")._value.get() == 200


def test_series_are_those_of_detectors_in_memory() -> None:
    """What may be lost is 0 from the beginning; with the last version of a detector its series go."""
    registry = CollectorRegistry()
    figures = OutlierFigures(registry)
    figures.refresh({"pumps": {}, "fans": {"failed": 2}}, {"pumps": 0, "fans": 7})
    figures.last.labels("fans").set(1e9)
    assert registry.get_sample_value("farfield_outliers_dropped_total", {"detector": "pumps"}) == 0
    assert registry.get_sample_value("farfield_webhooks_waiting", {"detector": "fans"}) == 7
    assert registry.get_sample_value("farfield_webhooks_total", {"detector": "fans", "outcome": "failed"}) == 2
    figures.refresh({"pumps": {}}, {"pumps": 0})
    assert b"fans" not in generate_latest(registry)
    assert b"pumps" in generate_latest(registry)


# Feedback


def feedback_of(store: Store, **settings: Any) -> Feedback:
    return Feedback(store.connection, Feed(store.connection, Settings(**settings)), Settings(**settings))


def test_marks_are_set_changed_and_taken_back(store: Store, name: str) -> None:
    """Each time that a verdict changes counts; the same again does not."""
    feedback, feed = feedback_of(store), Feed(store.connection, Settings())
    feed.add(name, [entry("a", features=np.ones(4))])
    assert feedback.mark(name, ["a", "b"], "false_alarm") == 2
    assert feedback.mark(name, ["a"], "false_alarm") == 0
    assert feedback.mark(name, ["a"], "confirmed") == 1
    marks = {mark.key: mark for mark in feedback.all(name)}
    assert (marks["a"].verdict, marks["a"].version, marks["a"].score, marks["a"].features.tolist()) == ("confirmed", 1, 9.5, [1.0] * 4)
    assert (marks["b"].verdict, marks["b"].version, marks["b"].features) == ("false_alarm", None, None)
    assert feedback.mark(name, ["b", "nobody"], None) == 1
    assert [mark.key for mark in feedback.all(name)] == ["a"]
    assert feed.counts([name]) == {name: {"false_alarm": 2, "confirmed": 1}}


def test_feedback_is_bounded_in_number_and_time(store: Store, name: str, raw: Any) -> None:
    """Too many are refused as a whole; what is too old goes."""
    feedback = feedback_of(store, feedback_seconds=2)
    long = feedback_of(store)
    keys = [f"k{i}" for i in range(MOST_MARKS)]
    for start in range(0, MOST_MARKS, 1000):
        long._connection.run(
            "put_feedback.lua",
            [f"farfield:{{{name}}}:feedback{part}" for part in ("", ":times")] + [f"farfield:{{{name}}}:outliers:counts"],
            [MOST_MARKS, 1000, "confirmed", *(part for key in keys[start : start + 1000] for part in (key, '{"time": 9e9}'))],
        )
    with pytest.raises(errors.FeedbackFull):
        long.mark(name, ["k0", "new"], "false_alarm")
    assert all(mark.verdict == "confirmed" for mark in long.all(name))
    raw.unlink(f"farfield:{{{name}}}:feedback", f"farfield:{{{name}}}:feedback:times")
    feedback.mark(name, ["old"], "confirmed")
    assert 0 < raw.ttl(f"farfield:{{{name}}}:feedback") <= 2
    eventually(lambda: not feedback.all(name), "too old")


# Over HTTP and on the command line


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    detectors = {"pumps": [FITTED], "screws": [fitted_images()]}
    with served(tmp_path_factory.mktemp("outliers"), detectors, FARFIELD_OUTLIER_INPUTS="true") as running:
        yield running


def fed(here: Served, name: str, key: str) -> dict[str, Any]:
    """The outlier of that key, as soon as it is there."""

    def found() -> dict[str, Any] | None:
        listed = here.client.get(f"/v1/detectors/{name}/outliers").json()["outliers"]
        return next((outlier for outlier in listed if outlier["key"] == key), None)

    return eventually(found, f"an outlier {key}")


def test_from_a_score_to_feedback(here: Served) -> None:
    """A hostile key goes all the way, as it is in JSON, and escaped where it is shown as HTML."""
    answer = here.score("pumps", {"rows": [[0, 0, 0, 0], FAR[0].tolist()], "keys": [1, HOSTILE]})
    assert [result["is_outlier"] for result in answer.json()["results"]] == [False, True]
    told = fed(here, "pumps", HOSTILE)
    assert told["score"] == answer.json()["results"][1]["score"]
    assert told["features"] == FAR[0].tolist()
    (note, *_) = here.client.get("/v1/detectors/pumps/annotations", params={"from": 0}).json()
    assert "<" not in note["text"]
    assert "&lt;script&gt;" in note["text"]
    assert here.client.get("/v1/detectors/pumps/annotations", params={"to": 1000}).json() == []
    said = here.client.post("/v1/detectors/pumps:feedback", json={"keys": [HOSTILE], "verdict": "false_alarm"})
    assert (said.status_code, said.json()) == (200, {"detector": "pumps", "changed": 1})
    (mark,) = here.client.get("/v1/detectors/pumps/feedback").json()["feedback"]
    assert (mark["key"], mark["verdict"], mark["score"], mark["row"]) == (HOSTILE, "false_alarm", told["score"], True)
    line = 'farfield_feedback_total{detector="pumps",verdict="false_alarm"} 1.0'
    eventually(lambda: line in here.client.get("/metrics").text, "counted")


def test_an_image_has_a_thumbnail(here: Served) -> None:
    """Known by the name of its request, as a PNG that can be opened."""
    parts = [("images", (path.name, path.read_bytes(), "image/png")) for path in ODD[:1]]
    answer = here.client.post("/v1/detectors/screws:score?alpha=0.9", files=parts, headers={"X-Request-Id": "shot"})
    assert answer.json()["results"][0]["is_outlier"], answer.text
    told = fed(here, "screws", "shot:0")
    with Image.open(io.BytesIO(base64.b64decode(told["thumbnail"]))) as image:
        assert (image.format, max(image.size)) == ("PNG", 64)  # never enlarged
    refused = here.client.post("/v1/detectors/screws:feedback", json={"keys": ["shot:0"], "verdict": "confirmed", "rows": [[1.0]]})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "#/rows")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"keys": [], "verdict": "confirmed"}, "#/keys"),
        ({"keys": ["a"] * 1001, "verdict": "confirmed"}, "#/keys"),
        ({"keys": ["a"], "verdict": "perhaps"}, "#/verdict"),
        ({"keys": ["a"]}, "#/verdict"),
        ({"keys": ["a", "b\n"], "verdict": None}, "#/keys/1"),
        ({"keys": ["\ud800"], "verdict": None}, "#/keys/0"),
        ({"keys": ["k" * 257], "verdict": None}, "#/keys/0"),
        ({"keys": [True], "verdict": None}, "#/keys/0"),
        ({"keys": ["a"], "verdict": None, "rows": [[1, 2]]}, "#/rows"),
        ({"keys": ["a"], "verdict": None, "rows": [[1, 2, 3, "x"]]}, "#/rows/0/3"),
        ({"keys": ["a"], "verdict": None, "more": 1}, "#/more"),
    ],
)
def test_bad_feedback_is_refused_at_its_place(here: Served, body: dict[str, Any], pointer: str) -> None:
    """And nothing of it is kept."""
    answer = here.client.post("/v1/detectors/pumps:feedback", content=json.dumps(body), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)
    assert {mark["key"] for mark in here.client.get("/v1/detectors/pumps/feedback").json()["feedback"]} <= {HOSTILE}


@pytest.mark.parametrize(
    ("keys", "pointer"),
    [
        (["a"], "#/keys"),
        ("a", "#/keys"),
        (["a", ""], "#/keys/1"),
        (["a", 1.5], "#/keys/1"),
        (["\u001b[2J", "b"], "#/keys/0"),
        ({}, "#/keys"),
    ],
)
def test_bad_keys_are_refused_at_their_place(here: Served, keys: Any, pointer: str) -> None:
    answer = here.score("pumps", {"rows": [[0, 0, 0, 0]] * 2, "keys": keys})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)


@pytest.mark.parametrize("query", ["count=0", "count=1001", "before=1", "before=1-x"])
def test_bad_queries_are_refused(here: Served, query: str) -> None:
    answer = here.client.get(f"/v1/detectors/pumps/outliers?{query}")
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, query.partition("=")[0])


@pytest.mark.parametrize("path", ["outliers", "annotations", "feedback"])
def test_of_a_detector_that_there_is_not_nothing_is_told(here: Served, path: str) -> None:
    answer = here.client.get(f"/v1/detectors/nobody/{path}")
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:farfield:problem:unknown-detector")


def command(here: Served, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--store", here.store_url])


def test_from_feedback_to_a_version_on_the_command_line(here: Served, tmp_path: Path) -> None:
    """A false alarm with its row makes a version that is calibrated by one row more; wrong use ends with one clear line."""
    np.save(tmp_path / "row.npy", np.full((1, 4), 2.5))
    assert command(here, "feedback", "pumps", "x1", "--verdict", "false_alarm", "--data", str(tmp_path / "row.npy")).exit_code == 0
    listed = json.loads(command(here, "feedback", "pumps", "--json").stdout)
    assert {mark["key"]: mark["row"] for mark in listed}["x1"]
    made = command(here, "calibrate", "pumps:1", "--with-feedback", "--alias", "careful", "--json")
    assert made.exit_code == 0, made.output
    result = json.loads(made.stdout)
    assert (result["parent"], result["alias"]) == (1, "careful")
    assert result["n_calibration"] == 60 + result["false_alarms"]
    assert here.score("pumps@careful", [[2.5] * 4]).json()["results"][0]["p_value"] > 1 / 61
    for words in (("calibrate", "pumps"), ("feedback", "pumps", "x1"), ("outliers", "nobody"), ("calibrate", "screws", "--with-feedback")):
        refused = command(here, *words)
        assert (refused.exit_code, refused.output.count("\n")) == (1, 1), refused.output


def test_scoring_goes_on_without_the_store(
    redis_server: RedisServer, redis_url: str, service_process: Callable[..., ServiceProcess]
) -> None:
    """Outliers of meanwhile are in the feed afterwards; the feed itself says that the store is away."""
    with Store.open(redis_url) as store:
        publish_fitted(store, "pumps", FITTED)
    service = service_process(redis_url, FARFIELD_STORE_TIMEOUT="0.1")
    redis_server.freeze()
    for turn in range(5):
        body = {"rows": FAR.tolist(), "keys": [f"{turn}-{i}" for i in range(3)]}
        assert httpx2.post(f"{service.url}/v1/detectors/pumps:score", json=body, timeout=30).status_code == 200
    away = httpx2.get(f"{service.url}/v1/detectors/pumps/outliers", timeout=30)
    assert (away.status_code, away.json()["type"]) == (503, "urn:farfield:problem:store-unavailable")
    redis_server.thaw()
    told = f"{service.url}/v1/detectors/pumps/outliers"
    eventually(lambda: len(httpx2.get(told, timeout=30).json().get("outliers", ())) == 15, "all of them")
