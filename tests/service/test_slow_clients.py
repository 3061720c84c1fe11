"""Clients that are slow, that stop half-way, or that never stop: none of them holds a thread, and others are served meanwhile."""

from __future__ import annotations

import json
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.servers import eventually
from tests.service.envelopes import of_rows
from tests.service.samples import fitted
from tests.service.served import Served, npy, rows, served

CLIENT_SECONDS = 1
REQUESTS, AT_A_TIME = 8_000, 100
HEAD = b"POST /v2/models/rows/infer HTTP/1.1\r\nHost: a\r\n"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    environment = {"FARFIELD_CLIENT_SECONDS": str(CLIENT_SECONDS), "FARFIELD_THREADS": "1", "FARFIELD_QUEUE": "1"}
    with served(tmp_path_factory.mktemp("slow"), {"rows": [fitted()]}, **environment) as running:
        yield running


def connected(service: Served, sent: bytes = b"") -> socket.socket:
    host, port = service.process.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.sendall(sent)
    return connection


def until_closed(connection: socket.socket) -> bytes:
    """All that comes before the service closes the connection; fails if it does not."""
    with connection:
        return b"".join(iter(lambda: connection.recv(2**16), b""))


def open_files(service: Served) -> int:
    """How many files the service has open; a connection is one."""
    return len(list(Path(f"/proc/{service.process.process.pid}/fd").iterdir()))


def resident_pages(service: Served) -> int:
    return int(Path(f"/proc/{service.process.process.pid}/statm").read_text().split()[1])


HALF: dict[str, tuple[bytes, int | None]] = {
    "nothing": (b"", None),
    "half a head": (b"GET /livez HT", None),
    "half a second head": (b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\nGET /li", 200),
    "half a body": (HEAD + b"Content-Length: 100\r\n\r\n{", 408),
    "no chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{", 408),
    "half a body that is not read": (b"POST /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{", 404),
    "promised": (HEAD + b"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n", 408),
}


@pytest.mark.parametrize(("sent", "status"), HALF.values(), ids=HALF.keys())
def test_a_client_that_stops_half_way_is_let_go(service: Served, sent: bytes, status: int | None) -> None:
    """The connection is closed, after an answer where there was a head to answer."""
    answer = until_closed(connected(service, sent)).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert answer.startswith(b"" if status is None else b"HTTP/1.1 %d " % status) and bool(answer) == (status is not None)
    if status == 408:
        assert "too slow" in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


def test_a_drop_at_a_time_is_too_slow_as_well(service: Served) -> None:
    """What counts is the whole, not the pause between two bytes; head or body."""
    for begin in (b"GET /livez HTTP/1.1\r\nX: ", HEAD + b"Content-Length: 1000000\r\n\r\n"):
        connection = connected(service, begin)
        connection.settimeout(0.05)

        def dropped(connection: socket.socket = connection) -> bool:
            """Whether the service has ended it, after another byte."""
            try:
                connection.sendall(b"a")
                return connection.recv(2**16) != b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        eventually(dropped, "the service gives up")
        connection.close()


def test_many_slow_clients_keep_nobody_waiting(service: Served) -> None:
    """With one thread and one place in the queue, 200 half requests of each kind leave both free; then all are gone."""
    before = open_files(service)
    slow = [connected(service, sent) for sent, _ in HALF.values() for _ in range(30)]
    for _ in range(5):
        assert service.score("rows", rows(3)).status_code == 200
    for connection in slow:
        until_closed(connection)
    eventually(lambda: open_files(service) <= before, "no connection is left")


def test_a_steady_upload_is_not_too_slow(service: Served) -> None:
    """It takes longer than a client's seconds, but at no time falls behind."""
    body, headers = of_rows(np.tile(rows(1), (10_000, 1)))
    extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
    connection = connected(service, HEAD + extra + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body))
    for start in range(0, len(body), 2**15):
        connection.sendall(body[start : start + 2**15])
        time.sleep(2 * CLIENT_SECONDS / (len(body) / 2**15))
    assert until_closed(connection).startswith(b"HTTP/1.1 200 ")


def test_half_closed_and_vanished_clients(service: Served) -> None:
    """A client that closes its half has left: small answers may still come, and nothing stays behind."""
    before = open_files(service)
    whole = b"POST /v1/detectors/rows:score HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-npy\r\n"
    body = npy(rows(5))
    for sent in (b"", b"GET /li", whole + b"Content-Length: %d\r\n\r\n" % len(body) + body, whole + b"Content-Length: 9999\r\n\r\n" + body):
        half = connected(service, sent)
        half.shutdown(socket.SHUT_WR)
        until_closed(half)
        gone = connected(service, sent)
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close by RST
        gone.close()
    eventually(lambda: open_files(service) <= before, "no connection is left")
    assert service.score("rows", rows(3)).status_code == 200
    assert "Traceback" not in service.process.log()


def test_tiny_requests_without_end(service: Served) -> None:
    """Eight thousand on one connection, each sent before the answers to those before it: all answered, and no memory kept."""
    request, grown = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n", []
    with connected(service) as connection, connection.makefile("rb") as answers:
        for _ in range(REQUESTS // AT_A_TIME):
            connection.sendall(request * AT_A_TIME)
            for _ in range(AT_A_TIME):
                status, length = answers.readline(), 0
                while (line := answers.readline()) != b"\r\n":
                    name, colon, value = line.partition(b":")
                    assert colon, "the service ended the connection"
                    length = int(value) if name.lower() == b"content-length" else length
                assert status == b"HTTP/1.1 200 OK\r\n" and answers.read(length) == b'{"live":true}'
            grown.append(resident_pages(service))
    assert grown[-1] - grown[len(grown) // 4] < 8 * 2**20 // resource.getpagesize()
