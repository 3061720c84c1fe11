"""The weighting detector beside its peers, at scale, and what its approximations err by.

    python -m benchmarks.weighting --accuracy
    python -m benchmarks.weighting --scale
    python -m benchmarks.weighting --approximations
    python -m benchmarks.weighting --exact

each print a Markdown table; with ``--quick`` a small one, to see that the command works. Those of scale and approximations end with 1
where a rank correlation of s by the 20 nearest points, with the exact s or with a search of all points, is below 0.99.

* accuracy: area under the ROC curve on ADBench's classical sets (Han et al. 2022), columns standardised by the fitted rows: means over
  sets and seeds, fitted on half of the normal rows (at most 4000), scored on the others and the anomalies (at most 6000 of either); and,
  as "contaminated", fitted on all rows (at most 2500) and scored on these same rows, each by the others
* scale: seconds and peak memory of a fit with its threshold, milliseconds per row scored one by one and 4096 at a time, rank correlation
  of the local s with the exact one where that can be had (up to 10 000 points) and with that of a search of all points, for 500 rows of
  a mixture of 50 Gaussians in 32 columns
* approximations: rank correlation of s and w with the exact ones, largest error of s, and seconds to fit; and for the weights by
  conjugate gradients their largest error, relative to the largest weight
* exact: seconds and peak memory of an exact fit of 20 000 rows of that mixture, with its threshold, beside the memory that
  ``Weighting`` states; the jitter; largest entry of Zw - 1 with Z made anew; and for five rows the largest relative difference of
  their leave-one-out s and w from those of a refit on the others by conjugate gradients
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from scipy.sparse.linalg import LinearOperator, cg
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import LocalOutlierFactor
from sklearn.svm import OneClassSVM

from detectors import KNN, Weighting
from detectors.neighbours import nearest

LEAST_RANK = 0.99  # of the local s with the exact one
QUICK = ("glass", "vowels", "wine", "WDBC", "breastw", "Ionosphere")
PEERS = {
    "isolation forest": lambda seed: IsolationForest(random_state=seed),
    "one-class SVM": lambda seed: OneClassSVM(),
}
OURS = {
    "s": {},
    "w": {"measure": "weight"},
    "w, t = 10 / median": {"measure": "weight", "scale_value": 10.0},
    r"\|w\|": {"measure": "absolute_weight"},
    "cumulative": {"measure": "cumulative"},
    "s, local": {"exact_rows": 20},
}


def accuracy(folder, seeds, names):
    """Mean areas by method, clean and contaminated."""
    clean, spoilt, sets = [], [], 0
    for path in sorted(folder.rglob("*.npz")):
        if names and path.stem.split("_", 1)[1] not in names:
            continue
        with np.load(path, allow_pickle=False) as archive:
            rows, anomalous = archive["X"].astype(float), archive["y"] != 0
        sets += 1
        clean.append(np.mean([novelty(rows, anomalous, seed) for seed in range(seeds)], axis=0))
        spoilt.append(np.mean([transductive(rows, anomalous, seed) for seed in range(seeds)], axis=0))
        print(f"{path.stem}: s {clean[-1][0]:.3f} clean, {spoilt[-1][0]:.3f} contaminated", file=sys.stderr, flush=True)
    print(f"Means over {sets} sets and {seeds} seeds.\n\n| score | clean fit | contaminated, by the others |\n|---|--:|--:|")
    methods = [*OURS, "knn", "local outlier factor", *PEERS]
    for method, area, other in zip(methods, np.mean(clean, axis=0), np.mean(spoilt, axis=0), strict=True):
        print(f"| {method} | {area:.3f} | {other:.3f} |")


def novelty(rows, anomalous, seed):
    generator = np.random.default_rng(seed)
    normal = generator.permutation(np.flatnonzero(~anomalous))
    fitted, rest = np.split(normal, [len(normal) // 2])
    tested = np.concatenate([rest[:6000], generator.permutation(np.flatnonzero(anomalous))[:6000]])
    train, test = standardised(rows[fitted[:4000]], rows[tested])
    scored = [Weighting(**parameters).fit(train).scores(test) for parameters in OURS.values()]
    scored.append(KNN(normalize=False).fit(train).scores(test))
    scored.append(-LocalOutlierFactor(novelty=True).fit(train).score_samples(test))
    scored += [-make(seed).fit(train).score_samples(test) for make in PEERS.values()]
    return [roc_auc_score(anomalous[tested], scores) for scores in scored]


def transductive(rows, anomalous, seed):
    chosen = np.random.default_rng(seed).permutation(len(rows))[:2500]
    train, _ = standardised(rows[chosen], rows[chosen])
    fitted = [Weighting(**parameters).fit(train) for parameters in OURS.values()] + [KNN(normalize=False).fit(train)]
    scored = [detector.training_scores(detector.state_, train) for detector in fitted]
    scored.append(-LocalOutlierFactor().fit(train).negative_outlier_factor_)
    scored += [-make(seed).fit(train).score_samples(train) for make in PEERS.values()]
    return [roc_auc_score(anomalous[chosen], scores) for scores in scored]


def standardised(fitted, scored):
    centre, spread = fitted.mean(axis=0), fitted.std(axis=0)
    spread[spread <= 1e-12 * (np.abs(centre) + spread)] = 1
    return (fitted - centre) / spread, (scored - centre) / spread


def scale(counts):
    """Whether any of the runs missed its ranks; each has a process of its own, for its peak memory."""
    print("| rows | exact | fit, s | peak memory, MB | one row, ms | of 4096, ms each | rank, exact | rank, all searched |")
    print("|--:|---|--:|--:|--:|--:|--:|--:|", flush=True)
    ends = [subprocess.run([sys.executable, "-m", "benchmarks.weighting", "--one", str(count)], check=False) for count in counts]
    return any(end.returncode for end in ends)


def one(count):
    """Whether the ranks of one run of ``scale`` are missed."""
    rows, queries = mixture(count, 4096)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    before, started = kilobytes("VmRSS"), time.perf_counter()
    detector = Weighting(exact_rows=100, indexed_rows=100, precision="float32").fit(rows)
    seconds, peak = time.perf_counter() - started, (kilobytes("VmHWM") - before) / 1000
    detector.scores(queries[:64])
    single = milliseconds(lambda: [detector.scores(query[None]) for query in queries[:300]], 300)
    batched = milliseconds(lambda: detector.scores(queries), len(queries))
    local = detector.scores(queries[:500])
    ranks = []
    if count <= 10_000:
        ranks.append(spearmanr(local, Weighting(exact_rows=20_000).fit(rows).scores(queries[:500]))[0])
    points = detector.state_.points.astype(float)
    nearby = nearest(points, ((queries[:500] - detector.state_.centre) / detector.state_.spread).astype(np.float32).astype(float), 20)
    all_searched = local_shares(points, nearby, detector.state_.t)
    ranks.append(spearmanr(local, all_searched)[0])
    kind = "in cells" if detector.state_.cells is not None else "all searched"
    printed = [f"{rank:.4f}" for rank in ranks]
    cells = f"{seconds:.1f} | {peak:.0f} | {single:.2f} | {batched:.3f} | {printed[0] if printed[1:] else '–'} | {printed[-1]}"
    print(f"| {count} | {kind} | {cells} |", flush=True)
    return min(ranks) < LEAST_RANK


def kilobytes(field):
    """Of the memory of this process, by a line of its status."""
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1.024


def exact(count):
    print("| rows | fit, s | peak memory, GB | stated: less than, GB | jitter | off Zw = 1 | s left out | w left out |")
    print("|--:|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    rows, _ = mixture(count, 0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    state = Weighting(exact_rows=count).fit(rows).state_
    seconds = time.perf_counter() - started
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e9
    similarities = cdist(state.points, state.points)
    np.exp(np.multiply(similarities, -state.t, out=similarities), out=similarities)
    residual = np.abs(similarities @ state.weights - 1).max()
    chosen = np.linspace(0, len(state.points) - 1, 5).astype(int)
    shares, weights = refitted(similarities, chosen)
    off_s, off_w = (np.abs(a - b).max() / np.abs(b).max() for a, b in ((state.alone[chosen], shares), (state.weights[chosen], weights)))
    stated = 2.5 * 8 * len(state.points) ** 2 / 1e9
    cells = f"{seconds:.0f} | {peak:.2f} | {stated:.2f} | {state.jitter:g} | {residual:.0e} | {off_s:.0e} | {off_w:.0e}"
    print(f"| {count} | {cells} |", flush=True)


def refitted(similarities, chosen):
    """s and w of the ``chosen`` points, each by all the others: one system for each, all solved at once by conjugate gradients."""
    number, shape = np.arange(len(chosen)), (len(similarities), len(chosen))

    def without(columns):
        columns[chosen, number] = 0
        return columns

    product = LinearOperator((shape[0] * shape[1],) * 2, lambda v: without(similarities @ without(v.reshape(shape).copy())).ravel())
    right = without(similarities[:, chosen].copy())
    found, failed = cg(product, right.ravel(), rtol=1e-12, atol=0.0, maxiter=5000)
    if failed:
        raise RuntimeError("the refit by conjugate gradients did not converge")
    coefficients = found.reshape(shape)
    shares = 1 - np.einsum("ij,ij->j", right, coefficients)
    return shares, (1 - coefficients.sum(axis=0)) / shares


def local_shares(points, nearby, t):
    """s of each query by its nearest points, one query at a time."""
    shares = []
    for distances, indices in zip(*nearby, strict=True):
        near = points[indices]
        gaps = np.sqrt(np.square(near[:, None] - near).sum(axis=2))
        z = np.exp(-t * distances)
        shares.append(1 - z @ np.linalg.solve(np.exp(-t * gaps) + 1e-6 * np.eye(len(z)), z))
    return shares


def mixture(count, asked):
    """Rows and queries of fifty Gaussians of unlike width in 32 columns."""
    generator = np.random.default_rng(0)
    centres, widths = 4 * generator.normal(size=(50, 32)), generator.uniform(0.3, 2, size=50)
    which = generator.integers(50, size=count + asked)
    drawn = centres[which] + widths[which, None] * generator.normal(size=(count + asked, 32))
    return drawn[:count], drawn[count:]


def milliseconds(work, count):
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started) / count


def approximations(folder, names, most_rows):
    """Whether the ranks of s by the 20 nearest points are missed on any set."""
    missed = False
    print("| set | m | approximation | rank of s | largest error of s | rank of w | fit, s | error of weights |")
    print("|---|--:|---|--:|--:|--:|--:|--:|")
    forms = {
        "20 nearest": {"exact_rows": 20},
        "50 nearest": {"exact_rows": 20, "neighbours": 50},
        "subset of a quarter": {"approximation": "subset"},
        "weights of all": {"exact_rows": 20, "approximation": "global_weights"},
    }
    for path in sorted(folder.rglob("*.npz")):
        if path.stem.split("_", 1)[1] not in names:
            continue
        with np.load(path, allow_pickle=False) as archive:
            rows, anomalous = archive["X"].astype(float), archive["y"] != 0
        normal = np.random.default_rng(0).permutation(np.flatnonzero(~anomalous))
        fitted, rest = np.split(normal, [len(normal) // 2])
        fitted, asked = rows[fitted[:most_rows]], rows[np.concatenate([rest[:1000], np.flatnonzero(anomalous)[:1000]])]
        exact = {measure: Weighting(measure=measure, exact_rows=20_000).fit(fitted) for measure in ("unexplained", "weight")}
        expected = {measure: detector.scores(asked) for measure, detector in exact.items()}
        weights = exact["weight"].state_.weights
        for name, parameters in forms.items():
            taken = {"exact_rows": max(1, len(weights) // 4), **parameters}
            started = time.perf_counter()
            found = {measure: Weighting(measure=measure, **taken).fit(fitted) for measure in exact}
            seconds = (time.perf_counter() - started) / 2
            scores = {measure: detector.scores(asked) for measure, detector in found.items()}
            s, w = (spearmanr(scores[measure], expected[measure])[0] for measure in exact)
            missed |= name == "20 nearest" and s < LEAST_RANK
            state, error = found["weight"].state_, "–"
            if len(state.weights) == len(weights):
                error = f"{np.abs(state.weights - weights).max() / np.abs(weights).max():.0e}"
            most = np.abs(scores["unexplained"] - expected["unexplained"]).max()
            cells = [path.stem.split("_", 1)[1], len(weights), name, f"{s:.3f}", f"{most:.3f}", f"{w:.3f}", f"{seconds:.2f}", error]
            print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)
    return missed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--accuracy", action="store_true")
    what.add_argument("--scale", action="store_true")
    what.add_argument("--approximations", action="store_true")
    what.add_argument("--exact", action="store_true")
    what.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="rows of --scale")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the data")
    options = parser.parse_args()
    folder, missed = options.data / "tabular", False
    if options.accuracy:
        accuracy(folder, options.seeds, QUICK if options.quick else ())
    elif options.scale:
        missed = scale([1000, 4000] if options.quick else options.counts)
    elif options.approximations:
        names = ("glass", "vowels") if options.quick else ("vowels", "satellite", "annthyroid", "mnist", "mammography")
        missed = approximations(folder, names, 500 if options.quick else 3000)
    elif options.exact:
        exact(1000 if options.quick else 20_000)
    else:
        missed = one(options.one)
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
