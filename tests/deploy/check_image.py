"""The image: what it is made of, who runs in it, how it starts, serves and stops. Needs a Docker Engine and ``make image``."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.engine import IMAGE, ROOT, call, fit, get, inspect, post
from tests.servers import eventually

CONTAINED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")


@pytest.fixture
def container() -> Iterator[str]:
    """A farfield on its embedded store, with nothing that it may write to but its volume and /tmp."""
    started = call("docker", "run", "--detach", "--publish", "127.0.0.1::8000", *CONTAINED, IMAGE).strip()
    yield started
    call("docker", "rm", "--force", "--volumes", started)


def wait_until_healthy(container: str) -> None:
    eventually(lambda: inspect(container)["State"]["Health"]["Status"] == "healthy", "the container is healthy", 120)


def address(container: str) -> str:
    return f"http://{call('docker', 'port', container, '8000').split()[0]}"


def test_hadolint_finds_nothing() -> None:
    """No warning of any kind."""
    assert call("hadolint", ROOT / "Dockerfile") == ""


def test_labels_say_what_it_is() -> None:
    """Version, source and licence, and a user who is not root."""
    config = inspect(IMAGE)["Config"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == IMAGE.partition(":")[2]
    assert labels["org.opencontainers.image.revision"] == call("git", "rev-parse", "HEAD").strip()
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert config["User"] == "10001:10001"
    assert config["Healthcheck"]["Test"][0] == "CMD"


def test_size_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """As documented: what farfield adds to its base, whatever that is."""
    layers = call("docker", "history", "--human=false", "--format", "{{.Size}} {{.CreatedBy}}", IMAGE).splitlines()
    ours = sum(int(line.split()[0]) for line in layers if "/opt/farfield" in line)
    with capsys.disabled():
        print(f"\nimage {inspect(IMAGE)['Size'] / 1e6:.0f} MB, of which farfield and what it requires {ours / 1e6:.0f} MB")
    assert ours < 700e6


def test_nothing_to_build_with_is_in_it() -> None:
    """No compiler, and no pip in farfield's environment."""
    call("docker", "run", "--rm", "--entrypoint", "sh", IMAGE, "-c", "! command -v gcc && ! command -v make && ! python -m pip --version")


def test_serves_on_a_read_only_root(container: str) -> None:
    """Healthy by its own check; fits and scores; writes nowhere else."""
    wait_until_healthy(container)
    assert fit(address(container), "pumps") == 1
    assert len(post(address(container), "/v1/detectors/pumps:score", {"rows": [[0.0, 0.1, 0.2], [9.0, 9.0, 9.0]]})["results"]) == 2
    assert call("docker", "exec", container, "id", "-u").strip() == "10001"
    assert "Read-only file system" in call("docker", "exec", container, "touch", "/opt/farfield/x", refused=True)


def test_data_outlive_the_container(container: str, tmp_path: Path) -> None:
    """On a volume, over an end by SIGTERM and a new container."""
    wait_until_healthy(container)
    fit(address(container), "pumps")
    call("docker", "stop", "--time", "30", container)
    listed = call("docker", "run", "--rm", "--volumes-from", container, *CONTAINED, IMAGE, "detectors", "--json")
    assert [found["name"] for found in json.loads(listed)] == ["pumps"]


def test_a_stop_lets_requests_end(container: str) -> None:
    """A request whose body is half sent when SIGTERM comes is answered; then the container ends by that signal."""
    wait_until_healthy(container)
    fit(address(container), "pumps")
    body = json.dumps({"rows": [[0.0, 0.1, 0.2]]}).encode()
    connection = http.client.HTTPConnection(address(container).removeprefix("http://"), timeout=30)
    connection.putrequest("POST", "/v1/detectors/pumps:score")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[:10])
    get(address(container), "/livez")  # an answer to a later request: the beginning of the earlier one has been read
    stop = threading.Thread(target=call, args=("docker", "stop", "--time", "30", container))
    stop.start()
    eventually(lambda: "Shutting down" in call("docker", "logs", container, errors=True), "the service is about to stop")
    connection.send(body[10:])
    assert connection.getresponse().status == 200
    connection.close()
    stop.join()
    assert inspect(container)["State"]["ExitCode"] == 128 + 15
