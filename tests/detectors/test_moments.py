"""Moments are values that add up: laws over any rows, and precision far from the origin."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detectors import moments as module
from detectors.moments import BLOCK_ROWS, Moments
from tests import naive

WIDTH = 3
FIELDS = ("count", "mean", "scatter", "cubic", "quartic")


def tables(min_rows=1):
    """Rows of three columns with values from -100 to 100."""
    shape = st.tuples(st.integers(min_rows, 12), st.just(WIDTH))
    return shape.flatmap(lambda shape: arrays(np.float64, shape, elements=st.floats(-100, 100, width=32)))


def assert_equal(left, right, *, rtol=1e-12, spread=1.0):
    """Each field equal, up to rounding relative to the rows' largest deviation ``spread`` from the mean."""
    for order, name in enumerate(FIELDS):
        scale = max(spread, 1e-3) ** order * right.count
        np.testing.assert_allclose(getattr(left, name), getattr(right, name), rtol=rtol, atol=rtol * scale, err_msg=name)


@given(tables(), tables())
def test_joining_equals_concatenating(first, second):
    """``+`` of the moments of two tables gives the moments of both together."""
    both = np.concatenate([first, second])
    assert_equal(Moments.of(first) + Moments.of(second), Moments.of(both), spread=2 * np.abs(both).max())


@given(tables(), tables())
def test_joining_does_not_mind_the_order(first, second):
    """``a + b`` equals ``b + a``."""
    left, right = Moments.of(first) + Moments.of(second), Moments.of(second) + Moments.of(first)
    assert_equal(left, right, spread=2 * max(np.abs(first).max(), np.abs(second).max()))


@given(tables(), tables(), tables())
def test_joining_is_associative(a, b, c):
    """``(a + b) + c`` equals ``a + (b + c)``."""
    a, b, c = Moments.of(a), Moments.of(b), Moments.of(c)
    assert_equal((a + b) + c, a + (b + c), spread=200)


@given(tables(), tables())
def test_taking_out_undoes_joining(first, second):
    """``(a + b) - b`` gives ``a`` back, up to rounding of the larger sum."""
    a, b = Moments.of(first), Moments.of(second)
    assert_equal((a + b) - b, a, rtol=1e-11, spread=2 * max(np.abs(first).max(), np.abs(second).max()))


@given(tables())
def test_all_orders_equal_the_plain_sums(rows):
    """Count, mean, scatter, third and fourth order equal sums taken row by row."""
    assert_equal(Moments.of(rows), Moments(*naive.moments(rows)), spread=2 * np.abs(rows).max())


