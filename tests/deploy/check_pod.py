"""The chart's Deployments, run by ``podman kube play`` beside a Redis of this machine. Needs podman, helm and the image in Docker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import yaml

from tests.deploy.engine import CHART, IMAGE, call, fit, post
from tests.servers import RedisServer, eventually

ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture
def pods(tmp_path: Path, redis_server: RedisServer) -> Iterator[dict[str, str]]:
    """Ids of the containers of service and worker."""
    call("docker", "save", "--output", tmp_path / "image.tar", IMAGE)
    call("podman", "load", "--input", tmp_path / "image.tar")
    values = "store.existingSecret=store,service.replicas=1,image.repository=localhost/farfield"
    rendered = yaml.safe_load_all(call("helm", "template", "far", CHART, "--set", values))
    deployments = [one for one in rendered if one["kind"] == "Deployment"]
    for deployment in deployments:
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            for name in ("ports", "startupProbe", "readinessProbe", "livenessProbe"):
                container.pop(name, None)  # podman maps no ports in the network of the host, and asks no probe without systemd
            store = container["env"][0]
            assert store.pop("valueFrom") == {"secretKeyRef": {"name": "store", "key": "url"}}
            store["value"] = redis_server.url  # podman 4.3 does not read back the Secret that it has stored
    objects = tmp_path / "objects.yaml"
    objects.write_text(yaml.safe_dump_all(deployments))
    call("podman", "kube", "play", "--network", "host", objects)
    lines = call("podman", "ps", "--format", "{{.Names}} {{.ID}}").splitlines()
    yield {name.rpartition("-")[2]: identity for name, identity in map(str.split, lines)}
    call("podman", "kube", "down", objects)


def test_the_deployments_serve(pods: dict[str, str]) -> None:
    """Service and worker run with the arguments and rights of the chart: a job is done, rows are scored, the root is read-only."""
    eventually(ready, "the service is ready", 60)
    assert fit(ADDRESS, "pumps") == 1
    assert len(post(ADDRESS, "/v1/detectors/pumps:score", {"rows": [[0.0, 0.1, 0.2]]})["results"]) == 1
    for part in ("farfield", "worker"):
        assert call("podman", "exec", pods[part], "id", "-u").strip() == "10001"
        assert "Read-only file system" in call("podman", "exec", pods[part], "touch", "/opt/farfield/x", refused=True)


def ready() -> bool:
    try:
        return httpx2.get(f"{ADDRESS}/readyz", timeout=5).status_code == 200
    except httpx2.HTTPError:
        return False
