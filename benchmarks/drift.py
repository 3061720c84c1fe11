"""How often drift is told where there is none, and how soon it is told where there is some, beside others.

    python -m benchmarks.drift [--quick] [--write] [--seed 0]

prints two tables; ``--write`` also puts them into docs/drift.md, between the comments that name them. The first lets 1000 streams of a
million normal rows run, each with a calibration set of its own. The second changes the scores after a thousand and after a hundred thousand
rows. Peers take part where they are installed (`pip install '.[bench]'`). Ends with status 1 if false alarms exceed what is promised.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy.stats import binom, norm

from benchmarks.drift_peers import peers
from benchmarks.pages import written
from detectors.bins import Bins, upper_ranks
from detectors.martingale import Martingale, wagered

PAGE = Path("docs/drift.md")
CALIBRATION, BINS = 500, 32
RATES = (0.1, 0.01, 0.001)
TOGETHER = 10  # streams computed side by side: more do not fit into the cache
BLOCK = 64  # rows computed at a time
DOUBT = 1e-5  # probability with which a promise that is kept is called broken, per figure


class Streams:
    """Streams of normal scores, each beside a calibration set of its own, as bins of that set."""

    def __init__(self, count, rng):
        self.rng = rng
        ranks = upper_ranks(CALIBRATION, BINS)
        bins = Bins.of(rng.normal(size=(CALIBRATION, count)), ranks, seed=0)
        self.edges, self.gaps = bins.edges, bins.gaps
        self.below = norm.cdf(bins.edges).T + np.arange(count)[:, None]  # one ascending line for all streams

    def rows(self, size):
        """Bins (streams, size) of new scores, by the probability integral transform."""
        streams, inner = self.below.shape
        drawn = self.rng.random((streams, size)) + np.arange(streams)[:, None]
        return np.searchsorted(self.below.ravel(), drawn) - inner * np.arange(streams)[:, None]


def null(runs, naive_runs, rows, seed):
    """Share of runs of normal rows that have raised an alarm after so many rows, by stated rate."""
    marks = [10**power for power in range(3, int(np.log10(rows)) + 1)]
    table, outside = [], []
    for name, count, highest in (
        ("online p-values (farfield)", runs, _highest(runs, marks, seed, online=True)),
        ("p-values of one calibration set", naive_runs, _highest(naive_runs, marks, seed, online=False)),
    ):
        for rate in RATES:
            alarms = (highest >= np.log(1 / rate)).sum(axis=0)
            most = binom.ppf(1 - DOUBT, count, rate)
            if "online" in name and alarms[-1] > most:
                outside.append(f"{alarms[-1]} of {count} runs at rate {rate}")
            table.append([name, f"{100 * rate:g}", count, *(f"{100 * found / count:.1f}" for found in alarms)])
    header = ["ranked by", "stated rate, %", "runs", *(f"after {spaced(mark)} rows, %" for mark in marks)]
    return _table(header, table, 1), outside


def _highest(runs, marks, seed, *, online):
    """The highest log M (runs, marks) of each run until each mark."""
    highest = np.full((runs, len(marks)), -np.inf)
    for first in range(0, runs, TOGETHER):
        part = slice(first, min(first + TOGETHER, runs))
        streams = Streams(part.stop - first, np.random.default_rng([seed, first]))
        begun = Martingale.begun(len(streams.gaps), (part.stop - first,))
        state, wealth, done, peak = begun, begun.wealth, 0, np.full(part.stop - first, -np.inf)
        fixed = np.cumsum(streams.gaps[::-1])[::-1] - streams.gaps
        while done < marks[-1]:
            index, drawn = streams.rows(BLOCK), 1 - streams.rng.random((part.stop - first, BLOCK))
            if online:
                state, values = state.updated(streams.gaps, index, drawn)
            else:
                wealth, values = wagered(wealth, done, (fixed[index] + drawn * streams.gaps[index]) / streams.gaps.sum())
            for place, mark in enumerate(marks):
                if done < mark <= done + BLOCK:
                    highest[part, place] = np.maximum(peak, values[:, : mark - done].max(axis=1))
            peak = np.maximum(peak, values.max(axis=1))
            done += BLOCK
    return highest


CHANGES = {
    "mean + 0.25 sd": lambda rng, size: rng.normal(0.25, 1, size),
    "mean + 1 sd": lambda rng, size: rng.normal(1, 1, size),
    "mean - 1 sd": lambda rng, size: rng.normal(-1, 1, size),
    "sd x 1.5": lambda rng, size: rng.normal(0, 1.5, size),
    "sd / 1.5": lambda rng, size: rng.normal(0, 1 / 1.5, size),
    "5 % at + 4 sd": lambda rng, size: rng.normal(0, 1, size) + 4 * (rng.random(size) < 0.05),
}


class Ours:
    """The martingale as a peer: scores in, the number of rows after which it alarms out."""

    def __init__(self, rate):
        self.name, self.rate = f"farfield, rate {100 * rate:g} %", rate

    def first_alarm(self, calibration, scores, seed):
        """Number of rows until the alarm; None where there is none."""
        bins = Bins.of(calibration[:, None], upper_ranks(len(calibration), BINS), seed=0)
        rng = np.random.default_rng(seed)
        index = bins.index(scores[:, None], rng.random((len(scores), 1)))[:, 0]
        values = Martingale.begun(len(bins.gaps)).updated(bins.gaps, index, 1 - rng.random(len(scores)))[1]
        found = np.flatnonzero(values >= np.log(1 / self.rate))
        return int(found[0]) + 1 if len(found) else None


def delays(runs, befores, after, seed):
    """Rows from the change to the alarm: the median over the runs that raised none before, of those that raised one in time."""
    watchers = [Ours(0.001), *peers()]
    table = []
    for before in befores:
        for watcher in watchers:
            if before > getattr(watcher, "most_rows", before):
                continue
            cells, early = [], 0
            for change in CHANGES.values():
                found = []
                for run in range(runs):
                    rng = np.random.default_rng([seed, run, before])
                    calibration, normal = rng.normal(size=CALIBRATION), rng.normal(size=before)
                    alarm = watcher.first_alarm(calibration, np.concatenate([normal, change(rng, after)]), [seed, run])
                    early += alarm is not None and alarm <= before
                    found += [alarm - before if alarm else np.inf] * (alarm is None or alarm > before)
                late = np.isfinite(found).sum()
                cells.append(f"{np.median(found):.0f}" if late > len(found) / 2 else f"– ({late} of {len(found)})")
            table.append([watcher.name, spaced(before), f"{100 * early / runs / len(CHANGES):.1f}", *cells])
    header = ["watched by", "normal rows before", "alarm before the change, %", *CHANGES]
    return _table(header, table, 1), []


def spaced(number):
    return f"{number:,}".replace(",", " ")


def _table(header, rows, texts):
    lines = [header, ["---"] * texts + ["--:"] * (len(header) - texts), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few short runs, to see that it runs")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["null", "delays"], help="one table instead of both")
    options = parser.parse_args()
    sections = {
        "null": lambda: null(*((20, 20, 10_000) if options.quick else (1000, 100, 1_000_000)), options.seed),
        "delays": lambda: delays(*((3, [1000], 2000) if options.quick else (20, [1000, 100_000], 5000)), options.seed),
    }
    failed = []
    for name in [options.only] if options.only else sections:
        table, outside = sections[name]()
        print(f"## {name}\n\n{table}\n", flush=True)
        failed += [f"{name}: {what}" for what in outside]
        if options.write:
            PAGE.write_text(written(PAGE.read_text(), f"benchmarks.drift: {name}", table))
    print("\n".join(["Outside:", *failed]) if failed else "Nothing lies outside.")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
