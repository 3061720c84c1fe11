"""Who gets a thread, who waits, who is refused, and for whom no work is done any more."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pyarrow as pa
import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from service.errors import DeadlineExceeded, Overloaded
from service.gate import Gate
from service.scoring.callers import Caller
from tests.servers import eventually
from tests.service.samples import fitted
from tests.service.served import JSON, NPY, Served, npy, rows, served


class Work:
    """Functions for threads that end when they are told to, and note the order in which they began."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.go = threading.Event()

    def __call__(self, name: str) -> str:
        self.order.append(name)
        assert self.go.wait(20)
        return name


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def run(scenario: Callable[[Work], Awaitable[None]]) -> None:
    work = Work()

    async def guarded() -> None:
        try:
            await scenario(work)
        finally:
            work.go.set()

    asyncio.run(guarded())


async def started(gate: Gate, work: Work, *names: str, **how: Any) -> list[asyncio.Task[str]]:
    """Tasks of the gate, one for each name, entered in this order; the key is the first letter."""
    tasks = []
    for name in names:
        tasks.append(asyncio.create_task(gate.run(work, name, key=name[0], **how)))
        await settle()
    return tasks


def test_threads_go_to_the_keys_in_turn() -> None:
    """However many of one key wait, another one is next."""

    async def scenario(work: Work) -> None:
        gate = Gate(1, 10)
        tasks = await started(gate, work, "a1", "a2", "a3", "a4", "b1", "c1", "b2")
        work.go.set()
        await asyncio.gather(*tasks)
        assert work.order == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]

    run(scenario)


def test_one_key_may_have_so_many_threads() -> None:
    """With others free for the rest, at once."""

    async def scenario(work: Work) -> None:
        gate = Gate(3, 10, each=2)
        tasks = await started(gate, work, "a1", "a2", "a3", "b1", "b2")
        await asyncio.to_thread(eventually, lambda: len(work.order) == 3, "three run")
        assert sorted(work.order) == ["a1", "a2", "b1"]
        work.go.set()
        assert await asyncio.gather(*tasks) == ["a1", "a2", "a3", "b1", "b2"]

    run(scenario)


def test_the_longest_line_makes_room() -> None:
    """A full queue of one key gives its newest place to another key, but not to more of the same."""

    async def scenario(work: Work) -> None:
        depth: list[int] = []
        gate = Gate(1, 3, depth.append)
        tasks = await started(gate, work, "a1", "a2", "a3", "a4", "a5", "b1")
        assert isinstance(tasks[4].exception(), Overloaded)
        assert isinstance(tasks[3].exception(), Overloaded)
        (third,) = await started(gate, work, "b2")
        assert isinstance(third.exception(), Overloaded)
        assert max(depth) == 3
        work.go.set()
        await asyncio.gather(*tasks[:3], tasks[5])
        assert work.order == ["a1", "a2", "b1", "a3"]
        assert depth[-1] == 0

    run(scenario)


def test_a_full_gate_without_a_queue_refuses() -> None:
    """At once."""

    async def scenario(work: Work) -> None:
        (first, second) = await started(Gate(1, 0), work, "a1", "b1")
        assert isinstance(second.exception(), Overloaded)
        work.go.set()
        assert await first == "a1"

    run(scenario)


def caller(deadline: float = float("inf")) -> tuple[Caller, asyncio.Event]:
    """A caller, and the event by which it leaves."""
    leaves = asyncio.Event()

    async def receive() -> Message:
        await leaves.wait()
        return {"type": "http.disconnect"}

    return Caller(receive, deadline), leaves


def test_nothing_is_done_for_who_left_the_queue() -> None:
    """Neither after the deadline nor after the connection was closed; the places are free for others."""

    async def scenario(work: Work) -> None:
        gate = Gate(1, 3)
        late, _ = caller(time.monotonic() + 0.05)
        gone, leaves = caller()
        (first,) = await started(gate, work, "a1")
        (second,) = await started(gate, work, "a2", caller=late)
        (third,) = await started(gate, work, "a3", caller=gone)
        (fourth,) = await started(gate, work, "a4")
        leaves.set()
        with pytest.raises(ClientDisconnect):
            await third
        with pytest.raises(DeadlineExceeded):
            await second
        work.go.set()
        assert await asyncio.gather(first, fourth) == ["a1", "a4"]
        assert work.order == ["a1", "a4"]
        assert await gate.run(str, 5) == "5"

    run(scenario)


def test_who_leaves_in_the_instant_of_its_turn_keeps_no_thread() -> None:
    """A request that is given a thread and cancelled at the same time gives it back."""

    async def scenario(work: Work) -> None:
        gate = Gate(1, 3)
        (first, second) = await started(gate, work, "a1", "a2")
        gate._lines["a"][0].add_done_callback(lambda place: second.cancel())
        work.go.set()
        await first
        with pytest.raises(asyncio.CancelledError):
            await second
        assert work.order == ["a1"]
        assert await gate.run(str, 5) == "5"

    run(scenario)


