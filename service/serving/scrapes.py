"""How processes that serve together answer a scrape: whichever is asked has the one that started them ask all of them.

Two pipes lead from the starter to each process: by one it asks for a snapshot of the process's metrics, by the other the process
asks for those of all. They carry JSON, and end with the process.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from service.errors import Overloaded
from service.serving.totals import Snapshot, Totals

ANSWER_SECONDS = 2.0  # that all processes have for their snapshots; of one that takes longer the one before counts
SCRAPE_SECONDS = 5.0  # that the starter has
QUESTION = b"?"
ENDED = (EOFError, OSError)  # what a pipe says whose other end is closed


class Gathering:
    """The starter's side: the pipes to all processes, and what they have counted."""

    def __init__(self) -> None:
        self._totals = Totals()
        self._asked: dict[int, Connection] = {}  # by process
        self._awaited: set[int] = set()  # processes that have not begun to serve, or not answered yet: a scrape does not wait for them
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def joined(self) -> tuple[Connection, Connection]:
        """The ends of the pipes for a new process, to be closed here when it has them."""
        (asked, answers), (scraped, scrapes) = Pipe(), Pipe()
        with self._lock:
            process = next(self._numbers)
            self._asked[process] = asked
            self._awaited.add(process)
        threading.Thread(target=self._serve, args=(process, scraped), daemon=True, name="scrapes").start()
        return answers, scrapes

    def _serve(self, process: int, scraped: Connection) -> None:
        """Answer the scrapes of a process for as long as it lives."""
        with scraped, suppress(*ENDED):
            while True:
                scraped.recv_bytes()
                scraped.send_bytes(self._whole())
        with self._lock:
            self._asked.pop(process).close()
            self._awaited.discard(process)
            self._totals.ended(process)

    def _whole(self) -> bytes:
        with self._lock:
            for process, pipe in self._asked.items():
                self._receive(process, pipe, 0.0)  # its first snapshot, or what came too late for the scrape before
            asked = {process: pipe for process, pipe in self._asked.items() if process not in self._awaited and _sent(pipe)}
            self._awaited.update(asked)
            until = time.monotonic() + ANSWER_SECONDS
            for process, pipe in asked.items():
                self._receive(process, pipe, max(until - time.monotonic(), 0.0))
            return self._totals.whole().packed()

    def _receive(self, process: int, pipe: Connection, seconds: float) -> None:
        """The snapshot that a process was asked for, if it comes within so many seconds."""
        with suppress(*ENDED):
            if process in self._awaited and pipe.poll(seconds):
                self._totals.saw(process, Snapshot.unpacked(pipe.recv_bytes()))
                self._awaited.remove(process)


class Whole(Collector):
    """The other side, in each process: the metrics of all, and answers about its own. ``collect`` raises Overloaded."""

    def __init__(self, own: Collector, answers: Connection, scrapes: Connection) -> None:
        self._own, self._answers, self._scrapes = own, answers, scrapes
        self._lock = threading.Lock()
        threading.Thread(target=self._answer, daemon=True, name="metrics").start()

    def collect(self) -> Iterator[Metric]:
        with self._lock, suppress(*ENDED):
            while self._scrapes.poll():
                self._scrapes.recv_bytes()  # came too late for who asked
            self._scrapes.send_bytes(QUESTION)
            if self._scrapes.poll(SCRAPE_SECONDS):
                return Snapshot.unpacked(self._scrapes.recv_bytes()).metrics()
        raise Overloaded("the metrics of all processes could not be added up; try again in a moment")

    def _answer(self) -> None:
        with suppress(*ENDED):
            while True:
                self._answers.send_bytes(Snapshot.of(self._own.collect()).packed())
                self._answers.recv_bytes()


def _sent(pipe: Connection) -> bool:
    with suppress(*ENDED):
        pipe.send_bytes(QUESTION)
        return True
    return False
