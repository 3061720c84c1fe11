"""Jobs that read their data in passes: their workers and the store are killed in the middle, and they go on."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.fitting.passes import Nowhere
from tests.servers import RedisServer, eventually, running, stop
from tests.service.fits import AT, fit, rows, task_of, write_parts
from tests.service.samples import read_whole
from tests.service.served import npy
from tests.service.working import Shop, WorkerProcess, children, shop

COUNT, WIDTH = 40_000, 8
CANCEL_SECONDS = 1.0  # within which a job that is cancelled has ended
MOMENT = 0.02  # seconds, in which no job of so many files is done
OPTIONS = {"parameters": {"reduce": "pca", "kept_variance": 0.9}, "alpha": 0.05}


@pytest.fixture(scope="module")
def durable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A redis-server that keeps its data when it is killed."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), "--appendonly", "yes", "--appendfsync", "always").start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parts(tmp_path_factory.mktemp("data") / "rows", rows(COUNT, WIDTH), 300)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, durable: RedisServer, data: Path) -> Iterator[Shop]:
    roots = json.dumps([str(data.parent)])
    with shop(tmp_path_factory.mktemp("shop"), durable.url, FARFIELD_DATA_ROOTS=roots) as opened:
        yield opened


@pytest.fixture
def here(place: Shop) -> Iterator[Shop]:
    """The shop without any worker, before and after a test."""
    yield place
    place.dismiss()


@pytest.fixture(scope="module")
def expected(place: Shop, data: Path) -> dict[str, bytes]:
    """The version that a job gives that nothing disturbs."""
    worker(place, data)
    job = place.submit("undisturbed", data=str(data), **OPTIONS)
    assert place.until(job, "done", "failed")["error"] is None
    place.dismiss()
    return read_whole(place.store, "undisturbed", 1)


def worker(here: Shop, data: Path) -> WorkerProcess:
    return here.worker(fit_memory=1, checkpoint_seconds=0.01, data_roots=[str(data.parent)])


def checkpointed(here: Shop, durable: RedisServer, name: str) -> bool:
    """Whether the fit has a checkpoint."""
    with durable.client() as raw:
        return any(key.count(b":") == 3 for key in raw.scan_iter(match=f"farfield:{{{name}}}:checkpoint:*", count=10_000))


def in_the_middle(here: Shop, durable: RedisServer, name: str, job: str, working: WorkerProcess) -> int:
    """The process of the job, stopped after a checkpoint and before its end: till then it goes on for a moment at a time."""
    process = here.held(job, working)

    def moved() -> bool:
        os.kill(process, signal.SIGCONT)
        time.sleep(MOMENT)
        stop(process)
        return checkpointed(here, durable, name)

    eventually(moved, "there is a checkpoint")
    return process


def poisoned(data: Path) -> Path:
    """The first file, with NaN in place of what it held, and neither size nor time of change telling: who reads it again fails."""
    first = min(data.iterdir())
    np.save(first, np.full_like(np.load(first), np.nan))
    os.utime(first, (AT, AT))
    return first


def test_another_worker_goes_on_where_a_killed_one_was(
    here: Shop, durable: RedisServer, data: Path, name: str, expected: dict[str, bytes]
) -> None:
    """It does not read again what was read, and the version is the same to the last bit; nothing of the checkpoints is left."""
    first = worker(here, data)
    options = {**OPTIONS, "parameters": {}}
    job = here.submit(name, data=str(data), alias="champion", **options)
    orphan = in_the_middle(here, durable, name, job, first)
    first.kill()
    file = min(data.iterdir())
    before = file.read_bytes()
    poisoned(data)
    try:
        worker(here, data)
        ended = here.until(job, "done", "failed")
    finally:
        file.write_bytes(before)
        os.utime(file, (AT, AT))
        os.kill(orphan, signal.SIGCONT)
    assert (ended["error"], ended["attempts"], here.store.numbers(name)) == (None, 2, [1])
    eventually(lambda: not running(orphan), "the orphan has noticed that its worker is gone")
    assert not checkpointed(here, durable, name)
    manifest = here.store.manifest(name, 1)
    alone = fit(task_of(data, memory=2**20), Nowhere())
    assert (manifest.n_fit, manifest.calibration.n) == (alone.n_fit, alone.n_calibration)


def test_a_job_killed_in_two_passes_gives_the_same_version(
    here: Shop, durable: RedisServer, data: Path, name: str, expected: dict[str, bytes]
) -> None:
    """Whoever has taken it over."""
    first = worker(here, data)
    job = here.submit(name, data=str(data), **OPTIONS)
    os.kill(in_the_middle(here, durable, name, job, first), signal.SIGKILL)
    assert here.until(job, "done", "failed")["error"] is None
    assert read_whole(here.store, name, 1) == expected


def test_the_store_is_killed_in_the_middle(here: Shop, durable: RedisServer, data: Path, name: str, expected: dict[str, bytes]) -> None:
    """The fit waits for it and publishes what it should."""
    working = worker(here, data)
    job = here.submit(name, data=str(data), **OPTIONS)
    pid = in_the_middle(here, durable, name, job, working)
    durable.kill()
    os.kill(pid, signal.SIGCONT)
    durable.start()
    assert here.until(job, "done", "failed")["error"] is None
    assert read_whole(here.store, name, here.store.numbers(name)[0]) == expected


def test_a_fit_in_passes_is_cancelled(here: Shop, durable: RedisServer, data: Path, name: str) -> None:
    """In the middle of a pass: within a second, its process is gone, and nothing is published."""
    working = worker(here, data)
    job = here.submit(name, data=str(data), **OPTIONS)
    pid = in_the_middle(here, durable, name, job, working)
    os.kill(pid, signal.SIGCONT)
    assert here.client.post(f"/v1/jobs/{job}:cancel").status_code == 200
    asked = time.monotonic()
    assert here.until(job, "cancelled", "done", "failed")["state"] == "cancelled"
    assert time.monotonic() - asked < CANCEL_SECONDS
    eventually(lambda: not running(pid), "its process is gone")
    assert here.store.numbers(name) == []


def descendants(pid: int) -> list[int]:
    return [one for child in children(pid) for one in (child, *descendants(child))]


def test_a_job_on_a_cluster(here: Shop, data: Path, name: str) -> None:
    """Of this machine: it gives what a fit on that cluster gives; one that is cancelled takes the cluster's processes with it."""
    working = here.worker(fit_memory=1, cluster="local:1", data_roots=[str(data.parent)])
    job = here.submit(name, data=str(data), **OPTIONS)
    assert here.until(job, "done", "failed")["error"] is None
    found, alone = here.store.manifest(name, 1), fit(task_of(data, **OPTIONS, memory=2**20, cluster="local:1"))
    assert (found.n_fit, found.calibration.n) == (alone.n_fit, alone.n_calibration)
    job = here.submit(name, data=str(data), **OPTIONS)
    eventually(lambda: len(descendants(working.process.pid)) > 1, "the cluster has begun")
    processes = descendants(working.process.pid)
    assert here.client.post(f"/v1/jobs/{job}:cancel").status_code == 200
    assert here.until(job, "cancelled", "done", "failed")["state"] == "cancelled"
    eventually(lambda: not any(map(running, processes)), "all of its processes are gone")
    assert here.store.numbers(name) == [1]


