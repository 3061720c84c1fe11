"""Workers: what becomes of a job when it is cancelled, when its process, its worker or the store is killed, and when two meet."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from service.jobs.queue import Jobs
from service.jobs.work import ending
from service.settings import Settings
from service.store import Store
from tests.servers import PATIENCE, Process, RedisServer, eventually, running
from tests.service.served import npy, rows
from tests.service.working import ALPHA, Shop, shop


@pytest.fixture(scope="module")
def durable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A redis-server that keeps its data when it is killed."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), "--appendonly", "yes", "--appendfsync", "always").start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, durable: RedisServer) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    with shop(folder, durable.url, FARFIELD_DATA_ROOTS=json.dumps([str(folder)])) as opened:
        yield opened


@pytest.fixture
def here(place: Shop) -> Iterator[Shop]:
    """The shop without any worker, before and after a test."""
    yield place
    place.dismiss()


def test_a_running_job_is_cancelled_within_a_second(here: Shop, name: str) -> None:
    """Its process is gone, nothing is published, and the worker takes the next job."""
    worker = here.worker()
    job = here.submit(name)
    pid = here.held(job, worker)
    asked = time.monotonic()
    assert here.client.post(f"/v1/jobs/{job}:cancel").status_code == 200
    here.until(job, "cancelled")
    assert time.monotonic() - asked < 1
    assert not running(pid)
    assert here.store.numbers(name) == []
    assert here.until(here.submit(name), "done", "failed")["result"]["version"] == 1


def test_the_job_of_a_killed_worker_is_taken_over(here: Shop, name: str) -> None:
    """After kill -9 in the middle another worker does it, one version is published, and the orphaned process ends by itself."""
    first = here.worker()
    job = here.submit(name, alias="champion")
    orphan = here.held(job, first)
    first.kill()
    here.worker()
    ended = here.until(job, "done", "failed")
    assert (ended["state"], ended["attempts"], here.store.numbers(name)) == ("done", 2, [1])
    assert here.store.aliases(name) == {"champion": 1}
    assert running(orphan)
    os.kill(orphan, signal.SIGCONT)
    eventually(lambda: not running(orphan), "the orphan has noticed that its worker is gone")
    assert here.store.numbers(name) == [1]


def test_a_worker_that_is_stopped_gives_its_job_back(here: Shop, name: str) -> None:
    """At SIGTERM it leaves soon; the job waits again as if never taken, and the next worker does it."""
    worker = here.worker()
    job = here.submit(name)
    pid = here.held(job, worker)
    asked = time.monotonic()
    worker.process.terminate()
    assert worker.process.wait(30) == 0
    assert time.monotonic() - asked < 5
    assert not running(pid)
    assert (here.job(job)["state"], here.job(job)["attempts"]) == ("queued", 0)
    here.worker()
    assert here.until(job, "done", "failed")["attempts"] == 1


def test_a_job_whose_process_is_killed_is_tried_once_more(here: Shop, name: str) -> None:
    """As by the kernel when memory runs out: the second attempt may do it, a second kill ends it, with a sentence and a log."""
    worker = here.worker()
    job = here.submit(name)
    os.kill(here.held(job, worker), signal.SIGKILL)
    eventually(lambda: here.job(job)["attempts"] == 2, "it is tried again")
    os.kill(here.held(job, worker), signal.SIGKILL)
    failed = here.until(job, "failed", "done")
    assert "ran out of memory" in failed["error"]
    assert [line for line in here.jobs.log(job) if "attempt" in line][1].endswith(f"attempt 2 by worker {here.jobs.get(job).worker}")


def test_a_job_over_the_memory_limit_is_ended(here: Shop, name: str) -> None:
    """By its worker, with a sentence that names the limit; the worker lives on."""
    worker = here.worker(worker_memory=20)
    failed = here.until(here.submit(name), "failed", "done")
    assert "over the limit of 20 MiB" in failed["error"]
    assert failed["attempts"] == 2
    assert running(worker.process.pid)


def test_two_fits_of_one_detector_at_once(here: Shop, name: str) -> None:
    """Of two workers: each job has a number of its own, the alias is where the last one put it, and that one is told where it was."""
    jobs, held = [], []
    for seed in (1, 2):
        worker = here.worker()
        jobs.append(here.submit(name, seed=seed, alias="champion"))
        held.append(here.held(jobs[-1], worker))
    assert [here.job(job)["state"] for job in jobs] == ["running", "running"]
    for pid in held:
        os.kill(pid, signal.SIGCONT)
    results = [here.until(job, "done", "failed")["result"] for job in jobs]
    assert sorted(result["version"] for result in results) == here.store.numbers(name) == [1, 2]
    assert {here.store.manifest(name, result["version"]).seed for result in results} == {1, 2}
    first, last = sorted(results, key=lambda result: result["alias_before"] or 0)
    assert (first["alias_before"], last["alias_before"]) == (None, first["version"])
    assert here.store.aliases(name) == {"champion": last["version"]}


def test_a_store_that_goes_away_in_the_middle_of_a_fit(here: Shop, durable: RedisServer, name: str) -> None:
    """It is killed while the job runs and comes back: the job is done, in one attempt or two, and published once."""
    worker = here.worker()
    job = here.submit(name)
    pid = here.held(job, worker)
    durable.kill()
    os.kill(pid, signal.SIGCONT)
    eventually(lambda: "did not answer" in worker.log(), "the worker has noticed")
    durable.start()
    eventually(lambda: here.client.get(f"/v1/jobs/{job}").status_code == 200, "the service has the store again")
    assert here.until(job, "done", "failed")["state"] == "done"
    assert here.store.numbers(name) == [1]


def test_what_cannot_succeed_is_not_tried_again(here: Shop, name: str) -> None:
    """Data that are not there, not numbers, or not open to this worker: one attempt, and a sentence that names them."""
    folder = here.folder
    np.save(folder / "rows.npy", rows(60))
    np.save(folder / "same.npy", np.ones((60, 3)))
    (folder / "text.csv").write_text("a,b\n1,x\n2,y\n")
    reasons = {"gone.npy": "does not exist", "same.npy": "all 60 rows are the same", "text.csv": "text.csv"}
    here.worker(worker_concurrency=2, data_roots=[str(folder)])
    jobs = {file: here.submit(name, data=str(folder / file), alpha=ALPHA) for file in reasons}
    done = here.submit(name, data=str(folder / "rows.npy"), alpha=ALPHA)
    for file, job in jobs.items():
        failed = here.until(job, "failed", "done")
        assert (failed["attempts"], failed["result"]) == (1, None)
        assert reasons[file] in failed["error"]
        assert "Traceback" not in failed["error"]
        assert "Traceback" in (here.jobs.get(job).traceback or "")
    assert here.until(done, "done", "failed")["progress"]["phase"] == "publish"
    manifest = here.store.manifest(name, 1)
    assert (manifest.source.name, manifest.source.rows) == ("rows.npy", 60)


def test_farfield_worker(here: Shop, name: str) -> None:
    """The command does jobs, with limits as they are typed, and leaves in order at SIGTERM."""
    command = [sys.executable, "-m", "service.cli", "worker", "--store", here.url, "--concurrency", "2", "--memory", "4000"]
    worker = Process(command, here.folder / "typed")
    worker.spawn()
    try:
        assert here.until(here.submit(name), "done", "failed")["state"] == "done"
        worker.process.terminate()
        assert worker.process.wait(PATIENCE) == 0
        assert "waits for jobs, 2 at a time" in worker.log()
    finally:
        worker.kill()


# Attempts in this process


def order(url: str, job: str, name: str, kind: str = "fit", **spec: object) -> dict[str, object]:
    settings = Settings(store=url).model_dump(mode="json")
    return {"id": job, "kind": kind, "detector": name, "spec": {"alpha": ALPHA, **spec}, "settings": settings}


def quietly(phase: str, done: int, total: int) -> None:
    """Nobody listens."""


def test_attempts_of_one_job_publish_once(redis_server: RedisServer, name: str) -> None:
    """Four attempts at the same instant, and one after them, give one version; the alias is moved once, not back later."""
    with Store.open(redis_server.url) as store:
        queue = Jobs(store.connection)
        job = queue.submit("fit", name, {}, rows=npy(rows(60))).id
        once = order(redis_server.url, job, name, alias="champion")
        with ThreadPoolExecutor(4) as pool:
            ended = list(pool.map(lambda _: ending(once, quietly), range(4)))
        assert [end["result"]["version"] for end in ended] == [1] * 4
        other = queue.submit("fit", name, {}, rows=npy(rows(60, seed=2))).id
        later = ending(order(redis_server.url, other, name, alias="champion"), quietly)["result"]
        assert (later["version"], later["alias_before"]) == (2, 1)
        assert ending(once, quietly)["result"] == {"detector": name, "alias": "champion", "alias_before": None, "version": 1}
        assert (store.numbers(name), store.aliases(name)) == ([1, 2], {"champion": 2})


def test_a_job_from_another_release_is_refused(redis_server: RedisServer, name: str) -> None:
    """A kind or a member that this release does not know: a sentence, no second attempt."""
    for wrong in (order(redis_server.url, "0" * 32, name, kind="bake"), order(redis_server.url, "0" * 32, name, wings=2)):
        end = ending(wrong, quietly)
        assert "than the service that took it" in end["error"] or "another release" in end["error"]
        assert end["most_attempts"] == 1


@pytest.mark.parametrize("member", ["data", "classes"])
def test_a_worker_reads_nothing_outside_of_its_own_roots(redis_server: RedisServer, tmp_path: Path, name: str, member: str) -> None:
    """Whatever the service that took the job lets be read; a file of classes is no way around it."""
    for folder in ("open", "shut"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "rows.npy", rows(60))
        np.save(tmp_path / folder / "y.npy", np.arange(60) % 2)
    spec = {"type": "class_gaussian", "data": f"{tmp_path}/open/rows.npy", "classes": f"{tmp_path}/open/y.npy"}
    settings = Settings(store=redis_server.url, data_roots=[f"{tmp_path}/open"]).model_dump(mode="json")
    fitting = {**order(redis_server.url, "0" * 32, name, **spec), "settings": settings}
    assert ending(fitting, quietly)["result"]["version"] == 1
    leading_out = {**spec, member: spec[member].replace("/open/", "/shut/")}
    end = ending({**fitting, "id": "1" * 32, "spec": {"alpha": ALPHA, **leading_out}}, quietly)
    assert f"{tmp_path}/shut/" in end["error"]
    assert end["most_attempts"] == 1


def test_an_attempt_waits_for_the_store(redis_server: RedisServer, name: str) -> None:
    """A store that is away when the attempt begins is waited for, and it says so."""
    with Store.open(redis_server.url) as store:
        job = Jobs(store.connection).submit("fit", name, {}, rows=npy(rows(60))).id
    phases: list[str] = []
    redis_server.freeze()
    with ThreadPoolExecutor(1) as pool:
        attempt = pool.submit(ending, order(redis_server.url, job, name), lambda phase, done, total: phases.append(phase))
        eventually(lambda: "wait for the store" in phases, "it waits")
        redis_server.thaw()
        assert attempt.result()["result"]["version"] == 1
