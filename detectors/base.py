"""The contract of every detector, and all that is the same for all of them.

A detector is its parameters plus one frozen state. An author writes ``learn``, which turns rows
into a state, and ``anomaly_scores``, which turns a state and rows into scores, both pure; where
the mathematics gives it, also ``attribute``. Validation and scikit-learn's face are written here, once. Scores grow with anomaly;
scikit-learn's opposite sign exists in this module and nowhere else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import isfinite
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import validate_data

from detectors.arrays import Attributions, Rows, Scores
from detectors.labels import checked

NUMBERS = ("float64", "float32", "float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
LARGEST = np.finfo(np.float64).max
THRESHOLD_ROWS = 4096  # training rows that set the threshold of ``predict``, drawn with seed 0 where there are more
LEFT_OUT_NUMBERS = 2**21  # of rows with a feature left out, scored at a time
SMALLEST_LEARNED = 1e-70  # below, sums of fourth powers are lost to underflow
LARGEST_LEARNED = 1e70  # sums of fourth powers over any number of rows that memory holds stay finite

StateT = TypeVar("StateT")


class Detector(OutlierMixin, BaseEstimator, ABC, Generic[StateT]):  # type: ignore[misc]  # sklearn is untyped
    """Base of all detectors. Subclasses are final and write ``__init__``, ``learn`` and ``anomaly_scores``."""

    State: ClassVar[type]  # the frozen dataclass that ``learn`` returns
    VARIANTS: ClassVar[tuple[dict[str, Any], ...]] = ({},)  # parameters under which the contract is checked
    ATTRIBUTION: ClassVar[Literal["additive", "leave_one_out"]] = "leave_one_out"  # what ``attributions`` are
    LABELLED: ClassVar[bool] = False  # whether rows are learned with their classes: ``learn`` and ``statistics`` then take ``labels``
    DTYPES: ClassVar[tuple[str, ...]] = ("float64",)  # of the rows that a subclass's methods are given; others become the first
    _parameter_constraints: ClassVar[dict[str, Any]] = {}  # legal values, in scikit-learn's notation
    contamination: float
    state_: StateT

    @abstractmethod
    def learn(self, rows: Rows) -> StateT:
        """State of normal ``rows`` (n, d), n >= 2, finite, of one of ``DTYPES``."""

    @abstractmethod
    def anomaly_scores(self, state: StateT, rows: Rows) -> Scores:
        """Score (n,) of each of ``rows`` (n, d) under ``state``; each row is scored alone."""

    def training_scores(self, state: StateT, rows: Rows) -> Scores:
        """Scores (n,) of the fitted ``rows``, as if each had not been fitted where that can be had; here their plain scores."""
        return self.anomaly_scores(state, rows)

    def attribute(self, state: StateT, rows: Rows) -> Attributions:
        """Share (n, d) of each feature in the score of each row, shares that add up to the score where ATTRIBUTION is "additive".

        Here: by leaving one feature out, that is, how far the score falls when the feature takes the value of ``baseline``.
        Cost: d scores per row.
        """
        return leave_one_out(lambda changed: self.anomaly_scores(state, changed), rows, self.baseline(state, rows))

    def baseline(self, state: StateT, rows: Rows) -> Rows:
        """Normal values (n, d) for the features of each row, for attribution by leaving one out."""
        raise NotImplementedError(f"{type(self).__name__} gives no attribution")

    def chi_square_degrees(self, state: StateT) -> int | None:
        """Degrees of freedom of the chi-square distribution of normal scores under the detector's own model; None without one."""
        return None

    def facts(self, state: StateT) -> dict[str, float]:
        """What the fit found that its user should know, by name; finite numbers."""
        return {}

    def off_span(self, scores: Scores) -> NDArray[np.bool_]:
        """Which of ``scores`` (n,) are of rows that left the directions in which normal rows vary; none where no score tells."""
        return np.zeros(len(scores), dtype=np.bool_)

    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Learn the state of normal rows ``X`` (n, d); ``y`` (n,) is the class of each row where ``LABELLED``, else ignored.

        At most 4096 of the rows set the threshold of ``predict``.
        Raises ValueError for fewer than two rows, for values that are not finite, for values so
        large that their squares are not, and for classes that are missing or neither text nor whole numbers.
        """
        self._validate_params()
        rows = self._learnable(X, reset=True, ensure_min_samples=2)
        self.state_ = self.learn(rows, **self._labels(y, len(rows)))
        some = rows
        if len(rows) > THRESHOLD_ROWS:  # a quantile of so many rows is near enough to that of all
            some = rows[np.sort(np.random.default_rng(0).choice(len(rows), THRESHOLD_ROWS, replace=False))]
        self.offset_ = -np.quantile(self._finite(self.training_scores, some), 1 - self.contamination)
        return self

    def fit_predict(self, X: ArrayLike, y: Any = None) -> NDArray[np.int_]:
        """``fit`` and ``predict`` of the same rows."""
        return self.fit(X, y).predict(X)

    def scores(self, X: ArrayLike) -> Scores:
        """Score (n,) of each row of ``X`` (n, d), higher = more anomalous, always finite."""
        return self._finite(self.anomaly_scores, self._scorable(X))

    def attributions(self, X: ArrayLike) -> Attributions:
        """Share (n, d) of each feature in the score of each row of ``X`` (n, d), always finite; see ``ATTRIBUTION``.

        Additive shares add up to the score unless it is too large for float64.
        """
        return self._finite_shares(self.attribute, self._scorable(X))

    def score_samples(self, X: ArrayLike) -> Scores:
        """The scores negated: scikit-learn counts from anomalous up to normal."""
        return -self.scores(X)

    def decision_function(self, X: ArrayLike) -> Scores:
        """``score_samples`` shifted so that the share ``contamination`` of the training rows is negative."""
        samples = self.score_samples(X)
        if not hasattr(self, "offset_"):
            raise NotFittedError(
                f"this {type(self).__name__} has no threshold: partial_fit, merge and forget never see all rows "
                "at once. Use scores() with a Calibration on held-out rows, or fit()"
            )
        return samples - self.offset_

    def predict(self, X: ArrayLike) -> NDArray[np.int_]:
        """+1 for rows within the threshold of ``contamination``, -1 beyond it."""
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def parameters(self) -> dict[str, Any]:
        """The parameters as JSON has them: tuples and arrays are lists, numpy's numbers are numbers."""
        return {name: _plain(value) for name, value in self.get_params(deep=False).items()}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self.LABELLED
        if self.LABELLED:
            tags.estimator_type = None  # scikit-learn's outlier detectors are fitted without y
        return tags

    def _finite(self, score: Callable[[StateT, Rows], Scores], rows: Rows) -> Scores:
        """Scores of validated rows; one too large for float64 becomes the largest float64."""
        with np.errstate(over="ignore", invalid="ignore"):
            scores = score(self.state_, rows)
            return scores if isfinite(np.add.reduce(scores)) else np.where(np.isfinite(scores), scores, LARGEST)

    def _finite_shares(self, attribute: Callable[[StateT, Rows], Attributions], rows: Rows) -> Attributions:
        """Shares of validated rows; one too large for float64 is cut so that those of a row still add up."""
        with np.errstate(over="ignore", invalid="ignore"):
            shares = attribute(self.state_, rows)
        limit = LARGEST / shares.shape[1]
        return np.clip(np.nan_to_num(shares, nan=0.0), -limit, limit)

    def _labels(self, y: ArrayLike | None, count: int) -> dict[str, Any]:
        """What ``learn`` and ``statistics`` take besides rows: the class of each of ``count`` rows where ``LABELLED``."""
        return {"labels": checked(y, count, type(self).__name__)} if self.LABELLED else {}

    def _require_state(self) -> None:
        if not hasattr(self, "state_"):
            raise NotFittedError(f"this {type(self).__name__} has learned nothing yet: call fit first")

    def _scorable(self, X: ArrayLike) -> Rows:
        self._require_state()
        return self._checked(X)

    def _checked(self, X: ArrayLike, *, assume_finite: bool = False) -> Rows:
        """Validated rows of the width known. A plain array in order is looked at once: scikit-learn's checks take longer than a score."""
        if (
            type(X) is np.ndarray
            and X.ndim == 2
            and X.dtype in self.DTYPES
            and X.shape[1] == self.n_features_in_
            and len(X)
            and X.flags.c_contiguous
            and not hasattr(self, "feature_names_in_")  # scikit-learn warns of rows without names where there were some
            and (assume_finite or isfinite(np.einsum("ij->", X)))
        ):
            return X
        return self._validated(X, reset=False)

    def _learnable(self, X: ArrayLike, *, reset: bool, ensure_min_samples: int = 1, assume_finite: bool = False) -> Rows:
        if reset:
            rows = self._validated(X, reset=True, ensure_min_samples=ensure_min_samples)
        else:
            rows = self._checked(X, assume_finite=assume_finite)
        if rows.dtype == np.float32:  # which holds nothing beyond these limits
            return rows
        largest = max(float(rows.max()), -float(rows.min()))
        if largest > LARGEST_LEARNED:
            raise ValueError(f"values up to {largest:.3g} are too large to learn: scale the features to below {LARGEST_LEARNED:.0e}")
        if 0 < largest < SMALLEST_LEARNED:
            raise ValueError(f"values of at most {largest:.3g} are too small to learn: scale the features to above {SMALLEST_LEARNED:.0e}")
        return rows

    def _validated(self, X: ArrayLike, *, reset: bool, ensure_min_samples: int = 1) -> Rows:
        try:
            rows: Rows = validate_data(self, X, dtype=self.DTYPES, reset=reset, ensure_min_samples=ensure_min_samples)
        except ValueError as error:
            raise ValueError(_not_finite(X) or str(error)) from None
        return rows


