"""False-alarm rate of three ways to set a threshold, against the number of features, as a table and a picture.

Normal rows are drawn, a threshold is set for alpha, and alarms among fresh normal rows are counted. All ways get the same rows:

* in-sample: fit on all rows, threshold at the 1 - alpha quantile of their own scores
* chi-square: fit on all rows, threshold at the 1 - alpha quantile of the chi-square law with d degrees
* held out: fit on 80 % of the rows, split-conformal threshold from the other 20 %
"""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from scipy.stats import chi2

from detectors import Calibration, Gaussian

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import NullLocator

COVARIANCES = {"empirical": "Empirical covariance", "ledoit_wolf": "Ledoit–Wolf (farfield's default)"}
WAYS = {"in-sample": "#c2410c", "chi-square": "#6d5bb0", "held out": "#0f766e"}
LABELS = {"in-sample": "fitted rows", "chi-square": "chi-square law", "held out": "held-out rows"}


def false_alarms(rows, fresh, covariance, alpha):
    """Rate of alarms among ``fresh`` for each way to set a threshold from ``rows``."""
    detector = Gaussian(covariance=covariance).fit(rows)
    scores = detector.scores(fresh)
    in_sample = np.quantile(detector.scores(rows), 1 - alpha)
    held_out = len(rows) // 5
    split = Gaussian(covariance=covariance).fit(rows[held_out:])
    conformal = Calibration.of(split.scores(rows[:held_out])).threshold(alpha)
    return {
        "in-sample": (scores > in_sample).mean(),
        "chi-square": (scores > chi2.ppf(1 - alpha, rows.shape[1])).mean(),
        "held out": (split.scores(fresh) > conformal).mean(),
    }


def measure(widths, n, fresh, seeds, alpha):
    """Rates by covariance, way and width: arrays (seeds,). Rows are correlated by a random matrix per seed."""
    rates = {(c, way, d): [] for c in COVARIANCES for way in WAYS for d in widths}
    for d in widths:
        for seed in range(seeds):
            rng = np.random.default_rng([seed, d])
            mix = rng.normal(size=(d, d)) / np.sqrt(d)
            drawn = rng.normal(size=(n + fresh, d)) @ mix
            for covariance in COVARIANCES:
                for way, rate in false_alarms(drawn[:n], drawn[n:], covariance, alpha).items():
                    rates[covariance, way, d].append(rate)
    return {key: np.array(values) for key, values in rates.items()}


def table(rates, widths, n):
    """Markdown: mean rate in per cent and, in brackets, the 5 % and 95 % quantiles over seeds."""
    lines = ["| covariance | features d | n / d | in-sample, % | chi-square, % | held out, % |", "|---|--:|--:|--:|--:|--:|"]
    for covariance in COVARIANCES:
        for d in widths:
            cells = [_cell(100 * rates[covariance, way, d]) for way in WAYS]
            lines.append(f"| {covariance} | {d} | {n / d:.1f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(rates, widths, n, alpha, path):
    """Both covariances side by side, on logarithmic axes, with bands from 5 % to 95 % of the seeds."""
    plt.rcParams.update({"font.family": "DejaVu Sans", "font.size": 11})
    figure, panels = plt.subplots(1, 2, figsize=(12, 5.6), sharey=True)
    figure.subplots_adjust(left=0.09, right=0.885, top=0.8, bottom=0.17, wspace=0.34)
    for axes, (covariance, title) in zip(panels, COVARIANCES.items(), strict=True):
        _panel(axes, {way: [rates[covariance, way, d] for d in widths] for way in WAYS}, widths, alpha)
        axes.set_title(title, loc="left", fontsize=12, fontweight="bold", pad=10)
        axes.set_xlabel("number of features d")
    panels[0].set_ylabel("false alarms among fresh normal rows")
    seeds = len(next(iter(rates.values())))
    notes = f"Lines: mean over {seeds} seeds. Bands: 5 % to 95 % of them. Colours: what sets the threshold, given the same {n} rows."
    figure.text(0.012, 0.93, f"Asked for {100 * alpha:g} % false alarms: what fresh normal rows really get", fontsize=15, fontweight="bold")
    figure.text(0.012, 0.03, notes, fontsize=9.5, color="#555555")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)
    plt.close(figure)


def _panel(axes, curves, widths, alpha):
    lowest = alpha / 200
    axes.axhline(alpha, color="#222222", linewidth=1.3, linestyle=(0, (4, 3)), zorder=1.5)
    label_below = np.inf
    for way in sorted(curves, key=lambda way: -curves[way][-1].mean()):
        means, low, high = (np.maximum([f(v) for v in curves[way]], lowest) for f in (np.mean, _low, _high))
        axes.fill_between(widths, low, high, color=WAYS[way], alpha=0.16, linewidth=0)
        axes.plot(widths, means, color=WAYS[way], linewidth=2.4, marker="o", markersize=5)
        height = min(means[-1], label_below)
        axes.annotate(
            LABELS[way], (widths[-1], height), (10, 0), textcoords="offset points", color=WAYS[way], va="center", fontweight="bold"
        )
        label_below = height / 1.6
    axes.set(xscale="log", yscale="log", ylim=(lowest, 1.4), xlim=(widths[0] * 0.9, widths[-1] * 1.12))
    axes.set_xticks(widths, [str(d) for d in widths])
    axes.xaxis.set_minor_locator(NullLocator())
    ticks = [tick for tick in (1e-4, 1e-3, 1e-2, 1e-1, 1) if tick != alpha]
    axes.set_yticks([*ticks, alpha], [*(f"{100 * tick:g} %" for tick in ticks), f"asked for\n{100 * alpha:g} %"])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def _low(rates):
    return np.quantile(rates, 0.05)


def _high(rates):
    return np.quantile(rates, 0.95)


def _cell(rates):
    return f"{rates.mean():.2f} ({_low(rates):.2f} to {_high(rates):.2f})"
