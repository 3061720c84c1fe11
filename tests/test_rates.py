"""The arithmetic of the simulated rates: intervals, the tables' place on the page, and that a broken promise is told."""

import numpy as np
import pytest
from scipy.stats import betabinom, binom

from benchmarks import calibration, rates, tails
from detectors import Calibration, CrossConformal, Gaussian


@pytest.mark.parametrize(("size", "alpha"), [(99, 0.01), (99, 0.05), (199, 0.1), (50, 0.1), (18, 0.05)])
def test_places_are_those_at_which_a_row_is_called_an_outlier(size, alpha):
    """Among the size + 1 ranks of a new row, by the calibration itself."""
    p_values = Calibration.of(np.arange(1.0, size + 1)).p_values(np.arange(size + 1) + 0.5)
    assert rates.places(size, alpha) == (p_values <= alpha).sum()


def test_the_interval_of_one_set_is_that_of_its_law():
    """One calibration set: quantiles of the beta-binomial law."""
    law = betabinom(500, 5, 95)
    assert rates.interval([(500, 5, 100)]) == tuple(law.ppf([rates.DOUBT / 2, 1 - rates.DOUBT / 2]) / 500)


def test_the_interval_of_single_rows_is_binomial():
    """One fresh row for each of 3000 sets: independent alarms at k / (n + 1)."""
    low, high = rates.interval([(1, 5, 100)] * 3000)
    assert (low, high) == tuple(binom(3000, 0.05).ppf([rates.DOUBT / 2, 1 - rates.DOUBT / 2]) / 3000)


def test_the_interval_of_unlike_sets_holds_their_sum():
    """Sets of other sizes: the law of the sum by adding two tables of probabilities, one pair at a time."""
    first, second = betabinom(30, 2, 18), betabinom(20, 4, 6)
    pmf = np.zeros(51)
    for i in range(31):
        for j in range(21):
            pmf[i + j] += first.pmf(i) * second.pmf(j)
    below = np.cumsum(pmf)
    expected = [np.argmax(below >= level) / 50 for level in (rates.DOUBT / 2, 1 - rates.DOUBT / 2)]
    assert list(rates.interval([(30, 2, 20), (20, 4, 10)])) == expected


def test_a_detector_that_breaks_the_promise_is_told(monkeypatch):
    """Scores that grow with the number of rows seen are not exchangeable; they lie outside, and the table says so."""

    class Drifting(Gaussian):
        def anomaly_scores(self, state, rows):
            return super().anomaly_scores(state, rows) * np.where(np.arange(len(rows)) % 60 < 20, 2, 1)

    monkeypatch.setattr(rates, "REGISTRY", {"drifting": Drifting, "gaussian": Gaussian})
    text, outside = rates.by_detector([(50, 3)], sets=200, sizes=(40,), fresh=20, planted=2)
    assert outside == ["drifting at n=50, d=3"]
    told, kept = text.splitlines()[-2:]
    assert "outside" in told
    assert "outside" not in kept


@pytest.mark.parametrize(("factor", "told"), [(1, False), (0.3, True), (3, True)])
def test_a_cross_conformal_rate_within_its_bound_but_not_about_alpha_is_told(factor, told, monkeypatch):
    """P-values too small by a factor of three keep the bound for few rows, and those too large do; neither rate is about alpha."""

    class Scaled(CrossConformal):
        def score(self, rows):
            scores, p_values = super().score(rows)
            return scores, p_values * factor

    monkeypatch.setattr(rates, "CrossConformal", Scaled)
    monkeypatch.setattr(rates, "REGISTRY", {"gaussian": Gaussian})
    text, outside = rates.by_folds(40)
    assert "**" not in text
    assert outside == [f"cross-conformal gaussian at alpha {a}, not about alpha (seen, not promised)" for a in (0.05, 0.1)] * told
    assert text.count("*not about alpha*") == len(outside)


def test_rare_scores_have_the_rate_of_their_law():
    """The survival function of the mixture is the share of drawn scores above."""
    drawn = tails.Rare().rvs(200_000, np.random.default_rng(0))
    for score in (1.0, 5.0, 10.0):
        expected = tails.Rare().sf(score)
        assert abs((drawn > score).mean() - expected) < 4.5 * np.sqrt(expected / 200_000)


def test_every_table_has_its_place_in_the_docs():
    """The page that ``--write`` fills has the comments of every section, once each."""
    page = calibration.PAGE.read_text()
    for name in ("thresholds", "detectors", "folds", "combination", "groups", "trimming", "tail"):
        assert page.count(f"benchmarks.calibration: {name} begins") == page.count(f"benchmarks.calibration: {name} ends") == 1
