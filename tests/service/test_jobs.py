"""What the queue of jobs promises, on every kind of server that it runs on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from service import errors
from service.connection import Connection
from service.jobs.queue import MOST_ATTEMPTS, Job, Jobs, Progress
from tests.servers import LossyProxy, RedisServer, eventually
from tests.service.stores import TIMEOUT

LONG, SHORT = 60.0, 0.05  # seconds of a lease


@pytest.fixture
def jobs(any_server: Any) -> Iterator[Jobs]:
    """A queue in which no job waits."""
    connection = Connection.open(any_server.url, TIMEOUT)
    queue = Jobs(connection)
    while job := queue.claim("sweeper", LONG):
        queue.stop(job.id, "sweeper")
    yield queue
    connection.close()


def submit(jobs: Jobs, **spec: Any) -> Job:
    return jobs.submit("fit", "screws", spec)


def claimed(jobs: Jobs, worker: str = "a", lease: float = LONG) -> Job:
    job = jobs.claim(worker, lease)
    assert job is not None
    return job


def test_a_job_goes_from_queued_to_done(jobs: Jobs) -> None:
    """Who submitted it sees it wait, run with progress, and end with its result."""
    job = submit(jobs, data="rows.npy")
    assert (job.state, job.spec, job.attempts, job.started) == ("queued", {"data": "rows.npy"}, 0, None)
    assert claimed(jobs).id == job.id
    assert jobs.beat(job.id, "a", LONG, Progress("extract", 50, 200, 25.0)) == "go"
    running = jobs.get(job.id)
    assert (running.state, running.worker, running.progress) == ("running", "a", Progress("extract", 50, 200, 25.0))
    assert running.progress.seconds_left == 6.0
    assert jobs.finish(job.id, "a", {"version": 3})
    ended = jobs.get(job.id)
    assert (ended.state, ended.result, ended.over) == ("done", {"version": 3}, True)
    assert ended.created <= (ended.started or 0) <= (ended.ended or 0)
    assert jobs.claim("a", LONG) is None


def test_jobs_are_claimed_in_the_order_of_submission_and_once(jobs: Jobs) -> None:
    """Sixteen workers at once get each a job of their own, the earliest first."""
    submitted = [submit(jobs, number=i).id for i in range(8)]
    assert claimed(jobs).id == submitted[0]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda i: jobs.claim(f"w{i}", LONG), range(16)))
    assert sorted(job.id for job in found if job) == sorted(submitted[1:])


def test_a_clock_that_is_set_back_does_not_change_the_order(jobs: Jobs, raw: Any) -> None:
    """A job that comes when the server's clock is behind that of an earlier one still waits behind it."""
    first = submit(jobs, number=1).id
    raw.zadd("farfield:{jobs}:waiting", {first: 1e15})
    second = submit(jobs, number=2).id
    assert [claimed(jobs).id, claimed(jobs).id] == [first, second]


ENDS = {"done": lambda jobs, job: jobs.finish(job, "a", {}), "queued": lambda jobs, job: jobs.fail(job, "a", "no", again=True)}


@pytest.mark.parametrize("state", ENDS)
def test_a_job_whose_answers_are_lost_is_claimed_and_ended_once(redis_server: RedisServer, state: str) -> None:
    """A connection that breaks between claim or end and the answer costs nothing: the worker tries again, and has the job, and ends it."""
    proxy = LossyProxy(redis_server.port)
    connection = Connection.open(proxy.url, TIMEOUT)
    try:
        jobs = Jobs(connection)
        job, ended = submit(jobs), jobs.tallies().states["done"]
        proxy.marker = b"Take a job"
        assert (claimed(jobs).id, proxy.marker) == (job.id, None)
        assert jobs.get(job.id).attempts == 1
        proxy.marker = b"End a running job"
        assert (ENDS[state](jobs, job.id), proxy.marker) == (True, None)
        assert jobs.get(job.id).state == state
        assert jobs.tallies().states["done"] == ended + (state == "done")
        jobs.cancel(job.id)
    finally:
        connection.close()
        proxy.close()


