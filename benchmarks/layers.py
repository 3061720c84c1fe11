"""What a request with one row costs, layer by layer: ``python -m benchmarks.layers``.

Each line does all that the one above it does, and something more around it: from the distance in the detector's kernel to a service
that answers over connections. Times are those of the processor, for each request, medians of rounds in which all take turns; the last
line is a server that does nothing but compute the distance, the least that one written in Python takes.

Two tables more tell what more rows in a request take of the service and of the client that sends them, and how much faster two processes
beside each other are on this machine than one of them alone: what two workers can gain at most.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import orjson
import uvloop
from threadpoolctl import threadpool_limits

from benchmarks.serving_path import NUMBERS, SETTINGS, WIDTH, loaded, processor_time, service
from benchmarks.serving_peers.servers import load
from service import engine
from service.app import create_app
from service.features import Batch
from service.protocol.envelope import Body
from service.protocol.scoring import Task
from service.scoring.callers import Caller
from service.scoring.work import judged
from service.settings import Settings
from service.store import Store

TOGETHER = 64  # requests that are under way at the same time
SECONDS = 2  # of load in a round
VERSION, BLOBS = loaded("float32")


def request(count):
    """The head and the rows of a request with so many of them."""
    rows = NUMBERS.standard_normal((count, WIDTH)).astype(np.float32)
    tensor = {"name": "rows", "shape": [count, WIDTH], "datatype": "FP32", "parameters": {"binary_data_size": rows.nbytes}}
    return orjson.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}), rows


HEAD, ROW = request(1)
BODY = HEAD + ROW.tobytes()
PATH = f"/v2/models/{VERSION.name}/infer"
LENGTH = "inference-header-content-length"
HEADERS = {"host": "here", "content-length": str(len(BODY)), LENGTH: str(len(HEAD))}


async def bare(_scope, receive, send):
    """The distance of a row as bytes, from bytes: the ASGI application that ``uvicorn`` serves for the last line."""
    message = await receive()
    answer = VERSION.fitted.detector.scores(np.frombuffer(message["body"], np.float32, offset=len(HEAD)).reshape(1, WIDTH)).tobytes()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"8")]})
    await send({"type": "http.response.body", "body": answer})


def repeated(call):
    """Processor time of each of so many calls, in this thread."""

    def timed(count):
        start = time.thread_time()
        for _ in range(count):
            call()
        return (time.thread_time() - start) / count

    return timed


def work():
    return Task(Body(BODY, "", str(len(HEAD)), ""), Caller(asyncio.Event().wait), 0.0)


@contextmanager
def application(together):
    """Requests to the whole application without a server, so many of them at a time."""
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    with tempfile.TemporaryDirectory() as folder, Store.open(f"embedded:{folder}/data") as store:
        store.publish(VERSION.name, VERSION.manifest, BLOBS)
        app = create_app(Settings(), store)
        lifespan = app.router.lifespan_context(app)
        runner.run(lifespan.__aenter__())
        while runner.run(asked(app)) != 200:  # it has yet to load the version
            runner.run(asyncio.sleep(0.1))

        async def timed(count):
            async def some():
                for _ in range(count // together):
                    await asked(app)

            start = time.thread_time()
            await asyncio.gather(*(some() for _ in range(together)))
            return (time.thread_time() - start) / (count // together * together)

        try:
            yield lambda count: runner.run(timed(count))
        finally:
            runner.run(lifespan.__aexit__(None, None, None))
            runner.close()


async def asked(app):
    """Status of one request to an ASGI application."""
    messages, statuses = [{"type": "http.request", "body": BODY, "more_body": False}], []

    async def receive():
        return messages.pop() if messages else await asyncio.Event().wait()

    async def send(message):
        statuses.append(message.get("status"))

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": "POST", "path": PATH,
        "raw_path": PATH.encode(), "query_string": b"", "root_path": "", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        "headers": [(name.encode(), value.encode()) for name, value in HEADERS.items()],
    }  # fmt: skip
    await app(scope, receive, send)
    return statuses[0]


def served(url, process, body, head=HEAD):
    """Requests over connections to a server, by its own processor time and by the client's; what they send is in the file ``body``."""
    own, client = processor_time(process), children()
    sample = load(url + PATH, {LENGTH: str(len(head))}, body, TOGETHER, SECONDS)
    if sample.failures:
        raise RuntimeError(f"{sample.failures} requests failed")
    count = sample.rate * SECONDS
    return (processor_time(process) - own) / count, (children() - client) / count


