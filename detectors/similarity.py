r"""Weightings, magnitudes and unexplained shares of things of any kind, from the similarities among them.

Leinster (2013, "The magnitude of metric spaces", definitions 1.1.1 to 1.1.3): for a matrix Z of similarities a weighting solves
:math:`Zw = \mathbf 1`, and the magnitude is the sum of w. Distances D of any kind give :math:`Z = e^{-tD}`. Rows, nodes of a graph and
strings are all the same here; what is asked of Z is that it is symmetric, has a diagonal of ones and is positive definite.

A path of three nodes, with its distances in steps, and three words with their edit distances:

>>> steps = np.array([[0, 1, 2], [1, 0, 1], [2, 1, 0]])
>>> weighting(np.exp(-steps)).round(6)
array([0.731059, 0.462117, 0.731059])
>>> edits = np.array([[0, 1, 4], [1, 0, 4], [4, 4, 0]])  # between "cat", "cart" and "dogs"
>>> round(magnitude(np.exp(-edits)), 6)
2.40974
>>> to_a_new_word = np.array([[1, 2, 4]])  # "cab"
>>> unexplained(np.exp(-edits), np.exp(-to_a_new_word)).round(6)
array([0.864531])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from numbers import Real
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from detectors.arrays import Matrix, Rows, Scores, Vector
from detectors.cholesky import factored_in_place

JITTERS = (0.0, 1e-12, 1e-10, 1e-8, 1e-6)  # added to the diagonal, the first that lets it factor: what rounding may ask for
SYMMETRIC = 1e-9  # largest difference between two entries that ought to be equal
INVERTED_COLUMNS = 512  # at a time

Thing = TypeVar("Thing")


def between(things: Sequence[Thing], others: Sequence[Thing], function: Callable[[Thing, Thing], float]) -> Matrix:
    """Distance or similarity (m, n) by ``function`` of each of m ``things`` to each of n ``others``.

    Where both are the same object the function is taken to be symmetric and called once for each pair.
    Raises ValueError, naming the pair, where it returns something else than a finite number.

    >>> def letters(left, right):  # how many only one of the two words has
    ...     return len(set(left) ^ set(right))
    >>> words = ["cat", "cart", "dogs"]
    >>> between(words, words, letters)
    array([[0., 1., 7.],
           [1., 0., 8.],
           [7., 8., 0.]])
    >>> unexplained(np.exp(-between(words, words, letters)), np.exp(-between(["cab"], words, letters))).round(6)
    array([0.981684])
    """
    found = np.empty((len(things), len(others)))
    for i, thing in enumerate(things):
        for j, other in enumerate(others):
            found[i, j] = found[j, i] if others is things and j < i else _number(function(thing, other), i, j)
    return found


def _number(value: Any, i: int, j: int) -> float:
    """``value`` of the pair (i, j) as a finite number."""
    if not isinstance(value, Real) or not isfinite(value):
        raise ValueError(f"the function returned {value!r} of things {i} and {j}: it must return a finite number")
    return float(value)


def weighting(similarity: Matrix) -> Vector:
    """Weight (n,) of each of n things by ``similarity`` (n, n). Raises ValueError as ``checked`` and ``factored`` do."""
    return weights(factored(checked(similarity))[0])


def magnitude(similarity: Matrix) -> float:
    """The sum of all weights: the effective number of things. Raises ValueError as ``checked`` and ``factored`` do."""
    return float(weighting(similarity).sum())


def unexplained(similarity: Matrix, similarities: Rows) -> Scores:
    """Share (m,) of each of m new things that n things leave unexplained, by ``similarities`` (m, n) to those.

    It is 1 - zᵀZ⁻¹z, the Schur complement of Z in the matrix enlarged by the new thing. Raises ValueError as ``weighting`` does.
    """
    factor, jitter = factored(checked(similarity))
    return shares(factor, jitter, similarities)


def left_out(similarity: Matrix) -> Scores:
    """Share (n,) of each thing that the others leave unexplained, without a refit: 1 / (Z⁻¹)ᵢᵢ. Raises ValueError as ``checked`` does."""
    return shares_of_others(factored(checked(similarity))[0])


def checked(similarity: Matrix) -> Matrix:
    """A copy of ``similarity``. Raises ValueError where it is not square, symmetric, or has a diagonal other than ones."""
    copy = np.array(similarity, dtype=np.float64, order="C")
    if copy.ndim != 2 or copy.shape[0] != copy.shape[1]:
        raise ValueError(f"similarities among n things are a matrix of n rows and n columns, not of shape {copy.shape}")
    if not (np.abs(copy.diagonal() - 1) <= SYMMETRIC).all():
        raise ValueError("each thing must have similarity 1 to itself: the diagonal is not all ones")
    if not np.allclose(copy, copy.T, rtol=0, atol=SYMMETRIC):
        raise ValueError("the similarities are not symmetric: that of a to b must be that of b to a")
    return copy


def factored(similarity: Matrix) -> tuple[Matrix, float]:
    """Lower Cholesky factor, in the memory of ``similarity`` (n, n), and what had to be added to the diagonal for it to exist.

    Raises ValueError where no more than 1e-6 does not suffice: the matrix is then not positive definite.
    Cost: n³/3 floating-point operations.
    """
    ones = np.diag_indices_from(similarity)
    for jitter in JITTERS:
        similarity[ones] = 1 + jitter
        if factored_in_place(similarity):
            for row in range(len(similarity)):
                similarity[row, row + 1 :] = 0
            return similarity, jitter
        for row in range(len(similarity)):
            similarity[row, :row] = similarity[:row, row]
    raise ValueError(
        "the matrix of similarities is not positive definite: similarities that fall off with a distance need a metric of negative type, "
        "such as the Euclidean or the city-block one, or a larger t"
    )


def weights(factor: Matrix) -> Vector:
    """The solution (n,) of Z w = 1, from the factor of Z."""
    half = solve_triangular(factor, np.ones(len(factor)), lower=True, check_finite=False)
    return np.asarray(solve_triangular(factor, half, lower=True, trans=1, check_finite=False))


def shares(factor: NDArray[np.floating[Any]], jitter: float, similarities: Rows) -> Scores:
    """1 - zᵀZ⁻¹z for each row z of ``similarities`` (m, n), from the factor of Z, in the precision of that. Cost: n² per row."""
    solved = solve_triangular(factor, similarities.T.astype(factor.dtype, copy=False), lower=True, check_finite=False)
    return np.asarray(1 + jitter - np.einsum("ij,ij->j", solved, solved, dtype=np.float64))


def shares_of_others(factor: Matrix) -> Scores:
    """1 / (Z⁻¹)ᵢᵢ (n,), from the factor of Z, some columns of its inverse at a time. Cost: n³/3."""
    lengths = np.empty(len(factor))
    for start in range(0, len(factor), INVERTED_COLUMNS):
        width = min(INVERTED_COLUMNS, len(factor) - start)
        inverse = solve_triangular(factor[start:, start:], np.eye(len(factor) - start, width), lower=True, check_finite=False)
        lengths[start : start + width] = np.einsum("ij,ij->j", inverse, inverse)
    return 1 / lengths
