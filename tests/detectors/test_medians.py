"""Comedian, L1 median and medoid against brute force and the conditions that define them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detectors import medians
from detectors.medians import comedian, coordinate_median, l1_median, l1_medoid
from tests import naive


def test_the_smallest_case_by_hand():
    """Five rows in the plane: the medians are (2, 1) and the comedian is the identity, exactly."""
    rows = np.array([[0, 0], [1, 2], [2, 1], [3, 5], [10, -10]], float)
    np.testing.assert_array_equal(coordinate_median(rows), [2, 1])
    np.testing.assert_array_equal(comedian(rows - [2, 1]), np.eye(2))


@pytest.mark.parametrize("n", [2, 3, 50, 51])
@pytest.mark.parametrize("numbers", [1, 120, 2**22])
def test_the_comedian_is_the_median_of_products(n, numbers, monkeypatch):
    """Every entry equals numpy's median bit for bit, for odd and even n, in one block and in many."""
    monkeypatch.setattr(medians, "BLOCK_NUMBERS", numbers)
    rows = np.random.default_rng(n).normal(size=(n, 7))
    np.testing.assert_array_equal(comedian(rows, threads=2), naive.comedian(rows))


@given(arrays(float, st.tuples(st.integers(3, 30), st.integers(2, 4)), elements=st.integers(-20, 20).map(float)))
def test_the_l1_median_has_no_better_neighbour(rows):
    """No point near the L1 median has a smaller sum of distances, ties and repeated rows included."""

    def total(p):
        return np.linalg.norm(rows - p, axis=1).sum()

    point, moves = l1_median(rows), np.random.default_rng(0).normal(size=(30, rows.shape[1]))
    assert all(total(point + size * move) >= total(point) * (1 - 1e-9) for move in moves for size in (1e-4, 1e-2, 1.0))


def test_the_gradient_vanishes_at_the_l1_median():
    """The unit vectors from the L1 median to 400 heavy-tailed rows add up to nothing."""
    rows = np.random.default_rng(0).standard_t(2, size=(400, 5)) * (1, 2, 3, 4, 5)
    gaps = rows - l1_median(rows)
    assert np.linalg.norm((gaps / np.linalg.norm(gaps, axis=1)[:, None]).sum(axis=0)) < 1e-6


@pytest.mark.parametrize(
    "rows", [[[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]], [[0, 0], [5, 1], [-5, 1]], [[0, 0], [0, 0], [0, 0], [7, 1], [9, -2]]]
)
def test_the_l1_median_may_be_a_row(rows):
    """A row whose pull no other rows outweigh is the L1 median (Vardi and Zhang), reached or started at."""
    np.testing.assert_allclose(l1_median(np.array(rows, float)), [0, 0], atol=1e-9)


@given(arrays(float, st.tuples(st.integers(2, 25), st.integers(1, 4)), elements=st.integers(-9, 9).map(float)))
def test_the_medoid_is_found_by_sorting(rows):
    """The row with the least sum of city-block distances, the first of several, as by comparing all pairs."""
    np.testing.assert_array_equal(l1_medoid(rows), naive.city_block_medoid(rows))
