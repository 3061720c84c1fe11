"""Calibration: the formulas on examples, laws over any scores, and the promised rates on random data."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom, binom, kstest
from sklearn.covariance import EmpiricalCovariance, LedoitWolf

from detectors import AlphaTooSmall, Calibration, Gaussian, outliers, rows_needed
from tests import naive

SCORES = st.lists(st.floats(-10, 10) | st.integers(0, 3).map(float), min_size=1, max_size=40).map(np.array)  # ties included
ALPHAS = st.floats(0, 1.5) | st.builds(lambda k, n: k / n, st.integers(0, 41), st.integers(1, 41))  # the steps themselves too


def test_each_alpha_is_answered_for_itself():
    """In any order, again, and of any type of number; and an alpha that is none of any detector has a threshold."""
    few, many = Calibration.of(np.arange(1.0, 20)), Calibration.of(np.arange(1.0, 100))
    for _ in range(2):
        for alpha in (0.05, 0.01, np.float64(0.05), Fraction(1, 20)):
            many.check_alpha(alpha)
            few.check_alpha(0.05)
            with pytest.raises(AlphaTooSmall, match="needs at least 99"):
                few.check_alpha(0.01)
    assert [few.threshold(alpha) for alpha in (-np.inf, np.nan, 0.0, 1.0, np.inf)] == [np.inf, np.inf, np.inf, -np.inf, -np.inf]


@pytest.mark.parametrize(("count", "threshold"), [(99, 95.0), (19, 19.0), (18, np.inf)])
def test_thresholds_of_the_worked_examples(count, threshold):
    """At alpha 0.05 the scores 1..99 give 95, 1..19 give 19, and 18 scores are too few for any alarm."""
    assert Calibration.of(np.arange(1.0, count + 1)).threshold(0.05) == threshold


def test_p_values_of_the_worked_example():
    """Among the scores 1, 2, 3, 4: a score counts those at least as large, itself included."""
    p_values = Calibration.of(np.array([3.0, 1, 4, 2])).p_values(np.array([5, 4, 2.5, 0]))
    np.testing.assert_allclose(p_values, [0.2, 0.4, 0.6, 1.0])


def test_ties_count_against_the_alarm():
    """A score equal to calibration scores has the p-value of the lowest of them."""
    calibration = Calibration.of(np.array([1.0, 2, 2, 2, 3]))
    np.testing.assert_allclose(calibration.p_values(np.array([2.0, np.nextafter(2, 3)])), [5 / 6, 2 / 6])


@given(SCORES, SCORES, ALPHAS)
def test_threshold_and_p_value_never_disagree(held_out, scores, alpha):
    """p <= alpha exactly if the score exceeds the threshold, for every alpha, ties and steps included."""
    calibration = Calibration.of(held_out)
    scores = np.concatenate([scores, held_out])
    np.testing.assert_array_equal(calibration.p_values(scores) <= alpha, scores > calibration.threshold(alpha))


@given(SCORES, st.floats(0.001, 0.999))
def test_threshold_equals_its_slow_twin(held_out, alpha):
    """The threshold is the smallest calibration score that a share alpha may exceed."""
    assert Calibration.of(held_out).threshold(alpha) == naive.conformal_threshold(held_out, alpha)


@given(SCORES, SCORES)
def test_stranger_rows_have_smaller_p_values(held_out, scores):
    """P-values fall, or stay, as scores grow; they lie in [1 / (n + 1), 1]."""
    calibration = Calibration.of(held_out)
    p_values = calibration.p_values(np.sort(scores))
    assert (np.diff(p_values) <= 0).all()
    assert p_values.min() >= calibration.smallest_p_value == 1 / (1 + len(held_out))
    assert p_values.max() <= 1


@given(SCORES, st.randoms(use_true_random=False))
def test_the_order_of_calibration_scores_is_immaterial(held_out, random):
    """Calibration keeps a sorted copy, and leaves the caller's array as it was."""
    shuffled = list(held_out)
    random.shuffle(shuffled)
    before = np.array(shuffled)
    np.testing.assert_array_equal(Calibration.of(before).scores, Calibration.of(held_out).scores)
    np.testing.assert_array_equal(before, shuffled)


