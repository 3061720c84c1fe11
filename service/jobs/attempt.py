"""One run of a job in a process of its own, seen from the worker: its progress, its log, how it ended, and its end by force."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from service import attachment
from service.jobs.queue import LOG_LINES, Job, Progress
from service.settings import MIB, Settings

LONGEST_LINE = 2000  # characters of the log
STATM = "/proc/{}/statm"
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended: with a ``result``, or with an ``error`` for who submitted the job."""

    result: dict[str, Any] | None = None
    error: str = ""
    traceback: str = ""
    most_attempts: int = 1  # the job may be tried again while it had fewer


class Attempt:
    """``python -m service.jobs.work`` on a job. ``close`` kills it if it still runs."""

    def __init__(self, job: Job, settings: Settings) -> None:
        order = {"id": job.id, "kind": job.kind, "detector": job.detector, "spec": job.spec, "settings": settings.model_dump(mode="json")}
        self._process = attachment.start("service.jobs.work", order, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._most_bytes = settings.worker_memory * MIB
        self._over: int | None = None  # bytes for which it was ended
        self._ending: Ending | None = None
        self._told_all = threading.Event()
        self._lines: deque[str] = deque(maxlen=LOG_LINES)
        self.progress = Progress("start")
        self._readers = [
            threading.Thread(target=self._read_news, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._read_log, args=(self._process.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ended(self, seconds: float) -> Ending | None:
        """How it ended, or None if it still runs after ``seconds``; one that takes too much memory is ended."""
        if self._told_all.wait(seconds):
            return self._ending or self._killed(self._process.wait())
        if self._most_bytes and (used := resident_bytes(self._process.pid)) > self._most_bytes:
            self._over = used
            self._kill()
        return None

    def lines(self) -> list[str]:
        """What it has written to its log since the last call."""
        return [self._lines.popleft() for _ in range(len(self._lines))]

    def close(self) -> None:
        """Kill it if it still runs, and all that it started."""
        self._kill()
        self._process.wait()
        for reader in self._readers:
            reader.join()
        attachment.detach(self._process)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe:
                pipe.close()

    def _kill(self) -> None:
        if self._process.returncode is None:  # else its number may be another one's by now
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _killed(self, status: int) -> Ending:
        if self._over:
            limit = f"{self._over // MIB} MiB, over the limit of {self._most_bytes // MIB} MiB for one job"
            return Ending(error=f"the job took {limit}: give fewer rows, or let its worker have more (--memory)", most_attempts=2)
        if status == -signal.SIGKILL:
            return Ending(error="the process of the job was killed, most likely because the machine ran out of memory", most_attempts=2)
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return Ending(error=f"the process of the job ended by {how}", most_attempts=3)

    def _read_news(self, pipe: IO[bytes]) -> None:
        for line in pipe:
            with suppress(ValueError, TypeError, KeyError):  # half a line of a process that was killed
                said = json.loads(line)
                if "progress" in said:
                    self.progress = Progress(*said["progress"])
                else:
                    self._ending = Ending(**said)
                    self._told_all.set()
        self._told_all.set()

    def _read_log(self, pipe: IO[bytes]) -> None:
        for line in pipe:
            self._lines.append(line.decode(errors="replace").rstrip("\n")[:LONGEST_LINE])


def resident_bytes(pid: int) -> int:
    """Memory that a process has now; 0 if it has ended, or where there is no /proc."""
    try:
        return int(Path(STATM.format(pid)).read_text().split()[1]) * PAGE_BYTES
    except (OSError, IndexError):
        return 0
