"""Paths and their signatures: iterated integrals of piecewise-linear streams."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

Paths = NDArray[np.float64]  # (n, L, c): n streams of L points with c channels
Signatures = NDArray[np.float64]  # (n, D): levels 1 to N, words in lexicographic order
Numbers = NDArray[np.float64]

BLOCK_NUMBERS = 2**18  # of the largest work array, 2 MiB
FEWEST_STEPS = 16  # done at a time, however wide


def signature_width(channels: int, depth: int) -> int:
    """D = c + c^2 + ... + c^N, the constant level 0 left out.

    >>> signature_width(3, 3), signature_width(1, 4)
    (39, 4)
    """
    return sum(channels**level for level in range(1, depth + 1))


def signatures(paths: Paths, depth: int) -> Signatures:
    r"""Truncated signatures (n, D) of ``paths`` (n, L, c): level k holds :math:`\int_{t_1<\dots<t_k} dx_{t_1}\otimes\dots\otimes dx_{t_k}`.

    A repeated point changes nothing, so that streams of unlike length are padded by repeating the last.

    Level k is summed over the steps v into which its letter before the last falls. With P the signature of the path before that
    step and m the way from the middle of the step to the end of the path, Chen's identity gives

    .. math:: S_k = \sum_v F \otimes v \otimes m - \tfrac1{12} H \otimes v \otimes v, \qquad
        F = \sum_{a=0}^{k-2} P_{k-2-a} \otimes \frac{v^{\otimes a}}{(a+1)!},
        \quad H = \sum_{a=1}^{k-2} P_{k-2-a} \otimes \frac{6a\, v^{\otimes a}}{(a+2)!}

    so that a level is two products of matrices, the second level one, and running signatures, sums of :math:`F \otimes v`, are
    needed up to level N - 2 alone. Many streams are done at once, letters first and points last in memory.

    Where pysiglib is installed it does the work, with the same numbers but for rounding.

    Cost: about :math:`4 n L c^N` floating-point operations in products of matrices and :math:`2 n L c^{N-1}` besides; memory: some
    arrays of 2 MiB, and the result.

    >>> signatures(np.array([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]]), 2)
    array([[1. , 1. , 0.5, 1. , 0. , 0.5]])
    """
    n, length, channels = paths.shape
    if (library := _library()) is not None and length >= 2:
        return np.asarray(library.sig(np.ascontiguousarray(paths), depth))
    result = np.zeros((n, signature_width(channels, depth)))
    result[:, :channels] = paths[:, -1] - paths[:, 0]
    if length < 2 or depth < 2:
        return result
    words = channels ** (depth - 1)
    steps = min(length - 1, max(FEWEST_STEPS, BLOCK_NUMBERS // words))
    streams = min(n, max(1, BLOCK_NUMBERS // (words * (steps + 1))))
    points = streams * (steps + 1)
    narrow, wide = np.empty((5, channels * points)), np.empty(words * points)
    for start in range(0, n, streams):
        _fill(result[start : start + streams], paths[start : start + streams], depth, steps, narrow, wide)
    return result


@cache
def _library() -> Any:
    """pysiglib, whose compiled signatures are several times as fast, where the user has it with the torch that it imports; else None."""
    return import_module("pysiglib") if find_spec("pysiglib") and find_spec("torch") else None


def _fill(result: Signatures, paths: Paths, depth: int, steps: int, narrow: Numbers, wide: Numbers) -> None:
    """Levels from the second on, of ``paths`` (b, L, c), added to ``result`` (b, D), ``steps`` steps at a time.

    ``narrow`` and ``wide`` are memory to work in, used again and again: to ask for it anew costs as much as the work.
    """
    count, length, channels = paths.shape
    first, total = paths[:, 0].T[..., None], result[:, :channels].T[..., None]
    reached = [np.zeros((channels**level, count, 1)) for level in range(2, depth - 1)]  # levels 2 to N - 2 of the path so far
    for start in range(0, length - 1, steps):
        points = paths[:, start : start + steps + 1].transpose(2, 0, 1)
        before, ways, scaled, rest, space = (part[: points.size].reshape(points.shape) for part in narrow)
        np.subtract(points, first, out=before)
        np.subtract(before.reshape(-1)[1:], before.reshape(-1)[:-1], out=ways.reshape(-1)[:-1])
        ways[..., -1] = 0  # no step leads from one stream to the next
        np.multiply(ways, 0.5, out=scaled)
        np.subtract(total, before, out=rest)
        rest -= scaled
        np.multiply(ways, -1 / 12, out=scaled)
        running, sums = [before], [_summed(ways, rest)]
        for level in range(3, depth + 1):
            letters = level - 2
            gained = _words(_extended(running, ways, [1 / (a + 2) for a in range(letters)], space), ways, wide)
            sums.append(_summed(gained, rest))
            known = running[:-1]
            if level < depth:
                running.append(_before(gained, reached[level - 3]))
            outer = _words(_extended(known, ways, [(a + 1) / (a * (a + 3)) for a in range(1, letters)], space), ways) if known else ways
            sums[-1] += _summed(_words(outer, scaled, wide), ways)
        result[:, channels:] += np.concatenate(sums, axis=1)


def _extended(running: list[Paths], ways: Paths, ratios: list[float], space: Paths) -> Paths:
    r"""Sum over a of :math:`r_0 r_1 \cdots r_{a-1} P_{k-a} \otimes v^{\otimes a}` with r = ``ratios``, by Horner's rule.

    ``running`` are P_1 to P_k, each (c^level, b, L), and ``ways`` the steps v (c, b, L); ``space`` (c, b, L) is memory to work in.
    """
    total = np.multiply(ways, ratios[-1], out=space)
    total += running[0]
    for ratio, known in zip(ratios[-2::-1], running[1:], strict=True):
        total = _words(total, ways * ratio)
        total += known
    return total


def _words(left: Paths, right: Paths, space: Numbers | None = None) -> Paths:
    """Tensor product of ``left`` (p, b, L) and ``right`` (q, b, L), at each point: (pq, b, L), in ``space`` where given."""
    shape = (len(left), *right.shape)
    out = np.empty(shape) if space is None else space[: math.prod(shape)].reshape(shape)
    return np.multiply(left[:, None], right, out=out).reshape(-1, *right.shape[1:])


def _summed(left: Paths, right: Paths) -> Signatures:
    """Tensor product of ``left`` (p, b, L) and ``right`` (q, b, L), summed over the points: (b, pq)."""
    return np.asarray(np.matmul(left.transpose(1, 0, 2), right.transpose(1, 2, 0)).reshape(left.shape[1], -1))


def _before(gained: Paths, reached: Paths) -> Paths:
    """What ``gained`` (p, b, L) adds up to before each point, from ``reached`` (p, b, 1) on, which goes on to the last."""
    sums = np.empty_like(gained)
    sums[..., 0] = 0
    np.cumsum(gained[..., :-1], axis=2, out=sums[..., 1:])
    sums += reached
    reached[...] = sums[..., -1:]
    return sums


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


def augmented(paths: Paths, names: Sequence[str]) -> Paths:
    """``paths`` with the augmentations ``names``, applied in this order."""
    for name in names:
        paths = AUGMENTATIONS[name](paths)
    return paths
