"""What a Cholesky factor tells of a symmetric matrix without its eigenvalues, which cost many times as much."""

from __future__ import annotations

import numpy as np
from scipy.linalg import lapack

from detectors.arrays import Matrix

SINGULAR = 1e-14  # reciprocal condition number


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
    return bool(lapack.dpotrf(lowered, lower=1)[1] == 0)


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
    factor, failed = lapack.dpotrf(matrix, lower=1)
    if not failed and lapack.dpocon(factor, np.abs(matrix).sum(axis=0).max(), uplo="L")[0] > SINGULAR:
        return np.asarray(lapack.dpotrs(factor, right, lower=1)[0])
    return np.asarray(np.linalg.pinv(matrix, hermitian=True) @ right)
