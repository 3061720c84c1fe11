"""Sums over rows of several classes, as values that add up: from them follow the classes' means and the covariance within them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detectors.arrays import Matrix, Rows, Vector
from detectors.labels import Labels, decoded, encoded
from detectors.moments import BLOCK_ROWS, Moments, check_not_negative, check_unweighted, rounded_up


@dataclass(frozen=True, slots=True)
class ClassStatistics:
    """Counts and means of K classes and the scatter within them; adds up over rows, of the same classes or of others."""

    codes: Matrix  # (K, w), the classes in ascending order, see ``labels.encoded``
    text: int  # whether the classes are text
    counts: Vector  # (K,)
    masses: Vector  # (K,), sums of the weights of their rows
    squares: float  # sum of the squared weights of all rows
    means: Matrix  # (K, d)
    within: Matrix  # (d, d), sum over rows of the outer square of their difference to the mean of their class
    peaks: Vector  # (d,), the largest that the diagonal of ``within`` ever was, see ``Moments``

    @classmethod
    def of(cls, rows: Rows, labels: Labels, prepared: Callable[[Rows], Rows]) -> ClassStatistics:
        """Statistics of ``rows`` (n, d) of classes ``labels`` (n,), ``prepared`` a block at a time."""
        classes, first, index, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
        order, width = np.argsort(index, kind="stable"), rows.shape[1]

        def centred(centres: Matrix) -> Iterator[tuple[NDArray[np.int_], Rows]]:
            for start in range(0, len(rows), BLOCK_ROWS):
                chosen = order[start : start + BLOCK_ROWS]
                yield index[chosen], prepared(rows[chosen].astype(np.float64, copy=False)) - centres[index[chosen]]

        # Means are taken about a row of the class, so that a column constant within it has no variance at all.
        firsts = prepared(rows[first].astype(np.float64, copy=False))
        sums, within = np.zeros((len(classes), width)), np.zeros((width, width))
        for members, block in centred(firsts):
            starts = np.flatnonzero(np.diff(members, prepend=-1))
            sums[members[starts]] += np.add.reduceat(block, starts, axis=0)
        means = firsts + sums / counts[:, None]
        for _, block in centred(means):
            within += block.T @ block
        numbers = counts.astype(np.float64)
        return cls(*encoded(classes), numbers, numbers, float(len(rows)), means, within, np.diag(within).copy())

    @property
    def classes(self) -> Labels:
        return decoded(self.codes, self.text)

    def __add__(self, other: ClassStatistics) -> ClassStatistics:
        return self._joined(other, 1)

    def __sub__(self, other: ClassStatistics) -> ClassStatistics:
        """Statistics of the rows of ``self`` without those of ``other``; a class of which no row is left is gone.

        Raises ValueError where more rows of a class are taken than there are, or all, for a negative variance, and for weighted rows.
        """
        check_unweighted(all((side.masses == side.counts).all() and side.squares == side.counts.sum() for side in (self, other)))
        return self._joined(other, -1)

    def __mul__(self, weight: float) -> ClassStatistics:
        """Statistics of the same rows, each of which counts ``weight`` > 0 of what it did."""
        masses, squares = self.masses * weight, self.squares * weight**2
        return replace(self, masses=masses, squares=squares, within=self.within * weight, peaks=self.peaks * weight)

    def _joined(self, other: ClassStatistics, sign: int) -> ClassStatistics:
        if self.text != other.text:
            raise ValueError("classes must be all text or all whole numbers: those learned are of one kind, those given of the other")
        classes = np.union1d(self.classes, other.classes)
        (count, mass, mean), (others, other_mass, other_mean) = self._spread(classes), other._spread(classes)
        total = count + sign * others
        if total.min() < 0:
            worst = int(np.argmin(total))
            raise ValueError(f"cannot take {others[worst]:.0f} rows of class {classes[worst]} out of {count[worst]:.0f}")
        left = total > 0
        if not left.any():
            raise ValueError(f"cannot take all {count.sum():.0f} rows out: at least one row must remain")
        # Of a class on both sides, the distance of the two means adds to the scatter (Chan, Golub and LeVeque 1983).
        masses = mass + sign * other_mass
        share = np.divide(sign * other_mass, masses, out=np.zeros_like(masses), where=left)
        gap = other_mean - mean
        within = self.within + sign * other.within + (gap * (mass * share)[:, None]).T @ gap
        peaks = np.maximum(np.maximum(self.peaks, other.peaks), np.diag(within))
        check_not_negative(within, peaks)
        peaks, means = peaks if sign > 0 else rounded_up(peaks), (mean + share[:, None] * gap)[left]
        squares = self.squares + sign * other.squares
        return ClassStatistics(*encoded(classes[left]), total[left], masses[left], squares, means, within, peaks)

    def _spread(self, classes: Labels) -> tuple[Vector, Vector, Matrix]:
        """Counts, masses and means of ``classes``, a superset of the own, 0 for one that is not there."""
        at = np.searchsorted(classes, self.classes)
        counts, masses, means = np.zeros(len(classes)), np.zeros(len(classes)), np.zeros((len(classes), self.means.shape[1]))
        counts[at], masses[at], means[at] = self.counts, self.masses, self.means
        return counts, masses, means

    def moments(self) -> tuple[Moments, Moments]:
        """Moments of the rows within their classes, and of all rows; the orders beyond the second are unknown and NaN."""
        gaps = self.means - self.means[0]  # or the mean of equal rows would be off by its rounding, which would be their variance
        count, mass = int(self.counts.sum()), float(self.masses.sum())
        gaps -= self.masses @ gaps / mass
        mean = self.means[0] - gaps[0]
        scatters = (self.within, self.within + (gaps * self.masses[:, None]).T @ gaps)
        weights = (mass / count, self.squares / count)
        within, total = (Moments.of_scatter(count, mean, s, np.maximum(self.peaks, np.diag(s)), *weights) for s in scatters)
        return within, total
