"""A body that is late is refused, and what others have cancelled is not taken for late."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from service.serving.patience import BodyDeadline

SECONDS = 0.02
SCOPE: dict[str, Any] = {"type": "http"}


async def never() -> Any:
    await asyncio.Event().wait()


async def ignored(_message: Any) -> None:
    pytest.fail("nothing is answered")


async def read(seconds: float = SECONDS, receive: Any = never) -> Any:
    """What an application reads as the body of a request whose client has so many seconds."""
    messages = []

    async def application(_scope: Any, receive: Any, _send: Any) -> None:
        messages.append(await receive())

    await BodyDeadline(application, seconds)(SCOPE, receive, ignored)
    return messages[0]


def left_cancelled() -> int:
    """How many cancellations of this task nobody has taken back."""
    task = asyncio.current_task()
    assert task
    return task.cancelling()


async def refused_as_late(seconds: float = SECONDS) -> None:
    before = left_cancelled()
    with pytest.raises(HTTPException) as refused:
        await read(seconds)
    assert (refused.value.status_code, left_cancelled()) == (408, before)


def test_a_late_body_is_refused_and_the_task_goes_on() -> None:
    asyncio.run(refused_as_late())


def test_a_body_in_time_is_read() -> None:
    async def soon() -> Any:
        await asyncio.sleep(SECONDS / 10)
        return {"type": "http.request", "body": b"1", "more_body": False}

    async def patient() -> None:
        assert (await read(60 * SECONDS, soon))["body"] == b"1"
        await asyncio.sleep(2 * SECONDS)
        assert not left_cancelled()

    asyncio.run(patient())


def test_who_is_cancelled_by_others_is_not_late() -> None:
    async def leaving() -> None:
        reading = asyncio.ensure_future(read(60))
        await asyncio.sleep(SECONDS)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    asyncio.run(leaving())


def test_a_clock_around_it_that_ends_at_the_same_time_is_obeyed() -> None:
    async def both() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await refused_as_late(0)
        assert not left_cancelled()

    asyncio.run(both())


def test_a_task_that_was_cancelled_before_and_went_on_is_refused_as_late() -> None:
    async def stubborn() -> None:
        task = asyncio.current_task()
        assert task
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(0)
        await refused_as_late()
        assert left_cancelled() == 1

    asyncio.run(stubborn())
