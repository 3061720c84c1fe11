"""Work shared out among threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from functools import cache
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

T = TypeVar("T")
MadeT = TypeVar("MadeT")

_ONE = threading.Lock()  # who holds it sets how many threads BLAS has


@contextmanager
def shared_out(work: Callable[[T], MadeT], values: Sequence[T], most: int) -> Iterator[Iterator[MadeT]]:
    """What ``work`` makes of each of ``values``, in order, by as many threads as BLAS may have, and ``most`` at most; BLAS then has one.

    Products beside each other, each of one thread, take less time than one product of several threads, which wait for each other.
    While somebody else shares out work, or has set the threads of BLAS from another thread, all is done by the caller's thread.
    What has not begun when the caller leaves never does.

    >>> with shared_out(abs, [1, -2, 3], most=8) as found:
    ...     list(found)
    [1, 2, 3]
    """
    with ExitStack() as opened:
        threads = _limited(opened, min(most, len(values)))
        if threads == 1:
            yield map(work, values)
            return
        pool = ThreadPoolExecutor(threads)
        try:
            # Each in a copy of the context, with what numpy does about overflows in it.
            futures = [pool.submit(copy_context().run, work, value) for value in values]
            yield (futures.pop(0).result() for _ in range(len(futures)))
        finally:
            pool.shutdown(cancel_futures=True)


def _limited(opened: ExitStack, most: int) -> int:
    """How many threads may work beside each other, while ``opened``: BLAS has one thread in each, if there are several."""
    if most < 2 or not _ONE.acquire(blocking=False):
        return 1
    opened.callback(_ONE.release)
    libraries = _blas()
    threads = min([most, *_threads_of(libraries)])
    if threads > 1:
        opened.enter_context(libraries.limit(limits=1))
        threads = threads if set(_threads_of(libraries)) == {1} else 1  # others hold their limit
    return threads


@cache
def _blas() -> Any:
    """The libraries that multiply matrices, which numpy and scipy have brought: to look for them takes milliseconds."""
    return ThreadpoolController().select(user_api="blas")


def _threads_of(libraries: Any) -> list[int]:
    return [library.get_num_threads() for library in libraries.lib_controllers]
