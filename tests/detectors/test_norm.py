"""The variance norm: which directions count as seen, and what the unseen ones cost."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors import Gaussian
from detectors.blas import times_lower
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


def by_eigenvalues(covariance, rows, tolerance=1e-10):
    """The definition: every direction by its eigenvalue, those below the cut at the cut."""
    scale = np.sqrt(np.diag(covariance))
    values, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    return (np.square(rows / scale @ vectors) / np.maximum(values, tolerance * values[-1])).sum(axis=1)


@pytest.mark.parametrize("condition", [1, 1e4, 1e8, 1e12])
def test_the_factor_equals_the_eigenvalues(condition):
    """Whether the factor suffices or the rank rule needs eigenvalues, the norm is the one defined, to the condition's rounding."""
    rng = np.random.default_rng(2)
    turn = np.linalg.qr(rng.normal(size=(30, 30)))[0]
    covariance = turn * np.geomspace(1, condition, 30) @ turn.T
    rows = rng.normal(size=(20, 30)) @ turn.T
    norm = VarianceNorm.of(np.zeros(30), (covariance + covariance.T) / 2)
    expected = by_eigenvalues((covariance + covariance.T) / 2, rows)
    np.testing.assert_allclose(norm.squared(rows), expected, rtol=1e-13 * condition + 1e-12 if condition < 1e10 else 1e-3)
    assert norm.rank == (30 if condition < 1e10 else norm.rank)
    assert not np.triu(norm.whiten, 1).any()


def test_eigenvalues_are_spared_where_the_factor_tells(monkeypatch):
    """A well-conditioned covariance needs no eigendecomposition; a singular one does."""
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: pytest.fail("eigenvalues were computed"))
    assert norm_of(FULL).rank == 4
    with pytest.raises(pytest.fail.Exception):
        norm_of(FLAT)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("width", [1, 63, 64, 65, 200, 1100])
@pytest.mark.parametrize("count", [1, 2, 15, 16, 600])
def test_every_shape_equals_the_full_product(count, width, dtype, precision):
    """One row, a few, and many, in columns of one block or several, score as the plain product in float64 does."""
    rng = np.random.default_rng(width)
    whiten = np.tril(rng.normal(size=(width, width))) / width + np.eye(width)
    norm = VarianceNorm(rng.normal(size=width) + 100, whiten.astype(precision), width)
    rows = (rng.normal(size=(count, width)) + 100).astype(dtype)
    expected = np.square((rows - norm.mean) @ norm.whiten.astype(np.float64)).sum(axis=1)
    np.testing.assert_allclose(norm.squared(rows), expected, rtol=1e-12 if precision == "float64" else 3e-6)
    np.testing.assert_allclose(np.square(norm.whitened(rows)).sum(axis=1), expected, rtol=1e-12 if precision == "float64" else 3e-6)


@pytest.mark.parametrize("condition", [1, 1e2, 1e4])
def test_single_precision_errs_by_less_than_it_says(condition):
    """Scores of rows like those learned, far from the origin, err by less than 1e-5 of themselves; past that it is refused."""
    rng = np.random.default_rng(3)
    turn = np.linalg.qr(rng.normal(size=(100, 100)))[0]
    rows = (rng.normal(size=(500, 100)) * np.sqrt(np.geomspace(1, condition, 100)) @ turn.T + 1000).astype(np.float32)
    moments = Moments.of(rows)
    covariance = ESTIMATORS["ledoit_wolf"](moments)[0]
    single, double = (VarianceNorm.of(moments.mean, covariance, precision=precision) for precision in ("float32", "float64"))
    np.testing.assert_allclose(single.squared(rows), double.squared(rows), rtol=1e-5)
    with pytest.raises(ValueError, match="too close to singular"):
        norm_of(FULL @ np.diag([1, 1, 1, 0]) + FULL[:, :1] * [0, 0, 0, 1] + 1e-5 * RNG.normal(size=FULL.shape), precision="float32")


@pytest.mark.parametrize("rows", [FLAT, FULL])
def test_components_are_the_principal_components(rows):
    """Directions and variances are those of the covariance, and their shares are squares that add up to the norm."""
    norm = norm_of(rows, "ledoit_wolf")
    values, vectors = np.linalg.eigh(ESTIMATORS["ledoit_wolf"](Moments.of(rows))[0])
    variances, directions = norm.components()
    np.testing.assert_allclose(variances, values[::-1], rtol=1e-8)
    np.testing.assert_allclose(np.abs(directions.T @ vectors[:, ::-1]).diagonal()[:2], 1, rtol=1e-8)
    shares = norm.component_contributions(3 * rows[:5])
    assert (shares >= 0).all()
    np.testing.assert_allclose(shares.sum(axis=1), norm.squared(3 * rows[:5]), rtol=1e-9)


def test_the_strange_component_ranks_first():
    """A step along one principal component gives that one all of the norm."""
    norm = norm_of(FULL)
    variances, directions = norm.components()
    for number in range(4):
        shares = norm.component_contributions(norm.mean[None] + 7 * np.sqrt(variances[number]) * directions[:, number])
        np.testing.assert_allclose(shares, [49 * np.eye(4)[number]], atol=1e-7)


