"""Gaussian models of features: the Mahalanobis distance, in one level or summed over several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils._param_validation import Interval, StrOptions

from detectors.additive import AdditiveDetector
from detectors.arrays import Attributions, Matrix, Rows, Scores
from detectors.base import NUMBERS
from detectors.covariance import ESTIMATORS, estimated
from detectors.moments import BLOCK_ROWS, Moments
from detectors.norm import VarianceNorm
from detectors.rows import RowError


@dataclass(frozen=True, slots=True)
class GaussianStatistics:
    """Moments of each level; adds up over rows."""

    levels: tuple[Moments, ...]

    def __add__(self, other: GaussianStatistics) -> GaussianStatistics:
        return GaussianStatistics(tuple(a + b for a, b in zip(self.levels, other.levels, strict=True)))

    def __sub__(self, other: GaussianStatistics) -> GaussianStatistics:
        return GaussianStatistics(tuple(a - b for a, b in zip(self.levels, other.levels, strict=True)))

    def __mul__(self, weight: float) -> GaussianStatistics:
        return GaussianStatistics(tuple(moments * weight for moments in self.levels))


@dataclass(frozen=True, slots=True)
class GaussianState:
    levels: tuple[VarianceNorm, ...]  # one norm per level, in the order of the columns
    statistics: GaussianStatistics | None  # what a later update adds to; scoring does without


class Gaussian(AdditiveDetector[GaussianState, GaussianStatistics]):
    r"""Mahalanobis distance of features to the Gaussian of the normal ones.

    With one level (the default) the score is the squared distance

    .. math:: s(x) = (x-\mu)^\top \Sigma^{-1} (x-\mu),

    equal to ``sklearn.covariance.LedoitWolf().fit(X).mahalanobis(x)``. With several ``levels`` it is
    the sum over levels of the distance, **not squared**, of Rippel, Mertens and Merhof (2020,
    "Modeling the Distribution of Normal Data in Pre-Trained Deep Features for Anomaly Detection",
    section 3): :math:`s(x) = \sum_l \sqrt{s_l(x_l)}`. The authors' code takes the mean over levels, which ranks the same.

    It suits features of one mode: embeddings of pre-trained networks above all, fewer rows than
    features included. It does not suit rows in several clusters, nor contaminated normal data.
    One Gaussian over the concatenation of all levels often ranks better than the sum, because it
    sees correlations between levels, and one poor level can sink the sum; hence the default.

    Parameters
    ----------
    covariance : {"ledoit_wolf", "oas", "empirical", "spiked"}, default="ledoit_wolf"
        Estimator of the covariance of each level. With fewer rows than features all but
        "empirical" are of full rank; with that the directions never seen get the variance of the
        rank cut (see ``VarianceNorm``). "spiked" is for a few strong directions in noise of one level.
    levels : sequence of int, optional
        Widths of the levels, in column order, adding up to the number of features.
    normalize : bool, default=False
        Divide each row, level by level, by its Euclidean length first (Mahalanobis++, Müller and
        Hein 2025). A row of length zero is refused.
    reduce : {"pca", "npca"}, optional
        Keep the leading principal components up to and including the one that passes
        ``kept_variance`` ("pca"), or those from one before it to the end ("npca"): the negated PCA
        of Rippel et al., section 3.3, who found the signal in the small components. Both overlap
        in the component that straddles the limit, as in the paper's experiments. With fewer rows
        than features, "npca" keeps the directions never seen as well, where the paper's stops at
        as many components as rows: leaving the span of the data is not to go unnoticed.
    kept_variance : float in (0, 1), default=0.99
        Share of the variance at which ``reduce`` cuts.
    rank_tolerance : float in (0, 1), default=1e-10
        Directions with a smaller share of the largest eigenvalue count as never seen.
    precision : {"float64", "float32"}, default="float64"
        Of the whitening matrix. "float32" halves the size of what scoring needs and takes rows in
        float32 without a copy; scores of rows like those learned err by at most 1e-5 of themselves,
        and where they would not, fitting raises ValueError. Rows are then also multiplied in float32 when they are
        learned, at twice the speed, and the products added up in float64, see ``Moments.of``.
    contamination : float in (0, 0.5], default=0.1
        Share of the training rows that scikit-learn's ``predict`` calls outliers. Scores and
        p-values do not depend on it.

    Notes
    -----
    ``partial_fit`` and ``merge`` are exact, with one exception: Ledoit–Wolf after ``reduce`` needs fourth
    moments of the projected rows, which do not add up before the projection is known, and is refused there; a fit
    in blocks takes a ``second_look`` at all rows for them.
    ``forget`` is exact up to the rounding of the sums with the rows in. Where that leaves fewer than six digits of
    a variance, or, with Ledoit–Wolf, of the sum of fourth powers, it raises ValueError and changes nothing: among 500
    rows it takes out one up to about a million standard deviations away, with Ledoit–Wolf about a thousand.
    Fit: :math:`nd^2 + O(d^3)` floating-point operations; score: :math:`d^2` per row; memory: the data once, in
    the type they come in and in a file if they lie there, :math:`O(d^2)`, and blocks of a few thousand rows.

    Examples
    --------
    >>> import numpy as np
    >>> rows = np.random.default_rng(0).normal(size=(500, 2))
    >>> detector = Gaussian().fit(rows)
    >>> detector.scores([[0, 0], [9, 9]]).round(1)
    array([  0. , 171.9])
    >>> detector.attributions([[3, 0]]).round(1)
    array([[10.,  0.]])
    """

    State = GaussianState
    VARIANTS: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"covariance": "oas"},
        {"covariance": "empirical"},
        {"covariance": "spiked"},
        {"precision": "float32"},
        {"normalize": True},
        {"levels": (1, 3)},
        {"reduce": "pca", "kept_variance": 0.9},
        {"reduce": "npca", "kept_variance": 0.5, "covariance": "oas"},
        {"levels": (2, 2), "normalize": True, "reduce": "npca", "covariance": "empirical"},
    )
    ATTRIBUTION = "additive"
    DTYPES = NUMBERS
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "covariance": [StrOptions(set(ESTIMATORS))],
        "levels": ["array-like", None],
        "normalize": ["boolean"],
        "reduce": [StrOptions({"pca", "npca"}), None],
        "kept_variance": [Interval(Real, 0, 1, closed="neither")],
        "rank_tolerance": [Interval(Real, 0, 1, closed="neither")],
        "precision": [StrOptions({"float64", "float32"})],
        "contamination": [Interval(Real, 0, 0.5, closed="right")],
    }

    def __init__(
        self,
        *,
        covariance: str = "ledoit_wolf",
        levels: Sequence[int] | None = None,
        normalize: bool = False,
        reduce: str | None = None,
        kept_variance: float = 0.99,
        rank_tolerance: float = 1e-10,
        precision: str = "float64",
        contamination: float = 0.1,
    ) -> None:
        self.covariance = covariance
        self.levels = levels
        self.normalize = normalize
        self.reduce = reduce
        self.kept_variance = kept_variance
        self.rank_tolerance = rank_tolerance
        self.precision = precision
        self.contamination = contamination

    def statistics(self, rows: Rows) -> GaussianStatistics:
        parts = self._levels(rows)
        if self.normalize:
            for part in parts:
                check_lengths(part)  # here, where rows have the numbers that the caller knows
        return GaussianStatistics(tuple(Moments.of(part, self._prepared, single=self.precision == "float32") for part in parts))

    def second_look(self, statistics: GaussianStatistics) -> Callable[[Rows], GaussianStatistics] | None:
        if self.reduce is None or self.covariance != "ledoit_wolf":
            return None
        bases = [self._basis(moments) for moments in statistics.levels]

        def projected(basis: Matrix) -> Callable[[Rows], Rows]:
            return lambda block: self._prepared(block) @ basis

        return lambda rows: GaussianStatistics(
            tuple(Moments.of(part, projected(basis)) for part, basis in zip(self._levels(rows), bases, strict=True))
        )

    def conclude(self, statistics: GaussianStatistics, second: GaussianStatistics | None = None) -> GaussianState:
        if self.reduce is not None and self.covariance == "ledoit_wolf" and second is None:
            raise ValueError(
                "covariance='ledoit_wolf' after reduce='pca' or 'npca' cannot be concluded from sums over rows: "
                "use covariance='oas' or 'empirical' with it, or fit on all rows at once"
            )
        looks = second.levels if second else [None] * len(statistics.levels)
        return GaussianState(tuple(map(self._norm, statistics.levels, looks)), statistics)

    def anomaly_scores(self, state: GaussianState, rows: Rows) -> Scores:
        if self.levels is None:
            return state.levels[0].squared(self._prepared(rows))
        return np.asarray(self._distances(state, rows).sum(axis=1))

    def attribute(self, state: GaussianState, rows: Rows) -> Attributions:
        return self._shares(state, rows, VarianceNorm.contributions)

    def level_attributions(self, X: ArrayLike) -> Attributions:
        """Share (n, levels) of each level in the score of each row of ``X`` (n, d): its distance; without ``levels`` the score."""
        rows = self._scorable(X)
        if self.levels is None:
            return self._finite(self.anomaly_scores, rows)[:, None]
        return self._finite_shares(self._distances, rows)

    def component_attributions(self, X: ArrayLike) -> Attributions:
        """Share of each principal component in the score of each row of ``X`` (n, d): level by level, largest variance first.

        Shares are never negative and add up to the score. ``state_.levels[i].components()`` gives the
        variances and directions of level i. Cost: a singular value decomposition per call.
        """
        rows = self._scorable(X)
        return self._finite_shares(lambda state, rows: self._shares(state, rows, VarianceNorm.component_contributions), rows)

    def chi_square_degrees(self, state: GaussianState) -> int | None:
        return state.levels[0].rank if self.levels is None and not self.normalize else None

    def _distances(self, state: GaussianState, rows: Rows) -> Attributions:
        """Distance (n, levels) of each row in each level."""
        parts = zip(state.levels, self._levels(rows), strict=True)
        return np.sqrt(np.stack([norm.squared(self._prepared(part)) for norm, part in parts], axis=1))

    def _shares(self, state: GaussianState, rows: Rows, share: Callable[[VarianceNorm, Rows], Attributions]) -> Attributions:
        parts = zip(state.levels, self._levels(rows), strict=True)
        shares = [share(norm, self._prepared(part)) for norm, part in parts]
        return shares[0] if self.levels is None else np.concatenate([_per_distance(part) for part in shares], axis=1)

    def _levels(self, rows: Rows) -> list[Rows]:
        """The columns of ``rows`` that belong to each level."""
        if self.levels is None:
            return [rows]
        widths = np.asarray(self.levels)
        if widths.dtype.kind != "i" or widths.ndim != 1 or widths.min() < 1 or widths.sum() != rows.shape[1]:
            raise ValueError(
                f"levels={widths.tolist()} must be positive whole numbers that add up to {rows.shape[1]}, the number of features"
            )
        return np.split(rows, np.cumsum(widths)[:-1], axis=1)

    def _prepared(self, rows: Rows) -> Rows:
        return unit_length(rows) if self.normalize else rows

    def _norm(self, moments: Moments, second: Moments | None) -> VarianceNorm:
        """Variance norm of one level; ``second`` are the moments of its projected rows, where they had to be looked at again."""
        basis = None
        if self.reduce is not None:
            basis = self._basis(moments)
            moments = second or _projected(moments, basis)
        mean = moments.mean if basis is None else basis @ moments.mean
        return VarianceNorm.of(
            mean,
            estimated(self.covariance, moments),
            rank_tolerance=self.rank_tolerance,
            basis=basis,
            precision=self.precision,
            directions=moments.count - 1,
        )

    def _basis(self, moments: Moments) -> Matrix:
        """Principal components (d, r) that ``reduce`` keeps, largest variance first."""
        values, vectors = np.linalg.eigh(moments.scatter)
        vectors = vectors[:, ::-1]
        explained = np.cumsum(np.maximum(values[::-1], 0))
        last = int(np.argmax(explained > self.kept_variance * explained[-1]))
        return vectors[:, : last + 1] if self.reduce == "pca" else vectors[:, max(last - 1, 0) :]


def _projected(moments: Moments, basis: Matrix) -> Moments:
    """Count, mean and scatter in the basis, known if each column is; the higher orders cannot be had from sums."""
    scatter = basis.T @ (estimated("empirical", moments) * moments.mass) @ basis
    np.fill_diagonal(scatter, np.maximum(np.diag(scatter), 0))  # which rounding may leave below
    return Moments.of_scatter(moments.count, moments.mean @ basis, scatter, np.diag(scatter), moments.weight, moments.square)


def check_lengths(rows: Rows) -> None:
    """Raise RowError where one of ``rows`` (n, d) has length zero."""
    for start in range(0, len(rows), BLOCK_ROWS):
        empty = ~rows[start : start + BLOCK_ROWS].any(axis=1)
        if empty.any():
            where = start + int(np.argmax(empty))
            raise RowError(where, "has length zero and cannot be normalised: normalize=True needs non-zero rows")


def unit_length(rows: Rows) -> Rows:
    """Each of ``rows`` (n, d) over its Euclidean length, in float64. Raises ValueError for a row of length zero.

    >>> unit_length(np.array([[3.0, 4.0]]))
    array([[0.6, 0.8]])
    """
    check_lengths(rows)
    rows = rows.astype(np.float64, copy=False)
    scaled = rows / np.abs(rows).max(axis=1, keepdims=True)  # the square of the length itself could overflow, or vanish
    return np.asarray(scaled / np.linalg.norm(scaled, axis=1, keepdims=True))


def _per_distance(shares: Attributions) -> Attributions:
    """Shares of a squared distance turned into shares of the distance."""
    distance = np.sqrt(np.maximum(shares.sum(axis=1, keepdims=True), np.finfo(float).tiny))
    return np.asarray(shares / distance)
