"""docker-compose.yml as it stands, run: replicas behind the proxy, worker, Redis, Prometheus. Needs a Docker Engine.

Grafana is started where its image is at hand, and left out where it is not, which the first check prints.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import numpy as np
import pytest

from tests.deploy.engine import ROOT, call, fit, get, inspect, post, rows
from tests.servers import eventually, free_port, program

DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
VARIABLES = {"__rate_interval": "1m", "__interval": "15s", "__range": "1h", "__auto": "1m"}
ROW = {"rows": [[0.0, 0.1, 0.2]]}
LOSES_BODIES = (2, 11, 1)  # the last Caddy that cannot send a body a second time, https://github.com/caddyserver/caddy/issues/7546


@dataclass(frozen=True)
class Stack:
    """What compose has started; its addresses as a user has them."""

    words: tuple[str | Path, ...]
    proxy: str
    prometheus: str
    environment: dict[str, str]

    def compose(self, *words: str | Path, **how: Any) -> str:
        return call("docker", "compose", *self.words, *words, **self.environment, **how)

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "--quiet", service).split()

    def query(self, expression: str) -> Any:
        """What Prometheus answers; AssertionError where it cannot compute it."""
        answer = json.loads(get(self.prometheus, f"/api/v1/query?query={quote(expression)}"))
        assert answer["status"] == "success", answer
        return answer["data"]["result"]


def has_grafana() -> bool:
    image = re.search(r"image: (grafana/\S+)", (ROOT / "docker-compose.yml").read_text())
    assert image
    return subprocess.run(["docker", "image", "inspect", image[1]], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All services, with passwords by ``make env``, data to fit on, and a detector ``pumps`` that a job has fitted on them."""
    folder = tmp_path_factory.mktemp("stack")
    folder.chmod(0o755)
    call(program("make"), "--directory", folder, "--file", ROOT / "Makefile", "env", "PYTHON=python3")
    (folder / "in").mkdir()
    np.save(folder / "in" / "normal.npy", np.array(rows()))
    ports = {"PORT": free_port(), "PROMETHEUS_PORT": free_port(), "GRAFANA_PORT": free_port(), "TLS_PORT": free_port()}
    started = Stack(
        words=("--project-name", "farfield-check", "--env-file", folder / ".env"),
        proxy=f"http://127.0.0.1:{ports['PORT']}",
        prometheus=f"http://127.0.0.1:{ports['PROMETHEUS_PORT']}",
        environment={**{name: str(port) for name, port in ports.items()}, "DATA": str(folder / "in")},
    )
    services = [] if has_grafana() else ["proxy", "worker", "prometheus"]
    try:
        started.compose("up", "--detach", "--wait", *services)
        fit(started.proxy, "pumps", data="/in/normal.npy", alias="champion")
        yield started
    except AssertionError as error:
        raise AssertionError(f"{error}\n{started.compose('logs', '--tail', '40')}") from None
    finally:
        started.compose("down", "--volumes", "--timeout", "30")


