"""P-values smaller than counting allows, by a model of the tail of the scores. Model-based: nothing here is guaranteed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detectors.arrays import Scores
from detectors.calibration import AlphaTooSmall, Calibration, PValues, rows_needed

LEAST_ROWS = 200  # of calibration
LEAST_EXCESSES = 50
EXCESS_SHARE = 10  # one of so many calibration scores lies in the tail that is fitted
REACH = 100  # p-values go down to the smallest counted one divided by this
HEAVIEST = 0.95  # shape from which on the moments of the fit, which exist below 1, are lost


@dataclass(frozen=True, slots=True)
class ParetoTail:
    r"""A generalised Pareto tail beyond the largest calibration score.

    Above a high threshold u the excess of a score over u nearly follows, for almost every law of scores, a generalised Pareto
    law (Balkema and de Haan 1974, Pickands 1975). With k of n calibration scores above u, of shape :math:`\xi` and scale
    :math:`\sigma`,

    .. math:: p(s) = \frac{k + 1}{n + 1} \Bigl(1 + \xi\,\frac{s - u}{\sigma}\Bigr)^{-1/\xi}, \qquad
        p(s) = \frac{k + 1}{n + 1}\, e^{-(s - u)/\sigma} \text{ for } \xi = 0

    **Where it holds.** Up to the largest calibration score the p-value is the counted one, and beyond it the smaller of the
    counted one, 1 / (n + 1), and the model's. So every decision at an alpha of at least 1 / (n + 1) is the same as without
    the tail, with its guarantee; decisions at a smaller alpha rest on the model alone. It is at home with scores of smooth
    tails; it errs where strange but normal rows are of another kind than the rest and too rare to be among the calibration rows. Not
    for a trimmed calibration (``Calibration.of(scores, trim=…)``): with its highest scores cut off it shows no tail, and cannot tell so.

    **Choices.** u is the (k + 1)-th largest score with k = max(50, n / 10). The fit is that of Hosking and Wallis (1987) by
    probability-weighted moments: it always exists, and errs less than maximum likelihood below some 500 excesses. A negative shape,
    under which scores beyond some point are impossible, is replaced by 0 with the mean excess as scale: an end point
    estimated too low would call normal rows impossible. No p-value is below 1 / (100 (n + 1)): no tail is known farther than that.

    >>> calibration = Calibration.of(-np.log(np.arange(1, 1000) / 1000))  # of the exponential law
    >>> tail = ParetoTail.of(calibration)
    >>> scores = np.array([3.0, 8.0, 1e12])
    >>> [f"{p:.2g}" for p in calibration.p_values(scores)], [f"{p:.2g}" for p in tail.p_values(scores)]
    (['0.05', '0.001', '0.001'], ['0.05', '0.00029', '1e-05'])
    >>> [f"{p:.2g}" for p in np.exp(-scores)]
    ['0.05', '0.00034', '0']
    """

    calibration: Calibration
    start: float  # u
    excesses: int  # k
    shape: float  # xi, in [0, 1)
    scale: float  # sigma, in the unit of the scores

    @classmethod
    def of(cls, calibration: Calibration) -> ParetoTail:
        """The tail of a calibration of at least 200 rows. Raises ValueError for fewer, and where the highest scores are all the same."""
        scores = calibration.scores
        if len(scores) < LEAST_ROWS:
            raise ValueError(f"a Pareto tail needs at least {LEAST_ROWS} calibration rows, not {len(scores)}")
        count = max(LEAST_EXCESSES, len(scores) // EXCESS_SHARE)
        start = float(scores[-count - 1])
        excesses = scores[-count:] - start
        largest = float(excesses[-1])
        if not 0 < largest < np.inf:
            raise ValueError(
                f"a Pareto tail needs {count} highest calibration scores that differ by finite amounts, not {start:g} to {scores[-1]:g}"
            )
        shape, scale = _fitted(excesses / largest)
        return cls(calibration, start, count, shape, scale * largest)

    def p_values(self, scores: Scores) -> PValues:
        """P-value (m,) of each score (m,). Cost: O(m log n)."""
        counted = self.calibration.p_values(scores)
        beyond = scores > self.calibration.scores[-1]
        with np.errstate(over="ignore"):
            excess = np.where(beyond, scores - self.start, 0) / self.scale
            exponent = np.log1p(self.shape * excess) / self.shape if self.shape > 0 else excess
        modelled = (self.excesses + 1) / (len(self.calibration.scores) + 1) * np.exp(-exponent)
        return np.where(beyond, np.clip(modelled, self.smallest_p_value, counted), counted)

    def threshold(self, alpha: float) -> float:
        """Score above which the p-value is at most ``alpha``, up to rounding; infinite below ``smallest_p_value``."""
        if alpha >= self.calibration.smallest_p_value:
            return self.calibration.threshold(alpha)
        if alpha < self.smallest_p_value:
            return np.inf
        exponent = np.log((self.excesses + 1) / ((len(self.calibration.scores) + 1) * alpha))
        excess = np.expm1(self.shape * exponent) / self.shape if self.shape > 0 else exponent
        return float(max(self.start + self.scale * excess, self.calibration.scores[-1]))

    @property
    def smallest_p_value(self) -> float:
        """1 / (100 (n + 1))."""
        return self.calibration.smallest_p_value / REACH

    def check_alpha(self, alpha: float) -> None:
        """Raises ``AlphaTooSmall`` if ``alpha`` is below ``smallest_p_value``, and ValueError if it is no positive number."""
        rows_needed(alpha)
        if alpha < self.smallest_p_value:
            rows = len(self.calibration.scores)
            raise AlphaTooSmall(
                alpha, needed=rows_needed(alpha * REACH), rows=rows, smallest=self.smallest_p_value, of=" for a Pareto tail"
            )


def _fitted(excesses: Scores) -> tuple[float, float]:
    """Shape, at least 0, and scale of ascending ``excesses`` (k,), by Hosking and Wallis 1987, section 3.2, with unbiased moments."""
    count = len(excesses)
    mean = float(excesses.mean())
    weighted = float((np.arange(count - 1, -1, -1) / (count - 1)) @ excesses) / count  # of x (1 - F(x))
    gap = mean - 2 * weighted
    if gap <= mean / 2:  # the shape is not positive
        return 0.0, mean
    shape = min(2 - mean / gap, HEAVIEST)
    return shape, mean * (1 - shape)
