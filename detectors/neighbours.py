"""Nearest neighbours by a matrix product, with exact distances."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from detectors.arrays import Rows

BLOCK_NUMBERS = 2**22  # distances held at a time, 32 MiB
SPARE = 8  # candidates beyond those asked for, which the rounding of the product may have put out of order
HARMLESS = 1e-9  # share of a squared distance that rounding may be

Distances = NDArray[np.float64]  # (m, k), ascending in each row
Indices = NDArray[np.intp]  # (m, k)


def nearest(points: Rows, queries: NDArray[np.floating[Any]], count: int) -> tuple[Distances, Indices]:
    r"""Euclidean distances (m, k) of ``queries`` (m, d) to their k nearest ``points`` (n, d), and which these are.

    Candidates come from :math:`|p|^2 - 2\langle p, q\rangle` of rows centred at the mean point; their distances are then computed
    directly, so that equal rows are at distance 0. Where the product's rounding error, of the order of
    :math:`10^{-16}(|p|^2 + |q|^2)`, may have hidden a nearer point, as in clusters far apart, all distances of that query are
    computed directly. Cost: :math:`2nd` floating-point operations per query; memory: blocks of 32 MiB.
    """
    count = min(count, len(points))
    centre = points.mean(axis=0)
    centred = points - centre
    half_squares = np.einsum("ij,ij->i", centred, centred) / 2
    candidates = min(count + SPARE, len(points))
    step = max(1, BLOCK_NUMBERS // max(len(points), candidates * points.shape[1]))
    distances, indices = np.empty((len(queries), count)), np.empty((len(queries), count), dtype=np.intp)
    for start in range(0, len(queries), step):
        asked = queries[start : start + step]
        moved = asked - centre
        order = half_squares - moved @ centred.T
        chosen = np.argpartition(order, candidates - 1, axis=1)[:, :candidates]
        gaps = points[chosen] - asked[:, None]
        near, which = smallest(np.sqrt(np.einsum("ijk,ijk->ij", gaps, gaps)), count)
        which = np.take_along_axis(chosen, which, axis=1)
        if candidates < len(points):
            own = np.einsum("ij,ij->i", moved, moved) / 2
            error = (8 + points.shape[1]) * np.finfo(float).eps * (half_squares.max() + own)
            beyond = own + np.take_along_axis(order, chosen, axis=1).max(axis=1) - error  # no other point's half square is below
            halves = np.square(near[:, -1]) / 2
            doubtful = (halves > beyond) & (error > HARMLESS * halves) & (halves > 0)
            if doubtful.any():
                near[doubtful], which[doubtful] = smallest(cdist(asked[doubtful], points), count)
        distances[start : start + step], indices[start : start + step] = near, which
    return distances, indices


def smallest(distances: Distances, count: int) -> tuple[Distances, Indices]:
    """The ``count`` smallest of each row in ascending order, and where they stand."""
    ranked = np.argsort(distances, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(distances, ranked, axis=1), ranked