def test_what_runs(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    """Two replicas; all that have a check are healthy."""
    states = {name: [inspect(one)["State"] for one in stack.containers(name)] for name in stack.compose("ps", "--services").split()}
    assert len(states["farfield"]) == 2
    assert {state.get("Health", {"Status": "healthy"})["Status"] for found in states.values() for state in found} == {"healthy"}
    with capsys.disabled():
        print(f"\nrunning: {', '.join(f'{len(found)} {name}' for name, found in states.items())}")


def test_only_the_proxy_is_reached(stack: Stack) -> None:
    """Replicas, worker and Redis publish nothing, and are in one network alone, which has no way out."""
    for name in ("farfield", "worker", "redis"):
        for container in stack.containers(name):
            found = inspect(container)
            assert not found["HostConfig"]["PortBindings"]
            assert [inspect(network)["Internal"] for network in found["NetworkSettings"]["Networks"]] == [True]


def test_redis_knows_one_user_alone(stack: Stack) -> None:
    """Nobody without a password, of which Redis keeps the hash."""
    assert "NOAUTH" in stack.compose("exec", "-T", "redis", "redis-cli", "ping", errors=True)
    users = stack.compose("exec", "-T", "redis", "cat", "/run/redis/users.acl")
    assert re.search(r"^user farfield on #[0-9a-f]{64} ~farfield:\*", users, re.MULTILINE)


def test_both_replicas_score(stack: Stack) -> None:
    """The proxy shares requests out."""

    def both() -> bool:
        post(stack.proxy, "/v1/detectors/pumps:score", ROW)
        return sum(float(one["value"][1]) > 0 for one in stack.query("farfield_rows_scored_total")) == 2

    eventually(both, "Prometheus has rows scored by each replica", 60)


def test_prometheus_sees_each_replica(stack: Stack) -> None:
    """As a target of its own, by DNS."""
    eventually(lambda: [one["value"][1] for one in stack.query('up{job="farfield"}')] == ["1", "1"], "two targets are up", 60)


def expressions(dashboard: Any) -> Iterator[str]:
    """The queries of all panels, with Grafana's variables filled in."""
    for panel in dashboard.get("panels", []):
        yield from expressions(panel)
        for target in panel.get("targets", []):
            if "expr" in target:
                yield re.sub(r"\$\{?(\w+)(:\w+)?\}?", lambda found: VARIABLES.get(found[1], ".*"), target["expr"])


def test_every_query_of_the_dashboards_is_answered(stack: Stack) -> None:
    """By this Prometheus, with the metrics of this stack; most with data."""
    asked = [query for path in DASHBOARDS for query in expressions(json.loads(path.read_text()))]

    def most() -> bool:
        post(stack.proxy, "/v1/detectors/pumps:score", ROW)  # rates are of what came of late
        return sum(bool(stack.query(query)) for query in asked) > len(asked) / 2

    eventually(most, "most queries have data", 60)


def test_a_killed_replica_costs_no_later_request(stack: Stack) -> None:
    """From the moment that it is dead; compose brings it back. A proxy that loses bodies is first sent requests without one."""
    post(stack.proxy, "/v1/detectors/pumps:score", ROW)
    version = re.search(r"(\d+)\.(\d+)\.(\d+)", call("docker", "exec", *stack.containers("proxy"), "caddy", "version"))
    assert version
    call("docker", "kill", stack.containers("farfield")[0])
    if tuple(map(int, version.groups())) <= LOSES_BODIES:
        for _ in range(30):
            get(stack.proxy, "/v1/detectors/pumps")
    for _ in range(30):
        post(stack.proxy, "/v1/detectors/pumps:score", ROW)
    stack.compose("up", "--detach", "--wait", "farfield")
    assert len(stack.containers("farfield")) == 2


def test_scoring_goes_on_without_redis_and_nothing_is_lost(stack: Stack) -> None:
    """While Redis is dead loaded versions score; when it is back the version and its alias are too."""
    call("docker", "kill", *stack.containers("redis"))
    for _ in range(10):
        post(stack.proxy, "/v1/detectors/pumps:score", ROW)
    stack.compose("up", "--detach", "--wait", "redis")
    found = eventually(partial(listed, stack), "detectors are listed again")
    assert found[0]["name"] == "pumps"
    assert fit(stack.proxy, "pumps", data="/in/normal.npy") == 2


def listed(stack: Stack) -> Any:
    answer = httpx2.get(f"{stack.proxy}/v1/detectors", timeout=20)
    return answer.status_code == 200 and answer.json()["detectors"]


def test_tls_ends_at_the_proxy(stack: Stack, tmp_path: Path) -> None:
    """With the override file and a certificate of one's own; the port without TLS is closed then."""
    tmp_path.chmod(0o755)
    name = "farfield.test"
    call(
        *(program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"),
        *("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"),
        *("-keyout", tmp_path / "tls.key", "-out", tmp_path / "tls.crt"),
    )
    stack.environment.update(TLS_NAME=name, CERTIFICATES=str(tmp_path))
    files = ("--file", "docker-compose.yml", "--file", "deploy/compose.tls.yml")
    stack.compose(*files, "up", "--detach", "--wait", "--no-deps", "proxy")
    port = stack.environment["TLS_PORT"]
    curl = (program("curl"), "--silent", "--fail", "--include", "--cacert", tmp_path / "tls.crt", "--resolve", f"{name}:{port}:127.0.0.1")
    answer = call(*curl, "--json", json.dumps(ROW), f"https://{name}:{port}/v1/detectors/pumps:score")
    assert '"p_value"' in answer
    assert "strict-transport-security: max-age=31536000" in answer.lower()
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(stack.proxy)
