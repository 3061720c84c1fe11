"""Robust Mahalanobis distance from shrunk medians and comedians."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from scipy.stats import chi2
from sklearn.utils._param_validation import Interval, StrOptions

from detectors.arrays import Attributions, Matrix, Rows, Scores, Vector
from detectors.base import Detector
from detectors.covariance import ledoit_wolf
from detectors.medians import absolute_deviation, comedian, coordinate_median, l1_median, l1_medoid, sandwich_variance
from detectors.moments import Moments
from detectors.norm import VarianceNorm

CONSISTENCY = float(1 / chi2.ppf(0.5, 1))  # MAD^2 times this is the variance of a normal variable
KEPT_QUANTILE = 0.975  # rows within it are kept for the reweighting step
CLIP = 3.0  # standard deviations at which the clipped intensity cuts
SMALLEST_SHARE = 1e-3  # of the mean eigenvalue, below which the shrunk scatter is repaired
BOOTSTRAPS = 50


@dataclass(frozen=True, slots=True)
class RobustShrinkageState:
    norm: VarianceNorm
    location_intensity: float  # of the shrinkage of the location toward equal columns
    scatter_intensity: float  # of the shrinkage of the comedian toward a multiple of the identity
    kept: int  # rows left by the reweighting step; all without it


class RobustShrinkage(Detector[RobustShrinkageState]):
    r"""Squared distance by a robust location and a shrunk comedian (Cabana, Lillo and Laniado 2019).

    .. math:: s(x) = (x - m)^\top S^{-1} (x - m), \qquad S = (1-\eta)\,\hat S + \eta\,\nu I, \quad \nu = \operatorname{tr}\hat S/d

    with :math:`\hat S` the *comedian* (Falk 1997), :math:`\operatorname{med}_i (x_{ij}-m_j)(x_{ik}-m_k)`, scaled to
    variances, and :math:`\eta = \varphi / (n \|\hat S - \nu I\|_F^2)` the Ledoit–Wolf intensity with
    :math:`\varphi = \sum_{jk} [\operatorname{mean}_i y_{ij}^2 y_{ik}^2 - \hat S_{jk}^2]`.

    It suits normal data that may hold anomalies, up to about a third of them. It does not suit data known to be clean,
    where ``gaussian`` ranks better, and it fails where a fifth or more of the rows sit together along a direction of small
    variance; so does the minimum covariance determinant. The full text of the paper was not at hand when this was written:
    formulas are those of the authors' institute's R code, with the changes named below.

    The defaults are a recommendation that goes beyond the paper: columns standardised by median and MAD, an intensity that
    one far row cannot move, rescaling by the median distance, and one Ledoit–Wolf step on the rows that then lie within the
    97.5 % quantile of chi-square. ``preset`` gives the plain forms.

    Parameters
    ----------
    location : {"l1_median", "coordinate_median", "l1_medoid"}, default="l1_median"
        The L1 median is the point with the least sum of Euclidean distances (Weiszfeld's iteration with the step of Vardi
        and Zhang 2000 at data points), started at the coordinate-wise median, which decides where it is not unique. The
        medoid is the row with the least sum of city-block distances, which the R code calls L1 median.
    shrink_location : bool, default=False
        Shrink the location toward equal columns. Sensible only for columns of one unit and level.
    scaling : {"special", "adjusted", "raw"}, default="special"
        What is multiplied by ``factor``: the diagonal of the comedian alone, all of it, or nothing.
    intensity : {"clipped", "fourth_moment", "bootstrap"}, default="clipped"
        Estimate of phi. "fourth_moment" is the formula above, which one row far away drives to full shrinkage; "clipped"
        cuts the deviations at 3 standard deviations in it; "bootstrap" is the variance over 50 resamplings.
    standardize : bool, default=True
        Divide columns by 1.4826 MAD first, or by the standard deviation where more than half of the values tie.
    reweight : bool, default=True
        Finish with Ledoit–Wolf on the rows that the first distance keeps.
    factor : float, default=2.198109…
        Consistency factor of the squared MAD at the normal distribution. The R code rounds it to 2.198.
    comedian_rows : int, optional
        Compute the comedian on this many rows, drawn by ``random_state``, where there are more. Times
        :math:`\sqrt{\text{comedian\_rows}}`, its entries then have a standard error of up to 2.4 variances on the diagonal and,
        by correlation, of 0.3 (none) to 1.1 (full) off it, where "adjusted" multiplies that by ``factor`` (normal rows).
    random_state : int, default=0
        Seed of the drawn rows and of the bootstrap.
    threads : int, default=0
        Threads for the comedian; 0 takes all cores. Results do not depend on it.
    contamination : float in (0, 0.5], default=0.1
        Share of the training rows that scikit-learn's ``predict`` calls outliers.

    Notes
    -----
    Not affine equivariant: with ``standardize`` the scores do not depend on the units of the columns, and no more than
    that is claimed. Positive definite for any number of rows; with fewer rows than columns the intensity comes near 1
    and the score near a scaled Euclidean distance (``state_.scatter_intensity`` tells).
    Fit: :math:`n d^2/2` selections, in blocks of 32 MiB per thread; score: :math:`2d^2` per row.

    Examples
    --------
    >>> import numpy as np
    >>> rows = np.random.default_rng(0).normal(size=(300, 3))
    >>> rows[:60] += 8
    >>> scores = RobustShrinkage().fit(rows).scores(rows)
    >>> bool(scores[:60].min() > scores[60:].max())
    True
    """

    State = RobustShrinkageState
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "port": {
            "location": "l1_medoid", "shrink_location": True, "scaling": "special", "intensity": "fourth_moment",
            "standardize": False, "reweight": False, "factor": 2.198,
        },
        "median": {"location": "coordinate_median", "intensity": "fourth_moment", "standardize": False, "reweight": False},
        "median_shrunk": {
            "location": "coordinate_median", "shrink_location": True, "intensity": "fourth_moment", "standardize": False,
            "reweight": False,
        },
        "l1_median": {"intensity": "fourth_moment", "standardize": False, "reweight": False},
        "l1_median_shrunk": {"shrink_location": True, "intensity": "fourth_moment", "standardize": False, "reweight": False},
        "default": {},
    }  # fmt: skip
    VARIANTS: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"scaling": "adjusted"},
        {"location": "coordinate_median", "reweight": False},
        {"intensity": "bootstrap", "reweight": False},
        dict(PRESETS["port"]),
        dict(PRESETS["l1_median_shrunk"]),
    )
    ATTRIBUTION = "additive"
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "location": [StrOptions({"l1_median", "coordinate_median", "l1_medoid"})],
        "shrink_location": ["boolean"],
        "scaling": [StrOptions({"special", "adjusted", "raw"})],
        "intensity": [StrOptions({"clipped", "fourth_moment", "bootstrap"})],
        "standardize": ["boolean"],
        "reweight": ["boolean"],
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
        self.factor = factor
        self.comedian_rows = comedian_rows
        self.random_state = random_state
        self.threads = threads
        self.contamination = contamination

    @classmethod
    def preset(cls, name: str) -> Self:
        """A named set of parameters: ``port`` is the R code, quirks included; the plain forms are the paper's family."""
        return cls(**cls.PRESETS[name])

    def learn(self, rows: Rows) -> RobustShrinkageState:
        varying = np.ptp(rows, axis=0) > 0
        centre, scale = np.median(rows, axis=0), np.ones(rows.shape[1])
        if self.standardize:
            scale = np.where(varying, _robust_scale(rows, centre), 1.0)
            rows = (rows - centre) / scale
        else:
            centre = np.zeros_like(centre)
        used = rows[:, varying]
        mean, scatter, intensities, kept = self._estimate(used)
        full_mean, full = np.median(rows, axis=0), np.zeros((rows.shape[1],) * 2)
        full_mean[varying] = mean
        full[np.ix_(varying, varying)] = scatter
        norm = VarianceNorm.of(centre + scale * full_mean, full * np.outer(scale, scale))
        return RobustShrinkageState(norm, *intensities, kept)

    def anomaly_scores(self, state: RobustShrinkageState, rows: Rows) -> Scores:
        return state.norm.squared(rows)

    def attribute(self, state: RobustShrinkageState, rows: Rows) -> Attributions:
        return state.norm.contributions(rows)

    def _estimate(self, rows: Rows) -> tuple[Vector, Matrix, tuple[float, float], int]:
        """Location, scatter, both intensities and the number of rows kept, of columns that all vary."""
        if rows.shape[1] == 0:
            return np.empty(0), np.empty((0, 0)), (0.0, 0.0), len(rows)
        location, location_intensity = self._locate(rows)
        scatter, scatter_intensity = self._scatter(rows, location)
        if not self.reweight:
            return location, scatter, (location_intensity, scatter_intensity), len(rows)
        kept = _within(VarianceNorm.of(location, scatter).squared(rows), rows.shape[1])
        moments = Moments.of(rows[kept])
        return moments.mean, ledoit_wolf(moments)[0], (location_intensity, scatter_intensity), int(kept.sum())

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
        identity = mean_variance * np.eye(len(scatter))
        phi = self._phi(centred, scatter, generator)
        intensity = _ratio(phi / len(rows), float(np.square(scatter - identity).sum()))
        return _repaired((1 - intensity) * scatter + intensity * identity, mean_variance), intensity

    def _scaled(self, scatter: Matrix) -> Matrix:
        if self.scaling == "adjusted":
            return self.factor * scatter
        if self.scaling == "special":
            scatter[np.diag_indices_from(scatter)] *= self.factor
        return scatter

    def _phi(self, centred: Rows, scatter: Matrix, generator: np.random.Generator) -> float:
        """Estimate of n times the summed variance of the entries of ``scatter``."""
        if self.intensity == "bootstrap":
            n = len(centred)
            drawn = (centred[generator.integers(0, n, n)] for _ in range(BOOTSTRAPS))
            resampled = [self._scaled(comedian(rows - np.median(rows, axis=0), self.threads)) for rows in drawn]
            return n * float(np.var(resampled, axis=0, ddof=1).sum())
        if self.intensity == "clipped":
            limit = CLIP * np.sqrt(np.diag(scatter))
            centred = np.clip(centred, -limit, limit)
        squares = np.square(centred)
        return float((squares.T @ squares / len(squares) - np.square(scatter)).sum())


