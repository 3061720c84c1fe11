"""Robust shrinkage beside scikit-learn: planted anomalies, seconds to fit, and tabular data sets.

    python -m benchmarks.robust_shrinkage --simulation
    python -m benchmarks.robust_shrinkage --speed
    python -m benchmarks.robust_shrinkage --contaminated

each print a Markdown table; with ``--quick`` a small one, to see that the command works.

* simulation: normal rows with a share of planted ones; found and false alarms at the 97.5 % quantile of chi-square, area under
  the ROC curve, with the standard error over repetitions; in brackets found / false alarms of the reference: for ``port`` of the R
  code, for the determinant of R's or scikit-learn's, for the default of a slow separate implementation
* speed: seconds of ``RobustShrinkage().fit`` and of ``MinCovDet().fit``, one after the other on the same rows, medians
* contaminated: area under the ROC curve on ADBench's classical sets (Han et al. 2022), fitted on the very rows that are scored,
  anomalies included; below, the means of fits on half of the normal rows, scored on the others and the anomalies
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
from scipy.stats import chi2
from sklearn.covariance import LedoitWolf, MinCovDet
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score

from detectors import RobustShrinkage

CORRELATION = 0.8
# features, rows, share planted, their variance, correlated; found / false alarms of the reference: default, port, determinant
CELLS = [
    (5, 100, 0.1, 0.1, False, "1.000 / .028", "1.000 / .012", "1.000 / .022"),
    (5, 100, 0.2, 0.1, False, "", "1.000 / .001", ".980 / .017"),
    (5, 100, 0.3, 0.1, False, "1.000 / .025", ".986 / .000", ".000 / .288"),
    (10, 100, 0.3, 0.1, False, "1.000 / .025", "1.000 / .000", ".000 / .600"),
    (30, 500, 0.1, 0.1, False, "1.000 / .027", "1.000 / .000", ".000 / .163"),
    (30, 500, 0.3, 1.0, False, "", "1.000 / .000", ".061 / .041"),
    (10, 500, 0.1, 0.1, True, "1.000 / .035", ".44", "1.000 / .032"),
    (30, 500, 0.1, 0.1, True, "1.000 / .025", ".00", ".000 / .317"),
    (10, 500, 0.2, 0.1, True, ".000 / .060", "", ".000 / .240"),
    (10, 500, 0.2, 1.0, True, ".715 / .032", "", "1.000 / .027"),
    (10, 500, 0.0, 1.0, False, "", "- / .031", ""),
    (10, 500, 0.0, 1.0, True, "- / .041", "- / .019", ""),
]
SHAPES = [(1_000, 10), (1_000, 50), (10_000, 10), (10_000, 128), (100_000, 50), (100_000, 256)]


def planted(width, n, share, variance, correlated, seed):
    """Rows and which are planted: at (5, ..., 5), or as far along the eigenvector of least variance as 5 sqrt(d) standard deviations."""
    covariance = (CORRELATION if correlated else 0.0) ** np.abs(np.subtract.outer(np.arange(width), np.arange(width)))
    values, vectors = np.linalg.eigh(covariance)
    place = 5 * np.sqrt(width * values[0]) * vectors[:, 0] if correlated else np.full(width, 5.0)
    rows = np.random.default_rng(seed).normal(size=(n, width)) @ np.linalg.cholesky(covariance).T
    which = np.arange(n) < round(share * n)
    rows[which] = place + np.sqrt(variance) * rows[which]
    return rows, which


def default_scores(rows):
    detector = RobustShrinkage().fit(rows)
    return detector.scores(rows), detector.chi_square_degrees(detector.state_)


def port_scores(rows):
    detector = RobustShrinkage.preset("port").fit(rows)
    return detector.scores(rows), detector.chi_square_degrees(detector.state_)


def determinant_scores(rows):
    return determinant(rows).mahalanobis(rows), rows.shape[1]


def determinant(rows):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MinCovDet(random_state=0).fit(rows)


def simulation(repeats):
    """The table of cells, each over ``repeats`` seeds."""
    print(f"{repeats} repetitions; found / false alarms / area, each ± its standard error [the reference's found / false alarms].\n")
    print("| d, n, share, variance of the planted | default | `port` | minimum covariance determinant |\n|---|---|---|---|")
    for width, n, share, variance, correlated, *references in CELLS:
        cells = []
        for score, reference in zip((default_scores, port_scores, determinant_scores), references, strict=True):
            results = []
            for seed in range(repeats):
                rows, which = planted(width, n, share, variance, correlated, seed)
                scores, degrees = score(rows)
                flagged = scores > chi2.ppf(0.975, degrees)
                found = (flagged[which].mean(), roc_auc_score(which, scores)) if which.any() else (np.nan, np.nan)
                results.append((found[0], flagged[~which].mean(), found[1]))
            means, errors = np.mean(results, axis=0), np.std(results, axis=0) / np.sqrt(repeats)
            figures = ["-" if np.isnan(m) else f"{m:.3f} ± {e:.3f}" for m, e in zip(means, errors, strict=True)]
            cells.append(" / ".join(figures) + (f" [{reference}]" if reference else ""))
        label = f"{width}, {n}, {share}, {variance}" + (f", AR({CORRELATION})" if correlated else "")
        print(f"| {label} | " + " | ".join(cells) + " |", flush=True)


def speed(shapes, repeats, limit):
    """Seconds to fit; the determinant is projected as n d² from the shape before where that comes to more than ``limit`` seconds."""
    print(f"Medians of {repeats} runs, alternating.\n\n| n, d | robust_shrinkage, s | MinCovDet, s | ratio |\n|---|--:|--:|--:|")
    last = None
    for n, width in shapes:
        rng = np.random.default_rng(0)
        rows = rng.normal(size=(n, width)) @ rng.normal(size=(width, width))
        projected = last and last[0] * (n * width**2) / last[1]
        skipped = limit is not None and projected is not None and projected > limit
        ours, theirs = [], []
        for _ in range(repeats):
            ours.append(seconds(RobustShrinkage().fit, rows))
            if not skipped:
                theirs.append(seconds(determinant, rows))
        mine, other = np.median(ours), projected if skipped else np.median(theirs)
        if not skipped:
            last = (other, n * width**2)
        note = " (projected)" if skipped else ""
        print(f"| {n}, {width} | {mine:.3f} | {other:.2f}{note} | {other / mine:.0f} |", flush=True)


def seconds(fit, rows):
    started = time.perf_counter()
    fit(rows)
    return time.perf_counter() - started


METHODS = {
    "default": lambda fitted, scored: RobustShrinkage().fit(fitted).scores(scored),
    "port": lambda fitted, scored: RobustShrinkage.preset("port").fit(fitted).scores(scored),
    "determinant": lambda fitted, scored: determinant(fitted).mahalanobis(scored),
    "isolation forest": lambda fitted, scored: -IsolationForest(random_state=0).fit(fitted).score_samples(scored),
    "Ledoit–Wolf": lambda fitted, scored: LedoitWolf().fit(fitted).mahalanobis(scored),
}


def contaminated(folder, widest, most_rows, count):
    """Areas by set and method of contaminated fits, and means of both kinds of fit over the sets that all methods could fit."""
    columns = " | ".join(METHODS)
    print(f"| set | n, d, share | {columns} |\n|---|---|" + "--:|" * len(METHODS))
    both = []
    for path in sorted(folder.glob("*.npz"), key=lambda path: int(path.stem.split("_")[0]))[:count]:
        with np.load(path) as data:
            rows, labels = np.asarray(data["X"], float), np.asarray(data["y"]).astype(bool)
        if rows.shape[1] > widest or len(rows) > most_rows:
            continue
        shuffled = np.random.default_rng(0).permutation(np.flatnonzero(~labels))
        learned, rest = np.split(shuffled, [len(shuffled) // 2])
        rest = np.concatenate([rest, np.flatnonzero(labels)])
        spoilt = areas(rows, rows, labels)
        both.append((spoilt, areas(rows[learned], rows[rest], labels[rest])))
        shape = f"{len(rows)}, {rows.shape[1]}, {labels.mean():.3f}"
        print(f"| {path.stem} | {shape} | " + " | ".join(f"{area:.3f}" for area in spoilt) + " |", flush=True)
    means = np.mean(both, axis=0)
    for label, mean in zip((f"**mean of {len(both)}, contaminated**", "**mean, clean fit**"), means, strict=True):
        print(f"| {label} | | " + " | ".join(f"**{area:.3f}**" for area in mean) + " |")


def areas(fitted, scored, labels):
    """Area of each method; columns are standardised by the fitted rows for all but ``port``, those that never vary left out."""
    varying = np.ptp(fitted, axis=0) > 0
    fitted, scored = fitted[:, varying], scored[:, varying]
    centre, scale = fitted.mean(axis=0), fitted.std(axis=0)
    found = []
    for name, method in METHODS.items():
        pair = (fitted, scored) if name == "port" else ((fitted - centre) / scale, (scored - centre) / scale)
        found.append(roc_auc_score(labels, method(*pair)))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--simulation", action="store_true")
    what.add_argument("--speed", action="store_true")
    what.add_argument("--contaminated", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a small form of the same")
    parser.add_argument("--repeats", type=int, help="repetitions: 30 in the simulation, 3 for speed")
    parser.add_argument("--limit", type=float, help="seconds beyond which the determinant's are projected, not measured")
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data/tabular/adbench_classical"), help="folder of ADBench's .npz files"
    )
    parser.add_argument("--widest", type=int, default=100, help="leave out sets with more features")
    parser.add_argument("--most-rows", type=int, default=20_000, help="leave out sets with more rows")
    options = parser.parse_args()
    if options.simulation:
        simulation(options.repeats or (2 if options.quick else 30))
    elif options.speed:
        speed(SHAPES[:3] if options.quick else SHAPES, options.repeats or (1 if options.quick else 3), options.limit)
    else:
        contaminated(options.data, options.widest, options.most_rows, 3 if options.quick else None)


if __name__ == "__main__":
    main()
