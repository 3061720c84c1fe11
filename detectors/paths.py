"""Paths and their signatures: iterated integrals of piecewise-linear streams."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Paths = NDArray[np.float64]  # (n, L, c): n streams of L points with c channels
Signatures = NDArray[np.float64]  # (n, D): levels 1 to N, words in lexicographic order

BLOCK_BYTES = 2**19  # of work arrays; about the second-level cache


def signature_width(channels: int, depth: int) -> int:
    """D = c + c^2 + ... + c^N, the constant level 0 left out.

    >>> signature_width(3, 3), signature_width(1, 4)
    (39, 4)
    """
    return sum(channels**level for level in range(1, depth + 1))


def signatures(paths: Paths, depth: int) -> Signatures:
    r"""Truncated signatures (n, D) of ``paths`` (n, L, c): level k holds :math:`\int_{t_1<\dots<t_k} dx_{t_1}\otimes\dots\otimes dx_{t_k}`.

    By Chen's identity a step v multiplies the signature by :math:`\exp(v)`, so that the increment of level k at a step is
    :math:`(\dots((v/k + S_1)\otimes v/(k-1) + S_2)\otimes\dots + S_{k-1})\otimes v` with the signature S before the step. Here
    all steps of many streams are done at once, level by level: running signatures by cumulative sums, the last level by one
    product of matrices. A repeated point changes nothing, so that streams of unlike length are padded by repeating the last.

    Cost: about :math:`2 n L c^N` floating-point operations; memory: blocks of half a MiB, and the result.

    >>> signatures(np.array([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]]), 2)
    array([[1. , 1. , 0.5, 1. , 0. , 0.5]])
    """
    n, length, channels = paths.shape
    result = np.zeros((n, signature_width(channels, depth)))
    if length < 2:
        return result
    step = max(1, BLOCK_BYTES // (16 * length * channels ** max(depth - 1, 1)))
    for start in range(0, n, step):
        _fill(result[start : start + step], np.diff(paths[start : start + step], axis=1), depth)
    return result


def _fill(result: Signatures, steps: Paths, depth: int) -> None:
    """Signatures of streams given by their ``steps`` (b, T, c), written into ``result`` (b, D)."""
    count, length, channels = steps.shape
    running: list[Paths] = []  # levels 1, 2, ... before each step
    offset = 0
    for level in range(1, depth + 1):
        width = channels**level
        inner = _inner(running, steps, level)
        if level == depth:
            total = np.matmul(inner.transpose(0, 2, 1), steps).reshape(count, width)
        else:
            increments = (inner[..., :, None] * steps[..., None, :]).reshape(count, length, width)
            sums = np.cumsum(increments, axis=1)
            total = sums[:, -1]
            before = np.zeros_like(sums)
            before[:, 1:] = sums[:, :-1]
            running.append(before)
        result[:, offset : offset + width] = total
        offset += width


def _inner(running: list[Paths], steps: Paths, level: int) -> Paths:
    """What multiplies the last v in the increment of ``level``: (b, T, c^(level-1)); ones for level 1."""
    count, length, _ = steps.shape
    if level == 1:
        return np.ones((count, length, 1))
    inner = steps / level
    for j in range(1, level - 1):
        inner = ((inner + running[j - 1])[..., :, None] * (steps / (level - j))[..., None, :]).reshape(count, length, -1)
    return np.asarray(inner + running[level - 2])


def with_time(paths: Paths) -> Paths:
    """A last channel that runs from 0 to 1: speed becomes visible."""
    clock = np.broadcast_to(np.linspace(0, 1, paths.shape[1])[:, None], (*paths.shape[:2], 1))
    return np.concatenate([paths, clock], axis=2)


def with_basepoint(paths: Paths) -> Paths:
    """The origin put before the first point: the start value becomes visible."""
    return np.concatenate([np.zeros_like(paths[:, :1]), paths], axis=1)


def with_invisibility(paths: Paths) -> Paths:
    """A last channel that is 1 on the path and is reset, then all channels, to 0: both ends become visible."""
    seen = np.concatenate([paths, np.ones((*paths.shape[:2], 1))], axis=2)
    end = seen[:, -1:].copy()
    end[..., -1] = 0
    return np.concatenate([seen, end, np.zeros_like(end)], axis=1)


def with_lead_lag(paths: Paths) -> Paths:
    """Twice the channels, the first half one point ahead of the second: quadratic variation becomes visible."""
    twice = np.repeat(paths, 2, axis=1)
    return np.concatenate([twice[:, 1:], twice[:, :-1]], axis=2)


AUGMENTATIONS: dict[str, Callable[[Paths], Paths]] = {
    "time": with_time,
    "basepoint": with_basepoint,
    "lead_lag": with_lead_lag,
    "invisibility": with_invisibility,
}
