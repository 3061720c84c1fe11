"""Several processes that serve one address: started together, started again when they die, ended together."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from service import attachment
from service.errors import StartupError
from service.serving.kept import Kept
from service.serving.scrapes import Gathering
from service.settings import Settings


@contextmanager
def workers(settings: Settings, listener: socket.socket, grace: float) -> Iterator[None]:
    """A context in which ``settings.workers`` processes, see ``service.serving.start``, accept the connections of ``listener``.

    They share its one queue of connections: what a process has not accepted when it ends is accepted by another one. All are
    told to end at the same time, and have ``grace`` seconds. Raises StartupError where the port for gRPC is taken.
    """
    with _port_for_grpc(settings) as port, ExitStack() as stack:
        start = partial(_started, settings.model_copy(update={"grpc_port": port}), listener, Gathering())
        kept = [stack.enter_context(Kept(f"serving process {number}", start, grace)) for number in range(1, settings.workers + 1)]
        yield
        for process in kept:
            process.release()


def _started(settings: Settings, listener: socket.socket, gathering: Gathering) -> subprocess.Popen[bytes]:
    answers, scrapes = gathering.joined()
    with answers, scrapes:
        inherited = {"listener": listener.fileno(), "answers": answers.fileno(), "scrapes": scrapes.fileno()}
        order = {"settings": settings.model_dump(mode="json"), **inherited}
        return attachment.start("service.serving.start", order, pass_fds=tuple(inherited.values()))


@contextmanager
def _port_for_grpc(settings: Settings) -> Iterator[int | None]:
    """A port that is kept for the processes, each of which listens there with a queue of its own; None where there is no gRPC."""
    if settings.grpc_port is None:
        yield None
        return
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as alone, socket.socket(family) as shared:
        try:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind((settings.host, settings.grpc_port))  # fails where another service shares the port among its processes
            port: int = alone.getsockname()[1]
            alone.close()
            shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            shared.bind((settings.host, port))
        except OSError as error:
            raise StartupError(f"cannot listen for gRPC on {settings.host}, port {settings.grpc_port}: {error.strerror}") from None
        yield port
