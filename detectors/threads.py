"""Work shared out among threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from threadpoolctl import ThreadpoolController

T = TypeVar("T")
MadeT = TypeVar("MadeT")


@contextmanager
def abreast(work: Callable[[T], MadeT], values: Sequence[T]) -> Iterator[Iterator[MadeT]]:
    """What ``work`` makes of each of ``values``, in order, by as many threads as a product of matrices may have, which then has one.

    Products beside each other, each of one thread, take less time than one product of several threads, which wait for each other.

    >>> with abreast(abs, [1, -2, 3]) as found:
    ...     list(found)
    [1, 2, 3]
    """
    threads = 1
    if len(values) > 1:
        numerical = ThreadpoolController().select(user_api="blas")
        threads = min(len(values), max((library.num_threads for library in numerical.lib_controllers), default=1))
    if threads == 1:
        yield map(work, values)
        return
    with numerical.limit(limits=1), ThreadPoolExecutor(threads) as pool:
        yield pool.map(work, values)
