"""Dashboards and rules: made by the code that is here, in the form that Grafana has, and answered by a real Prometheus.

No Grafana server was to be had where farfield is developed: what one does with the dashboards is not tested.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import pytest
import yaml

from service.metrics import Metrics
from service.outliers.shadow import MOST_ROWS
from tests.servers import Process, ServiceProcess, eventually, free_port, program
from tests.service.receiving import LOOPBACK, SECRET, Receiver
from tests.service.samples import fitted
from tests.service.served import NORMAL, Served, fitted_images, pixels, rows, served

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
CASES = [ROOT / "tests" / "deploy" / name for name in ("rules.yml", "rules_by_day.yml")]
BOARDS = {path.stem: json.loads(path.read_text()) for path in sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))}
SCHEMA = json.loads((ROOT / "tests" / "deploy" / "grafana.schema.json").read_text())
GROUPS = yaml.safe_load(RULES.read_text())["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}
RECORDS = {rule["record"]: rule["expr"] for group in GROUPS for rule in group["rules"] if "record" in rule}
ANY = {"job": ".*", "detector": "rows", "version": ".*", "replica": ".*"}

LOST = (("farfield_outliers_dropped_total", ""), ("farfield_shadow_dropped_rows_total", ", reason=`busy`"))

by_board = pytest.mark.parametrize("board", BOARDS.values(), ids=list(BOARDS))


def panels(board: Any) -> list[Any]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries(board: Any) -> list[str]:
    """Of panels and annotations."""
    return [target["expr"] for panel in panels(board) for target in panel["targets"]] + [event["expr"] for event in events(board)]


def events(board: Any) -> list[Any]:
    return board.get("annotations", {}).get("list", [])


def filled(expression: str, **values: str) -> str:
    """A query as Grafana sends it: in ``${name:regex}`` a value escaped for a regular expression, ``.*`` where all are chosen."""
    for name, value in (ANY | values).items():
        escaped = value if value == ".*" else re.sub(r"[\\^$*+?.()|\[\]{}/]", r"\\\g<0>", value)
        expression = expression.replace(f"${{{name}:regex}}", escaped)
    return expression.replace("$__rate_interval", "5s").replace("$__range", "1m")


def named_metrics(text: str) -> set[str]:
    return set(re.findall(r"\b(?:job\w*:)?farfield_[\w:]+", text))


# As files


def test_the_code_makes_what_is_checked_in(tmp_path: Path) -> None:
    """``make dashboards`` changes no byte."""
    subprocess.run([sys.executable, "-B", "-m", "deploy.grafana", str(tmp_path)], cwd=ROOT, check=True)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in (DEPLOY / "grafana" / "dashboards").iterdir()}


def complaints(board: Any) -> list[str]:
    """What Grafana's own schemas have against a dashboard, its panels' options and their fields.

    They know no query of an annotation, which is for each data source to define.
    """
    bare = [{name: value for name, value in event.items() if name != "expr"} for event in events(board)]
    found = list(jsonschema.Draft7Validator(SCHEMA["dashboard"]).iter_errors(board | {"annotations": {"list": bare}}))
    for panel in panels(board):
        schemas = SCHEMA["panels"][panel["type"]]
        found += jsonschema.Draft7Validator(schemas["options"]).iter_errors(panel["options"])
        if "custom" in schemas:
            found += jsonschema.Draft7Validator(schemas["custom"]).iter_errors(panel["fieldConfig"]["defaults"].get("custom", {}))
    return [error.message for error in found]


@by_board
def test_grafanas_schema_has_no_complaint(board: Any) -> None:
    assert complaints(board) == []


@pytest.mark.parametrize("damage", ["dashboard", "panel", "option", "field"])
def test_grafanas_schema_finds_what_is_wrong(damage: str) -> None:
    """A word that is none, at each level, and a text where a number belongs."""
    board = json.loads(json.dumps(BOARDS["detector"]))
    panel = next(panel for panel in panels(board) if panel["type"] == "timeseries")
    {"dashboard": board, "panel": panel, "option": panel["options"], "field": panel["fieldConfig"]["defaults"]["custom"]}[damage][
        "titel"
    ] = 1
    assert complaints(board)


@by_board
def test_panels_explain_themselves(board: Any) -> None:
    """Each has a title of its own, a description, a unit and thresholds, and asks the data source that is chosen."""
    assert len({panel["title"] for panel in panels(board)}) == len(panels(board)) > 5
    for panel in panels(board):
        defaults = panel["fieldConfig"]["defaults"]
        assert panel["description"].endswith(".")
        assert defaults["unit"]
        assert defaults["thresholds"]["steps"][0] == {"value": None, "color": "green"}
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
    assert all(event["enable"] and event["datasource"]["uid"] == "${datasource}" for event in events(board))


def test_dashboards_can_be_told_apart_and_chosen_from() -> None:
    """Each has a uid and the variables that the plan names."""
    assert {board["uid"] for board in BOARDS.values()} == {"farfield-fleet", "farfield-detector", "farfield-internals"}
    names = {uid: [variable["name"] for variable in board["templating"]["list"]] for uid, board in BOARDS.items()}
    assert names["detector"] == ["datasource", "job", "detector", "version", "replica"]
    assert all({"datasource", "job", "replica"} <= set(found) for found in names.values())


def test_metrics_that_are_named_exist() -> None:
    """In queries, variables and rules: what the service tells, or a rule records."""
    families = list(Metrics().registry.collect())
    told = {f"{family.name}{suffix}" for family in families for suffix in ("", "_total", "_info", "_bucket", "_count", "_sum")}
    asked = [query for board in BOARDS.values() for query in queries(board)]
    asked += [
        variable["query"]["query"] for board in BOARDS.values() for variable in board["templating"]["list"] if variable["type"] == "query"
    ]
    asked += [rule["expr"] for group in GROUPS for rule in group["rules"]]
    assert set().union(*map(named_metrics, asked)) <= told | set(RECORDS)


def test_provisioning_fits_compose() -> None:
    """Dashboards are looked for where compose puts them, data where its Prometheus is, as often as that scrapes."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/farfield.yaml").read_text())["providers"][0]
    mounts = dict(volume.split(":")[:2] for volume in compose["grafana"]["volumes"])
    assert provider["options"]["path"] == mounts["./deploy/grafana/dashboards"]
    assert mounts["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"][0]
    assert (source["url"], "prometheus" in compose) == ("http://prometheus:9090", True)
    scraping = yaml.safe_load((DEPLOY / "prometheus/compose.yml").read_text())
    assert source["jsonData"]["timeInterval"] == scraping["global"]["scrape_interval"]
    assert RULES.match(str(RULES.parent / scraping["rule_files"][0]))


