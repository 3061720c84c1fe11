r"""Bins between order statistics of reference values, in which the law of new values is known whatever they are.

Let n reference values and the new ones be exchangeable, and ties be broken by a number drawn for each value. A new value then
falls into each of the n + 1 gaps between the reference values with the same probability, and if c of t earlier new values fell
into a gap, the next one does with probability (1 + c) / (n + 1 + t): among all n + t values, each of n + t + 1 places is as likely,
and the gap has c + 1 of them. A bin of m gaps, chosen before any new value, therefore has the law of Pólya's urn,

.. math:: P(b_{t+1} = k \mid b_1, \dots, b_t) = \frac{m_k + c_k}{n + 1 + t},

for every continuous or discrete law of the values. It holds over the draw of the reference *and* of the new values, and needs
no more memory than a count for each bin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

CACHED_COLUMNS = 16  # sorted at a time, so that a core has them at hand

Counts = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Bins:
    """Bins of d quantities, each between order statistics of its own reference values.

    >>> bins = Bins.of(np.arange(1.0, 10.0)[:, None], even_ranks(9, 5), seed=0)
    >>> bins.gaps
    array([2, 2, 2, 2, 2])
    >>> bins.index(np.array([[0.5], [4.5], [99.0]]), np.full((3, 1), 0.5)).ravel()
    array([0, 2, 4])
    """

    edges: Floats  # (bins - 1, d), ascending in each column
    breaks: Floats  # (bins - 1, d), in [0, 1): the numbers drawn for the edges, which order what is equal
    gaps: Counts  # (bins,), of the n + 1 gaps between reference values, how many are in each bin

    @classmethod
    def of(cls, reference: Floats, ranks: Counts, seed: int) -> Bins:
        """Bins that end at the reference values (n, d) of these ``ranks``, ascending, from 1 to n. ``seed`` orders equal values."""
        rng = np.random.default_rng(seed)
        edges, breaks = np.empty((len(ranks), reference.shape[1]), reference.dtype), rng.random((len(ranks), reference.shape[1]))
        for start in range(0, reference.shape[1], CACHED_COLUMNS):
            block = slice(start, start + CACHED_COLUMNS)
            columns = np.ascontiguousarray(reference[:, block].T)
            ordered = np.sort(columns, axis=1)
            edges[:, block] = ordered[:, ranks - 1].T
            around = ordered[:, [np.maximum(ranks - 2, 0), ranks - 1, np.minimum(ranks, len(reference) - 1)]]
            alone = (around[:, 0] < around[:, 1]) | (ranks == 1), (around[:, 1] < around[:, 2]) | (ranks == len(reference))
            if (tied := np.flatnonzero(~(alone[0] & alone[1]).all(axis=1))).size:
                drawn = rng.random((len(tied), len(reference)))
                places = np.lexsort((drawn, columns[tied]))[:, ranks - 1]  # to sort by both is many times slower
                breaks[:, start + tied] = np.take_along_axis(drawn, places, axis=1).T
        return cls(edges, breaks, np.diff(np.concatenate([[0], ranks, [len(reference) + 1]])))

    def index(self, values: Floats, drawn: Floats) -> NDArray[np.intp]:
        """Bin (m, d) of each of ``values`` (m, d), with numbers (m, d) drawn from [0, 1) to break ties. Cost: m d bins comparisons."""
        index = np.zeros(values.shape, dtype=np.intp)
        for edge, broken in zip(self.edges, self.breaks, strict=True):
            index += values > edge
            if (tied := values == edge).any():
                index += tied & (drawn > broken)
        return index


def even_ranks(reference: int, bins: int) -> Counts:
    """Ranks that part ``reference`` values into ``bins`` bins of the same weight, or into fewer where there are too few values."""
    ranks = np.unique(np.round((reference + 1) * np.arange(1, bins) / bins).astype(np.int64))
    return ranks[(ranks > 0) & (ranks <= reference)]


def upper_ranks(reference: int, bins: int) -> Counts:
    """As ``even_ranks``, with the highest bin halved again and again down to a single gap, where alarms are decided."""
    halves = 2 ** np.arange(max(int(np.log2((reference + 1) / bins)) + 1, 1))
    ranks = np.unique(np.concatenate([even_ranks(reference, bins), reference + 1 - halves]))
    return ranks[(ranks > 0) & (ranks <= reference)]


def log_evidence(gaps: Counts, counts: Counts) -> Floats:
    r"""Logarithm (d,) of the evidence that new values, by their ``counts`` (bins, d), come from another law than the reference.

    .. math:: E = \frac{\prod_k a_k^{(c_k)} / a^{(t)}}{\prod_k m_k^{(c_k)} / (n + 1)^{(t)}}, \qquad a_k = \frac{m_k K}{n + 1}

    with rising factorials :math:`x^{(c)}`, K bins and :math:`a = K`. The denominator is the probability of the sequence of bins under
    exchangeability (see the module), the numerator that under a law drawn anew for the new values. Their ratio
    is a martingale that begins at 1, so :math:`P(\sup_t E_t \ge 1/q) \le q` (Ville 1939), at whatever time one looks; it does not depend
    on the order of the values. Cost: O(bins d), whatever the number of rows.
    """
    ours, total = gaps[:, None].astype(np.float64), float(gaps.sum())
    free = ours * (len(gaps) / total)
    rows = counts.sum(axis=0)
    alternative = (gammaln(free + counts) - gammaln(free)).sum(axis=0) - gammaln(len(gaps) + rows) + gammaln(len(gaps))
    null = (gammaln(ours + counts) - gammaln(ours)).sum(axis=0) - gammaln(total + rows) + gammaln(total)
    return np.asarray(alternative - null)


def moved(evidence: Floats, rate: float) -> NDArray[np.bool_]:
    """Which of d hypotheses to reject by their log evidence (d,), with a false discovery rate of at most ``rate`` under any dependence.

    The procedure of Benjamini and Hochberg for e-values (Wang and Ramdas 2022): the k highest, for the largest k of which all are
    at least d / (k rate).

    >>> moved(np.log([1.0, 500.0, 90.0, 0.2]), 0.05)
    array([False,  True,  True, False])
    """
    highest = np.sort(evidence)[::-1]
    needed = np.log(len(evidence) / (rate * np.arange(1, len(evidence) + 1)))
    passed = np.flatnonzero(highest >= needed)
    limit = highest[passed[-1]] if len(passed) else np.inf
    return np.asarray(evidence >= limit)


def rank_shift(gaps: Counts, counts: Counts) -> Floats:
    """By how much P(a new value exceeds a reference value) differs from 1/2, (d,) between -1/2 and 1/2; 0 without new values."""
    middles = (np.cumsum(gaps) - gaps / 2) / gaps.sum()
    return np.asarray(middles @ counts / np.maximum(counts.sum(axis=0), 1) - np.where(counts.sum(axis=0) > 0, 0.5, 0))