def test_third_and_fourth_order_are_carried_through_a_join():
    """Skewed rows in 40 shards of very different means keep their third and fourth order to twelve digits."""
    rng = np.random.default_rng(0)
    shards = [rng.exponential(size=(5, WIDTH)) + rng.normal(size=WIDTH) * 50 for _ in range(40)]
    joined = Moments.of(shards[0])
    for shard in shards[1:]:
        joined += Moments.of(shard)
    whole = Moments(*naive.moments(np.concatenate(shards)))
    for name in FIELDS:
        np.testing.assert_allclose(getattr(joined, name), getattr(whole, name), rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("offset", [1e6, 1e9])
def test_an_offset_costs_no_precision(offset):
    """Rows far from the origin have the moments of the same rows near it, block by block too.

    What is lost is the rounding of the mean, offset times 2e-16; sums of squares would lose the
    square of the offset times that, and sums of fourth powers all digits. The shifted rows are
    exact in float64, so that only the arithmetic is measured.
    """
    rows = np.round(np.random.default_rng(1).normal(size=(1000, WIDTH)) * 2**20) / 2**20
    near, far = Moments.of(rows), Moments.of(rows + offset)
    blocks = Moments.of(rows[:300] + offset) + Moments.of(rows[300:] + offset)
    for moments in (far, blocks):
        for name in ("scatter", "quartic"):
            np.testing.assert_allclose(getattr(moments, name), getattr(near, name), rtol=1e-15 * offset, atol=1e-12 * offset, err_msg=name)


@given(st.floats(-1e6, 1e6), st.integers(1, 300))
def test_a_constant_column_has_exactly_no_variance(value, count):
    """Rounding of the mean gives a constant column no variance, whole or in shards, joined or taken out."""
    rows = np.stack([np.full(count, value), np.arange(count)], axis=1)
    moments = Moments.of(rows)
    for joined in (moments, moments + moments, (moments + moments) - moments):
        assert joined.mean[0] == value
        assert not joined.scatter[0].any()


def test_rows_beyond_one_block_are_summed_too():
    """More rows than are centred at a time give the same moments as their halves joined."""
    rows = np.random.default_rng(2).normal(size=(2 * BLOCK_ROWS + 17, WIDTH))
    whole, halves = Moments.of(rows), Moments.of(rows[:BLOCK_ROWS]) + Moments.of(rows[BLOCK_ROWS:])
    assert whole.count == len(rows)
    assert_equal(whole, halves)
    np.testing.assert_allclose(whole.scatter / len(rows), np.cov(rows.T, bias=True), rtol=1e-12, atol=1e-15)


def test_all_rows_cannot_be_taken_out():
    """``-`` raises ValueError where no row would be left."""
    moments = Moments.of(np.eye(WIDTH))
    with pytest.raises(ValueError, match="cannot take 3 rows out of 3"):
        moments - moments


def test_peaks_remember_what_was_taken_out():
    """Peaks are those of the largest sum that there ever was, about any of the means, through joins and two rows taken out in turn."""
    rows = np.random.default_rng(3).normal(size=(20, WIDTH))
    far, near = np.full((1, WIDTH), 1e9), np.full((1, WIDTH), 1e5)
    whole = Moments.of(np.vstack([rows, far, near]))
    left = whole - Moments.of(far) - Moments.of(near) + Moments.of(rows)
    assert (left.peaks >= whole.peaks).all()
    assert (left.peaks < 1.5 * whole.peaks).all()
    assert (left.peaks[:-1] >= np.diag(left.scatter)).all()


def test_one_row_left_has_no_variance():
    """Of one row that is left all sums are exactly zero, not the rounding of those of the rows taken out."""
    rows = np.random.default_rng(4).normal(size=(9, WIDTH))
    left = Moments.of(rows) - Moments.of(rows[1:])
    np.testing.assert_allclose(left.mean, rows[0], rtol=1e-12)
    assert left.quartic == 0
    assert not left.scatter.any()
    assert not left.peaks.any()


def test_the_size_does_not_grow_with_the_rows():
    """Moments of a thousand rows hold as many numbers as those of two."""
    sizes = [sum(np.size(getattr(Moments.of(np.ones((n, WIDTH))), name)) for name in (*FIELDS, "peaks")) for n in (2, 1000)]
    assert sizes[0] == sizes[1] == WIDTH**2 + 3 * WIDTH + 3


@pytest.mark.parametrize("offset", [0.0, 100.0, 1e5])
def test_single_precision_sums_err_little_at_any_offset(offset):
    """Products in float32 leave the scatter within 1e-6 of its largest entry, wherever the data lie."""
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(3 * BLOCK_ROWS + 100, 40)) * np.linspace(0.1, 10, 40) + offset).astype(np.float32)
    single, double = Moments.of(rows, single=True), Moments.of(rows)
    assert (np.abs(single.mean - double.mean) < 1e-6 * np.sqrt(np.diag(double.scatter) / len(rows))).all()
    assert np.abs(single.scatter - double.scatter).max() < 1e-6 * double.scatter.max()
    assert single.quartic == pytest.approx(double.quartic, rel=1e-7)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_single_precision_is_left_where_powers_would_leave_its_range(scale):
    """Values whose squares or fourth powers float32 cannot hold are summed in float64: nothing overflows or vanishes."""
    rows = (np.random.default_rng(0).normal(size=(500, 3)) * scale).astype(np.float32)
    single, double = Moments.of(rows, single=True), Moments.of(rows)
    np.testing.assert_allclose(single.scatter, double.scatter, rtol=1e-6, atol=1e-7 * double.scatter.max())
    assert single.quartic == pytest.approx(double.quartic, rel=1e-6)


def test_rows_in_order_cost_no_precision():
    """A trend over the rows, of which the centre is taken from a few, leaves the scatter what it is."""
    rows = np.linspace(0, 1e6, 20_000)[:, None] + np.random.default_rng(0).normal(size=(20_000, 4))
    np.testing.assert_allclose(Moments.of(rows).scatter, np.cov(rows.T, bias=True) * len(rows), rtol=1e-9)


@pytest.mark.parametrize("single", [False, True])
def test_wide_products_are_made_in_panels(single, monkeypatch):
    """Of some columns at a time, as they are where a product of all is more than BLAS can be trusted with: the same sums."""
    rows = np.random.default_rng(0).normal(size=(60, 23)).astype(np.float32 if single else np.float64) + 3
    whole = Moments.of(rows, single=single)
    monkeypatch.setattr(module, "PANEL_COLUMNS", 7)
    panels = Moments.of(rows, single=single)
    for name in ("mean", "scatter", "cubic", "quartic"):
        np.testing.assert_allclose(
            getattr(panels, name), getattr(whole, name), rtol=1e-5 if single else 1e-12, atol=1e-4 if single else 1e-11
        )
    np.testing.assert_array_equal(panels.scatter, panels.scatter.T)
