"""The Pareto tail: its fit against known laws, what it never does, and the rates that it gives beyond the calibration rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import expon, genpareto, t, uniform

from detectors import AlphaTooSmall, Calibration, ParetoTail

TAILS = st.builds(
    lambda seed, rows, shape: Calibration.of(genpareto(shape).rvs(rows, random_state=seed)),
    st.integers(0, 2**32 - 1),
    st.integers(200, 700),
    st.integers(-9, 9).map(lambda tenths: tenths / 10),
)


@pytest.mark.parametrize(("shape", "scale"), [(0.0, 1.0), (0.2, 3.0), (0.4, 1e-6)])
def test_the_fit_recovers_the_law_of_the_tail(shape, scale):
    """From the quantiles of a generalised Pareto law: excesses over a threshold have its shape and scale + shape * threshold."""
    law = genpareto(shape, scale=scale)
    tail = ParetoTail.of(Calibration.of(law.ppf(np.arange(1, 20_000) / 20_000)))
    assert tail.excesses == 1999
    assert tail.shape == pytest.approx(shape, abs=0.02)
    assert tail.scale == pytest.approx(scale + shape * tail.start, rel=0.03)


def test_p_values_beyond_the_largest_score_are_those_of_the_law():
    """The share of excesses times SciPy's survival function of the fitted law."""
    calibration = Calibration.of(genpareto(0.3).rvs(1000, random_state=0))
    tail = ParetoTail.of(calibration)
    scores = calibration.scores[-1] * np.array([1.2, 1.5, 2.0])
    expected = 101 / 1001 * genpareto(tail.shape, scale=tail.scale).sf(scores - tail.start)
    np.testing.assert_allclose(tail.p_values(scores), expected)
    assert expected.max() < calibration.smallest_p_value


def test_the_fit_is_the_one_by_weighted_moments():
    """Shape and scale solve for the mean of the excesses and the expected smaller one of two, over all pairs."""
    calibration = Calibration.of(genpareto(0.3).rvs(300, random_state=1))
    tail = ParetoTail.of(calibration)
    excesses = calibration.scores[-50:] - calibration.scores[-51]
    smaller = np.mean([min(a, b) for i, a in enumerate(excesses) for b in excesses[:i]])
    law = genpareto(tail.shape, scale=tail.scale)
    assert 0 < tail.shape < 0.95
    assert law.mean() == pytest.approx(excesses.mean())
    assert genpareto(tail.shape / 2, scale=tail.scale / 2).mean() == pytest.approx(smaller)  # sf squared is of this law


@given(TAILS)
def test_counted_p_values_stay_as_they_are(calibration):
    """Up to the largest calibration score nothing changes; beyond it no p-value is above the counted one, or below the limit."""
    tail = ParetoTail.of(calibration)
    inside = np.concatenate([calibration.scores, calibration.scores - 0.01])
    np.testing.assert_array_equal(tail.p_values(inside), calibration.p_values(inside))
    beyond = tail.p_values(calibration.scores[-1] + np.array([1e-9, 1.0, 1e12, 1e300, np.finfo(float).max]))
    assert (beyond <= calibration.smallest_p_value).all()
    assert beyond.min() >= tail.smallest_p_value == calibration.smallest_p_value / 100


@given(TAILS)
def test_p_values_fall_with_the_score(calibration):
    """Through the calibration scores, their largest, and up to the largest float64."""
    scores = np.concatenate([calibration.scores, calibration.scores[-1] + np.geomspace(1e-9, 1e9, 200), [np.finfo(float).max]])
    assert (np.diff(ParetoTail.of(calibration).p_values(scores)) <= 0).all()


@given(TAILS, st.floats(-6, 0).map(lambda power: 10.0**power))
def test_the_threshold_divides_at_alpha(calibration, alpha):
    """A little above it p-values are at most alpha, a little below they are not."""
    tail = ParetoTail.of(calibration)
    threshold = tail.threshold(alpha)
    if alpha < tail.smallest_p_value:
        assert threshold == np.inf
    elif np.isfinite(threshold):
        gap = 1e-9 * max(abs(threshold), tail.scale)
        above, below = tail.p_values(np.array([threshold + gap, threshold - gap]))
        assert above <= alpha * (1 + 1e-6)
        assert below > alpha * (1 - 1e-6)


