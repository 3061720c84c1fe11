"""Real servers for tests: Redis with any options, the service, and the helpers to wait for them and to hurt them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

PATIENCE = 30.0  # seconds after which something that should have happened has failed

T = TypeVar("T")


def program(name: str) -> str:
    """Path of a program that the tests need."""
    found = shutil.which(name)
    assert found, f"the tests need {name} on the PATH: apt-get install redis-server openssl"
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(condition: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """Poll ``condition`` until it gives something true, and return that; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.005)
    return value


def running(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has waited for yet does not."""
    return _state(pid) != "Z"


def stop(pid: int) -> None:
    """Freeze a process, which must not have ended."""
    os.kill(pid, signal.SIGSTOP)
    assert eventually(lambda: {"T": "stopped", "Z": "ended"}.get(_state(pid)), "the process is stopped") == "stopped"


def _state(pid: int) -> str:
    """As the kernel has it: Z of a process that has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


class Process:
    """A server process that can be frozen, killed and started again in the same place."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.command, self.folder, self.environment = command, folder, environment
        self.log_file = folder / "output.log"
        self.process: subprocess.Popen[bytes]

    def spawn(self) -> None:
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class RedisServer(Process):
    """A redis-server on loopback; ``options`` as on its command line, ``client`` as for an administrator's client."""

    def __init__(self, folder: Path, *options: str, port: int | None = None, **client: Any) -> None:
        self.port = port or free_port()
        self.client_options = {"port": self.port, **client}
        listen = () if "--tls-port" in options else ("--port", str(self.port))
        super().__init__([program("redis-server"), *options, *listen, "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)], folder)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """An administrator's client, to look at what is stored and to damage it."""
        return redis.Redis(host="127.0.0.1", retry=Retry(NoBackoff(), 0), socket_timeout=5, **self.client_options)

    def start(self) -> RedisServer:
        self.spawn()
        try:
            eventually(self._answers, f"{self.command[0]} answers, see {self.log_file}")
        except AssertionError:
            self.kill()
            raise
        return self

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            self.spawn()  # another process had the port for a moment
        with self.client() as client, suppress(redis.RedisError):
            return bool(client.ping())
        return False


class LossyProxy:
    """Stands before a server on ``port`` and loses the answer to the first command that holds ``marker``: the connection breaks."""

    def __init__(self, port: int) -> None:
        self.target = ("127.0.0.1", port)
        self.marker: bytes | None = None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(client, socket.create_connection(self.target)), daemon=True).start()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        with client, server:
            while request := client.recv(2**20):
                lost = self.marker is not None and self.marker in request
                server.sendall(request)
                answer = server.recv(2**20)
                if lost:
                    self.marker = None
                    return
                client.sendall(answer)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class ServiceProcess(Process):
    """``farfield serve`` on a free port, without a worker unless the environment says so. ``url`` is its address."""

    def __init__(self, folder: Path, store: str, environment: dict[str, str]) -> None:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("FARFIELD_")}
        alone = [] if "FARFIELD_WORKER" in environment else ["--no-worker"]
        command = [sys.executable, "-m", "service.cli", "serve", "--port", "0", "--store", store, *alone]
        super().__init__(command, folder, {**inherited, **environment})
        self.url = ""

    def start(self, *, ready: bool = True) -> ServiceProcess:
        """Start and wait for the address, and unless ``ready`` is false until /readyz answers 200."""
        self.spawn()
        self.url = eventually(self._address, "the service prints its address")
        if ready:
            eventually(self._ready, "the service is ready")
        return self

    def _address(self) -> str:
        assert self.process.poll() is None, f"the service ended: {self.log()}"
        found = re.search(r" on (http://\S+)", self.log())
        return found[1] if found else ""

    def _ready(self) -> bool:
        assert self.process.poll() is None, f"the service ended: {self.log()}"
        with suppress(httpx2.HTTPError):
            return httpx2.get(f"{self.url}/readyz", timeout=5).status_code == 200
        return False