def test_alerts_lead_to_the_runbook() -> None:
    """Each says what is the matter and links to a section of its own; there is no section too many."""
    page = (ROOT / "docs/monitoring.md").read_text()
    for name, alert in ALERTS.items():
        assert alert["labels"]["severity"] in {"info", "warning", "critical"}
        assert alert["annotations"]["summary"] and alert["annotations"]["description"].endswith(".")
        assert alert["annotations"]["runbook_url"] == f"docs/monitoring.md#{name.lower()}"
    assert set(re.findall(r"^#+ (Farfield\w+)$", page, re.MULTILINE)) == set(ALERTS)


def test_promtool_has_no_complaint() -> None:
    checked = subprocess.run(
        [program("promtool"), "check", "rules", "--lint=all", "--lint-fatal", str(RULES)], capture_output=True, text=True
    )
    assert (checked.returncode, f"{len(ALERTS) + len(RECORDS)} rules found" in checked.stdout) == (0, True), checked


def test_alerts_fire_when_they_should_and_only_then() -> None:
    """Prometheus' own tests of the rules, of which there are a firing and a silent one for each alert."""
    tested = subprocess.run([program("promtool"), "test", "rules", *map(str, CASES)], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    cases = [case for path in CASES for test in yaml.safe_load(path.read_text())["tests"] for case in test["alert_rule_test"]]
    for fires in (True, False):
        assert {case["alertname"] for case in cases if bool(case.get("exp_alerts")) == fires} == set(ALERTS)


# On a real Prometheus


@dataclass(frozen=True)
class Prometheus:
    """One that scrapes two replicas under load, with the rules that are here."""

    url: str

    def get(self, path: str, **parameters: str) -> Any:
        return httpx2.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=10).json()

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Series and values, those left out that are no number."""
        answer = self.get("query", query=expression)
        assert answer["status"] == "success", (expression, answer)
        found = [(one["metric"], float(one["value"][1])) for one in answer["data"]["result"]]
        return [(labels, value) for labels, value in found if not math.isnan(value)]

    def eventually(self, expression: str) -> list[tuple[dict[str, str], float]]:
        return eventually(lambda: self.query(expression), f"data for {expression}")


def load(service: Served, replica: httpx2.Client, stop: threading.Event) -> None:
    """Normal rows, drifted rows for one version, images, and requests whose caller has no time, to both replicas in turn."""
    count = 0
    while not stop.is_set():
        count += 1
        service.score("rows/versions/1", rows(5, seed=count))
        service.score("rows/versions/2", 20 * rows(40, seed=count))
        service.score("images", pixels(NORMAL[:1]))
        replica.post("/v1/detectors/rows:score", json={"rows": rows(2, seed=count).tolist()})
        replica.post("/v1/detectors/rows:score", json={"rows": rows(2).tolist()}, headers={"x-request-timeout": "0.000001"})
        stop.wait(0.3)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Scrapes every second while rows are scored, one job is done and one fails in processes that are forked meanwhile."""
    folder = tmp_path_factory.mktemp("prometheus")
    detectors = {"rows": [fitted(), fitted(2.0)], "images": [fitted_images()]}
    receiver = Receiver(500)  # and 204 from then on
    settings = {
        "FARFIELD_WORKER": "true",
        "FARFIELD_DATA_ROOTS": json.dumps([str(folder)]),
        "FARFIELD_WEBHOOKS": json.dumps([receiver.url]),
        "FARFIELD_WEBHOOK_SECRET": SECRET,
        "FARFIELD_WEBHOOK_NETWORKS": json.dumps(LOOPBACK),
    }
    with served(folder, detectors, **settings) as service:
        second = ServiceProcess(folder / "second", service.store_url, {}).start()
        targets = [url.removeprefix("http://") for url in (service.process.url, second.url)]
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "500ms"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": "farfield", "static_configs": [{"targets": targets}]}],
        }
        (folder / "prometheus.yml").write_text(json.dumps(config))
        broken = folder / "broken.npy"
        broken.write_text("no array")
        port = free_port()
        options = (f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}")
        server = Process([program("prometheus"), *options, f"--web.listen-address=127.0.0.1:{port}"], folder / "server")
        stop = threading.Event()
        replica = httpx2.Client(base_url=second.url, timeout=60)
        loading = threading.Thread(target=load, args=(service, replica, stop))
        try:
            server.spawn()
            loading.start()
            watched = Prometheus(f"http://127.0.0.1:{port}")
            eventually(lambda: ready(watched.url), "Prometheus is ready")
            watched.eventually('farfield_jobs{state="failed"} == 0')
            compare(service, watched)
            for body in ({"rows": rows(60).tolist(), "alpha": 0.1}, {"data": str(broken)}):
                job = service.client.post("/v1/detectors/fits:fit", json=body).json()
                eventually(
                    lambda job=job: service.client.get(f"/v1/jobs/{job['id']}").json()["state"] in {"done", "failed"}, "the job ends"
                )
            yield watched
        finally:
            stop.set()
            loading.join()
            replica.close()
            server.kill()
            second.kill()
            receiver.close()


