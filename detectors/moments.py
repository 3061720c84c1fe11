"""Sums over rows from which means, covariances and shrinkage intensities follow, as values that add up."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import log2
from typing import Any

import numpy as np

from detectors.arrays import Matrix, Rows, Vector
from detectors.blas import add_square, mirror
from detectors.threads import shared_out

NEGATIVE_SHARE = 1e-9  # of what a variance once was, that may be rounding when rows are taken out
JOINED_ROWS = 64  # of matrices that are added up, at a time, which caches hold
CENTRE_ROWS = 64  # that the centre of sums is taken from
SAFE_RANGE = 1e4  # of values, and its inverse, between which they are not scaled before products in float32
SINGLE_RANGE = 1e16  # of the largest squared length in a block, and its inverse, between which products in float32 are safe
BLOCK_ROWS = 4096  # rows centred at a time, at most, so that no second copy of the data exists
BLOCK_BYTES = 2**21  # of such rows, which caches hold
LEAST_ROWS = 512  # in a block: fewer keep no product busy
PANEL_COLUMNS = 8192  # of products, at most: some of OpenBLAS's threads write where they must not from 19 500 symmetric columns on
PART_ROWS, PART_NUMBERS = 4096, 2**21  # that a thread adds up at a time, at least: as long as a join of sums is short beside it
THREADS, THREADS_BYTES = 8, 2**28  # that sum beside each other, at most, and of memory that they take, of THREAD_MATRICES (d, d) each
THREAD_MATRICES = 3  # its sums, the products of a block, and the block


@dataclass(frozen=True, slots=True)
class Moments:
    r"""Central moments of ``count`` rows up to the orders that Ledoit–Wolf needs.

    With :math:`c_i = x_i - \bar x` the fields are plain sums, so that two disjoint sets of rows
    are joined by ``+`` and a subset is taken out again by ``-``. Nothing else about the rows is
    kept: the size is :math:`d^2 + 3d + 5` numbers whatever the count.

    Joining shifts both sides to the common mean first (Chan, Golub and LeVeque 1983, eq. 2.1, here
    carried on to the third and fourth order), which keeps full precision at any offset of the data.

    **Taking out** is exact but for the rounding of the larger sum: what is left of a sum that once was p has an error of
    about 2e-16 p, more than a millionth of itself where it is less than p / 4e9. ``peaks`` keeps p, and ``ledoit_wolf`` and
    ``estimated`` in ``covariance`` refuse what is lost so. Once rows are taken out p is kept as the next power of two: p itself
    and what is left would together tell how far from the mean those rows lay.

    **Weights.** ``*`` lets rows count less, as those that grow old do: each sum is one of weighted rows then, with all that follows
    from its ratio to the ``mass``. Of a mean of such rows the variance is that of ``effective`` rows of equal weight.

    Cost: :math:`2 n d^2` floating-point operations for ``of``, :math:`O(d^2)` for ``+``, ``-`` and ``*``.

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
    weight: float = 1.0  # mean weight of a row
    square: float = 1.0  # mean squared weight of a row

    @property
    def mass(self) -> float:
        """Sum of the weights."""
        return self.count * self.weight

    @property
    def effective(self) -> float:
        """Number of rows of equal weight whose mean would vary as much: squared sum of weights over sum of squared weights (Kish 1965)."""
        return self.count * (self.weight**2 / self.square)

    @classmethod
    def of(cls, rows: Rows, prepared: Callable[[Rows], Rows] = np.asarray, *, single: bool = False) -> Moments:
        """Moments of ``rows`` (n, d), n >= 1, read once, in blocks: no second copy of them all exists.

        Each block goes to float64 and through ``prepared``. ``single`` multiplies blocks in float32 instead, at twice the speed,
        and adds the products up in float64: the scatter then errs by some 1e-7 of its largest entries, at any offset. Sums
        are taken about a centre from a few of the rows, and moved to the mean at the end; in a constant column that centre is
        its value, so that it has no variance at all, not that of its rounding.

        Many rows are summed in parts beside each other, by as many threads as BLAS may have: up to 8, which take up to 256 MB. The sums do
        not depend on how many, but where there is one part, whose products then have all threads of BLAS.
        """
        kind = np.float32 if single and rows.dtype in (np.float16, np.float32) else np.float64
        multiplied, own = np.float32 if single else np.float64, threading.local()

        def block(chosen: slice) -> Rows:
            return prepared(rows[chosen].astype(kind, copy=False))

        some = block(slice(None, None, max(1, len(rows) // CENTRE_ROWS)))
        centre = _centre(some)
        unit = _unit(some - centre) if single else 1.0
        about = centre if unit == 1 else centre / unit

        def summed(part: range) -> _Sums:
            """Sums over the blocks that begin at each of ``part``."""
            sums = _Sums(len(centre))
            if not hasattr(own, "buffer"):
                own.buffer = sums.buffer(part.step, multiplied)
            for start in part:
                some = block(slice(start, start + part.step))
                some = some if unit == 1 else some / unit
                with np.errstate(over="ignore"):  # float32 that overflows is added in float64; fourth powers of what is huge are infinite
                    if not sums.add(some, about, own.buffer[: len(some)]):
                        sums.add(some.astype(np.float64), about, sums.buffer(len(some), np.float64))
            return sums

        squared = max(len(centre), 1) ** 2
        threads = min(THREADS, THREADS_BYTES // (THREAD_MATRICES * 8 * squared))
        starts = range(0, len(rows), _block_rows(len(rows), len(centre), multiplied))
        parts = _parts(starts, len(rows), len(centre)) if threads > 1 else [starts]
        with shared_out(summed, parts, threads) as found:
            sums = next(found)
            for more in found:
                sums.join(more)
        return sums.moments(len(rows), centre, unit)

    @classmethod
    def of_scatter(cls, count: int, mean: Vector, scatter: Matrix, peaks: Vector, weight: float = 1.0, square: float = 1.0) -> Moments:
        """Moments of which the orders beyond the second are unknown, and NaN; ``peaks`` (d,) are those of the scatter."""
        return cls(count, mean, scatter, np.full(len(mean), np.nan), np.nan, np.append(peaks, np.nan), weight, square)

    def __add__(self, other: Moments) -> Moments:
        """Moments of the rows of both."""
        count, mass = self.count + other.count, self.mass + other.mass
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.mass / mass)
        left, right = self._about(mean), other._about(mean)
        scatter, weighted = np.empty_like(self.scatter), apart * (self.mass * other.mass / mass)
        for start in range(0, len(scatter), JOINED_ROWS):
            some = slice(start, start + JOINED_ROWS)
            between = np.outer(weighted[some], apart)
            between += self.scatter[some]
            np.add(between, other.scatter[some], out=scatter[some])
        quartic = left[1] + right[1]
        peaks = np.maximum(np.maximum(self.peaks, other.peaks), _sizes(scatter, quartic))
        square = (self.count * self.square + other.count * other.square) / count
        return Moments(count, mean, scatter, left[0] + right[0], quartic, peaks, mass / count, square)

    def __mul__(self, weight: float) -> Moments:
        """Moments of the same rows, each of which counts ``weight`` > 0 of what it did."""
        sums = (self.scatter * weight, self.cubic * weight, self.quartic * weight, self.peaks * weight)
        return Moments(self.count, self.mean, *sums, self.weight * weight, self.square * weight**2)

    def __sub__(self, other: Moments) -> Moments:
        """Moments of the rows of ``self`` without those of ``other``, which must be among them.

        Raises ValueError where fewer than one row would be left, where a variance would come out negative, and for weighted rows.
        """
        check_unweighted(self.weight == self.square == other.weight == other.square == 1)
        count = self.count - other.count
        if count < 1:
            raise ValueError(f"cannot take {other.count} rows out of {self.count}: at least one row must remain")
        mean = self.mean + (self.mean - other.mean) * (other.count / count)
        whole, part = self._about(mean), other._about(mean)
        larger = self._scatter_about(mean)
        scatter = larger - other._scatter_about(mean)
        peaks = np.maximum(np.maximum(self.peaks, other.peaks), _sizes(larger, whole[1]))
        check_not_negative(scatter, peaks[:-1])
        peaks = rounded_up(peaks)
        if count == 1:  # about which there is nothing to know but the row itself
            return Moments(1, mean, np.zeros_like(scatter), np.zeros_like(mean), 0.0, np.zeros_like(peaks))
        return Moments(count, mean, scatter, whole[0] - part[0], whole[1] - part[1], peaks)

    def _scatter_about(self, centre: Vector) -> Matrix:
        shift = self.mean - centre
        return self.scatter + self.mass * np.outer(shift, shift)

    def _about(self, centre: Vector) -> tuple[Vector, float]:
        """Cubic and quartic sums with each c replaced by c + shift, shift = mean - centre.

        All terms with a bare sum of c vanish, because c is centred at the own mean.
        """
        shift = self.mean - centre
        length = float(shift @ shift)
        along = self.scatter @ shift
        total = float(np.trace(self.scatter))
        cubic = self.cubic + total * shift + 2 * along + self.mass * length * shift
        quartic = self.quartic + 4 * float(self.cubic @ shift) + 4 * float(shift @ along) + 2 * length * total + self.mass * length**2
        return cubic, quartic


class _Sums:
    """Sums over centred rows y: of y, of y y^T, of |y|^2 y and of |y|^4.

    All but the last are one product: that of the rows (y, |y|^2, 1) with themselves, of which the lower triangle is kept.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._products = np.zeros((width + 2, width + 2))
        self._quartic = 0.0

    def buffer(self, rows: int, kind: type[np.floating[Any]]) -> Rows:
        """Room for a block of so many rows: for y, then its squared length, then 1."""
        return np.ones((rows, len(self._products)), kind)

    def add(self, rows: Rows, about: Vector, buffer: Rows) -> bool:
        """Add ``rows`` (n, d), centred ``about`` (d,), by products in the type of ``buffer`` (n, d + 2) unless they may leave its range."""
        centred = np.subtract(rows, about, out=buffer[:, : self._width], casting="same_kind")
        squares = np.vecdot(centred, centred, out=buffer[:, self._width])
        if buffer.dtype == np.float32 and not 1 / SINGLE_RANGE < float(squares.max()) < SINGLE_RANGE:
            return False
        if buffer.dtype == np.float64 and buffer.shape[1] <= PANEL_COLUMNS:
            add_square(buffer, self._products)
        else:
            for left in range(0, buffer.shape[1], PANEL_COLUMNS):
                panel = slice(left, left + PANEL_COLUMNS)
                self._products[panel, : panel.stop] += buffer[:, panel].T @ buffer[:, : panel.stop]
        self._quartic += float(np.square(squares, dtype=np.float64).sum())
        return True

    def join(self, other: _Sums) -> None:
        """Add the sums of other rows about the same centre."""
        self._products += other._products
        self._quartic += other._quartic

    def moments(self, count: int, centre: Vector, unit: float) -> Moments:
        """The moments about the mean, which lies ``shift`` off ``centre``, of rows that were divided by ``unit``."""
        mirror(self._products)
        about, cubic, first = self._products[: self._width, : self._width], *self._products[self._width :, : self._width]
        shift = first / count
        length, along, total = float(shift @ shift), about @ shift, float(np.trace(about))
        scatter = np.outer(-count * shift, shift)
        scatter += about
        if unit != 1:
            scatter *= unit**2
        np.fill_diagonal(scatter, np.maximum(np.diag(scatter), 0))
        quartic = self._quartic - 4 * float(shift @ cubic) + 4 * float(shift @ along) + 2 * length * total - 3 * count * length**2
        quartic *= unit**4
        cubic = cubic - total * shift - 2 * along + 2 * count * length * shift
        return Moments(count, centre + shift * unit, scatter, cubic * unit**3, quartic, _sizes(scatter, quartic))


def _block_rows(rows: int, width: int, kind: type[np.floating[Any]]) -> int:
    """Rows in a block, of ``rows`` in all: those that caches hold, but so many that their product is long beside its sum with others."""
    least = 2 * (width + 2) if kind == np.float32 else max(LEAST_ROWS, width // 2)
    return min(rows, BLOCK_ROWS, max(BLOCK_BYTES // ((width + 2) * np.dtype(kind).itemsize), least))


def _parts(starts: range, rows: int, width: int) -> list[range]:
    """``starts`` of blocks in parts of like length, each of enough rows; few are 1, 2, 4 or 8, which that many cores share evenly."""
    count = max(1, rows // max(PART_ROWS, PART_NUMBERS // max(width, 1)))
    count = min(len(starts), count if count > THREADS else 1 << (count - 1).bit_length())
    edges = [len(starts) * part // count for part in range(count + 1)]
    return [starts[first:last] for first, last in pairwise(edges)]


def _unit(spread: Rows) -> float:
    """A power of two by which values of this ``spread`` are to be divided, so that float32 holds their powers; 1 where it does anyway."""
    largest = float(np.abs(spread).max())
    return 1.0 if largest == 0 or 1 / SAFE_RANGE < largest < SAFE_RANGE else 2.0 ** round(log2(largest))


def _centre(some: Rows) -> Vector:
    """Mean of ``some`` rows, in their type, which rounding does not move out of their range."""
    return np.asarray(np.clip(some.mean(axis=0, dtype=np.float64).astype(some.dtype), some.min(axis=0), some.max(axis=0)))


def check_not_negative(scatter: Matrix, peaks: Vector) -> None:
    """Raise ValueError where the diagonal of ``scatter`` is negative by more than rounding of what it once was, ``peaks`` (d,)."""
    if (np.diag(scatter) < -NEGATIVE_SHARE * peaks).any():
        raise ValueError("rows to be taken out are not among those summed: a variance would be negative")


def check_unweighted(unweighted: bool) -> None:
    """Raise ValueError where it does not hold that every row counts one."""
    if not unweighted:
        raise ValueError("rows cannot be taken out after a decay: what they count by now is not known; fit again without those rows")


def rounded_up(peaks: Vector) -> Vector:
    """Each of ``peaks`` (n,), none negative, as the power of two that is as large or the next larger one."""
    share, power = np.frexp(peaks)
    return np.where(share > 0.5, np.ldexp(1.0, power), peaks)


def _sizes(scatter: Matrix, quartic: float) -> Vector:
    return np.append(np.diag(scatter), quartic)
