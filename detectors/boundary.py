"""A set of points with its weighting, and what it leaves unexplained of others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

from detectors import given, metrics, similarity, sparse_precision
from detectors.arrays import Floats, Rows, Scores, Vector
from detectors.cells import Cells
from detectors.neighbours import Distances, Indices, nearest

BLOCK_ROWS = 1024
SEARCHED_ROWS = 2**15  # whose neighbours are held at a time
BLOCK_NUMBERS = 2**22  # similarities held at a time
LOCAL_NUMBERS = 2**20  # coordinates of neighbours held at a time by the local form
SINGLE_SHARE = 1e-3  # of the smaller leave-one-out shares, or gaps, that rounding to float32 may change
CHECKED_ROWS = 256  # on which that is measured


@dataclass(frozen=True, slots=True)
class WeightingState:
    centre: Vector  # (d,)
    spread: Vector  # (d,), standard deviations; 1 where a column never varied
    points: Floats  # (m, d), distinct standardised rows; (m, 1), numbers of columns, with a matrix that was given
    repeated: Vector  # (m,), 1 where a point stands for several rows, else 0
    t: float  # inverse length at which similarity decays
    radius: float  # within which a row equals a point
    jitter: float  # added to the diagonal of Z
    factor: Floats  # (m, m) lower Cholesky factor of Z; (0, 0) in the local form
    weights: Vector  # (m,), Z w = 1; empty in the local form without global weights
    alone: Vector  # (m,), share of each point that the others leave unexplained; empty in the local form
    cells: Cells | None  # by which the nearest of many points are searched


class Parts(NamedTuple):
    """What is known of queries, each (m,)."""

    unexplained: Scores  # s
    weight: Scores  # r / s
    which: Indices  # of the points is the one that the query equals, -1 for none; what follows counts only where there is one
    others_unexplained: Scores  # s of that point by the others
    others_weight: Scores  # its weight


def parts(state: WeightingState, queries: Rows, metric: str, neighbours: int, *, left_out: bool) -> Parts:
    """What the points tell of ``queries`` (m, d), in blocks; values by the others only if ``left_out``, without it anything."""
    if len(state.factor):
        blocks = [_exact(state, queries[start : start + BLOCK_ROWS], metric, start) for start in range(0, len(queries), BLOCK_ROWS)]
    else:
        starts = range(0, len(queries), SEARCHED_ROWS)
        blocks = [block for start in starts for block in _local(state, queries[start : start + SEARCHED_ROWS], neighbours, left_out)]
    return Parts(*(np.concatenate(columns) for columns in zip(*blocks, strict=True)))


def distances_to(state: WeightingState, queries: Rows, metric: str, first: int = 0) -> Distances:
    """Distances (m, n) of ``queries`` to all points, in the metric or as given. Raises RowError as ``metrics.distances`` does."""
    if metric in given.FORMS:
        return given.to_fitted(queries, metric)[:, state.points[:, 0].astype(np.intp)]
    return metrics.distances(queries, state.points, metric, first)


def searched(state: WeightingState, queries: Rows, count: int) -> tuple[Distances, Indices]:
    """Distances (m, count) to the nearest points and which these are; an infinite distance where there are fewer."""
    if state.cells is not None:
        distances, indices = state.cells.searched(state.points, queries, count)
    else:
        distances, indices = nearest(state.points.astype(np.float64, copy=False), queries, count)
    if distances.shape[1] == count:
        return distances, indices
    lacking = ((0, 0), (0, count - distances.shape[1]))
    return np.pad(distances, lacking, constant_values=np.inf), np.pad(indices, lacking)


def _exact(state: WeightingState, queries: Rows, metric: str, first: int) -> Parts:
    distances = distances_to(state, queries, metric, first)
    index = distances.argmin(axis=1)
    equal = distances[np.arange(len(queries)), index] <= state.radius
    similarities = np.exp(-state.t * distances)
    unexplained = np.maximum(similarity.shares(state.factor, state.jitter, similarities), np.finfo(float).tiny)
    weight = (1 - similarities @ state.weights) / unexplained
    return Parts(unexplained, weight, np.where(equal, index, -1), state.alone[index], state.weights[index])


def _local(state: WeightingState, queries: Rows, neighbours: int, left_out: bool) -> Iterator[Parts]:
    """From the nearest points alone: one small system per query, some queries at a time."""
    count = min(neighbours, len(state.points))
    step = max(1, LOCAL_NUMBERS // (count * (state.points.shape[1] + 2 * count)))
    if len(state.weights):
        step = max(1, min(step, BLOCK_NUMBERS // len(state.weights)))
    found = searched(state, queries, neighbours + 1)
    for start in range(0, len(queries), step):
        block = slice(start, start + step)
        distances, indices = found[0][block], found[1][block]
        unexplained, residual = _conditional(state, distances[:, :-1], indices[:, :-1])
        which = np.where(distances[:, 0] <= state.radius, indices[:, 0], -1)
        others, others_residual = unexplained, residual
        if left_out:
            others, others_residual = _conditional(state, distances[:, 1:], indices[:, 1:])
        others_weight = others_residual / np.maximum(others, np.finfo(float).tiny)
        if len(state.weights):
            residual = 1 - np.exp(-state.t * cdist(queries[block], state.points)) @ state.weights
            others_weight = state.weights[indices[:, 0]]
        yield Parts(unexplained, residual / unexplained, which, others, others_weight)


def _conditional(state: WeightingState, distances: Distances, indices: Indices) -> tuple[Scores, Scores]:
    unexplained, _, residual = sparse_precision.conditional(state.points, distances, indices, state.t)
    return np.maximum(unexplained, np.finfo(float).tiny), residual


def check_points(points: Rows, rounded: Floats) -> None:
    """Raise ValueError where rounding to float32 moves ``points`` by more than 0.1 % of the gaps between them, judged by some."""
    some = np.linspace(0, len(points) - 1, min(len(points), CHECKED_ROWS)).astype(np.intp)
    gaps = nearest(points, points[some], 2)[0][:, -1]
    moved = np.linalg.norm(points[some] - rounded[some], axis=1)
    _refuse_single(float(np.median(moved)), float(np.median(gaps)))


def check_factor(factor: Floats, jitter: float, similarities: Rows, alone: Vector) -> None:
    """Raise ValueError where shares by a factor in float32 err too much: of points, by their ``similarities``, nothing ought to be left."""
    error = np.abs(similarity.shares(factor, jitter, similarities) - jitter).max()
    _refuse_single(float(error), float(np.quantile(alone, 0.01)))


def _refuse_single(error: float, least: float) -> None:
    if error > SINGLE_SHARE * least > 0:
        raise ValueError(
            f"precision='float32' would err by {error:.1g} where differences of {least:.1g} matter: rows lie too close together "
            "for it. Use precision='float64'"
        )
