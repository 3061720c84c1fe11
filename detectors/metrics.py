"""Distances between rows by name, and which rows have none."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from detectors.arrays import Rows
from detectors.neighbours import Distances
from detectors.rows import RowError

DEFINED = ("chebyshev", "cityblock", "euclidean", "hamming", "sqeuclidean")  # for all rows; infinite where too long for float64
DIRECTIONS = ("correlation", "cosine", "jensenshannon")  # that do not see how long a row is
NEEDS = {
    "braycurtis": "values that are not all 0 and no other row's negative, with sums that float64 can hold",
    "canberra": "values whose sums float64 can hold",
    "correlation": "values that are not all equal",
    "cosine": "values that are not all 0",
    "jensenshannon": "values of at least 0 that are not all 0",
}


def distances(rows: Rows, points: NDArray[np.floating[Any]], metric: str, first: int = 0) -> Distances:
    """Distances (m, n) of ``rows`` (m, d) to ``points`` (n, d) by one of the metrics in DEFINED and NEEDS, as scipy has them.

    Raises RowError, rows counted from ``first``, where a row lacks what its metric NEEDS.

    >>> distances(np.array([[0.0, 2.0]]), np.array([[1.0, 1.0], [3.0, 0.0]]), "cosine").round(6)
    array([[0.292893, 1.      ]])
    """
    if metric in DIRECTIONS:
        rows, points = _of_one_size(rows), _of_one_size(points)
    found = np.asarray(cdist(rows, points, metric))
    if metric in DEFINED:
        return found
    wrong = _outside(rows, metric)
    if not wrong.any() and not np.isfinite(found.sum()):
        undefined = (~np.isfinite(found)).sum(axis=1)
        wrong = undefined == undefined.max()  # the row to blame has none to all others, and these lack one each
    if wrong.any():
        raise RowError(
            first + int(wrong.argmax()),
            f"has no distance by metric={metric!r}, which needs {NEEDS[metric]}: leave the row out, choose another metric, or, "
            "where standardising made it so, give standardize=False",
        )
    return found


def _of_one_size(rows: NDArray[np.floating[Any]]) -> Rows:
    """Each of ``rows`` (m, d) over its largest number, lest squares leave the range of float64; rows of zeros as they are."""
    largest = np.abs(rows).max(axis=1, keepdims=True)
    return np.asarray(rows / np.where(largest > 0, largest, 1))


def _outside(rows: Rows, metric: str) -> NDArray[np.bool_]:
    """Which of ``rows`` (m, d) lack what ``metric`` needs although scipy may have numbers for them."""
    if metric == "correlation":
        return np.asarray(np.ptp(rows, axis=1) == 0)  # of which rounding may leave a direction
    if metric == "jensenshannon":
        return np.asarray((rows < 0).any(axis=1))
    return np.zeros(len(rows), dtype=np.bool_)
