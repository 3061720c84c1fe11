"""The process that serves: uvicorn on a socket that listens, gRPC beside it, and an orderly end."""

from __future__ import annotations

import asyncio
import logging
import socket
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import uvicorn

from service.app import create_app
from service.metrics import Metrics
from service.protocol.models import Models
from service.serving.patience import HeadDeadline
from service.serving.scrapes import Whole
from service.serving.stop import GRACE_SECONDS, Stop
from service.settings import Settings
from service.store import Store

if TYPE_CHECKING:
    import grpc

log = logging.getLogger(__name__)


def run(settings: Settings, store: Store, listener: socket.socket, stop: Stop, scrapes: tuple[Connection, Connection] | None) -> None:
    """Serve on ``listener`` until ``stop`` says to end; one of several processes answers scrapes for all by its pipes, see ``scrapes``."""
    server = stop.server = _server(settings, store)
    if scrapes:
        server.metrics.shown = Whole(server.metrics.registry, *scrapes)
    if not stop.ended:
        server.run(sockets=[listener])


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
