"""Threads beside the caller: one that reads what comes next, and some that work on what has been read."""

from __future__ import annotations

import atexit
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
MadeT = TypeVar("MadeT")
EXIT_SECONDS = 5.0  # that the end of the program waits for a read
READING: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


@atexit.register
def _wait() -> None:
    """Wait for reads that are under way when the program ends: a library that comes back from one afterwards brings the process down."""
    for thread in list(READING):
        thread.join(EXIT_SECONDS)


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

    thread = threading.Thread(target=read, name="read-ahead", daemon=True)
    READING.add(thread)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]
    finally:
        left.set()
        while not waiting.empty():  # a put that waits for room goes through, and the thread then sees that nobody reads
            waiting.get_nowait()


def abreast(work: Callable[[T], MadeT], values: Iterator[T], threads: int) -> Iterator[tuple[T, MadeT]]:
    """Each of ``values`` in order with what ``work`` makes of it, in so many threads, each of which has one at a time.

    An error of ``work`` is raised here, after the values before it. When the caller leaves, what has not begun never does.

    >>> list(abreast(abs, iter([-1, 2, -3]), threads=2))
    [(-1, 1), (2, 2), (-3, 3)]
    """
    waiting: deque[tuple[T, Future[MadeT]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="abreast")

    def first() -> tuple[T, MadeT]:
        value, made = waiting.popleft()
        try:
            return value, made.result()
        finally:
            del made  # whose error would hold this frame, and this frame it

    try:
        for value in values:
            waiting.append((value, pool.submit(work, value)))
            while waiting and (len(waiting) >= threads or waiting[0][1].done()):
                yield first()
        while waiting:
            yield first()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        waiting.clear()
        close = getattr(values, "close", None)
        if close is not None:
            close()