@pytest.mark.parametrize("alpha", [0.05, 0.01, 1e-3, 1e-4, 1e-6, 0.3, 1 / 3, 1 / 7, 1 / 49, 0.5, 0.999, 1, 2])
def test_rows_needed_are_the_fewest_that_allow_alpha(alpha):
    """With so many rows the smallest p-value is at most alpha, by the division of a p-value itself; with one fewer it is not."""
    rows = rows_needed(alpha)
    assert 1 / (1 + rows) <= alpha
    assert rows == 1 or 1 / rows > alpha


@given(st.integers(2, 10**9))
def test_rows_needed_undo_the_division(total):
    """For alpha = 1 / (n + 1), as rounded, n rows are needed."""
    assert rows_needed(1 / total) == total - 1


@pytest.mark.parametrize("alpha", [0, -0.1, np.nan, np.inf])
def test_an_alpha_that_is_no_positive_number_is_refused(alpha):
    """Zero, a negative number, NaN and infinity raise ValueError, though no AlphaTooSmall."""
    for call in (rows_needed, Calibration.of(np.arange(9.0)).check_alpha):
        with pytest.raises(ValueError, match="must be a positive number") as refusal:
            call(alpha)
        assert refusal.type is ValueError


def test_the_refusal_of_an_alpha_says_how_many_rows_it_needs():
    """The sentence names alpha, the rows it needs, the rows there are, and an alpha that they do allow."""
    calibration = Calibration.of(np.arange(240.0))
    with pytest.raises(AlphaTooSmall) as refusal:
        calibration.check_alpha(0.0001)
    assert str(refusal.value) == "alpha=0.0001 needs at least 9999 calibration rows; there are 240, which allow 0.00415 and more"
    assert (refusal.value.alpha, refusal.value.needed, refusal.value.rows) == (0.0001, 9999, 240)
    calibration.check_alpha(0.00415)


@given(st.integers(1, 3000))
def test_the_alpha_that_a_refusal_names_is_allowed(rows):
    """It is rounded up, never down; and the smallest p-value itself is allowed, the next smaller number is not."""
    calibration = Calibration.of(np.arange(rows, dtype=float))
    calibration.check_alpha(calibration.smallest_p_value)
    with pytest.raises(AlphaTooSmall) as refusal:
        calibration.check_alpha(np.nextafter(calibration.smallest_p_value, 0))
    calibration.check_alpha(float(str(refusal.value).split()[-3]))


def test_trimming_leaves_out_the_highest_scores():
    """A share of 0.29 of 100 scores are the 29 highest, though 100 * 0.29 is rounded below 29; 0 leaves all."""
    scores = np.random.default_rng(0).permutation(np.arange(100.0))
    np.testing.assert_array_equal(Calibration.of(scores, trim=0.29).scores, np.arange(71.0))
    np.testing.assert_array_equal(Calibration.of(scores, trim=0.0).scores, np.arange(100.0))


@pytest.mark.parametrize("trim", [-0.1, 0.51, np.nan])
def test_a_share_to_trim_beyond_a_half_is_refused(trim):
    """A negative share, one of more than a half and NaN raise ValueError."""
    with pytest.raises(ValueError, match="trim must be a share"):
        Calibration.of(np.arange(9.0), trim=trim)


@pytest.mark.parametrize("trim", [0.0, 0.05, 0.1])
def test_the_bias_of_trimming_is_the_documented_one(trim):
    """Calibration rows are 189 normal ones and 10 far anomalies: the rate at alpha 0.1 is alpha + (1 - alpha) (t - 10) / 190, below
    alpha with none left out and above it with 19.

    Exactly, as an alarm needs a place among the highest of 190 normal rows, the rate is a whole number of 190ths; 4000 draws
    lie within four standard errors of it.
    """
    rng = np.random.default_rng(7)
    trimmed = int(199 * trim)
    documented = 0.1 + 0.9 * (trimmed - 10) / 190
    exact = np.floor(190 * documented + 1e-9) / 190
    alarms = []
    for _ in range(4000):
        calibration = Calibration.of(np.concatenate([rng.normal(size=189), np.full(10, 50.0)]), trim=trim)
        alarms.append(outliers(calibration.p_values(rng.normal(size=1)), 0.1)[0])
    assert abs(np.mean(alarms) - exact) < 4 * np.sqrt(exact * (1 - exact) / 4000)


