"""Nearest neighbours by a matrix product, with exact distances."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detectors.arrays import Rows

BLOCK_NUMBERS = 2**22  # distances held at a time, 32 MiB
SPARE = 8  # candidates beyond those asked for, which the rounding of the product may have put out of order

Distances = NDArray[np.float64]  # (m, k), ascending in each row
Indices = NDArray[np.intp]  # (m, k)


def nearest(points: Rows, queries: Rows, count: int) -> tuple[Distances, Indices]:
    r"""Euclidean distances (m, k) of ``queries`` (m, d) to their k nearest ``points`` (n, d), and which these are.

    Candidates come from :math:`|p|^2 - 2\langle p, q\rangle` of rows centred at the mean point, whose rounding error
    is of the order of :math:`10^{-16}(|p|^2 + |q|^2)`; the distances of the candidates are then computed directly, so that
    equal rows are at distance 0. Cost: :math:`2nd` floating-point operations per query; memory: blocks of 32 MiB.
    """
    count = min(count, len(points))
    centre = points.mean(axis=0)
    centred = points - centre
    half_squares = np.einsum("ij,ij->i", centred, centred) / 2
    candidates = min(count + SPARE, len(points))
    step = max(1, BLOCK_NUMBERS // max(len(points), candidates * points.shape[1]))
    distances, indices = np.empty((len(queries), count)), np.empty((len(queries), count), dtype=np.intp)
    for start in range(0, len(queries), step):
        block = slice(start, start + step)
        order = half_squares - (queries[block] - centre) @ centred.T
        chosen = np.argpartition(order, candidates - 1, axis=1)[:, :candidates]
        gaps = points[chosen] - queries[block, None]
        exact = np.sqrt(np.einsum("ijk,ijk->ij", gaps, gaps))
        ranked = np.argsort(exact, axis=1, kind="stable")[:, :count]
        distances[block] = np.take_along_axis(exact, ranked, axis=1)
        indices[block] = np.take_along_axis(chosen, ranked, axis=1)
    return distances, indices
