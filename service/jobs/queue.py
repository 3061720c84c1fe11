"""Jobs: work that takes longer than a request, waiting in the store for a worker.

All keys of jobs carry one hash tag and so lie in one cluster slot:

    farfield:{jobs}:waiting       sorted set, id -> its turn, which is when it was submitted
    farfield:{jobs}:running       sorted set, id -> when the lease of its worker ends
    farfield:{jobs}:all           sorted set, id -> when submitted
    farfield:{jobs}:job:ID        hash, see ``Job``
    farfield:{jobs}:log:ID        list of the lines that its worker wrote
    farfield:{jobs}:rows:ID       hash, index -> chunk of the rows that came with it; gone when it is over
    farfield:{jobs}:once:KEY      hash, the job that was submitted with an idempotency key
    farfield:{jobs}:counts        hash, how many ended in each state, and within how many seconds

Times are milliseconds of the server's own clock, the only one that all workers share. A worker
holds a job by a lease that it renews; one that dies lets the lease run out, and the job is taken
over. A worker that was believed dead finds out at its next beat, and nothing that it writes counts.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from service import errors
from service.connection import Connection, Declined, reached

KEPT_SECONDS = 7 * 24 * 3600  # an ended job
REMEMBERED_SECONDS = 24 * 3600  # an idempotency key
MOST_ATTEMPTS = 3
LOG_LINES = 1000
CANDIDATES = 8  # jobs looked at for one to claim
MOST_WAITING = 100
CHUNK_BYTES = 2**20  # of rows
ORPHAN_SECONDS = 600  # time to live of rows whose job was not submitted yet
SECONDS_BUCKETS = (1, 5, 15, 60, 300, 1800, 7200)  # of what a done job took

State = Literal["queued", "running", "done", "failed", "cancelled"]
Order = Literal["go", "cancel", "lost"]


@dataclass(frozen=True, slots=True)
class Progress:
    """``done`` of ``total`` units of a phase; a total of 0 is not known."""

    phase: str = ""
    done: int = 0
    total: int = 0
    rate: float = 0.0  # units per second, of late

    @property
    def seconds_left(self) -> float | None:
        """Of this phase, at this rate."""
        return (self.total - self.done) / self.rate if self.total and self.rate > 0 else None


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it stands. Times are seconds since 1970."""

    id: str
    kind: str
    detector: str
    spec: dict[str, Any]
    state: State
    created: float
    started: float | None
    ended: float | None
    worker: str | None
    attempts: int
    progress: Progress
    cancelling: bool
    result: dict[str, Any] | None
    error: str | None  # a sentence for who submitted it
    traceback: str | None  # for administrators

    @property
    def over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Tallies:
    """How many jobs wait and run now, and how many ended so far; of the done ones, how long their last attempt took."""

    states: dict[str, int]
    seconds: float = 0.0  # of all done ones
    within: tuple[int, ...] = (0,) * len(SECONDS_BUCKETS)  # done ones that took at most so many seconds


