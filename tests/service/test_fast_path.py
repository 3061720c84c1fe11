"""The short way of small requests: past FastAPI's routing, on the event loop, their values counted later; and who does not take it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from service import archive
from service.direct import Direct
from service.distribution import MOST_UNCOUNTED, Distribution
from service.manifest import Source
from service.protocol import routes as protocol
from service.scoring import routes as score_routes
from service.versions import Loaded
from tests.service.samples import fitted
from tests.service.served import NPY, Served, npy, rows, served


async def nothing(*_: Any) -> Any:
    raise AssertionError("nobody listens to the caller, and nothing goes on to FastAPI")


DIRECT = Direct(nothing, [*score_routes.DIRECT, *protocol.DIRECT])
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
