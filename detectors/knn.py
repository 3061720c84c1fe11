"""Distance to the k-th nearest normal row."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils._param_validation import Interval

from detectors.agreement import ASKED, relative_errors, sample
from detectors.arrays import Attributions, Rows, Scores
from detectors.base import Detector
from detectors.cells import Cells
from detectors.neighbours import Distances, Indices, nearest


@dataclass(frozen=True, slots=True)
class KNNState:
    points: Rows  # (n, d), the normal rows, scaled as queries are
    cells: Cells | None  # by which the nearest of many points are searched


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
    indexed_rows : int, default=10000
        Beyond this many normal rows neighbours are searched in cells, approximately (see ``Cells``); ``facts`` says how nearly.
    random_state : int, default=0
        Seed of the cells.
    contamination : float in (0, 0.5], default=0.1
        Share of the training rows that scikit-learn's ``predict`` calls outliers, by the distance to the k-th nearest *other* row.

    Notes
    -----
    Attributions are each feature's part of the squared distance to the k-th nearest row, over that distance: they add up to the score.
    With ``normalize`` they are those of the scaled rows. Score: :math:`2nd` floating-point operations per row, in blocks; memory: the data.

    >>> import numpy as np
    >>> KNN(neighbours=2, normalize=False).fit([[0.0, 0.0], [0.0, 1.0], [4.0, 0.0]]).scores([[0.0, 0.0], [4.0, 3.0]])
    array([1.        , 4.47213595])
    """

    State = KNNState
    ATTRIBUTION = "additive"
    VARIANTS: ClassVar[tuple[dict[str, Any], ...]] = ({}, {"neighbours": 1}, {"normalize": False}, {"indexed_rows": 10, "normalize": False})
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "neighbours": [Interval(Integral, 1, None, closed="left")],
        "normalize": ["boolean"],
        "indexed_rows": [Interval(Integral, 1, None, closed="left")],
        "random_state": [Interval(Integral, 0, None, closed="left")],
        "contamination": [Interval(Real, 0, 0.5, closed="right")],
    }

    def __init__(
        self, *, neighbours: int = 5, normalize: bool = True, indexed_rows: int = 10_000, random_state: int = 0, contamination: float = 0.1
    ) -> None:
        self.neighbours = neighbours
        self.normalize = normalize
        self.indexed_rows = indexed_rows
        self.random_state = random_state
        self.contamination = contamination

    def learn(self, rows: Rows) -> KNNState:
        points = self._scaled(rows)
        if len(points) <= self.indexed_rows:
            return KNNState(points.copy(), None)
        order, cells = Cells.divided(points, self.random_state)
        return KNNState(points[order], cells)

    def anomaly_scores(self, state: KNNState, rows: Rows) -> Scores:
        return self._searched(state, self._scaled(rows), self.neighbours)[0][:, -1]

    def training_scores(self, state: KNNState, rows: Rows) -> Scores:
        """Distance (n,) to the k-th nearest other row: a row that was fitted does not find itself."""
        distances, _ = self._searched(state, self._scaled(rows), self.neighbours + 1)
        farthest, fresh = distances[:, -1], distances[:, 0] > 0
        return np.where(fresh, distances[:, : self.neighbours][:, -1], farthest)

    def score_samples(self, X: ArrayLike) -> Scores:
        """The scores negated, those of fitted rows with the row left out: so that ``predict`` is for fitted and fresh rows alike."""
        return -self._finite(self.training_scores, self._scorable(X))

    def facts(self, state: KNNState) -> dict[str, float]:
        """Where neighbours are searched in cells, how far the scores of some of the rows are from those of an exact search."""
        if state.cells is None:
            return {}
        asked: Rows = sample(state.points, ASKED, self.random_state)
        found, exact = self._searched(state, asked, self.neighbours + 1)[0], nearest(state.points, asked, self.neighbours + 1)[0]
        return {"cells": len(state.cells.centres), **relative_errors(found[:, -1], exact[:, -1])}

    def attribute(self, state: KNNState, rows: Rows) -> Attributions:
        scaled = self._scaled(rows)
        distances, indices = self._searched(state, scaled, self.neighbours)
        gaps = scaled - state.points[indices[:, -1]]
        return np.asarray(gaps * (gaps / np.maximum(distances[:, -1:], np.finfo(float).tiny)))

    def _searched(self, state: KNNState, queries: Rows, count: int) -> tuple[Distances, Indices]:
        if state.cells is not None:
            return state.cells.searched(state.points, queries, count)
        return nearest(state.points, queries, count)

    def _scaled(self, rows: Rows) -> Rows:
        if not self.normalize:
            return rows
        largest = np.abs(rows).max(axis=1, keepdims=True)  # first, so that no square leaves the range of float64
        rows = rows / np.where(largest > 0, largest, 1)
        return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(float).tiny))
