"""Sliced Wasserstein distances, and the scale by which to read them."""

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import wasserstein_distance

from detectors.wasserstein import LEVELS, Slices

RNG = np.random.default_rng(0)


def test_on_a_line_a_shift_is_its_length():
    """Of one feature all directions are one; every quantile has moved as far."""
    rows = RNG.normal(size=(400, 1))
    slices = Slices.of(rows, seed=0)
    assert_allclose(slices.distance(slices.projected(rows + 2.5)), 2.5, rtol=1e-9)
    assert_allclose(wasserstein_distance(rows[:, 0], rows[:, 0] + 2.5), 2.5)


def test_without_drift_the_distance_is_about_its_null_scale():
    """On average over windows and references, for windows of several sizes: within a fifth."""
    for size in (32, 256):
        squares = []
        for seed in range(40):
            rng = np.random.default_rng(seed)
            slices = Slices.of(rng.normal(size=(300, 6)), seed=seed)
            squares.append((slices.distance(slices.projected(rng.normal(size=(size, 6)))) / slices.null_scale(size)) ** 2)
        assert abs(np.mean(squares) - 1) < 0.2


def test_quantiles_are_those_of_numpy():
    """At the levels remembered, for windows of one row and of many."""
    rows = RNG.normal(size=(50, 3))
    slices = Slices.of(rows, seed=0)
    for size in (1, 2, 77):
        some = RNG.normal(size=(size, 3))
        levels = (np.arange(LEVELS) + 0.5) / LEVELS
        apart = np.quantile(some @ slices.directions, levels, axis=0) - np.quantile(rows @ slices.directions, levels, axis=0)
        assert_allclose(slices.distance(slices.projected(some)), np.sqrt((apart**2).mean()), rtol=1e-9)


def test_it_grows_with_shift_and_with_scale():
    """Strictly, from what it is without drift."""
    slices = Slices.of(RNG.normal(size=(500, 10)), seed=0)
    rows = RNG.normal(size=(250, 10))
    for moves in ([rows + shift for shift in (0, 0.5, 1, 2)], [rows * scale for scale in (1, 1.5, 2, 3)]):
        distances = [slices.distance(slices.projected(moved)) for moved in moves]
        assert (np.diff(distances) > 0).all()


def test_a_seed_gives_the_same_directions():
    """Each of them of length one."""
    rows = RNG.normal(size=(20, 5))
    one, other = Slices.of(rows, seed=3), Slices.of(rows, seed=3)
    assert_array_equal(one.directions, other.directions)
    assert_allclose(np.linalg.norm(one.directions, axis=0), 1, rtol=1e-6)
    assert one.spread == other.spread
