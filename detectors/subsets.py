"""Which points stand for all: those that are not repeated, and those that lie farthest apart."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from detectors.arrays import Vector

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.intp]

PAIRS_SAMPLED = 2000  # points whose distances give the median
PASSES = 64  # neighbours along the line that a point is compared with
ROUNDING = 8 * np.finfo(float).eps


def distinct(points: Floats, radius: float) -> tuple[Indices, Vector]:
    """Which of ``points`` (n, d) remain where of two within ``radius`` the later one is dropped; and for each 1 if one was, else 0.

    Points that near lie near on any line too: they are sorted along one, and compared with those next to them there, the next
    64 that are left. Cost: a product, a sort, and as many distances as there are pairs that near along the line.

    >>> distinct(np.array([[0.0, 1.0], [5.0, 1.0], [0.0, 1.0 + 1e-12]]), radius=1e-9)
    (array([0, 1]), array([1., 0.]))
    """
    repeated = np.zeros(len(points))
    direction = np.random.default_rng(0).normal(size=points.shape[1])
    line = points @ (direction / np.linalg.norm(direction))
    slack = radius + ROUNDING * np.sqrt(points.shape[1]) * np.abs(line).max()
    order = np.argsort(line, kind="stable")
    step = 1
    while step <= min(PASSES, len(order) - 1):
        ahead = order[step:]
        close = np.flatnonzero(line[ahead] - line[order[:-step]] <= slack)
        first, second = order[close], ahead[close]
        near = _lengths(points, first, second) <= radius
        repeated[np.minimum(first, second)[near]] = 1
        dropped = np.isin(order, np.maximum(first, second)[near])
        order = order[~dropped]
        if not len(close):
            break
        step = 1 if dropped.any() else step + 1
    kept = np.sort(order)
    return kept, repeated[kept]


def apart(distances: Floats, radius: float) -> tuple[Indices, Vector]:
    """The same by ``distances`` (n, n).

    >>> apart(np.array([[0.0, 3.0, 0.0], [3.0, 0.0, 3.0], [0.0, 3.0, 0.0]]), radius=0.0)
    (array([0, 1]), array([1., 0.]))
    """
    near = np.tril(np.less_equal(distances, radius), -1)
    kept = np.flatnonzero(~near.any(axis=1))
    return kept, near[:, kept].any(axis=0).astype(float)


def median_distance(points: Floats) -> float:
    """Median distance between the points, or between evenly spaced ones of them where there are many; 0 for one point."""
    some = points[_spaced(len(points))]
    return middle(cdist(some, some))


def middle(distances: Floats) -> float:
    """The same by a matrix of ``distances`` (n, n)."""
    some = _spaced(len(distances))
    above = distances[np.ix_(some, some)][np.triu_indices(len(some), 1)]
    return float(np.median(above)) if len(above) else 0.0


def farthest(points: Floats, count: int) -> Indices:
    """Which ``count`` of ``points`` (n, d), each farthest from those before (Gonzalez 1985), the first nearest to the mean.

    Every other point lies within twice the least radius that ``count`` balls around points could have. Cost: 2 n d per point taken.

    >>> farthest(np.array([[0.0], [1.0], [2.0], [10.0]]), 3)
    array([0, 2, 3])
    """
    centred = points - points.mean(axis=0, dtype=np.float64)
    squares = np.einsum("ij,ij->i", centred, centred)
    taken = [int(squares.argmin())]
    least = np.full(len(points), np.inf)
    while len(taken) < count:
        least = np.minimum(least, squares + squares[taken[-1]] - 2 * centred @ centred[taken[-1]])
        least[taken] = -np.inf
        taken.append(int(least.argmax()))
    return np.sort(taken)


def _spaced(count: int) -> Indices:
    return np.linspace(0, count - 1, min(count, PAIRS_SAMPLED)).astype(np.intp)


def _lengths(points: Floats, first: Indices, second: Indices) -> Floats:
    """Distance between each pair of points, in blocks."""
    step = max(1, 2**20 // points.shape[1])
    blocks = range(0, len(first), step)
    return np.concatenate(
        [np.empty(0), *(np.linalg.norm(points[first[s : s + step]] - points[second[s : s + step]], axis=1) for s in blocks)]
    )
