"""What guards the event loop: bounded bodies, a bounded number of threads, a bounded queue before them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
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
from service.scoring.callers import Caller

T = TypeVar("T")


class Gate:
    """Runs functions in threads: at most ``threads`` at a time, ``each`` of them for one key, with ``queue`` more waiting.

    A thread that becomes free goes to the keys in turn, and where the queue is full the newest of the key with the most
    waiting makes room for one of a key with fewer: however much is asked of one detector, the others get their share.
    ``watch`` is told how many wait. For one event loop, which needs no locks.
    """

    def __init__(self, threads: int, queue: int, watch: Callable[[int], None] = lambda waiting: None, *, each: int = 0) -> None:
        self._limiter = anyio.CapacityLimiter(threads)
        self._free, self._each, self._queue = threads, each or threads, queue
        self._running: Counter[str] = Counter()
        self._lines: dict[str, deque[asyncio.Future[None]]] = {}  # who waits, by key; the first key is the next in turn
        self._waiting = 0
        self._watch = watch

    async def run(self, function: Callable[..., T], *arguments: Any, key: str = "", caller: Caller | None = None) -> T:
        """What ``function`` returns. Raises as ``turn``, in which case it was never called."""
        async with self.turn(key, caller):
            return await self.thread(function, *arguments)

    async def thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """What ``function`` returns, called in the thread of a turn."""
        return await to_thread.run_sync(function, *arguments, limiter=self._limiter)

    @asynccontextmanager
    async def turn(self, key: str, caller: Caller | None = None, unless: asyncio.Future[Any] | None = None) -> AsyncIterator[bool]:
        """While inside, a thread is kept for the caller. False, and none is, where ``unless`` was done before there was one.

        Raises Overloaded, at once, when threads and queue are full; and where there is a ``caller``, DeadlineExceeded or
        ClientDisconnect as soon as it has no use for an answer.
        """
        with caller.watched() if caller else nullcontext() as leaving:
            entered = await self._enter(key, caller, {future for future in (leaving, unless) if future}, unless)
            try:
                yield entered
            finally:
                if entered:
                    self._leave(key)

    async def _enter(self, key: str, caller: Caller | None, told: set[asyncio.Future[Any]], unless: asyncio.Future[Any] | None) -> bool:
        """Take a thread for ``key``, after the others in line, or none where ``unless`` is done; any of ``told`` may change what holds."""
        if self._free and self._running[key] < self._each:
            self._take(key)
            return True
        if self._waiting >= self._queue:
            self._make_room(key)
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(key, deque()).append(place)
        self._count(+1)
        try:
            while not place.done():
                if unless and unless.done():
                    self._remove(key, place)
                    return False
                if caller:
                    caller.check()
                left = caller.seconds_left() if caller else None
                await asyncio.wait({place, *told}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            place.result()
        except BaseException:
            if not place.done():
                self._remove(key, place)
            elif not place.exception():  # given in the instant in which the caller left
                self._leave(key)
            raise
        return True

    def _take(self, key: str) -> None:
        self._free -= 1
        self._running[key] += 1

    def _leave(self, key: str) -> None:
        """Give the thread back, and each free one to the first in line of the next key that may have one more."""
        self._free += 1
        self._running[key] -= 1
        if not self._running[key]:
            del self._running[key]
        while self._free and (following := next((key for key in self._lines if self._running[key] < self._each), None)) is not None:
            place = self._lines[following][0]
            self._remove(following, place)
            if following in self._lines:
                self._lines[following] = self._lines.pop(following)  # to the end of the turn
            self._take(following)
            place.set_result(None)

    def _make_room(self, key: str) -> None:
        """Refuse the newest of the longest line, if it stays longer than that of ``key`` grows; else raise Overloaded."""
        refusal = Overloaded(f"{self._waiting} requests are waiting already; try again in a moment")
        longest = max(self._lines, key=lambda key: len(self._lines[key]), default=key)
        if len(self._lines.get(longest, ())) <= len(self._lines.get(key, ())) + 1:
            raise refusal
        place = self._lines[longest][-1]
        self._remove(longest, place)
        place.set_exception(refusal)

    def _remove(self, key: str, place: asyncio.Future[None]) -> None:
        self._lines[key].remove(place)
        if not self._lines[key]:
            del self._lines[key]
        self._count(-1)

    def _count(self, change: int) -> None:
        self._waiting += change
        self._watch(self._waiting)


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
