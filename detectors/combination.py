"""Several detectors of the same rows, combined into one p-value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from detectors.calibration import AlphaTooSmall, PValues, rows_needed

BLOCK_NUMBERS = 2**20  # calibration rows times new rows that are compared at a time


def merged_p_values(p_values: NDArray[np.float64], by: str = "bonferroni") -> PValues:
    r"""One valid p-value (m,) for each row from ``p_values`` (m, K) of K detectors, however these depend on each other.

    ======================  ==========================================  ====================================================
    ``by``                  p-value, at most 1                          suits
    ======================  ==========================================  ====================================================
    "bonferroni"            K times the smallest                        anomalies that one detector sees clearly
    "harmonic"              :math:`a_K` times the harmonic mean         those that one sees clearly, or several rather well
    "mean"                  twice the mean                              those that all detectors see
    ======================  ==========================================  ====================================================

    with :math:`a_K = (y + K)^2 / ((y + 1) K)` for the solution y of :math:`y^2 = K((y + 1)\ln(y + 1) - y)`, and :math:`a_2 = 2`
    (Vovk and Wang 2020). Each factor is the price of unknown dependence: the smallest possible
    p-value grows by K, by :math:`a_K` or by 2. Where the detectors share their calibration rows, ``CombinedCalibration`` pays none.

    >>> merged_p_values(np.array([[0.01, 0.5, 0.04]])), merged_p_values(np.array([[0.01, 0.5, 0.04]]), "harmonic").round(4)
    (array([0.03]), array([0.0649]))
    """
    if by not in MERGES:
        raise ValueError(f"by={by!r} is unknown; there are {sorted(MERGES)}")
    if p_values.ndim != 2 or p_values.shape[1] == 0 or not ((p_values > 0) & (p_values <= 1)).all():
        raise ValueError(f"p-values (rows, detectors) above 0 and up to 1 are needed, not an array of shape {p_values.shape} with others")
    return np.minimum(MERGES[by](p_values), 1.0) if p_values.shape[1] > 1 else p_values[:, 0]


def _bonferroni(p_values: NDArray[np.float64]) -> PValues:
    return np.asarray(p_values.shape[1] * p_values.min(axis=1))


def _harmonic(p_values: NDArray[np.float64]) -> PValues:
    count = p_values.shape[1]
    factor = 2.0
    if count > 2:
        root = brentq(lambda y: y * y - count * ((y + 1) * np.log1p(y) - y), 1e-3, 10.0 * count**2)
        factor = (root + count) ** 2 / ((root + 1) * count)
    return np.asarray(factor * count / (1 / p_values).sum(axis=1))


def _mean(p_values: NDArray[np.float64]) -> PValues:
    return np.asarray(2 * p_values.mean(axis=1))


MERGES: dict[str, Callable[[NDArray[np.float64]], PValues]] = {"bonferroni": _bonferroni, "harmonic": _harmonic, "mean": _mean}


@dataclass(frozen=True, slots=True)
class CombinedCalibration:
    r"""Conformal calibration of several detectors as one, by their scores of the same ``n`` held-out normal rows.

    The new row is put among the calibration rows. In this pool of n + 1 each row has, for each detector k, a rank
    :math:`r_{ik} = \#\{j : s_{jk} \ge s_{ik}\}` from the top, itself included, and the statistic

    .. math:: t_i = \sum_{k=1}^K \frac{n + 1}{r_{ik}}, \qquad p = \frac{\#\{i : t_i \ge t\}}{n + 1}

    so that a row is strange if one detector has it near the top, and the stranger the more of them do: the order is that of
    the harmonic mean of the K p-values. All rows of the pool are treated alike. Therefore, if the new row is
    exchangeable with the others, :math:`P(p \le \alpha) \le \alpha`, whatever the detectors, their units and their
    dependence, as for one detector: no factor, and no second set of rows. (It is full conformal prediction, Vovk,
    Gammerman and Shafer 2005, with t as nonconformity measure.)

    To merge p-values by some function and to calibrate the result *by the rows that these p-values were counted with* is not
    valid: each of those rows is counted among n rows with itself, and the new one among n + 1. It needs fresh rows.

    P-values of a batch depend on one another in a way for which the guarantee of Benjamini and Hochberg's procedure has not been proven.

    >>> rng = np.random.default_rng(0)
    >>> calibration = CombinedCalibration.of(rng.normal(size=(99, 2)) * [1, 1000])
    >>> calibration.p_values(np.array([[0.0, 0.0], [5.0, 0.0], [2.5, 2500.0]]))
    array([0.62, 0.02, 0.01])
    """

    scores: NDArray[np.float64]  # (n, K), a row's scores side by side
    ranks: NDArray[np.intp]  # (n, K), from the top of the n rows, of equal scores the last

    @classmethod
    def of(cls, scores: NDArray[np.float64]) -> CombinedCalibration:
        """Calibration by ``scores`` (n, K) of n >= 1 held-out normal rows by K >= 1 detectors, finite."""
        if scores.ndim != 2 or scores.size == 0 or not np.isfinite(scores).all():
            raise ValueError(f"a combined calibration needs finite scores (rows, detectors), not shape {scores.shape}")
        ranks = [len(column) - np.searchsorted(np.sort(column), column, side="left") for column in scores.T]
        return cls(np.array(scores, dtype=np.float64), np.column_stack(ranks))

    def p_values(self, scores: NDArray[np.float64]) -> PValues:
        """P-value (m,) of each row's scores (m, K). Cost: O(m n K)."""
        count, width = self.scores.shape
        if scores.ndim != 2 or scores.shape[1] != width:
            raise ValueError(f"scores of {width} detectors are needed, not shape {scores.shape}")
        block = max(1, BLOCK_NUMBERS // count)
        parts = [self._counted(scores[start : start + block]) for start in range(0, len(scores), block)]
        return np.asarray((1 + np.concatenate([*parts, np.empty(0)])) / (1 + count))

    def check_alpha(self, alpha: float) -> None:
        """Raises ``AlphaTooSmall`` if ``alpha`` is below 1 / (n + 1), and ValueError if it is no positive number."""
        count = len(self.scores)
        if (needed := rows_needed(alpha)) > count:
            raise AlphaTooSmall(alpha, needed=needed, rows=count, smallest=1 / (1 + count))

    def _counted(self, scores: NDArray[np.float64]) -> NDArray[np.intp]:
        """Number (m,) of calibration rows whose statistic is at least that of the new row, in the pool of both."""
        count = len(self.scores)
        pooled, own = np.zeros((len(scores), count)), np.zeros(len(scores))
        for new, known, rank in zip(scores.T, self.scores.T, self.ranks.T, strict=True):
            pooled += (count + 1) / (rank + (new[:, None] >= known))
            own += (count + 1) / (1 + (new[:, None] <= known).sum(axis=1))
        return np.asarray((pooled >= own[:, None]).sum(axis=1))
