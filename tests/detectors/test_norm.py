"""The variance norm: which directions count as seen, and what the unseen ones cost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors import Gaussian
from detectors.covariance import ESTIMATORS
from detectors.moments import Moments
from detectors.norm import BLOCK_ROWS, VarianceNorm

RNG = np.random.default_rng(6)
FLAT = RNG.normal(size=(80, 3)) @ RNG.normal(size=(3, 6)) + RNG.normal(size=6)  # three dimensions within six
FULL = RNG.normal(size=(80, 4)) @ RNG.normal(size=(4, 4)) + RNG.normal(size=4)


def norm_of(rows, covariance="empirical", **options):
    moments = Moments.of(rows)
    return VarianceNorm.of(moments.mean, ESTIMATORS[covariance](moments)[0], **options)


def off_span(rows):
    """A unit vector orthogonal to all differences of ``rows``."""
    return np.linalg.svd(rows - rows.mean(axis=0))[2][-1]


@pytest.mark.parametrize(("rows", "rank"), [(FLAT, 3), (FULL, 4), (FLAT[:2], 1), (np.ones((5, 3)), 0)])
def test_the_rank_is_the_dimension_of_the_data(rows, rank):
    """Directions with variance are counted, rounding errors are not."""
    assert norm_of(rows).rank == rank


@given(st.integers(-40, 40), st.integers(-40, 40))
def test_the_rank_does_not_mind_units(first, second):
    """A column in other units, by any power of two up to 2^40, changes neither rank nor norm."""
    units = np.array([2.0**first, 2.0**second, 1, 1])
    plain, scaled = norm_of(FULL), norm_of(FULL * units)
    assert scaled.rank == plain.rank == 4
    np.testing.assert_allclose(scaled.squared(FULL[:9] * units), plain.squared(FULL[:9]), rtol=1e-8)


def test_the_rank_rule_is_relative_to_the_tolerance():
    """A direction counts as seen exactly if its share of the largest eigenvalue exceeds the tolerance."""
    correlation = np.array([[1, 1 - 1e-4], [1 - 1e-4, 1]])  # eigenvalues 2 - 1e-4 and 1e-4
    ranks = [VarianceNorm.of(np.zeros(2), correlation, rank_tolerance=t).rank for t in (1e-6, 4e-5, 6e-5, 1e-2)]
    assert ranks == [2, 2, 1, 1]


@pytest.mark.parametrize("covariance", ["empirical", "ledoit_wolf", "oas"])
@given(st.floats(1e-6, 1e6), st.integers(0, 79))
def test_leaving_the_span_always_adds(covariance, distance, row):
    """A step off the training subspace, however small, raises the score of any row, and a longer one more."""
    norm = norm_of(FLAT, covariance)
    path = FLAT[row] + np.outer([0, 1, 2], distance * off_span(FLAT))
    assert (np.diff(norm.squared(path)) > 0).all()


@pytest.mark.parametrize("covariance", ["empirical", "ledoit_wolf"])
def test_leaving_the_span_costs_more_than_the_same_step_within(covariance):
    """A step of one standard deviation off the subspace costs more than one along the widest direction.

    A pseudo-inverse would make the step off the subspace free.
    """
    norm = norm_of(FLAT, covariance)
    widest = np.linalg.svd(FLAT - FLAT.mean(axis=0))[2][0]
    step = FLAT.std()
    within, outside = norm.squared(FLAT.mean(axis=0) + step * np.stack([widest, off_span(FLAT)]))
    assert outside > 10 * within
    pseudo = np.linalg.pinv(np.cov(FLAT.T, bias=True), rcond=1e-10)
    assert step**2 * off_span(FLAT) @ pseudo @ off_span(FLAT) < 1e-10 * outside


def test_an_unseen_direction_has_the_variance_of_the_cut():
    """The documented value: the squared step divided by tolerance times the largest eigenvalue."""
    norm = VarianceNorm.of(np.zeros(2), np.diag([4.0, 0.0]), rank_tolerance=1e-6)
    scale = 2.0  # a column that never varied takes the mean variance, (4 + 0) / 2, as its unit
    np.testing.assert_allclose(norm.squared(np.array([[0, 0.01]])), 0.01**2 / scale / 1e-6)


def test_within_the_span_it_is_the_pseudo_inverse():
    """Rows of the training subspace have the norm of the literature."""
    centred = FLAT - FLAT.mean(axis=0)
    pseudo = np.linalg.pinv(np.cov(FLAT.T, bias=True), rcond=1e-10)
    np.testing.assert_allclose(norm_of(FLAT).squared(FLAT), np.einsum("ij,jk,ik->i", centred, pseudo, centred), rtol=1e-8)


def test_mean_over_the_training_rows_is_the_rank():
    """The empirical norm averages to the number of seen directions over the rows it was learned from."""
    for rows, rank in ((FLAT, 3), (FULL, 4)):
        assert norm_of(rows).squared(rows).mean() == pytest.approx(rank, rel=1e-9)


@given(st.integers(0, 2**32 - 1))
def test_the_empirical_norm_is_affine_invariant(seed):
    """An invertible affine map of rows and queries alike changes nothing, with the empirical covariance."""
    rng = np.random.default_rng(seed)
    turns = [np.linalg.qr(rng.normal(size=(4, 4)))[0] for _ in range(2)]
    affine = turns[0] * rng.uniform(0.1, 10, 4) @ turns[1]
    shift = rng.normal(size=4) * 10
    mapped = norm_of(FULL @ affine + shift).squared(2 * FULL @ affine + shift)
    np.testing.assert_allclose(mapped, norm_of(FULL).squared(2 * FULL), rtol=1e-9)


@pytest.mark.parametrize("covariance", ["ledoit_wolf", "oas"])
@given(st.integers(0, 2**32 - 1))
def test_the_shrunk_norm_is_rotation_invariant(covariance, seed):
    """Turning rows and queries alike changes nothing; neither does scaling all columns by one number."""
    rng = np.random.default_rng(seed)
    similar = np.linalg.qr(rng.normal(size=(4, 4)))[0] * rng.uniform(0.01, 100)
    mapped = norm_of(FULL @ similar, covariance).squared(2 * FULL @ similar)
    np.testing.assert_allclose(mapped, norm_of(FULL, covariance).squared(2 * FULL), rtol=1e-9)


@pytest.mark.parametrize("covariance", ESTIMATORS)
@pytest.mark.parametrize("rows", [FLAT, FULL])
def test_contributions_add_up_and_mean_what_they_say(covariance, rows):
    """Shares add up to the norm, and each is half the derivative along its feature times the deviation."""
    norm = norm_of(rows, covariance)
    queries = 3 * rows[:5]
    shares = norm.contributions(queries)
    np.testing.assert_allclose(shares.sum(axis=1), norm.squared(queries), rtol=1e-9)
    step = 1e-4
    for feature in range(rows.shape[1]):
        move = step * np.eye(rows.shape[1])[feature]
        slope = (norm.squared(queries + move) - norm.squared(queries - move)) / (2 * step)
        expected = slope * (queries - norm.mean)[:, feature] / 2
        np.testing.assert_allclose(shares[:, feature], expected, rtol=1e-5, atol=1e-6 * np.abs(shares).max())


def test_an_unremarkable_feature_has_no_share():
    """With independent features, one that sits at its mean contributes nothing and a far one everything."""
    norm = VarianceNorm.of(np.zeros(3), np.diag([1.0, 4.0, 9.0]))
    np.testing.assert_allclose(norm.contributions(np.array([[0, 6.0, 0]])), [[0, 9, 0]], atol=1e-12)


def test_blocks_of_rows_make_no_difference():
    """More rows than are whitened at a time score as they do one block at a time."""
    rows = np.random.default_rng(7).normal(size=(2 * BLOCK_ROWS + 3, 4))
    norm = norm_of(FULL)
    np.testing.assert_allclose(norm.squared(rows)[-3:], norm.squared(rows[-3:]), rtol=1e-12)


def test_a_projection_ignores_what_it_leaves_out():
    """With a basis, directions outside it cost nothing: the price of PCA, stated in the docstring."""
    basis = np.eye(4)[:, :2]
    norm = VarianceNorm.of(np.zeros(4), np.eye(2), basis=basis)
    np.testing.assert_allclose(norm.squared(np.array([[1, 2, 0, 0], [1, 2, 99, -99.0]])), [5, 5])


def test_constant_columns_do_not_depend_on_their_value():
    """A column that never varied is treated alike whatever number it holds, with the empirical covariance."""
    scores = []
    for value in (0.0, 0.1, 1e6 + 1 / 3):
        rows = np.column_stack([FULL, np.full(len(FULL), value)])
        queries = np.column_stack([FULL[:3], value + np.array([0, 2**-20, 1])])
        scores.append(Gaussian(covariance="empirical").fit(rows).scores(queries))
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-6)
    np.testing.assert_allclose(scores[2], scores[0], rtol=1e-3)
