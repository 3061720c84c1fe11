"""Jobs over HTTP: what is taken and what refused, what is told of a job, and how it is listened to."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from service import errors
from service.cli import app
from service.jobs.queue import Progress
from service.jobs.schemas import parsed
from service.settings import Settings
from tests.servers import PATIENCE, eventually, running
from tests.service.served import NORMAL, rows
from tests.service.working import ALPHA, Shop, children, events, shop

FEW = 60
DATA = rows(FEW).tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("jobs")
    (made / "open").mkdir()
    (made / "shut").mkdir()
    np.save(made / "open" / "rows.npy", rows(FEW))
    np.save(made / "shut" / "rows.npy", rows(FEW))
    (made / "open" / "out.npy").symlink_to(made / "shut" / "rows.npy")
    return made


@pytest.fixture(scope="module")
def idle(folder: Path) -> Iterator[Shop]:
    """A service of which no worker takes the jobs."""
    limits = {"FARFIELD_MAX_INLINE_BYTES": "10000", "FARFIELD_MAX_WAITING_JOBS": "20", "FARFIELD_THREADS": "2"}
    with shop(
        folder / "idle", f"embedded:{folder / 'idle' / 'data'}", FARFIELD_DATA_ROOTS=json.dumps([str(folder / "open")]), **limits
    ) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _empty_queue(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "idle" in request.fixturenames:
        opened = request.getfixturevalue("idle")
        for job in opened.jobs.newest():
            opened.jobs.cancel(job.id)


def test_the_whole_way_with_the_worker_of_the_service(folder: Path, name: str) -> None:
    """A fit asked for over HTTP is published and scores; the service, stopped in the middle of another, does that one when it is back.

    In the end the service takes its worker and the embedded store with it.
    """
    place = folder / "whole"
    environment = {"FARFIELD_WORKER": "true", "FARFIELD_DATA_ROOTS": json.dumps([str(folder / "open")])}
    with ExitStack() as stack:
        opened = stack.enter_context(shop(place, f"embedded:{place / 'data'}", **environment))
        answer = opened.ask(name, data=str(folder / "open" / "rows.npy"), alpha=ALPHA, alias="champion")
        assert (answer.status_code, answer.headers["retry-after"]) == (202, "1")
        location = answer.headers["location"]
        assert location == f"/v1/jobs/{answer.json()['id']}"
        with opened.client.stream("GET", f"{location}/events") as stream:
            told = list(events(stream.iter_lines()))
        assert [kind for kind, _ in told if kind != "comment"][-1] == "end"
        done = told[-1][1]
        assert done == opened.client.get(location).json()
        assert (done["state"], done["result"]["version"], done["result"]["rows"]) == ("done", 1, FEW)
        score = opened.client.post(f"/v1/detectors/{name}@champion:score", json={"rows": rows(2).tolist()})
        assert (score.status_code, score.json()["version"]) == (200, 1)

        second = opened.submit(name, seed=1)
        eventually(lambda: opened.job(second)["state"] == "running", "it runs")
        worker = own_worker(opened)
        with opened.client.stream("GET", f"/v1/jobs/{second}/events") as stream:
            heard = events(stream.iter_lines())
            assert next(heard)[0] == "progress"
            asked = time.monotonic()
            opened.service.process.terminate()
            assert "end" not in [kind for kind, _ in heard]
        assert opened.service.process.wait(PATIENCE) == 128 + signal.SIGTERM
        assert time.monotonic() - asked < 10
        assert not running(worker)
        opened.service.log_file.unlink()
        opened.service.start()
        opened.client.base_url = opened.service.url
        assert opened.until(second, "done", "failed")["result"]["version"] == 2
        assert opened.job(second)["attempts"] == 1
        eventually(lambda: 'farfield_jobs{state="done"} 2.0' in opened.client.get("/metrics").text, "the metrics count them")
        assert "farfield_fit_duration_seconds_count 2.0" in opened.client.get("/metrics").text

        killed = own_worker(opened)
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: own_worker(opened) not in (0, killed), "the service has another worker")
        opened.service.process.terminate()
        opened.service.process.wait(PATIENCE)
    eventually(lambda: not list((place / "data").glob("*.sock")), "the embedded store is shut down")


def own_worker(opened: Shop) -> int:
    """The process of the service's worker; 0 where there is none."""
    lines = {pid: Path(f"/proc/{pid}/cmdline") for pid in children(opened.service.process.pid)}
    return next((pid for pid, line in lines.items() if line.exists() and b"service.jobs.worker\0" in line.read_bytes()), 0)