def test_the_job_of_a_dead_worker_is_taken_over(jobs: Jobs) -> None:
    """Once its lease has run out another worker gets the job, and nothing that the first one says counts any more."""
    job = submit(jobs)
    claimed(jobs, "a", SHORT)
    assert jobs.claim("b", LONG) is None
    eventually(lambda: jobs.claim("b", LONG), "the lease has run out")
    assert (jobs.get(job.id).worker, jobs.get(job.id).attempts) == ("b", 2)
    assert jobs.beat(job.id, "a", LONG) == "lost"
    assert not jobs.finish(job.id, "a", {"version": 1})
    assert not jobs.fail(job.id, "a", "no")
    assert jobs.beat(job.id, "b", LONG) == "go"
    assert jobs.finish(job.id, "b", {"version": 2})
    assert jobs.get(job.id).result == {"version": 2}


def test_a_beat_renews_the_lease(jobs: Jobs) -> None:
    """A worker that beats keeps its job for longer than one lease."""
    job = submit(jobs)
    claimed(jobs, "a", 0.5)
    for _ in range(6):
        time.sleep(0.15)
        assert jobs.beat(job.id, "a", 0.5) == "go"
        assert jobs.claim("b", LONG) is None
    jobs.stop(job.id, "a")


def test_a_job_that_kills_its_workers_fails(jobs: Jobs) -> None:
    """After as many deaths as attempts it is given up, with a sentence that says so."""
    job = submit(jobs)
    for attempt in range(MOST_ATTEMPTS):
        eventually(lambda attempt=attempt: jobs.claim(f"w{attempt}", SHORT), "the lease has run out")
    eventually(lambda: jobs.claim("last", SHORT) is None and jobs.get(job.id).over, "it is given up")
    assert jobs.get(job.id).state == "failed"
    assert "died 3 times" in (jobs.get(job.id).error or "")


def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_by_its_worker(jobs: Jobs) -> None:
    """What is cancelled runs no more; cancelling what is over changes nothing."""
    waiting, running = submit(jobs, number=1), None
    assert jobs.cancel(waiting.id).state == "cancelled"
    running = submit(jobs, number=2)
    assert claimed(jobs).id == running.id
    assert jobs.cancel(running.id).cancelling
    assert jobs.beat(running.id, "a", LONG) == "cancel"
    assert jobs.stop(running.id, "a")
    assert jobs.get(running.id).state == "cancelled"
    assert jobs.cancel(running.id).state == "cancelled"
    assert jobs.claim("a", LONG) is None


def test_a_cancelled_job_of_a_dead_worker_is_not_run_again(jobs: Jobs) -> None:
    """It becomes cancelled when somebody looks for work."""
    job = submit(jobs)
    claimed(jobs, "a", SHORT)
    jobs.cancel(job.id)
    eventually(lambda: jobs.claim("b", LONG) is None and jobs.get(job.id).over, "it is cancelled")
    assert jobs.get(job.id).state == "cancelled"


def test_a_failure_keeps_its_reasons_and_may_be_tried_again(jobs: Jobs) -> None:
    """The sentence is for who submitted it, the traceback for administrators; ``again`` puts the job back."""
    job = submit(jobs)
    claimed(jobs)
    assert jobs.fail(job.id, "a", "the store was away", again=True)
    assert jobs.get(job.id).state == "queued"
    claimed(jobs)
    assert jobs.fail(job.id, "a", "column 3 holds text", "Traceback ...")
    failed = jobs.get(job.id)
    assert (failed.state, failed.error, failed.traceback, failed.attempts) == ("failed", "column 3 holds text", "Traceback ...", 2)


def test_the_same_idempotency_key_gives_the_same_job(jobs: Jobs, name: str) -> None:
    """A client that tries again gets the job of the first time; another request under the same key is refused."""
    first = jobs.submit("fit", "screws", {"data": "a"}, idempotency_key=name)
    again = jobs.submit("fit", "screws", {"data": "a"}, idempotency_key=name)
    assert again.id == first.id
    with pytest.raises(errors.KeyReused, match=first.id):
        jobs.submit("fit", "screws", {"data": "b"}, idempotency_key=name)
    assert [job.id for job in jobs.newest(1)] == [first.id]
    assert jobs.tallies().states["queued"] == 1


def test_logs_keep_the_last_lines(jobs: Jobs) -> None:
    """Lines come back in order."""
    job = submit(jobs)
    jobs.write_log(job.id, ["one", "zwei ä"])
    jobs.write_log(job.id, [])
    jobs.write_log(job.id, ["three"])
    assert jobs.log(job.id) == ["one", "zwei ä", "three"]


