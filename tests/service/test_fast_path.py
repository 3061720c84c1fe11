"""The short way of small requests: past FastAPI's routing, on the event loop, their values counted later; and who does not take it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from service import archive, errors
from service.direct import Direct
from service.distribution import MOST_UNCOUNTED, Distribution
from service.manifest import Source
from service.protocol import routes as protocol
from service.protocol import scoring as protocol_scoring
from service.protocol.envelope import Body
from service.schemas import Options
from service.scoring import routes as score_routes
from service.scoring import scoring
from service.scoring.callers import Caller
from service.scoring.judging import INLINE_PRODUCTS, little
from service.scoring.work import judged
from service.settings import Settings
from service.versions import Loaded
from tests.service.samples import fitted
from tests.service.served import NPY, Served, npy, rows, served


async def nothing(*_: Any) -> Any:
    raise AssertionError("nobody listens to the caller, and nothing goes on to FastAPI")


DIRECT = Direct(nothing, [*score_routes.DIRECT, *protocol.DIRECT])
SETTINGS = Settings(device="cpu")
LABELS = ("pumps", "1")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("fast"), {"pumps": [fitted()]}) as running:
        running.store.move_alias("pumps", "champion", 1)
        yield running


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    version = fitted()
    manifest, _ = archive.pack(version, "pumps", Source(name="rows", rows=1, sha256="0" * 64))
    return Loaded("pumps", 1, manifest, version)


def taken(path: str, query: str = "") -> tuple[str, dict[str, str]] | None:
    """Template and parts of the path of the direct route that takes a POST."""
    found = DIRECT.find(path, query.encode())
    return found and (found[0].path, dict(found[1]))


@pytest.mark.parametrize(
    ("path", "query", "parts"),
    [
        ("/v1/detectors/pumps:score", "", {"name": "pumps"}),
        ("/v1/detectors/pumps:score", "alpha=0.01&fdr=true", {"name": "pumps"}),
        ("/v1/detectors/pumps@champion:score", "", {"name": "pumps", "alias": "champion"}),
        ("/v1/detectors/pumps/versions/12:score", "", {"name": "pumps", "number": "12"}),
        ("/v2/models/pumps/infer", "", {"name": "pumps"}),
        ("/v2/models/pumps/infer", "alpha=junk", {"name": "pumps"}),
        ("/v2/models/pumps/versions/champion/infer", "", {"name": "pumps", "version": "champion"}),
    ],
)
def test_a_plain_request_is_taken_by_one_route(path: str, query: str, parts: dict[str, str]) -> None:
    found = taken(path, query)
    assert found is not None and found[1] == parts and found[0].format(**parts) == path


UNUSUAL = [
    ("GET", "/v1/detectors/pumps/versions/1:score", "", 422),
    ("POST", "/v1/detectors/pumps:score", "alpha=2e", 422),
    ("POST", "/v1/detectors/pumps:score", "alpa=0.1", 422),
    ("POST", "/v1/detectors/pumps@1:score", "", 422),
    ("POST", "/v1/detectors/pumps/versions/0:score", "", 422),
    ("POST", "/v1/detectors/pumps/versions/1:score", "alpha", 422),
    ("POST", "/v1/detectors/-pumps:score", "", 422),
    ("POST", "/v1/detectors/pumps:scores", "", 405),
    ("GET", "/v2/models/pumps/infer", "", 405),
    ("POST", "/v2/models/-pumps/infer", "", 400),
    ("POST", "/v2/models/pumps/versions/1.5/infer", "", 400),
]


@pytest.mark.parametrize(("method", "path", "query", "status"), UNUSUAL)
def test_all_else_goes_on_to_be_refused_in_words(service: Served, method: str, path: str, query: str, status: int) -> None:
    assert method != "POST" or taken(path, query) is None
    answer = service.client.request(method, f"{path}?{query}", content=npy(rows(1)), headers={"content-type": NPY})
    assert answer.status_code == status, answer.text
    assert answer.json().get("detail") or answer.json()["error"]


def test_requests_are_counted_by_the_template_of_their_route(service: Served) -> None:
    body = json.dumps({"inputs": [{"name": "rows", "shape": [1, 4], "datatype": "FP64", "data": [0.1, 0.2, 0.3, 0.4]}]})
    assert service.score("pumps@champion", rows(1)).status_code == 200
    assert service.client.post("/v2/models/pumps/versions/1/infer", content=body).status_code == 200
    metrics = service.client.get("/metrics").text
    for template in ("/v1/detectors/{name}@{alias}:score", "/v2/models/{name}/versions/{version}/infer"):
        assert f'farfield_requests_total{{code="200",route="{template}"}} 1.0' in metrics


def native(body: bytes, encoding: str = "", **options: Any) -> scoring.Task:
    return scoring.Task("npy", body, encoding, Options(**options), "application/json", Caller(nothing))


def inference(count: int, encoding: str = "", outputs: tuple[str, ...] = ()) -> protocol_scoring.Task[Any]:
    given = {"name": "rows", "shape": [count, 4], "datatype": "FP64", "data": rows(count).ravel().tolist()}
    body = json.dumps({"inputs": [given], "outputs": [{"name": name} for name in outputs]} if outputs else {"inputs": [given]}).encode()
    return protocol_scoring.Task(Body(gzip.compress(body) if encoding else body, encoding, None, ""), Caller(nothing), 0.0)


def test_only_what_is_small_is_scored_at_once(loaded: Loaded) -> None:
    """By both interfaces; what is compressed or asks for shares is not, nor many rows, nor a large body."""
    large = scoring.INLINE_BYTES // (8 * 4)
    small = [native(npy(rows(5))), inference(5), inference(5, outputs=("score",))]
    others = [
        native(npy(rows(large))),
        native(gzip.compress(npy(rows(5))), "gzip"),
        native(npy(rows(5)), attribute=2),
        inference(large),
        inference(5, "gzip"),
        inference(5, outputs=("score", "attribution")),
    ]
    assert [task.at_once(loaded, SETTINGS) for task in (*small, *others)] == [True] * 3 + [False] * 6
    state = sum(blob.size for name, blob in loaded.manifest.blobs.items() if name.startswith("state"))
    most = 8 * INLINE_PRODUCTS // state
    assert little(loaded, most) and not little(loaded, most + 1)


def test_a_request_that_is_wrong_is_refused_before_it_is_scored(loaded: Loaded) -> None:
    with pytest.raises(errors.InvalidInput, match="no output 'scores'"):
        inference(5, outputs=("scores",)).at_once(loaded, SETTINGS)


def test_a_request_is_looked_into_once(loaded: Loaded) -> None:
    task = inference(3)
    assert task.at_once(loaded, SETTINGS)
    batch = task.batch
    inferred, verdicts = judged(loaded, task, SETTINGS)
    assert task.batch is batch is not None and len(verdicts.scores) == 3
    assert json.loads(inferred.answer.body)["outputs"][0]["data"] == verdicts.scores.tolist()
    assert verdicts.seconds.keys() == {"decode", "extract", "score", "encode"}


def test_a_histogram_is_the_same_however_its_values_came() -> None:
    """One by one across the number that may wait, in one batch, and looked at in between."""
    values = np.random.default_rng(0).integers(0, 40, MOST_UNCOUNTED + 7) / 8
    edges = np.array([1.0, 2.0, 4.0])

    def collected(*batches: Any, look: int) -> Any:
        distribution, registry = Distribution("farfield_score", "Scores.", ("detector", "version")), CollectorRegistry()
        registry.register(distribution)
        distribution.declare(LABELS, edges)
        for number, batch in enumerate(batches):
            distribution.observe(LABELS, batch)
            if number == look:
                list(registry.collect())
        return [(sample.name, sample.labels, sample.value) for metric in registry.collect() for sample in metric.samples]

    expected = [int((values <= edge).sum()) for edge in (*edges, np.inf)]
    whole = collected(values, look=-1)
    assert [value for name, _, value in whole if name.endswith("_bucket")] == expected
    assert [value for name, _, value in whole if name.endswith("_sum")] == [values.sum()]
    assert collected(*np.split(values, len(values)), look=5) == collected(*np.array_split(values, 3), look=1) == whole


def test_values_of_what_is_unloaded_go_nowhere() -> None:
    distribution = Distribution("farfield_score", "Scores.", ("detector", "version"))
    distribution.declare(LABELS, np.array([1.0]))
    distribution.observe(LABELS, np.ones(3))
    distribution.forget(LABELS)
    distribution.observe(LABELS, np.ones(3))
    assert [metric.samples for metric in distribution.collect()] == [[]]
