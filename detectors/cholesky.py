"""What a Cholesky factor tells of a symmetric matrix without its eigenvalues, which cost many times as much."""

from __future__ import annotations

import numpy as np
from scipy.linalg import lapack, solve_triangular

from detectors.arrays import Matrix

SINGULAR = 1e-14  # reciprocal condition number
PANEL_COLUMNS = 2048  # factored at a time: with threads dpotrf of OpenBLAS 0.3.30 ends the process from 16 000 columns on


def factor(matrix: Matrix) -> Matrix | None:
    """The lower Cholesky factor L (n, n) of ``matrix`` = L Lᵀ; None where it is not positive definite. Cost: n³/3 operations.

    >>> factor(np.array([[4.0, 2.0], [2.0, 5.0]]))
    array([[2., 0.],
           [1., 2.]])
    >>> factor(np.array([[1.0, 2.0], [2.0, 1.0]]))
    """
    if len(matrix) <= PANEL_COLUMNS:
        found, failed = lapack.dpotrf(matrix, lower=1)
        return None if failed else np.asarray(found)
    found = np.array(matrix)
    return np.tril(found) if factored_in_place(found) else None


def factored_in_place(matrix: Matrix) -> bool:
    """Put the lower Cholesky factor into the lower triangle of ``matrix`` (n, n), and say whether there is one; keep what is above it.

    Memory: 4096 n numbers.
    """
    for start in range(0, len(matrix), PANEL_COLUMNS):
        stop = min(start + PANEL_COLUMNS, len(matrix))
        known, square, below = matrix[start:stop, :start], matrix[start:stop, start:stop], matrix[stop:, start:stop]
        panel, failed = lapack.dpotrf(square - known @ known.T, lower=1)
        if failed:
            return False
        np.copyto(square, panel, where=np.tri(stop - start, dtype=np.bool_))
        below -= matrix[stop:, :start] @ known.T
        below[...] = solve_triangular(panel, below.T, lower=True, check_finite=False).T
    return True


def exceeds(matrix: Matrix, least: float) -> bool:
    """Whether all eigenvalues of ``matrix`` exceed ``least``. Gershgorin's discs, where they tell, do without the factor.

    >>> exceeds(np.diag([1.0, 3.0]), 0.9), exceeds(np.diag([1.0, 3.0]), 1.1)
    (True, False)
    """
    diagonal = np.diag(matrix)
    if (diagonal + np.abs(diagonal) - np.abs(matrix).sum(axis=1) > least).all():
        return True
    lowered = matrix.copy()
    lowered[np.diag_indices_from(lowered)] -= least
    return factor(lowered) is not None


def repaired(matrix: Matrix, least_share: float) -> Matrix:
    """``matrix`` shrunk toward a multiple of the identity, just as far as lifts all eigenvalues to ``least_share`` of their mean.

    >>> repaired(np.diag([-1.0, 3.0]), 0.5).diagonal()
    array([0.5, 1.5])
    """
    mean = float(np.trace(matrix)) / len(matrix)
    least = least_share * mean
    if exceeds(matrix, least):
        return matrix
    smallest = float(np.linalg.eigvalsh(matrix)[0])
    share = max(0.0, (least - smallest) / (mean - smallest))
    return (1 - share) * matrix + share * mean * np.eye(len(matrix))


def solved(matrix: Matrix, right: Matrix) -> Matrix:
    """Solution of ``matrix`` x = ``right`` for a matrix with no negative eigenvalue; the least one where it is singular to rounding.

    >>> solved(np.diag([2.0, 0.0]), np.eye(2))
    array([[0.5, 0. ],
           [0. , 0. ]])
    """
    found = factor(matrix)
    if found is not None and lapack.dpocon(found, np.abs(matrix).sum(axis=0).max(), uplo="L")[0] > SINGULAR:
        return np.asarray(lapack.dpotrs(found, right, lower=1)[0])
    return np.asarray(np.linalg.pinv(matrix, hermitian=True) @ right)
