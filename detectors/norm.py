"""The variance norm: how many standard deviations a row lies from a mean, in the worst direction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detectors.arrays import Attributions, Matrix, Rows, Scores, Vector

BLOCK_ROWS = 2048  # rows whitened at a time, so that temporaries stay small


@dataclass(frozen=True, slots=True)
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

    The whitening matrix is lower triangular unless the rows are projected first (``basis``), in
    which case it is (d, r) and directions outside the basis count nothing.
    Cost: :math:`O(d^3)` once, :math:`2 d r` floating-point operations per row.

    >>> norm = VarianceNorm.of(np.zeros(2), np.array([[4.0, 0.0], [0.0, 0.0]]))
    >>> norm.squared(np.array([[2.0, 0.0]]))
    array([1.])
    >>> bool(norm.squared(np.array([[2.0, 1e-3]]))[0] > 1), int(norm.rank)
    (True, 1)
    """

    mean: Vector  # (d,)
    whiten: Matrix  # (d, r); |(x - mean) @ whiten|^2 is the squared norm
    rank: int  # number of directions seen

    @classmethod
    def of(cls, mean: Vector, covariance: Matrix, *, rank_tolerance: float = 1e-10, basis: Matrix | None = None) -> VarianceNorm:
        """Norm of ``covariance`` (r, r) around ``mean`` (d,); ``basis`` (d, r) where rows are projected first."""
        variances = np.diag(covariance)
        # A column that never varied has no unit of its own: it takes that of the average column.
        scale = np.sqrt(np.where(variances > 0, variances, variances.mean() or 1.0))
        values, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
        floor = rank_tolerance * (values[-1] if values[-1] > 0 else 1.0)
        whiten = vectors / np.sqrt(np.maximum(values, floor)) / scale[:, None]
        # Only whiten @ whiten.T enters the norm, so a triangular factor of it serves as well.
        whiten = np.asarray(np.linalg.qr(whiten.T, mode="r")).T if basis is None else basis @ whiten
        return cls(mean, np.ascontiguousarray(whiten), int((values > floor).sum()))

    def squared(self, rows: Rows) -> Scores:
        """Squared norm of each row (n, d), in units of variance."""
        squares = np.empty(len(rows))
        for start in range(0, len(rows), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            whitened = (rows[block] - self.mean) @ self.whiten
            squares[block] = np.einsum("ij,ij->i", whitened, whitened)
        return squares

    def contributions(self, rows: Rows) -> Attributions:
        r"""Share of each feature in the squared norm: :math:`(x-\mu) \circ P(x-\mu)`, with P the precision.

        The shares of a row add up to its squared norm. A share is negative where a feature makes
        the others' deviation more plausible.
        """
        centred = rows - self.mean
        return centred * (centred @ self.whiten @ self.whiten.T)
