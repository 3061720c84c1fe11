"""``farfield doctor``: what is well, what is not, and what to do about it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import redis
from typer.testing import CliRunner

from models.extractor import CPU, CUDA, cuda_works
from service import doctor
from service.cli import app
from service.doctor import Finding
from service.settings import Settings
from service.store import Store
from tests.servers import RedisServer, free_port
from tests.service.samples import fitted, publish_fitted
from tests.service.stores import chunk_keys, flip_bit

CHECKS = ["python", "libraries", "providers", "disk", "store", "versions"]


def examined(**settings: object) -> dict[str, Finding]:
    return {finding.check: finding for finding in doctor.examine(Settings(**settings))}


def farfield(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FARFIELD_")}
    command = [sys.executable, "-m", "service.cli", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def test_all_is_well_in_an_empty_folder(tmp_path: Path) -> None:
    """Every check says ok, exit code 0; there are no versions yet, and it says how to get one."""
    done = farfield(tmp_path, "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    for check in CHECKS:
        assert f"ok       {check}: " in done.stdout
    assert "farfield fit NAME --data FILE" in done.stdout
    assert "GiB free" in done.stdout and "Valkey" in done.stdout
    findings = json.loads(farfield(tmp_path, "doctor", "--json").stdout)
    assert [finding["check"] for finding in findings] == CHECKS
    assert {finding["state"] for finding in findings} == {"ok"}
    assert all(set(finding) == {"check", "state", "found", "advice"} for finding in findings)


def test_an_unreachable_store(tmp_path: Path) -> None:
    """Exit code 1; the finding names the address, the advice what to do, and no password is shown."""
    url = f"redis://:secret@127.0.0.1:{free_port()}/0"
    done = CliRunner().invoke(app, ["doctor", "--store", url])
    assert done.exit_code == 1
    assert "failed   store: " in done.stdout and "did not answer" in done.stdout
    assert "-> start the server, or set FARFIELD_STORE" in done.stdout
    assert "secret" not in done.stdout + done.stderr
    assert "ok       disk: the store is a server" in done.stdout


def test_a_store_setting_that_is_none(tmp_path: Path) -> None:
    """Is reported like a store that does not answer."""
    assert examined(store="nope://x")["store"].state == "failed"


def test_whole_and_damaged_versions(redis_server: RedisServer) -> None:
    """All whole: their number. One bit flipped in one blob: that version is named, with the reason, and exit code 1."""
    with Store.open(redis_server.url) as store:
        for scale in (1.0, 2.0):
            publish_fitted(store, "pumps", fitted(scale))
        publish_fitted(store, "other", fitted())
    found = examined(store=redis_server.url)
    assert (found["versions of pumps"].state, found["versions of other"].state) == ("ok", "ok")
    assert found["versions of pumps"].found.startswith("2, all whole")
    damage(redis_server.client(), "pumps", 2)
    found = examined(store=redis_server.url)
    damaged = found["versions of pumps"]
    assert damaged.state == "failed" and "version 2" in damaged.found and "does not match its sha256" in damaged.found
    assert "version 1 " not in damaged.found
    assert found["versions of other"].state == "ok"
    assert CliRunner().invoke(app, ["doctor", "--store", redis_server.url]).exit_code == 1


def damage(client: redis.Redis, name: str, number: int) -> None:
    """Flip a bit in the state of one version, and of no other."""
    manifest = json.loads(client.hget(f"farfield:{{{name}}}:versions", str(number)).partition(b" ")[2])
    digest = manifest["blobs"]["state"]["sha256"]
    key = next(key for key in chunk_keys(client, name) if digest.encode() in key)
    client.set(key, flip_bit(client.get(key), -3))
    client.close()


@pytest.mark.parametrize(("required", "state"), [(False, "warning"), (True, "failed")])
def test_cuda_asked_for(tmp_path: Path, required: bool, state: str) -> None:
    """Where a network does not get it: a warning, or a failure where it is required, and what it takes; with it, all is well."""
    found = examined(store=f"embedded:{tmp_path / 'data'}", device="cuda", require_device=required)["providers"]
    if cuda_works():
        assert found.state == "ok"
    else:
        assert found.state == state
        assert "farfield[gpu]" in found.advice and "FARFIELD_DEVICE=cpu" in found.advice


def test_cuda_that_is_built_and_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the GPU image without a GPU, which cannot run here: that the build names CUDA is all that is made up."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    if cuda_works():
        pytest.fail("this test is for machines without CUDA")
    assert examined(store=f"embedded:{tmp_path / 'data'}", device="cuda")["providers"].state == "warning"


def test_advice_in_brackets_is_printed_whole(tmp_path: Path) -> None:
    """What looks like markup is text."""
    done = CliRunner().invoke(app, ["doctor", "--store", f"embedded:{tmp_path / '[red]data'}"])
    assert "[red]data" in done.stdout


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """A file stands where the data folder should be: disk and store say so."""
    (tmp_path / "file").write_text("")
    found = examined(store=f"embedded:{tmp_path / 'file' / 'data'}")
    assert found["store"].state == "failed" and "cannot be used" in found["store"].found
