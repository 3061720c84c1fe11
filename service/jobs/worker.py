"""The worker: takes jobs from the store, has each done in a process of its own, and keeps their leases meanwhile.

Any number of workers on any number of hosts share one store. What a job does is in ``service.jobs.work``; nothing of it runs here,
so that a beat is never late, a job is cancelled by a kill, and one that crashes takes nothing with it.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from service import attachment, errors
from service.jobs.attempt import STATM, Attempt, Ending
from service.jobs.queue import Job, Jobs, Order, Progress
from service.outliers.webhooks import Webhooks
from service.settings import Settings
from service.store import Store

log = logging.getLogger(__name__)

LEASE_SECONDS = 5.0  # after the last beat of a worker, others may take its jobs
BEAT_SECONDS = 0.25  # also how long a cancelled job goes on at most, and how long a job waits for an idle worker
TICK_SECONDS = 0.05  # between looks at a job's process and its memory
AWAY_SECONDS = 1.0  # between tries to reach a store that does not answer


class Worker:
    """Runs jobs until told to ``stop``, which may be called from a signal handler or another thread."""

    def __init__(self, settings: Settings, store: Store) -> None:
        if settings.worker_memory and not Path(STATM.format("self")).exists():
            raise errors.StartupError("a memory limit needs /proc, which this system does not have: leave out --memory")
        self.name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._settings, self._store = settings, store
        self._jobs = Jobs(store.connection)
        self._stopping = False

    def stop(self) -> None:
        """End soon, with the jobs in hand back in the queue."""
        self._stopping = True  # nothing more: a signal handler must not wait for a lock

    def run(self) -> None:
        """Take jobs and have them done, until stopped."""
        log.info("worker %s waits for jobs, %d at a time", self.name, self._settings.worker_concurrency)
        threads: list[threading.Thread] = []
        while not self._stopping:
            threads = [thread for thread in threads if thread.is_alive()]
            job = self._claimed() if len(threads) < self._settings.worker_concurrency else None
            if job:
                threads.append(threading.Thread(target=self._do, args=(job,), name=f"job {job.id}"))
                threads[-1].start()
            else:
                time.sleep(BEAT_SECONDS)
        for thread in threads:
            thread.join()

    def _claimed(self) -> Job | None:
        try:
            return self._jobs.claim(self.name, LEASE_SECONDS)
        except errors.StoreUnavailable as error:
            self._wait_for_store(error)
            return None

    def _do(self, job: Job) -> None:
        """Have a job done, or end it, as its state demands, and tell the store."""
        log.info("job %s, a %s of %s: attempt %d", job.id, job.kind, job.detector, job.attempts)
        self._note(job, [f"{_now()} attempt {job.attempts} by worker {self.name}"])
        with Attempt(job, self._settings) as attempt:
            order, ending = self._watched(job, attempt)
            attempt.close()
            self._note(job, attempt.lines())
        if order == "lost":
            log.warning("job %s is another worker's by now", job.id)
        elif ending:
            self._tell(job, ending, attempt.progress)
        elif order == "cancel":
            self._told(lambda: self._cancelled(job))
        else:
            self._told(lambda: self._jobs.release(job.id, self.name))

    def _watched(self, job: Job, attempt: Attempt) -> tuple[Order, Ending | None]:
        """Keep the lease until the attempt ends by itself, or until there is a reason to end it."""
        last = -BEAT_SECONDS
        while not self._stopping:
            if ending := attempt.ended(TICK_SECONDS):
                return "go", ending
            if time.monotonic() - last >= BEAT_SECONDS:
                last = time.monotonic()
                try:
                    order = self._jobs.beat(job.id, self.name, LEASE_SECONDS, attempt.progress)
                except errors.StoreUnavailable as error:
                    log.warning("%s; job %s goes on meanwhile", error, job.id)
                    continue
                self._note(job, attempt.lines())
                if order != "go":
                    return order, None
        return "go", None

    def _tell(self, job: Job, ending: Ending, progress: Progress) -> None:
        if ending.result is not None:
            result = ending.result
            self._told(lambda: self._jobs.finish(job.id, self.name, result, progress))
            return
        again = job.attempts < ending.most_attempts
        log.warning("job %s failed, %s: %s", job.id, "and is tried again" if again else "for good", ending.error)
        self._note(job, [f"{_now()} {ending.error}"])
        self._told(lambda: self._jobs.fail(job.id, self.name, ending.error, ending.traceback, again=again))

    def _cancelled(self, job: Job) -> None:
        """A job that was cancelled too late, with its version published already, is done."""
        number = self._store.published(job.detector, job.id)
        if number is None:
            self._jobs.stop(job.id, self.name)
        else:
            self._jobs.finish(job.id, self.name, {"detector": job.detector, "version": number})

    def _note(self, job: Job, lines: list[str]) -> None:
        try:
            self._jobs.write_log(job.id, lines)
        except errors.StoreUnavailable as error:
            log.warning("%s; lost from the log of job %s: %s", error, job.id, lines)

    def _told(self, tell: Callable[[], object]) -> None:
        """Tell the store how a job ended, as soon as it answers; a worker that has to go leaves it to the lease."""
        while True:
            try:
                tell()
                return
            except errors.StoreUnavailable as error:
                if self._stopping:
                    return
                self._wait_for_store(error)

    def _wait_for_store(self, error: errors.StoreUnavailable) -> None:
        log.warning("%s", error)
        try:
            self._store.ping()  # starts an embedded server that has died
        except errors.ServiceError:
            time.sleep(AWAY_SECONDS)


def run(settings: Settings, *, attached: bool = False) -> None:
    """Work until SIGINT or SIGTERM, and where ``attached`` until the parent ends. The jobs in hand go back into the queue."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with Store.open(settings.store, timeout=settings.store_timeout) as store:
        worker = Worker(settings, store)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: worker.stop())
        if attached:
            attachment.watch(worker.stop)
        with Webhooks(settings, store):
            worker.run()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def main() -> None:
    """The worker that ``farfield serve`` starts, which ends with it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # in order, for an embedded store that it may be joining
    run(Settings(**attachment.order()), attached=True)


if __name__ == "__main__":
    main()
