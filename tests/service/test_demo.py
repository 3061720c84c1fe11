"""``farfield demo``: a newcomer's first minute, in an empty folder."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2

from tests.servers import eventually, running


def farfield(folder: Path, *words: str) -> str:
    """Output of a command that succeeds."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FARFIELD_")}
    command = [sys.executable, "-m", "service.cli", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_demo_from_end_to_end(tmp_path: Path) -> None:
    """It fits, publishes, serves and scores real images, says what port it took, leaves the service running, and runs again."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        first = farfield(tmp_path, "demo", "--port", str(port))
    url = assert_explained(first, port)
    try:
        assert_serving(url)
        assert_repeatable(tmp_path, url, first)
    finally:
        pid = json.loads((tmp_path / "farfield-data" / "demo.json").read_text())["pid"]
        stopped = farfield(tmp_path, "demo", "--stop")
    assert url in stopped
    assert farfield(tmp_path, "demo", "--stop") == "no demo service is running\n"
    eventually(lambda: not running(pid), "the service has ended")
    assert list(tmp_path.iterdir()) == [tmp_path / "farfield-data"]
    eventually(lambda: not list((tmp_path / "farfield-data").glob("*.sock")), "the embedded store is shut down")


def assert_explained(output: str, port: int) -> str:
    """The output holds the fit, the port, the table and the figures; return the address that it names."""
    assert re.search(r"fit: demo version 1, gaussian on the \d+ MobileNetV2 features of \d+ normal images", output)
    assert f"port {port} is taken, so it uses " in output
    assert len(re.findall(r"normal/\d+\.png", output)) == len(re.findall(r"odd/\d+_\w+\.png", output)) - 1 == 6  # one more to try
    auroc = re.search(r"AUROC (\d\.\d+)", output)
    assert auroc and float(auroc[1]) > 0.9
    found = re.search(r"service: ready on (http://127\.0\.0\.1:\d+)\n", output)
    assert found and f":{port}" not in found[1]
    for line in (f"console  {found[1]}/\n", f"API      {found[1]}/docs\n", f"metrics  {found[1]}/metrics\n", "farfield demo --stop"):
        assert line in output
    return found[1]


def assert_serving(url: str) -> None:
    """Console, documentation, metrics and the champion are there, and the line to try works."""
    assert "<html" in httpx2.get(f"{url}/").text
    assert "swagger" in httpx2.get(f"{url}/docs").text
    assert 'farfield_rows_scored_total{detector="demo",version="1"} 120.0' in httpx2.get(f"{url}/metrics").text
    assert httpx2.get(f"{url}/v1/detectors/demo").json()["aliases"] == {"champion": 1}


def assert_repeatable(folder: Path, url: str, first: str) -> None:
    """A second run fits nothing and starts nothing, and its table is the same; the line to try does work."""
    start = time.monotonic()
    second = farfield(folder, "demo")
    assert "fit: demo version 1 was fitted on these images before" in second
    assert f"still running from an earlier demo on {url}" in second
    assert time.monotonic() - start < 60
    figures = [line for line in first.splitlines() if "AUROC" in line or "│" in line]
    assert figures == [line for line in second.splitlines() if "AUROC" in line or "│" in line]
    tried = re.search(r"try +curl -F images=@(\S+) (\S+)", second)
    assert tried
    answer = httpx2.post(tried[2], files={"images": Path(tried[1]).read_bytes()}, timeout=60)
    assert (answer.status_code, answer.json()["version"]) == (200, 1)
