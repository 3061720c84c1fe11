"""The command ``farfield serve``."""

from __future__ import annotations

from typing import Annotated

import typer

from service import __version__
from service.arguments import StoreOption, settings_of
from service.serving import start
from service.terminal import err, refusals


def serve(
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port to listen on; 0 takes any free one.")] = None,
    grpc_port: Annotated[int | None, typer.Option("--grpc-port", help="Port to listen on for gRPC; none by default.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Processes that serve; 1 by default.")] = None,
    worker: Annotated[bool | None, typer.Option("--worker/--no-worker", help="Whether to run a worker, which does the jobs.")] = None,
    store: StoreOption = None,
) -> None:
    """Serve the HTTP interface, the metrics and the console, and do the jobs that are asked for."""
    with refusals():
        settings = settings_of(store=store, host=host, port=port, grpc_port=grpc_port, workers=workers, worker=worker)
        start.serve(settings, started=lambda url: err.print(f"farfield {__version__} on {url}", highlight=False))
