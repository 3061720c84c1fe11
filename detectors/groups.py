"""P-values within groups of rows, such as the classes of products: a calibration for each group."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detectors.arrays import Scores
from detectors.calibration import AlphaTooSmall, Calibration, PValues, rows_needed
from detectors.labels import Labels, checked


@dataclass(frozen=True, slots=True)
class GroupedCalibration:
    r"""Mondrian conformal calibration (Vovk, Lindsay, Nouretdinov and Gammerman 2003): each row is judged within its own group.

    .. math:: p(s, g) = \frac{1 + \#\{i : g_i = g,\ s_i \ge s\}}{n_g + 1}

    :math:`P(p \le \alpha \mid g) \le \alpha` in *every* group, where one calibration for all keeps the rate on average alone: groups
    that score high by nature then raise most of the false alarms. The group is given from outside, or it is a function of the
    row, found before any calibration and applied to the calibration rows too, such as ``ClassGaussian.nearest_class``. The price: an
    alpha needs 1 / alpha - 1 calibration rows in each group. A group without calibration rows has no p-values: it is refused.

    >>> scores, groups = np.concatenate([np.arange(1.0, 20), np.arange(101.0, 120)]), ["a"] * 19 + ["b"] * 19
    >>> calibration = GroupedCalibration.of(scores, groups)
    >>> calibration.p_values(np.array([50.0, 110.0]), ["a", "b"]).round(2), calibration.thresholds(0.05)
    (array([0.05, 0.55]), array([ 19., 119.]))
    """

    groups: Labels  # (g,), ascending
    calibrations: tuple[Calibration, ...]  # one per group

    @classmethod
    def of(cls, scores: Scores, groups: ArrayLike) -> GroupedCalibration:
        """Calibration by ``scores`` (n,) of held-out normal rows and the group (n,) of each, text or whole numbers."""
        labels = checked(groups, len(scores), "a calibration by groups")
        names = np.unique(labels)
        return cls(names, tuple(Calibration.of(scores[labels == name]) for name in names))

    def p_values(self, scores: Scores, groups: ArrayLike) -> PValues:
        """P-value (m,) of each score (m,) within its group (m,). Raises ValueError for a group without calibration rows."""
        chosen = self._indices(groups, len(scores))
        p_values = np.empty(len(scores))
        for index in np.unique(chosen):
            members = chosen == index
            p_values[members] = self.calibrations[index].p_values(scores[members])
        return p_values

    def thresholds(self, alpha: float) -> Scores:
        """Score (g,) above which (strictly) the p-value is at most ``alpha``, for each of ``groups``."""
        return np.array([calibration.threshold(alpha) for calibration in self.calibrations])

    def check_alpha(self, alpha: float) -> None:
        """Raises ``AlphaTooSmall``, naming the smallest group, if that has too few calibration rows for ``alpha``."""
        needed, counts = rows_needed(alpha), [len(calibration.scores) for calibration in self.calibrations]
        least = int(np.argmin(counts))
        if needed > counts[least]:
            smallest = self.calibrations[least].smallest_p_value
            raise AlphaTooSmall(alpha, needed=needed, rows=counts[least], smallest=smallest, of=f" in class {self.groups[least].item()!r}")

    def _indices(self, groups: ArrayLike, count: int) -> NDArray[np.intp]:
        labels = checked(groups, count, "a calibration by groups")
        unknown = ~np.isin(labels, self.groups)
        if unknown.any():
            row = int(np.argmax(unknown))
            raise ValueError(
                f"row {row} is of class {labels[row].item()!r}, which has no calibration rows; there are {self.groups.tolist()}"
            )
        return np.searchsorted(self.groups, labels)
