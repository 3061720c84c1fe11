"""Combined p-values: the formulas, that they are valid, and the trap of calibrating twice on the same rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom

from detectors import AlphaTooSmall, Calibration, CombinedCalibration, merged_p_values

P_VALUES = st.integers(1, 6).flatmap(
    lambda k: st.lists(st.lists(st.floats(1e-6, 1), min_size=k, max_size=k), min_size=1, max_size=8).map(np.array)
)
MERGES = ["bonferroni", "harmonic", "mean"]


def pooled(calibration, row):
    """P-value of a row put among the calibration rows, all ranked anew, one at a time."""
    pool = np.vstack([calibration, row])
    statistics = [sum(len(pool) / sum(other[k] >= member[k] for other in pool) for k in range(len(row))) for member in pool]
    return sum(value >= statistics[-1] for value in statistics) / len(pool)


@pytest.mark.parametrize(("by", "expected"), [("bonferroni", 0.03), ("harmonic", 2.74564358 * 3 / 127), ("mean", 2 * 0.55 / 3)])
def test_the_merges_on_an_example(by, expected):
    """Of 0.01, 0.5 and 0.04; each at most 1."""
    assert merged_p_values(np.array([[0.01, 0.5, 0.04]]), by)[0] == pytest.approx(expected)
    assert merged_p_values(np.ones((1, 3)), by)[0] == 1


@pytest.mark.parametrize("count", [3, 4, 10, 100])
def test_the_factor_of_the_harmonic_mean_is_the_least_that_is_valid(count):
    """At it, the sum of K values 1 / p reaches its bound with probability alpha under the worst dependence, no more and no less.

    That probability is the least, over t, of K times the mean over [t, s - (K - 1) t] of P(1 / p > x), divided by what
    is left of the interval (Embrechts, Puccetti and Rüschendorf 2013, "Model uncertainty and VaR aggregation").
    """
    factor = merged_p_values(np.full((1, count), 1e-6), "harmonic")[0] / 1e-6
    alpha = 1e-3
    bound = count * factor / alpha
    worst = minimize_scalar(
        lambda t: count * np.log((bound - (count - 1) * t) / t) / (bound - count * t),
        bounds=(1, bound / count * (1 - 1e-6)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert worst.fun == pytest.approx(alpha, rel=1e-6)
    assert factor < np.e * np.log(count)


@given(P_VALUES, st.sampled_from(MERGES))
def test_merges_treat_detectors_alike_and_grow(p_values, by):
    """Order of the detectors is immaterial, a larger p-value never makes the merged one smaller, and one detector stays as it is."""
    merged = merged_p_values(p_values, by)
    assert ((merged > 0) & (merged <= 1)).all()
    np.testing.assert_allclose(merged_p_values(p_values[:, ::-1], by), merged)
    larger = p_values.copy()
    larger[:, 0] = np.sqrt(larger[:, 0])
    assert (merged_p_values(larger, by) >= merged * (1 - 1e-12)).all()
    np.testing.assert_array_equal(merged_p_values(p_values[:, :1], by), p_values[:, 0])


@pytest.mark.parametrize("by", MERGES)
def test_merged_p_values_are_valid_however_dependent(by):
    """The same p-value thrice, three that exclude one another, and independent ones: alarms at most alpha, at level 1e-4."""
    rng = np.random.default_rng(1)
    uniform = rng.uniform(size=(20_000, 1))
    shifted = (uniform + np.array([0, 1 / 3, 2 / 3])) % 1
    for p_values in (np.repeat(uniform, 3, axis=1), np.maximum(shifted, 1e-12), rng.uniform(size=(20_000, 3))):
        for alpha in (0.01, 0.1):
            assert (merged_p_values(p_values, by) <= alpha).sum() <= binom.ppf(0.9999, 20_000, alpha)


@pytest.mark.parametrize("p_values", [np.zeros((2, 2)), np.full((2, 2), 1.1), np.full((2, 2), np.nan), np.ones(3), np.ones((3, 0))])
def test_what_are_no_p_values_is_refused(p_values):
    """Zero, more than one, NaN, one dimension and no detector raise ValueError."""
    with pytest.raises(ValueError, match="p-values"):
        merged_p_values(p_values)


def test_an_unknown_merge_is_refused():
    """The message names those that there are."""
    with pytest.raises(ValueError, match=r"by='fisher' is unknown; there are \['bonferroni', 'harmonic', 'mean'\]"):
        merged_p_values(np.ones((1, 2)), "fisher")


@given(st.integers(1, 25), st.integers(1, 4), st.integers(0, 2**32 - 1), st.booleans())
def test_combined_p_values_equal_their_slow_twin(rows, width, seed, tied):
    """Every row of a batch is put among the calibration rows alone; ties included."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(rows + 6, width))
    scores = scores.round() if tied else scores
    p_values = CombinedCalibration.of(scores[:rows]).p_values(scores[rows:])
    np.testing.assert_array_equal(p_values, [pooled(scores[:rows], row) for row in scores[rows:]])


