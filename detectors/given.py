"""Distances and similarities that the user computed, among things of any kind."""

from __future__ import annotations

import numpy as np

from detectors.arrays import Rows
from detectors.similarity import SYMMETRIC, checked

FORMS = ("precomputed", "similarity")  # of what is given: distances, or similarities


def among(matrix: Rows, form: str) -> Rows:
    """Distances (n, n) among the fitted things. Raises ValueError for what is no such matrix, naming what is wrong.

    >>> among(np.array([[1.0, 0.5], [0.5, 1.0]]), "similarity").round(6)
    array([[0.      , 0.693147],
           [0.693147, 0.      ]])
    """
    distances = to_fitted(matrix, form)
    checked(np.exp(-distances / (distances.max() or 1)))
    return distances


def to_fitted(matrix: Rows, form: str) -> Rows:
    """Distances (m, n) of m things to the fitted ones. Raises ValueError for a negative distance or a similarity outside 0 to 1."""
    if form == "precomputed":
        if (matrix < 0).any():
            raise ValueError(f"distances cannot be negative, but one is {matrix.min():.3g}")
        return matrix
    if matrix.min() < 0 or matrix.max() > 1 + SYMMETRIC:
        raise ValueError(f"similarities lie between 0 and 1, but range from {matrix.min():.3g} to {matrix.max():.3g}")
    return np.asarray(np.log(1 / np.clip(matrix, np.finfo(float).tiny, 1)))
