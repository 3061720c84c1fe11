"""Robust shrinkage on planted anomalies: the cells in which it finds them, and those in which it fails, as documented."""

import numpy as np
import pytest
from scipy.stats import chi2
from sklearn.metrics import roc_auc_score

from detectors import Gaussian, RobustShrinkage


def ar_covariance(width, correlation=0.8):
    return correlation ** np.abs(np.subtract.outer(np.arange(width), np.arange(width)))


def share_found(detector, width, n, share, spread, *, repeats, correlation=0.0, df_shift=0):
    """Mean share of planted rows found and of others flagged at the chi-square cut, and the area under the ROC curve.

    Planted rows lie together at (5, ..., 5), or, with correlation, at the Mahalanobis radius 5 sqrt(width) along the
    eigenvector of least variance.
    """
    covariance, results = ar_covariance(width, correlation), []
    values, vectors = np.linalg.eigh(covariance)
    place = 5 * np.sqrt(width * values[0]) * vectors[:, 0] if correlation else np.full(width, 5.0)
    for seed in range(repeats):
        rows = np.random.default_rng(seed).normal(size=(n, width)) @ np.linalg.cholesky(covariance).T
        planted = np.arange(n) < round(share * n)
        rows[planted] = place + np.sqrt(spread) * rows[planted]
        scores = detector.fit(rows).scores(rows)
        flagged = scores > chi2.ppf(0.975, width - df_shift)
        results.append((flagged[planted].mean(), flagged[~planted].mean(), roc_auc_score(planted, scores)))
    return np.mean(results, axis=0)


def test_one_far_row_cannot_move_the_intensity():
    """A row at 1000 standard deviations moves the clipped intensity by less than 0.02 and drives the fourth-moment one to 1."""
    rows = np.random.default_rng(0).normal(size=(500, 5)) @ np.linalg.cholesky(ar_covariance(5)).T
    spoilt = np.vstack([rows[:-1], np.full(5, 1e3)])
    for intensity, low, high in (("clipped", 0, 0.02), ("bootstrap", 0, 0.05), ("fourth_moment", 0.8, 1)):
        before, after = (RobustShrinkage(intensity=intensity, reweight=False).fit(r).state_.scatter_intensity for r in (rows, spoilt))
        assert low <= abs(after - before) <= high
    assert after == 1


@pytest.mark.parametrize(
    ("preset", "width", "n", "share", "found", "flagged", "error"),
    [
        ("default", 5, 100, 0.1, 1.0, 0.028, 0.012),
        ("default", 5, 100, 0.3, 1.0, 0.025, 0.012),
        ("default", 30, 500, 0.1, 1.0, 0.027, 0.006),
        ("port", 5, 100, 0.1, 1.0, 0.012, 0.010),
        ("port", 5, 100, 0.3, 0.986, 0.0, 0.001),
        ("port", 30, 500, 0.1, 1.0, 0.0, 0.001),
    ],
)
def test_a_cloud_of_anomalies_is_found(preset, width, n, share, found, flagged, error):
    """Rows at (5, ..., 5) among round normal ones: found by, and false alarms are, as many as the references measured."""
    shift = int(preset == "port")
    share_flagged, alarms, area = share_found(RobustShrinkage.preset(preset), width, n, share, 0.1, repeats=30, df_shift=shift)
    assert share_flagged == pytest.approx(found, abs=0 if found == 1 else 0.03)
    assert area == 1
    assert alarms == pytest.approx(flagged, abs=error)


def test_correlated_rows_need_the_default():
    """Among AR(1) rows the default finds a tenth that breaks the correlation; the port ranks it well but its cut misses many."""
    found, alarms, area = share_found(RobustShrinkage(), 10, 500, 0.1, 0.1, repeats=30, correlation=0.8)
    assert (found, area) == (1, pytest.approx(1))
    assert alarms == pytest.approx(0.035, abs=0.006)
    found, _, area = share_found(RobustShrinkage.preset("port"), 10, 500, 0.1, 0.1, repeats=30, correlation=0.8, df_shift=1)
    assert found == pytest.approx(0.44, abs=0.2)
    assert area == pytest.approx(0.98, abs=0.01)


def test_a_fifth_that_breaks_the_correlation_is_missed():
    """With a fifth of the rows there instead, nothing is found and the planted rows even rank below the others, as documented."""
    found, alarms, area = share_found(RobustShrinkage(), 10, 500, 0.2, 0.1, repeats=30, correlation=0.8)
    assert found == 0
    assert alarms == pytest.approx(0.060, abs=0.008)
    assert area == pytest.approx(0.073, abs=0.02)


def test_it_beats_the_gaussian_on_contaminated_rows():
    """A fifth of anomalies pulls the plain Gaussian over to them, and not this."""
    rows = np.random.default_rng(0).normal(size=(300, 5))
    rows[:60] += 5
    planted = np.arange(300) < 60
    assert roc_auc_score(planted, RobustShrinkage().fit(rows).scores(rows)) == 1
    assert roc_auc_score(planted, Gaussian().fit(rows).scores(rows)) < 0.9