def children():
    """Processor time of the programs that have been waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def by_rows(url, process, file, rounds):
    """Markdown: processor time of the service and of its client, for requests with more and more rows."""
    yield from ("| rows | the service | the client | the distances alone |", "|--:|--:|--:|--:|")
    for count in (1, 32, 1024):
        head, rows = request(count)
        file.write_bytes(head + rows.tobytes())
        found = np.median([served(url, process, file, head) for _ in range(rounds)], axis=0)
        alone = repeated(lambda rows=rows: VERSION.fitted.detector.scores(rows))(max(20, 2000 // count))
        yield f"| {count} | {1e6 * found[0]:.0f} µs | {1e6 * found[1]:.0f} µs | {1e6 * alone:.0f} µs |"


def counted(kind):
    """How often a process does a piece of work in a second or so."""
    rows, until, count = request(1024)[1], time.perf_counter() + SECONDS, 0
    pieces = {"distances of 1024 rows": lambda: VERSION.fitted.detector.scores(rows), "Python alone": lambda: sum(range(100_000))}
    with threadpool_limits(1):
        while time.perf_counter() < until:
            pieces[kind]()
            count += 1
    return count


def beside_each_other(rounds):
    """Markdown: what two processes do at the same time, over what one does alone."""
    yield from ("| work | two processes beside each other, of one alone |", "|---|--:|")
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        for kind in ("distances of 1024 rows", "Python alone"):
            list(pool.map(counted, [kind] * 2))  # so that both have started
            ratios = [sum(pool.map(counted, [kind] * 2)) / pool.submit(counted, kind).result() for _ in range(rounds)]
            yield f"| {kind} | {statistics.median(ratios):.2f}x |"


@contextmanager
def bare_server():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-m", "uvicorn", "benchmarks.layers:bare", "--fd", str(listener.fileno()), "--lifespan", "off"]
        options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": os.environ | {"OPENBLAS_NUM_THREADS": "1"}}
        process = subprocess.Popen([*command, "--no-access-log"], pass_fds=[listener.fileno()], **options)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", process
        finally:
            process.terminate()
            process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=4000, help="of each line without a server, in a round")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    detector, batch = VERSION.fitted.detector, Batch(rows=ROW)
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n", flush=True)
    with (
        tempfile.NamedTemporaryFile() as file,
        threadpool_limits(1),
        application(1) as alone,
        application(TOGETHER) as beside,
        service(VERSION, BLOBS) as ours,
        bare_server() as bare,
    ):
        body = Path(file.name)
        body.write_bytes(BODY)
        layers = {
            "the detector: the distance of a row, checked": repeated(lambda: detector.scores(ROW)),
            "with its p-value and decision": repeated(lambda: engine.score(VERSION.fitted, batch)),
            "with the request decoded and the answer encoded": repeated(lambda: judged(VERSION, work(), SETTINGS)),
            "the whole application, without a server, one request at a time": alone,
            f"the same, {TOGETHER} at a time, of which some are scored together": beside,
            f"the service, over {TOGETHER} connections": lambda _: served(*ours, body)[0],
            f"a server that computes the distance alone, over {TOGETHER} connections": lambda _: served(*bare, body)[0],
        }
        found = {name: [] for name in layers}
        for _ in range(given.rounds):
            for name, layer in layers.items():
                found[name].append(layer(given.requests))
        print("| what is done | processor time of a request |\n|---|--:|")
        for name, seconds in found.items():
            print(f"| {name} | {1e6 * statistics.median(seconds):.0f} µs |")
        print("\n" + "\n".join(by_rows(*ours, body, given.rounds)), flush=True)
    print("\n" + "\n".join(beside_each_other(given.rounds)))


if __name__ == "__main__":
    main()