def test_images_are_fitted_by_the_bundled_network(folder: Path, idle: Shop, name: str) -> None:
    """A folder of images becomes a version with the network in it."""
    images = folder / "open" / "images"
    images.mkdir()
    for path in NORMAL[:30]:
        (images / path.name).symlink_to(path)
    job = idle.submit(name, data=str(images), alpha=0.2)
    idle.worker(data_roots=[str(folder / "open"), str(NORMAL[0].parent)])
    done = idle.until(job, "done", "failed")
    idle.dismiss()
    assert (done["error"], done["result"]["rows"], done["progress"]["phase"]) == (None, 30, "publish")
    assert idle.client.get(f"/v1/detectors/{name}/versions/1").json()["extractor"]["digest"]


REFUSED: list[tuple[dict[str, Any], int, str, str]] = [
    ({"rows": None}, 422, "#/rows", "give the data either"),
    ({"rows": DATA, "data": "/x"}, 422, "#/data", "give the data either"),
    ({"rows": []}, 422, "#/rows", "rows is empty"),
    ({"rows": [[1.0, "a"]]}, 422, "#/rows/0/1", "a number is needed"),
    ({"rows": DATA[:1]}, 422, "#/alpha", "needs at least 9 calibration rows"),
    ({"rows": [*DATA, [0.0] * 5]}, 422, "#/rows/60", "has 5 numbers where row 0 has 4"),
    ({"rows": rows(400).tolist()}, 413, "#/rows", "the limit is 10000"),
    ({"type": "nonsense"}, 422, "#/type", "there is no detector type 'nonsense'"),
    ({"type": "class_gaussian"}, 422, "#/classes", "learns the classes"),
    ({"parameters": {"wings": 2}}, 422, "#/parameters/wings", "has no parameter 'wings'"),
    ({"parameters": []}, 422, "#/parameters", "dictionary"),
    ({"wings": 2}, 422, "#/wings", "no such parameter or member"),
    ({"alpha": 1.0}, 422, "#/alpha", "less than 1, not 1.0"),
    ({"alpha": 0.0001}, 422, "#/alpha", "needs at least 9999 calibration rows"),
    ({"calibrate": 0}, 422, "#/calibrate", "greater than 0, not 0"),
    ({"seed": -1}, 422, "#/seed", "greater than or equal to 0, not -1"),
    ({"folds": 1}, 422, "#/folds", "greater than or equal to 2"),
    ({"method": "hope"}, 422, "#/method", "Input should be 'split-conformal'"),
    ({"method": "cross-conformal", "trim": 0.1}, 422, "#/trim", "trim is for split-conformal calibration"),
    ({"classes": [1, 2]}, 422, "#/classes", "2 classes for 60 rows"),
    ({"classes": "y"}, 422, "#/classes", "are a list"),
    ({"type": "knn", "sum_levels": True}, 422, "#/sum_levels", "knows no levels"),
    ({"extractor": "mobilenet_v2"}, 422, "#/extractor", "take images"),
    ({"alias": "latest"}, 422, "#/alias", "cannot be an alias"),
    ({"data": "rows.npy"}, 422, "#/data", "neither an absolute path nor a URL"),
    ({"data": "{shut}/rows.npy"}, 422, "#/data", "not under any of the places that FARFIELD_DATA_ROOTS"),
    ({"data": "{open}/../shut/rows.npy"}, 422, "#/data", "not under any of the places"),
    ({"data": "{open}/\0.npy"}, 422, "#/data", "NUL"),
    ({"data": "{open}/out.npy"}, 422, "#/data", "not under any of the places"),
    ({"data": "http://127.0.0.1/rows.npy"}, 422, "#/data", "not under any of the places"),
    ({"data": "{open}/rows.npy", "extractor": "nonsense"}, 422, "#/extractor", "no bundled network 'nonsense'"),
    ({"data": "{open}/rows.npy", "classes": [1, 2]}, 422, "#/classes", "name of a column"),
    ({"data": "{open}/rows.npy", "method": "hope"}, 422, "#/method", "Input should be 'split-conformal'"),
]