def _robust_scale(rows: Rows, centre: Vector) -> Vector:
    """1.4826 MAD of each column, or its standard deviation where more than half of the values tie."""
    scale, deviation = np.sqrt(CONSISTENCY) * absolute_deviation(rows, centre), rows.std(axis=0)
    return np.asarray(np.where(scale > 1e-9 * deviation, scale, deviation))


def _within(squared: Scores, width: int) -> Any:
    """Rows whose distance, rescaled so that its median is that of chi-square, is at most the 97.5 % quantile."""
    kept = squared * (chi2.ppf(0.5, width) / np.median(squared)) <= chi2.ppf(KEPT_QUANTILE, width)
    return kept if kept.sum() >= width // 2 + 5 else squared <= np.median(squared)


def _ratio(part: float, whole: float) -> float:
    return 1.0 if whole == 0 else float(np.clip(part / whole, 0, 1))


def _repaired(scatter: Matrix, mean_variance: float) -> Matrix:
    """``scatter`` shrunk just as much further as makes its smallest eigenvalue the least share of the mean."""
    smallest = float(np.linalg.eigvalsh(scatter)[0])
    least = SMALLEST_SHARE * mean_variance
    if smallest >= least:
        return scatter
    share = (least - smallest) / (mean_variance - smallest)
    return (1 - share) * scatter + share * mean_variance * np.eye(len(scatter))
