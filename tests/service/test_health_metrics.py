"""Whether the service lives and is ready, and what it tells Prometheus."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.store import Store
from tests.servers import Process, RedisServer, ServiceProcess, eventually, free_port, program
from tests.service.samples import fitted, publish_fitted
from tests.service.served import NORMAL, Served, fitted_images, pixels, rows, served

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    detectors = {"rows": [fitted(), fitted(2.0)], "images": [fitted_images()]}
    with served(tmp_path_factory.mktemp("metrics"), detectors) as running:
        yield running


def samples(client: httpx2.Client) -> Samples:
    """All samples of /metrics, by name and labels."""
    text = client.get("/metrics").text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found.get((name, frozenset(labels.items())), 0.0)


def labelled(found: Samples, name: str) -> list[dict[str, str]]:
    return [dict(labels) for metric, labels in found if metric == name]


def grown(before: Samples, after: Samples, name: str, **labels: str) -> float:
    return value(after, name, **labels) - value(before, name, **labels)


def test_live_and_ready(service: Served) -> None:
    """Both answer 200; readyz says which store it is and how many versions are loaded."""
    assert service.client.get("/livez").json() == {"live": True}
    ready = service.client.get("/readyz")
    assert ready.status_code == 200
    body = ready.json()
    assert (body["ready"], body["refused"]) == (True, []) and body["loaded"] >= 2
    assert body["store"].split()[0] in ("Valkey", "Redis")


def test_not_ready_before_the_store_has_answered(tmp_path: Path, service_process: Callable[..., ServiceProcess]) -> None:
    """Without its store the service lives but is not ready, says why, and recovers by itself when the store comes."""
    port = free_port()
    process = service_process(f"redis://127.0.0.1:{port}/0", ready=False)
    assert eventually(lambda: httpx2.get(f"{process.url}/livez", timeout=60), "livez answers").status_code == 200
    answer = httpx2.get(f"{process.url}/readyz", timeout=60)
    assert (answer.status_code, answer.json()["ready"]) == (503, False)
    eventually(lambda: "did not answer" in httpx2.get(f"{process.url}/readyz", timeout=60).json()["store"], "readyz says why")
    refused = httpx2.post(f"{process.url}/v1/detectors/rows:score", json={"rows": [[1, 2, 3, 4]]}, timeout=60)
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:farfield:problem:store-unavailable")
    assert int(refused.headers["retry-after"]) >= 1
    server = RedisServer(tmp_path / "redis", port=port).start()
    try:
        eventually(lambda: httpx2.get(f"{process.url}/readyz", timeout=60).status_code == 200, "ready once the store is there")
        with Store.open(server.url) as store:
            publish_fitted(store, "rows", fitted())
        answer = httpx2.post(f"{process.url}/v1/detectors/rows:score", json={"rows": [[1, 2, 3, 4]]}, timeout=60)
        assert answer.json()["version"] == 1
        with httpx2.Client(base_url=process.url) as client:
            assert value(samples(client), "farfield_store_errors_total") >= 1
    finally:
        server.kill()


def test_counters_count_every_row(service: Served) -> None:
    """Rows and outliers are counted per version, requests by route and status, refused rows not at all."""
    before = samples(service.client)
    flagged = 0
    for count in (1, 10, 500):
        body = service.score("rows/versions/1", 2 * rows(count)).json()
        flagged += sum(result["is_outlier"] for result in body["results"])
    service.score("rows/versions/1", rows(3, width=5))
    after = samples(service.client)
    labels = {"detector": "rows", "version": "1"}
    assert grown(before, after, "farfield_rows_scored_total", **labels) == 511
    assert grown(before, after, "farfield_outliers_total", **labels) == flagged > 0
    route = "/v1/detectors/{name}/versions/{number}:score"
    assert grown(before, after, "farfield_requests_total", route=route, code="200") == 3
    assert grown(before, after, "farfield_requests_total", route=route, code="422") == 1
    assert grown(before, after, "farfield_request_duration_seconds_count", route=route) == 4
    for stage in ("decode", "extract", "score", "encode"):
        assert grown(before, after, "farfield_stage_duration_seconds_count", stage=stage) >= 3


def histogram(found: Samples, name: str, **labels: str) -> list[tuple[float, float]]:
    """Buckets of a histogram, ascending: upper bound and count."""
    buckets = []
    for (metric, pairs), count in found.items():
        given = dict(pairs)
        if metric == f"{name}_bucket" and given.items() >= labels.items():
            buckets.append((float(given["le"]), count))
    return sorted(buckets)


@pytest.mark.parametrize("name", ["farfield_p_value", "farfield_score"])
def test_histograms_are_cumulative(service: Served, name: str) -> None:
    """Counts never fall from bucket to bucket; the last one, +Inf, counts every row, and so does _count."""
    labels = {"detector": "rows", "version": "2"}
    service.score("rows/versions/2", 3 * rows(700))
    found = samples(service.client)
    buckets = histogram(found, name, **labels)
    counts = [count for _, count in buckets]
    assert counts == sorted(counts) and len(buckets) > 5
    assert buckets[-1] == (float("inf"), value(found, "farfield_rows_scored_total", **labels))
    assert value(found, f"{name}_count", **labels) == counts[-1] >= 700


def test_the_histogram_holds_the_scores_of_the_answers(service: Served) -> None:
    """Buckets and sum are those of the very numbers that were answered; a bound belongs to the bucket below it."""
    labels = {"detector": "rows", "version": "1"}
    before = samples(service.client)
    results = service.score("rows/versions/1", 2 * rows(300)).json()["results"]
    after = samples(service.client)
    for name, key in (("farfield_score", "score"), ("farfield_p_value", "p_value")):
        values = [result[key] for result in results]
        assert grown(before, after, f"{name}_sum", **labels) == pytest.approx(sum(values))
        for (bound, then), (_, now) in zip(histogram(before, name, **labels), histogram(after, name, **labels), strict=True):
            assert now - then == sum(value <= bound for value in values)


def test_what_a_version_is_stands_in_gauges(service: Served) -> None:
    """Calibration rows, time of the fit, provider of the extractor, build."""
    service.score("rows/versions/1", rows(1))
    found = samples(service.client)
    assert value(found, "farfield_calibration_rows", detector="rows", version="1") == 60
    assert value(found, "farfield_version_created_timestamp_seconds", detector="rows", version="1") > 1.7e9
    assert value(found, "farfield_extractor_info", detector="images", version="1", provider="CPUExecutionProvider") == 1
    assert len(labelled(found, "farfield_build_info")) == 1


def test_alias_info_follows_a_promote(service: Served) -> None:
    """One series per alias, of the version that it is at now; none of the one before."""
    client = service.client

    def shown() -> list[tuple[str, str]]:
        return [(item["alias"], item["version"]) for item in labelled(samples(client), "farfield_alias_info") if item["detector"] == "rows"]

    for version in (1, 2):
        client.put("/v1/detectors/rows/aliases/champion", json={"version": version})
        assert shown() == [("champion", str(version))]
    service.store.move_alias("rows", "champion", 1)  # by somebody else
    eventually(lambda: shown() == [("champion", "1")], "the promote is seen")
    client.delete("/v1/detectors/rows/aliases/champion")
    assert shown() == []


def test_unknown_names_make_no_series(service: Served) -> None:
    """A scan of 200 paths and names adds no more than the one route for what is unmatched."""
    client = service.client
    before = samples(client)
    for index in range(100):
        client.get(f"/scan/{index}.php")
        client.post(f"/v1/detectors/scan{index}:score", json={"rows": [[1]]})
        client.post(f"/v1/detectors/rows@scan{index}:score", json={"rows": [[1]]})
    after = samples(client)
    routes = {item["route"] for item in labelled(after, "farfield_requests_total")}
    added = routes - {item["route"] for item in labelled(before, "farfield_requests_total")}
    assert added <= {"unmatched", "/v1/detectors/{name}:score", "/v1/detectors/{name}@{alias}:score"}
    assert not any("scan" in str(labels) for _, labels in after)
    assert grown(before, after, "farfield_requests_total", route="unmatched", code="404") == 100


@pytest.mark.parametrize("name", ['rows"} 1\nfarfield_ready 0\n#', "rows\\", "<script>alert(1)</script>", "x" * 65, "zähler"])
def test_a_hostile_name_makes_no_series(service: Served, name: str) -> None:
    """Whatever is asked of it, and nothing breaks out of a label: the text is read as before."""
    path = quote(name, safe="")
    for ending in (":score", ":feedback", ":fit", ":update"):
        assert service.client.post(f"/v1/detectors/{path}{ending}", json={"rows": [[1]]}).status_code in {404, 422}
    assert service.client.post(f"/v2/models/{path}/infer", json={}).status_code in {400, 404}
    found = samples(service.client)
    assert {dict(labels).get("detector") for _, labels in found} == {None, "rows", "images"}
    assert not [labels for _, labels in found if name in dict(labels).values()]


def test_series_go_with_their_version(tmp_path: Path) -> None:
    """A version that makes room for another takes its series with it."""
    with served(tmp_path, {"rows": [fitted(), fitted(2.0)]}, FARFIELD_MAX_LOADED_VERSIONS="1") as service:
        for number in (1, 2):
            assert service.score(f"rows/versions/{number}", rows(5)).status_code == 200
            found = samples(service.client)
            assert {dict(labels)["version"] for _, labels in found if "detector" in dict(labels)} == {str(number)}
            assert value(found, "farfield_p_value_count", detector="rows", version=str(number)) == 5


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0"])
def test_both_text_forms(service: Served, accept: str) -> None:
    """The form is the one asked for."""
    answer = service.client.get("/metrics", headers={"accept": accept})
    assert answer.headers["content-type"].startswith(accept.partition(";")[0])
    assert answer.text.endswith("# EOF\n") == accept.startswith("application")


def test_promtool_has_no_complaint(service: Served) -> None:
    """Names, help and types of all metrics are as Prometheus' own linter wants them."""
    service.score("rows", rows(5))
    text = service.client.get("/metrics").text
    checked = subprocess.run([program("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, timeout=60)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_a_real_prometheus_counts_the_rows(service: Served, tmp_path: Path) -> None:
    """Prometheus scrapes the service and answers a query with the number of rows that were scored."""
    port = free_port()
    target = service.process.url.removeprefix("http://")
    config = {"scrape_configs": [{"job_name": "farfield", "scrape_interval": "1s", "static_configs": [{"targets": [target]}]}]}
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))
    command = [
        program("prometheus"),
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    prometheus = Process(command, tmp_path / "prometheus")
    prometheus.spawn()
    try:
        service.score("images", pixels(NORMAL[:7]))
        expected = value(samples(service.client), "farfield_rows_scored_total", detector="images", version="1")

        def counted() -> bool:
            found = query(port, 'farfield_rows_scored_total{detector="images",version="1"}')
            return found == [expected]

        eventually(counted, "Prometheus has scraped the rows")
        assert query(port, 'farfield_p_value_bucket{detector="images",le="+Inf"}') == [expected]
        assert query(port, "up") == [1.0]
    finally:
        prometheus.kill()


def query(port: int, expression: str) -> list[float]:
    try:
        answer = httpx2.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": expression}, timeout=5)
    except httpx2.HTTPError:
        return []
    if answer.status_code != 200:
        return []
    return [float(item["value"][1]) for item in answer.json()["data"]["result"]]
