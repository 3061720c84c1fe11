"""A service without a worker of its own, workers in processes of their own, and ways to hold, kill and follow what they do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from service import attachment
from service.jobs.queue import Jobs
from service.settings import Settings
from service.store import Store
from tests.servers import Process, ServiceProcess, eventually, stop
from tests.service.served import rows

ROOT = Path(__file__).parents[2]
ALPHA = 0.1


class WorkerProcess(Process):
    """A worker as ``farfield serve`` starts it, which is there sooner than ``farfield worker``."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        super().__init__([], folder)
        self.settings = settings

    def spawn(self) -> None:
        with self.log_file.open("ab") as log:
            self.process = attachment.start("service.jobs.worker", self.settings.model_dump(mode="json"), cwd=ROOT, stdout=log, stderr=log)

    def start(self) -> WorkerProcess:
        self.spawn()
        eventually(lambda: "waits for jobs" in self.log(), "the worker is there")
        return self

    def kill(self) -> None:
        super().kill()
        attachment.detach(self.process)


@dataclass
class Shop:
    """A service on a store, and workers that come and go."""

    folder: Path
    service: ServiceProcess
    client: httpx2.Client
    store: Store
    url: str
    workers: list[WorkerProcess] = field(default_factory=list)

    @property
    def jobs(self) -> Jobs:
        return Jobs(self.store.connection)

    def worker(self, **settings: Any) -> WorkerProcess:
        self.workers.append(WorkerProcess(self.folder / f"worker-{len(self.workers)}", Settings(store=self.url, **settings)))
        return self.workers[-1].start()

    def dismiss(self) -> None:
        """Kill all workers."""
        while self.workers:
            self.workers.pop().kill()

    def ask(self, name: str, *, key: str | None = None, **body: Any) -> httpx2.Response:
        """The answer to a request to fit; by default on rows that suffice."""
        if not {"rows", "data"} & body.keys():
            body = {"rows": rows(60).tolist(), "alpha": ALPHA, **body}
        headers = {"Idempotency-Key": key} if key else {}
        return self.client.post(f"/v1/detectors/{name}:fit", json=body, headers=headers)

    def submit(self, name: str, **body: Any) -> str:
        answer = self.ask(name, **body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.client.get(f"/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def until(self, job_id: str, *states: str) -> dict[str, Any]:
        eventually(lambda: self.job(job_id)["state"] in states, f"the job is {' or '.join(states)}")
        return self.job(job_id)

    def held(self, job_id: str, worker: WorkerProcess) -> int:
        """The process that does a job of ``worker``, frozen before it can have ended, so that the job runs for as long as is wished."""
        return eventually(lambda: self._frozen(job_id, worker), "the job has a process")

    def _frozen(self, job_id: str, worker: WorkerProcess) -> int:
        for pid in children(worker.process.pid):
            if b"service.jobs.work\0" in Path(f"/proc/{pid}/cmdline").read_bytes():  # not the worker's own copy, which waits to become it
                stop(pid)
                return pid
        assert self.jobs.get(job_id).state in ("queued", "running")
        return 0


@contextmanager
def shop(folder: Path, url: str, **environment: str) -> Iterator[Shop]:
    service = ServiceProcess(folder / "service", url, environment)
    with Store.open(url, timeout=2) as store:
        try:
            service.start(ready=False)
            with httpx2.Client(base_url=service.url, timeout=60, limits=httpx2.Limits(max_connections=None)) as client:
                running = Shop(folder, service, client, store, url)
                try:
                    yield running
                finally:
                    running.dismiss()
        finally:
            service.kill()


def children(pid: int) -> list[int]:
    """Processes that process ``pid`` has started and that have not ended."""
    found = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for group in found for child in group]


def events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Kind and job of each server-sent event; a comment is of the kind ``comment``."""
    kind = ""
    for line in lines:
        if line.startswith(":"):
            yield "comment", {}
        elif line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield kind, json.loads(line.removeprefix("data: "))
