"""Shadows: the same rows by two versions, compared beside the path of requests, which they neither slow nor fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from service import engine, errors
from service.features import Batch
from service.metrics import Metrics
from service.outliers.figures import OutlierFigures
from service.outliers.shadow import MOST_ROWS, Setting, Shadows
from service.settings import Settings
from service.store import Store
from service.verdicts import Verdicts
from service.versions import Versions
from tests.servers import eventually
from tests.service.samples import fitted, publish_fitted
from tests.service.served import rows, served

WIDE, NARROW = fitted(2.0), fitted(1.0)
BATCH = rows(400, seed=3) * 1.5


class Process:
    """The part of a process that compares."""

    def __init__(self, store: Store) -> None:
        self.versions = Versions(store, Settings(), Metrics())
        self.registry = CollectorRegistry()
        self.shadows = Shadows(store.connection, self.versions, OutlierFigures(self.registry), seed=1)

    def see(self, name: str, batch: Any = BATCH) -> Verdicts:
        loaded = self.versions.get(name, "champion")
        verdicts = engine.score(loaded.fitted, Batch(rows=batch))
        self.shadows.observe(loaded, verdicts, None)
        return verdicts

    def told(self, metric: str, **labels: str) -> float:
        return self.registry.get_sample_value(metric, labels) or 0.0


@pytest.fixture
def process(embedded_store: Store) -> Process:
    for alias, version in (("champion", NARROW), ("challenger", WIDE)):
        embedded_store.move_alias("pumps", alias, publish_fitted(embedded_store, "pumps", version))
    return Process(embedded_store)


def test_what_is_compared_is_what_both_answer(process: Process) -> None:
    """Rows by who calls them outliers and the differences of p-values, as counted by hand, in the answer and in the metrics."""
    process.shadows.put("pumps", Setting("champion", "challenger", 1.0))
    process.see("pumps")
    process.shadows.work()
    one, other = (engine.score(version, Batch(rows=BATCH)).p_values for version in (NARROW, WIDE))
    expected = {
        "both": int(((one <= 0.05) & (other <= 0.05)).sum()),
        "neither": int(((one > 0.05) & (other > 0.05)).sum()),
        "version": int(((one <= 0.05) & (other > 0.05)).sum()),
        "shadow": int(((one > 0.05) & (other <= 0.05)).sum()),
    }
    assert expected["version"] > 0 < expected["neither"]
    _, pair = process.shadows.get("pumps")
    assert pair is not None
    assert pair.compared.rows == expected
    assert pair.compared.difference == pytest.approx(np.abs(one - other).sum())
    labels = {"detector": "pumps", "version": "1", "shadow": "2"}
    assert {what: process.told("farfield_shadow_rows_total", **labels, outlier=what) for what in expected} == expected
    assert process.told("farfield_shadow_p_value_difference_count", **labels) == 400
    assert process.told("farfield_shadow_p_value_difference_sum", **labels) == pytest.approx(np.abs(one - other).sum())


def test_what_may_be_counted_is_0_from_when_a_shadow_is_set(process: Process) -> None:
    """So that Prometheus sees the first one come; before that there is no series."""
    told = ("farfield_shadow_rows_total", "outlier", ("both", "neither", "version", "shadow"))
    dropped = ("farfield_shadow_dropped_rows_total", "reason", ("busy", "failed"))
    assert b'detector="pumps"' not in generate_latest(process.registry)
    process.shadows.put("pumps", Setting("champion", "challenger", 1.0))
    for (metric, label, values), pair in ((told, {"version": "1", "shadow": "2"}), (dropped, {})):
        assert [process.registry.get_sample_value(metric, {"detector": "pumps", label: value, **pair}) for value in values] == [0] * len(
            values
        )
    count = process.registry.get_sample_value(
        "farfield_shadow_p_value_difference_count", {"detector": "pumps", "version": "1", "shadow": "2"}
    )
    assert count == 0


def test_a_share_of_the_rows_is_drawn(process: Process) -> None:
    """By chance, and not the first ones; a version that the alias does not mean is left alone."""
    process.shadows.put("pumps", Setting("champion", "challenger", 0.25))
    for _ in range(4):
        process.see("pumps")
    other = process.versions.get("pumps", "challenger")
    process.shadows.observe(other, engine.score(other.fitted, Batch(rows=BATCH)), None)
    process.shadows.work()
    _, pair = process.shadows.get("pumps")
    assert pair is not None
    assert 330 <= sum(pair.compared.rows.values()) <= 470


def test_a_busy_shadow_drops_rows(process: Process) -> None:
    """What waits is bounded, whatever comes; the rest is counted as dropped."""
    process.shadows.put("pumps", Setting("champion", "challenger", 1.0))
    for _ in range(20):
        process.see("pumps")
    process.shadows.work()
    _, pair = process.shadows.get("pumps")
    assert pair is not None
    compared = sum(pair.compared.rows.values())
    assert compared == MOST_ROWS // 400 * 400
    assert process.told("farfield_shadow_dropped_rows_total", detector="pumps", reason="busy") == 8000 - compared


def test_a_shadow_that_cannot_score_is_counted(process: Process, embedded_store: Store) -> None:
    """As one of another width: the rows are dropped, and nothing else happens."""
    embedded_store.move_alias("pumps", "challenger", publish_fitted(embedded_store, "pumps", fitted(width=3)))
    process.shadows.put("pumps", Setting("champion", "challenger", 1.0))
    process.see("pumps")
    process.shadows.work()
    assert process.told("farfield_shadow_dropped_rows_total", detector="pumps", reason="failed") == 400


def test_a_moved_alias_begins_anew(process: Process, embedded_store: Store) -> None:
    """Another pair of versions has figures of its own, those of the old one go; where both mean one version nothing is compared."""
    process.shadows.put("pumps", Setting("champion", "challenger", 1.0))
    process.see("pumps")
    process.shadows.work()
    embedded_store.move_alias("pumps", "challenger", publish_fitted(embedded_store, "pumps", fitted(3.0)))
    process.versions.refresh()
    process.shadows.refresh(["pumps"])
    assert b'shadow="2"' not in generate_latest(process.registry)
    _, pair = process.shadows.get("pumps")
    assert pair is not None
    assert (pair.shadow.number, sum(pair.compared.rows.values())) == (3, 0)
    embedded_store.move_alias("pumps", "champion", 3)
    process.versions.refresh()
    process.shadows.refresh(["pumps"])
    assert process.shadows.get("pumps")[1] is None


def test_a_setting_holds_in_every_process(process: Process, embedded_store: Store) -> None:
    """Another process takes it up at its next look, and drops it when it is deleted."""
    other = Process(embedded_store)
    process.shadows.put("pumps", Setting("champion", "challenger", 1.0))
    other.shadows.refresh(["pumps"])
    assert other.shadows.get("pumps")[1] is not None
    process.shadows.delete("pumps")
    other.shadows.refresh(["pumps"])
    other.see("pumps")
    other.shadows.work()
    assert b"farfield_shadow_rows_total{" not in generate_latest(other.registry)
    for refused in (other.shadows.get, other.shadows.delete):
        with pytest.raises(errors.UnknownShadow):
            refused("pumps")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder: Path = tmp_path_factory.mktemp("shadow")
    with served(folder, {"pumps": [NARROW, WIDE]}) as running:
        for alias, number in (("champion", 1), ("challenger", 2)):
            running.client.put(f"/v1/detectors/pumps/aliases/{alias}", json={"version": number}).raise_for_status()
        yield running.client


def test_over_http(client: Any) -> None:
    """Set, scored, compared and ended; the answers are those of the version, shadow or not."""
    url = "/v1/detectors/pumps/shadow"
    assert client.get(url).status_code == 404
    body = {"alias": "champion", "shadow": "challenger", "share": 1.0}
    assert client.put(url, json=body).json()["compared"]["rows"] == 0
    answer = client.post("/v1/detectors/pumps:score", json={"rows": BATCH.tolist()}).json()
    assert answer["version"] == 1
    eventually(lambda: client.get(url).json()["compared"]["rows"] == 400, "all of them")
    told = client.get(url).json()["compared"]
    assert told["both"] + told["only_version"] == sum(result["is_outlier"] for result in answer["results"])
    assert 0 < told["agreement"] < 1
    assert 'farfield_shadow_rows_total{detector="pumps"' in client.get("/metrics").text
    assert (client.delete(url).status_code, client.delete(url).status_code) == (204, 404)


@pytest.mark.parametrize(
    ("body", "status", "where"),
    [
        ({"alias": "champion", "shadow": "champion"}, 422, "#/shadow"),
        ({"alias": "champion", "shadow": "challenger", "share": 0}, 422, "#/share"),
        ({"alias": "champion", "shadow": "challenger", "share": 1.5}, 422, "#/share"),
        ({"alias": "champion"}, 422, "#/shadow"),
        ({"alias": "champion", "shadow": "<script>"}, 422, "#/shadow"),
        ({"alias": "champion", "shadow": "nobody"}, 404, None),
    ],
)
def test_a_shadow_that_compares_nothing_is_refused(client: Any, body: dict[str, Any], status: int, where: str | None) -> None:
    answer = client.put("/v1/detectors/pumps/shadow", json=body)
    assert answer.status_code == status
    assert where is None or answer.json()["errors"][0]["pointer"] == where
    assert client.get("/v1/detectors/pumps/shadow").status_code == 404
