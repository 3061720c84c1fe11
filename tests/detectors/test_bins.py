"""Bins between order statistics: exact for any law of the values, and the tests on counts in them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import chisquare

from detectors.bins import Bins, even_ranks, log_evidence, moved, rank_shift, upper_ranks


@given(st.lists(st.integers(0, 5), min_size=3, max_size=30), st.integers(0, 6), st.floats(0, 1, exclude_max=True), st.integers(2, 8))
def test_bins_are_those_of_sorted_pairs(reference, value, drawn, bins):
    """Values that repeat are ordered by the numbers drawn for them."""
    reference = np.array(reference, dtype=float)
    ranks = even_ranks(len(reference), bins)
    ours = Bins.of(reference[:, None], ranks, seed=0)
    pairs = list(zip(ours.edges[:, 0], ours.breaks[:, 0], strict=True))
    assert [edge for edge, _ in pairs] == np.sort(reference)[ranks - 1].tolist()
    assert pairs == sorted(pairs) and len(set(pairs)) == len(pairs)
    assert ours.index(np.array([[float(value)]]), np.array([[drawn]]))[0, 0] == sum(pair < (value, drawn) for pair in pairs)
    assert ours.gaps.sum() == len(reference) + 1
    assert (ours.gaps > 0).all()


@pytest.mark.parametrize("size", [1, 2, 7, 19, 99, 100_000])
def test_the_upper_ranks_part_the_highest_gap_alone(size):
    """Ranks ascend within the reference, and the highest bin is the gap above all of it."""
    ranks = upper_ranks(size, 32)
    assert (np.diff(ranks) > 0).all()
    assert (ranks[0], ranks[-1]) >= (1, size)
    assert len(ranks) < 32 + np.log2(size + 1)


@pytest.mark.parametrize("draw", [lambda rng, n: rng.normal(size=n), lambda rng, n: rng.poisson(1, n), lambda rng, n: np.zeros(n)])
def test_bins_have_the_law_of_an_urn(draw):
    """Pairs of bins of two new values beside nine reference values, over the draw of all: continuous, discrete and constant laws."""
    rng, seen = np.random.default_rng(1), np.zeros((3, 3))
    for run in range(6000):
        values = np.asarray(draw(rng, 11), dtype=float)[:, None]
        bins = Bins.of(values[:9], np.array([5, 9]), seed=run)  # of five, four and one gaps
        first, second = bins.index(values[9:], rng.random((2, 1)))[:, 0]
        seen[first, second] += 1
    gaps = bins.gaps.astype(float)
    expected = 6000 * (gaps[:, None] / 10) * ((gaps + np.eye(3)) / 11)
    assert chisquare(seen.ravel(), expected.ravel()).pvalue > 1e-4


def test_evidence_is_the_ratio_of_two_urns():
    """Multiplied row by row, in any order of the rows."""
    gaps, rows = np.array([3, 5, 2]), [0, 2, 2, 1, 2, 0, 2]
    counts, log = np.zeros(3), 0.0
    for row in rows:
        null = (gaps[row] + counts[row]) / (10 + counts.sum())
        free = (gaps[row] * 3 / 10 + counts[row]) / (3 + counts.sum())
        log += np.log(free / null)
        counts[row] += 1
    assert_allclose(log_evidence(gaps, counts[:, None].astype(np.int64)), [log], rtol=1e-12)
    assert_array_equal(log_evidence(gaps, np.zeros((3, 2), dtype=np.int64)), [0, 0])


def test_evidence_rarely_reaches_a_bound_and_reaches_it_by_a_shift():
    """Over 400 features: Ville's bound at every tenth row, and nearly all of those that moved by a standard deviation."""
    rng = np.random.default_rng(2)
    bins = Bins.of(rng.normal(size=(200, 400)), even_ranks(200, 8), seed=0)
    counts, shifted, highest = np.zeros((2, 8, 400), dtype=np.int64), 1.0, np.full(400, -np.inf)
    for _ in range(50):
        for at, shift in enumerate((0.0, shifted)):
            index = bins.index(rng.normal(shift, 1, size=(10, 400)), rng.random((10, 400)))
            counts[at] += np.stack([(index == place).sum(axis=0) for place in range(8)])
        highest = np.maximum(highest, log_evidence(bins.gaps, counts[0]))
    assert (highest >= np.log(20)).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)
    assert (log_evidence(bins.gaps, counts[1]) > np.log(1000)).mean() > 0.99
    assert_allclose(rank_shift(bins.gaps, counts[1]).mean(), 0.26, atol=0.02)  # P(N(1, 1) > N(0, 1)) = 0.76


def test_discoveries_are_those_of_benjamini_and_hochberg_for_e_values():
    """The largest k of which the k-th highest is at least d / (k rate); none where nothing is."""
    assert_array_equal(moved(np.log([100, 25, 41, 1]), 0.05), [True, False, True, False])
    assert_array_equal(moved(np.log([21, 22]), 0.05), [True, True])
    assert not moved(np.log([39.0, 19.9]), 0.05).any()
