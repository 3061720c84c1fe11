"""Nearest neighbours among very many points: each point lies in the cell of its nearest centre, and few cells are searched."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors.arrays import Vector
from detectors.neighbours import SPARE, Distances, Indices, nearest, smallest

CELL_POINTS = 256  # points to a cell, on average
PROBES = 16  # cells searched for a query, the nearest ones
SAMPLE_POINTS = 32  # points to a cell from which centres are found
ROUNDS = 8  # of moving each centre to the mean of its cell
BLOCK_NUMBERS = 2**22  # distances held at a time
CACHED_NUMBERS = 2**19  # distances to centres held at a time
BLOCK_QUERIES = 4096  # searched at a time, on one core
GROUP = 16  # values of a long row of which the least is taken
LONG = 4  # times as many groups as are looked for make a row long

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Cells:
    r"""A division of points into the cells of centres that k-means finds from a part of them (Jégou, Douze and Schmid 2011, section IV).

    The search is approximate: neighbours in cells whose centres are not among the 16 nearest to the query are missed; what that does to
    ranks ``python -m benchmarks.weighting --scale`` prints. Many queries are searched 4096 at a time on each core.

    Cost: search :math:`2d(n/256 + 4096)` floating-point operations per query; division :math:`2nd\cdot n/256`, and blocks of 32 MiB.

    >>> points = np.random.default_rng(0).normal(size=(3000, 2))
    >>> order, cells = Cells.divided(points, seed=0)
    >>> points = points[order]
    >>> distances, indices = cells.searched(points, points[:1], 3)
    >>> int(indices[0, 0]), float(distances[0, 0])
    (0, 0.0)
    """

    centres: Floats  # (c, d)
    starts: Vector  # (c + 1,), where among the points each cell begins, and the last one ends

    @classmethod
    def divided(cls, points: Floats, seed: int) -> tuple[Indices, Cells]:
        """The order (n,) that puts ``points`` (n, d) of one cell side by side, and the cells, none of them empty."""
        generator = np.random.default_rng(seed)
        count = -(-len(points) // CELL_POINTS)
        sample = points[generator.permutation(len(points))[: SAMPLE_POINTS * count]]
        centres = sample[:count]
        for _ in range(ROUNDS):
            owner = _closest(centres, sample)
            centres = _grouped(sample, owner)[2]
        owner = _closest(centres, points)
        order, starts, _ = _grouped(points, owner)
        return order, cls(centres[np.unique(owner)], starts.astype(np.float64))

    def searched(self, points: Floats, queries: Floats, count: int) -> tuple[Distances, Indices]:
        """Distances (m, k) of ``queries`` (m, d) to about the k nearest ``points`` (n, d), in the order of the cells; and which."""
        count = min(count, len(points))
        blocks = [queries[start : start + BLOCK_QUERIES] for start in range(0, len(queries), BLOCK_QUERIES)]
        if len(blocks) == 1:
            return self._block(points, queries, count)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(lambda block: self._block(points, block, count), blocks))
        return np.concatenate([near for near, _ in found]), np.concatenate([which for _, which in found])

    def _block(self, points: Floats, queries: Floats, count: int) -> tuple[Distances, Indices]:
        visited = _probed(self.centres, queries, min(PROBES, len(self.centres)))
        few = visited.size < 2 * len(self.centres)  # then most cells are visited for one query only
        candidates = (self._row_by_row if few else self._cell_by_cell)(points, queries, visited, count + SPARE)
        gaps = points[candidates].astype(np.float64, copy=False) - queries[:, None]
        distances = np.where(candidates < 0, np.inf, np.sqrt(np.einsum("ijk,ijk->ij", gaps, gaps)))
        near, which = smallest(distances, count)
        which = np.take_along_axis(candidates, which, axis=1)
        lacking = np.isinf(near[:, -1]) & (which[:, -1] < 0)
        if lacking.any():  # so few points in all cells searched
            near[lacking], which[lacking] = nearest(points.astype(np.float64, copy=False), queries[lacking], count)
        return near, which

    def _row_by_row(self, points: Floats, queries: Floats, visited: Indices, count: int) -> Indices:
        """About the ``count`` nearest points (m, count) in the ``visited`` cells (m, p) of each query; -1 where there are fewer."""
        starts, candidates = self.starts.astype(np.intp), np.full((len(queries), count), -1, dtype=np.intp)
        for row, query in enumerate(queries):
            inside = np.concatenate([np.arange(starts[cell], starts[cell + 1]) for cell in visited[row]])
            gaps = points.take(inside, axis=0)
            gaps -= query
            best = _least(np.einsum("ij,ij->i", gaps, gaps)[None], count)[0]
            candidates[row, : len(best)] = inside[best]
        return candidates

    def _cell_by_cell(self, points: Floats, queries: Floats, visited: Indices, count: int) -> Indices:
        """The same for many queries: a product for each cell with all queries that visit it."""
        starts, probes = self.starts.astype(np.intp), visited.shape[1]
        halves = np.full((visited.size, count), np.inf, dtype=points.dtype)
        found = np.full((visited.size, count), -1, dtype=np.intp)
        order = np.argsort(visited, axis=None, kind="stable")
        cells, firsts = np.unique(visited.ravel()[order], return_index=True)
        for cell, pairs in zip(cells, np.split(order, firsts[1:]), strict=True):
            moved = queries[pairs // probes] - self.centres[cell]  # about the centre, so that products do not cancel
            own = points[starts[cell] : starts[cell + 1]] - self.centres[cell]
            half = np.matmul(moved, own.T)
            np.subtract(np.einsum("ij,ij->i", own, own) / 2, half, out=half)
            best = _least(half, count)
            least = half[np.arange(len(pairs))[:, None], best]
            least += np.einsum("ij,ij->i", moved, moved)[:, None] / 2
            halves[pairs, : best.shape[1]] = least
            found[pairs, : best.shape[1]] = starts[cell] + best
        best = _least(halves.reshape(len(queries), -1), count)
        return np.take_along_axis(found.reshape(len(queries), -1), best, axis=1)


def _least(values: Floats, count: int) -> Indices:
    """Where the ``count`` least of each row stand, in any order; all of them in rows no longer than that.

    What is no more than the ``count``-th least is found; in long rows, the ``count``-th least of the minima of groups, and put in order.
    """
    n, width = values.shape
    if width <= count:
        return np.broadcast_to(np.arange(width), values.shape)
    groups = width // GROUP
    of = values if groups < LONG * count else values[:, : GROUP * groups].reshape(n, GROUP, groups).min(axis=1)
    limits = np.partition(of, count - 1, axis=1)[:, count - 1]
    rows, columns = np.divmod(np.flatnonzero(values <= limits[:, None]), width)
    if len(rows) == n * count:
        return columns.reshape(n, count)
    counts = np.bincount(rows, minlength=n)
    places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    few, where = np.full((n, counts.max()), np.inf, dtype=values.dtype), np.zeros((n, counts.max()), dtype=np.intp)
    few[rows, places], where[rows, places] = values[rows, columns], columns
    return np.take_along_axis(where, np.argpartition(few, count - 1, axis=1)[:, :count], axis=1)


def _probed(centres: Floats, queries: Floats, probes: int) -> Indices:
    """The ``probes`` cells (m, probes) whose centres are nearest to each of ``queries``, in blocks that stay in cache."""
    half, step = np.einsum("ij,ij->i", centres, centres) / 2, max(1, CACHED_NUMBERS // len(centres))
    blocks = (queries[start : start + step] for start in range(0, len(queries), step))
    return np.concatenate([_least(half - block @ centres.T, probes) for block in blocks])


def _closest(centres: Floats, points: Floats) -> NDArray[np.intp]:
    """The nearest of ``centres`` to each of ``points``, in blocks."""
    half = np.einsum("ij,ij->i", centres, centres) / 2
    step = max(1, BLOCK_NUMBERS // len(centres))
    blocks = [(half - points[start : start + step] @ centres.T).argmin(axis=1) for start in range(0, len(points), step)]
    return np.concatenate(blocks)


def _grouped(points: Floats, owner: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """The order that puts points of one owner side by side, where each owner's begin (the end last), and their means."""
    order = np.argsort(owner, kind="stable")
    _, firsts, counts = np.unique(owner[order], return_index=True, return_counts=True)
    means = np.add.reduceat(points[order], firsts, axis=0) / counts[:, None].astype(points.dtype)
    return order, np.append(firsts, len(points)), means