class Jobs:
    """The queue. Every method raises StoreUnavailable when the server cannot be reached."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # For who wants work done

    def submit(
        self,
        kind: str,
        detector: str,
        spec: dict[str, Any],
        *,
        rows: bytes = b"",
        idempotency_key: str | None = None,
        most_waiting: int = MOST_WAITING,
    ) -> Job:
        """Queue a job; the same ``idempotency_key`` again gives the job of the first time.

        ``rows`` are kept until the job is over. Raises KeyReused where the first one had another spec or other rows, and
        Overloaded where ``most_waiting`` jobs wait already.
        """
        job_id = uuid.uuid4().hex
        digest = hashlib.sha256(json.dumps([kind, detector, spec], sort_keys=True).encode() + rows).hexdigest()
        once = _key("once", hashlib.sha256(idempotency_key.encode()).hexdigest()) if idempotency_key else _key("job", job_id)
        keys = [_key("waiting"), _key("all"), _key("job", job_id), _key("rows", job_id), once]
        arguments = [job_id, kind, detector, json.dumps(spec), digest, REMEMBERED_SECONDS, KEPT_SECONDS, most_waiting]
        self._keep_rows(job_id, rows)
        try:
            found: bytes = self._connection.run("submit_job.lua", keys, arguments)
        except Declined as declined:
            if declined.kind == "FULL":
                raise errors.Overloaded(f"{declined.detail} jobs are waiting already; try again when some are over") from None
            raise errors.KeyReused(idempotency_key or "", declined.detail) from None
        return self.get(found.decode())

    def get(self, job_id: str) -> Job:
        """Raises UnknownJob, also for one that ended more than a week ago."""
        with reached():
            fields = self._connection.client.hgetall(_key("job", job_id))
        if not fields:
            raise errors.UnknownJob(job_id)
        return _job(fields)

    def several(self, ids: Iterable[str]) -> list[Job]:
        """Those of ``ids`` that there are, in one round trip."""
        with reached():
            asked = self._connection.client.pipeline(transaction=False)
            for job_id in ids:
                asked.hgetall(_key("job", job_id))
            return [_job(fields) for fields in asked.execute() if fields]

    def newest(self, count: int = 100) -> list[Job]:
        """The jobs submitted last, newest first."""
        with reached():
            ids = self._connection.client.zrange(_key("all"), 0, count - 1, desc=True)
        return self.several(job_id.decode() for job_id in ids)

    def unfinished(self) -> list[Job]:
        """The jobs that wait or run."""
        with reached():
            asked = self._connection.client.pipeline(transaction=False)
            for place in ("running", "waiting", "running"):  # in whichever direction a job moves meanwhile, it is met
                asked.zrange(_key(place), 0, -1)
            ids = {job_id.decode() for found in asked.execute() for job_id in found}
        return [job for job in self.several(sorted(ids)) if not job.over]

    def tallies(self) -> Tallies:
        with reached():
            asked = self._connection.client.pipeline(transaction=False)
            asked.zcard(_key("waiting"))
            asked.zcard(_key("running"))
            asked.hgetall(_key("counts"))
            waiting, running, counts = asked.execute()
        ended = {state: int(counts.get(state.encode(), 0)) for state in ("done", "failed", "cancelled")}
        within = tuple(int(counts.get(f"within {bound}".encode(), 0)) for bound in SECONDS_BUCKETS)
        return Tallies({"queued": waiting, "running": running, **ended}, int(counts.get(b"milliseconds", 0)) / 1000, within)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job: one that waits at once, a running one within its worker's next beat. One that is over stays as it is."""
        keys = [_key("waiting"), _key("job", job_id), _key("rows", job_id), _key("counts")]
        if not self._connection.run("cancel_job.lua", keys, [job_id, KEPT_SECONDS]):
            raise errors.UnknownJob(job_id)
        return self.get(job_id)

    def forget(self, job_id: str) -> bool:
        """Delete a job with its log. False, and nothing changes, where it is not over or is gone."""
        return bool(self._connection.run("forget_job.lua", [_key("all"), _key("job", job_id), _key("log", job_id)], [job_id]))

    def log(self, job_id: str) -> list[str]:
        with reached():
            return [line.decode(errors="replace") for line in self._connection.client.lrange(_key("log", job_id), 0, -1)]

    def rows(self, job_id: str) -> bytes:
        """The rows that came with a job that is not over; empty where none did."""
        chunks: list[bytes] = []
        with reached():
            while (chunk := self._connection.client.hget(_key("rows", job_id), str(len(chunks)))) is not None:
                chunks.append(chunk)
        return b"".join(chunks)

    # For workers

    def claim(self, worker: str, lease_seconds: float) -> Job | None:
        """A job for ``worker``, which holds it for ``lease_seconds``; None where none waits. First those whose worker died."""
        with reached():
            asked = self._connection.client.pipeline(transaction=False)
            asked.zrange(_key("running"), 0, CANDIDATES - 1)
            asked.zrange(_key("waiting"), 0, CANDIDATES - 1)
            running, waiting = asked.execute()
        token = uuid.uuid4().hex
        for candidate in [*running, *waiting]:
            job_id = candidate.decode()
            terms = [job_id, worker, int(1000 * lease_seconds), MOST_ATTEMPTS, KEPT_SECONDS, token]
            if self._connection.run("claim_job.lua", _keys(job_id), terms):
                return self.get(job_id)
        return None

    def beat(self, job_id: str, worker: str, lease_seconds: float, progress: Progress | None = None) -> Order:
        """Renew the lease, note ``progress``, and hear whether to go on, to cancel, or that the job is another's by now."""
        noted = [] if progress is None else ["progress", _written(progress)]
        keys = [_key("running"), _key("job", job_id)]
        order: bytes = self._connection.run("beat_job.lua", keys, [job_id, worker, int(1000 * lease_seconds), *noted])
        return order.decode()  # type: ignore[return-value]

    def finish(self, job_id: str, worker: str, result: dict[str, Any], progress: Progress | None = None) -> bool:
        """The job is done, with ``progress`` at last. False, and nothing changes, where it is not the worker's any more."""
        return self._end(job_id, worker, "done", result=json.dumps(result), error="", progress=_written(progress or Progress()))

    def fail(self, job_id: str, worker: str, error: str, traceback: str = "", *, again: bool = False) -> bool:
        """The job failed; ``again`` puts it back into the queue. False where it is not the worker's any more."""
        return self._end(job_id, worker, "queued" if again else "failed", error=error, traceback=traceback)

    def release(self, job_id: str, worker: str) -> bool:
        """Back into the queue, in its old place, as if the worker had never had it. False where it is not the worker's any more."""
        return self._end(job_id, worker, "queued", taken_back=1)

    def stop(self, job_id: str, worker: str) -> bool:
        """The job was cancelled. False where it is not the worker's any more."""
        return self._end(job_id, worker, "cancelled")

    def write_log(self, job_id: str, lines: list[str]) -> None:
        """Add to the log of a job, of which the last ``LOG_LINES`` lines are kept."""
        if not lines:
            return
        with reached():
            asked = self._connection.client.pipeline(transaction=False)
            asked.rpush(_key("log", job_id), *lines)
            asked.ltrim(_key("log", job_id), -LOG_LINES, -1)
            asked.expire(_key("log", job_id), KEPT_SECONDS)
            asked.execute()

    def _keep_rows(self, job_id: str, rows: bytes) -> None:
        key = _key("rows", job_id)
        with reached():
            for index, start in enumerate(range(0, len(rows), CHUNK_BYTES)):
                self._connection.client.hset(key, str(index), rows[start : start + CHUNK_BYTES])
                self._connection.client.expire(key, ORPHAN_SECONDS)

    def _end(self, job_id: str, worker: str, state: State, *, taken_back: int = 0, **noted: str) -> bool:
        given = [text for pair in noted.items() for text in pair] or ["error", ""]
        bounds = " ".join(map(str, SECONDS_BUCKETS))
        terms = [job_id, worker, state, KEPT_SECONDS, taken_back, bounds, uuid.uuid4().hex]
        return bool(self._connection.run("end_job.lua", _keys(job_id), [*terms, *given]))


def _job(fields: dict[bytes, bytes]) -> Job:
    text = {name.decode(): value.decode() for name, value in fields.items()}
    phase, done, total, rate = json.loads(text.get("progress", '["", 0, 0, 0.0]'))
    return Job(
        id=text["id"],
        kind=text["kind"],
        detector=text["detector"],
        spec=json.loads(text["spec"]),
        state=text["state"],  # type: ignore[arg-type]
        created=int(text["created"]) / 1000,
        started=int(text["started"]) / 1000 if "started" in text else None,
        ended=int(text["ended"]) / 1000 if "ended" in text else None,
        worker=text.get("worker"),
        attempts=int(text["attempts"]),
        progress=Progress(phase, done, total, rate),
        cancelling="cancelling" in text,
        result=json.loads(text["result"]) if "result" in text else None,
        error=text.get("error") or None,
        traceback=text.get("traceback") or None,
    )


def _written(progress: Progress) -> str:
    return json.dumps([progress.phase, progress.done, progress.total, progress.rate])


def _keys(job_id: str) -> list[str]:
    return [_key("waiting"), _key("running"), _key("job", job_id), _key("rows", job_id), _key("counts")]


def _key(*parts: str) -> str:
    return ":".join(("farfield", "{jobs}", *parts))
