"""Publishes a version and kills itself on the way: ``python -m tests.service.killed_publisher STORE NAME``.

Each line of the standard input says when, as the number of a command that it sends to the server and ``before``, ``half`` (of
its bytes) or ``after``. Answers ``killed``, or ``finished`` if the publish ended with fewer commands.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from redis.connection import AbstractConnection

from service.store import Store
from tests.service.samples import manifest_of

ORPHAN_SECONDS = 2
BLOBS = {"extractor": b"shared" * 300, "state": b"new" * 900, "empty": b""}
CHUNK_BYTES = 1000


def main(url: str, name: str) -> None:
    for line in sys.stdin:
        number, when = line.split()
        child = os.fork()
        if not child:
            publish_and_die(url, name, int(number), when)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        print("killed" if os.WIFSIGNALED(status) else "finished" if status == 0 else "failed", flush=True)


def publish_and_die(url: str, name: str, number: int, when: str) -> None:
    store = Store.open(url, orphan_seconds=ORPHAN_SECONDS)
    send = AbstractConnection.send_packed_command
    sent = 0

    def send_or_die(connection: Any, command: Any, **options: Any) -> None:
        nonlocal sent
        sent += 1
        if sent == number and when != "after":
            if when == "half":
                whole = command if isinstance(command, bytes) else b"".join(command)
                connection._sock.sendall(whole[: len(whole) // 2])
            die()
        send(connection, command, **options)
        if sent == number:
            die()

    AbstractConnection.send_packed_command = send_or_die
    store.publish(name, manifest_of(BLOBS, chunk_bytes=CHUNK_BYTES, note="new"), BLOBS)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
