"""Several processes that serve one address: counted as one, started again when they die, ended without a lost answer."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import httpx2
import pytest
from tritonclient.grpc import service_pb2

from service.drift.monitor import Drift
from service.metrics import Metrics
from service.settings import Settings
from service.store import Store
from service.versions import load
from tests.servers import ServiceProcess, eventually, running
from tests.service.samples import fitted
from tests.service.served import Served, rows, served
from tests.service.test_health_metrics import Samples, samples, value

ROUTE = "/v1/detectors/{name}:score"
LABELS = {"detector": "rows", "version": "1"}
BODY = {"rows": rows(3).tolist()}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(
        tmp_path_factory.mktemp("workers"), {"rows": [fitted()], "called": [fitted()]}, FARFIELD_WORKERS="2", FARFIELD_GRPC_PORT="0"
    ) as running:
        eventually(lambda: value(scrape(running.process), "farfield_queue_limit") == 128, "both processes serve")
        yield running


def processes(service: ServiceProcess) -> list[int]:
    """The processes that serve, without the one that started them."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == service.process.pid and b"service.serving.start" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return sorted(found)


def scrape(service: ServiceProcess) -> Samples:
    """All samples, asked for over a connection of its own."""
    with httpx2.Client(base_url=service.url, timeout=30) as client:
        return samples(client)


def score(service: ServiceProcess, times: int = 1) -> list[int]:
    """Status codes of so many requests over one new connection."""
    with httpx2.Client(base_url=service.url, timeout=30) as client:
        return [client.post("/v1/detectors/rows:score", json=BODY).status_code for _ in range(times)]


def test_a_scrape_counts_what_all_processes_answered(service: Served) -> None:
    """800 requests over 8 connections are 800, whichever process is asked; and each of the two has counted."""
    before = scrape(service.process)
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda _: score(service.process, 100).count(200), range(8))) == 800
    one, other = processes(service.process)
    for asleep in (one, other):
        os.kill(asleep, signal.SIGSTOP)  # so that the other one answers
        try:
            assert score(service.process, 5) == [200] * 5
        finally:
            os.kill(asleep, signal.SIGCONT)
    for _ in range(8):
        after = scrape(service.process)
        for name, labels, each in (
            ("farfield_requests_total", {"route": ROUTE, "code": "200"}, 1),
            ("farfield_request_duration_seconds_count", {"route": ROUTE}, 1),
            ("farfield_rows_scored_total", LABELS, 3),
            ("farfield_p_value_count", LABELS, 3),
        ):
            assert value(after, name, **labels) - value(before, name, **labels) == 810 * each
        assert (value(after, "farfield_ready"), value(after, "farfield_versions", state="loaded")) == (1, 2)


def test_counters_do_not_fall_when_a_process_is_killed(service: Served) -> None:
    """Another one is started in its place, and is counted too; the service goes on answering all the while."""
    assert score(service.process, 20) == [200] * 20
    labels = {"route": ROUTE, "code": "200"}
    before = value(scrape(service.process), "farfield_requests_total", **labels)
    one, other = processes(service.process)
    os.kill(one, signal.SIGKILL)
    eventually(lambda: not running(one), "it has ended")
    assert score(service.process, 5) == [200] * 5
    assert value(scrape(service.process), "farfield_requests_total", **labels) == before + 5
    eventually(lambda: len(processes(service.process)) == 2, "there are two again")
    eventually(lambda: value(scrape(service.process), "farfield_queue_limit") == 128, "both are counted")
    assert one not in processes(service.process) and other in processes(service.process)
    assert value(scrape(service.process), "farfield_requests_total", **labels) == before + 5
    assert "ended with status -9" in service.process.log()