def compare(service: Served, watched: Prometheus) -> None:
    """Have version 2 of ``rows`` shadow version 1, with more rows at once than it takes; more outliers than the feed takes; feedback."""
    url = "/v1/detectors/rows"
    for alias, number in (("champion", 1), ("challenger", 2)):
        service.client.put(f"{url}/aliases/{alias}", json={"version": number}).raise_for_status()
    body = {"alias": "champion", "shadow": "challenger", "share": 1.0}
    service.client.put(f"{url}/shadow", json=body).raise_for_status()
    seen = " and on (instance) ".join(f"{lost}{{detector=`rows`{labels}}} == 0" for lost, labels in LOST)
    watched.eventually(f"count({seen}) == 2")  # replicas
    service.client.post(f"{url}:feedback", json={"keys": ["a"], "verdict": "false_alarm"}).raise_for_status()
    service.score("rows/versions/1", rows(MOST_ROWS + 1000))

    def flooded() -> bool:
        for seed in range(20):
            service.score("rows/versions/2", 20 * rows(100, seed=seed))
        return bool(re.search(r'farfield_outliers_dropped_total\{detector="rows"\} [1-9]', service.client.get("/metrics").text))

    eventually(flooded, "the feed loses outliers")


def ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/-/ready", timeout=5).status_code == 200
    except httpx2.HTTPError:
        return False


@by_board
def test_every_query_is_answered_with_data(board: Any, prometheus: Prometheus) -> None:
    """Of panels; and every variable has values, among them the detector that is chosen here."""
    for query in queries(board):
        prometheus.eventually(filled(query))
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", filled(variable["query"]["query"])).groups()
            assert ANY[variable["name"]] in {".*", *(labels[label] for labels, _ in prometheus.eventually(selector))}


