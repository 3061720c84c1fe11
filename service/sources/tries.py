"""Tries: what a network fails to give at one moment is asked for again, a few times."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TypeVar

from tenacity import AsyncRetrying, Retrying, retry_if_exception, stop_after_attempt, wait_exponential

T = TypeVar("T")

TRIES = 4
FIRST_WAIT_SECONDS = 0.5  # and twice as long after each further try
BUSY = (
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)


def _broken() -> tuple[type[BaseException], ...]:
    """Errors of connections that broke. aiohttp's are among them once it was imported: before that nothing raises them."""
    web = sys.modules.get("aiohttp")
    return (ConnectionError, TimeoutError, *((web.ClientConnectionError, web.ClientPayloadError) if web else ()))


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later: the connection broke, or the server says that it cannot answer now.

    >>> may_pass(ConnectionResetError()), may_pass(FileNotFoundError()), may_pass(PermissionError())
    (True, False, False)
    """
    cause = error.__cause__ if isinstance(error, FileNotFoundError) else error  # so the web's file system says of whatever it meets
    return isinstance(cause, _broken()) or getattr(cause, "status", None) in BUSY


again = Retrying(
    retry=retry_if_exception(may_pass), stop=stop_after_attempt(TRIES), wait=wait_exponential(FIRST_WAIT_SECONDS), reraise=True
)
"""``again(call, *arguments)`` is what ``call`` returns at the first of TRIES that succeeds; raises the last error, or one that stays."""


async def awaited(call: Callable[..., Awaitable[T]], *arguments: object, **named: object) -> T:
    """As ``again``, of a coroutine function; any number of these may be under way at once."""
    trying = AsyncRetrying(retry=again.retry, stop=again.stop, wait=again.wait, reraise=True)  # one for each call: it keeps state
    return await trying(call, *arguments, **named)
