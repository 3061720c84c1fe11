"""Weights of very many points, by conjugate gradients, with a sparse inverse from nearest neighbours as preconditioner."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, cg

from detectors.arrays import Floats, Rows, Scores, Vector
from detectors.neighbours import Distances, Indices

NUGGET = 1e-6  # added to the diagonal of the small systems
TOLERANCE = 1e-6  # of the residual of Z w = 1, relative
ITERATIONS = 500
LARGEST = 200_000  # points; each iteration takes all pairs of them
BLOCK_NUMBERS = 2**22  # similarities held at a time
LOCAL_NUMBERS = 2**20  # numbers of neighbours held at a time


def conditional(points: Floats, distances: Distances, indices: Indices, t: float) -> tuple[Scores, Rows, Scores]:
    """Unexplained share s (m,) of queries by k points at ``distances`` (m, k), coefficients Z⁻¹z (m, k), and r = 1 - zᵀZ⁻¹1 (m,).

    One system of size k per query, all solved in one call. Points at an infinite distance count for nothing.
    Cost: k²d + k³/3 per query.
    """
    among = points[indices].astype(np.float64, copy=False)
    among -= among[:, :1]  # about the nearest, so that products do not cancel
    squares = np.square(among).sum(axis=2)
    gaps = squares[:, :, None] + squares[:, None] - 2 * among @ among.transpose(0, 2, 1)
    similarity = np.exp(-t * np.sqrt(np.maximum(gaps, 0)))
    diagonal = np.arange(distances.shape[1])
    similarity[:, diagonal, diagonal] = 1 + NUGGET
    nothing = np.isinf(distances)
    similarity *= ~(nothing[:, :, None] ^ nothing[:, None])
    z = np.exp(-t * distances)
    coefficients = np.linalg.solve(similarity, z[:, :, None])[:, :, 0]
    return 1 + NUGGET - np.einsum("ij,ij->i", z, coefficients), coefficients, 1 - coefficients.sum(axis=1)


def weights(points: Floats, t: float, neighbours: int, seed: int) -> Vector:
    r"""The solution (n,) of Z w = 1 without Z in memory, to a relative residual of 1e-6.

    The preconditioner is :math:`B^\top D^{-1} B`, where each point in a random order is regressed on its nearest ones before it (Vecchia
    1988; Schäfer, Katzfuss and Owhadi 2021, section 3). Cost: :math:`n^2` similarities per iteration and for the search;
    memory: :math:`n(d + 2k)` numbers and blocks of 32 MiB.

    Raises ValueError beyond 200 000 points, and where 500 iterations do not suffice.
    """
    if len(points) > LARGEST:
        raise ValueError(f"weights of {len(points)} points need all their pairs in each iteration, and are refused beyond {LARGEST} points")
    order = np.random.default_rng(seed).permutation(len(points))
    ranked = points[order].astype(np.float64, copy=False) - points.mean(axis=0, dtype=np.float64)
    regression, shares = _regression(ranked, t, neighbours)
    shape = (len(points), len(points))
    inverse = LinearOperator(shape, lambda v: regression.T @ ((regression @ v) / shares), dtype=np.float64)
    product = LinearOperator(shape, lambda v: _product(ranked, t, v), dtype=np.float64)
    found, iterations = cg(product, np.ones(len(points)), rtol=TOLERANCE, atol=0.0, maxiter=ITERATIONS, M=inverse)
    if iterations:
        raise ValueError(f"the weights did not converge in {ITERATIONS} iterations: points lie too close at this scale, use 'local'")
    solution = np.empty(len(points))
    solution[order] = found
    return solution


def _regression(points: Rows, t: float, neighbours: int) -> tuple[csr_array, Scores]:
    """The sparse matrix B (n, n) that takes from each point what its nearest predecessors explain, and the share that is left."""
    n, count = len(points), min(neighbours, len(points))
    columns, values, shares = np.empty((n, count), dtype=np.intp), np.empty((n, count)), np.empty(n)
    step = max(1, min(BLOCK_NUMBERS // n, LOCAL_NUMBERS // (count * (points.shape[1] + 2 * count))))
    for start in range(0, n, step):
        block = np.arange(start, min(start + step, n))
        distances = _distances(points[block], points[: block[-1] + 1])
        distances[block[:, None] <= np.arange(distances.shape[1])] = np.inf
        width = min(count, distances.shape[1])
        chosen = np.argpartition(distances, width - 1, axis=1)[:, :width]
        near = np.take_along_axis(distances, chosen, axis=1)
        ranked = np.argsort(near, axis=1)
        chosen, near = np.take_along_axis(chosen, ranked, axis=1), np.take_along_axis(near, ranked, axis=1)
        shares[block], coefficients, _ = conditional(points, near, chosen, t)
        columns[block], values[block] = 0, 0
        columns[block, :width], values[block, :width] = chosen, -coefficients
    rows = np.repeat(np.arange(n), count)
    everything = (np.concatenate([values.ravel(), np.ones(n)]), (np.append(rows, np.arange(n)), np.append(columns.ravel(), np.arange(n))))
    return csr_array(everything, shape=(n, n)), np.maximum(shares, NUGGET)


def _product(points: Rows, t: float, vector: Vector) -> Vector:
    step = max(1, BLOCK_NUMBERS // len(points))
    result = np.empty(len(points))
    for start in range(0, len(points), step):
        similarities = _distances(points[start : start + step], points)
        similarities[np.arange(len(similarities)), np.arange(start, start + len(similarities))] = 0
        similarities *= -t
        result[start : start + step] = np.exp(similarities, out=similarities) @ vector
    return result


def _distances(left: Rows, right: Rows) -> Rows:
    squares = np.square(left).sum(axis=1)[:, None] + np.square(right).sum(axis=1) - 2 * left @ right.T
    return np.asarray(np.sqrt(np.maximum(squares, 0, out=squares), out=squares))