@pytest.mark.parametrize(("members", "status", "pointer", "reason"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_can_be_known_before_is_refused_at_once(
    idle: Shop, folder: Path, members: dict[str, Any], status: int, pointer: str, reason: str
) -> None:
    """With the place in the request, and without a job."""
    before = idle.jobs.tallies().states
    body = {"alpha": ALPHA, **({} if "data" in members else {"rows": DATA}), **members}
    if isinstance(body.get("data"), str):
        body["data"] = body["data"].replace("{open}", str(folder / "open")).replace("{shut}", str(folder / "shut"))
    answer = idle.client.post("/v1/detectors/refused:fit", json={name: value for name, value in body.items() if value is not None})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (status, pointer), answer.text
    assert reason in answer.json()["detail"]
    assert idle.jobs.tallies().states == before


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {}, 422),
        (b"[]", {}, 422),
        (b'{"rows": [[1, 2]', {}, 422),
        (b'{"rows": [[NaN, 2]], "alpha": 0.5}', {}, 422),
        (b"\xff\xfe", {}, 422),
        (b"a,b", {"content-type": "text/csv"}, 415),
        (b"{}", {"content-encoding": "gzip"}, 415),
        (b"{}", {"Idempotency-Key": "k" * 256}, 422),
    ],
)
def test_broken_requests_are_refused(idle: Shop, content: bytes, headers: dict[str, str], status: int) -> None:
    """As a problem, whatever comes."""
    answer = idle.client.post("/v1/detectors/refused:fit", content=content, headers={"content-type": "application/json", **headers})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_without_roots_no_data_are_read() -> None:
    """By default; the refusal names the setting. A root that would open a whole scheme is no setting."""
    with pytest.raises(errors.InvalidInput, match="FARFIELD_DATA_ROOTS names no place"):
        parsed(b'{"data": "/etc/passwd"}', Settings())
    with pytest.raises(ValidationError, match="neither an absolute path nor a URL"):
        Settings(data_roots=["file"])


def test_the_same_key_gives_the_same_job(idle: Shop, name: str) -> None:
    """A client that asks again, after an answer was lost, has one fit; another request under the same key is refused."""
    first, again = idle.ask(name, key=name), idle.ask(name, key=name)
    assert first.json()["id"] == again.json()["id"]
    other = idle.ask(name, key=name, seed=1)
    assert (other.status_code, other.json()["type"]) == (409, "urn:farfield:problem:key-reused")
    assert first.json()["id"] in other.json()["detail"]
    assert idle.ask(f"{name}x", key=name).status_code == 409
    assert [job["id"] for job in idle.client.get("/v1/jobs?count=1").json()["jobs"]] == [first.json()["id"]]


def test_too_many_waiting_jobs_are_refused(idle: Shop, name: str) -> None:
    """With 503 and a time to come back, until there is room."""
    while (answer := idle.ask(name)).status_code == 202:
        last = answer.json()["id"]
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:farfield:problem:overloaded")
    assert answer.headers["retry-after"] == "1"
    assert idle.jobs.tallies().states["queued"] == 20
    idle.client.post(f"/v1/jobs/{last}:cancel")
    assert idle.ask(name).status_code == 202


def test_a_waiting_job_is_cancelled_at_once(idle: Shop, name: str) -> None:
    """And who listens hears of it; cancelling again changes nothing."""
    job = idle.submit(name)
    with idle.client.stream("GET", f"/v1/jobs/{job}/events") as stream:
        heard = events(stream.iter_lines())
        assert next(heard)[1]["state"] == "queued"
        assert idle.client.post(f"/v1/jobs/{job}:cancel").json()["state"] == "cancelled"
        assert [(kind, told["state"]) for kind, told in heard] == [("end", "cancelled")]
    assert idle.client.post(f"/v1/jobs/{job}:cancel").json()["state"] == "cancelled"


