"""What guards the event loop: bounded bodies, a bounded number of threads, a bounded queue before them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
from anyio import to_thread
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Overloaded
from service.metrics import Metrics

T = TypeVar("T")


class Gate:
    """Runs functions in threads, at most ``threads`` at a time with ``queue`` more waiting."""

    def __init__(self, threads: int, queue: int, metrics: Metrics) -> None:
        self._limiter = anyio.CapacityLimiter(threads)
        self._threads, self._queue = threads, queue
        self._metrics = metrics
        self._inside = 0  # running or waiting; the limiter learns of a request only after it has yielded once

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """What ``function`` returns. Raises Overloaded, at once, when threads and queue are full."""
        if self._inside >= self._threads + self._queue:
            raise Overloaded(f"{self._inside - self._threads} requests are waiting already; try again in a moment")
        self._count(+1)
        try:
            return await to_thread.run_sync(function, *arguments, limiter=self._limiter)
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        self._inside += change
        self._metrics.waiting(max(0, self._inside - self._threads))


class Watch:
    """ASGI middleware that counts and times each request by its route's template."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, code = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")
            self._metrics.request(route, code, time.perf_counter() - start)


class BodyLimit:
    """ASGI middleware that refuses bodies over ``limit`` bytes: announced ones unread, others when they pass it."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        received = 0

        # An HTTPException, because FastAPI takes any other one raised while it reads a body for a broken body.
        async def counting() -> Message:
            nonlocal received
            if announced.isdigit() and int(announced) > self._limit:
                raise HTTPException(413, f"the body is announced with {int(announced)} bytes; the limit is {self._limit}")
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise HTTPException(413, f"the body is over the limit of {self._limit} bytes")
            return message

        await self._app(scope, counting, send)
