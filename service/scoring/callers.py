"""Who waits for an answer: until when, and whether still."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from service.errors import DeadlineExceeded, InvalidInput

# Headers that say how long the caller waits, and their unit in seconds. The second one is what the proxy Envoy adds by itself.
TIMEOUTS = {"x-request-timeout": 1.0, "x-envoy-expected-rq-timeout-ms": 0.001}


@dataclass(slots=True)
class Caller:
    """Of one request whose body has been read. Work for it asks ``check`` before it begins, and between its stages."""

    receive: Receive
    deadline: float = math.inf  # by time.monotonic
    left: bool = False

    @classmethod
    def of(cls, receive: Receive, headers: Mapping[str, str]) -> Caller:
        """Raises InvalidInput for a timeout that is not a number of seconds, or milliseconds, above 0."""
        timeout = timeout_of(headers)
        return cls(receive, math.inf if timeout is None else time.monotonic() + timeout)

    def check(self) -> None:
        """Raises ClientDisconnect or DeadlineExceeded where nobody would read an answer."""
        if self.left:
            raise ClientDisconnect
        if time.monotonic() > self.deadline:
            raise DeadlineExceeded("the time that the request allows for an answer was over before work on it could begin or go on")

    @contextmanager
    def watched(self) -> Iterator[asyncio.Task[None]]:
        """While inside, ``left`` is kept; the task ends when the caller leaves."""
        watch = asyncio.create_task(self._watch())
        try:
            yield watch
        finally:
            watch.cancel()

    async def _watch(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.left = True

    def seconds_left(self) -> float | None:
        """None where there is no deadline; never less than 0."""
        return None if self.deadline == math.inf else max(0.0, self.deadline - time.monotonic())


def timeout_of(headers: Mapping[str, str]) -> float | None:
    """Seconds that the caller waits, the least of those that the headers name; None where they name none."""
    found = [_seconds(name, headers[name]) * unit for name, unit in TIMEOUTS.items() if name in headers]
    return min(found, default=None)


def _seconds(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise InvalidInput(f"header {name} must be a number above 0, not {text[:40]!r}", name)
    return value


def headers_of(request: Request) -> dict[str, str]:
    """Headers by their names in small letters, the first of each: to look one up in a request's own takes as long as to make this."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(request.scope["headers"])}