def leave_one_out(score: Callable[[Rows], Scores], rows: Rows, baseline: Rows) -> Attributions:
    """How far the score of each of ``rows`` (n, d) falls when each of its features in turn takes its value in ``baseline`` (n, d).

    >>> leave_one_out(lambda rows: np.square(rows).sum(axis=1), np.array([[3.0, 1.0]]), np.zeros((1, 2)))
    array([[9., 1.]])
    """
    n, width = rows.shape
    whole, shares = score(rows), np.empty((n, width))
    step = max(1, LEFT_OUT_NUMBERS // width)
    cells = np.arange(n * width)
    for start in range(0, len(cells), step):
        row, column = np.divmod(cells[start : start + step], width)
        changed = rows[row]
        changed[np.arange(len(row)), column] = baseline[row, column]
        shares[row, column] = whole[row] - score(changed)
    return shares


def _not_finite(X: ArrayLike) -> str:
    """What is not finite in ``X``, and where, as a sentence; empty where all is, and for what is no table of floats."""
    try:
        rows = np.asarray(X)
    except ValueError:
        return ""
    if rows.ndim != 2 or rows.dtype.kind != "f" or np.isfinite(rows).all():
        return ""
    row, column = np.argwhere(~np.isfinite(rows))[0]
    what = "NaN" if np.isnan(rows[row, column]) else "infinity"
    return f"Input X contains {what} at row {row}, column {column}: all values must be finite"


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value
