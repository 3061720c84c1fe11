"""The variance norm: how many standard deviations a row lies from a mean, in the worst direction."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dtrmv, strmv
from scipy.linalg.lapack import dpstrf, dtrtri

from detectors.arrays import Attributions, Matrix, Rows, Scores, Vector
from detectors.blas import times_lower
from detectors.cholesky import factor

BLOCK_ROWS = 512  # rows whitened at a time, so that they and what comes of them stay in cache
FEW_BYTES = 2**14  # in rows, below which the call of a product costs more than the zeros it multiplies
MANY_BYTES, MANY_ROWS = 2**19, 256  # from which on one product with a triangle takes less time than products of its parts
PART_BYTES = 256  # of a row of the matrix, in such a part
SQUARED_COLUMNS = 512  # whose squares are added up in single precision
SINGLE_TOLERANCE = 1e-5  # relative error of a score beyond which single precision is refused
SINGLE_RANGE = 1e30  # of standard deviations and their inverses, so that the rows around them fit single precision too
FEW_DIRECTIONS = 1 / 8  # of the columns, up to which a multiple of the identity plus so many directions is factored as such
STEADY_SHARE = 1e-3  # of the variance of each column that the multiple must be for that, lest differences cancel
VANISHING = 1e-300  # variance up to which a column counts as one that never varied: float64 has no digits left for it


@dataclass(frozen=True)
class VarianceNorm:
    r"""Squared Mahalanobis distance to a mean, defined for singular covariances too.

    .. math:: \|x\|^2 = \sum_k \frac{\langle v_k, D^{-1}(x - \mu)\rangle^2}{\max(\lambda_k, \varepsilon\lambda_1)},
        \qquad D^{-1}\Sigma D^{-1} = \sum_k \lambda_k v_k v_k^\top, \quad D^2 = \operatorname{diag}\Sigma

    **Rank rule.** A direction is *seen* if its eigenvalue, after each column has been divided by
    its standard deviation, exceeds ``rank_tolerance`` :math:`\varepsilon` times the largest one.
    Dividing first makes the rule indifferent to the columns' units.

    **Residual term.** In the variance norm of the literature an unseen direction has infinite
    length. Here it has the variance of the cut, so that its share of the score is finite and large:
    leaving the span of the data always adds to the score, where a pseudo-inverse would ignore it.

    The whitening matrix is lower triangular; where the rows are projected first (``basis``) it is
    (d, r), with zeros above its diagonal too, and directions outside the basis count nothing.

    **Precision.** The matrix is float64 or float32. With float32, rows are centred to full precision
    and whitened in float32; squares are added in float32 within a block of columns and in float64
    over the blocks. Rows like those learned then get scores within 1e-5 of those in float64, and a
    covariance too close to singular for that is refused.

    Cost: once :math:`2d^3/3` floating-point operations and four matrices (d, d) where the factor
    shows that every direction is seen, else those of an eigendecomposition, some 20 times as many; :math:`d r` per row.

    >>> norm = VarianceNorm.of(np.zeros(2), np.array([[4.0, 0.0], [0.0, 0.0]]))
    >>> norm.squared(np.array([[2.0, 0.0]]))
    array([1.])
    >>> bool(norm.squared(np.array([[2.0, 1e-3]]))[0] > 1), int(norm.rank)
    (True, 1)
    """

    mean: Vector  # (d,)
    whiten: NDArray[np.floating[Any]]  # (d, r); |(x - mean) @ whiten|^2 is the squared norm
    rank: int  # number of directions seen

    @classmethod
    def of(
        cls,
        mean: Vector,
        covariance: Matrix,
        *,
        rank_tolerance: float = 1e-10,
        basis: Matrix | None = None,
        precision: str = "float64",
        spread: Vector | None = None,
        directions: int | None = None,
    ) -> VarianceNorm:
        """Norm of ``covariance`` (r, r) around ``mean`` (d,); ``basis`` (d, r) where rows are projected first.

        ``spread`` (d,) is the variance of the learned rows' columns around ``mean`` where it is not that of ``covariance``.
        ``directions`` is the number of those by which ``covariance`` differs from a multiple of the identity, at most, where it is known:
        if they are few, the factor takes :math:`O(d^2)` operations each.
        Raises ValueError where ``precision`` is "float32" and scores of rows like those learned would err by more than 1e-5.
        """
        variances = np.diag(covariance)
        # A column that never varied has no unit of its own: it takes that of the average column.
        varied = variances > VANISHING
        scale = np.sqrt(np.where(varied, variances, variances.mean() if varied.any() else 1.0))
        correlation = covariance / scale
        correlation /= scale[:, None]
        correlation[~varied], correlation[:, ~varied] = 0, 0
        whiten, rank = None, len(scale)
        if directions is not None and directions <= FEW_DIRECTIONS * len(scale):
            # Of one column more than directions some combination sees none of them: its variance, the smallest, is the multiple.
            noise = np.linalg.eigvalsh(covariance[: directions + 1, : directions + 1])[0] / np.square(scale)
            if noise.min() > max(STEADY_SHARE, rank_tolerance * len(scale)):  # no eigenvalue exceeds the number of columns
                whiten = _whitening_of_few(correlation, noise, directions)
        if whiten is None:
            whiten, rank = _whitening(correlation, rank_tolerance)
        whiten /= scale[:, None]
        if basis is not None:
            whiten = _triangular(basis @ whiten)
            variances = np.einsum("ij,jk,ik->i", basis, covariance, basis, optimize=True)
        if precision == "float32":
            _check_single(whiten, variances if spread is None else spread)
        return cls(mean, whiten.astype(precision, copy=False), rank)

    def squared(self, rows: Rows) -> Scores:
        """Squared norm of each row (n, d), in units of variance. Rows in float32 are not copied as a whole."""
        if len(rows) == 1 and self._triangle is not None:
            product = strmv if self._triangle.dtype == np.float32 else dtrmv
            whitened = product(self._triangle, self._centred(rows[0]), overwrite_x=1)
            squares = np.empty(1)
            squares[0] = whitened.dot(whitened)
            return squares
        squares = np.zeros(len(rows))
        for start in range(0, len(rows), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            whitened = self.whitened(rows[block])
            for left in range(0, whitened.shape[1], SQUARED_COLUMNS):
                part = whitened[:, left : left + SQUARED_COLUMNS]
                squares[block] += np.vecdot(part, part)
        return squares

    def whitened(self, rows: Rows) -> NDArray[np.floating[Any]]:
        """(x - mean) @ whiten of each of ``rows`` (n, d), as (n, r): their squared distances are those of the norm."""
        (width, rank), centred = self.whiten.shape, np.ascontiguousarray(self._centred(rows))
        if centred.nbytes >= MANY_BYTES or len(rows) >= MANY_ROWS:
            rest = centred[:, rank:] @ self.whiten[rank:] if rank < width else 0
            product = times_lower(centred[:, :rank], np.ascontiguousarray(self.whiten[:rank]))
            return np.asarray(product + rest) if rank < width else product
        columns = PART_BYTES // self.whiten.itemsize
        if centred.nbytes < FEW_BYTES or rank <= columns:
            return np.asarray(centred @ self.whiten)
        found = np.empty((len(rows), rank), self.whiten.dtype)
        for left in range(0, rank, columns):  # above its diagonal the matrix is zero
            np.matmul(centred[:, left:], self.whiten[left:, left : left + columns], out=found[:, left : left + columns])
        return found

    def contributions(self, rows: Rows) -> Attributions:
        r"""Share of each feature in the squared norm: :math:`(x-\mu) \circ P(x-\mu)`, with P the precision.

        The shares of a row add up to its squared norm. A share is negative where a feature makes
        the others' deviation more plausible.
        """
        return self.shares(rows - self.mean)

    def shares(self, centred: Rows) -> Attributions:
        """``contributions`` of rows (n, d) whose centre has been taken off already."""
        return np.asarray(centred * (centred @ self.whiten @ self.whiten.T))

    def components(self) -> tuple[Vector, Matrix]:
        """Variances (r,), largest first, and orthonormal directions (d, r) of the principal components. Cost: O(d r²)."""
        directions, inverse, _ = np.linalg.svd(self.whiten.astype(np.float64, copy=False), full_matrices=False)
        return 1 / np.square(inverse[::-1]), directions[:, ::-1]

    def component_contributions(self, rows: Rows) -> Attributions:
        """Share (n, r) of each principal component in the squared norm, largest variance first: all are positive and add up to it."""
        variances, directions = self.components()
        return np.square((rows - self.mean) @ (directions / np.sqrt(variances)))

    def _centred(self, block: Rows) -> NDArray[Any]:
        """``block`` without the mean, in the precision of the whitening matrix and as exact as that has it."""
        if self.whiten.dtype == np.float64 or block.dtype != np.float32:
            return np.asarray((block - self.mean).astype(self.whiten.dtype, copy=False))
        head, tail = self._parts
        centred = block - head
        centred -= tail
        return np.asarray(centred)

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: what is made of them is made again where a copy goes."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @cached_property
    def _triangle(self) -> NDArray[np.floating[Any]] | None:
        """The whitening matrix as BLAS takes it, by columns, where it is square."""
        return self.whiten.T if self.whiten.shape[0] == self.whiten.shape[1] else None

    @cached_property
    def _parts(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The mean as a sum of two vectors in single precision, larger first."""
        head = self.mean.astype(np.float32)
        return head, (self.mean - head).astype(np.float32)


