"""Boundary scores from the weighting vector of a finite metric space."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist
from sklearn.utils._param_validation import Interval, StrOptions

from detectors import given, metrics, similarity, sparse_precision
from detectors.agreement import rank_correlation
from detectors.arrays import Floats, Rows, Scores, Vector
from detectors.base import Detector
from detectors.boundary import CHECKED_ROWS, WeightingState, check_factor, check_points, distances_to, parts, searched
from detectors.cells import Cells
from detectors.neighbours import Distances
from detectors.subsets import apart, distinct, farthest, median_distance, middle

MERGED_SHARE = 1e-9  # of the typical distance, within which rows are one point
MAGNITUDE_SCALES = np.linspace(0.1, 10, 30)  # searched for a target magnitude, as in the authors' code
TIE_SHARE = 1e-12  # of its weight that is added to a share of smaller weights
CONSTANT_SHARE = 1e-14  # of its mean that the standard deviation of a column is taken to be rounding
FARTHEST = 1e15  # standard deviations, beyond which a coordinate is cut so that its square stays in range


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
        s, w, \|w\|, or the share of the fitted weights below w(x), the authors' rule for classes; equal shares differ by 1e-12 w(x).
        A row that equals a fitted one scores 0 under each. There r = s = 0, and w(x) has no limit: the mean over the directions from
        which x may come is w_i / 2, which would call a repeated row of the boundary stranger than a new one inside.
    scale : {"median", "fixed", "magnitude"}, default="median"
        t is ``scale_value`` over the median distance, ``scale_value`` itself, or the scale of a grid from 0.1 to 10 at which the
        magnitude, the sum of all weights, comes nearest to ``scale_value``.
    scale_value : float, default=3.0
    standardize : bool, default=True
        Columns to mean 0 and standard deviation 1 first. A column that never varied keeps its unit.
    metric : str, default="euclidean"
        Or another distance of ``scipy.spatial.distance.cdist``, see ``metrics``: rows to which it does not apply raise ValueError. Or
        "precomputed": ``fit`` then takes the distances (n, n) among n things of any kind, ``scores`` those (m, n) of m others to all of
        them. Or "similarity": the same with similarities from 0 to 1 that are used as they are, without t. ``similarity.between`` makes
        either matrix from a function. One that is not positive definite is refused.
    exact_rows : int, default=4000
        Up to this many distinct rows, at most 20 000, Z is factored: :math:`8 m^2` bytes in the state (3.2 GB for 20 000 rows) and less
        than 2.5 times that in the fit. With more rows ``approximation`` is used, which metrics other than the Euclidean do not have:
        ValueError.
    approximation : {"local", "global_weights", "subset"}, default="local"
        s, r and w from the ``neighbours`` nearest points alone; or s as there and r by the weights of all points, which conjugate gradients
        find, for up to 200 000 points; or the exact form on ``exact_rows`` points, each the farthest from those taken before. Local w is
        another, more local, quantity than w.
    neighbours : int, default=20
    indexed_rows : int, default=10000
        Beyond this many points neighbours are searched in cells, approximately (see ``Cells``).
    precision : {"float64", "float32"}, default="float64"
        Of the points and the factor that the state holds. Fitting raises ValueError where rounding them to float32 moves shares by more
        than 0.1 % of the smaller leave-one-out ones, as happens with rows very close together.
    random_state : int, default=0
        Seed of the cells and of the order in which conjugate gradients are preconditioned.
    contamination : float in (0, 0.5], default=0.1
        Share of the training rows that scikit-learn's ``predict`` calls outliers, by their leave-one-out scores.

    Notes
    -----
    ``training_scores`` are scores with each row left out, in closed form: s is :math:`1/(Z^{-1})_{ii}` and w(x) the row's own weight.
    Attributions are by leaving one feature out: it takes its value in the nearest point. Fit: :math:`2m^3/3` floating-point operations;
    score: :math:`md + m^2` per row, or in the local form a search and :math:`k^2d + k^3/3`.

    >>> rows = np.array([[0.0], [1.0], [3.0], [3.5], [7.0]])
    >>> detector = Weighting(scale="fixed", scale_value=1.0, standardize=False).fit(rows)
    >>> detector.scores([[2.0], [10.0], [1.0]]).round(6)
    array([0.761594, 0.997521, 0.      ])
    >>> round(float(detector.state_.weights.sum()), 6)  # the magnitude
    3.410006
    >>> steps = [[0, 1, 2, 3], [1, 0, 1, 2], [2, 1, 0, 1], [3, 2, 1, 0]]  # along a path of four nodes
    >>> Weighting(metric="precomputed").fit(steps).scores([[1, 2, 3, 4], [5, 6, 7, 8]]).round(6)
    array([0.981684, 1.      ])
    """

    State = WeightingState
    VARIANTS: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"measure": "weight"},
        {"measure": "absolute_weight", "scale": "fixed", "scale_value": 1.0},
        {"measure": "cumulative"},
        {"scale": "magnitude", "scale_value": 20.0},
        {"exact_rows": 8, "neighbours": 5},
        {"exact_rows": 8, "neighbours": 5, "indexed_rows": 10},
        {"exact_rows": 8, "approximation": "subset"},
        {"precision": "float32"},
        {"standardize": False},
        {"metric": "cityblock"},
    )
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "measure": [StrOptions({"unexplained", "weight", "absolute_weight", "cumulative"})],
        "scale": [StrOptions({"median", "fixed", "magnitude"})],
        "scale_value": [Interval(Real, 0, None, closed="neither")],
        "standardize": ["boolean"],
        "metric": [StrOptions({*metrics.DEFINED, *metrics.NEEDS, *given.FORMS})],
        "exact_rows": [Interval(Integral, 1, 20_000, closed="both")],
        "approximation": [StrOptions({"local", "global_weights", "subset"})],
        "neighbours": [Interval(Integral, 1, None, closed="left")],
        "indexed_rows": [Interval(Integral, 1, None, closed="left")],
        "precision": [StrOptions({"float64", "float32"})],
        "random_state": [Interval(Integral, 0, None, closed="left")],
        "contamination": [Interval(Real, 0, 0.5, closed="right")],
    }

    def __init__(
        self,
        *,
        measure: str = "unexplained",
        scale: str = "median",
        scale_value: float = 3.0,
        standardize: bool = True,
        metric: str = "euclidean",
        exact_rows: int = 4000,
        approximation: str = "local",
        neighbours: int = 20,
        indexed_rows: int = 10_000,
        precision: str = "float64",
        random_state: int = 0,
        contamination: float = 0.1,
    ) -> None:
        self.measure = measure
        self.scale = scale
        self.scale_value = scale_value
        self.standardize = standardize
        self.metric = metric
        self.exact_rows = exact_rows
        self.approximation = approximation
        self.neighbours = neighbours
        self.indexed_rows = indexed_rows
        self.precision = precision
        self.random_state = random_state
        self.contamination = contamination

    def learn(self, rows: Rows) -> WeightingState:
        centre, spread = self._standard(rows)
        if self.metric != "euclidean":
            return self._learn_by_distances(rows, centre, spread)
        whole = (rows - centre) / spread
        points: Floats = whole
        if self.precision == "float32":
            points = whole.astype(np.float32)
            check_points(whole, points)
        kept, equal = distinct(points, 0.0)
        typical = median_distance(points[kept])
        radius = MERGED_SHARE * (typical or 1.0)
        merged, near = distinct(points[kept], radius)
        points, repeated = points[kept[merged]], np.maximum(equal[merged], near)
        if len(points) > self.exact_rows:
            if self.approximation != "subset":
                return self._learn_locally(points, repeated, centre, spread, typical, radius)
            taken = farthest(points, self.exact_rows)
            points, repeated = points[taken], repeated[taken]
        return self._solved(points, repeated, cdist(points, points), centre, spread, typical, radius)

    def _learn_by_distances(self, rows: Rows, centre: Vector, spread: Vector) -> WeightingState:
        if len(rows) > self.exact_rows:
            raise ValueError(
                f"metric={self.metric!r} needs all distances among {len(rows)} rows: raise exact_rows to that, at most to 20000"
            )
        if self.metric in given.FORMS:
            distances, points = given.among(rows, self.metric), np.arange(len(rows), dtype=float)[:, None]
        else:
            points = (rows - centre) / spread
            distances = metrics.distances(points, points, self.metric)
        typical = middle(distances)
        radius = MERGED_SHARE * (typical or 1.0)
        kept, repeated = apart(distances, radius)
        return self._solved(points[kept], repeated, distances[np.ix_(kept, kept)], centre, spread, typical, radius)

    def _learn_locally(
        self, points: Floats, repeated: Vector, centre: Vector, spread: Vector, typical: float, radius: float
    ) -> WeightingState:
        if self.scale == "magnitude" or (self.measure == "cumulative" and self.approximation == "local"):
            what = "scale='magnitude'" if self.scale == "magnitude" else "measure='cumulative'"
            raise ValueError(f"{what} needs the weights of all {len(points)} points: raise exact_rows, or choose another approximation")
        t, cells, weights = self._scale(typical, None), None, np.empty(0)
        if len(points) > self.indexed_rows:
            order, cells = Cells.divided(points, self.random_state)
            points, repeated = points[order], repeated[order]
        if self.approximation == "global_weights":
            weights = sparse_precision.weights(points, t, self.neighbours, self.random_state)
        return WeightingState(centre, spread, points, repeated, t, radius, 0.0, np.empty((0, 0)), weights, np.empty(0), cells)

    def _solved(
        self, points: Floats, repeated: Vector, distances: Distances, centre: Vector, spread: Vector, typical: float, radius: float
    ) -> WeightingState:
        t = self._scale(typical, distances)
        some = distances[np.linspace(0, len(points) - 1, min(len(points), CHECKED_ROWS)).astype(np.intp)]
        similarities = np.exp(np.multiply(distances, -t, out=distances), out=distances)  # in place, as is the factor: the one large matrix
        exact, jitter = similarity.factored(similarities)
        weights, alone = similarity.weights(exact), similarity.shares_of_others(exact)
        factor: Floats = exact
        if self.precision == "float32":
            factor = exact.astype(np.float32)
            check_factor(factor, jitter, np.exp(-t * some), alone)
        return WeightingState(centre, spread, points, repeated, t, radius, jitter, factor, weights, alone, None)

    def anomaly_scores(self, state: WeightingState, rows: Rows) -> Scores:
        return self._scores(state, rows, left_out=False)

    def training_scores(self, state: WeightingState, rows: Rows) -> Scores:
        """Scores (n,) of ``rows``, each that was fitted judged by the others alone, from the weights and the diagonal of Z⁻¹.

        A row that was fitted twice is explained by its twin. The share of smaller weights is among all fitted weights, its own
        included. With a subset, rows that are not in it get their plain scores.
        """
        return self._scores(state, rows, left_out=True)

    def score_samples(self, X: ArrayLike) -> Scores:
        """The scores negated, those of fitted rows with the row left out: so that ``predict`` is for fitted and fresh rows alike."""
        return -self._finite(self.training_scores, self._scorable(X))

    def facts(self, state: WeightingState) -> dict[str, float]:
        """Number of distinct points, t, and of the exact form the ``jitter`` that Z took to be factored, of another how alike they rank."""
        told = {"points": len(state.points), "t": state.t}
        if len(state.factor):
            return told | {"jitter": state.jitter}
        return told | rank_correlation(self, {"exact_rows": 1}, {"exact_rows": 20_000}, state.points, self.random_state)

    def baseline(self, state: WeightingState, rows: Rows) -> Rows:
        """The nearest fitted point (n, d) to each row, in the units of the rows. Raises ValueError where a matrix was given."""
        if self.metric in given.FORMS:
            raise ValueError(f"metric={self.metric!r} knows no features, only distances or similarities: there is nothing to attribute to")
        queries = self._prepared(rows, state.centre, state.spread)
        if self.metric == "euclidean":
            index = searched(state, queries, 1)[1][:, 0]
        else:
            index = distances_to(state, queries, self.metric).argmin(axis=1)
        return np.asarray(state.points[index] * state.spread + state.centre)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = self.metric in given.FORMS
        return tags

    def _scores(self, state: WeightingState, rows: Rows, *, left_out: bool) -> Scores:
        found = parts(state, self._prepared(rows, state.centre, state.spread), self.metric, self.neighbours, left_out=left_out)
        tied = found.which >= 0
        unexplained, weight = found.unexplained, found.weight
        if left_out:
            single = tied & (state.repeated[found.which] == 0)
            unexplained = np.where(single, found.others_unexplained, unexplained)
            weight = np.where(single, found.others_weight, weight)
            tied &= ~single
        return np.where(tied, 0.0, self._measured(state, unexplained, weight))

    def _measured(self, state: WeightingState, unexplained: Scores, weight: Scores) -> Scores:
        if self.measure == "unexplained":
            return unexplained
        if self.measure == "weight":
            return weight
        if self.measure == "absolute_weight":
            return np.abs(weight)
        return np.searchsorted(np.sort(state.weights), weight, side="left") / len(state.weights) + TIE_SHARE * weight

    def _standard(self, rows: Rows) -> tuple[Vector, Vector]:
        """Mean and standard deviation of each column, taken about the first row; 0 and 1 where nothing is standardised."""
        if self.metric in given.FORMS or not self.standardize:
            return np.zeros(rows.shape[1]), np.ones(rows.shape[1])
        moved = rows - rows[0]
        centre, spread = rows[0] + moved.mean(axis=0), moved.std(axis=0)
        return centre, np.where(spread > CONSTANT_SHARE * np.abs(centre), spread, 1.0)

    def _prepared(self, rows: Rows, centre: Vector, spread: Vector) -> Rows:
        """Rows as the points are, in the precision of those, and back in float64."""
        standardised = (rows - centre) / spread
        if self.precision == "float64":
            return np.asarray(standardised)
        return np.clip(standardised, -FARTHEST, FARTHEST).astype(np.float32).astype(np.float64)

    def _scale(self, typical: float, distances: Distances | None) -> float:
        if self.metric == "similarity":
            return 1.0
        if self.scale == "fixed":
            return float(self.scale_value)
        if distances is None or self.scale == "median":
            return self.scale_value / typical if typical > 0 else 1.0
        magnitudes = [similarity.weights(similarity.factored(np.exp(-t * distances))[0]).sum() for t in MAGNITUDE_SCALES]
        return float(MAGNITUDE_SCALES[np.argmin(np.abs(np.array(magnitudes) - self.scale_value))])