@pytest.mark.parametrize("scores", [np.array([]), np.ones((2, 2)), np.array([1, np.nan]), np.array([np.inf])])
def test_calibration_refuses_what_is_no_row_of_scores(scores):
    """No scores, a table, NaN and infinity raise ValueError."""
    with pytest.raises(ValueError, match="calibration needs"):
        Calibration.of(scores)


def test_p_values_of_normal_rows_are_uniform():
    """Against new calibration sets, p-values of continuous scores are uniform on 1/(n+1), ..., 1.

    A uniform jitter of one step makes them continuous; Kolmogorov and Smirnov's test at level 1e-4.
    """
    rng = np.random.default_rng(0)
    n = 99
    p_values = np.array([Calibration.of(rng.gamma(2, size=n)).p_values(rng.gamma(2, size=1))[0] for _ in range(4000)])
    assert kstest(p_values - rng.uniform(size=4000) / (n + 1), "uniform").pvalue > 1e-4


def test_p_values_of_tied_scores_are_conservative():
    """With scores of few values the p-values are too large rather than too small: P(p <= a) <= a."""
    rng = np.random.default_rng(1)
    p_values = np.array(
        [Calibration.of(rng.integers(0, 4, 39).astype(float)).p_values(np.array([rng.integers(0, 4)]))[0] for _ in range(4000)]
    )
    for alpha in (0.05, 0.1, 0.25, 0.5, 0.9):
        assert (p_values <= alpha).sum() <= binom.ppf(0.9999, 4000, alpha)


def test_false_alarm_rate_is_alpha_whatever_the_dimension():
    """1000 normal rows of 256 features: fit on 800, calibrate on 200, and 1 % of fresh rows raise an alarm.

    Given one fit and one calibration set the rate of the threshold is not alpha, but random with
    the law Beta(k, 201 - k), k = floor(0.01 * 201) = 2, of mean 2/201; all fresh rows of one
    repetition share it. So 400 calibration sets are drawn, each judges 250 fresh rows, and the
    100 000 decisions are tested in two ways: by the count of alarms of each repetition, which is
    beta-binomial, in total within 2.576 standard deviations (99 %) of its mean, and by one fresh
    row of each repetition, which are independent, so that their alarms are exactly binomial.
    (Four fits are shared by 100 repetitions each: the law holds given any fit.)
    """
    fits, sets, held_out, fresh, alpha = 4, 100, 200, 250, 0.01
    rng = np.random.default_rng(2)
    alarms = []
    for _ in range(fits):
        mean, mix = rng.normal(size=256), rng.normal(size=(256, 256)) / 16
        detector = Gaussian().fit(rng.normal(size=(800, 256)) @ mix + mean)
        scores = detector.scores(rng.normal(size=(sets * (held_out + fresh), 256)) @ mix + mean).reshape(sets, -1)
        alarms += [outliers(Calibration.of(s[:held_out]).p_values(s[held_out:]), alpha) for s in scores]
    law = betabinom(fresh, 2, 199)
    total, repetitions = np.sum(alarms), len(alarms)
    assert law.mean() == pytest.approx(fresh * 2 / 201)
    assert abs(total - repetitions * law.mean()) < 2.576 * np.sqrt(repetitions * law.var())
    low, high = binom.interval(0.99, repetitions, 2 / 201)
    assert low <= np.sum([decisions[0] for decisions in alarms]) <= high


def test_the_rate_given_one_calibration_set_follows_its_beta_law():
    """Alarm counts per calibration set of 99 rows at alpha 0.1 are beta-binomial: Kolmogorov-Smirnov at level 1e-4."""
    rng = np.random.default_rng(3)
    counts = [outliers(Calibration.of(rng.normal(size=99)).p_values(rng.normal(size=400)), 0.1).sum() for _ in range(1000)]
    law = betabinom(400, 10, 90)
    spread_out = law.cdf(np.array(counts) - 1) + rng.uniform(size=1000) * law.pmf(counts)
    assert kstest(spread_out, "uniform").pvalue > 1e-4


