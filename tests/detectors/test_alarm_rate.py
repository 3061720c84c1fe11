"""The interval of a rate that may be looked at all the time, and the rate that is promised."""

import numpy as np
from scipy.stats import binom

from detectors import Calibration
from detectors.alarm_rate import confidence_sequence, promised


def test_the_interval_ever_misses_the_rate_as_rarely_as_stated():
    """200 streams of 20 000 rows, each looked at 30 times on its way."""
    rng, missed, rate = np.random.default_rng(0), 0, 0.03
    looks = np.unique(np.geomspace(1, 20_000, 30).astype(int))
    for _ in range(200):
        found = np.cumsum(rng.random(looks[-1]) < rate)
        ends = [confidence_sequence(int(found[rows - 1]), int(rows), 0.05, 199, 0.1) for rows in looks]
        missed += any(not low <= rate <= high for low, high in ends)
    assert missed <= binom.ppf(0.9999, 200, 0.1)


def test_the_interval_shrinks_about_what_is_seen():
    """It holds the share seen, from the whole line at first to little after many rows."""
    assert confidence_sequence(0, 0, 0.05, 99, 0.05) == (0.0, 1.0)
    assert confidence_sequence(0, 50, 0.05, 99, 0.05)[0] == 0
    assert confidence_sequence(50, 50, 0.05, 99, 0.05)[1] == 1
    widths = []
    for rows in (100, 10_000, 1_000_000):
        low, high = confidence_sequence(rows // 20, rows, 0.05, 99, 0.05)
        assert low < 0.05 < high
        widths.append(high - low)
    assert widths[0] > 5 * widths[1] > 25 * widths[2]


def test_the_promise_is_kept_by_calibration_sets():
    """The true rates of many of them lie in the interval as often as stated."""
    rng, n, alpha = np.random.default_rng(1), 99, 0.05
    low, high = promised(alpha, n, 0.1)
    rates = np.array([1 - Calibration.of(rng.random(n)).threshold(alpha) for _ in range(2000)])
    assert abs(((low <= rates) & (rates <= high)).mean() - 0.9) < 0.03
