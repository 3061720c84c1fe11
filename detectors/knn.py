"""Distance to the k-th nearest normal row."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval

from detectors.arrays import Rows, Scores
from detectors.base import Detector
from detectors.neighbours import nearest


@dataclass(frozen=True, slots=True)
class KNNState:
    points: Rows  # (n, d), the normal rows, scaled as queries are


class KNN(Detector[KNNState]):
    r"""Distance to the k-th nearest normal row (Sun, Ming, Zhu and Li 2022, "Out-of-Distribution Detection with Deep Nearest Neighbors").

    .. math:: s(x) = \|z(x) - z_{(k)}\|_2, \qquad z(x) = x / \|x\|_2

    It suits features of several modes, and is the baseline that others should beat. Its state is the data itself, so that
    size and time grow with the number of rows.

    Parameters
    ----------
    neighbours : int, default=5
        k. With fewer normal rows than this, all of them.
    normalize : bool, default=True
        Divide rows by their Euclidean length first, as the paper does for features of networks. A row of length zero stays
        what it is, at distance 1 from all others. Not for tables, where lengths mean something.
    contamination : float in (0, 0.5], default=0.1
        Share of the training rows that scikit-learn's ``predict`` calls outliers; these find themselves as neighbours.

    Notes
    -----
    Score: :math:`2nd` floating-point operations per row, in blocks; memory: the data.

    >>> import numpy as np
    >>> KNN(neighbours=2, normalize=False).fit([[0.0, 0.0], [0.0, 1.0], [4.0, 0.0]]).scores([[0.0, 0.0], [4.0, 3.0]])
    array([1.        , 4.47213595])
    """

    State = KNNState
    VARIANTS: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"neighbours": 1}, {"normalize": False})
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "neighbours": [Interval(Integral, 1, None, closed="left")],
        "normalize": ["boolean"],
        "contamination": [Interval(Real, 0, 0.5, closed="right")],
    }

    def __init__(self, *, neighbours: int = 5, normalize: bool = True, contamination: float = 0.1) -> None:
        self.neighbours = neighbours
        self.normalize = normalize
        self.contamination = contamination

    def learn(self, rows: Rows) -> KNNState:
        return KNNState(self._scaled(rows).copy())

    def anomaly_scores(self, state: KNNState, rows: Rows) -> Scores:
        distances, _ = nearest(state.points, self._scaled(rows), self.neighbours)
        return distances[:, -1]

    def _scaled(self, rows: Rows) -> Rows:
        if not self.normalize:
            return rows
        largest = np.abs(rows).max(axis=1, keepdims=True)  # first, so that no square leaves the range of float64
        rows = rows / np.where(largest > 0, largest, 1)
        return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(float).tiny))