def test_a_process_that_hangs_does_not_keep_a_scrape_from_being_answered(service: Served) -> None:
    """What it had counted before stays in the sum; later what it has counted since comes in."""
    labels = {"route": ROUTE, "code": "200"}
    assert score(service.process, 5) == [200] * 5
    before = value(scrape(service.process), "farfield_requests_total", **labels)
    one, _ = processes(service.process)
    os.kill(one, signal.SIGSTOP)
    try:
        assert score(service.process, 5) == [200] * 5
        for _ in range(2):
            assert value(scrape(service.process), "farfield_requests_total", **labels) == before + 5
    finally:
        os.kill(one, signal.SIGCONT)
    assert value(scrape(service.process), "farfield_requests_total", **labels) == before + 5


def test_grpc_is_served_by_all_on_one_port(service: Served) -> None:
    """The port that was chosen by chance is the same. A connection stays with a process, and is told its statistics; metrics are of all."""
    ports = set(re.findall(r"gRPC on 127\.0\.0\.1, port (\d+)", service.process.log()))
    assert len(ports) == 1
    address, batch = f"127.0.0.1:{ports.pop()}", rows(1)
    tensor = {"name": "rows", "datatype": "FP64", "shape": batch.shape}
    asked = service_pb2.ModelInferRequest(model_name="called", inputs=[tensor], raw_input_contents=[batch.tobytes()]).SerializeToString()
    statistics = service_pb2.ModelStatisticsRequest(name="called").SerializeToString()
    with ExitStack() as stack:
        alone = [("grpc.use_local_subchannel_pool", 1)]  # a connection for each
        channels = [stack.enter_context(grpc.insecure_channel(address, alone)) for _ in range(24)]
        for channel in channels:
            channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(asked, wait_for_ready=True, timeout=30)
        told = [channel.unary_unary("/inference.GRPCInferenceService/ModelStatistics")(statistics, timeout=30) for channel in channels]
    counted = [service_pb2.ModelStatisticsResponse.FromString(answer).model_stats[0].execution_count for answer in told]
    assert all(counted.count(count) in (count, 2 * count) for count in counted), counted  # twice where both answered as many
    assert max(counted) < 24
    assert value(scrape(service.process), "farfield_rows_scored_total", detector="called", version="1") == 24


@pytest.mark.parametrize("workers", ["1", "2"])
def test_no_answer_is_lost_at_the_end(tmp_path: Path, workers: str) -> None:
    """Under load, a signal to stop: each request is answered or was never taken. What was scored, and nothing else, was answered."""
    with served(tmp_path, {"rows": [fitted()]}, FARFIELD_WORKERS=workers) as service:
        answered, told = [0] * 8, threading.Event()

        def ask(number: int) -> None:
            """Ask until no connection is taken any more; httpx2 raises ReadError where an answer was begun and not ended."""
            with httpx2.Client(base_url=service.process.url, timeout=60) as client:
                while True:
                    try:
                        answer = client.post("/v1/detectors/rows:score", json=BODY)
                    except (httpx2.ConnectError, httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError):
                        if told.is_set():
                            return
                        raise
                    assert answer.status_code == 200 and len(answer.json()["results"]) == 3
                    answered[number] += 1

        with ThreadPoolExecutor(8) as pool:
            asking = [pool.submit(ask, number) for number in range(8)]
            eventually(lambda: min(answered) >= 10, "all are being answered")
            told.set()
            service.process.process.send_signal(signal.SIGTERM)
            for future in asking:
                future.result()
        assert service.process.process.wait(30) == 128 + signal.SIGTERM
        assert "Traceback" not in service.process.log()
        assert stream_rows(service.store, service.store_url) == 3 * sum(answered)


def stream_rows(store: Store, url: str) -> int:
    """Rows that the service has told the store that it scored, each once; the last ones at its end."""
    _, stream = Drift(store.connection, Metrics().drift).stream(load(store, Settings(store=url), "rows", 1))
    return stream.rows


def test_a_service_that_is_killed_leaves_no_process(service: Served) -> None:
    """Those that it started end by themselves, in order. The last test of this service."""
    found = processes(service.process)
    assert len(found) == 2
    service.process.kill()
    eventually(lambda: not any(running(pid) for pid in found), "they have ended")
    assert service.process.log().count("Application shutdown complete") == 2
