"""Boundary scores from the weighting vector of a finite metric space."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.spatial.distance import cdist
from sklearn.utils._param_validation import Interval, StrOptions

from detectors.arrays import Matrix, Rows, Scores, Vector
from detectors.base import Detector
from detectors.neighbours import nearest

MERGED_SHARE = 1e-9  # of the typical distance, within which rows are one point
JITTERS = (0.0, 1e-12, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2)  # added to the diagonal, the first that lets it factor
PAIRS_SAMPLED = 2000  # rows whose distances give the median
MAGNITUDE_SCALES = np.linspace(0.1, 10, 30)  # searched for a target magnitude, as in the authors' code
BLOCK_ROWS = 1024
LOCAL_NUMBERS = 2**22  # gaps between neighbours held at a time by the local form
TIE_SHARE = 1e-12  # of its leave-one-out value that a row equal to a fitted one scores


@dataclass(frozen=True, slots=True)
class WeightingState:
    centre: Vector  # (d,)
    spread: Vector  # (d,), standard deviations; 1 where a column never varied
    points: Rows  # (m, d), distinct standardised rows
    t: float  # inverse length at which similarity decays
    jitter: float  # added to the diagonal of Z
    factor: Matrix  # (m, m) lower Cholesky factor of Z; (0, 0) in the local form
    weights: Vector  # (m,), Z w = 1; empty in the local form
    alone: Vector  # (m,), unexplained share of each point by the others; empty in the local form


class Weighting(Detector[WeightingState]):
    r"""How badly the normal rows account for a row, by similarities that decay with distance.

    Bunch, Kline, Dickinson, Bhat and Fung (2020 "Practical applications of metric space magnitude and weighting vectors", 2021 "Weighting
    vectors for machine learning: numerical harmonic analysis applied to boundary detection"). With
    :math:`Z_{ij} = e^{-t\|x_i - x_j\|}`, the weighting :math:`w = Z^{-1}\mathbf 1`, and for a new point
    :math:`z_i = e^{-t\|x - x_i\|}`,

    .. math:: s(x) = 1 - z^\top Z^{-1} z, \qquad r(x) = 1 - z^\top w, \qquad w(x) = r(x) / s(x),

    where w(x) is the weight that the point would get in the set enlarged by it, and s the share of it that the set does not
    explain, in (0, 1]. It suits clean normal data of any shape, several clusters included; with one neighbour s is a
    function of the distance to it. It does not suit contaminated data, where anomalies in pairs explain each other.

    Parameters
    ----------
    measure : {"unexplained", "weight", "absolute_weight", "cumulative"}, default="unexplained"
        s, w, \|w\|, or the share of the fitted weights below w(x), the authors' rule for classes. A row that equals a fitted
        one scores 0 under the first three, plus 1e-12 times its leave-one-out value: they are ranked among themselves.
    scale : {"median", "fixed", "magnitude"}, default="median"
        t is ``scale_value`` over the median distance, ``scale_value`` itself, or the scale of a grid from 0.1 to 10 at which the
        magnitude, the sum of all weights, comes nearest to ``scale_value``.
    scale_value : float, default=3.0
    standardize : bool, default=True
        Columns to mean 0 and standard deviation 1 first.
    exact_rows : int, default=4000
        Up to this many distinct rows Z is factored: :math:`8 m^2` bytes in the state, twice that in the fit. With more rows the
        *local form* is used: s, r and w from the ``neighbours`` nearest points alone. For s its rank correlation with the exact
        score was at least 0.99 with 20 neighbours; w is another, more local, quantity.
    neighbours : int, default=20
    contamination : float in (0, 0.5], default=0.1
        Share of the training rows that scikit-learn's ``predict`` calls outliers, by their leave-one-out scores.

    Notes
    -----
    Fit: :math:`m^3/3` floating-point operations; score: :math:`md + m^2` per row, or in the local form :math:`2md + k^3/3`.

    >>> rows = np.array([[0.0], [1.0], [3.0], [3.5], [7.0]])
    >>> detector = Weighting(scale="fixed", scale_value=1.0, standardize=False).fit(rows)
    >>> detector.scores([[2.0], [10.0], [1.0]]).round(6)
    array([0.761594, 0.997521, 0.      ])
    >>> round(float(detector.state_.weights.sum()), 6)  # the magnitude
    3.410006
    """

    State = WeightingState
    VARIANTS: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"measure": "weight"},
        {"measure": "absolute_weight", "scale": "fixed", "scale_value": 1.0},
        {"measure": "cumulative"},
        {"scale": "magnitude", "scale_value": 20.0},
        {"exact_rows": 8, "neighbours": 5},
        {"standardize": False},
    )
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "measure": [StrOptions({"unexplained", "weight", "absolute_weight", "cumulative"})],
        "scale": [StrOptions({"median", "fixed", "magnitude"})],
        "scale_value": [Interval(Real, 0, None, closed="neither")],
        "standardize": ["boolean"],
        "exact_rows": [Interval(Integral, 1, 20_000, closed="both")],
        "neighbours": [Interval(Integral, 1, None, closed="left")],
        "contamination": [Interval(Real, 0, 0.5, closed="right")],
    }

    def __init__(
        self,
        *,
        measure: str = "unexplained",
        scale: str = "median",
        scale_value: float = 3.0,
        standardize: bool = True,
        exact_rows: int = 4000,
        neighbours: int = 20,
        contamination: float = 0.1,
    ) -> None:
        self.measure = measure
        self.scale = scale
        self.scale_value = scale_value
        self.standardize = standardize
        self.exact_rows = exact_rows
        self.neighbours = neighbours
        self.contamination = contamination

    def learn(self, rows: Rows) -> WeightingState:
        width = rows.shape[1]
        centre, spread = np.zeros(width), np.ones(width)
        if self.standardize:
            centre, spread = rows.mean(axis=0), rows.std(axis=0)
            spread = np.where(spread > 1e-12 * (np.abs(centre) + spread), spread, 1.0)
        points = _distinct((rows - centre) / spread)
        t = self._scale(points)
        if len(points) > self.exact_rows:
            if self.measure == "cumulative":
                raise ValueError(f"measure='cumulative' needs the weights of all {len(points)} points: raise exact_rows")
            return WeightingState(centre, spread, points, t, 0.0, np.empty((0, 0)), np.empty(0), np.empty(0))
        factor, jitter = _factored(np.exp(-t * cdist(points, points)))
        weights = cho_solve((factor, True), np.ones(len(points)))
        inverse = solve_triangular(factor, np.eye(len(factor)), lower=True)
        return WeightingState(centre, spread, points, t, jitter, factor, weights, 1 / np.square(inverse).sum(axis=0))

    def anomaly_scores(self, state: WeightingState, rows: Rows) -> Scores:
        queries = (rows - state.centre) / state.spread
        scores = np.empty(len(rows))
        local = min(self.neighbours, len(state.points)) ** 2 * rows.shape[1]
        step = BLOCK_ROWS if len(state.weights) else max(1, LOCAL_NUMBERS // local)
        for start in range(0, len(rows), step):
            block = slice(start, start + step)
            parts = self._exact(state, queries[block]) if len(state.weights) else self._local(state, queries[block])
            scores[block] = self._chosen(state, *parts)
        return scores

    def _exact(self, state: WeightingState, queries: Rows) -> tuple[Scores, Scores, Scores]:
        """Unexplained share s, residual r, and for queries that are fitted points their leave-one-out share, else NaN."""
        distances = cdist(queries, state.points)
        similarities = np.exp(-state.t * distances)
        solved = solve_triangular(state.factor, similarities.T, lower=True, check_finite=False)
        unexplained = 1 + state.jitter - np.einsum("ij,ij->j", solved, solved)
        nearest_index = distances.argmin(axis=1)
        equal = state.t * distances[np.arange(len(queries)), nearest_index] < MERGED_SHARE
        return unexplained, 1 - similarities @ state.weights, np.where(equal, state.alone[nearest_index], np.nan)

    def _local(self, state: WeightingState, queries: Rows) -> tuple[Scores, Scores, Scores]:
        """The same from the nearest points alone: one small system per query, all solved in one call."""
        distances, indices = nearest(state.points, queries, self.neighbours + 1)
        equal, alone = state.t * distances[:, 0] < MERGED_SHARE, -np.expm1(-2 * state.t * distances[:, 1])
        distances, among = distances[:, : self.neighbours], state.points[indices[:, : self.neighbours]]
        gaps = np.sqrt(np.maximum(np.square(among[:, :, None] - among[:, None]).sum(axis=-1), 0))
        similarity = np.exp(-state.t * gaps) + JITTERS[4] * np.eye(distances.shape[1])
        z = np.exp(-state.t * distances)
        solved = np.linalg.solve(similarity, np.stack([z, np.ones_like(z)], axis=2))
        unexplained, explained = 1 + JITTERS[4] - np.einsum("ij,ij->i", z, solved[:, :, 0]), np.einsum("ij,ij->i", z, solved[:, :, 1])
        return unexplained, 1 - explained, np.where(equal, alone, np.nan)

    def _chosen(self, state: WeightingState, unexplained: Scores, residual: Scores, alone: Scores) -> Scores:
        fitted = ~np.isnan(alone)
        tie = TIE_SHARE * np.where(fitted, alone, 0.0)
        unexplained = np.maximum(unexplained, np.finfo(float).tiny)
        if self.measure == "unexplained":
            return np.where(fitted, tie, unexplained)
        weight = np.where(fitted, tie, residual / unexplained)
        if self.measure == "weight":
            return weight
        if self.measure == "absolute_weight":
            return np.abs(weight)
        return np.searchsorted(np.sort(state.weights), weight, side="left") / len(state.weights) + tie

    def _scale(self, points: Rows) -> float:
        if self.scale == "fixed":
            return float(self.scale_value)
        if self.scale == "median":
            middle = _median_distance(points)
            return self.scale_value / middle if middle > 0 else 1.0
        distances = cdist(points[: self.exact_rows], points[: self.exact_rows])
        magnitudes = [_magnitude(np.exp(-t * distances)) for t in MAGNITUDE_SCALES]
        return float(MAGNITUDE_SCALES[np.argmin(np.abs(np.array(magnitudes) - self.scale_value))])


def _distinct(points: Rows) -> Rows:
    """Points of which no two are nearer than a tiny share of the typical distance, in the order of first appearance."""
    typical = _median_distance(points) or 1.0
    _, first = np.unique(np.round(points / (MERGED_SHARE * typical)), axis=0, return_index=True)
    return points[np.sort(first)]


def _median_distance(points: Rows) -> float:
    """Median distance between the points, or between evenly spaced ones of them where there are many."""
    if len(points) < 2:
        return 0.0
    some = points[np.linspace(0, len(points) - 1, min(len(points), PAIRS_SAMPLED)).astype(int)]
    distances = cdist(some, some)
    return float(np.median(distances[np.triu_indices(len(some), 1)]))


def _factored(similarity: Matrix) -> tuple[Matrix, float]:
    """Lower Cholesky factor, and what had to be added to the diagonal for it to exist."""
    for jitter in JITTERS:
        similarity[np.diag_indices_from(similarity)] = 1 + jitter
        try:
            return cholesky(similarity, lower=True), jitter
        except np.linalg.LinAlgError:
            continue
    raise ValueError("the similarities cannot be factored: the rows lie too close together at this scale")


def _magnitude(similarity: Matrix) -> float:
    factor, _ = _factored(similarity)
    return float(cho_solve((factor, True), np.ones(len(factor))).sum())
