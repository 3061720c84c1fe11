"""Gaussian models of features: the Mahalanobis distance, in one level or summed over several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions

from detectors.arrays import Attributions, Matrix, Rows, Scores
from detectors.base import AdditiveDetector
from detectors.covariance import ESTIMATORS
from detectors.moments import Moments
from detectors.norm import VarianceNorm


@dataclass(frozen=True, slots=True)
class GaussianStatistics:
    """Moments of each level; adds up over rows."""

    levels: tuple[Moments, ...]

    def __add__(self, other: GaussianStatistics) -> GaussianStatistics:
        return GaussianStatistics(tuple(a + b for a, b in zip(self.levels, other.levels, strict=True)))

    def __sub__(self, other: GaussianStatistics) -> GaussianStatistics:
        return GaussianStatistics(tuple(a - b for a, b in zip(self.levels, other.levels, strict=True)))


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
    section 3): :math:`s(x) = \sum_l \sqrt{s_l(x_l)}`.

    It suits features of one mode: embeddings of pre-trained networks above all, fewer rows than
    features included. It does not suit rows in several clusters, nor contaminated normal data.
    One Gaussian over the concatenation of all levels often ranks better than the sum, because it
    sees correlations between levels, and one poor level can sink the sum; hence the default.

    Parameters
    ----------
    covariance : {"ledoit_wolf", "oas", "empirical"}, default="ledoit_wolf"
        Estimator of the covariance of each level. Only the first two are of full rank with fewer
        rows than features; with "empirical" the directions never seen get the variance of the
        rank cut (see ``VarianceNorm``).
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
    contamination : float in (0, 0.5], default=0.1
        Share of the training rows that scikit-learn's ``predict`` calls outliers. Scores and
        p-values do not depend on it.

    Notes
    -----
    ``partial_fit``, ``merge`` and ``forget`` are exact, with one exception: Ledoit–Wolf after
    ``reduce`` needs fourth moments of the projected rows, which do not add up before the
    projection is known, and is refused there.
    Fit: :math:`2nd^2 + O(d^3)` floating-point operations; score: :math:`2d^2` per row; memory: the data once,
    :math:`O(d^2)`, and blocks of a few thousand rows.

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
        {"normalize": True},
        {"levels": (1, 3)},
        {"reduce": "pca", "kept_variance": 0.9},
        {"reduce": "npca", "kept_variance": 0.5, "covariance": "oas"},
        {"levels": (2, 2), "normalize": True, "reduce": "npca", "covariance": "empirical"},
    )
    ATTRIBUTION = "additive"
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "covariance": [StrOptions(set(ESTIMATORS))],
        "levels": ["array-like", None],
        "normalize": ["boolean"],
        "reduce": [StrOptions({"pca", "npca"}), None],
        "kept_variance": [Interval(Real, 0, 1, closed="neither")],
        "rank_tolerance": [Interval(Real, 0, 1, closed="neither")],
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
        contamination: float = 0.1,
    ) -> None:
        self.covariance = covariance
        self.levels = levels
        self.normalize = normalize
        self.reduce = reduce
        self.kept_variance = kept_variance
        self.rank_tolerance = rank_tolerance
        self.contamination = contamination

    def learn(self, rows: Rows) -> GaussianState:
        parts = self._split(rows)
        moments = tuple(Moments.of(part) for part in parts)
        norms = tuple(self._norm(m, part) for m, part in zip(moments, parts, strict=True))
        return GaussianState(norms, GaussianStatistics(moments))

    def statistics(self, rows: Rows) -> GaussianStatistics:
        return GaussianStatistics(tuple(Moments.of(part) for part in self._split(rows)))

    def conclude(self, statistics: GaussianStatistics) -> GaussianState:
        if self.reduce is not None and self.covariance == "ledoit_wolf":
            raise ValueError(
                "covariance='ledoit_wolf' after reduce='pca' or 'npca' cannot be concluded from sums over rows: "
                "use covariance='oas' or 'empirical' with it, or fit on all rows at once"
            )
        return GaussianState(tuple(self._norm(moments, None) for moments in statistics.levels), statistics)

    def anomaly_scores(self, state: GaussianState, rows: Rows) -> Scores:
        squared = [norm.squared(part) for norm, part in zip(state.levels, self._split(rows), strict=True)]
        if self.levels is None:
            return squared[0]
        return np.asarray(np.sqrt(squared).sum(axis=0))

    def attribute(self, state: GaussianState, rows: Rows) -> Attributions:
        parts = self._split(rows)
        shares = [norm.contributions(part) for norm, part in zip(state.levels, parts, strict=True)]
        if self.levels is None:
            return shares[0]
        return np.concatenate([_per_distance(share) for share in shares], axis=1)

    def _split(self, rows: Rows) -> list[Rows]:
        """Rows cut into levels, each scaled to unit length where asked for."""
        parts = [rows]
        if self.levels is not None:
            widths = np.asarray(self.levels)
            if widths.dtype.kind != "i" or widths.ndim != 1 or widths.min() < 1 or widths.sum() != rows.shape[1]:
                raise ValueError(
                    f"levels={widths.tolist()} must be positive whole numbers that add up to {rows.shape[1]}, the number of features"
                )
            parts = np.split(rows, np.cumsum(widths)[:-1], axis=1)
        return [_unit_length(part) for part in parts] if self.normalize else parts

    def _norm(self, moments: Moments, rows: Rows | None) -> VarianceNorm:
        """Variance norm of one level; ``rows`` are those of ``moments`` where a second look is needed."""
        estimate = ESTIMATORS[self.covariance]
        basis = None
        if self.reduce is not None:
            basis = self._basis(moments)
            moments = _projected(moments, basis) if rows is None else Moments.of(rows @ basis)
        mean = moments.mean if basis is None else basis @ moments.mean
        return VarianceNorm.of(mean, estimate(moments)[0], rank_tolerance=self.rank_tolerance, basis=basis)

    def _basis(self, moments: Moments) -> Matrix:
        """Principal components (d, r) that ``reduce`` keeps, largest variance first."""
        values, vectors = np.linalg.eigh(moments.scatter)
        vectors = vectors[:, ::-1]
        explained = np.cumsum(np.maximum(values[::-1], 0))
        last = int(np.argmax(explained > self.kept_variance * explained[-1]))
        return vectors[:, : last + 1] if self.reduce == "pca" else vectors[:, max(last - 1, 0) :]


def _projected(moments: Moments, basis: Matrix) -> Moments:
    """Count, mean and scatter in the basis; the higher orders cannot be had from sums and are NaN."""
    scatter = basis.T @ moments.scatter @ basis
    return Moments(moments.count, moments.mean @ basis, scatter, np.full(len(scatter), np.nan), np.nan)


def _unit_length(rows: Rows) -> Rows:
    largest = np.abs(rows).max(axis=1, keepdims=True)
    if not largest.all():
        where = int(np.argmin(largest[:, 0]))
        raise ValueError(f"row {where} has length zero and cannot be normalised: normalize=True needs non-zero rows")
    scaled = rows / largest  # the square of the length itself could overflow, or vanish
    return np.asarray(scaled / np.linalg.norm(scaled, axis=1, keepdims=True))


def _per_distance(shares: Attributions) -> Attributions:
    """Shares of a squared distance turned into shares of the distance."""
    distance = np.sqrt(np.maximum(shares.sum(axis=1, keepdims=True), np.finfo(float).tiny))
    return np.asarray(shares / distance)
