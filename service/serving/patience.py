"""How long the service waits for a slow client: for the head of a request, and for its body."""

from __future__ import annotations

import asyncio
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LEAST_RATE = 2**16  # bytes a second of a body that is not refused


class BodyDeadline:
    """ASGI middleware that gives a body ``seconds`` to arrive, and one more for each ``LEAST_RATE`` bytes that have.

    Only the time spent waiting counts. A body that is too slow is answered 408, and its connection is closed.
    """

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        waited, received, expecting = 0.0, 0, True

        async def hurrying() -> Message:
            nonlocal waited, received, expecting
            if not expecting:
                return await receive()
            start, allowed = time.monotonic(), self._seconds + received / LEAST_RATE
            try:
                async with asyncio.timeout(allowed - waited):
                    message = await receive()
            except TimeoutError:
                detail = f"{received} bytes of the body came within {allowed:.0f} seconds, and that is too slow"
                raise HTTPException(408, detail, {"Connection": "close"}) from None
            waited += time.monotonic() - start
            received += len(message.get("body", b""))
            expecting = message.get("more_body", False)
            return message

        await self._app(scope, hurrying, send)


class HeadDeadline(HttpToolsProtocol):
    """uvicorn's side of a connection, which gives each request's head as long as uvicorn gives the pause before it.

    uvicorn itself stops its clock at the first byte of a head, and has none at all for the first head of a connection.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._head_due = self._clock()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_due.cancel()
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        self._head_due.cancel()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._head_due.cancel()
        if not self.transport.is_closing():
            self._head_due = self._clock()

    def _clock(self) -> asyncio.TimerHandle:
        return self.loop.call_later(self.timeout_keep_alive, self._late)

    def _late(self) -> None:
        if self.cycle is None or self.cycle.response_complete:  # else the next request is being answered already
            self.transport.close()
