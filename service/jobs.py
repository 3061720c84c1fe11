"""Jobs: work that takes longer than a request, waiting in the store for a worker.

All keys of jobs carry one hash tag and so lie in one cluster slot:

    farfield:{jobs}:waiting       sorted set, id -> when submitted
    farfield:{jobs}:running       sorted set, id -> when the lease of its worker ends
    farfield:{jobs}:all           sorted set, id -> when submitted
    farfield:{jobs}:job:ID        hash, see ``Job``
    farfield:{jobs}:log:ID        list of the lines that its worker wrote
    farfield:{jobs}:once:KEY      hash, the job that was submitted with an idempotency key

Times are milliseconds of the server's own clock, the only one that all workers share. A worker
holds a job by a lease that it renews; one that dies lets the lease run out, and the job is taken
over. A worker that was believed dead finds out at its next beat, and nothing that it writes counts.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass
from typing import Any, Literal

from service import errors
from service.connection import Connection, Declined, reached

KEPT_SECONDS = 7 * 24 * 3600  # an ended job
REMEMBERED_SECONDS = 24 * 3600  # an idempotency key
MOST_ATTEMPTS = 3
LOG_LINES = 1000
CANDIDATES = 8  # jobs looked at for one to claim

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


class Jobs:
    """The queue. Every method raises StoreUnavailable when the server cannot be reached."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # For who wants work done

    def submit(self, kind: str, detector: str, spec: dict[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Queue a job; the same ``idempotency_key`` again gives the job of the first time.

        Raises KeyReused where that one had another spec.
        """
        job_id = uuid.uuid4().hex
        text = json.dumps([kind, detector, spec], sort_keys=True)
        once = _key("once", hashlib.sha256(idempotency_key.encode()).hexdigest()) if idempotency_key else _key("job", job_id)
        keys = [_key("waiting"), _key("all"), _key("job", job_id), once]
        digest = hashlib.sha256(text.encode()).hexdigest()
        arguments = [job_id, kind, detector, json.dumps(spec), digest, REMEMBERED_SECONDS, KEPT_SECONDS]
        try:
            found: bytes = self._connection.run("submit_job.lua", keys, arguments)
        except Declined as declined:
            raise errors.KeyReused(idempotency_key or "", declined.detail) from None
        return self.get(found.decode())

    def get(self, job_id: str) -> Job:
        """Raises UnknownJob, also for one that ended more than a week ago."""
        with reached():
            fields = self._connection.client.hgetall(_key("job", job_id))
        if not fields:
            raise errors.UnknownJob(job_id)
        return _job(fields)

    def newest(self, count: int = 100) -> list[Job]:
        """The jobs submitted last, newest first."""
        with reached():
            client = self._connection.client
            asked = client.pipeline(transaction=False)
            for job_id in client.zrange(_key("all"), 0, count - 1, desc=True):
                asked.hgetall(_key("job", job_id.decode()))
            return [_job(fields) for fields in asked.execute() if fields]

    def states(self) -> dict[str, int]:
        """How many jobs wait and how many run."""
        with reached():
            asked = self._connection.client.pipeline(transaction=False)
            asked.zcard(_key("waiting"))
            asked.zcard(_key("running"))
            waiting, running = asked.execute()
        return {"queued": waiting, "running": running}

    def cancel(self, job_id: str) -> Job:
        """Cancel a job: one that waits at once, a running one within its worker's next beat. One that is over stays as it is."""
        if not self._connection.run("cancel_job.lua", [_key("waiting"), _key("job", job_id)], [job_id, KEPT_SECONDS]):
            raise errors.UnknownJob(job_id)
        return self.get(job_id)

    def log(self, job_id: str) -> list[str]:
        with reached():
            return [line.decode(errors="replace") for line in self._connection.client.lrange(_key("log", job_id), 0, -1)]

    # For workers

    def claim(self, worker: str, lease_seconds: float) -> Job | None:
        """A job for ``worker``, which holds it for ``lease_seconds``; None where none waits. First those whose worker died."""
        with reached():
            asked = self._connection.client.pipeline(transaction=False)
            asked.zrange(_key("running"), 0, CANDIDATES - 1)
            asked.zrange(_key("waiting"), 0, CANDIDATES - 1)
            running, waiting = asked.execute()
        for candidate in [*running, *waiting]:
            job_id = candidate.decode()
            keys = [_key("waiting"), _key("running"), _key("job", job_id)]
            if self._connection.run("claim_job.lua", keys, [job_id, worker, int(1000 * lease_seconds), MOST_ATTEMPTS, KEPT_SECONDS]):
                return self.get(job_id)
        return None

    def beat(self, job_id: str, worker: str, lease_seconds: float, progress: Progress | None = None) -> Order:
        """Renew the lease, note ``progress``, and hear whether to go on, to cancel, or that the job is another's by now."""
        noted = [] if progress is None else ["progress", json.dumps([progress.phase, progress.done, progress.total, progress.rate])]
        keys = [_key("running"), _key("job", job_id)]
        order: bytes = self._connection.run("beat_job.lua", keys, [job_id, worker, int(1000 * lease_seconds), *noted])
        return order.decode()  # type: ignore[return-value]

    def finish(self, job_id: str, worker: str, result: dict[str, Any]) -> bool:
        """The job is done. False, and nothing changes, where it is not the worker's any more."""
        return self._end(job_id, worker, "done", result=json.dumps(result))

    def fail(self, job_id: str, worker: str, error: str, traceback: str = "", *, again: bool = False) -> bool:
        """The job failed; ``again`` puts it back into the queue. False where it is not the worker's any more."""
        return self._end(job_id, worker, "queued" if again else "failed", error=error, traceback=traceback)

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

    def _end(self, job_id: str, worker: str, state: State, **noted: str) -> bool:
        keys = [_key("waiting"), _key("running"), _key("job", job_id)]
        given = [text for pair in noted.items() for text in pair] or ["error", ""]
        return bool(self._connection.run("end_job.lua", keys, [job_id, worker, state, KEPT_SECONDS, *given]))


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


def _key(*parts: str) -> str:
    return ":".join(("farfield", "{jobs}", *parts))
