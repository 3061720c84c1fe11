"""Simulated false-alarm and false-discovery rates of every detector and of every way to calibrate.

Each function gives a Markdown table and the names of the figures that lie outside of what is promised. Of a promise kept, one
figure is outside by chance with probability ``DOUBT`` at most, exactly where the law of the alarms is known and nearly where
the interval is that of a mean of independent repetitions.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy.stats import betabinom, norm

from detectors import (
    REGISTRY,
    Calibration,
    ClassGaussian,
    CombinedCalibration,
    CrossConformal,
    GroupedCalibration,
    merged_p_values,
    outliers,
)

DOUBT = 1e-5
DEVIATIONS = float(norm.isf(DOUBT / 2))
ALPHAS = (0.01, 0.05, 0.1)
INVALID = "(invalid) least p-value, calibrated again by the same rows"


class Source:
    """Normal rows of two classes of correlated features with heavy tails (Student's t with 5 degrees), and strange rows."""

    def __init__(self, rng, width, spreads=(1, 1)):
        self.rng, self.width, self.spreads = rng, width, np.array(spreads)
        self.mix = rng.normal(size=(width, width)) / np.sqrt(width)
        self.centres = np.array([np.zeros(width), rng.normal(0, 3, width)])

    def normal(self, count):
        """Rows and their classes."""
        labels = self.rng.integers(0, 2, count)
        rows = self.rng.standard_t(5, size=(count, self.width)) @ self.mix
        return rows * self.spreads[labels][:, None] + self.centres[labels], labels

    def strange(self, count):
        """Rows whose features come each from another normal row, half as large again: their correlations are gone."""
        return 1.5 * self.rng.permuted(self.normal(count)[0], axis=0)


def by_detector(shapes, sets, sizes=(99, 499), fresh=90, planted=10, fdr=0.1):
    """Every registered detector at its defaults: rates for each size of calibration and alpha, and the FDR of batches with strange rows.

    The alarms of one calibration set are beta-binomial and sets are independent: the interval of their sum is exact.
    """
    alphas = [(size, alpha) for size in sizes for alpha in ALPHAS]
    intervals = [interval([(fresh, places(size, alpha), size + 1)] * sets) for size, alpha in alphas]
    rows, outside = [], []
    bounds = [f"{100 * low:.2f}–{100 * high:.2f}" for low, high in intervals]
    limit = fdr * fresh / (fresh + planted)
    rows.append(["*must lie in*", "", "", *bounds, f"≤ {100 * limit:g} ± error", ""])
    for (kind, cls), (learned, width) in product(REGISTRY.items(), shapes):
        source = Source(np.random.default_rng([7, learned, width]), width)
        detector = cls().fit(*source.normal(learned))
        normal = detector.scores(source.normal(sets * (max(sizes) + fresh))[0]).reshape(sets, -1)
        strange = detector.scores(source.strange(sets * planted)).reshape(sets, planted)
        held_out, new = normal[:, fresh:], normal[:, :fresh]
        p_values = {size: np.array([Calibration.of(s[:size]).p_values(x) for s, x in zip(held_out, new, strict=True)]) for size in sizes}
        rates = [(p_values[size] <= alpha).mean() for size, alpha in alphas]
        shares, found = _discoveries(held_out, np.hstack([new, strange]), fresh, fdr)
        error = DEVIATIONS * shares.std() / np.sqrt(sets)
        cells = [marked(rate, low <= rate <= high) for rate, (low, high) in zip(rates, intervals, strict=True)]
        cells.append(marked(shares.mean(), shares.mean() - error <= limit, error))
        rows.append([kind, learned, width, *cells, f"{100 * found:.0f}"])
        if any("outside" in cell for cell in cells):
            outside.append(f"{kind} at n={learned}, d={width}")
    header = ["detector", "n", "d", *(f"{size} rows, {100 * alpha:g} %" for size, alpha in alphas)]
    return table([*header, f"FDR at {100 * fdr:g} %", "found, %"], rows, 3), outside


def by_folds(repetitions, learned=60, width=10, folds=5, fresh=50, planted=20):
    """Every detector by cross-conformal p-values, against a split of the same rows into halves.

    The bound is all that is promised, and so wide that little could exceed it. What is seen is a rate about alpha: a mean that is not
    within its error of alpha is told too, under a name of its own.
    """
    rows, outside = [], []
    for (kind, cls), alpha in product(REGISTRY.items(), (0.05, 0.1)):
        rates, split, found, found_split = [], [], [], []
        for repetition in range(repetitions):
            source = Source(np.random.default_rng([8, repetition]), width)
            known, labels = source.normal(learned)
            new = np.vstack([source.normal(fresh)[0], source.strange(planted)])
            cross = CrossConformal.fit(cls(), known, labels, folds=folds)
            half = cls().fit(known[: learned // 2], labels[: learned // 2])
            halves = Calibration.of(half.scores(known[learned // 2 :])).p_values(half.scores(new)) <= alpha
            alarms = cross.score(new)[1] <= alpha
            for values, decisions in (
                (rates, alarms[:fresh]),
                (split, halves[:fresh]),
                (found, alarms[fresh:]),
                (found_split, halves[fresh:]),
            ):
                values.append(decisions.mean())
        error, bound = DEVIATIONS * np.std(rates) / np.sqrt(repetitions), cross.rate_bound(alpha)
        cell = marked(np.mean(rates), np.mean(rates) - error <= bound, error)
        outside += [f"cross-conformal {kind} at alpha {alpha}"] * ("outside" in cell)
        if abs(np.mean(rates) - alpha) > error:
            outside.append(f"cross-conformal {kind} at alpha {alpha}, not about alpha (seen, not promised)")
            cell += " *not about alpha*"
        figures = [cell, f"{100 * bound:.1f}", *(f"{100 * np.mean(values):.1f}" for values in (split, found, found_split))]
        rows.append([kind, f"{100 * alpha:g}", *figures])
    return table(["detector", "alpha, %", "cross", "bound", "split", "found by cross", "found by split"], rows), outside


def by_combination(sets, learned=300, width=8, sizes=(39, 199), fresh=50, planted=20, alpha=0.05):
    """One detector or several, with anomalies of two kinds: strange rows, and rows far out in one feature."""
    source = Source(np.random.default_rng(9), width)
    known = source.normal(learned)
    detectors = {kind: REGISTRY[kind]().fit(*known) for kind in ("gaussian", "class_gaussian", "weighting", "knn")}
    far = source.normal(sets * planted)[0]
    far[:, 0] += 8 * far[:, 0].std()
    kinds = [source.normal(sets * (fresh + max(sizes)))[0], source.strange(sets * planted), far]
    scores = [np.stack([d.scores(rows) for d in detectors.values()], axis=1).reshape(sets, -1, len(detectors)) for rows in kinds]
    rows, outside = [], []
    for size in sizes:
        low, high = interval([(fresh, places(size, alpha), size + 1)] * sets)
        rows.append([size, f"*must lie in {100 * low:.2f}–{100 * high:.2f}, merged ones below*", "", "", ""])
        decisions = {}
        for normal, *anomalies in zip(*scores, strict=True):
            new = np.vstack([normal[:fresh], *anomalies])
            for name, p_values in _combined(list(detectors), normal[fresh : fresh + size], new).items():
                decisions.setdefault(name, []).append(p_values <= alpha)
        for name, found in decisions.items():
            rate, *powers = (part.mean() for part in np.split(np.array(found), [fresh, fresh + planted], axis=1))
            kept = rate <= high and (rate >= low or name.startswith("merged"))
            outside += [f"{name} of {size} rows"] * (name != INVALID and not kept)
            rows.append([size, name, marked(rate, kept), *(f"{100 * power:.1f}" for power in powers)])
    return table(["calibration rows", "way", "false alarms, %", "found: strange, %", "found: far in one feature, %"], rows, 2), outside


def by_group(sets, learned=400, width=6, size=200, fresh=100, alpha=0.05):
    """Two classes, one three times as wide as the other, by one calibration and by one per nearest class."""
    source = Source(np.random.default_rng(10), width, spreads=(1, 3))
    detector = ClassGaussian().fit(*source.normal(learned))
    drawn = source.normal(sets * (size + fresh))[0]
    scores, groups = (values.reshape(sets, -1) for values in (detector.scores(drawn), detector.nearest_class(drawn)))
    alarms, laws = {(way, group): 0 for way in ("one for all", "one per class") for group in (0, 1)}, {0: [], 1: []}
    for row, group in zip(scores, groups, strict=True):
        grouped = GroupedCalibration.of(row[fresh:], group[fresh:])
        grouped.check_alpha(alpha)
        pooled = Calibration.of(row[fresh:]).p_values(row[:fresh]) <= alpha
        own = grouped.p_values(row[:fresh], group[:fresh]) <= alpha
        for name in (0, 1):
            members, count = group[:fresh] == name, int((group[fresh:] == name).sum())
            alarms["one for all", name] += pooled[members].sum()
            alarms["one per class", name] += own[members].sum()
            laws[name].append((int(members.sum()), places(count, alpha), count + 1))
    rows, outside = [], []
    for name in (0, 1):
        total, (low, high) = sum(law[0] for law in laws[name]), interval(laws[name])
        rate = alarms["one per class", name] / total
        outside += [f"class {name}"] * (not low <= rate <= high)
        pooled = f"{100 * alarms['one for all', name] / total:.2f}"
        rows.append(["narrow" if name == 0 else "wide", pooled, marked(rate, low <= rate <= high), f"{100 * low:.2f}–{100 * high:.2f}"])
    return table(["nearest class", "one calibration for all, %", "one per class, %", "must lie in"], rows), outside


def places(size, alpha):
    """Number of the places 1 to size + 1, from the top, at which a new score is called an outlier."""
    return int((np.arange(1, size + 2) / (size + 1) <= alpha).sum())


def interval(laws):
    """Interval of the share of alarms in which it lies but for a probability of at most ``DOUBT``.

    ``laws`` are (fresh rows, places, calibration rows + 1) of independent calibration sets, each of beta-binomial alarms.
    """
    length = sum(fresh for fresh, _, _ in laws) + 1
    spectrum = np.ones(length // 2 + 1, complex)
    known = {}
    for law in laws:
        if law not in known:
            fresh, count, total = law
            known[law] = np.fft.rfft(betabinom(fresh, count, total - count).pmf(np.arange(fresh + 1)), length)
        spectrum *= known[law]
    below = np.cumsum(np.fft.irfft(spectrum, length))
    return np.searchsorted(below, DOUBT / 2) / (length - 1), np.searchsorted(below, 1 - DOUBT / 2) / (length - 1)


def _discoveries(held_out, batches, normal, fdr):
    """Share of false alarms among the alarms of each batch by Benjamini and Hochberg, and share of the strange rows found."""
    shares, found = [], []
    for known, batch in zip(held_out, batches, strict=True):
        decisions = outliers(Calibration.of(known).p_values(batch), fdr, fdr=True)
        shares.append(decisions[:normal].sum() / max(decisions.sum(), 1))
        found.append(decisions[normal:].mean())
    return np.array(shares), np.mean(found)


def _combined(names, held_out, new):
    """P-values of new rows by each detector and by each way to combine them."""
    single = np.column_stack([Calibration.of(h).p_values(s) for h, s in zip(held_out.T, new.T, strict=True)])
    ways = dict(zip(names, single.T, strict=True))
    ways |= {f"merged: {by}": merged_p_values(single, by) for by in ("bonferroni", "harmonic", "mean")}
    least = np.min([Calibration.of(h).p_values(h) for h in held_out.T], axis=0)
    return ways | {
        "combined calibration": CombinedCalibration.of(held_out).p_values(new),
        INVALID: Calibration.of(-least).p_values(-single.min(axis=1)),
    }


def marked(rate, kept, error=None):
    text = f"{100 * rate:.2f}" + (f" ± {100 * error:.2f}" if error is not None else "")
    return text if kept else f"**{text} outside**"


def table(header, rows, texts=1):
    lines = [header, ["---"] * texts + ["--:"] * (len(header) - texts), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
