"""Robust shrinkage beside scikit-learn: planted anomalies, seconds to fit, and tabular data sets.

    python -m benchmarks.robust_shrinkage --simulation
    python -m benchmarks.robust_shrinkage --speed
    python -m benchmarks.robust_shrinkage --contaminated

each print a Markdown table; with ``--quick`` a small one, to see that the command works.

* simulation: normal rows with a share of planted ones; found and false alarms at the 97.5 % quantile of chi-square, area under
  the ROC curve, with the standard error over repetitions; in brackets found / false alarms of a reference on seeds of its own: for
  ``port`` the R code, for the default a slow separate implementation, for scikit-learn's determinant an earlier run of it. What differs
  by more than 4.4 standard errors of both is marked, and the command ends with status 1. R's determinant, another method, is beside it
* speed: seconds of ``RobustShrinkage().fit`` and of ``MinCovDet().fit``, one after the other on the same rows, medians; the latter
  in a process of its own, which is ended at ``--limit`` seconds
* contaminated: area under the ROC curve on ADBench's classical sets (Han et al. 2022), fitted on the very rows that are scored,
  anomalies included; below, the means of fits on half of the normal rows, scored on the others and the anomalies
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import chi2
from sklearn.covariance import LedoitWolf, MinCovDet
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score

from detectors import RobustShrinkage

CORRELATION = 0.8
REPEATS = {100: 200, 500: 30}  # by the number of rows
MOST_ERRORS = 4.4  # standard errors, which of a thousand true figures 0.01 exceed
HALF_A_DIGIT = 5e-4  # rounding of the references' figures
STARTING = 20  # seconds that a process and its rows may take before the fit


class Reference(NamedTuple):
    """What another implementation got, as means over so many seeds of its own; None where that is unknown."""

    found: float | None
    flagged: float | None  # of the rows that were not planted
    seeds: int

    def __str__(self):
        shown = ["-" if figure is None else f"{figure:.3f}" for figure in self[:2]]
        return f"[{shown[0]}]" if self.flagged is None else f"[{' / '.join(shown)}]"


class Cell(NamedTuple):
    """A design, and what others got of it."""

    width: int
    n: int
    share: float  # planted
    distance: float  # of the planted
    variance: float  # of the planted
    correlated: bool = False
    units: bool = False  # columns times 1 to 1000
    default: Reference | None = None
    port: Reference | None = None
    determinant: Reference | None = None
    cov_mcd: str = ""  # of R

    def label(self):
        words = [str(value) for value in self[:5]]
        return ", ".join(
            [*words, *([f"AR({CORRELATION})"] if self.correlated else []), *(["columns times 1 to 1000"] if self.units else [])]
        )


CELLS = [
    Cell(5, 100, 0.1, 5, 0.1, default=Reference(1, 0.028, 30), port=Reference(1, 0.012, 100), cov_mcd="1.000 / 0.022"),
    Cell(5, 100, 0.1, 5, 1.0, port=Reference(1, 0.012, 100), cov_mcd="1.000 / 0.023"),
    Cell(5, 100, 0.2, 5, 0.1, port=Reference(1, 0.001, 100), cov_mcd="0.980 / 0.017"),
    Cell(5, 100, 0.3, 5, 0.1, default=Reference(1, 0.025, 30), port=Reference(0.986, 0, 100), cov_mcd="0.000 / 0.288"),
    Cell(5, 100, 0.3, 5, 1.0, port=Reference(0.984, 0, 100), cov_mcd="1.000 / 0.006"),
    Cell(5, 100, 0.3, 10, 1.0, port=Reference(1, 0, 100), cov_mcd="1.000 / 0.006"),
    Cell(10, 100, 0.1, 5, 0.1, port=Reference(1, 0.004, 100), cov_mcd="1.000 / 0.054"),
    Cell(10, 100, 0.2, 5, 1.0, port=Reference(1, 0, 100), cov_mcd="1.000 / 0.036"),
    Cell(10, 100, 0.3, 5, 0.1, default=Reference(1, 0.025, 30), port=Reference(1, 0, 100), cov_mcd="0.000 / 0.600"),
    Cell(30, 500, 0.1, 5, 0.1, default=Reference(1, 0.027, 30), port=Reference(1, 0, 10), cov_mcd="0.000 / 0.163"),
    Cell(30, 500, 0.3, 5, 1.0, port=Reference(1, 0, 10), cov_mcd="0.061 / 0.041"),
    Cell(10, 500, 0.1, 5, 0.1, True, default=Reference(1, 0.035, 30), port=Reference(0.44, None, 20), determinant=Reference(1, 0.032, 20)),
    Cell(10, 500, 0.1, 5, 0.1, True, units=True, default=Reference(1, 0.035, 30)),
    Cell(30, 500, 0.1, 5, 0.1, True, default=Reference(1, 0.025, 30), port=Reference(0, None, 20), determinant=Reference(0, 0.317, 20)),
    Cell(10, 500, 0.2, 5, 0.1, True, default=Reference(0, 0.060, 30), determinant=Reference(0, 0.240, 20)),
    Cell(10, 500, 0.2, 5, 1.0, True, determinant=Reference(1, 0.027, 20)),
    Cell(5, 100, 0.0, 5, 1.0, default=Reference(None, 0.031, 30), port=Reference(None, 0.053, 60)),
    Cell(10, 500, 0.0, 5, 1.0, port=Reference(None, 0.031, 60)),
    Cell(10, 500, 0.0, 5, 1.0, True, default=Reference(None, 0.041, 30), port=Reference(None, 0.019, 60)),
    Cell(30, 500, 0.0, 5, 1.0, True, default=Reference(None, 0.031, 30), port=Reference(None, 0.003, 60)),
]
SHAPES = [(1_000, 10), (1_000, 50), (10_000, 10), (10_000, 128), (100_000, 50), (100_000, 256)]


def planted(cell, seed):
    """Rows and which are planted: at (5, ..., 5), or as far along the eigenvector of least variance as 5 sqrt(d) standard deviations."""
    covariance = (CORRELATION if cell.correlated else 0.0) ** np.abs(np.subtract.outer(np.arange(cell.width), np.arange(cell.width)))
    values, vectors = np.linalg.eigh(covariance)
    along = np.sqrt(cell.width * values[0]) * vectors[:, 0] if cell.correlated else np.ones(cell.width)
    rows = np.random.default_rng(seed).normal(size=(cell.n, cell.width)) @ np.linalg.cholesky(covariance).T
    which = np.arange(cell.n) < round(cell.share * cell.n)
    rows[which] = cell.distance * along + np.sqrt(cell.variance) * rows[which]
    return rows * np.geomspace(1, 1000, cell.width) if cell.units else rows, which


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


def simulation(repeats, cells=CELLS):
    """The table of ``cells``, each over ``repeats`` seeds, or as many as REPEATS has; how many figures lie outside of their error."""
    print("Found / false alarms / area, each ± its standard error [the reference's found / false alarms].\n")
    print("| d, n, share, distance, variance of the planted | seeds | default | `port` | scikit-learn's `MinCovDet` | R's `covMcd` |")
    print("|---|--:|---|---|---|---|")
    outside = 0
    for cell in cells:
        count = repeats or REPEATS[cell.n]
        columns = []
        for score, reference in ((default_scores, cell.default), (port_scores, cell.port), (determinant_scores, cell.determinant)):
            results = np.array([judged(score, cell, seed) for seed in range(count)])
            means, errors = results.mean(axis=0), results.std(axis=0) / np.sqrt(count)
            figures = ["-" if np.isnan(m) else f"{m:.3f} ± {e:.3f}" for m, e in zip(means, errors, strict=True)]
            far = astray(results, reference, cell) if reference else 0
            columns.append(" / ".join(figures) + (f" {reference}" if reference else "") + (" **outside**" if far else ""))
            outside += far
        print(f"| {cell.label()} | {count} | {' | '.join(columns)} | {cell.cov_mcd} |", flush=True)
    print(f"\n{outside} figures lie more than {MOST_ERRORS} standard errors from their reference.")
    return outside


def judged(score, cell, seed):
    """Share of the planted rows found, share of the others flagged, and area, of one set of rows; NaN without planted rows."""
    rows, which = planted(cell, seed)
    scores, degrees = score(rows)
    flagged = scores > chi2.ppf(0.975, degrees)
    found = (flagged[which].mean(), roc_auc_score(which, scores)) if which.any() else (np.nan, np.nan)
    return found[0], flagged[~which].mean(), found[1]


def astray(results, reference, cell):
    """How many of the ``reference``'s two figures differ from means of ``results`` (seeds, 3) by more than the error of both allows.

    Shares vary from seed to seed as seen here, and at the least as independent rows would: few seeds may happen to agree.
    """
    of_rows = (cell.n * cell.share, cell.n * (1 - cell.share))
    far = 0
    for shares, figure, rows in zip(results.T, reference[:2], of_rows, strict=False):
        if figure is not None:
            variance = max(shares.var(), figure * (1 - figure) / rows)
            error = np.sqrt(variance * (1 / len(shares) + 1 / reference.seeds))
            far += bool(abs(shares.mean() - figure) > MOST_ERRORS * error + HALF_A_DIGIT)
    return far


def speed(shapes, repeats, limit):
    """Seconds to fit; the determinant's fit is ended at ``limit`` seconds."""
    print(f"Medians of {repeats} runs, alternating.\n\n| n, d | robust_shrinkage, s | MinCovDet, s | ratio |\n|---|--:|--:|--:|")
    for n, width in shapes:
        ours, theirs = [], []
        for _ in range(repeats):
            ours.append(seconds(RobustShrinkage().fit, n, width))
            if None not in theirs:
                theirs.append(within(limit, determinant, n, width))
        mine = np.median(ours)
        other = f"> {limit:g} | > {limit / mine:.0f}" if None in theirs else f"{np.median(theirs):.2f} | {np.median(theirs) / mine:.0f}"
        print(f"| {n}, {width} | {mine:.3f} | {other} |", flush=True)