@pytest.mark.parametrize("covariance", ["ledoit_wolf", "oas", "spiked"])
@pytest.mark.parametrize(("count", "width"), [(2, 40), (5, 40), (20, 700)])
def test_few_directions_give_the_same_norm(covariance, count, width, monkeypatch):
    """A covariance known to be a multiple of the identity but for a few directions has the factor that it has anyway, at less cost."""
    rng = np.random.default_rng(count)
    rows = rng.normal(size=(count, width)) * rng.uniform(1, 10, width) + 3 * rng.normal(size=(count, 1)) + 100
    rows[:, 3] = 7
    moments = Moments.of(rows)
    estimate = ESTIMATORS[covariance](moments)[0]
    if count == 2 and covariance == "ledoit_wolf":  # two rows have equal lengths about their mean: nothing is shrunk
        estimate = estimate + np.eye(width)
    plain = VarianceNorm.of(moments.mean, estimate)
    monkeypatch.setattr("detectors.norm._whitening", lambda *arguments: pytest.fail("factored as a whole"))
    few = VarianceNorm.of(moments.mean, estimate, directions=count - 1)
    np.testing.assert_allclose(few.whiten, plain.whiten, atol=1e-12 * np.abs(plain.whiten).max())
    queries = np.vstack([rows, rows[:1] + 10 * rng.normal(size=(20, width))])
    np.testing.assert_allclose(few.squared(queries), plain.squared(queries), rtol=1e-12)
    assert few.rank == width
    for options in ({"directions": None}, {"directions": width // 2}, {"directions": count - 1, "rank_tolerance": 0.5}):
        with pytest.raises(pytest.fail.Exception):
            VarianceNorm.of(moments.mean, estimate, **options)


def test_few_directions_on_no_noise_are_no_short_cut():
    """Where the rest has no variance, or next to none, the rank rule decides as it does for any covariance."""
    rows = np.random.default_rng(0).normal(size=(5, 60))
    for noise in (0, 1e-12):
        covariance = ESTIMATORS["empirical"](Moments.of(rows))[0] + noise * np.eye(60)
        few, plain = (VarianceNorm.of(np.zeros(60), covariance, directions=directions) for directions in (4, None))
        np.testing.assert_array_equal(few.whiten, plain.whiten)
        assert few.rank == 4


def test_a_column_that_all_but_never_varied_counts_as_one_that_did_not():
    """A variance that float64 cannot hold is none: the column takes the unit of the others, alone too."""
    steady, faint = (norm_of(FULL * [1, 1, 1, size]) for size in (0, 1e-160))
    np.testing.assert_allclose(faint.whiten, steady.whiten, rtol=1e-12)
    assert faint.rank == steady.rank == 3
    np.testing.assert_array_equal(norm_of(FULL[:, :1] * 1e-160).whiten, norm_of(FULL[:, :1] * 0).whiten)


@pytest.mark.parametrize("size", [1e-33, 1e33])
def test_single_precision_refuses_what_leaves_its_range(size):
    """Columns whose standard deviation, or its inverse, float32 cannot hold beside rows many times as far are refused by name."""
    with pytest.raises(ValueError, match="precision='float32' cannot hold standard deviations from"):
        norm_of(FULL * [1, 1, 1, size], precision="float32")


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("rank", [1, 63, 200])
@pytest.mark.parametrize("count", [1, 2, 15, 16, 63, 64, 513, 1100])
def test_every_way_to_whiten_is_the_product(precision, rank, count):
    """One row, few, many, more than a block, through a square matrix or a narrower one: the same to rounding, in any order of memory."""
    rng = np.random.default_rng(0)
    width = 200
    whiten = np.ascontiguousarray(np.tril(rng.normal(size=(width, rank))) / np.sqrt(width)).astype(precision)
    norm = VarianceNorm(rng.normal(size=width), whiten, rank)
    rows = rng.normal(size=(count, width)).astype(precision)
    expected = (rows.astype(np.float64) - norm.mean) @ whiten.astype(np.float64)
    tolerance = 1e-12 if precision == "float64" else 3e-6
    for form in (rows, np.asfortranarray(rows), np.repeat(rows, 2, axis=0)[::2]):
        before = form.copy()
        np.testing.assert_allclose(norm.whitened(form), expected, rtol=0, atol=tolerance)
        np.testing.assert_allclose(norm.squared(form), np.square(expected).sum(axis=1), rtol=10 * tolerance, atol=tolerance)
        np.testing.assert_array_equal(form, before)


def test_a_norm_that_has_scored_can_be_copied():
    """Processes of a cluster, and scikit-learn's own, send it to each other."""
    norm = VarianceNorm.of(np.ones(3), np.eye(3), precision="float32")
    for count in (1, 5, 100):
        rows = np.zeros((count, 3), np.float32)
        np.testing.assert_array_equal(copy.deepcopy(norm).squared(rows), norm.squared(rows))


@pytest.mark.parametrize(
    ("rows", "triangle"),
    [
        (np.ones((3, 2)), np.ones((3, 3))),
        (np.ones((3, 2)), np.ones((2, 2), np.float32)),
        (np.ones((3, 2), int), np.ones((2, 2), int)),
        (np.asfortranarray(np.ones((3, 2))), np.ones((2, 2))),
        (np.ones((3, 2)), np.asfortranarray(np.ones((2, 2)))),
        (np.broadcast_to(1.0, (3, 2)), np.ones((2, 2))),
    ],
)
def test_what_blas_would_misread_is_refused(rows, triangle):
    """Shapes and types that differ, another order of memory, and rows that cannot be written over."""
    with pytest.raises(ValueError, match="do not go together"):
        times_lower(rows, triangle)
