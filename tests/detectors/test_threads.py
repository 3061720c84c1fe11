"""Work shared out among threads: the same sums by any number of them, and BLAS left as it was."""

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from detectors.moments import Moments
from detectors.threads import shared_out

WIDTH = 256
ROWS = np.random.default_rng(0).normal(size=(70_000, WIDTH)).astype(np.float32) + 5  # of several parts


def blas():
    """How many threads the libraries have that multiply matrices for numpy and scipy; faiss has one of its own."""
    return {found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas" and "faiss" not in found["filepath"]}


@pytest.fixture
def three():
    """BLAS with three threads."""
    with threadpool_limits(3, user_api="blas"):
        yield


@pytest.mark.parametrize("single", [False, True])
def test_any_number_of_threads_gives_the_same_bits(single):
    """Rows of several parts, summed by one thread and by three."""
    found = []
    for threads in (1, 3):
        with threadpool_limits(threads, user_api="blas"):
            found.append(Moments.of(ROWS, single=single))
    for name in ("mean", "scatter", "cubic", "quartic"):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(found[1], name), err_msg=name)


@pytest.mark.usefixtures("three")
def test_several_threads_work_while_blas_has_one():
    """At the same time, for each waits for the other; then BLAS has what it had."""
    together = threading.Barrier(3, timeout=60)

    def work(_value):
        together.wait()
        return blas()

    with shared_out(work, range(3), most=8) as found:
        assert list(found) == [{1}] * 3
    assert blas() == {3}


@pytest.mark.usefixtures("three")
def test_who_comes_second_works_alone():
    """Nothing is limited twice, whoever ends first: what one had seen of the other's limit would stay."""

    def nested(value):
        with shared_out(lambda one: (one, threading.get_ident()), [value, value], most=8) as found:
            return {thread for _, thread in found}, threading.get_ident()

    with shared_out(nested, range(3), most=8) as found:
        assert all(threads == {own} for threads, own in found)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: nested(1), range(60)))
    assert blas() == {3}


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("leaves", ["caller", "worker"])
def test_an_error_ends_the_work(leaves):
    """What has not begun never does, and BLAS has what it had."""
    begun = []

    def work(value):
        begun.append(value)
        if leaves == "worker":
            raise ValueError(leaves)

    with pytest.raises(ValueError, match=leaves), shared_out(work, range(10_000), most=2) as found:
        next(found)
        raise ValueError(leaves)
    assert len(begun) < 10_000
    assert blas() == {3}


@pytest.mark.usefixtures("three")
def test_numpy_says_as_little_as_the_caller_wants():
    """What is ignored by who calls is ignored in the threads."""
    with warnings.catch_warnings(), np.errstate(all="ignore"), shared_out(np.sqrt, [-np.ones(1)] * 4, most=8) as found:
        warnings.simplefilter("error")
        assert all(np.isnan(one).all() for one in found)


def test_one_thread_where_no_more_are_wanted():
    """By its own number, or by that of BLAS."""
    with threadpool_limits(3, user_api="blas"), shared_out(lambda _: threading.get_ident(), range(3), most=1) as found:
        assert set(found) == {threading.get_ident()}
    with threadpool_limits(1, user_api="blas"), shared_out(lambda _: threading.get_ident(), range(3), most=8) as found:
        assert set(found) == {threading.get_ident()}
