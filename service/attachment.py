"""Processes that live no longer than who started them: their order is the first line of the standard input, its end their end.

Whatever way the parent ends, a kill included, the kernel closes its end of the pipe.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any


def start(module: str, order: dict[str, Any], **options: Any) -> subprocess.Popen[bytes]:
    """``python -m module`` with ``order``, in a session of its own, so that Ctrl-C in a terminal reaches the parent alone."""
    process = subprocess.Popen([sys.executable, "-m", module], stdin=subprocess.PIPE, start_new_session=True, **options)
    with suppress(BrokenPipeError):  # it has ended already, which is for the caller to see
        _pipe(process).write(json.dumps(order).encode() + b"\n")
        _pipe(process).flush()
    return process


def detach(process: subprocess.Popen[bytes]) -> None:
    """Close the pipe to a process."""
    with suppress(BrokenPipeError):  # what was not read yet is lost with who would have read it
        _pipe(process).close()


def order() -> dict[str, Any]:
    """What the parent of this process wants of it."""
    found: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    return found


def watch(parent_ended: Callable[[], object]) -> None:
    """Have ``parent_ended`` called, in a thread of its own, when the parent has ended or let go."""

    def wait() -> None:
        os.read(sys.stdin.fileno(), 1)  # not by the buffer, whose lock would be held when Python ends
        parent_ended()

    threading.Thread(target=wait, daemon=True, name="parent").start()


def _pipe(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdin  # noqa: S101  # it was started with one
    return process.stdin