def test_two_fits_of_one_detector_at_once(here: Shop, data: Path, name: str) -> None:
    """Each has a number, a seed and checkpoints of its own."""
    working = here.worker(fit_memory=1, checkpoint_seconds=0.01, data_roots=[str(data.parent)], worker_concurrency=2)
    jobs = [here.submit(name, data=str(data), seed=seed, alias="champion", alpha=0.05) for seed in (1, 2)]
    eventually(lambda: len(children(working.process.pid)) == 2, "both run")
    results = [here.until(job, "done", "failed")["result"] for job in jobs]
    assert sorted(result["version"] for result in results) == here.store.numbers(name) == [1, 2]
    for seed, result in zip((1, 2), results, strict=True):
        manifest = here.store.manifest(name, result["version"])
        alone = fit(task_of(data, seed=seed, memory=2**20))
        assert (manifest.seed, manifest.n_fit, manifest.calibration.n) == (seed, alone.n_fit, alone.n_calibration)
    assert here.store.aliases(name)["champion"] in (1, 2)


def test_an_upload_is_fitted_in_passes(here: Shop, data: Path, name: str) -> None:
    """Its file is read as any other is, and the version states the sample that one of its detectors learned."""
    content = npy(rows(COUNT, WIDTH))
    upload = here.client.post("/v1/uploads", headers={"Upload-Length": str(len(content)), "Upload-Metadata": "filename cm93cy5ucHk="})
    where = upload.headers["location"]
    sent = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"}
    assert here.client.patch(where, content=content, headers=sent).status_code == 204
    working = worker(here, data)
    job = here.submit(name, data=f"upload:{where.rpartition('/')[2]}", alpha=0.05, type="gaussian+knn")
    found: dict[str, Any] = here.until(job, "done", "failed")
    assert found["error"] is None
    manifest = here.store.manifest(name, 1)
    assert manifest.source.of == "files"
    assert manifest.sample
    assert found["result"]["sample"] == manifest.sample.model_dump()
    assert 0 < manifest.sample.rank_error < 0.02
    assert running(working.process.pid)


def test_a_worker_that_does_not_know_an_option(here: Shop, data: Path, name: str) -> None:
    """Since it is of another release than the service: the job fails and says so."""
    worker(here, data)
    job = here.jobs.submit("fit", name, {"data": str(data), "invented_later": True}).id
    assert "of another release than the service" in here.until(job, "failed", "done")["error"]
