"""Fixtures that need a server; each gives a real one on a free port or in a folder of its own."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from threadpoolctl import threadpool_limits

from service.store import Store
from tests.servers import RedisServer, ServiceProcess

settings.register_profile("untimed", settings(), deadline=None)  # how long an example takes is the machine's affair
settings.load_profile("untimed")


@pytest.fixture(autouse=True, scope="session")
def _one_thread_of_linear_algebra() -> Iterator[None]:
    """Test processes side by side, each with a thread per core, would wait for each other."""
    with threadpool_limits(1):
        yield


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_reaches_children() -> None:
    """A shell that starts the tests in the background ignores SIGINT for them, and so would all that they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def embedded_store(tmp_path: Path) -> Iterator[Store]:
    """A store on the embedded Valkey, in an empty folder."""
    with Store.open(f"embedded:{tmp_path / 'data'}", timeout=2) as store:
        yield store


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """Debian's redis-server, empty; can be frozen, killed and started again."""
    server = RedisServer(tmp_path / "redis").start()
    yield server
    server.kill()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """Address of an empty redis-server, as ``Store.open`` and ``--store`` take it."""
    return redis_server.url


@pytest.fixture
def service_process(tmp_path: Path) -> Iterator[Callable[..., ServiceProcess]]:
    """``service_process(store_url, ready=True, FARFIELD_X="1", ...)`` starts ``farfield serve`` in a process of its own.

    Gives an object with ``url``, ``process`` and ``log()``; what still runs is killed after the test.
    """
    started: list[ServiceProcess] = []

    def start(store: str, *, ready: bool = True, **environment: str) -> ServiceProcess:
        started.append(ServiceProcess(tmp_path / f"service-{len(started)}", store, environment))
        return started[-1].start(ready=ready)

    yield start
    for service in started:
        service.kill()
