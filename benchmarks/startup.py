"""How long until the service is ready, and until a command says something: ``python -m benchmarks.startup``.

Publishes 100 detectors to a Redis server of its own, and starts several times, by turns,

* ``farfield serve --no-worker``, with one process and with two, until ``/readyz`` answers 200,
* what a process that serves imports, alone,
* the list of commands (``--help``) and ``farfield versions NAME``.

Prints medians of seconds by the clock, and of the processor time of all processes that were started. With ``--write`` the table goes to
``docs/operations.md``.
"""

from __future__ import annotations

import argparse
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import redis

from benchmarks import pages
from benchmarks.serving_path import processor_time
from service import archive, engine
from service.embedded import server_binary
from service.features import Batch
from service.manifest import Source
from service.recipe import Recipe
from service.store import Store

PAGE = Path(__file__).parents[1] / "docs" / "operations.md"
SECTION = "benchmarks.startup"
ROWS, WIDTH = 1000, 64
PATIENCE = 60.0  # seconds
LOOK = 0.01  # seconds between looks for readiness
IMPORTS = "from service.imports import unswept\nwith unswept():\n    import service.serving.commands, service.serving.server"
FARFIELD = [sys.executable, "-m", "service.cli"]


@contextmanager
def store(detectors):
    """The address of a store with so many detectors of one version each."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
        probe.close()
        command = [str(server_binary()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            with redis.Redis(port=port) as client:
                wait(server, client.ping)
            with Store.open(f"redis://127.0.0.1:{port}/0") as opened:
                fitted = engine.fit(Recipe(), Batch(rows=np.random.default_rng(0).standard_normal((ROWS, WIDTH))))
                for number in range(detectors):
                    source = Source(name="random rows", rows=ROWS, sha256="0" * 64)
                    opened.publish(name(number), *archive.pack(fitted, name(number), source))
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()
            server.wait()


def name(number):
    return f"detector-{number:03}"


def wait(process, happened):
    """Until something happens. Raises RuntimeError where the process ends before, or it takes too long."""
    until = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until:
        with suppress(OSError, redis.RedisError):
            if happened():
                return
        time.sleep(LOOK)
    raise RuntimeError(f"{process.args} is not ready; its exit status is {process.poll()}")


def ready(url, workers):
    """Seconds until the service is ready, and its processor time until then."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]

    def answers():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=PATIENCE) as answer:  # 503 is an OSError
            return answer.status == 200

    command = [*FARFIELD, "serve", "--store", url, "--port", str(port), "--no-worker", "--workers", str(workers)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait(process, answers)
        return time.perf_counter() - start, sum(map(processor_time, family(process)))
    finally:
        process.terminate()
        process.wait()


def family(process):
    """A process and all that it has started."""
    started = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [process, *(member for child in started for member in family(SimpleNamespace(pid=child)))]


def ended(command):
    """Seconds that a command takes, and its processor time."""
    before, start = used(), time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start, used() - before


def used():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measured(url, rounds):
    """Name and measurements of each thing, in turns."""
    things = {
        "`farfield serve` until ready": lambda: ready(url, 1),
        "the same with `--workers 2`": lambda: ready(url, 2),
        "what it imports, alone": lambda: ended([sys.executable, "-c", IMPORTS]),
        "the list of commands": lambda: ended([*FARFIELD, "--help"]),
        "`farfield versions NAME`": lambda: ended([*FARFIELD, "versions", name(0), "--store", url]),
    }
    found = {thing: [] for thing in things}
    for _ in range(rounds):
        for thing, measure in things.items():
            found[thing].append(measure())
    return found


def table(found):
    yield "| what | seconds | range | processor time |"
    yield "|---|--:|--:|--:|"
    for thing, taken in found.items():
        seconds, processor = zip(*taken, strict=True)
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        yield f"| {thing} | {statistics.median(seconds):.2f} | {spread} | {statistics.median(processor):.2f} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detectors", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true", help="put the table into docs/operations.md")
    options = parser.parse_args()
    begun = f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    with store(options.detectors) as url:
        found = measured(url, options.rounds)
    text = "\n".join([f"{begun}; {options.detectors} detectors, {options.rounds} rounds.", "", *table(found)])
    print(text)
    if options.write:
        PAGE.write_text(pages.written(PAGE.read_text(), SECTION, text))


if __name__ == "__main__":
    main()
