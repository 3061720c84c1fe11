"""Cross-conformal calibration: every row is fitted on and every row calibrates, each by a detector that has not seen it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import clone

from detectors.arrays import Scores
from detectors.base import Detector
from detectors.calibration import AlphaTooSmall, Calibration, PValues, rows_needed
from detectors.rows import counted_among


@dataclass(frozen=True, slots=True)
class CrossConformal:
    r"""K detectors, each fitted without one of K folds of the rows, and the scores of each on its own fold (Vovk 2015).

    .. math:: p(x) = \frac{1 + \sum_{k=1}^K \#\{i \in \text{fold } k : s_k(x_i) \ge s_k(x)\}}{n + 1}

    It suits few rows, of which none can be spared to calibrate: each detector learns from (K - 1) / K of them, and the smallest
    p-value is 1 / (n + 1) of all n. The price: K fits, K detectors to keep, K scores per row, and a weaker guarantee,

    .. math:: P(p \le \alpha) \le 2\alpha + 2(1 - \alpha)\,\frac{K - 1}{n + K}

    for exchangeable rows, since the p-value is an affine function of the weighted mean of the K split-conformal p-values, and
    twice such a mean is a p-value however they depend (Vovk and Wang 2020; for equal folds the bound is that of Barber,
    Candès, Ramdas and Tibshirani 2021, theorem 4). In simulations the rate is about alpha, and mostly below: see
    ``benchmarks.calibration``. Where the guarantee at alpha itself is needed, use ``Calibration``.

    >>> rows = np.random.default_rng(0).normal(size=(40, 2))
    >>> from detectors import Gaussian
    >>> cross = CrossConformal.fit(Gaussian(), rows, folds=4)
    >>> scores, p_values = cross.score(np.array([[0.0, 0.0], [9.0, 9.0]]))
    >>> p_values.round(3), round(cross.rate_bound(0.1), 3)
    (array([0.951, 0.024]), 0.323)
    """

    detectors: tuple[Detector[Any], ...]  # K, fitted
    calibrations: tuple[Calibration, ...]  # K, of the scores of each detector on its own fold

    @classmethod
    def fit(cls, detector: Detector[Any], X: ArrayLike, y: ArrayLike | None = None, *, folds: int = 5, seed: int = 0) -> CrossConformal:
        """Fit clones of ``detector`` on normal rows ``X`` (n, d), with their classes ``y`` (n,) if it is for labelled rows.

        Raises ValueError for fewer than two folds, and for fewer than ``folds`` rows or than three.
        """
        rows = np.asarray(X)
        labels = None if y is None else np.asarray(y)
        if not 2 <= folds <= len(rows) or len(rows) < 3:
            raise ValueError(
                f"folds={folds} must be at least 2 and at most the number of rows, which are {len(rows)} and must be 3 or more"
            )
        members = np.random.default_rng(seed).permutation(len(rows)) % folds
        detectors, calibrations = [], []
        for fold in range(folds):
            held_out = members == fold
            with counted_among(np.flatnonzero(~held_out)):
                fitted = clone(detector).fit(rows[~held_out], None if labels is None else labels[~held_out])
            detectors.append(fitted)
            with counted_among(np.flatnonzero(held_out)):
                calibrations.append(Calibration.of(fitted.scores(rows[held_out])))
        return cls(tuple(detectors), tuple(calibrations))

    def score(self, X: ArrayLike) -> tuple[Scores, PValues]:
        """Score and p-value, both (m,), of each row of ``X`` (m, d).

        The score is the mean of those of the K detectors. It ranks rows whose p-values are equal; as the p-value counts
        each fold by itself, no threshold on the mean gives the same decisions. Cost: K times that of the detector.
        """
        scores = np.array([detector.scores(X) for detector in self.detectors])
        above = np.sum([calibration.at_least(row) for calibration, row in zip(self.calibrations, scores, strict=True)], axis=0)
        return np.asarray((scores / len(scores)).sum(axis=0)), np.asarray((1 + above) / (1 + self.rows))

    @property
    def rows(self) -> int:
        """Number n of calibration rows: all that were fitted."""
        return sum(len(calibration.scores) for calibration in self.calibrations)

    @property
    def smallest_p_value(self) -> float:
        """1 / (n + 1)."""
        return 1 / (1 + self.rows)

    def check_alpha(self, alpha: float) -> None:
        """Raises ``AlphaTooSmall`` if ``alpha`` is below ``smallest_p_value``, and ValueError if it is no positive number."""
        if (needed := rows_needed(alpha)) > self.rows:
            raise AlphaTooSmall(alpha, needed=needed, rows=self.rows, smallest=self.smallest_p_value)

    def rate_bound(self, alpha: float) -> float:
        """What the rate of false alarms at ``alpha`` cannot exceed for exchangeable rows, at most 1."""
        folds = len(self.detectors)
        return min(2 * alpha + 2 * (1 - alpha) * (folds - 1) / (self.rows + folds), 1.0)
