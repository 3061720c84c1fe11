"""From scores to p-values and decisions, by the scores of normal rows that the detector has not seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from detectors.arrays import Scores

PValues = NDArray[np.float64]  # (n,), in (0, 1]


@dataclass(frozen=True, slots=True)
class Calibration:
    r"""Split-conformal calibration: scores of ``n`` held-out normal rows, ascending.

    .. math:: p(s) = \frac{1 + \#\{i : s_i \ge s\}}{n + 1}

    If a row is exchangeable with the calibration rows, then :math:`P(p \le \alpha) \le \alpha` for
    every :math:`\alpha` (Vovk, Gammerman and Shafer 2005, proposition 2.8), whatever the detector
    and whatever the distribution. The rows must be held out: scores of the rows that the detector
    was fitted on are too small, and thresholds from them raise far too many alarms.

    >>> calibration = Calibration.of(np.arange(1.0, 100.0))
    >>> calibration.p_values(np.array([95.0, 95.5, 1e9]))
    array([0.06, 0.05, 0.01])
    >>> calibration.threshold(0.05)
    95.0
    """

    scores: Scores  # (n,), ascending

    @classmethod
    def of(cls, scores: Scores) -> Calibration:
        """Calibration by ``scores`` (n,) of held-out normal rows, n >= 1, finite, in any order."""
        if scores.ndim != 1 or len(scores) == 0 or not np.isfinite(scores).all():
            raise ValueError(f"calibration needs a row of finite scores, not shape {scores.shape}")
        return cls(np.sort(scores))

    def p_values(self, scores: Scores) -> PValues:
        """P-value (m,) of each score (m,). Cost: O(m log n)."""
        return (1 + self._at_least(scores)) / (1 + len(self.scores))

    def threshold(self, alpha: float) -> float:
        """Score above which (strictly) the p-value is at most ``alpha``.

        The ceil((n + 1)(1 - alpha))-th smallest calibration score; infinite if ``alpha`` is below
        ``smallest_p_value``, where no score is an outlier, and minus infinity if it is 1 or more.
        """
        size = len(self.scores)
        # Decided by the same division and comparison as a p-value is, so that both always agree.
        count = int((np.arange(1, size + 2) / (1 + size) <= alpha).sum())
        bounds = np.concatenate([[-np.inf], self.scores, [np.inf]])
        return float(bounds[size + 1 - count])

    @property
    def smallest_p_value(self) -> float:
        """1 / (n + 1): no row can be called an outlier at a smaller alpha."""
        return 1 / (1 + len(self.scores))

    def _at_least(self, scores: Scores) -> NDArray[np.intp]:
        return len(self.scores) - np.searchsorted(self.scores, scores, side="left")


def outliers(p_values: PValues, alpha: float, *, fdr: bool = False) -> NDArray[np.bool_]:
    """Decision (n,) for each p-value (n,).

    By default each row is judged alone: an outlier if its p-value is at most ``alpha``, so that a
    normal row raises a false alarm with probability at most ``alpha``. With ``fdr`` the batch is
    judged together by Benjamini and Hochberg's procedure (1995): the expected share of false alarms
    *among the alarms* is at most ``alpha``, also for the dependent p-values of one calibration set
    (Bates et al. 2023).

    >>> outliers(np.array([0.01, 0.04, 0.5]), 0.05), outliers(np.array([0.01, 0.04, 0.5]), 0.05, fdr=True)
    (array([ True,  True, False]), array([ True, False, False]))
    """
    judged = false_discovery_control(p_values) if fdr and len(p_values) else p_values
    decisions: NDArray[np.bool_] = judged <= alpha
    return decisions
