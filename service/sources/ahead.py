"""Read-ahead: a thread reads what comes next while the caller works on what it has."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


def ahead(chunks: Iterator[T], depth: int = 2) -> Iterator[T]:
    """The same values in the same order, with up to ``depth`` of them waiting that a thread has read ahead.

    An error of ``chunks`` is raised here, after the values before it. When the caller leaves (``break``, an
    error, ``close()``), this returns at once; the thread ends after the read that it is in. Only the thread
    touches ``chunks`` from the first ``next()`` on.

    >>> list(ahead(iter([1, 2, 3])))
    [1, 2, 3]
    """
    waiting: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(maxsize=depth)
    left = threading.Event()

    def read() -> None:
        last: BaseException | None = None
        try:
            for chunk in chunks:
                waiting.put((chunk,))
                if left.is_set():
                    break
        except BaseException as error:  # noqa: BLE001  whatever it is, it is raised again where the values are used
            last = error
        close = getattr(chunks, "close", None)
        if close is not None:
            close()
        if not left.is_set():
            waiting.put(last)

    threading.Thread(target=read, name="read-ahead", daemon=True).start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]
    finally:
        left.set()
        while not waiting.empty():  # a put that waits for room goes through, and the thread then sees that nobody reads
            waiting.get_nowait()
