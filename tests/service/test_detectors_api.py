"""Detectors, versions and aliases over HTTP: what is there, where names point, and how they move."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import httpx2
import pytest

from service import engine
from tests.servers import eventually
from tests.service.samples import fitted, publish_fitted
from tests.service.served import Served, fitted_images, rows, served

SCALES = (1.0, 2.0, 4.0)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("api"), {"images": [fitted_images()]}) as service:
        yield service


@pytest.fixture(scope="module")
def versions() -> list[engine.Fitted]:
    return [fitted(scale) for scale in SCALES]


@pytest.fixture
def name(running: Served, versions: list[engine.Fitted], request: pytest.FixtureRequest) -> str:
    """A detector with three versions, of this test alone."""
    name = request.node.name.split("[")[0].removeprefix("test_").replace("_", "-")[:60]
    for version in versions:
        publish_fitted(running.store, name, version)
    return name


class Api:
    """The requests of these tests, about one detector."""

    def __init__(self, running: Served, name: str) -> None:
        self.client, self.root, self.served, self.name = running.client, f"/v1/detectors/{name}", running, name

    def get(self, path: str = "") -> Any:
        answer = self.client.get(self.root + path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def put(self, alias: str, version: int, **more: int) -> httpx2.Response:
        return self.client.put(f"{self.root}/aliases/{alias}", json={"version": version, **more})

    def rollback(self, alias: str) -> httpx2.Response:
        return self.client.post(f"{self.root}/aliases/{alias}:rollback")

    def delete(self, path: str) -> httpx2.Response:
        return self.client.delete(self.root + path)

    def scored_by(self, reference: str = "") -> int:
        return int(self.served.score(self.name + reference, rows(2)).json()["version"])


@pytest.fixture
def api(running: Served, name: str) -> Api:
    return Api(running, name)


def refused(answer: httpx2.Response, status: int, kind: str) -> str:
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:farfield:problem:{kind}")
    return str(answer.json()["detail"])


def test_detectors_are_listed(running: Served, api: Api) -> None:
    """Each with its versions, its aliases, and what a request without either is scored by."""
    listed = {item["name"]: item for item in running.client.get("/v1/detectors").json()["detectors"]}
    assert listed[api.name] == {"name": api.name, "versions": [1, 2, 3], "aliases": {}, "default_version": 3}
    api.put("champion", 2)
    assert api.get() == {"name": api.name, "versions": [1, 2, 3], "aliases": {"champion": 2}, "default_version": 2}


def test_detectors_are_listed_a_page_at_a_time(running: Served) -> None:
    """In the order of names, each once, and none that has no version; ``next`` leads on until there is no more."""
    names = [f"paged-{index}" for index in range(7)]
    for name in names:
        publish_fitted(running.store, name, fitted())
    running.client.delete("/v1/detectors/paged-3/versions/1").raise_for_status()
    left, pages, after = [name for name in names if name != "paged-3"], [], ""
    while after is not None:
        answer = running.client.get("/v1/detectors", params={"count": 2, "after": after, "contains": "PAGED-"}).json()
        pages.append([detector["name"] for detector in answer["detectors"]])
        after = answer["next"]
    assert pages == [left[:2], left[2:4], left[4:]]
    whole = running.client.get("/v1/detectors").json()
    assert whole["next"] is None
    assert set(left) <= {detector["name"] for detector in whole["detectors"]}


@pytest.mark.parametrize(("parameter", "value"), [("count", "0"), ("count", "1001"), ("after", "<script>"), ("contains", "x" * 65)])
def test_pages_that_cannot_be_are_refused(running: Served, parameter: str, value: str) -> None:
    """With the name of the parameter."""
    answer = running.client.get("/v1/detectors", params={parameter: value})
    refused(answer, 422, "invalid-input")
    assert answer.json()["errors"][0]["pointer"] == parameter


def test_a_version_tells_what_it_is(api: Api, versions: list[engine.Fitted]) -> None:
    """Type, parameters, sizes, source and time, as they were when it was fitted."""
    api.put("shadow", 2)
    found = api.get("/versions/2")
    assert found["detector"] == api.name
    assert (found["version"], found["aliases"], found["type"], found["alpha"]) == (2, ["shadow"], "gaussian", 0.05)
    assert (found["n_fit"], found["n_calibration"]) == (versions[1].n_fit, 60)
    assert found["parameters"]["covariance"] == "ledoit_wolf"
    assert (found["levels"], found["extractor"], found["parent"]) == ([{"name": "features", "width": 4}], None, None)
    assert found["source"]["rows"] == 300 and len(found["source"]["sha256"]) == 64
    assert found["golden_rows"] > 0 and found["bytes"] > 0
    assert datetime.fromisoformat(found["created"]).tzinfo
    assert found["writer"].startswith("farfield ")
    assert api.get("/versions")["versions"][1] == found
    assert [item["version"] for item in api.get("/versions")["versions"]] == [1, 2, 3]


def test_a_version_of_images_tells_its_extractor(running: Served) -> None:
    """Digest, preprocessing and taps, so that others can make the same features."""
    extractor = Api(running, "images").get("/versions/1")["extractor"]
    assert len(extractor["digest"]) == 64
    assert extractor["taps"] == [{"tensor": "features", "pool": "mean"}]
    assert (extractor["preprocessing"]["height"], extractor["preprocessing"]["layout"]) == (8, "NHWC")


def test_a_promote_is_served_at_once(api: Api) -> None:
    """The answer to the promote says where the alias was; the next request, here, is scored by the new version."""
    eventually(lambda: api.scored_by() == 3, "the latest version serves")
    moved = api.put("champion", 1)
    assert moved.json() == {"detector": api.name, "alias": "champion", "version": 1, "previous": None}
    assert (api.scored_by(), api.scored_by("@champion"), api.scored_by("@latest")) == (1, 1, 3)
    assert api.put("champion", 2).json()["previous"] == 1
    assert (api.scored_by(), api.scored_by("@champion"), api.scored_by("/versions/1")) == (2, 2, 1)


def test_an_alias_moves_only_from_where_it_is_expected(api: Api) -> None:
    """``expected`` makes the move a compare-and-set: 0 stands for "not set", and nothing happens on a difference."""
    assert api.put("champion", 1, expected=0).status_code == 200
    assert "at version 1, though it was expected not to be set" in refused(api.put("champion", 2, expected=0), 409, "alias-moved")
    assert "at version 1, not at version 3" in refused(api.put("champion", 2, expected=3), 409, "alias-moved")
    assert api.get()["aliases"] == {"champion": 1}
    assert api.put("champion", 2, expected=1).json()["previous"] == 1
    assert "not set" in refused(api.put("other", 2, expected=1), 409, "alias-moved")


def test_a_move_that_is_sent_twice_happens_once(api: Api) -> None:
    """The history shows one move; a client that had said from where is told that the alias is there already."""
    api.put("champion", 1)
    assert api.put("champion", 2).json()["previous"] == 1
    assert api.put("champion", 2).json()["previous"] == 2
    assert "is at version 2, not at version 1" in refused(api.put("champion", 2, expected=1), 409, "alias-moved")
    assert [item["version"] for item in api.get("/aliases/champion")["history"]] == [1]


def test_history_and_rollback(api: Api) -> None:
    """The history lists where the alias was, newest first; each rollback takes one step back, until there is none."""
    for version in (1, 2, 3):
        api.put("champion", version)
    found = api.get("/aliases/champion")
    assert (found["version"], [item["version"] for item in found["history"]]) == (3, [2, 1])
    assert all(datetime.fromisoformat(item["until"]) for item in found["history"])
    assert api.rollback("champion").json() == {"detector": api.name, "alias": "champion", "version": 2, "previous": 3}
    assert api.scored_by() == 2
    assert api.rollback("champion").json()["version"] == 1
    assert api.scored_by() == 1
    assert "no earlier version" in refused(api.rollback("champion"), 409, "nothing-to-roll-back")
    assert api.get("/aliases/champion")["history"] == []


def test_a_rollback_passes_over_deleted_versions(api: Api) -> None:
    """What is gone cannot be gone back to."""
    for version in (1, 2, 3):
        api.put("champion", version)
    assert api.delete("/versions/2").status_code == 204
    assert api.rollback("champion").json()["version"] == 1


def test_a_version_in_use_is_not_deleted(api: Api) -> None:
    """409 names the alias; once that has moved the version goes, and later versions keep their numbers."""
    api.put("champion", 1)
    assert "champion" in refused(api.delete("/versions/1"), 409, "version-in-use")
    api.put("champion", 2)
    assert api.delete("/versions/1").status_code == 204
    assert api.get()["versions"] == [2, 3]
    refused(api.client.get(f"{api.root}/versions/1"), 404, "unknown-version")
    refused(api.delete("/versions/1"), 404, "unknown-version")
    refused(api.served.score(f"{api.name}/versions/1", rows(1)), 404, "unknown-version")


def test_a_deleted_version_stops_serving_at_once(api: Api) -> None:
    """Also where it had answered from memory before: the latest is then the one before it."""
    eventually(lambda: api.scored_by() == 3, "what was met while its versions came is looked up again")
    assert api.scored_by("/versions/3") == 3
    assert api.delete("/versions/3").status_code == 204
    refused(api.served.score(f"{api.name}/versions/3", rows(1)), 404, "unknown-version")
    assert (api.scored_by(), api.scored_by("@latest")) == (2, 2)


def test_numbers_are_given_once(api: Api, versions: list[engine.Fitted]) -> None:
    """The number of a deleted version is not given to another."""
    api.delete("/versions/3")
    assert publish_fitted(api.served.store, api.name, versions[0]) == 4


def test_a_detector_without_versions_is_gone(api: Api) -> None:
    """When its last version has been deleted, its name is unknown."""
    for version in (1, 2, 3):
        assert api.delete(f"/versions/{version}").status_code == 204
    refused(api.client.get(api.root), 404, "unknown-detector")
    refused(api.client.get(f"{api.root}/versions"), 404, "unknown-detector")
    refused(api.served.score(api.name, rows(1)), 404, "unknown-detector")
    assert api.name not in [item["name"] for item in api.client.get("/v1/detectors").json()["detectors"]]


def test_an_alias_can_be_removed(api: Api) -> None:
    """Requests by it are then unknown, and the default is the latest version again."""
    api.put("champion", 1)
    assert api.scored_by() == 1
    assert api.delete("/aliases/champion").status_code == 204
    refused(api.delete("/aliases/champion"), 404, "unknown-alias")
    refused(api.client.get(f"{api.root}/aliases/champion"), 404, "unknown-alias")
    refused(api.served.score(f"{api.name}@champion", rows(1)), 404, "unknown-alias")
    assert api.scored_by() == 3


def test_latest_can_be_asked_for_but_not_set(api: Api) -> None:
    """``latest`` always means the highest number."""
    assert api.get("/aliases/latest")["version"] == 3
    refused(api.put("latest", 1), 422, "invalid-input")
    refused(api.delete("/aliases/latest"), 404, "unknown-alias")
    refused(api.rollback("latest"), 404, "unknown-alias")