@contextmanager
def busy(service: Served) -> Iterator[Callable[[], bool]]:
    """A service whose one thread scores a large batch while another one waits; says whether it still does."""
    body = npy(rows(90_000, width=4))
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(service.score, "slow", body, media=NPY, params={"attribute": 4}) for _ in range(2)]
        eventually(lambda: "farfield_queue_depth 1.0" in service.client.get("/metrics").text, "one runs and one waits")
        yield lambda: not any(request.done() for request in running)
        assert [request.result().status_code for request in running] == [200, 200]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    limits = {"FARFIELD_THREADS": "1", "FARFIELD_MAX_HELD_BYTES": str(64 * 2**20), "FARFIELD_MAX_BODY_BYTES": str(32 * 2**20)}
    with served(tmp_path_factory.mktemp("gate"), {"rows": [fitted()], "slow": [fitted()], "wide": [fitted(width=64)]}, **limits) as running:
        yield running


def counted(service: Served, code: int) -> float:
    """Requests to score that were answered so."""
    found = 0.0
    for line in service.client.get("/metrics").text.splitlines():
        if line.startswith("farfield_requests_total{") and f'code="{code}"' in line and ":score" in line:
            found += float(line.rpartition(" ")[2])
    return found


@pytest.mark.parametrize("header", [{"x-request-timeout": "0.000001"}, {"x-envoy-expected-rq-timeout-ms": "0.001"}])
def test_a_deadline_that_is_over_is_504(service: Served, header: dict[str, str]) -> None:
    """In words, and counted; rows that are scored on the loop and in a thread alike."""
    before = counted(service, 504)
    for batch in (rows(1), rows(20_000)):
        answer = service.client.post("/v1/detectors/rows:score", content=npy(batch), headers={"content-type": NPY, **header})
        assert (answer.status_code, answer.json()["type"]) == (504, "urn:farfield:problem:deadline-exceeded"), answer.text
    assert counted(service, 504) == before + 2


def test_time_enough_is_no_matter(service: Served) -> None:
    """Neither header changes an answer that comes in time."""
    headers = {"content-type": NPY, "x-request-timeout": "60", "x-envoy-expected-rq-timeout-ms": "60000"}
    assert service.client.post("/v1/detectors/rows:score", content=npy(rows(3)), headers=headers).status_code == 200


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf", ""])
def test_a_timeout_that_is_none_is_refused(service: Served, text: str) -> None:
    """By the name of the header."""
    answer = service.client.post("/v1/detectors/rows:score", json={"rows": [[1, 2, 3, 4]]}, headers={"x-request-timeout": text})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "x-request-timeout"


def test_a_client_that_hangs_up_in_the_queue_costs_nothing(service: Served) -> None:
    """Its request is never scored, and the metrics count it as 499."""
    body = npy(rows(20_000))
    head = f"POST /v1/detectors/rows:score HTTP/1.1\r\nHost: x\r\nContent-Type: {NPY}\r\nContent-Length: {len(body)}\r\n\r\n"
    before, scored = counted(service, 499), rows_scored(service)
    connections = []
    with busy(service) as still:
        for _ in range(5):
            connection = socket.create_connection(("127.0.0.1", int(str(service.client.base_url).rpartition(":")[2].strip("/"))))
            connection.sendall(head.encode() + body)
            connections.append(connection)
        eventually(lambda: "farfield_queue_depth 6.0" in service.client.get("/metrics").text or not still(), "five more wait")
        assert still(), "the thread was free before the test could begin"
        for connection in connections:
            connection.close()
        eventually(lambda: counted(service, 499) == before + 5, "they are counted")
    assert rows_scored(service) == scored


def rows_scored(service: Served) -> float:
    lines = service.client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith('farfield_rows_scored_total{detector="rows"'))


def test_64_large_requests_stay_within_a_cap(service: Served) -> None:
    """Of half a gibibyte in all, in every form and compressed: each is answered, or refused for now; and memory stays bounded."""
    array = rows(16_000, width=64)
    plain = npy(array)
    body = {
        "npy": (plain, {"content-type": NPY}),
        "json": (json.dumps({"rows": array.round(3).tolist()}).encode(), {"content-type": JSON}),
        "zstd": (bytes(pa.compress(plain, "zstd", asbytes=True)), {"content-type": NPY, "content-encoding": "zstd"}),
    }
    before = memory(service)

    def ask(index: int) -> httpx2.Response:
        content, headers = body[list(body)[index % 3]]
        return service.client.post("/v1/detectors/wide:score", content=content, headers=headers)

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(ask, range(64)))
    assert {answer.status_code for answer in answers} == {200, 503}
    assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 503)
    assert memory(service) - before < 300 * 2**20, f"{(memory(service) - before) / 2**20:.0f} MiB"
    assert service.score("rows", rows(3)).status_code == 200


def memory(service: Served) -> int:
    """Bytes that the process has had at most."""
    status = Path(f"/proc/{service.process.process.pid}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])
