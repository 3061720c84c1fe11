"""Tries: what a network fails to give at one moment is asked for again, a few times."""

from __future__ import annotations

import errno
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

S3_BUSY = (errno.EBUSY, getattr(errno, "EREMOTEIO", errno.EIO))  # as its file system calls such answers


def _broken() -> tuple[type[BaseException], ...]:
    """Errors of connections that broke; those of aiohttp and botocore too, once these were imported: before that nothing raises them."""
    web, s3 = sys.modules.get("aiohttp"), sys.modules.get("botocore.exceptions")
    of_web = (web.ClientConnectionError, web.ClientPayloadError) if web else ()
    return (ConnectionError, TimeoutError, *of_web, *((s3.HTTPClientError,) if s3 else ()))


def may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later: the connection broke, or the server says that it cannot answer now.

    >>> may_pass(ConnectionResetError()), may_pass(FileNotFoundError()), may_pass(PermissionError())
    (True, False, False)
    """
    cause = error.__cause__ if isinstance(error, FileNotFoundError) else error  # so the web's file system says of whatever it meets
    busy = getattr(cause, "status", None) in BUSY or getattr(cause, "errno", None) in S3_BUSY
    return busy or isinstance(cause, _broken())


again = Retrying(
    retry=retry_if_exception(may_pass), stop=stop_after_attempt(TRIES), wait=wait_exponential(FIRST_WAIT_SECONDS), reraise=True
)
"""``again(call, *arguments)`` is what ``call`` returns at the first of TRIES that succeeds; raises the last error, or one that stays."""


async def awaited(call: Callable[..., Awaitable[T]], *arguments: object, **named: object) -> T:
    """As ``again``, of a coroutine function; any number of these may be under way at once."""
    trying = AsyncRetrying(retry=again.retry, stop=again.stop, wait=again.wait, reraise=True)  # one for each call: it keeps state
    return await trying(call, *arguments, **named)
