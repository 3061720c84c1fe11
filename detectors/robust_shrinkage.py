"""Robust Mahalanobis distance from shrunk medians and comedians."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import chi2
from sklearn.utils._param_validation import Interval, StrOptions

from detectors.arrays import Attributions, Matrix, Rows, Scores, Vector
from detectors.base import Detector
from detectors.cholesky import repaired
from detectors.covariance import ledoit_wolf
from detectors.medians import absolute_deviation, comedian, coordinate_median, l1_median, l1_medoid, sandwich_variance
from detectors.moments import Moments
from detectors.norm import VANISHING, VarianceNorm

CONSISTENCY = float(1 / chi2.ppf(0.5, 1))  # MAD^2 times this is the variance of a normal variable
KEPT_QUANTILE = 0.975  # rows within it are kept for the reweighting step
CLIP = 3.0  # standard deviations at which the clipped intensity cuts
NEVER_VARIED = 1e-10  # of the mean variance, which columns have that never varied
BOOTSTRAPS = 50
ROUNDING = 4 * np.finfo(np.float64).eps  # of a value, within which others tie with it
PLAIN: dict[str, Any] = {"intensity": "fourth_moment", "standardize": False, "reweight": False}


@dataclass(frozen=True, slots=True)
class RobustShrinkageState:
    norm: VarianceNorm
    location_intensity: float  # of the shrinkage of the location toward equal columns
    scatter_intensity: float  # of the shrinkage of the comedian toward a multiple of the identity
    kept: int  # rows left by the reweighting step; all where it was not taken


class RobustShrinkage(Detector[RobustShrinkageState]):
    r"""Squared distance by a robust location and a shrunk comedian (Cabana, Lillo and Laniado 2019).

    .. math:: s(x) = (x - m)^\top S^{-1} (x - m), \qquad S = (1-\eta)\,\hat S + \eta\,\nu I, \quad \nu = \operatorname{tr}\hat S/d

    with :math:`\hat S` the *comedian* (Falk 1997), :math:`\operatorname{med}_i (x_{ij}-m_j)(x_{ik}-m_k)`, scaled to
    variances, and :math:`\eta = \varphi / (n \|\hat S - \nu I\|_F^2)` the Ledoit–Wolf intensity with
    :math:`\varphi = \sum_{jk} [\operatorname{mean}_i y_{ij}^2 y_{ik}^2 - \hat S_{jk}^2]`.

    It suits normal data that may hold anomalies, up to about a third of them. It does not suit data known to be clean,
    where ``gaussian`` ranks better, and fails where a fifth or more of the rows sit together along a direction of small variance,
    as the minimum covariance determinant does. Formulas are those of the R code of the authors' institute, changed as named below.

    The defaults go beyond the paper: columns standardised by median and MAD, an intensity that one far row cannot move, and one
    Ledoit–Wolf step on the rows whose calibrated distance is within the 97.5 % quantile of chi-square; ``preset`` gives plain forms.

    Parameters
    ----------
    location : {"l1_median", "coordinate_median", "l1_medoid"}, default="l1_median"
        The L1 median is the point with the least sum of Euclidean distances (Vardi and Zhang 2000), started at the
        coordinate-wise median where it is not unique; the medoid the row with the least sum of city-block distances, which
        the R code calls L1 median.
    shrink_location : bool, default=False
        Shrink the location toward equal columns. Sensible only for columns of one unit and level.
    scaling : {"special", "adjusted", "raw"}, default="special"
        What is multiplied by ``factor``: the diagonal of the comedian alone, all of it, or nothing.
    intensity : {"clipped", "fourth_moment", "bootstrap", "none"}, default="clipped"
        Estimate of phi. "fourth_moment" is the formula above, which one row far away drives to full shrinkage; "clipped"
        cuts the deviations at 3 standard deviations in it; "bootstrap" is the variance over 50 resamplings; "none" is zero:
        the comedian as it is, but for the shrinkage that it takes to be positive definite.
    standardize : bool, default=True
        Divide columns by 1.4826 MAD first, or by the standard deviation where more than half of the values tie.
    reweight : bool, default=True
        Finish with Ledoit–Wolf on the rows that the first distance keeps.
    calibrate : bool, default=False
        Multiply the scores so that their median over the fitted rows is that of chi-square. The distance by which the
        reweighting step picks its rows is calibrated in any case.
    floor : float in (0, 1), default=1e-3
        Share of the mean eigenvalue to which the smallest of the shrunk scatter is lifted, by shrinking it further.
    factor : float, default=2.198109…
        Consistency factor of the squared MAD at the normal distribution. The R code rounds it to 2.198.
    comedian_rows : int, optional
        Compute the comedian on this many rows, drawn by ``random_state``, where there are more. Times
        :math:`\sqrt{\text{comedian\_rows}}`, its entries then have a standard error of up to 2.4 variances on the diagonal and,
        by correlation, of 0.3 (none) to 1.1 (full) off it, where "adjusted" multiplies that by ``factor`` (normal rows, 400 or more drawn;
        with 100 the least is 0.4, with 25 it is 0.5).
    random_state : int, default=0
        Seed of the drawn rows and of the bootstrap.
    threads : int, default=0
        Threads for the comedian; 0 takes all cores. Results do not depend on it.
    contamination : float in (0, 0.5], default=0.1
        Share of the training rows that scikit-learn's ``predict`` calls outliers.

    Notes
    -----
    Not affine equivariant: with ``standardize`` the scores do not depend on the units of the columns, and no more than
    that is claimed. Positive definite for any number of rows. With fewer rows than columns the intensity comes near 1 and the score near
    a scaled Euclidean distance (``state_.scatter_intensity`` tells); **but "port" is of no use there**: it shrinks little, the scatter of
    the R code has negative eigenvalues, and with them distances. Lifted to a ``floor`` of 1e-10, the least one makes noise the score.
    Fit: :math:`n d^2/2` products and selections (``medians.comedian``) and :math:`O(d^3)`; score: :math:`2d^2` per row.

    ``chi_square_degrees`` are d, the textbook's, without columns that never varied; d - 1 with the medoid, as the R code has it;
    and none for "raw" scores that are not calibrated. Prefer the conformal threshold of a ``Calibration`` on held-out rows.

    >>> rows = np.random.default_rng(0).normal(size=(300, 3))
    >>> rows[:60] += 8
    >>> scores = RobustShrinkage().fit(rows).scores(rows)
    >>> bool(scores[:60].min() > scores[60:].max())
    True
    """

    State = RobustShrinkageState
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "port": PLAIN | {"location": "l1_medoid", "shrink_location": True, "factor": 2.198, "floor": 1e-10},
        "median": PLAIN | {"location": "coordinate_median"},
        "median_shrunk": PLAIN | {"location": "coordinate_median", "shrink_location": True},
        "l1_median": PLAIN,
        "l1_median_shrunk": PLAIN | {"shrink_location": True},
    }
    VARIANTS: ClassVar[tuple[dict[str, Any], ...]] = (
        *map(dict, PRESETS.values()),
        {"scaling": "adjusted"},
        {"location": "coordinate_median", "reweight": False},
        {"intensity": "bootstrap", "reweight": False},
        {"scaling": "raw", "intensity": "none", "reweight": False, "calibrate": True},
    )
    ATTRIBUTION = "additive"
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "location": [StrOptions({"l1_median", "coordinate_median", "l1_medoid"})],
        "shrink_location": ["boolean"],
        "scaling": [StrOptions({"special", "adjusted", "raw"})],
        "intensity": [StrOptions({"clipped", "fourth_moment", "bootstrap", "none"})],
        "standardize": ["boolean"],
        "reweight": ["boolean"],
        "calibrate": ["boolean"],
        "floor": [Interval(Real, 0, 1, closed="neither")],
        "factor": [Interval(Real, 1, None, closed="left")],
        "comedian_rows": [Interval(Integral, 4, None, closed="left"), None],
        "random_state": [Interval(Integral, 0, None, closed="left")],
        "threads": [Interval(Integral, 0, None, closed="left")],
        "contamination": [Interval(Real, 0, 0.5, closed="right")],
    }

    def __init__(
        self,
        *,
        location: str = "l1_median",
        shrink_location: bool = False,
        scaling: str = "special",
        intensity: str = "clipped",
        standardize: bool = True,
        reweight: bool = True,
        calibrate: bool = False,
        floor: float = 1e-3,
        factor: float = CONSISTENCY,
        comedian_rows: int | None = None,
        random_state: int = 0,
        threads: int = 0,
        contamination: float = 0.1,
    ) -> None:
        self.location = location
        self.shrink_location = shrink_location
        self.scaling = scaling
        self.intensity = intensity
        self.standardize = standardize
        self.reweight = reweight
        self.calibrate = calibrate
        self.floor = floor
        self.factor = factor
        self.comedian_rows = comedian_rows
        self.random_state = random_state
        self.threads = threads
        self.contamination = contamination

    @classmethod
    def preset(cls, name: str) -> Self:
        """Parameters by name: ``port`` is the R code, quirks included; the plain forms are the paper's family."""
        return cls(**cls.PRESETS[name])

    def learn(self, rows: Rows) -> RobustShrinkageState:
        varying = (np.ptp(rows, axis=0) > 0) & (np.square(rows.std(axis=0)) > VANISHING)
        used = rows[:, varying]
        centre, scale = coordinate_median(used), np.ones(used.shape[1])
        spread = _robust_scale(used, centre)
        if self.standardize:
            scale = spread
            used = (used - centre) / scale
        else:
            centre = np.zeros_like(centre)
        norm, intensities, kept = self._estimate(used)
        mean, whiten = rows[0].copy(), np.zeros((rows.shape[1],) * 2)
        mean[varying] = centre + scale * norm.mean
        whiten[np.ix_(varying, varying)] = np.divide(norm.whiten, scale[:, None], out=norm.whiten)
        unit = float(np.square(spread).mean()) if varying.any() else 1.0
        whiten[~varying, ~varying] = 1 / np.sqrt(NEVER_VARIED * unit)
        return RobustShrinkageState(VarianceNorm(mean, whiten, norm.rank), *intensities, kept)

    def anomaly_scores(self, state: RobustShrinkageState, rows: Rows) -> Scores:
        return state.norm.squared(rows)

    def attribute(self, state: RobustShrinkageState, rows: Rows) -> Attributions:
        return state.norm.contributions(rows)

    def component_attributions(self, X: ArrayLike) -> Attributions:
        """Share (n, d) of each principal component in the score of each row of ``X`` (n, d), as ``Gaussian`` gives it."""
        return self._finite_shares(lambda state, rows: state.norm.component_contributions(rows), self._scorable(X))

    def chi_square_degrees(self, state: RobustShrinkageState) -> int | None:
        if self.scaling == "raw" and not (self.reweight or self.calibrate):
            return None
        return state.norm.rank - (self.location == "l1_medoid") or None

    def _estimate(self, rows: Rows) -> tuple[VarianceNorm, tuple[float, float], int]:
        """The norm, both intensities and the number of rows kept, of columns that all vary."""
        n, width = rows.shape
        if width == 0:
            return VarianceNorm(np.empty(0), np.empty((0, 0)), 0), (0.0, 0.0), n
        location, location_intensity = self._locate(rows)
        scatter, scatter_intensity = self._scatter(rows, location)
        norm, kept = VarianceNorm.of(location, scatter, directions=0 if scatter_intensity == 1 else None), n
        del scatter  # as large as each of those that follow
        if self.reweight:
            near = _within(norm.squared(rows), width)
            moments = Moments.of(rows[near])
            last = VarianceNorm.of(moments.mean, ledoit_wolf(moments)[0], directions=moments.count - 1)
            if last.rank == width:  # else the rows kept are too few, or too much alike, to tell more than the first distance
                norm, kept = last, int(near.sum())
        if self.calibrate:
            norm = replace(norm, whiten=norm.whiten * np.sqrt(chi2.ppf(0.5, width) / np.median(norm.squared(rows))))
        return norm, (location_intensity, scatter_intensity), kept

    def _locate(self, rows: Rows) -> tuple[Vector, float]:
        find = {"l1_median": l1_median, "coordinate_median": coordinate_median, "l1_medoid": l1_medoid}[self.location]
        location = find(rows)
        if not self.shrink_location:
            return location, 0.0
        if self.location == "coordinate_median":
            variance = np.pi / 2 * self.factor * float(np.square(absolute_deviation(rows, location)).sum()) / len(rows)
        else:
            variance = sandwich_variance(rows, location, city_block=self.location == "l1_medoid")
        target = location.mean()
        intensity = _ratio(variance, float(np.square(location - target).sum()))
        return intensity * target + (1 - intensity) * location, intensity

    def _scatter(self, rows: Rows, location: Vector) -> tuple[Matrix, float]:
        generator = np.random.default_rng(self.random_state)
        if self.comedian_rows is not None and len(rows) > self.comedian_rows:
            rows = rows[np.sort(generator.choice(len(rows), self.comedian_rows, replace=False))]
        centred = rows - location
        scatter = self._scaled(comedian(centred, self.threads))
        mean_variance = np.trace(scatter) / len(scatter)
        if mean_variance <= 0:
            raise ValueError("more than half of the values tie in every column, so that all medians of products are zero: use gaussian")
        phi = self._phi(centred, scatter, generator)
        diagonal = np.diag_indices_from(scatter)
        scatter[diagonal] -= mean_variance
        intensity = _ratio(phi / len(rows), float(np.vdot(scatter, scatter)))
        scatter *= 1 - intensity
        scatter[diagonal] += mean_variance
        return repaired(scatter, self.floor), intensity

    def _scaled(self, scatter: Matrix) -> Matrix:
        if self.scaling == "adjusted":
            return self.factor * scatter
        if self.scaling == "special":
            scatter[np.diag_indices_from(scatter)] *= self.factor
        return scatter

    def _phi(self, centred: Rows, scatter: Matrix, generator: np.random.Generator) -> float:
        """Estimate of n times the summed variance of the entries of ``scatter``."""
        if self.intensity == "none":
            return 0.0
        if self.intensity == "bootstrap":
            n = len(centred)
            drawn = (centred[generator.integers(0, n, n)] for _ in range(BOOTSTRAPS))
            resampled = [self._scaled(comedian(rows - np.median(rows, axis=0), self.threads)) for rows in drawn]
            return n * float(np.var(resampled, axis=0, ddof=1).sum())
        if self.intensity == "clipped":
            limit = CLIP * np.sqrt(np.diag(scatter))
            centred = np.clip(centred, -limit, limit)
        squared = np.einsum("ij,ij->i", centred, centred)  # the products of squares over all j and k add up to the square of the sum
        return float(squared @ squared) / len(squared) - float(np.vdot(scatter, scatter))


def _robust_scale(rows: Rows, centre: Vector) -> Vector:
    """1.4826 MAD of each column, or its standard deviation where more than half of the values tie, up to their rounding."""
    deviation = absolute_deviation(rows, centre)
    tied = deviation <= ROUNDING * coordinate_median(np.abs(rows))
    return np.asarray(np.where(tied, rows.std(axis=0), np.sqrt(CONSISTENCY) * deviation))


def _within(squared: Scores, width: int) -> Any:
    """Rows whose distance, rescaled so that its median is that of chi-square, is at most the 97.5 % quantile."""
    kept = squared * (chi2.ppf(0.5, width) / np.median(squared)) <= chi2.ppf(KEPT_QUANTILE, width)
    return kept if kept.sum() >= width // 2 + 5 else squared <= np.median(squared)


def _ratio(part: float, whole: float) -> float:
    return 1.0 if whole == 0 else float(np.clip(part / whole, 0, 1))
