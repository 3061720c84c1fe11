"""From scores to p-values and decisions, by the scores of normal rows that the detector has not seen."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context
from fractions import Fraction
from functools import lru_cache
from math import ceil, inf, isfinite

import numpy as np
from numpy.typing import NDArray

from detectors.arrays import Scores

PValues = NDArray[np.float64]  # (n,), in (0, 1]

ROUNDING = 4 * np.finfo(np.float64).eps  # relative, of k alpha / m: unequal shares of whole numbers lie farther apart


class AlphaTooSmall(ValueError):
    """No p-value can be as small as the asked-for alpha: with so few calibration rows nothing would ever be an outlier."""

    def __init__(self, alpha: float, *, needed: int, rows: int, smallest: float, of: str = "") -> None:
        allowed = float(Context(prec=3, rounding=ROUND_CEILING).create_decimal(repr(smallest)))
        super().__init__(
            f"alpha={alpha:g} needs at least {needed} calibration rows{of}; there are {rows}, which allow {allowed:g} and more"
        )
        self.alpha, self.needed, self.rows, self.smallest = alpha, needed, rows, smallest


@lru_cache(1024)  # whole numbers of any length are slow, and the same alpha is asked for with every batch
def rows_needed(alpha: float) -> int:
    """Least number n >= 1 of calibration rows of which a p-value can be at most ``alpha``: 1 / (n + 1) <= alpha.

    For one alarm of m rows judged together by their false discovery rate, ask for ``alpha / m``. Raises ValueError for an
    alpha that is not a positive number.

    >>> rows_needed(0.05), rows_needed(0.01), rows_needed(1e-4)
    (19, 99, 9999)
    """
    if not (isfinite(alpha) and alpha > 0):
        raise ValueError(f"alpha must be a positive number, not {alpha}")
    total = ceil(1 / Fraction(alpha))
    # The division of a p-value is rounded: that of the number before may be equal to alpha.
    return max(total - 2 if total > 1 and 1 / (total - 1) <= alpha else total - 1, 1)


@dataclass(frozen=True, slots=True)
class Calibration:
    r"""Split-conformal calibration: scores of ``n`` held-out normal rows, ascending.

    .. math:: p(s) = \frac{1 + \#\{i : s_i \ge s\}}{n + 1}

    If a row is exchangeable with the calibration rows, then :math:`P(p \le \alpha) \le \alpha` for
    every :math:`\alpha` (Vovk, Gammerman and Shafer 2005, proposition 2.8), whatever the detector
    and whatever the distribution. The rows must be held out: scores of the rows that the detector
    was fitted on are too small, and thresholds from them raise far too many alarms.

    **Ties** count against the alarm: a score equal to calibration scores gets the p-value of the lowest of them. The
    rate of false alarms is then at most alpha, and below it where scores repeat; no number is drawn, so that one row
    always has one p-value.

    >>> calibration = Calibration.of(np.arange(1.0, 100.0))
    >>> calibration.p_values(np.array([95.0, 95.5, 1e9]))
    array([0.06, 0.05, 0.01])
    >>> calibration.threshold(0.05)
    95.0
    >>> calibration.check_alpha(0.001)
    Traceback (most recent call last):
    detectors.calibration.AlphaTooSmall: alpha=0.001 needs at least 999 calibration rows; there are 99, which allow 0.01 and more
    """

    scores: Scores  # (n,), ascending

    @classmethod
    def of(cls, scores: Scores, *, trim: float = 0.0) -> Calibration:
        r"""Calibration by ``scores`` (n,) of held-out normal rows, n >= 1, finite, in any order.

        ``trim`` is for rows of which some may be anomalies: the highest :math:`t = \lfloor n \cdot trim \rfloor`
        scores are left out. Of n rows let :math:`n_0` be normal. Then, by counting, as at most t scores are missing above any score,

        .. math:: P(p \le \alpha) \le \frac{t - a + \alpha (n - t + 1)}{n_0 + 1}

        with a the number of anomalies known to outscore the normal rows, and :math:`a = 0` where nothing is known. If all
        anomalies do and t is their number, this is alpha. If t is larger by b, it is
        :math:`\alpha + (1 - \alpha)\, b / (n_0 + 1)`: *more* false alarms than alpha, at every alpha. If t is smaller, the
        rate stays below alpha, and anomalies are missed (as Bashari, Sesia and Romano 2025 find for ``trim=0``).

        >>> Calibration.of(np.arange(1.0, 101.0), trim=0.02).threshold(0.05)
        95.0
        """
        if scores.ndim != 1 or len(scores) == 0 or not np.isfinite(scores).all():
            raise ValueError(f"calibration needs a row of finite scores, not shape {scores.shape}")
        if not 0 <= trim <= 0.5:
            raise ValueError(f"trim must be a share between 0 and 0.5, not {trim}")
        kept = len(scores) - int(len(scores) * trim + 1e-9)
        return cls(np.sort(scores)[:kept])

    def p_values(self, scores: Scores) -> PValues:
        """P-value (m,) of each score (m,). Cost: O(m log n)."""
        return (1 + self.at_least(scores)) / (1 + len(self.scores))

    def threshold(self, alpha: float) -> float:
        """Score above which (strictly) the p-value is at most ``alpha``.

        The ceil((n + 1)(1 - alpha))-th smallest calibration score; infinite if ``alpha`` is below
        ``smallest_p_value``, where no score is an outlier, and minus infinity if it is 1 or more. Cost: O(log n).
        """
        size = len(self.scores)
        # Decided by the same division and comparison as a p-value is, so that both always agree.
        count = bisect_left(range(1, size + 2), True, key=lambda rank: not rank / (1 + size) <= alpha)
        if count == 0:
            return inf
        return float(self.scores[size - count]) if count <= size else -inf

    @property
    def smallest_p_value(self) -> float:
        """1 / (n + 1): no row can be called an outlier at a smaller alpha."""
        return 1 / (1 + len(self.scores))

    def check_alpha(self, alpha: float) -> None:
        """Raises ``AlphaTooSmall`` if ``alpha`` is below ``smallest_p_value``, and ValueError if it is no positive number."""
        if (needed := rows_needed(alpha)) > len(self.scores):
            raise AlphaTooSmall(alpha, needed=needed, rows=len(self.scores), smallest=self.smallest_p_value)

    def at_least(self, scores: Scores) -> NDArray[np.intp]:
        """Number (m,) of calibration scores that are as high as each of ``scores`` (m,), or higher."""
        return len(self.scores) - np.searchsorted(self.scores, scores, side="left")


def outliers(p_values: PValues, alpha: float, *, fdr: bool = False) -> NDArray[np.bool_]:
    """Decision (n,) for each p-value (n,).

    By default each row is judged alone: an outlier if its p-value is at most ``alpha``, so that a
    normal row raises a false alarm with probability at most ``alpha``. With ``fdr`` the batch is
    judged together by Benjamini and Hochberg's procedure (1995): the expected share of false alarms
    *among the alarms* is at most ``alpha`` times the share of normal rows, if the p-values of the
    normal rows are independent, or depend on each other and on the rest *positively* (PRDS,
    Benjamini and Yekutieli 2001). P-values of one ``Calibration`` of continuous scores do (Bates, Candès, Lei,
    Romano and Sesia 2023), given that the rows of the batch are independent. P-values equal to their bound but for rounding count as equal.

    >>> outliers(np.array([0.01, 0.04, 0.5]), 0.05), outliers(np.array([0.01, 0.04, 0.5]), 0.05, fdr=True)
    (array([ True,  True, False]), array([ True, False, False]))
    """
    if fdr:
        limits = np.arange(1, len(p_values) + 1) * alpha / len(p_values) * (1 + ROUNDING)
        passed = np.flatnonzero(np.sort(p_values) <= limits)
        alpha = float(np.sort(p_values)[passed[-1]]) if len(passed) else -np.inf
    decisions: NDArray[np.bool_] = p_values <= alpha
    return decisions
