"""What guards the event loop: bounded bodies, a bounded number of threads, a bounded queue before them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import anyio
from anyio import to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ForeignOrigin, Overloaded
from service.metrics import Metrics
from service.problems import STATUS, problem

T = TypeVar("T")


class Gate:
    """Runs functions in threads, at most ``threads`` at a time with ``queue`` more waiting; ``watch`` is told how many wait."""

    def __init__(self, threads: int, queue: int, watch: Callable[[int], None] = lambda waiting: None) -> None:
        self._limiter = anyio.CapacityLimiter(threads)
        self._threads, self._queue = threads, queue
        self._watch = watch
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
        self._watch(max(0, self._inside - self._threads))


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


class OwnPagesOnly:
    """ASGI middleware that refuses changes asked for by pages of other sites, and lets none of them frame ours.

    A browser sends such a request with the site's own name as ``Origin``; programs send none.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        origin = headers.get(b"origin", b"").decode("latin-1")
        if (
            origin
            and scope["method"] not in {"GET", "HEAD", "OPTIONS"}
            and urlsplit(origin).netloc != headers.get(b"host", b"").decode("latin-1")
        ):
            status, slug = STATUS[ForeignOrigin]
            response = problem(Request(scope), status, f"a page of {origin} may not ask this service for changes", slug=slug)
            await response(scope, receive, send)
            return

        async def unframed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-frame-options", b"DENY"), (b"x-content-type-options", b"nosniff")]
            await send(message)

        await self._app(scope, receive, unframed)


class BodyLimit:
    """ASGI middleware that bounds bodies: each to ``limit`` bytes, and all that are being held to ``held``.

    A body announced as too large is refused unread, another one when it passes the limit. Bodies are read before their
    request has a thread, so that without the second bound the number of connections would be the only one.
    """

    def __init__(self, app: ASGIApp, limit: int, held: int) -> None:
        self._app = app
        self._limit, self._most_held = limit, held
        self._held = 0

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
            size = len(message.get("body", b""))
            received += size
            self._held += size
            if received > self._limit:
                raise HTTPException(413, f"the body is over the limit of {self._limit} bytes")
            if self._held > self._most_held and self._held > received:
                raise HTTPException(503, "too much is being sent at the same time; try again in a moment", {"Retry-After": "1"})
            return message

        try:
            await self._app(scope, counting, send)
        finally:
            self._held -= received