@pytest.mark.parametrize("method", ["get", "cancel"])
def test_unknown_jobs_are_named(jobs: Jobs, method: str) -> None:
    """A job that is not there is a refusal."""
    with pytest.raises(errors.UnknownJob, match="there is no job 'nothing'"):
        getattr(jobs, method)("nothing")


def test_rows_are_kept_until_the_job_is_over(jobs: Jobs, raw: Any) -> None:
    """Rows of more than a chunk come back whole, for every attempt; no end of a job, and no refusal, leaves any of them."""
    rows = bytes(range(256)) * 5000
    ends = {
        "done": lambda job: jobs.finish(job, "a", {}),
        "failed": lambda job: jobs.fail(job, "a", "no"),
        "cancelled": lambda job: jobs.stop(job, "a"),
    }
    for state, end in ends.items():
        job = jobs.submit("fit", "screws", {}, rows=rows).id
        assert jobs.rows(claimed(jobs).id) == rows
        jobs.fail(job, "a", "once more", again=True)
        assert jobs.rows(claimed(jobs).id) == rows
        assert end(job)
        assert (jobs.get(job).state, jobs.rows(job)) == (state, b"")
    waiting = jobs.submit("fit", "screws", {}, rows=rows).id
    jobs.cancel(waiting)
    assert not list(raw.scan_iter(match="farfield:{jobs}:rows:*", count=10_000))


def test_rows_belong_to_what_an_idempotency_key_stands_for(jobs: Jobs, name: str, raw: Any) -> None:
    """The same rows again give the first job, which keeps its own; other rows are refused, and neither leaves a copy."""
    first = jobs.submit("fit", "screws", {}, rows=b"first", idempotency_key=name)
    assert jobs.submit("fit", "screws", {}, rows=b"first", idempotency_key=name).id == first.id
    with pytest.raises(errors.KeyReused, match=first.id):
        jobs.submit("fit", "screws", {}, rows=b"other", idempotency_key=name)
    assert jobs.rows(first.id) == b"first"
    (key,) = raw.scan_iter(match="farfield:{jobs}:rows:*", count=10_000)
    assert raw.ttl(key) == -1
    jobs.cancel(first.id)


def test_only_so_many_jobs_may_wait(jobs: Jobs, name: str) -> None:
    """One more is refused, keeps nothing, and finds room, under the same key, when one of them has been taken."""
    kept = [jobs.submit("fit", "screws", {}, most_waiting=2).id for _ in range(2)]
    with pytest.raises(errors.Overloaded, match="2 jobs are waiting"):
        jobs.submit("fit", "screws", {}, rows=b"rows", idempotency_key=name, most_waiting=2)
    jobs.stop(claimed(jobs).id, "a")
    kept.append(jobs.submit("fit", "screws", {}, idempotency_key=name, most_waiting=2).id)
    assert [job.id for job in jobs.newest(1)] == kept[-1:]


def test_a_released_job_is_as_if_it_had_not_been_taken(jobs: Jobs) -> None:
    """It is the next one again, before those submitted later, and has lost no attempt; a failed one goes to the end."""
    first, second = submit(jobs, number=1), submit(jobs, number=2)
    assert claimed(jobs).id == first.id
    assert jobs.release(first.id, "a")
    assert not jobs.release(first.id, "a")
    assert (jobs.get(first.id).state, jobs.get(first.id).attempts) == ("queued", 0)
    assert (claimed(jobs).id, jobs.get(first.id).attempts) == (first.id, 1)
    assert jobs.fail(first.id, "a", "not now", again=True)
    assert [claimed(jobs).id, claimed(jobs).id] == [second.id, first.id]


def test_ended_jobs_are_counted(jobs: Jobs) -> None:
    """Once each by the state that they ended in; done ones with what their last attempt took."""
    before = jobs.tallies()
    for end in (lambda job: jobs.finish(job, "a", {}), lambda job: jobs.fail(job, "a", "no"), lambda job: jobs.stop(job, "a")):
        job = submit(jobs)
        claimed(jobs)
        time.sleep(0.01)
        assert end(job.id)
        assert not end(job.id)
    jobs.cancel(submit(jobs).id)
    after = jobs.tallies()
    grown = {state: after.states[state] - before.states[state] for state in after.states}
    assert grown == {"queued": 0, "running": 0, "done": 1, "failed": 1, "cancelled": 2}
    assert 0.009 <= after.seconds - before.seconds < 1
    assert [now - then for now, then in zip(after.within, before.within, strict=True)] == [1] * len(after.within)