def test_every_rule_is_evaluated_and_has_data(prometheus: Prometheus) -> None:
    """Records are series, and so is each that an alert asks for, with the labels that it asks for."""
    for record in RECORDS:
        prometheus.eventually(record)
    for alert in ALERTS.values():
        for selector in re.findall(r"(?:farfield_\w+|job\w*:[\w:]+|\bup\b)(?:\{[^}]*\})?", alert["expr"]):
            prometheus.eventually(selector)
    found = [rule for group in prometheus.get("rules")["data"]["groups"] for rule in group["rules"]]
    assert len(found) == len(ALERTS) + len(RECORDS)
    assert {(rule["health"], rule.get("lastError", "")) for rule in found} == {("ok", "")}


def test_what_drifts_and_what_fails_is_alerted(prometheus: Prometheus) -> None:
    """The version that gets other rows than it was fitted on, and not the one that gets the same; the job that could not be done."""
    firing = prometheus.eventually('ALERTS{alertname="FarfieldDrift", alertstate="firing", detector="rows"}')
    assert [labels["version"] for labels, _ in firing] == ["2"]
    prometheus.eventually('ALERTS{alertname="FarfieldJobsFail", alertstate="firing"}')


def test_outliers_are_marked_in_the_charts_of_their_detector(prometheus: Prometheus) -> None:
    """By an annotation, wherever there was one lately."""
    [event] = events(BOARDS["detector"])
    [(labels, _)] = prometheus.eventually(filled(event["expr"]))
    assert labels == {"detector": "rows"}
    assert prometheus.query(filled(event["expr"], detector="none")) == []


def test_webhooks_and_shadows_are_seen(prometheus: Prometheus) -> None:
    """The delivery that failed, those that followed it, and two versions that agree on some rows and not on others."""
    prometheus.eventually('min by (detector) (farfield_webhooks_total{detector="rows", outcome=~"failed|delivered"}) > 0')
    agreement = next(query for query in queries(BOARDS["fleet"]) if "both|neither" in query)
    [(labels, share)] = prometheus.eventually(filled(agreement))
    assert labels == {"detector": "rows", "version": "1", "shadow": "2"}
    assert 0.5 < share < 1


def test_the_first_that_is_lost_is_an_increase(prometheus: Prometheus) -> None:
    """Counters of what is in memory begin at 0, and not with the first event, which no rate would tell of then."""
    for lost, labels in LOST:
        series = f"{lost}{{detector=`rows`{labels}}}"
        [(first, least)] = prometheus.eventually(f"min_over_time({series}[10m]) and on (instance) {series} > 0")
        assert least == 0
        [(_, increase)] = prometheus.eventually(f"increase({lost}{{instance=`{first['instance']}`, detector=`rows`{labels}}}[10m])")
        assert increase > 0
    assert {value for _, value in prometheus.eventually("min_over_time(farfield_shadow_dropped_rows_total{reason=`failed`}[10m])")} == {0}


def test_p_values_of_normal_rows_are_near_the_uniform_line(prometheus: Prometheus) -> None:
    """In the heat map's own query, of which the buckets are cumulated: ten times x up to x. Those of drifted rows are far above it."""
    query = next(panel for panel in panels(BOARDS["detector"]) if panel["type"] == "heatmap")["targets"][0]["expr"]
    query = query.replace("$__rate_interval", "1m")
    normal, drifted = (dict_by_bound(prometheus.eventually(filled(query, version=version))) for version in "12")
    assert sorted(normal) == [tenth / 10 for tenth in range(1, 11)]
    assert (normal[1.0], drifted[1.0]) == pytest.approx((10, 10))
    assert drifted[0.1] > 9
    assert 2 < normal[0.5] < 8


def dict_by_bound(found: list[tuple[dict[str, str], float]]) -> dict[float, float]:
    return {float(labels["le"]): value for labels, value in found}


@pytest.mark.parametrize("value", ['ro"ws', "r.ws", "rows|images", 'rows"} or vector(1) or up{job="'])
def test_a_value_means_itself_alone(value: str, prometheus: Prometheus) -> None:
    """Whatever stands in the address of a dashboard: quotes end nothing, and no character stands for others."""
    asked = " or ".join(f"({query})" for query in queries(BOARDS["detector"]))
    assert prometheus.query(filled(asked))
    assert prometheus.query(filled(asked, detector=value)) == []


def test_no_scrape_fails_while_jobs_are_forked(prometheus: Prometheus) -> None:
    """Nor does a counter fall."""
    assert {value for _, value in prometheus.query("min_over_time(up[5m])")} == {1.0}
    assert {value for _, value in prometheus.query("resets(farfield_rows_scored_total[5m])")} == {0.0}
