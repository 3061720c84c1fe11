"""Covariance estimators: moments in, covariance and shrinkage intensity out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from detectors.arrays import Matrix
from detectors.moments import Moments

MOST_CANCELLED = 4e9  # times what is left of a sum that it once was: beyond, less than six digits of it are known
SAME_WEIGHT = 1e-9  # relative difference of the effective number of rows from their number that may be rounding
QUADRATURE_POINTS = 20_000  # at which the law of noise eigenvalues is integrated


def empirical(moments: Moments) -> tuple[Matrix, float]:
    """Maximum-likelihood covariance, scatter / n (not n - 1), with the sum of weights for n, and shrinkage 0."""
    return moments.scatter / moments.mass, 0.0


def ledoit_wolf(moments: Moments) -> tuple[Matrix, float]:
    r"""Covariance shrunk toward :math:`\mu I` with the intensity of Ledoit and Wolf (2004, section 3).

    With :math:`S` the empirical covariance and :math:`\mu = \operatorname{tr} S / d`,

    .. math::
        \delta = \|S - \mu I\|_F^2 / d, \quad
        \beta = \min\Big(\delta,\; \frac{1}{nd}\Big(\frac1n\sum_i \|c_i\|^4 - \|S\|_F^2\Big)\Big), \quad
        \text{intensity} = \beta / \delta.

    Equals ``sklearn.covariance.LedoitWolf``, from sums that add up over rows instead of the rows. For weighted rows
    :math:`S` and the mean of :math:`\|c_i\|^4` are weighted means, and the n before the bracket, through which the variance
    of a mean comes in, is Kish's effective number of rows. Raises ValueError where
    fewer than six digits of the sum of fourth powers are known, after rows far away were taken out. Cost: :math:`O(d^2)`.

    >>> rows = np.array([[2, 0], [0, 1], [-2, 1], [0, -2], [4, 6], [6, 7], [4, 8], [6, 5.0]])
    >>> round(ledoit_wolf(Moments.of(rows))[1], 12)
    0.139554861382
    """
    if not moments.peaks[-1] <= MOST_CANCELLED * moments.quartic:
        raise ValueError(
            "the sum of fourth powers that Ledoit–Wolf needs is lost to rounding, since rows far away were taken out: "
            "use covariance='oas', 'spiked' or 'empirical', or fit again without those rows"
        )
    covariance, _ = empirical(moments)
    width = len(covariance)
    target = np.trace(covariance) / width
    squares = float(np.square(covariance).sum())
    delta = squares / width - target**2
    beta = (moments.quartic / moments.mass - squares) / (moments.effective * width)
    intensity = float(min(beta, delta) / delta) if delta > 0 and beta > 0 else 0.0
    return _shrunk(covariance, intensity, target), intensity


def oas(moments: Moments) -> tuple[Matrix, float]:
    r"""Covariance shrunk toward :math:`\mu I` by oracle approximating shrinkage (Chen et al. 2010, eq. 23).

    That equation has two terms in :math:`2/d`,

    .. math:: \frac{(1 - 2/d) \operatorname{tr} S^2 + \operatorname{tr}^2 S}
        {(n + 1 - 2/d) (\operatorname{tr} S^2 - \operatorname{tr}^2 S / d)},

    which scikit-learn leaves out, and so do we, to equal ``sklearn.covariance.OAS``: in the plane below that shrinks by 0.628 where
    the equation would by 0.387, and in many columns the two hardly differ. Assumes rows near a Gaussian; n is the effective number of
    weighted ones.
    Cost: :math:`O(d^2)`.

    >>> rows = np.array([[2, 0], [0, 1], [-2, 1], [0, -2], [4, 6], [6, 7], [4, 8], [6, 5.0]])
    >>> round(oas(Moments.of(rows))[1], 12)
    0.627706191158
    """
    covariance, _ = empirical(moments)
    width = len(covariance)
    target = np.trace(covariance) / width
    mean_square = float(np.square(covariance).mean())
    numerator = mean_square + target**2
    denominator = (moments.effective + 1) * (mean_square - target**2 / width)
    intensity = min(numerator / denominator, 1.0) if denominator > 0 else 1.0
    return _shrunk(covariance, intensity, target), float(intensity)


def spiked(moments: Moments) -> tuple[Matrix, float]:
    r"""Covariance of a few strong directions in white noise, its eigenvalues shrunk by Donoho, Gavish and Johnstone (2018).

    With :math:`\gamma = d/n`, the noise variance :math:`\sigma^2` is the median eigenvalue over the median of the
    Marchenko–Pastur law. Eigenvalues of at most :math:`\sigma^2 (1+\sqrt\gamma)^2`, the edge of that law, become
    :math:`\sigma^2`. A larger one, :math:`\sigma^2 x`, stems from an eigenvalue :math:`\sigma^2\ell` with
    :math:`x = \ell\,(1 + \gamma/(\ell-1))` (section 2), along a direction of squared cosine
    :math:`c^2 = (1-\gamma/(\ell-1)^2)/(1+\gamma/(\ell-1))`, and becomes
    :math:`\sigma^2 \ell / (c^2 + \ell(1-c^2))`, which is best under Stein's loss (section 4), the loss of distances.

    With fewer rows than columns the median is that of the n - 1 eigenvalues that the rows can show. Where it is zero there
    is no noise to measure, and the empirical covariance is returned. Columns should share one noise level:
    their units matter. The second value is the share of directions taken for noise. Raises ValueError for rows of unlike weights,
    whose noise has another law. Cost: :math:`O(d^3)`.

    >>> rows = np.random.default_rng(0).normal(size=(400, 100)) * np.append(5, np.ones(99))
    >>> spiked(Moments.of(rows))[1]
    0.99
    """
    if moments.effective < moments.count * (1 - SAME_WEIGHT):
        raise ValueError("covariance='spiked' needs rows of one weight, since the law of noise holds for them: use another with a decay")
    covariance, _ = empirical(moments)
    width, ratio = len(covariance), len(covariance) / moments.count
    values, vectors = np.linalg.eigh(covariance)
    if ratio <= 1:
        noise = float(np.median(values)) / marchenko_pastur_median(ratio)
    else:
        shown = values[width - moments.count + 1 :]
        noise = float(np.median(shown)) / (ratio * marchenko_pastur_median(1 / ratio)) if len(shown) else 0.0
    if noise <= width * np.finfo(np.float64).eps * values[-1]:
        return covariance, 0.0
    strong = values > noise * (1 + np.sqrt(ratio)) ** 2
    observed, directions = values[strong] / noise, vectors[:, strong]
    half = (observed + 1 - ratio) / 2
    spike = half + np.sqrt(np.maximum(np.square(half) - observed, 0))
    cosine = (1 - ratio / np.square(spike - 1)) / (1 + ratio / (spike - 1))
    shrunk = noise * spike / (cosine + spike * (1 - cosine))
    estimate = directions * (shrunk - noise) @ directions.T
    estimate[np.diag_indices_from(estimate)] += noise
    return estimate, float(1 - strong.mean())


def marchenko_pastur_median(ratio: float) -> float:
    """Median of the Marchenko–Pastur law of unit variance, columns over rows ``ratio`` in (0, 1].

    Its density is integrated over an angle that runs from edge to edge, in which it has no singularity.

    >>> [round(marchenko_pastur_median(ratio), 4) for ratio in (0.25, 0.5, 1.0)]
    [0.916, 0.8305, 0.6528]

    Adaptive quadrature of the density gives 0.652776 for the last too; where 0.6529 is quoted, that is its rounding.
    """
    root = np.sqrt(ratio)
    angle = (np.arange(QUADRATURE_POINTS) + 0.5) * (np.pi / QUADRATURE_POINTS)
    mass = np.cumsum(np.square(np.sin(angle)) / (1 + ratio - 2 * root * np.cos(angle)))
    middle = np.interp(mass[-1] / 2, mass, angle + np.pi / QUADRATURE_POINTS / 2)
    return float(1 + ratio - 2 * root * np.cos(middle))


def _shrunk(covariance: Matrix, intensity: float, target: float) -> Matrix:
    shrunk = (1 - intensity) * covariance
    shrunk[np.diag_indices_from(shrunk)] += intensity * target
    return shrunk


ESTIMATORS: dict[str, Callable[[Moments], tuple[Matrix, float]]] = {
    "ledoit_wolf": ledoit_wolf,
    "oas": oas,
    "empirical": empirical,
    "spiked": spiked,
}


def estimated(estimator: str, moments: Moments) -> Matrix:
    """Covariance of ``moments`` by one of ``ESTIMATORS``, every variance in it known to six digits.

    Raises ValueError where one is not, since rows far away were taken out of the sums. The error is measured against the variance as
    estimated: a column in which only such rows varied is no matter where shrinkage gives it a variance of the others' size.
    Combinations of columns are known less well, by the condition number of the correlations.
    """
    covariance, _ = ESTIMATORS[estimator](moments)
    lost = ~(moments.peaks[:-1] <= MOST_CANCELLED * moments.mass * np.diag(covariance))
    if lost.any():
        raise ValueError(
            f"the variance of {lost.sum()} of {len(lost)} columns, the first of them column {np.argmax(lost)}, is lost to rounding, "
            "since rows far away were taken out: fit again without those rows"
        )
    return covariance
