"""Fits and kills itself on the way: ``python -m tests.service.killed_fitter``.

Each line of the standard input is JSON: ``url`` of the store, ``name`` of the detector, ``data``, ``options`` of the fit, and
``moment``, the number of a chunk read or a command sent to the server, of which every other one is cut in half, at which it
dies. Answers with JSON: how it ``ended``, and the ``phase`` and the ``rows`` at which it began to read.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from redis.connection import AbstractConnection

from service.fitting import checkpoint, passes
from service.jobs import work
from service.jobs.schemas import FitOptions
from service.settings import Settings
from service.store import Store


def main() -> None:
    passes.CHUNK_BYTES = 2**15  # so that parts have several chunks
    checkpoint.SHARE_OF_TIME = 1e9  # so that each chunk has its checkpoint
    for line in sys.stdin:
        asked = json.loads(line)
        receiver, sender = os.pipe()
        child = os.fork()
        if not child:
            try:
                fit_and_die(**asked, told=lambda text: os.write(sender, text.encode()))  # noqa: B023
                os._exit(0)
            except Exception:
                traceback.print_exc()
                os._exit(1)
        status = os.waitpid(child, 0)[1]
        os.close(sender)
        with os.fdopen(receiver) as pipe:
            phase, _, rows = (pipe.readline().strip() or "none 0").rpartition(" ")
        ended = "killed" if os.WIFSIGNALED(status) else "finished" if status == 0 else "failed"
        print(json.dumps({"ended": ended, "phase": phase, "rows": int(rows)}), flush=True)


def fit_and_die(url: str, name: str, data: str, options: dict[str, Any], moment: int, told: Callable[[str], object]) -> None:
    settings = Settings(store=url, fit_memory=1, checkpoint_seconds=1e-9, data_roots=[data])
    seen = 0

    def dying(half: Callable[[], None] = lambda: None) -> None:
        nonlocal seen
        seen += 1
        if seen == moment:
            if moment % 2:
                half()
            os.kill(os.getpid(), signal.SIGKILL)

    send = AbstractConnection.send_packed_command

    def send_or_die(connection: Any, command: Any, **how: Any) -> None:
        whole = command if isinstance(command, bytes) else b"".join(command)
        dying(lambda: connection._sock.sendall(whole[: len(whole) // 2]))
        send(connection, command, **how)

    said: list[str] = []

    def progress(phase: str, done: int, total: int) -> None:
        if phase in ("read", "second look"):
            if not said:
                said.append(phase)
                told(f"{phase} {done}\n")
            dying()

    with Store.open(url) as store:
        AbstractConnection.send_packed_command = send_or_die
        with suppress(BrokenPipeError):
            work.fit(store, settings, name, name, FitOptions(data=data, **options), progress)
        AbstractConnection.send_packed_command = send


if __name__ == "__main__":
    main()