def within(limit, fit, n, width):
    """``seconds`` in a process of its own; None where that is more than ``limit``, and the process is ended."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        try:
            taken = pool.apply_async(seconds, (fit, n, width)).get(limit + STARTING)
        except multiprocessing.TimeoutError:
            return None
    return taken if taken <= limit else None


def seconds(fit, n, width):
    """Seconds that ``fit`` takes of correlated normal rows (n, width)."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(n, width)) @ rng.normal(size=(width, width))
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
    parser.add_argument("--repeats", type=int, help="repetitions: in the simulation 200 of 100 rows and 30 of 500, for speed 3")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds at which a fit of the determinant is ended")
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data/tabular/adbench_classical"), help="folder of ADBench's .npz files"
    )
    parser.add_argument("--widest", type=int, default=100, help="leave out sets with more features")
    parser.add_argument("--most-rows", type=int, default=20_000, help="leave out sets with more rows")
    options = parser.parse_args()
    if options.simulation:
        sys.exit(bool(simulation(options.repeats or (2 if options.quick else None))))
    elif options.speed:
        speed(SHAPES[:3] if options.quick else SHAPES, options.repeats or (1 if options.quick else 3), options.limit)
    else:
        contaminated(options.data, options.widest, options.most_rows, 3 if options.quick else None)


if __name__ == "__main__":
    main()