@pytest.mark.parametrize(("estimator", "rate"), [(EmpiricalCovariance, 0.88), (LedoitWolf, 0.35)])
def test_thresholds_from_the_fitted_rows_fail(estimator, rate):
    """Why rows are held out: at n = 1000, d = 256 the in-sample 1 % quantile alarms on tens of percent of normal rows.

    The rows are correlated: of uncorrelated ones Ledoit and Wolf's shrinkage leaves nothing to overfit.
    """
    rng = np.random.default_rng(4)
    rates = []
    for _ in range(3):
        mix = rng.normal(size=(256, 256)) / 16
        rows, fresh = rng.normal(size=(1000, 256)) @ mix, rng.normal(size=(4000, 256)) @ mix
        fitted = estimator().fit(rows)
        rates.append((fitted.mahalanobis(fresh) > np.quantile(fitted.mahalanobis(rows), 0.99)).mean())
    assert np.mean(rates) == pytest.approx(rate, abs=0.06)


def test_calibration_on_the_fitted_rows_fails_too():
    """Conformal p-values against in-sample scores break the promise by more than a factor of ten."""
    rng = np.random.default_rng(5)
    rows, fresh = rng.normal(size=(1000, 256)), rng.normal(size=(4000, 256))
    detector = Gaussian(covariance="empirical").fit(rows)
    assert outliers(Calibration.of(detector.scores(rows)).p_values(detector.scores(fresh)), 0.01).mean() > 0.1


@given(st.lists(st.integers(1, 100).map(lambda k: k / 100), max_size=30), st.sampled_from([0.013, 0.047, 0.111, 0.29]))
def test_benjamini_hochberg_equals_its_slow_twin(p_values, alpha):
    """With ``fdr`` the decisions are those of the step-up procedure, for any batch, the empty one included."""
    np.testing.assert_array_equal(outliers(np.array(p_values), alpha, fdr=True), naive.benjamini_hochberg(p_values, alpha))


def test_benjamini_hochberg_loses_no_tie_to_rounding():
    """A p-value j / (n + 1) that equals k alpha / m as a fraction is within its bound, for all n up to 600 and batches of up to 50 rows."""
    cases = 0
    for alpha, total, size in product((Fraction(1, 100), Fraction(1, 20), Fraction(1, 10)), range(20, 602), (7, 20, 25, 50)):
        for place in range(1, size + 1):
            count = place * alpha * total / size
            if count.denominator == 1:
                p_values = np.where(np.arange(size) < place, int(count) / total, 1.0)
                np.testing.assert_array_equal(outliers(p_values, float(alpha), fdr=True), p_values < 1)
                above = np.where(np.arange(size) < place, (int(count) + 1) / total, 1.0)
                assert not outliers(above, float(alpha), fdr=True).any()
                cases += 1
    assert cases > 1000


def test_benjamini_hochberg_on_the_worked_example():
    """At 0.1, of 0.01, 0.04, 0.03 and 0.5 the first three are rejected."""
    np.testing.assert_array_equal(outliers(np.array([0.01, 0.04, 0.03, 0.5]), 0.1, fdr=True), [True, True, True, False])


def test_benjamini_hochberg_keeps_the_share_of_false_alarms():
    """Batches of 90 normal and 10 strange rows: the mean share of false alarms among alarms stays below 0.2.

    It tends to 0.2 times the share of normal rows, 0.18; and nearly all strange rows are found. The
    p-values of a batch are dependent, because they share one calibration set.
    """
    rng = np.random.default_rng(6)
    shares, found, alone = [], [], []
    for _ in range(600):
        scores = np.concatenate([rng.normal(size=90), rng.normal(4, 1, size=10)])
        p_values = Calibration.of(rng.normal(size=500)).p_values(scores)
        decisions = outliers(p_values, 0.2, fdr=True)
        shares.append(decisions[:90].sum() / max(decisions.sum(), 1))
        found.append(decisions[90:].mean())
        judged_alone = outliers(p_values, 0.2)
        alone.append(judged_alone[:90].sum() / judged_alone.sum())
    assert 0.15 < np.mean(shares) < 0.2
    assert np.mean(found) > 0.9
    assert np.mean(alone) > 0.5  # row by row, most alarms of such batches are false
