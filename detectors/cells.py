"""Nearest neighbours among very many points, by an inverted file of faiss: points lie in cells, and few cells are searched."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from detectors.arrays import Floats, Vector
from detectors.neighbours import SPARE, Distances, Indices, nearest, smallest

if TYPE_CHECKING:
    import faiss

CELL_POINTS = 256  # points to a cell, on average
PROBES = 16  # cells searched for a query, the nearest ones
SAMPLE_POINTS = 64  # points to a cell from which centres are found
ROUNDS = 8  # of moving each centre to the mean of its cell
BLOCK_NUMBERS = 2**22  # coordinates of neighbours held at a time
TYPICAL_POINTS = 4096  # from which the middle and the unit of all are taken
ADDED_POINTS = 2**16  # that go to the index at a time
FARTHEST = 1e15  # units from the middle to which coordinates are cut, so that single precision holds their squares
EPSILON = float(np.finfo(np.float32).eps)
HARMLESS = 1e-3  # share of a distance that the rounding of coordinates to single precision may be


@dataclass(frozen=True)
class Cells:
    r"""A division of points into the cells of centres that k-means finds from a part of them (Jégou, Douze and Schmid 2011, section IV).

    faiss finds the centres and searches; a version keeps centres and points as plain arrays, from which the index is built when it is
    first searched: the points once more, in single precision. The search is approximate: neighbours in cells whose centres are not
    among the 16 nearest to the query are missed; what that does to ranks ``python -m benchmarks.weighting --scale`` prints. Candidates,
    some more than asked for, are found in single precision, then measured and put in order in double. Where rounding may have
    hidden a point nearer by more than 0.1 %, as in clusters that are small beside their distances, all points are measured.

    Cost: search :math:`2d(n/256 + 4096)` floating-point operations per query; division :math:`2nd\cdot n/256`, and the index.

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
        import faiss

        frame = _Frame.of(points)
        single = frame.single(points)
        count, share = -(-len(points) // CELL_POINTS), {"min_points_per_centroid": 1, "max_points_per_centroid": SAMPLE_POINTS}
        means = faiss.Kmeans(points.shape[1], count, niter=ROUNDS, seed=seed % 2**31, **share)
        means.train(single)
        owner = means.assign(single)[1]
        order = np.argsort(owner, kind="stable")
        own, firsts = np.unique(owner[order], return_index=True)
        return order, cls(
            frame.back(np.asarray(means.centroids)[own]).astype(points.dtype), np.append(firsts, len(points)).astype(np.float64)
        )

    def searched(self, points: Floats, queries: Floats, count: int) -> tuple[Distances, Indices]:
        """Distances (m, k) of ``queries`` (m, d) to about the k nearest ``points`` (n, d), in the order of the cells; and which."""
        frame, index = self._index(points)
        count = min(count, len(points))
        wanted = min(count + SPARE, len(points))
        distances, indices = np.empty((len(queries), count)), np.empty((len(queries), count), dtype=np.intp)
        step = max(1, BLOCK_NUMBERS // (wanted * points.shape[1]))
        for start in range(0, len(queries), step):
            block = slice(start, start + step)
            asked, single = queries[block], frame.single(queries[block])
            squares, candidates = index.search(single, wanted)
            gaps = points[candidates].astype(np.float64, copy=False) - asked[:, None]
            near, which = smallest(np.where(candidates < 0, np.inf, np.sqrt(np.einsum("ijk,ijk->ij", gaps, gaps))), count)
            which = np.take_along_axis(candidates, which, axis=1)
            few = which[:, -1] < 0  # points in all cells searched
            doubtful = few | _hidden(frame, single, near[:, -1], squares[:, -1]) if wanted < len(points) else few
            if doubtful.any():
                near[doubtful], which[doubtful] = nearest(points.astype(np.float64, copy=False), asked[doubtful], count)
            distances[block], indices[block] = near, which
        return distances, indices

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: a copy builds an index of its own."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _index(self, points: Floats) -> tuple[_Frame, faiss.IndexIVFFlat]:
        """What is searched, built from ``points`` when it is first asked for; those of one division are always the same."""
        found = self.__dict__.get("_built")
        if found is None:
            import faiss
            from faiss.contrib.ivf_tools import add_preassigned

            frame, width = _Frame.of(points), points.shape[1]
            index = faiss.IndexIVFFlat(faiss.IndexFlatL2(width), width, len(self.centres))
            index.quantizer.add(frame.single(self.centres))
            index.is_trained, index.nprobe = True, min(PROBES, len(self.centres))
            owner = np.repeat(np.arange(len(self.centres)), np.diff(self.starts).astype(np.intp))
            for start in range(0, len(points), ADDED_POINTS):
                block = slice(start, start + ADDED_POINTS)
                add_preassigned(index, frame.single(points[block]), owner[block])  # type: ignore[no-untyped-call]
            found = self.__dict__["_built"] = frame, index
        return found


def _hidden(frame: _Frame, queries: NDArray[np.float32], found: Distances, squares: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where a point nearer than that ``found`` (m,) last may be none of the candidates, whose largest ``squares`` (m,) faiss gives.

    It lies no farther from the query than that, and rounding to single precision moves either by no more than their own digits.
    """
    with np.errstate(over="ignore"):
        found = found / frame.unit
        error = EPSILON * (np.linalg.norm(queries.astype(np.float64), axis=1) + (1 + queries.shape[1]) * found)
        return np.asarray((found + error > np.sqrt(squares)) & (error > HARMLESS * found) & (found > 0))


@dataclass(frozen=True)
class _Frame:
    """Where points are put for single precision, about their middle and in their own unit: neither moves with a few far ones."""

    middle: Vector  # (d,)
    unit: float

    @classmethod
    def of(cls, points: Floats) -> _Frame:
        some = points[:: max(1, len(points) // TYPICAL_POINTS)].astype(np.float64)
        middle = np.median(some, axis=0)
        away = np.abs(some - middle)
        typical = float(np.median(away.max(axis=1)))
        return cls(middle, typical or float(away.max()) or 1.0)

    def single(self, rows: Floats) -> NDArray[np.float32]:
        found = np.empty(rows.shape, np.float32)
        for start in range(0, len(rows), TYPICAL_POINTS):
            block = slice(start, start + TYPICAL_POINTS)
            with np.errstate(over="ignore"):  # what is infinitely many units away is cut like the rest
                found[block] = np.clip((rows[block] - self.middle) / self.unit, -FARTHEST, FARTHEST)
        return found

    def back(self, single: NDArray[Any]) -> Vector:
        return single.astype(np.float64) * self.unit + self.middle
