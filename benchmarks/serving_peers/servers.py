"""Servers as processes, and the load that wrk puts on them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import httpx2
import numpy as np

from benchmarks.serving_peers import REASON, Unavailable
from benchmarks.serving_peers.bodies import FORMS, Made

MARK = "SERVING_BENCHMARK"  # a variable by which every process that a run has started is known, whoever started it
START_SECONDS = 300
END_SECONDS = 15
SETTLE_SECONDS, LOOK_SECONDS, QUIET = 60, 0.2, 0.3  # until servers use less than so much of a core, seen over so long
LUA = Path(__file__).with_name("body.lua")
PINNED = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Sample(NamedTuple):
    """One turn: answers per second, milliseconds, and requests that were refused or broken."""

    rate: float
    p50: float = 0.0
    p99: float = 0.0
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Server:
    """One that runs; ``paths`` are by the form of body."""

    name: str
    version: str
    port: int
    paths: dict[str, str]
    process: subprocess.Popen[bytes]
    log: Path

    def url(self, form: str) -> str:
        return f"http://127.0.0.1:{self.port}{self.paths[form]}"

    def scores(self, form: str, made: Made) -> np.ndarray:
        """The scores that it answers to one body. Raises Unavailable for any other answer."""
        headers, body = made
        answer = httpx2.post(self.url(form), content=body, headers=headers, timeout=START_SECONDS)
        if answer.status_code != 200:
            raise Unavailable(f"answers {answer.status_code} to {form}: {answer.text[:REASON]}")
        return np.asarray(FORMS[form].read(answer), np.float64)

    def wait(self, form: str, made: Made) -> None:
        """Until it answers. Raises Unavailable where that takes too long, or its process ends."""
        until, last = time.monotonic() + START_SECONDS, ""
        while time.monotonic() < until and self.process.poll() is None:
            try:
                self.scores(form, made)
                return
            except (Unavailable, httpx2.HTTPError) as error:
                last = str(error)
            time.sleep(0.5)
        printed = self.log.read_text(errors="replace").strip()[-REASON:]
        raise Unavailable(f"does not start: {last} {printed}".replace("\n", " "))


@contextmanager
def running() -> Iterator[dict[str, str]]:
    """An environment for servers; at its end all processes that have it are ended, their descendants too."""
    mark = uuid.uuid4().hex
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield {**os.environ, **PINNED, MARK: mark}
    finally:
        signal.signal(signal.SIGTERM, before)
        _end(mark, signal.SIGTERM)
        until = time.monotonic() + END_SECONDS
        while _marked(mark) and time.monotonic() < until:
            time.sleep(0.1)
        _end(mark, signal.SIGKILL)


def settle(mark: str) -> None:
    """Wait until the servers have worked off what was asked of them by clients that have left: most go on, and would disturb the next."""
    until, used = time.monotonic() + SETTLE_SECONDS, _processor_seconds(mark)
    while time.monotonic() < until:
        time.sleep(LOOK_SECONDS)
        before, used = used, _processor_seconds(mark)
        if used - before < QUIET * LOOK_SECONDS:
            return


def _processor_seconds(mark: str) -> float:
    """Of all processes with this mark."""
    ticks = 0
    for process in _marked(mark):
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _end(mark: str, number: int) -> None:
    for process in _marked(mark):
        try:
            os.kill(process, number)
        except ProcessLookupError:
            continue


def _marked(mark: str) -> list[int]:
    """Processes with this mark that have not ended; a zombie has no environment any more."""
    found, text = [], f"{MARK}={mark}".encode()
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            try:
                if text in (place / "environ").read_bytes().split(b"\0"):
                    found.append(int(place.name))
            except OSError:
                continue
    return found


def start(name: str, version: str, command: list[str | Path], paths: dict[str, str], environment: dict[str, str], folder: Path) -> Server:
    """The server of a command that takes its port for ``{port}``, with its output in a file below ``folder``."""
    port, log = free_port(), folder / f"{name}.log"
    with log.open("wb") as output:
        said = [str(part).format(port=port) for part in command]
        process = subprocess.Popen(said, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    return Server(name, version, port, paths, process, log)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def load(url: str, headers: dict[str, str], body: Path, connections: int, seconds: int) -> Sample:
    """What wrk finds in so many seconds, over connections that are kept and each wait for an answer before they ask again."""
    given = [text for pair in headers.items() for text in pair]
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={START_SECONDS}s", "-s", LUA, url, "--", body, *given]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    found = json.loads(lines[-1])
    good = found["answers"] - found["refused"]
    return Sample(good / found["seconds"], found["p50"], found["p99"], found["refused"] + found["errors"])
