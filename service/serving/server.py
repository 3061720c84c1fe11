"""Run the service: an address that is free and safe, uvicorn on it, and an orderly end."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Self

import uvicorn

from service import attachment
from service.app import create_app
from service.errors import StartupError
from service.jobs.own_worker import own_worker
from service.metrics import Metrics
from service.protocol.models import Models
from service.serving.patience import HeadDeadline
from service.serving.scrapes import Whole
from service.serving.workers import workers
from service.settings import Settings
from service.store import Store

if TYPE_CHECKING:
    import grpc

log = logging.getLogger(__name__)

PORTS_TRIED = 20
GRACE_SECONDS = 20  # that requests have to end after a signal to stop
LAST_SECONDS = 5  # and then what is left of a worker: to tell the store what it has not been told yet
TICK_SECONDS = 0.1  # between looks for a signal


def serve(settings: Settings, *, started: Callable[[str], None] = lambda url: None, strict_port: bool = True) -> None:
    """Serve until a signal says to stop. ``started`` is told the address as soon as connections are taken.

    With several workers this process serves nothing: it keeps them, and the store's embedded server, running.

    Raises StartupError for an address that is taken (unless ``strict_port`` is false, when the next
    free one serves), or that other machines reach without ``settings.allow_open``.
    """
    refuse_open_address(settings)
    listener = listen(settings.host, settings.port, strict=strict_port)
    _configure_log()
    with _Stop() as stop:
        with listener, Store.open(settings.store, timeout=settings.store_timeout) as store:
            own = partial(own_worker, settings) if settings.worker else nullcontext
            if settings.workers == 1:
                server = stop.server = _server(settings, store)
                with own():
                    started(address(listener))
                    if stop.number is None:
                        server.run(sockets=[listener])
            else:
                with own(), workers(settings, listener, GRACE_SECONDS + LAST_SECONDS):
                    started(address(listener))
                    while stop.number is None:
                        time.sleep(TICK_SECONDS)
        if stop.number is not None:
            raise SystemExit(128 + stop.number)


def main() -> None:
    """One of the processes that ``service.serving.workers`` starts: it serves until its starter lets go of it, or a signal says to stop."""
    order = attachment.order()
    _configure_log()
    settings = Settings(**order["settings"])
    with _Stop() as stop, socket.socket(fileno=order["listener"]) as listener:
        attachment.watch(stop.end)
        with Store.open(settings.store, timeout=settings.store_timeout) as store:
            server = stop.server = _server(settings, store)
            metrics = server.metrics
            metrics.shown = Whole(metrics.registry, Connection(order["answers"]), Connection(order["scrapes"]))
            if not stop.ended:
                server.run(sockets=[listener])


def _configure_log() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def _server(settings: Settings, store: Store) -> _Server:
    app = create_app(settings, store)
    config = uvicorn.Config(
        app,
        http=HeadDeadline,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=settings.client_seconds,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = _Server(config, settings, app.state.models)
    app.state.service.watch.stopping = lambda: server.should_exit
    return server


class _Server(uvicorn.Server):
    """uvicorn, and where there is a port for it gRPC beside it, on the same event loop and with the same end."""

    def __init__(self, config: uvicorn.Config, settings: Settings, models: Models) -> None:
        super().__init__(config)
        self._settings, self._models = settings, models
        self._grpc: grpc.aio.Server | None = None

    @property
    def metrics(self) -> Metrics:
        return self._models.parts.metrics

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._settings.grpc_port is not None:
            from service.protocol import calls  # what does not serve gRPC need not load it

            self._grpc, port = calls.listen(self._models, self._settings.host, self._settings.grpc_port)
            await self._grpc.start()
            log.info("gRPC on %s, port %d", self._settings.host, port)
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        grpc_end = asyncio.ensure_future(self._grpc.stop(GRACE_SECONDS)) if self._grpc else None
        await super().shutdown(sockets)
        if grpc_end:
            await grpc_end


class _Stop:
    """Notes the signal to stop and tells the server; an exception raised by a handler would be lost inside a finalizer."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.ended = False
        self.server: uvicorn.Server | None = None

    def __call__(self, number: int, _frame: object) -> None:
        self.number = number
        self.end()

    def end(self) -> None:
        self.ended = True
        if self.server:
            self.server.should_exit = True

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def listen(host: str, port: int, *, strict: bool) -> socket.socket:
    """A socket that listens on ``port``, or unless ``strict`` on the first free one after it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    last = port if strict or port == 0 else min(port + PORTS_TRIED, 65535)
    for candidate in range(port, last + 1):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, candidate))
            listener.listen(2048)
            return listener
        except OSError as error:
            listener.close()
            reason = error.strerror
    tried = str(port) if last == port else f"{port} to {last}"
    raise StartupError(f"cannot listen on {host}, port {tried}: {reason}. Choose another with --port, or 0 for any free one")


def refuse_open_address(settings: Settings) -> None:
    """Raise StartupError for an address beyond this machine that nobody has said may be open."""
    try:
        local = ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        local = settings.host == "localhost"
    if not local and not settings.allow_open:
        raise StartupError(
            f"{settings.host} can be reached from other machines, and nothing here asks who is calling: "
            "listen on 127.0.0.1, or say that this is meant with FARFIELD_ALLOW_OPEN=true"
        )


def address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


if __name__ == "__main__":
    main()
