"""Sums over rows from which means, covariances and shrinkage intensities follow, as values that add up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from detectors.arrays import Matrix, Rows, Vector

NEGATIVE_SHARE = 1e-9  # of what a variance once was, that may be rounding when rows are taken out
BLOCK_ROWS = 4096  # rows centred at a time, so that no second copy of the data exists


@dataclass(frozen=True, slots=True)
class Moments:
    r"""Central moments of ``count`` rows up to the orders that Ledoit–Wolf needs.

    With :math:`c_i = x_i - \bar x` the fields are plain sums, so that two disjoint sets of rows
    are joined by ``+`` and a subset is taken out again by ``-``. Nothing else about the rows is
    kept: the size is :math:`d^2 + 3d + 3` numbers whatever the count.

    Joining shifts both sides to the common mean first (Chan, Golub and LeVeque 1983, eq. 2.1, here
    carried on to the third and fourth order), which keeps full precision at any offset of the data.

    **Taking out** is exact but for the rounding of the larger sum: what is left of a sum that once was p has an error of
    about 2e-16 p, more than a millionth of itself where it is less than p / 4e9. ``peaks`` keeps p, and ``ledoit_wolf`` and
    ``estimated`` in ``covariance`` refuse what is lost so.

    Cost: :math:`2 n d^2` floating-point operations for ``of``, :math:`O(d^2)` for ``+`` and ``-``.

    >>> rows = np.array([[0.0, 1.0], [2.0, 5.0], [4.0, 0.0]])
    >>> both = Moments.of(rows[:1]) + Moments.of(rows[1:])
    >>> np.allclose(both.scatter, Moments.of(rows).scatter)
    True
    >>> (both - Moments.of(rows[1:])).mean
    array([0., 1.])
    """

    count: int
    mean: Vector  # (d,)
    scatter: Matrix  # (d, d), sum of c c^T: the covariance is scatter / count
    cubic: Vector  # (d,), sum of |c|^2 c
    quartic: float  # sum of |c|^4
    peaks: Vector  # (d + 1,), the largest that the diagonal of the scatter and the quartic sum ever were, on which their rounding depends

    @classmethod
    def of(cls, rows: Rows, prepared: Callable[[Rows], Rows] = np.asarray) -> Moments:
        """Moments of ``rows`` (n, d), n >= 1, read twice: once for the mean, once centred.

        Rows of any numeric type are taken to float64, and ``prepared``, a block at a time: no second
        copy of them all exists. The mean is taken about the first row, so that a constant column
        has no variance at all, not that of its rounding.
        """

        def block(start: int) -> Rows:
            return prepared(rows[start : start + BLOCK_ROWS].astype(np.float64, copy=False))

        starts = range(0, len(rows), BLOCK_ROWS)
        first = block(0)[0].copy()
        width = len(first)
        total = np.zeros(width)
        for start in starts:
            total += (block(start) - first).sum(axis=0)
        mean = first + total / len(rows)
        scatter, cubic, quartic = np.zeros((width, width)), np.zeros(width), 0.0
        for start in starts:
            centred = block(start) - mean
            squares = np.einsum("ij,ij->i", centred, centred)
            scatter += centred.T @ centred
            cubic += squares @ centred
            quartic += float(squares @ squares)
        return cls(len(rows), mean, scatter, cubic, quartic, _sizes(scatter, quartic))

    @classmethod
    def of_scatter(cls, count: int, mean: Vector, scatter: Matrix, peaks: Vector) -> Moments:
        """Moments of which the orders beyond the second are unknown, and NaN; ``peaks`` (d,) are those of the scatter."""
        return cls(count, mean, scatter, np.full(len(mean), np.nan), np.nan, np.append(peaks, np.nan))

    def __add__(self, other: Moments) -> Moments:
        """Moments of the rows of both."""
        count = self.count + other.count
        mean = self.mean + (other.mean - self.mean) * (other.count / count)
        left, right = self._about(mean), other._about(mean)
        scatter, quartic = left[0] + right[0], left[2] + right[2]
        peaks = np.maximum(np.maximum(self.peaks, other.peaks), _sizes(scatter, quartic))
        return Moments(count, mean, scatter, left[1] + right[1], quartic, peaks)

    def __sub__(self, other: Moments) -> Moments:
        """Moments of the rows of ``self`` without those of ``other``, which must be among them.

        Raises ValueError where fewer than one row would be left, or where a variance would come out negative.
        """
        count = self.count - other.count
        if count < 1:
            raise ValueError(f"cannot take {other.count} rows out of {self.count}: at least one row must remain")
        mean = self.mean + (self.mean - other.mean) * (other.count / count)
        whole, part = self._about(mean), other._about(mean)
        scatter = whole[0] - part[0]
        peaks = np.maximum(np.maximum(self.peaks, other.peaks), _sizes(whole[0], whole[2]))
        check_not_negative(scatter, peaks[:-1])
        if count == 1:  # about which there is nothing to know but the row itself
            return Moments(1, mean, np.zeros_like(scatter), np.zeros_like(mean), 0.0, np.zeros_like(peaks))
        return Moments(count, mean, scatter, whole[1] - part[1], whole[2] - part[2], peaks)

    def _about(self, centre: Vector) -> tuple[Matrix, Vector, float]:
        """Scatter, cubic and quartic sums with each c replaced by c + shift, shift = mean - centre.

        All terms with a bare sum of c vanish, because c is centred at the own mean.
        """
        shift = self.mean - centre
        length = float(shift @ shift)
        along = self.scatter @ shift
        total = float(np.trace(self.scatter))
        scatter = self.scatter + self.count * np.outer(shift, shift)
        cubic = self.cubic + total * shift + 2 * along + self.count * length * shift
        quartic = self.quartic + 4 * float(self.cubic @ shift) + 4 * float(shift @ along) + 2 * length * total + self.count * length**2
        return scatter, cubic, quartic


def check_not_negative(scatter: Matrix, peaks: Vector) -> None:
    """Raise ValueError where the diagonal of ``scatter`` is negative by more than rounding of what it once was, ``peaks`` (d,)."""
    if (np.diag(scatter) < -NEGATIVE_SHARE * peaks).any():
        raise ValueError("rows to be taken out are not among those summed: a variance would be negative")


def _sizes(scatter: Matrix, quartic: float) -> Vector:
    return np.append(np.diag(scatter), quartic)
