"""Comedian, L1 median and medoid against brute force and the conditions that define them."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detectors import medians
from detectors.medians import comedian, coordinate_median, l1_median, l1_medoid, sandwich_variance
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


@pytest.mark.parametrize("n", [3000, 4001, 20_000])
@pytest.mark.parametrize("kind", ["normal", "rounded", "sorted", "mostly zero", "periodic"])
def test_bracketed_medians_are_exact(n, kind):
    """With rows enough for a bracket every entry equals numpy's bit for bit, where the sample misleads or most products tie too."""
    rows = np.random.default_rng(n).normal(size=(n, 4))
    if kind == "rounded":
        rows = rows.round(1)
    elif kind == "sorted":
        rows = np.sort(rows, axis=0)
    elif kind == "mostly zero":
        rows[np.random.default_rng(0).random(rows.shape) < 0.6] = 0
    elif kind == "periodic":
        rows[:: int(n ** (1 / 3) / 1.5)] += 50
    np.testing.assert_array_equal(comedian(rows), naive.comedian(rows))
    np.testing.assert_array_equal(coordinate_median(rows), np.median(rows, axis=0))


def test_a_bracket_holds_the_median_and_little_else():
    """Of 400 rows of products 96 % or more have their median within the bracket of a sample; that holds under an eighth of them."""
    values = np.prod(np.random.default_rng(0).normal(size=(2, 400, 5000)), axis=0)
    low, high = medians._brackets(values)
    middle = np.median(values, axis=1)
    assert ((low < middle) & (middle < high)).mean() > 0.96
    assert ((values >= low[:, None]) & (values <= high[:, None])).mean() < 1 / 8


@pytest.mark.parametrize("n", [101, 100])
@pytest.mark.parametrize(("low", "high"), [(5.0, 6.0), (-6.0, -5.0), (0.0, 0.0), (-9.0, 9.0)])
def test_a_wrong_bracket_costs_time_alone(n, low, high):
    """The median is found where the bracket lies above it, below it, holds one value or holds all."""
    values = np.random.default_rng(n).normal(size=n)
    values[7] = 0.0
    expected = np.median(values)
    assert medians._bracketed(values, low, high) == expected


@pytest.mark.parametrize(("n", "width"), [(100_000, 12), (500, 100)])
def test_the_memory_of_a_comedian_is_bounded(n, width):
    """No more than the rows, the result and two blocks per thread are held at a time."""
    rows = np.random.default_rng(0).normal(size=(n, width))
    block = 8 * max(medians.BLOCK_NUMBERS, n)
    for threads in (1, 2):
        tracemalloc.start()
        comedian(rows, threads)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < rows.nbytes + 8 * width**2 + 2 * threads * block + 2**20


def test_the_sandwich_of_the_l1_median():
    """tr(A^-1 B A^-1)/n as written, rows fewer and more than columns; zero where all rows lie on one line or at the location."""
    for n in (3, 200):
        rows = np.random.default_rng(n).normal(size=(n, 5))
        r = np.linalg.norm(rows, axis=1)
        units = rows / r[:, None]
        curvature = np.mean([(np.eye(5) - np.outer(u, u)) / q for u, q in zip(units, r, strict=True)], axis=0)
        inverse = np.linalg.inv(curvature)
        expected = np.trace(inverse @ (units.T @ units / n) @ inverse) / n
        assert sandwich_variance(rows, np.zeros(5)) == pytest.approx(expected, rel=1e-12)
    assert sandwich_variance(rows[:, :1], np.zeros(1)) == 0
    assert sandwich_variance(np.ones((9, 4)), np.ones(4)) == 0


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
    "rows",
    [
        [[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]],
        [[0, 0], [5, 1], [-5, 1]],
        [[0, 0], [0, 0], [0, 0], [7, 1], [9, -2]],
        [[0, 0], [0, 0], [1, 1], [2, 3]],
    ],
)
def test_the_l1_median_may_be_a_row(rows):
    """A row whose pull no other rows outweigh is the L1 median (Vardi and Zhang), reached or started at."""
    np.testing.assert_allclose(l1_median(np.array(rows, float)), [0, 0], atol=1e-9)


@given(arrays(float, st.tuples(st.integers(2, 25), st.integers(1, 4)), elements=st.integers(-9, 9).map(float)))
def test_the_medoid_is_found_by_sorting(rows):
    """The row with the least sum of city-block distances, the first of several, as by comparing all pairs."""
    np.testing.assert_array_equal(l1_medoid(rows), naive.city_block_medoid(rows))
