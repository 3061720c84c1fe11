"""How often a detector calls rows outliers, beside how often it promises to."""

from __future__ import annotations

from math import log

import numpy as np
from scipy.optimize import brentq
from scipy.special import betaln, xlog1py, xlogy
from scipy.stats import beta

ROUNDING = 1e-12  # relative, of alpha (n + 1)


def promised(alpha: float, calibration: int, doubt: float) -> tuple[float, float]:
    """Interval of the false-alarm rate at ``alpha`` that ``calibration`` rows promise, but for a probability of ``doubt``.

    The rate of one calibration set has the law Beta(k, n + 1 - k), k = floor(alpha (n + 1)); see docs/calibration.md.

    >>> [round(rate, 4) for rate in promised(0.01, 999, 0.1)]
    [0.0054, 0.0157]
    """
    law = beta(*_shape(alpha, calibration))
    return float(law.ppf(doubt / 2)), float(law.ppf(1 - doubt / 2))


def confidence_sequence(outliers: int, rows: int, alpha: float, calibration: int, doubt: float) -> tuple[float, float]:
    r"""Interval of the rate behind ``outliers`` among ``rows`` that keeps its confidence however often and whenever one looks.

    .. math:: \Bigl\{\theta : \frac{B(s + a,\, t - s + b)}{B(a, b)\, \theta^s (1 - \theta)^{t - s}} < \frac{1}{doubt}\Bigr\}

    with s outliers of t rows: for the true rate the ratio is a martingale that begins at 1 (Robbins 1970), so the
    interval ever misses it with a probability of at most ``doubt``. a and b are those of ``promised``, which makes the interval short
    where the rate is what is promised. Rows are independent given the calibration set.

    >>> [round(rate, 4) for rate in confidence_sequence(12, 1000, 0.01, 999, 0.05)]
    [0.005, 0.0235]
    """
    if rows == 0:
        return 0.0, 1.0
    a, b = _shape(alpha, calibration)
    misses = rows - outliers
    constant = float(betaln(outliers + a, misses + b) - betaln(a, b)) + log(doubt)

    def beyond(rate: float) -> float:
        return constant - float(xlogy(outliers, rate) + xlog1py(misses, -rate))

    seen, tiny = outliers / rows, np.finfo(np.float64).tiny
    lower = 0.0 if outliers == 0 else brentq(beyond, tiny, seen, xtol=1e-12)
    upper = 1.0 if misses == 0 else brentq(beyond, seen, 1 - 1e-16, xtol=1e-12)
    return float(lower), float(upper)


def _shape(alpha: float, calibration: int) -> tuple[int, int]:
    places = max(int(alpha * (calibration + 1) * (1 + ROUNDING)), 1)
    return places, max(calibration + 1 - places, 1)
