"""What a request to score costs, beside the scoring: ``python -m benchmarks.serving_path``.

Starts ``farfield serve`` on an empty store with a detector of 512 features and prints

* the border between what is scored on the event loop and what goes to a thread: the way to a thread and back against the time of a batch,
* the time of parsers of JSON from text to array,
* the memory that a large body takes beyond its own bytes until it is scored,
* requests per second with eight connections, the processor time of the service for each, and its stages as ``Server-Timing`` has them.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import io
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
import urllib.request
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
from safetensors.numpy import save
from starlette.requests import Request
from threadpoolctl import threadpool_limits

from service import archive, engine
from service.features import Batch
from service.gate import Gate
from service.manifest import Source
from service.recipe import Recipe
from service.schemas import Options
from service.scoring import scoring
from service.scoring.callers import Caller, headers_of
from service.scoring.codecs import batch_of_json, parse_json
from service.scoring.judging import INLINE_PRODUCTS
from service.scoring.work import judged
from service.settings import Settings
from service.store import Store
from service.versions import Loaded

WIDTH = 512
CONNECTIONS = 8
START_SECONDS = 60
CHUNK = 65_536  # bytes that a body comes in at a time
NUMBERS = np.random.default_rng(0)
SETTINGS = Settings()


def loaded(precision):
    """A version as the service has it in memory."""
    rows = NUMBERS.standard_normal((2000, WIDTH)).astype(precision)
    fitted = engine.fit(Recipe(alpha=0.05, parameters={"precision": precision}), Batch(rows=rows))
    manifest, blobs = archive.pack(fitted, precision, Source(name="random rows", rows=2000, sha256="0" * 64))
    return Loaded(precision, 1, manifest, fitted), blobs


def bodies(count):
    """Form: media type and body of the same rows, in double precision."""
    rows = NUMBERS.standard_normal((count, WIDTH))
    return {
        "JSON": ("application/json", orjson.dumps({"rows": rows.tolist()})),
        ".npy": ("application/x-npy", npy(rows)),
        "safetensors": ("application/vnd.safetensors", save({"rows": rows})),
        "Arrow": ("application/vnd.apache.arrow.stream", arrow(rows)),
    }


def npy(rows):
    stream = io.BytesIO()
    np.save(stream, rows)
    return stream.getvalue()


def arrow(rows):
    lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    batch = pa.record_batch([lists], ["rows"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue().to_pybytes()


def border(version, repetitions):
    """The way to a thread and back, against scoring batches of rows."""
    yield "| what | median | rows x numbers in the state |"
    yield "|---|--:|--:|"

    async def hand_off():
        gate, taken = Gate(2, 8), []
        for _ in range(repetitions):
            start = time.perf_counter()
            await gate.run(int)
            taken.append(time.perf_counter() - start)
        return statistics.median(taken)

    yield f"| to a thread and back | {1e6 * asyncio.run(hand_off()):.0f} µs | |"
    state = sum(blob.size for name, blob in version.manifest.blobs.items() if name.startswith("state")) / 8
    for count in (1, 4, 8, 16, 32, 64):
        batch = Batch(rows=NUMBERS.standard_normal((count, WIDTH)))
        taken = timed(lambda batch=batch: engine.score(version.fitted, batch), repetitions)
        yield f"| {count} rows scored | {1e6 * taken:.0f} µs | {count * state:.1e} |"
    yield f"| the border | | {INLINE_PRODUCTS:.1e} |"


def parsers(repetitions):
    yield "| rows | orjson, lists, numpy | straight into an array |"
    yield "|--:|--:|--:|"
    for count in (1, 32, 1024):
        body = orjson.dumps({"rows": NUMBERS.standard_normal((count, WIDTH)).tolist()})
        many = max(3, repetitions // count)
        slow = timed(lambda body=body: np.array(parse_json(body)[0]), many)
        yield f"| {count} | {1e6 * slow:.0f} µs | {1e6 * timed(lambda body=body: batch_of_json(body, SETTINGS), many):.0f} µs |"


def memory(version, megabytes):
    """Peak of what Python and numpy allocate while a body comes in pieces and is scored, in sizes of the body."""
    yield "| body | size | taken until it is received | until it is scored |"
    yield "|---|--:|--:|--:|"
    rows = NUMBERS.standard_normal((megabytes * 2**20 // (4 * WIDTH), WIDTH)).astype(np.float32)
    for form, (media, body) in {
        ".npy": ("application/x-npy", npy(rows)),
        "safetensors": ("application/vnd.safetensors", save({"rows": rows})),
        "Arrow": ("application/vnd.apache.arrow.stream", arrow(rows)),
    }.items():
        gc.collect()
        tracemalloc.start()
        task, received = asyncio.run(receive(media, body))
        tracemalloc.reset_peak()
        judged(version, task, SETTINGS)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        yield f"| {form}, float32 | {len(body) / 2**20:.1f} MiB | {received / len(body):.2f}x | {peak / len(body):.2f}x |"


async def receive(media, body):
    """The task of a request whose body comes in pieces, and the memory that it has taken at most."""
    view, place = memoryview(body), 0

    async def message():
        nonlocal place
        piece = view[place : place + CHUNK]
        place += CHUNK
        return {"type": "http.request", "body": piece, "more_body": place < len(body)}

    headers = [(b"content-type", media.encode()), (b"content-length", str(len(body)).encode())]
    request = Request({"type": "http", "headers": headers}, message)
    task = await scoring.received(request, headers_of(request), SETTINGS, Options(), "application/vnd.apache.arrow.stream", Caller(message))
    return task, tracemalloc.get_traced_memory()[1]


def requests(url, process, seconds):
    yield "| rows | body | requests/s | processor time each | " + " | ".join(scoring.STAGES) + " |"
    yield "|--:|---|--:|--:|" + "--:|" * len(scoring.STAGES)
    for count in (1, 32, 1024):
        for form, (media, body) in bodies(count).items():
            asyncio.run(load(url, media, body, seconds / 4))
            before, start = processor_time(process), time.perf_counter()
            timings = asyncio.run(load(url, media, body, seconds))
            each = (processor_time(process) - before) / len(timings)
            stages = [f"{1000 * statistics.median(column):.0f} µs" for column in zip(*timings, strict=True)]
            rate = len(timings) / (time.perf_counter() - start)
            yield f"| {count} | {form} | {rate:.0f} | {1e6 * each:.0f} µs | " + " | ".join(stages) + " |"


async def load(url, media, body, seconds):
    """Milliseconds of the stages of each answer, asked for over some connections at the same time."""
    host, port = url.removeprefix("http://").split(":")
    head = f"POST /v1/detectors/float64:score HTTP/1.1\r\nHost: {host}\r\nContent-Type: {media}\r\nContent-Length: {len(body)}\r\n\r\n"
    request, end, found = head.encode() + body, time.perf_counter() + seconds, []

    async def ask():
        reader, writer = await asyncio.open_connection(host, int(port))
        while time.perf_counter() < end:
            writer.write(request)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode()
            assert answer.startswith("HTTP/1.1 200"), answer
            await reader.readexactly(int(re.search(r"content-length: (\d+)", answer)[1]))
            found.append([float(ms) for ms in re.findall(r"dur=([\d.]+)", answer)])
        writer.close()

    await asyncio.gather(*(ask() for _ in range(CONNECTIONS)))
    return found


def processor_time(process):
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def service(version, blobs):
    """The address and the process of a service that has this version alone."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        store = f"embedded:{folder}/data"
        with Store.open(store) as opened:
            opened.publish(version.name, version.manifest, blobs)
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        command = [sys.executable, "-m", "service.cli", "serve", "--store", store, "--port", str(port), "--no-worker"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait(f"http://127.0.0.1:{port}/readyz", process)
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.terminate()
            process.wait()


def wait(url, process):
    """Until the service is ready. Raises RuntimeError where it ends before, or takes too long."""
    until = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        with suppress(OSError), urllib.request.urlopen(url, timeout=1) as answer:  # not there yet, or 503
            if json.load(answer)["ready"]:
                return
        time.sleep(0.1)
    raise RuntimeError(f"the service is not ready; its exit status is {process.poll()}")


def timed(call, repetitions):
    taken = []
    for _ in range(repetitions):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="little of each, to see that it works")
    quick = parser.parse_args().quick
    version, blobs = loaded("float64")
    single, _ = loaded("float32")
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    with threadpool_limits(1):
        for lines in (border(version, 50 if quick else 500), parsers(100 if quick else 5000), memory(single, 8 if quick else 64)):
            printed(lines)
    with service(version, blobs) as (url, process):
        printed(requests(url, process, 0.2 if quick else 3))


def printed(lines):
    for line in lines:
        print(line, flush=True)
    print()


if __name__ == "__main__":
    main()
