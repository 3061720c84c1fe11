"""Gaussians of several classes with one covariance: the distance to the nearest class, plain or relative to all rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import Interval, StrOptions

from detectors.additive import AdditiveDetector
from detectors.arrays import Attributions, Matrix, Rows, Scores, Vector
from detectors.base import NUMBERS
from detectors.class_statistics import ClassStatistics
from detectors.covariance import estimated
from detectors.gaussian import check_lengths, unit_length
from detectors.labels import Labels, decoded
from detectors.moments import BLOCK_ROWS, Moments
from detectors.norm import VarianceNorm

LEAST_DIGITS = 1e-6  # relative error of a difference of two whitened vectors beyond which it is computed anew
SEARCHES = 5  # of the nearest class, each from the one found before


@dataclass(frozen=True, slots=True)
class ClassGaussianState:
    codes: Matrix  # (K, w), the classes, see ``labels.encoded``
    text: int  # whether the classes are text
    means: Matrix  # (K, d), of the classes
    centres: Matrix  # (K, r), the means whitened
    norm: VarianceNorm  # of the covariance within classes, around the mean of all rows
    background: VarianceNorm | None  # of the covariance of all rows, where the score is relative to it
    statistics: ClassStatistics | None  # what a later update adds to; scoring does without


class ClassGaussian(AdditiveDetector[ClassGaussianState, ClassStatistics]):
    r"""Squared Mahalanobis distance to the nearest of several classes of normal rows, with one covariance for all.

    .. math:: s(x) = \min_c\, (x-\mu_c)^\top \Sigma^{-1} (x-\mu_c), \qquad
        \Sigma = \frac1n \sum_i (x_i-\mu_{y_i})(x_i-\mu_{y_i})^\top

    (Lee, Lee, Lee and Shin 2018, "A Simple Unified Framework for Detecting Out-of-Distribution Samples
    and Adversarial Attacks", eq. 1 and 2). With ``relative``, less the squared distance to one Gaussian of all rows,
    :math:`s(x) - (x-\mu)^\top \Sigma_0^{-1} (x-\mu)` (Ren, Fort, Liu, Guha Roy, Padhy and Lakshminarayanan 2021,
    "A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection", section 3), which can be negative.
    With ``normalize`` these are Mahalanobis++ and its relative form (Müller and Hein 2025).

    It suits features of a classifier, or embeddings with known classes. It does not suit classes of
    unlike shape, nor a relative score where the classes hardly differ: the two distances then cancel.

    Parameters
    ----------
    covariance : {"empirical", "oas", "spiked"}, default="empirical"
        Estimator of the covariance, and with ``relative`` that of all rows. The first is the papers'; with few
        rows for the number of features take "oas". Ledoit–Wolf is not offered: how its sum of fourth powers changes when a
        class's mean moves depends on the scatter of that class alone, so that one (d, d) matrix per class would have to be kept.
    relative : bool, default=False
        Subtract the squared distance to all rows as one Gaussian. With one class the score would be zero everywhere:
        learning then raises ValueError.
    normalize : bool, default=False
        Divide each row by its Euclidean length first. A row of length zero is refused.
    rank_tolerance, precision, contamination
        As in ``Gaussian``.

    Notes
    -----
    ``partial_fit``, ``merge`` and ``forget`` take classes that come and go and are exact, the last up to the rounding of the sums with
    the rows in: where that leaves fewer than six digits of a variance, it raises ValueError and changes nothing.
    Not an outlier detector in the sense of scikit-learn's tags, since those are fitted without ``y``.
    Fit: :math:`nd^2 + O(d^3)` floating-point operations, :math:`O(d^2 + Kd)` memory; score: :math:`2d^2 + 2Kd` per row, and
    :math:`d^2` more with ``relative``.

    Examples
    --------
    >>> rows = np.array([[2, 0], [0, 1], [-2, 1], [0, -2], [4, 6], [6, 7], [4, 8], [6, 5.0]])
    >>> detector = ClassGaussian().fit(rows, ["low"] * 4 + ["high"] * 4)
    >>> detector.scores([[0, 0], [5, 6], [3, 3]]).round(3)
    array([ 0.   ,  0.207, 17.034])
    >>> detector.nearest_class([[0, 0], [5, 6]])
    array(['low', 'high'], dtype='<U4')
    """

    State = ClassGaussianState
    VARIANTS: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"covariance": "oas", "precision": "float32"},
        {"covariance": "spiked", "normalize": True},
        {"relative": True},
        {"relative": True, "normalize": True, "covariance": "oas"},
    )
    ATTRIBUTION = "additive"
    LABELLED = True
    DTYPES = NUMBERS
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "covariance": [StrOptions({"empirical", "oas", "spiked"})],
        "relative": ["boolean"],
        "normalize": ["boolean"],
        "rank_tolerance": [Interval(Real, 0, 1, closed="neither")],
        "precision": [StrOptions({"float64", "float32"})],
        "contamination": [Interval(Real, 0, 0.5, closed="right")],
    }

    def __init__(
        self,
        *,
        covariance: str = "empirical",
        relative: bool = False,
        normalize: bool = False,
        rank_tolerance: float = 1e-10,
        precision: str = "float64",
        contamination: float = 0.1,
    ) -> None:
        self.covariance = covariance
        self.relative = relative
        self.normalize = normalize
        self.rank_tolerance = rank_tolerance
        self.precision = precision
        self.contamination = contamination

    def statistics(self, rows: Rows, labels: Labels | None = None) -> ClassStatistics:
        if labels is None:
            raise ValueError("the class of each row is needed")
        if self.normalize:
            check_lengths(rows)
        return ClassStatistics.of(rows, labels, self._prepared)

    def conclude(self, statistics: ClassStatistics, second: ClassStatistics | None = None) -> ClassGaussianState:
        if self.relative and len(statistics.counts) == 1:
            raise ValueError("relative=True needs rows of two classes or more: with one, the score is zero everywhere")
        within, total = statistics.moments()
        spread = np.diag(total.scatter) / total.mass
        norm, background = self._norm(within, spread), self._norm(total, spread) if self.relative else None
        centres = (statistics.means - norm.mean) @ norm.whiten  # in float64 whatever the precision of scoring
        return ClassGaussianState(statistics.codes, statistics.text, statistics.means, centres, norm, background, statistics)

    def anomaly_scores(self, state: ClassGaussianState, rows: Rows) -> Scores:
        rows = self._prepared(rows)
        _, squared = _nearest(state, rows)
        return squared if state.background is None else squared - state.background.squared(rows)

    def attribute(self, state: ClassGaussianState, rows: Rows) -> Attributions:
        rows = self._prepared(rows)
        nearest, _ = _nearest(state, rows)
        shares = state.norm.shares(rows - state.means[nearest])
        return shares if state.background is None else shares - state.background.contributions(rows)

    def component_attributions(self, X: ArrayLike) -> Attributions:
        """Share of each principal component in the score of each row of ``X`` (n, d), largest variance first: (n, d), or (n, 2 d).

        The components are those of the covariance within classes, about the nearest mean; their shares are never negative. With
        ``relative`` the d of the covariance of all rows follow, about the mean of all, whose shares are never positive. All
        of them add up to the score. Cost: a singular value decomposition per norm and call.
        """
        return self._finite_shares(self._component_shares, self._scorable(X))

    def nearest_class(self, X: ArrayLike) -> Labels:
        """Class (n,) whose mean is nearest to each row of ``X`` (n, d), as it was given to ``fit``; the first of several."""
        rows = self._scorable(X)
        with np.errstate(over="ignore", invalid="ignore"):
            nearest, _ = _nearest(self.state_, self._prepared(rows))
        return decoded(self.state_.codes, self.state_.text)[nearest]

    def _component_shares(self, state: ClassGaussianState, rows: Rows) -> Attributions:
        rows = self._prepared(rows)
        nearest, _ = _nearest(state, rows)
        about_zero = replace(state.norm, mean=np.zeros_like(state.norm.mean))
        shares = about_zero.component_contributions(rows - state.means[nearest])
        return shares if state.background is None else np.hstack([shares, -state.background.component_contributions(rows)])

    def _norm(self, moments: Moments, spread: Vector) -> VarianceNorm:
        return VarianceNorm.of(
            moments.mean,
            estimated(self.covariance, moments),
            rank_tolerance=self.rank_tolerance,
            precision=self.precision,
            spread=spread,
            directions=moments.count - 1,
        )

    def _prepared(self, rows: Rows) -> Rows:
        return unit_length(rows) if self.normalize else rows


def _nearest(state: ClassGaussianState, rows: Rows) -> tuple[NDArray[np.int_], Scores]:
    """Number of the nearest class of each of ``rows`` (n, d), and the squared distance to its mean.

    The nearest is found through products, which cancel; its distance is then computed without. Where the row lies so much
    nearer to it than to the mean of all rows that fewer than six digits are left, both are computed again from there.
    """
    numbers, squared = np.empty(len(rows), np.int_), np.empty(len(rows))
    # The search loses digits of squares in float64, the difference digits of lengths in the precision of scoring.
    cancelled = max(np.finfo(np.float64).eps / LEAST_DIGITS, (np.finfo(state.norm.whiten.dtype).eps / LEAST_DIGITS) ** 2)
    lengths = np.einsum("ij,ij->i", state.centres, state.centres)
    for start in range(0, len(rows), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        whitened = state.norm.whitened(rows[block]).astype(np.float64, copy=False)
        numbers[block] = np.argmin(lengths - 2 * whitened @ state.centres.T, axis=1)
        gaps = whitened - state.centres[numbers[block]]
        squared[block] = np.vecdot(gaps, gaps)
        lost = start + np.flatnonzero(squared[block] < cancelled * np.vecdot(whitened, whitened))
        if len(lost):
            numbers[lost], squared[lost] = _nearest_about(state, rows[lost], numbers[lost])
    return numbers, squared


def _nearest_about(state: ClassGaussianState, rows: Rows, numbers: NDArray[np.int_]) -> tuple[NDArray[np.int_], Scores]:
    """As ``_nearest``, from differences to the means of classes ``numbers`` (n,), near to the ``rows``, in place of the mean of all."""
    for _ in range(SEARCHES):
        gaps = ((rows - state.means[numbers]).astype(state.norm.whiten.dtype) @ state.norm.whiten).astype(np.float64, copy=False)
        found = numbers.copy()
        for number in np.unique(numbers):
            members, apart = numbers == number, state.centres - state.centres[number]
            found[members] = np.argmin(np.vecdot(apart, apart) - 2 * gaps[members] @ apart.T, axis=1)
        if (found == numbers).all():
            break
        numbers, gaps = found, gaps - (state.centres[found] - state.centres[numbers])
    return numbers, np.vecdot(gaps, gaps)