def _whitening(correlation: Matrix, rank_tolerance: float) -> tuple[Matrix, int]:
    """Lower triangular W with W Wᵀ the inverse of ``correlation``, unseen directions at the cut; and the rank.

    The smallest eigenvalue is at least 1 / |W|², in the Frobenius norm, and the largest at most the
    largest row sum: where these bounds keep the rank rule, no eigenvalue has to be known.
    """
    largest = float(np.abs(correlation).sum(axis=1).max())
    # Reversed in rows and columns, so that the transposed inverse of the lower factor is lower again.
    if (found := factor(correlation[::-1, ::-1])) is not None:
        inverse, _ = dtrtri(found, lower=1, overwrite_c=1)
        whiten = np.ascontiguousarray(inverse.T[::-1, ::-1])
        if np.square(np.linalg.norm(whiten)) * largest * rank_tolerance < 1:
            return whiten, len(whiten)
    values, vectors = np.linalg.eigh(correlation)
    floor = rank_tolerance * (values[-1] if values[-1] > 0 else 1.0)
    return _triangular(vectors / np.sqrt(np.maximum(values, floor))), int((values > floor).sum())


def _whitening_of_few(correlation: Matrix, noise: Vector, directions: int) -> Matrix:
    """As ``_whitening``, of ``correlation`` = diag(``noise``) + B Bᵀ with up to ``directions`` columns in B; that is overwritten.

    Column k of the factor is what the k-th feature deviates from its prediction by the later ones, over its standard deviation. The
    prediction goes through the common factors, whose covariance given the later features, C, is updated as in the Kalman filter:
    with h = C b_k and v = noise_k + b_kᵀ h, C becomes C - h hᵀ / v.
    """
    width = len(noise)
    correlation[np.diag_indices(width)] -= noise
    rounding = 4 * np.finfo(np.float64).eps * (directions + 16)  # of what is left of a variance of 1 without them
    loading, pivots, found, _ = dpstrf(correlation.T, tol=rounding, lower=1, overwrite_a=1)
    rank = min(int(found), directions)
    loadings = np.empty((width, rank))
    loadings[pivots - 1] = np.tril(loading[:, :rank])
    covariance, gains, deviations = np.eye(rank), np.empty((width, rank)), np.empty(width)
    for k in range(width - 1, -1, -1):
        gain = covariance @ loadings[k]
        variance = noise[k] + loadings[k] @ gain
        covariance -= np.outer(gain, gain / variance)
        deviations[k] = np.sqrt(variance)
        gains[k] = gain / deviations[k]
    weights, whiten = loadings / -noise[:, None], np.zeros((width, width))
    for start in range(0, width, BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        whiten[start:, block] = weights[start:] @ gains[block].T
        whiten[block, block] = np.tril(whiten[block, block], -1) + np.diag(1 / deviations[block])
    return whiten


def _triangular(whiten: Matrix) -> Matrix:
    """A matrix that is zero above its diagonal and has the same product with its own transpose, all that enters the norm."""
    return np.ascontiguousarray(np.asarray(np.linalg.qr(whiten.T, mode="r")).T)


def _check_single(whiten: Matrix, variances: Vector) -> None:
    """Refuse float32 where columns leave its range, or cancellation in the products of rows like those learned would eat up its digits.

    Each whitened column has variance 1 but adds up terms of variances var_i w_ij²; their rounding errors do not cancel.
    """
    deviations = np.sqrt(variances[variances > 0])
    if max(deviations.max(initial=0), np.abs(whiten).max(initial=0)) > SINGLE_RANGE:
        raise ValueError(
            f"precision='float32' cannot hold standard deviations from {deviations.min():.2g} to {deviations.max():.2g}: "
            f"use precision='float64', or scale the features to between {1 / SINGLE_RANGE:.0e} and {SINGLE_RANGE:.0e}"
        )
    error = float(np.finfo(np.float32).eps * np.sqrt((np.square(whiten) * variances[:, None]).sum(axis=0).mean()))
    if error > SINGLE_TOLERANCE:
        raise ValueError(
            f"precision='float32' would put an error of about {error:.1g} on the scores, more than {SINGLE_TOLERANCE:g}: "
            "the covariance is too close to singular. Use precision='float64', or a covariance that shrinks more"
        )
