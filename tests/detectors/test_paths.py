"""Signatures against worked examples, a slow twin, and the identities that define them."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detectors import paths
from detectors.paths import signature_width, signatures, with_basepoint, with_invisibility, with_lead_lag, with_time
from tests import naive

ZIGZAG = np.array([[[0, 0], [1, 2], [3, 1], [2, -1.0]]])
DEPTH = 4

streams = arrays(float, st.tuples(st.integers(2, 6), st.just(2)), elements=st.floats(-2, 2, width=16))


def signature(path, depth=DEPTH):
    return signatures(np.asarray(path)[None], depth)[0]


def levels(values, channels, depth=DEPTH):
    """Level k as a tensor of k indices, for k = 1, 2, ..."""
    starts = np.cumsum([0, *(channels**k for k in range(1, depth + 1))])
    return [values[starts[k - 1] : starts[k]].reshape((channels,) * k) for k in range(1, depth + 1)]


def assert_close(left, right):
    np.testing.assert_allclose(left, right, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("path", "depth", "expected"),
    [
        (ZIGZAG, 3, [2, -1, 2, -6, 4, 0.5, 4 / 3, -49 / 6, 13 / 3, 47 / 6, 11 / 6, -29 / 3, 17 / 6, -1 / 6]),
        (with_time(ZIGZAG), 2, [2, -1, 1, 2, -6, 5 / 3, 4, 0.5, 5 / 6, 1 / 3, -11 / 6, 0.5]),
        (with_invisibility(ZIGZAG), 1, [0, 0, -1]),
        (with_lead_lag(ZIGZAG), 2, [2, -1, 2, -1, 2, -6, 5, -5, 4, 0.5, 5, 5, -1, -7, 2, -6, 3, -4, 4, 0.5]),
        (np.array([[[0, 0], [1, 0], [1, 1.0]]]), 3, [1, 1, 0.5, 1, 0, 0.5, 1 / 6, 0.5, 0, 0.5, 0, 0, 0, 1 / 6]),
    ],
    ids=["plain", "time", "invisibility", "lead-lag", "corner"],
)
def test_worked_examples(path, depth, expected):
    """Signatures of four points in the plane, plain and augmented, to 1e-12."""
    np.testing.assert_allclose(signatures(path, depth)[0], expected, atol=1e-12)


@pytest.mark.parametrize(("channels", "depth"), [(1, 6), (2, 5), (3, 3), (5, 1), (4, 2)])
def test_equals_the_slow_twin(channels, depth, monkeypatch):
    """Signatures of random streams equal those computed word by word to 1e-12, in one block, by streams and by stretches of steps."""
    walks = np.random.default_rng(0).normal(size=(5, 9, channels)).cumsum(axis=1)
    expected = np.array([naive.signature(walk, depth) for walk in walks])
    np.testing.assert_allclose(signatures(walks, depth), expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())
    together = signatures(walks, depth)
    atol = 1e-14 * np.abs(expected).max()
    for block, fewest in ((2 * 9 * channels ** (depth - 1), 16), (1, 3), (1, 1)):
        monkeypatch.setattr(paths, "BLOCK_NUMBERS", block)
        monkeypatch.setattr(paths, "FEWEST_STEPS", fewest)
        np.testing.assert_allclose(signatures(walks, depth), together, rtol=1e-13, atol=atol)
    assert together.shape == (5, signature_width(channels, depth))


@given(streams, streams)
@settings(max_examples=40)
def test_a_path_after_another_multiplies_signatures(first, second):
    """Chen: the signature of two paths one after the other is the tensor product of theirs."""
    whole = np.vstack([first, second - second[0] + first[-1]])
    assert_close(signature(whole), naive.chen(signature(first), signature(second), 2, DEPTH))


@given(streams, st.integers(0, 5), st.floats(0, 1, width=16))
def test_where_points_lie_on_a_line_does_not_matter(path, where, share):
    """A repeated point, and a point added on the way from one to the next, change nothing."""
    where %= len(path) - 1
    between = (1 - share) * path[where] + share * path[where + 1]
    assert_close(signature(np.insert(path, where + 1, between, axis=0)), signature(path))
    assert_close(signature(np.repeat(path, 3, axis=0)), signature(path))


@given(streams, st.floats(-50, 50, width=16))
def test_a_moved_path_has_the_same_signature(path, shift):
    """Translation changes nothing."""
    assert_close(signature(path + shift), signature(path))


@given(streams)
def test_products_of_increments_are_sums_of_areas(path):
    """Shuffle: the second level and its transpose add up to the product of the first with itself, and likewise for the third."""
    one, two, three, _ = levels(signature(path), 2)
    assert_close(two + two.T, np.multiply.outer(one, one))
    shuffled = three + three.transpose(1, 0, 2) + three.transpose(2, 0, 1)  # the first letter put at each of three places
    assert_close(np.einsum("i,jk->ijk", one, two), shuffled)


@given(streams)
def test_the_path_backwards_is_the_antipode(path):
    """Backwards, each word is read from its end, with the sign of its length."""
    back = levels(signature(path[::-1]), 2)
    for k, (level, reverse) in enumerate(zip(levels(signature(path), 2), back, strict=True), start=1):
        assert_close(reverse, (-1) ** k * level.transpose())


def test_augmentations_show_what_a_signature_hides():
    """Basepoint shows the start, time the speed, lead-lag the quadratic variation, invisibility both ends."""
    path = np.array([[[1.0], [4.0], [2.0]]])
    assert signatures(path, 1) == signatures(path + 5, 1)
    assert signatures(with_basepoint(path), 1)[0] == [2]
    slow = np.array([[[1.0], [1.0], [4.0], [2.0]]])
    assert not np.allclose(signatures(with_time(slow), 2), signatures(with_time(path), 2))
    second = levels(signatures(with_lead_lag(path), 2)[0], 2, 2)[1]
    assert second[0, 1] - second[1, 0] == pytest.approx(3**2 + 2**2)
    assert with_lead_lag(path).shape == (1, 5, 2)
    assert not np.allclose(signatures(with_invisibility(path), 2), signatures(with_invisibility(path + 5), 2))


def test_memory_stays_with_the_block():
    """A long and wide signature takes a few MiB besides its paths and itself, not the points times the words."""
    walk = np.random.default_rng(0).normal(size=(1, 20_000, 4)).cumsum(axis=1)
    tracemalloc.start()
    signatures(walk, 6)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 12 * 2**20  # all words at all points would be 160 MiB


def test_one_point_has_no_signature():
    """A path without steps has zeros alone."""
    assert not signatures(np.ones((3, 1, 2)), 3).any()


def test_pysiglib_does_the_work_where_it_is(monkeypatch):
    """A stand-in for the library, which needs torch and is not here, is called with an array in order, and its answer is used."""
    called = []

    class StandIn:
        @staticmethod
        def sig(given, depth):
            called.append((given.flags.c_contiguous, depth))
            return np.array([naive.signature(path, depth) for path in given])

    made = np.random.default_rng(0).normal(size=(3, 5, 2))
    own = signatures(made, 3)
    monkeypatch.setattr(paths, "_library", lambda: StandIn)
    np.testing.assert_allclose(signatures(np.asfortranarray(made), 3), own, rtol=1e-10)
    assert called == [(True, 3)]
    assert not signatures(made[:, :1], 3).any()  # one point: nothing to ask for
