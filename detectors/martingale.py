r"""A conformal test martingale: evidence, valid whenever one looks, that new scores are no longer like the calibration scores.

**Why not the usual p-values.** Given one calibration set, the p-values of many new rows are independent, but their law differs from
the uniform one by :math:`O(n^{-1/2})`. Evidence against uniformity grows without bound on them although nothing has changed.

**What is done instead.** Each new score is ranked among the calibration scores *and all new scores before it*, by bins
(``detectors.bins``): with weights :math:`w_k = m_k + c_k` of the bins before it and :math:`W` their sum,

.. math:: p = \frac{\sum_{k > b} w_k + u\, w_b}{W}, \qquad u \sim U(0, 1].

Given all earlier bins, bin b has probability :math:`w_b / W`, so p is uniform given the past, and since earlier p-values
are functions of earlier bins and of other u's, **the p-values are independent and uniform**, exactly, at every n, as long as the
scores are exchangeable (Vovk, Nouretdinov and Gammerman 2003, with bins for single ranks).

**The bets.** Each of J fixed densities g on (0, 1] may start to multiply at any row k, with prior :math:`\pi_k = \rho_{k-1} - \rho_k`,
:math:`\rho_k = 1 / \log_2(k + 2)`; what has not started stays as it is:

.. math:: M_t = \frac1J \sum_j A_{j,t} + \rho_t, \qquad A_{j,t} = (A_{j,t-1} + \pi_t)\, g_j(p_t), \qquad A_{j,0} = 0.

As :math:`\rho_0 = 1` and E g(p) = 1, this is a non-negative martingale that begins at 1:

.. math:: E[M_t \mid \text{past}] = \frac1J \sum_j (A_{j,t-1} + \pi_t) + \rho_t = \frac1J \sum_j A_{j,t-1} + \rho_{t-1} = M_{t-1}.

By Ville's inequality :math:`P(\sup_t M_t \ge 1/r) \le r`, **however long one watches**. The prior makes it ready for a change after
any number of rows, at the price of :math:`\log(1/\pi_t) \approx \log t + 2 \log\log t` in evidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from detectors.bins import Counts

Floats = NDArray[np.float64]

BLOCK = 64  # rows for which the products of all bets stay within float64
# P-values between two steps count as one another: the bets are step functions, whose mean is exactly one.
STEPS = np.concatenate([[0.0], 2.0 ** np.arange(-14, -5), np.arange(1, 33) / 32])
POWERS = (0.25, 0.5, 0.75, 0.9)
SPIKES = ((0.02, 0.001), (0.05, 0.01), (0.1, 0.03))  # a share of all rows, and the p-values among which it falls


def _densities() -> Floats:
    """Mean density (steps, J) of each bet between two steps: scores that rise, fall, have outliers, concentrate or spread."""
    laws = [STEPS**power for power in POWERS] + [1 - (1 - STEPS) ** power for power in POWERS]
    laws += [(1 - share) * STEPS + share * np.minimum(STEPS / below, 1) for share, below in SPIKES]
    laws += [(STEPS + beta.cdf(STEPS, *shape)) / 2 for shape in ((3, 3), (0.5, 0.5))]
    return np.diff(np.stack(laws, axis=1), axis=0) / np.diff(STEPS)[:, None]


DENSITIES = _densities()
BETS = DENSITIES.shape[1]


@dataclass(frozen=True, slots=True)
class Martingale:
    """State of one stream, or of many side by side: leading axes of all arrays are streams.

    >>> from detectors.bins import Bins, upper_ranks
    >>> rng = np.random.default_rng(0)
    >>> bins = Bins.of(rng.normal(size=(500, 1)), upper_ranks(500, 32), seed=0)
    >>> new = rng.normal(loc=1.0, size=(200, 1))
    >>> index = bins.index(new, rng.random((200, 1)))[:, 0]
    >>> state, values = Martingale.begun(len(bins.gaps)).updated(bins.gaps, index, 1 - rng.random(200))
    >>> state.rows, bool(values.max() > np.log(1 / 0.001))
    (200, True)
    """

    counts: Counts  # (..., bins), rows so far in each bin
    wealth: Floats  # (..., J), log A

    @classmethod
    def begun(cls, bins: int, streams: tuple[int, ...] = ()) -> Martingale:
        return cls(np.zeros((*streams, bins), dtype=np.int64), np.full((*streams, BETS), -np.inf))

    @property
    def rows(self) -> int:
        """Rows so far, the same in all streams."""
        return int(self.counts.reshape(-1, self.counts.shape[-1])[0].sum())

    def updated(self, gaps: Counts, index: NDArray[np.integer], drawn: Floats) -> tuple[Martingale, Floats]:
        """The state after rows in bins ``index`` (..., m), with u ``drawn`` (..., m) from (0, 1], and log M (..., m) after each row.

        ``gaps`` (bins,) are those of the calibration scores. Cost: O(m (J + 64)) operations and memory; no loop over single rows.
        """
        counts, wealth, rows, values = self.counts, self.wealth, self.rows, [np.empty((*self.counts.shape[:-1], 0))]
        for start in range(0, index.shape[-1], BLOCK):
            part = np.s_[..., start : start + BLOCK]
            p_values = online_p_values(gaps + counts, index[part], drawn[part])
            wealth, value = wagered(wealth, rows, p_values)
            counts = counts + _counted(index[part], len(gaps))
            rows += p_values.shape[-1]
            values.append(value)
        return Martingale(counts, wealth), np.concatenate(values, axis=-1)


def online_p_values(weights: Counts, index: NDArray[np.integer], drawn: Floats) -> Floats:
    """P-values (..., m) of rows in bins ``index`` (..., m), each among what gave the bins ``weights`` (..., bins) and the rows before."""
    size = index.shape[-1]
    earlier = np.tri(size, k=-1, dtype=np.bool_)
    narrow = index.astype(np.int16)  # a quarter of the time
    this, other = narrow[..., :, None], narrow[..., None, :]
    same = np.count_nonzero((this == other) & earlier, axis=-1)
    higher = np.count_nonzero((this < other) & earlier, axis=-1)
    above = np.cumsum(weights[..., ::-1], axis=-1)[..., ::-1] - weights
    in_bin, over_bin = (np.take_along_axis(values, index, axis=-1) for values in (weights, above))
    total = weights.sum(axis=-1, keepdims=True) + np.arange(size)
    return np.asarray((over_bin + higher + drawn * (in_bin + same)) / total)


def wagered(wealth: Floats, rows: int, p_values: Floats) -> tuple[Floats, Floats]:
    """Log A (..., J) after at most ``BLOCK`` more ``p_values`` (..., m) than ``rows``, and log M (..., m) after each of them."""
    unstarted = 1 / np.log2(rows + np.arange(p_values.shape[-1] + 1) + 2.0)
    unstarted = unstarted.reshape(-1, *[1] * wealth.ndim)  # (m + 1, ..., 1): time comes first here, so that long rows are added
    scale = np.maximum(wealth.max(axis=-1, keepdims=True), 0.0)  # (..., 1)
    factors = DENSITIES[np.searchsorted(STEPS, np.moveaxis(p_values, -1, 0), side="left") - 1]  # (m, ..., J)
    products = np.cumprod(factors, axis=0)
    starting = -np.diff(unstarted, axis=0) * np.exp(-scale)
    grown = products * (np.exp(wealth - scale) + np.cumsum(starting * factors / products, axis=0))
    whole = grown @ np.full((BETS, 1), 1 / BETS) + unstarted[1:] * np.exp(-scale)
    with np.errstate(divide="ignore"):  # a bet that has lost e^700 times against another one has nothing left, which favours no alarm
        ended = np.log(grown[-1]) + scale
    return ended, np.moveaxis(np.log(whole) + scale, 0, -1)[..., 0, :]


def _counted(index: NDArray[np.integer], bins: int) -> Counts:
    """How many rows (..., bins) of ``index`` (..., m) are in each bin."""
    streams = index.reshape(-1, index.shape[-1])
    flat = (streams + bins * np.arange(len(streams))[:, None]).ravel()
    return np.bincount(flat, minlength=bins * len(streams)).reshape(*index.shape[:-1], bins)
