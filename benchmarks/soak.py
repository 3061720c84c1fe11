"""A service under load for as long as one likes, with promotes all the while: ``python -m benchmarks.soak --minutes 10``.

Starts ``farfield serve`` on an empty store with two versions of a detector whose scores differ, finds how many requests a second it
answers over eight connections, and then sends a share of that rate, evenly, while the alias ``champion`` goes from one version
to the other once a second. Prints

* errors: answers other than 200, and connections that broke,
* mixed versions: answers whose scores are not those of the version that they name,
* the memory of all its processes, as the median of the first and of the last tenth of the time.

Exit status 1 tells of errors, mixed versions, or of memory that grew by more than 2 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import orjson

from benchmarks.serving_path import wait
from service import archive, engine
from service.features import Batch
from service.manifest import Source
from service.recipe import Recipe
from service.store import Store

NAME, WIDTH, ROWS = "soaked", 64, 4
CONNECTIONS = 8
MOST_GROWTH = 0.02
PROBE = np.random.default_rng(1).standard_normal((ROWS, WIDTH))
BODY = orjson.dumps({"rows": PROBE.tolist()})


@dataclass
class Seen:
    """What the clients saw."""

    expected: dict[int, np.ndarray]  # scores by version
    answers: int = 0
    errors: list[str] = field(default_factory=list)
    mixed: int = 0
    versions: set[int] = field(default_factory=set)
    promotes: int = 0
    memory: list[float] = field(default_factory=list)  # a sample a second

    def answer(self, status, body):
        self.answers += 1
        if status != 200:
            self.errors.append(f"{status}: {body[:200]!r}")
            return
        found = orjson.loads(body)
        scores = np.array([result["score"] for result in found["results"]])
        self.versions.add(found["version"])
        self.mixed += not np.allclose(scores, self.expected[found["version"]], rtol=1e-9)

    def growth(self):
        tenth = max(len(self.memory) // 10, 1)
        first, last = statistics.median(self.memory[:tenth]), statistics.median(self.memory[-tenth:])
        return first, last, last / first - 1


@contextmanager
def service(workers):
    """The address of a service, and the scores of the probe by each version of its detector."""
    with tempfile.TemporaryDirectory() as folder:
        store, expected = f"embedded:{folder}/data", {}
        with Store.open(store) as opened:
            for scale in (1.0, 3.0):
                rows = scale * np.random.default_rng(0).standard_normal((1000, WIDTH))
                fitted = engine.fit(Recipe(alpha=0.05), Batch(rows=rows))
                number = opened.publish(NAME, *archive.pack(fitted, NAME, Source(name="random rows", rows=1000, sha256="0" * 64)))
                expected[number] = engine.score(fitted, Batch(rows=PROBE)).scores
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "service.cli", "serve", "--store", store, "--port", str(port), "--no-worker"]
        process = subprocess.Popen([*command, "--workers", str(workers)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait(f"http://127.0.0.1:{port}/readyz", process)
            yield port, expected
        finally:
            process.terminate()
            process.wait()


async def ask(port, seen, until, times):
    """Send a request at each of ``times`` over one connection, late ones at once, until ``until``; a broken connection is made again."""
    head = (
        f"POST /v1/detectors/{NAME}:score HTTP/1.1\r\nHost: soak\r\nContent-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
    )
    reader = writer = None
    for at in times:
        await asyncio.sleep(max(at - time.perf_counter(), 0))
        if time.perf_counter() >= until:
            break
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head.encode() + BODY)
            answered = (await reader.readuntil(b"\r\n\r\n")).decode()
            body = await reader.readexactly(int(re.search(r"content-length: (\d+)", answered)[1]))
            seen.answer(int(answered.split()[1]), body)
        except (OSError, asyncio.IncompleteReadError) as error:
            seen.errors.append(repr(error))
            writer = None
    if writer:
        writer.close()


def times(rate, number):
    """When connection ``number`` sends, if all together send ``rate`` requests a second."""
    start, count = time.perf_counter() + number / rate, 0
    while True:
        yield start + count * CONNECTIONS / rate
        count += 1


async def load(port, seen, seconds, rate):
    until = time.perf_counter() + seconds
    await asyncio.gather(*(ask(port, seen, until, times(rate, number)) for number in range(CONNECTIONS)))


async def promote(port, seen, seconds):
    """Move the alias from one version to the other, and look at the memory, once a second."""
    until = time.perf_counter() + seconds
    while (begun := time.perf_counter()) < until:
        number = seen.promotes % 2 + 1
        await asyncio.to_thread(put, f"http://127.0.0.1:{port}/v1/detectors/{NAME}/aliases/champion", {"version": number}, seen)
        seen.memory.append(await asyncio.to_thread(memory, port))
        await asyncio.sleep(max(begun + 1 - time.perf_counter(), 0))


def put(url, content, seen):
    request = urllib.request.Request(url, orjson.dumps(content), {"Content-Type": "application/json"}, method="PUT")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            json.load(answer)
        seen.promotes += 1
    except OSError as error:
        seen.errors.append(f"promote: {error!r}")


def memory(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return float(re.search(r"^farfield_process_resident_memory_bytes (\S+)$", answer.read().decode(), re.MULTILINE)[1])


async def soak(port, expected, seconds, share):
    warming = Seen(expected)
    spent = min(10.0, seconds)
    await load(port, warming, spent, 1e9)
    rate = warming.answers / spent
    seen = Seen(expected)
    await asyncio.gather(load(port, warming, spent, share * rate), promote(port, warming, spent))
    await asyncio.gather(load(port, seen, seconds, share * rate), promote(port, seen, seconds))
    return rate, seen


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--load", type=float, default=0.8, help="share of the rate that it answers at most")
    given = parser.parse_args()
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n", flush=True)
    with service(given.workers) as (port, expected):
        rate, seen = asyncio.run(soak(port, expected, 60 * given.minutes, given.load))
    first, last, growth = seen.growth()
    print("| what | found |\n|---|--:|")
    print(f"| processes that serve | {given.workers} |")
    print(f"| answered at most, requests/s | {rate:.0f} |")
    print(f"| sent, minutes | {given.minutes:g} |")
    print(f"| answers | {seen.answers}, by versions {', '.join(map(str, sorted(seen.versions)))} |")
    print(f"| promotes | {seen.promotes} |")
    print(f"| errors | {len(seen.errors)} |")
    print(f"| mixed versions | {seen.mixed} |")
    print(f"| memory at the start, MiB | {first / 2**20:.1f} |")
    print(f"| memory at the end, MiB | {last / 2**20:.1f} ({100 * growth:+.1f} %) |")
    for error in seen.errors[:5]:
        print(error, file=sys.stderr)
    return int(bool(seen.errors or seen.mixed or growth > MOST_GROWTH))


if __name__ == "__main__":
    sys.exit(main())
