"""Robust locations and the comedian: medians of many columns, and of products of columns."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from detectors.arrays import Matrix, Rows, Vector
from detectors.cholesky import solved

BLOCK_NUMBERS = 2**16  # products of pairs of columns held at a time by one thread, few enough for its cache
BRACKETED_ROWS = 3000  # from here on a median is bracketed by a sample first
SORTED_ROWS = 256  # up to here all values are sorted, which a vector unit does as fast as it finds the middle one
L1_TOLERANCE, L1_STEPS, L1_ASKED = 1e-10, 10_000, 50


def coordinate_median(rows: Rows) -> Vector:
    """Median (d,) of each column of ``rows`` (n, d)."""
    return _row_medians(rows.T.copy())


def absolute_deviation(rows: Rows, centre: Vector) -> Vector:
    """Median (d,) of the absolute deviations of each column from ``centre``."""
    return _row_medians(np.abs(rows.T - centre[:, None], order="C"))


def l1_median(rows: Rows) -> Vector:
    """Point (d,) with the least sum of Euclidean distances to ``rows`` (n, d). Cost: tens of passes over the rows."""
    start = coordinate_median(rows)
    rows, point = rows - start, np.zeros_like(start)
    scale = float(np.median(np.abs(rows)) or np.median(_distances(rows, point)))
    for step in range(L1_STEPS):
        if step % L1_ASKED == 0:  # steps toward a row shrink without end: whether it is the L1 median is asked of the row
            row = rows[int(np.argmin(_distances(rows, point)))]
            if _weiszfeld(rows, row, scale)[1] == 0:
                return np.asarray(start + row)
        before, (point, _) = point, _weiszfeld(rows, point, scale)
        if np.linalg.norm(point - before) <= L1_TOLERANCE * scale:
            break
    return np.asarray(start + point)


def _weiszfeld(rows: Rows, point: Vector, scale: float) -> tuple[Vector, float]:
    """The next point, and the share of the way to the mean weighted by 1/distance that it goes (Vardi and Zhang 2000, eq. 2.6)."""
    distances = _distances(rows, point)
    away = distances > 1e-12 * scale
    if not away.any():
        return point, 0.0
    weights = np.where(away, 1 / np.where(away, distances, 1), 0)
    mean, share = weights @ rows / weights.sum(), 1.0
    if not away.all():  # at data points, which hold against a pull of less than their number
        pull = float(np.linalg.norm(weights @ (rows - point)))
        share = max(0.0, 1 - (~away).sum() / pull) if pull > 0 else 0.0
    return share * mean + (1 - share) * point, share


def _distances(rows: Rows, point: Vector) -> Vector:
    gaps = rows - point
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", gaps, gaps)))


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
    gaps = gaps[gaps.any(axis=1)]
    if len(gaps) == 0:
        return 0.0
    r = np.abs(gaps).sum(axis=1) if city_block else np.linalg.norm(gaps, axis=1)
    units = gaps / r[:, None]
    curvature = (np.eye(rows.shape[1]) * (1 / r).sum() - (units / r[:, None]).T @ units) / len(rows)
    root = units if len(units) <= rows.shape[1] else np.asarray(np.linalg.qr(units, mode="r"))  # root' root = units' units
    return float(np.square(solved(curvature, root.T)).sum()) / len(rows) ** 2


def comedian(centred: Rows, threads: int = 0) -> Matrix:
    """Medians (d, d) of the products of each pair of columns of ``centred`` (n, d), exact, by threads.

    Cost: :math:`n d^2/2` products, each compared twice and a tenth of them partitioned; fewer than ``BRACKETED_ROWS`` rows are
    partitioned whole. Memory beside the result: a transposed copy of the rows and, per thread, two blocks of the larger of
    ``BLOCK_NUMBERS`` and n numbers.

    >>> comedian(np.array([[-2.0, -1.0], [-1.0, 1.0], [0.0, 0.0], [1.0, 4.0], [8.0, -11.0]]))
    array([[1., 0.],
           [0., 1.]])
    """
    columns = np.ascontiguousarray(centred.T)
    width, n = columns.shape
    step = max(1, BLOCK_NUMBERS // n)
    medians = np.empty((width, width))

    def fill(j: int) -> None:
        products = np.empty((min(step, width), n))
        for start in range(j, width, step):
            block = columns[start : start + step]
            found = _row_medians(np.multiply(block, columns[j], out=products[: len(block)]))
            medians[j, start : start + step] = medians[start : start + step, j] = found

    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        list(pool.map(fill, range(width)))
    return medians


def _row_medians(values: Matrix) -> Vector:
    """Median of each row, equal to numpy's; ``values`` are put in disorder."""
    n = values.shape[1]
    if n >= BRACKETED_ROWS:
        return np.array([_bracketed(*each) for each in zip(values, *_brackets(values), strict=True)])
    if n <= SORTED_ROWS:
        values.sort(axis=1)
        return np.asarray((values[:, (n - 1) // 2] + values[:, n // 2]) / 2)
    values.partition(n // 2, axis=1)
    upper = values[:, n // 2]
    lower = upper if n % 2 else values[:, : n // 2].max(axis=1)
    return np.asarray((lower + upper) / 2)


def _brackets(values: Matrix) -> tuple[Vector, Vector]:
    """Two quantiles of an evenly spaced sample of each row, 2.4 standard errors of its median below and above that."""
    n = values.shape[1]
    sample = values[:, :: int(n ** (1 / 3) / 1.5)].copy()
    middle, margin = sample.shape[1] // 2, int(1.2 * np.sqrt(sample.shape[1]))
    sample.partition((middle - margin, middle + margin), axis=1)
    return sample[:, middle - margin], sample[:, middle + margin]


def _bracketed(values: Vector, low: float, high: float) -> float:
    """Median of ``values`` by selection among those from ``low`` to ``high`` (Floyd and Rivest 1975), or among all if it is not there."""
    half, odd = divmod(len(values), 2)
    under, up_to = values < low, values <= high
    rank, inside = half - int(np.count_nonzero(under)), values[np.flatnonzero(under != up_to)]
    if not (0 if odd else 1) <= rank < len(inside):
        rank, inside = half, values
    inside.partition(rank)
    upper = inside[rank]
    lower = upper if odd else inside[:rank].max()
    return float((lower + upper) / 2)
