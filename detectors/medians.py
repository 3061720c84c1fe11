"""Robust locations and the comedian: medians of many columns, and of products of columns."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from detectors.arrays import Matrix, Rows, Vector

BLOCK_NUMBERS = 2**22  # products of pairs of columns held at a time by one thread
L1_TOLERANCE, L1_STEPS = 1e-10, 1000


def coordinate_median(rows: Rows) -> Vector:
    """Median (d,) of each column of ``rows`` (n, d)."""
    return np.asarray(np.median(rows, axis=0))


def absolute_deviation(rows: Rows, centre: Vector) -> Vector:
    """Median (d,) of the absolute deviations of each column from ``centre``."""
    return np.asarray(np.median(np.abs(rows - centre), axis=0))


def l1_median(rows: Rows) -> Vector:
    """Point (d,) with the least sum of Euclidean distances to ``rows`` (n, d). Cost: tens of passes over the rows."""
    point = np.median(rows, axis=0)
    scale = float(np.median(np.abs(rows - point))) + np.finfo(float).tiny
    for _ in range(L1_STEPS):
        gaps = rows - point
        distances = np.sqrt(np.einsum("ij,ij->i", gaps, gaps))
        away = distances > 1e-12 * scale
        if not away.any():
            return point
        weights = np.where(away, 1 / np.where(away, distances, 1), 0)
        proposed = weights @ rows / weights.sum()
        if not away.all():  # at data points: Vardi and Zhang 2000, eq. 2.6
            pull = float(np.linalg.norm(weights @ gaps))
            share = max(0.0, 1 - (~away).sum() / pull) if pull > 0 else 0.0
            proposed = share * proposed + (1 - share) * point
        if np.linalg.norm(proposed - point) <= L1_TOLERANCE * scale:
            return np.asarray(proposed)
        point = proposed
    return np.asarray(point)


def l1_medoid(rows: Rows) -> Vector:
    """The row with the least sum of city-block distances to all; the first of several. Cost: O(d n log n)."""
    totals, n = np.zeros(len(rows)), len(rows)
    rank = np.arange(n)
    for column in rows.T:
        order = np.argsort(column, kind="stable")
        values = column[order]
        sums = np.concatenate([[0.0], np.cumsum(values)])
        totals[order] += values * rank - sums[:-1] + (sums[-1] - sums[1:]) - values * (n - 1 - rank)
    return np.array(rows[int(np.argmin(totals))])


def sandwich_variance(rows: Rows, location: Vector, *, city_block: bool = False) -> float:
    r"""Summed asymptotic variance of the L1 median, :math:`\operatorname{tr}(A^{-1} B A^{-1})/n`.

    :math:`A = \operatorname{mean}[(I - uu^\top)/r]`, :math:`B = \operatorname{mean}[uu^\top]`, with u the unit vector and r
    the distance from the location; rows at the location add nothing but count. ``city_block`` measures r in the city-block
    norm, as the R code does, whereby u is no unit vector and the result no asymptotic variance.
    """
    gaps = rows - location
    away = gaps.any(axis=1)
    gaps = gaps[away]
    r = np.abs(gaps).sum(axis=1) if city_block else np.linalg.norm(gaps, axis=1)
    units = gaps / r[:, None]
    outer = units.T @ units / len(rows)
    curvature = (np.eye(rows.shape[1]) * (1 / r).sum() - (units / r[:, None]).T @ units) / len(rows)
    inverse = np.linalg.pinv(curvature, hermitian=True) if np.linalg.cond(curvature) > 1e14 else np.linalg.inv(curvature)
    return float(np.trace(inverse @ outer @ inverse)) / len(rows)


def comedian(centred: Rows, threads: int = 0) -> Matrix:
    """Medians (d, d) of the products of each pair of columns of ``centred`` (n, d), exact, in blocks by threads."""
    columns = np.ascontiguousarray(centred.T)
    width, n = columns.shape
    step = max(1, BLOCK_NUMBERS // n)
    medians = np.empty((width, width))

    def fill(block: tuple[int, int]) -> None:
        j, start = block
        stop = min(start + step, width)
        medians[j, start:stop] = medians[start:stop, j] = _row_medians(columns[start:stop] * columns[j])

    blocks = [(j, start) for j in range(width) for start in range(j, width, step)]
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        list(pool.map(fill, blocks))
    return medians


def _row_medians(values: Rows) -> Vector:
    """Median of each row; ``values`` are put in disorder. Several times faster than numpy's, and equal to it."""
    n = values.shape[1]
    half = n // 2
    values.partition(half, axis=1)
    if n % 2:
        return np.asarray(values[:, half])
    return np.asarray((values[:, :half].max(axis=1) + values[:, half]) / 2)