def test_scores_may_be_in_any_unit():
    """P-values are the same for scores shifted and scaled, by very small and very large numbers."""
    scores = expon.rvs(size=400, random_state=2)
    new = np.array([1.0, 7.0, 9.0, 12.0])
    expected = ParetoTail.of(Calibration.of(scores)).p_values(new)
    for scale in (1e-200, 1e-3, 1e200):
        np.testing.assert_allclose(ParetoTail.of(Calibration.of(scale * (scores + 5))).p_values(scale * (new + 5)), expected, rtol=1e-9)


def test_a_tail_that_ends_is_taken_for_one_that_does_not():
    """Of uniform scores the fitted shape is 0: no score beyond the largest is impossible, so that the limit is not reached at once."""
    calibration = Calibration.of(uniform.rvs(size=1000, random_state=3))
    tail = ParetoTail.of(calibration)
    assert tail.shape == 0
    assert tail.p_values(np.array([1.01]))[0] > 10 * tail.smallest_p_value


def test_far_scores_among_the_calibration_rows_only_make_it_careful():
    """One calibration score of 1e12, as rows that left the span have: p-values of other high scores are then counted ones, nearly."""
    scores = expon.rvs(size=999, random_state=4)
    tail = ParetoTail.of(Calibration.of(np.append(scores, 1e12)))
    assert tail.p_values(np.array([30.0]))[0] == pytest.approx(2 / 1001)
    assert 1e-5 < tail.p_values(np.array([2e12]))[0] < 1 / 1001


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.arange(199.0), "at least 200 calibration rows, not 199"),
        (np.minimum(np.arange(1000.0), 5), "that differ"),
        (
            np.append(np.zeros(900), np.full(150, np.finfo(float).max)) - np.append(np.full(900, np.finfo(float).max), np.zeros(150)),
            "differ",
        ),
    ],
)
def test_no_tail_is_fitted_to_too_little(scores, message):
    """Too few rows, highest scores that are all one, and such as differ by more than float64 holds raise ValueError."""
    with np.errstate(over="raise"), pytest.raises(ValueError, match=message):
        ParetoTail.of(Calibration.of(scores))


def test_highest_scores_of_one_value_give_a_tail():
    """All excesses are the same, as of scores of few values: shape 0, and the scale is the excess."""
    tail = ParetoTail.of(Calibration.of(np.repeat([1.0, 3.0], [900, 100])))
    assert (tail.start, tail.excesses, tail.shape, tail.scale) == (1.0, 100, 0.0, 2.0)
    np.testing.assert_allclose(tail.p_values(np.array([3.0, 11.0])), [101 / 1001, 101 / 1001 * np.exp(-5)])


def test_the_refusal_of_an_alpha_says_how_many_rows_the_tail_needs():
    """One hundredth of what counting needs, and no less than that is ever given."""
    tail = ParetoTail.of(Calibration.of(expon.rvs(size=240, random_state=5)))
    tail.check_alpha(1e-4)
    with pytest.raises(AlphaTooSmall, match=r"alpha=1e-05 needs at least 999 calibration rows for a Pareto tail; there are 240"):
        tail.check_alpha(1e-5)
    with pytest.raises(ValueError, match="must be a positive number"):
        tail.check_alpha(0.0)


@pytest.mark.parametrize(("law", "most"), [(expon(), 2.5), (t(5), 2.5), (uniform(), 0.5)])
def test_rates_beyond_the_calibration_rows_have_the_right_size(law, most):
    """With 500 rows at alpha 2e-4, ten times smaller than counting allows, the mean of 300 exact rates is of the order of alpha.

    Of a law whose tail ends it is far below; at an alpha that counting allows it is that of counting.
    """
    rng = np.random.default_rng(6)
    tails = [ParetoTail.of(Calibration.of(law.rvs(size=500, random_state=rng))) for _ in range(300)]
    rate = np.mean([law.sf(tail.threshold(2e-4)) for tail in tails])
    assert rate < most * 2e-4
    assert most < 1 or rate > 2e-4 / 2.5
    assert all(tail.threshold(0.01) == tail.calibration.threshold(0.01) for tail in tails)