def test_silence_is_broken_by_comments(idle: Shop, name: str) -> None:
    """A listener to a job of which nothing is new hears that the connection lives."""
    job = idle.submit(name)
    with idle.client.stream("GET", f"/v1/jobs/{job}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        heard = events(stream.iter_lines())
        assert [next(heard)[0], next(heard)[0]] == ["progress", "comment"]


def test_many_listeners_hold_no_threads(idle: Shop, name: str) -> None:
    """A hundred listen to one job while the service, of two threads, answers; in the end each of them hears of it."""
    job = idle.submit(name)
    status = Path(f"/proc/{idle.service.process.pid}/status")
    ends: list[str] = []
    listening = threading.Semaphore(0)

    def listen() -> None:
        with idle.client.stream("GET", f"/v1/jobs/{job}/events") as stream:
            heard = events(stream.iter_lines())
            assert next(heard)[0] == "progress"
            listening.release()
            ends.extend(kind for kind, _ in heard if kind != "comment")

    threads = [threading.Thread(target=listen) for _ in range(100)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert listening.acquire(timeout=PATIENCE)
    count = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("Threads:"))
    assert count < 40
    assert idle.client.get("/v1/detectors").status_code == 200
    idle.client.post(f"/v1/jobs/{job}:cancel")
    for thread in threads:
        thread.join(PATIENCE)
    assert ends == ["end"] * 100


@pytest.mark.parametrize(("path", "status"), [("0" * 32, 404), ("nonsense", 422), ("0" * 32 + "/events", 404)])
def test_unknown_jobs(idle: Shop, path: str, status: int) -> None:
    """A problem of the kind unknown-job; an id that none can have is bad input."""
    answer = idle.client.get(f"/v1/jobs/{path}")
    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (status, {404: "unknown-job", 422: "invalid-input"}[status])


def command(idle: Shop, line: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, [*line.split(), "--store", idle.url])
    assert done.exit_code == code, done.output
    return done.output


def test_farfield_jobs(idle: Shop, name: str) -> None:
    """It lists, shows, cancels and waits; for what is not done waiting fails."""
    job = idle.submit(name)
    assert job[:8] in command(idle, "jobs")
    assert json.loads(command(idle, f"jobs {job} --json")) == idle.job(job)
    assert f"{job} fit of {name}: queued" in command(idle, f"jobs {job}")
    later = threading.Timer(0.5, idle.jobs.cancel, [job])
    later.start()
    assert f"{job} fit of {name}: cancelled" in command(idle, f"jobs {job} --watch", code=1)
    assert "cancelled" in command(idle, f"jobs {job} --cancel")
    assert "there is no job" in command(idle, f"jobs {'0' * 32}", code=1)
    assert "name it by its id" in command(idle, "jobs --cancel", code=1)


def test_farfield_jobs_follows_a_job(idle: Shop, name: str) -> None:
    """Phases are shown while it runs, then the version; the log and the traceback are for who can reach the store."""
    done, failed = idle.submit(name), idle.submit(name)
    queue = idle.jobs
    for job in (done, failed):
        assert queue.claim("me", 60.0)
        queue.write_log(job, ["a word of the library"])
    queue.beat(done, "me", 60.0, Progress("read", 50, 200, 25.0))
    assert "read 50 of 200, 25/s, 6 s left, by worker me, attempt 1" in command(idle, f"jobs {done}")
    later = threading.Timer(0.5, queue.finish, [done, "me", {"version": 7}])
    later.start()
    shown = command(idle, f"jobs {done} --watch")
    assert "read: 50 of 200" in shown
    assert "version 7" in shown
    queue.fail(failed, "me", "column 3 holds text", "Traceback of it")
    assert "column 3 holds text" in command(idle, f"jobs {failed}")
    assert "Traceback of it" not in command(idle, f"jobs {failed}")
    assert command(idle, f"jobs {failed} --log").splitlines() == ["a word of the library", "Traceback of it"]
    assert "Traceback of it" not in idle.client.get(f"/v1/jobs/{failed}").text
