"""Sessions, threads and batches for an extractor on this machine, and the service beside the best of them.

``python -m benchmarks.arrangements`` prints the images a second that the bundled network takes in each arrangement, and those that
``farfield serve`` scores for 64 clients that send one image each, in turns of the same run, so that a busy machine slows all alike; and
the processor time that an image takes of the best arrangement, of the service, and of its clients, which share the cores.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import re
import statistics
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import numpy as np
from PIL import Image

from benchmarks.serving_path import processor_time, service
from models import Extractor, bundled
from models.bundled import BUNDLED
from service import archive, engine
from service.features import Batch
from service.manifest import Source
from service.recipe import Recipe
from service.versions import Loaded

CLIENTS = 64
NUMBERS = np.random.default_rng(0)


@dataclass(frozen=True)
class Arrangement:
    """So many callers at a time, each with a batch; they share a session, or have one each."""

    callers: int
    shared: bool
    threads: int  # inside one call
    batch: int

    def __str__(self):
        sessions = 1 if self.shared else self.callers
        return f"{sessions} | {self.callers} | {self.threads} | {self.batch}"


def arrangements(cores):
    for batch in (1, 4, 16):
        yield Arrangement(1, True, cores, batch)
        yield Arrangement(cores, True, 1, batch)
        yield Arrangement(cores, False, 1, batch)


def extractor(threads):
    onnx_file, preprocessing, taps = bundled(next(iter(BUNDLED)))
    return Extractor(onnx_file, preprocessing=preprocessing, taps=taps, threads=threads, device="cpu")


def pixels(network):
    height, width = network.preprocessing.height, network.preprocessing.width
    return NUMBERS.integers(0, 256, (height, width, 3), dtype=np.uint8)


def in_process(arrangement, sessions, seconds):
    """Images a second of decoded images, preprocessing included."""
    images = [Image.fromarray(pixels(sessions[0]))] * arrangement.batch
    done, until = [0] * arrangement.callers, time.perf_counter() + seconds

    def call(number):
        while time.perf_counter() < until:
            sessions[number % len(sessions)].images(images)
            done[number] += arrangement.batch

    callers = [threading.Thread(target=call, args=(number,)) for number in range(arrangement.callers)]
    start = time.perf_counter()
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return sum(done) / (time.perf_counter() - start)


def costed(work):
    """What ``work`` gives, images a second, and the processor time of this process for each image."""
    start, used = time.perf_counter(), time.process_time()
    rate = work()
    return rate, (time.process_time() - used) / (rate * (time.perf_counter() - start))


async def served(url, body, seconds):
    """Images a second that are answered."""
    host, port = url.removeprefix("http://").split(":")
    headers = f"Host: {host}\r\nContent-Type: application/x-npy\r\nContent-Length: {len(body)}"
    head = f"POST /v1/detectors/images:score HTTP/1.1\r\n{headers}\r\n\r\n"
    start, answered = time.perf_counter(), 0

    async def ask():
        nonlocal answered
        reader, writer = await asyncio.open_connection(host, int(port))
        while time.perf_counter() < start + seconds:
            writer.write(head.encode() + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode()
            assert answer.startswith("HTTP/1.1 200"), answer
            await reader.readexactly(int(re.search(r"content-length: (\d+)", answer)[1]))
            answered += 1
        writer.close()

    await asyncio.gather(*(ask() for _ in range(CLIENTS)))
    return answered / (time.perf_counter() - start)


def version():
    """A version of a detector of images, with its blobs."""
    images = []
    network = extractor(1)
    for _ in range(40):
        stream = io.BytesIO()
        Image.fromarray(pixels(network)).save(stream, "PNG")
        images.append(stream.getvalue())
    fitted = engine.fit(Recipe(alpha=0.2), Batch(images=images), network)
    manifest, blobs = archive.pack(fitted, "images", Source(name="random images", rows=40, sha256="0" * 64))
    return Loaded("images", 1, manifest, fitted), blobs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each turn")
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    cores = os.cpu_count() or 1
    print(f"{datetime.now(UTC):%Y-%m-%d}, {cores} cores, load {os.getloadavg()[0]:.1f}\n", flush=True)
    made = {each: [extractor(each.threads) for _ in range(1 if each.shared else each.callers)] for each in arrangements(cores)}
    rates, over_http, of_service = {each: [] for each in made}, [], []
    loaded, blobs = version()
    stream = io.BytesIO()
    np.save(stream, pixels(extractor(1))[np.newaxis])
    with service(loaded, blobs) as (url, process):
        for _ in range(given.turns):
            for each, sessions in made.items():
                rates[each].append(costed(partial(in_process, each, sessions, given.seconds)))
            start, used = time.perf_counter(), processor_time(process)
            over_http.append(costed(lambda: asyncio.run(served(url, stream.getvalue(), given.seconds))))
            of_service.append((processor_time(process) - used) / (over_http[-1][0] * (time.perf_counter() - start)))
    print("| sessions | callers | threads of each | batch | images/s |\n|--:|--:|--:|--:|--:|")
    found = {each: statistics.median(rate for rate, _ in turns) for each, turns in rates.items()}
    for each, rate in found.items():
        print(f"| {each} | {rate:.1f} |")
    answered = statistics.median(rate for rate, _ in over_http)
    print(f"| `farfield serve`, {CLIENTS} clients | | | | {answered:.1f}, {answered / max(found.values()):.2f} of the best |\n")
    best = rates[max(found, key=found.get)]
    print("| processor time of an image | ms |\n|---|--:|")
    for what, seconds in (
        ("the best arrangement", [each for _, each in best]),
        ("the service", of_service),
        ("its clients", [each for _, each in over_http]),
    ):
        print(f"| {what} | {1000 * statistics.median(seconds):.1f} |")


if __name__ == "__main__":
    main()
