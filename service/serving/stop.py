"""The signal to stop, and what follows it."""

from __future__ import annotations

import signal
from typing import Protocol, Self

GRACE_SECONDS = 20  # that requests have to end after it


class Server(Protocol):
    """What can be told to end: uvicorn's."""

    should_exit: bool


class Stop:
    """Notes the signal to stop and tells the server; an exception raised by a handler would be lost inside a finalizer."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.ended = False
        self.server: Server | None = None

    def __call__(self, number: int, _frame: object) -> None:
        self.number = number
        self.end()

    def end(self) -> None:
        self.ended = True
        if self.server:
            self.server.should_exit = True

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
