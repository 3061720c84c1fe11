"""What a request with one row costs, layer by layer: ``python -m benchmarks.layers``.

Each line does all that the one above it does, and something more around it: from the distance in the detector's kernel to a service
that answers over connections. Times are those of the processor, for each request, medians of rounds in which all take turns; the last
line is a server that does nothing but compute the distance, the least that one written in Python takes.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
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
ROW = NUMBERS.standard_normal((1, WIDTH)).astype(np.float32)
TENSOR = {"name": "rows", "shape": [1, WIDTH], "datatype": "FP32", "parameters": {"binary_data_size": ROW.nbytes}}
HEAD = orjson.dumps({"inputs": [TENSOR], "parameters": {"binary_data_output": True}})
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


def served(url, process, body):
    """Requests over connections to a server, by its own processor time; what they send is in the file ``body``."""

    def timed(_count):
        before, start = processor_time(process), time.perf_counter()
        sample = load(url + PATH, {LENGTH: HEADERS[LENGTH]}, body, TOGETHER, SECONDS)
        if sample.failures:
            raise RuntimeError(f"{sample.failures} requests failed")
        return (processor_time(process) - before) / (sample.rate * (time.perf_counter() - start))

    return timed


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
            f"the service, over {TOGETHER} connections": served(*ours, body),
            f"a server that computes the distance alone, over {TOGETHER} connections": served(*bare, body),
        }
        found = {name: [] for name in layers}
        for _ in range(given.rounds):
            for name, layer in layers.items():
                found[name].append(layer(given.requests))
    print("| what is done | processor time of a request |\n|---|--:|")
    for name, seconds in found.items():
        print(f"| {name} | {1e6 * statistics.median(seconds):.0f} µs |")


if __name__ == "__main__":
    main()