def test_one_detector_combined_is_that_detector():
    """With one column the p-values are the plain ones."""
    rng = np.random.default_rng(2)
    scores, new = rng.normal(size=(50, 1)).round(1), rng.normal(size=(30, 1)).round(1)
    np.testing.assert_array_equal(CombinedCalibration.of(scores).p_values(new), Calibration.of(scores[:, 0]).p_values(new[:, 0]))


def test_only_the_order_of_each_detectors_scores_counts():
    """Units and any increasing change of the scores are immaterial; so is the order of detectors and of calibration rows."""
    rng = np.random.default_rng(3)
    scores, new = rng.normal(size=(60, 3)), rng.normal(size=(20, 3))
    expected = CombinedCalibration.of(scores).p_values(new)
    np.testing.assert_array_equal(CombinedCalibration.of(np.exp(scores) * [1, 1e6, 1e-6]).p_values(np.exp(new) * [1, 1e6, 1e-6]), expected)
    np.testing.assert_array_equal(CombinedCalibration.of(scores[::-1]).p_values(new), expected)
    np.testing.assert_allclose(CombinedCalibration.of(scores[:, [2, 0, 1]]).p_values(new[:, [2, 0, 1]]), expected)


def test_a_large_batch_is_judged_in_blocks():
    """Over more pairs than a block holds, p-values are those of the parts; an empty batch has none."""
    rng = np.random.default_rng(4)
    calibration, new = CombinedCalibration.of(rng.normal(size=(2000, 2))), rng.normal(size=(1200, 2))
    parts = [calibration.p_values(part) for part in np.split(new, 4)]
    np.testing.assert_array_equal(calibration.p_values(new), np.concatenate(parts))
    assert len(calibration.p_values(new[:0])) == 0


def test_the_rate_is_alpha_where_calibrating_twice_on_the_same_rows_fails():
    """Of 39 rows and four detectors, at alpha 1/20: pooled ranks keep it; the least p-value judged by those of the same rows does not.

    The second counts alarms of a new row whose least p-value is not above the second least among those of the calibration rows.
    """
    rng = np.random.default_rng(5)
    combined, twice = 0, 0
    for _ in range(3000):
        scores, new = rng.normal(size=(39, 4)), rng.normal(size=(1, 4))
        combined += CombinedCalibration.of(scores).p_values(new)[0] <= 0.05
        single = [Calibration.of(column) for column in scores.T]
        least = np.min([c.p_values(column) for c, column in zip(single, scores.T, strict=True)], axis=0)
        least_new = np.min([c.p_values(column) for c, column in zip(single, new.T, strict=True)], axis=0)
        twice += (1 + (least <= least_new).sum()) / 40 <= 0.05
    low, high = binom.interval(0.9999, 3000, 0.05)
    assert low <= combined <= high
    assert twice > 1.2 * high


@pytest.mark.parametrize("scores", [np.ones(3), np.ones((0, 2)), np.ones((3, 0)), np.array([[1.0, np.nan]])])
def test_a_combined_calibration_refuses_what_is_no_table_of_scores(scores):
    """One dimension, no rows, no detectors and NaN raise ValueError."""
    with pytest.raises(ValueError, match="a combined calibration needs"):
        CombinedCalibration.of(scores)


def test_scores_of_another_number_of_detectors_are_refused():
    """Each row brings the scores of all detectors; alpha is checked as for one."""
    calibration = CombinedCalibration.of(np.ones((9, 2)))
    with pytest.raises(ValueError, match="scores of 2 detectors are needed"):
        calibration.p_values(np.ones((1, 3)))
    calibration.check_alpha(0.1)
    with pytest.raises(AlphaTooSmall, match="needs at least 19 calibration rows; there are 9"):
        calibration.check_alpha(0.05)
