"""The start of the service: an address that is free and safe, the store, one process that serves or several, and an orderly end."""

from __future__ import annotations

import ipaddress
import logging
import socket
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from multiprocessing.connection import Connection

from service import attachment
from service.errors import StartupError
from service.imports import unswept
from service.jobs.own_worker import own_worker
from service.serving.stop import GRACE_SECONDS, Stop
from service.serving.workers import workers
from service.settings import Settings
from service.store import Store

PORTS_TRIED = 20
LAST_SECONDS = 5  # after GRACE_SECONDS, for what is left of a process: to tell the store what it has not been told yet
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
    with Stop() as stop:
        with listener, Store.open(settings.store, timeout=settings.store_timeout) as store:
            own = partial(own_worker, settings) if settings.worker else nullcontext
            if settings.workers == 1:
                with own():
                    started(address(listener))
                    _serve(settings, store, listener, stop)
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
    with Stop() as stop, socket.socket(fileno=order["listener"]) as listener:
        attachment.watch(stop.end)
        with Store.open(settings.store, timeout=settings.store_timeout) as store:
            _serve(settings, store, listener, stop, (Connection(order["answers"]), Connection(order["scrapes"])))


def _serve(
    settings: Settings, store: Store, listener: socket.socket, stop: Stop, scrapes: tuple[Connection, Connection] | None = None
) -> None:
    """Serve in this process, which alone needs what takes long to import."""
    with unswept():
        from service.serving import server
    server.run(settings, store, listener, stop, scrapes)


def _configure_log() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


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
