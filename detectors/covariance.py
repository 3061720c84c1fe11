"""Covariance estimators: moments in, covariance and shrinkage intensity out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from detectors.arrays import Matrix
from detectors.moments import Moments


def empirical(moments: Moments) -> tuple[Matrix, float]:
    """Maximum-likelihood covariance, scatter / n (not n - 1), and shrinkage 0."""
    return moments.scatter / moments.count, 0.0


def ledoit_wolf(moments: Moments) -> tuple[Matrix, float]:
    r"""Covariance shrunk toward :math:`\mu I` with the intensity of Ledoit and Wolf (2004, section 3).

    With :math:`S` the empirical covariance and :math:`\mu = \operatorname{tr} S / d`,

    .. math::
        \delta = \|S - \mu I\|_F^2 / d, \quad
        \beta = \min\Big(\delta,\; \frac{1}{nd}\Big(\frac1n\sum_i \|c_i\|^4 - \|S\|_F^2\Big)\Big), \quad
        \text{intensity} = \beta / \delta.

    Equals ``sklearn.covariance.LedoitWolf``, from sums that add up over rows instead of the rows.
    Cost: :math:`O(d^2)`.

    >>> rows = np.array([[2, 0], [0, 1], [-2, 1], [0, -2], [4, 6], [6, 7], [4, 8], [6, 5.0]])
    >>> round(ledoit_wolf(Moments.of(rows))[1], 12)
    0.139554861382
    """
    covariance, _ = empirical(moments)
    width = len(covariance)
    target = np.trace(covariance) / width
    squares = float(np.square(covariance).sum())
    delta = squares / width - target**2
    beta = (moments.quartic / moments.count - squares) / (moments.count * width)
    intensity = float(min(beta, delta) / delta) if delta > 0 and beta > 0 else 0.0
    return _shrunk(covariance, intensity, target), intensity


def oas(moments: Moments) -> tuple[Matrix, float]:
    r"""Covariance shrunk toward :math:`\mu I` by oracle approximating shrinkage (Chen et al. 2010, eq. 23).

    scikit-learn drops a factor :math:`1 - 2/d` of that equation in numerator and denominator; so
    do we, to equal ``sklearn.covariance.OAS``. Assumes rows near a Gaussian. Cost: :math:`O(d^2)`.

    >>> rows = np.array([[2, 0], [0, 1], [-2, 1], [0, -2], [4, 6], [6, 7], [4, 8], [6, 5.0]])
    >>> round(oas(Moments.of(rows))[1], 12)
    0.627706191158
    """
    covariance, _ = empirical(moments)
    width = len(covariance)
    target = np.trace(covariance) / width
    mean_square = float(np.square(covariance).mean())
    numerator = mean_square + target**2
    denominator = (moments.count + 1) * (mean_square - target**2 / width)
    intensity = min(numerator / denominator, 1.0) if denominator > 0 else 1.0
    return _shrunk(covariance, intensity, target), float(intensity)


def _shrunk(covariance: Matrix, intensity: float, target: float) -> Matrix:
    shrunk = (1 - intensity) * covariance
    shrunk[np.diag_indices_from(shrunk)] += intensity * target
    return shrunk


ESTIMATORS: dict[str, Callable[[Moments], tuple[Matrix, float]]] = {
    "ledoit_wolf": ledoit_wolf,
    "oas": oas,
    "empirical": empirical,
}
