"""The conformal test martingale: uniform p-values, the bound on false alarms, and that it does alarm."""

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import binom, kstest, norm

from detectors.bins import Bins, upper_ranks
from detectors.martingale import BETS, DENSITIES, STEPS, Martingale, online_p_values, wagered

RNG = np.random.default_rng(0)


def stream(rng, rows, calibration=99, draw=None):
    """Gaps, and bins of new rows, of one calibration set."""
    draw = draw or (lambda size: rng.normal(size=size))
    bins = Bins.of(draw(calibration)[:, None], upper_ranks(calibration, 16), seed=int(rng.integers(2**31)))
    return bins.gaps, bins.index(draw(rows)[:, None], rng.random((rows, 1)))[:, 0]


def naive(gaps, index, drawn):
    """P-values and log M row by row, as the equations say."""
    counts, wealth, p_values, values = gaps.astype(float), np.zeros(BETS), [], []
    for row, (place, u) in enumerate(zip(index, drawn, strict=True)):
        p = (counts[place + 1 :].sum() + u * counts[place]) / counts.sum()
        counts[place] += 1
        before, after = 1 / np.log2(row + 2), 1 / np.log2(row + 3)
        step = next(i for i in range(len(STEPS) - 1) if STEPS[i] < p <= STEPS[i + 1])
        wealth = (wealth + before - after) * DENSITIES[step]
        p_values.append(p)
        values.append(np.log(wealth.mean() + after))
    return p_values, values


def test_it_is_that_of_the_equations_in_blocks_of_any_size():
    """Row by row, all at once, and in uneven blocks."""
    gaps, index = stream(RNG, 300)
    drawn = 1 - RNG.random(300)
    p_values, values = naive(gaps, index, drawn)
    assert_allclose(online_p_values(gaps, index, drawn), p_values, rtol=1e-12)
    assert_allclose(Martingale.begun(len(gaps)).updated(gaps, index, drawn)[1], values, rtol=1e-9)
    state, found = Martingale.begun(len(gaps)), []
    for part in (slice(0, 1), slice(1, 70), slice(70, 300)):
        state, some = state.updated(gaps, index[part], drawn[part])
        found += some.tolist()
    assert_allclose(found, values, rtol=1e-9)
    assert_array_equal(state.counts, np.bincount(index, minlength=len(gaps)))


def test_streams_side_by_side_are_those_alone():
    """Of one shape."""
    gaps, _ = stream(RNG, 1)
    index, drawn = RNG.integers(0, len(gaps), (3, 100)), 1 - RNG.random((3, 100))
    together = Martingale.begun(len(gaps), (3,)).updated(gaps, index, drawn)
    for i in range(3):
        alone = Martingale.begun(len(gaps)).updated(gaps, index[i], drawn[i])
        assert_allclose(alone[1], together[1][i], rtol=1e-12)
        assert_allclose(alone[0].wealth, together[0].wealth[i], rtol=1e-12)


def test_every_bet_is_fair():
    """The densities integrate to one."""
    assert_allclose(np.diff(STEPS) @ DENSITIES, np.ones(BETS), rtol=1e-12)


def test_p_values_are_uniform_and_do_not_tell_of_each_other():
    """Over calibration sets of 19 rows, whose scores are continuous or take three values: the law of some and of their mean, and pairs."""
    for discrete in (False, True):
        rng, found = np.random.default_rng(3), []
        for _ in range(1500):
            draw = (lambda size: rng.integers(0, 3, size).astype(float)) if discrete else None  # noqa: B023
            gaps, index = stream(rng, 40, 19, draw)
            found.append(online_p_values(gaps, index, 1 - rng.random(40)))
        p_values = np.array(found)
        for row in (0, 9, 39):
            assert kstest(p_values[:, row], "uniform").pvalue > 1e-4
        assert abs(np.corrcoef(p_values.T)[np.triu_indices(40, 1)]).max() < 5.5 / np.sqrt(1500)
        assert kstest(p_values.mean(axis=1), norm(0.5, np.sqrt(1 / 12 / 40)).cdf).pvalue > 1e-4


def test_the_bound_on_false_alarms_holds_where_that_of_one_calibration_set_breaks():
    """400 streams of 3000 normal rows beside 99 calibration scores: at most the stated rate alarm, and many do by plain p-values."""
    rng, runs, rate = np.random.default_rng(4), 400, 0.05
    ranks = upper_ranks(99, 16)
    gaps = np.diff(np.concatenate([[0], ranks, [100]]))
    shares = rng.dirichlet(gaps, size=runs)  # the law of the bins of one calibration set
    index = np.stack([rng.choice(len(gaps), 3000, p=share) for share in shares])
    drawn = 1 - rng.random(index.shape)
    values = Martingale.begun(len(gaps), (runs,)).updated(gaps, index, drawn)[1]
    assert (values.max(axis=1) >= np.log(1 / rate)).sum() <= binom.ppf(0.9999, runs, rate)
    above = np.cumsum(gaps[::-1])[::-1] - gaps
    plain, wealth, peak = (above[index] + drawn * gaps[index]) / 100, np.full((runs, BETS), -np.inf), np.zeros(runs)
    for start in range(0, 3000, 50):
        wealth, some = wagered(wealth, start, plain[:, start : start + 50])
        peak = np.maximum(peak, some.max(axis=1))
    assert (peak >= np.log(1 / rate)).mean() > 0.5


def test_it_is_a_martingale():
    """Its mean over many streams stays one, at rows where few of them carry it."""
    rng, runs = np.random.default_rng(5), 20_000
    gaps = np.array([10, 8, 1, 1])
    index = np.stack([rng.choice(4, 8, p=share) for share in rng.dirichlet(gaps, size=runs)])
    final = np.exp(Martingale.begun(4, (runs,)).updated(gaps, index, 1 - rng.random(index.shape))[1])
    for mean, spread in zip(final.mean(axis=0), final.std(axis=0), strict=True):
        assert abs(mean - 1) < 4.5 * spread / np.sqrt(runs)


def test_a_change_after_many_rows_is_found():
    """Of each kind, within 1500 rows after 20 000 normal ones."""
    changes = [
        lambda n: RNG.normal(1, 1, n),
        lambda n: RNG.normal(-1, 1, n),
        lambda n: RNG.normal(0, 2, n),
        lambda n: RNG.normal(0, 0.5, n),
    ]
    for change in changes:
        bins = Bins.of(RNG.normal(size=(500, 1)), upper_ranks(500, 32), seed=0)
        scores = np.concatenate([RNG.normal(size=20_000), change(1500)])[:, None]
        index = bins.index(scores, RNG.random(scores.shape))[:, 0]
        values = Martingale.begun(len(bins.gaps)).updated(bins.gaps, index, 1 - RNG.random(len(index)))[1]
        assert values[:20_000].max() < np.log(1000) <= values.max()


def test_evidence_beyond_all_numbers_stays_finite():
    """Half a million times the smallest p-value and back: log M is finite throughout, without a warning."""
    gaps = np.array([500, 1])
    index = np.concatenate([np.ones(20_000, dtype=int), np.zeros(20_000, dtype=int)])
    state, values = Martingale.begun(2).updated(gaps, index, np.full(len(index), 0.5))
    assert np.isfinite(values).all()
    assert values.max() > 100
    assert not np.isnan(state.wealth).any()
    wealth = np.full(BETS, -np.inf)
    for start in range(0, 6400, 64):
        wealth, values = wagered(wealth, start, np.full(64, 1e-9))
    for start in range(6400, 12_800, 64):
        wealth, values = wagered(wealth, start, np.full(64, 1.0))
        assert np.isfinite(values).all()
