"""Signatures: ranking of pen strokes beside the published figures, and time beside other libraries.

    python -m benchmarks.signature --accuracy [--write]
    python -m benchmarks.signature --speed [--write]

each print a Markdown table; with ``--quick`` a small one, to see that the command works. ``--write`` also puts it into
docs/detectors.md, between the comments that name it. The other libraries of the table of times are installed by

    pip install --no-deps pysiglib
    pip install --no-build-isolation iisignature    # builds with gcc, numpy and setuptools

* accuracy: area under the ROC curve on the pen strokes of Alpaydin and Alimoglu (1998), one model per digit, scores of all digits
  pooled: ours; ours divided by the square root of the number of streams in the digit's corpus, as the published code has them; and
  the published figure (Shao et al. 2020, arXiv:2006.03487; its second version scales by the corpus, its first by each stream).
  Then the local outlier factor on the same signatures, fitted on the corpus alone, and fitted on corpus and test together, as the
  paper has it. The last columns compare each score with the published formula written out: the largest relative difference, and on
  how many of all scores the two disagree whether the stream left the span. Ends with 1, after the table, where a score differs by
  more than 1e-6 of itself, the two disagree, or an area lies more than 0.0005 from the published one (with ``--quick``, which takes
  two digits, areas are not compared)
* speed: CPU milliseconds for 1000 streams of 100 points in float64, on one thread, least of some runs taken in turns; pysiglib is
  called in its compiled library, since its Python package does not load without torch
"""

from __future__ import annotations

import argparse
import ctypes
import gzip
import importlib
import importlib.util
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import LocalOutlierFactor
from threadpoolctl import threadpool_limits

from benchmarks.pages import written
from detectors import Signature
from detectors.paths import signature_width, signatures

PAGE = Path("docs/detectors.md")
PUBLISHED = {"corpus": (0.8697, 0.9421, 0.9484, 0.9538, 0.9561), "stream": (0.901, 0.965, 0.983, 0.987, 0.989)}
CUT = 1e-12  # the published code's absolute cut of singular values
LARGEST_DIFFERENCE, LARGEST_AREA_GAP = 1e-6, 0.0005
SHAPES = [(3, 3), (6, 3), (10, 3), (2, 5)]  # channels, depth


def strokes(path):
    """Pen strokes (n, L, 2) of a file in UNIPEN's format, padded by repeating the last point, and their digits (n,)."""
    found, digits = [], []
    with gzip.open(path, "rt") as file:
        for line in file:
            words = line.split()
            if words[:2] == [".SEGMENT", "DIGIT"]:
                digits.append(int(words[-1].strip('"')))
                found.append([])
            elif len(words) == 2 and digits and not line.startswith("."):
                found[-1].append([float(word) for word in words])
    return found, np.array(digits)


def padded(found, length):
    return np.array([stroke + stroke[-1:] * (length - len(stroke)) for stroke in found]).reshape(len(found), -1)


def published_scores(corpus, queries):
    """Distance to the nearest of ``corpus`` (n, D) for each of ``queries`` (m, D), pair by pair; infinite off the span."""
    mean, root = corpus.mean(axis=0), np.sqrt(len(corpus))
    _, singular, right = np.linalg.svd(corpus - mean, full_matrices=False)
    right, singular = right[singular >= CUT], singular[singular >= CUT]
    whitened, scores = (corpus - mean) @ right.T / singular, np.empty(len(queries))
    for number, query in enumerate(queries):
        gaps = query - corpus
        lengths = np.linalg.norm(gaps, axis=1)
        outside = np.linalg.norm((query - mean) - (query - mean) @ right.T @ right)
        distances = root * np.linalg.norm((query - mean) @ right.T / singular - whitened, axis=1)
        distances[outside > 1e-3 * lengths] = np.inf
        distances[lengths < 1e-15] = 0
        scores[number] = distances.min()
    return scores


def accuracy(data, quick, missed):
    """Markdown: the table of areas, row by row; what lies outside of the targets is added to ``missed``, a line each."""
    folder = data / "streams" / "pendigits_traces"
    (train, labels), (test, truth) = (strokes(folder / f"pendigits-orig.{name}.gz") for name in ("tra", "tes"))
    length = max(len(stroke) for stroke in train + test)
    train, test = padded(train, length), padded(test, length)
    digits = range(2) if quick else range(10)
    names = ("ours", "ours / √n", "published", "LOF, corpus alone", "LOF, corpus and test", "largest difference", "disagree")
    yield from (f"| scaling | depth | {' | '.join(names)} |", "|---|" + "--:|" * (len(names) + 1))
    for scaling, figures in PUBLISHED.items():
        for depth, figure in enumerate(figures[: 2 if quick else None], 1):
            areas, difference, disagree, count = _compared(scaling, depth, train, labels, test, truth, digits)
            ours, unscaled, alone, both = (f"{area:.4f}" for area in areas)
            cells = f"{ours} | {unscaled} | {figure:g} | {alone} | {both} | {difference:.1g} | {disagree} of {count}"
            yield f"| {scaling} | {depth} | {cells} |"
            if difference > LARGEST_DIFFERENCE or disagree:
                missed.append(f"{scaling}, depth {depth}: scores are off by {difference:.1g}, {disagree} disagree on the span")
            if not quick and abs(areas[0] - figure) > LARGEST_AREA_GAP:
                missed.append(f"{scaling}, depth {depth}: the area {ours} is more than {LARGEST_AREA_GAP:g} from {figure:g}")


def _compared(scaling, depth, train, labels, test, truth, digits):
    """Areas by column, the largest relative difference from the formula, and how many scores disagree on the span, of how many."""
    pooled, difference, disagree = {name: [] for name in ("ours", "unscaled", "alone", "both")}, 0.0, 0
    for digit in digits:
        corpus = train[labels == digit]
        detector = Signature(channels=2, depth=depth, augmentations=(), scaling=scaling).fit(corpus)
        state = detector.state_
        features, queries = (detector._signatures(rows, state.low, state.high) for rows in (corpus, test))  # noqa: SLF001
        scores, expected = detector.scores(test), published_scores(features, queries)
        off = detector.off_span(scores)
        disagree += int((off != np.isinf(expected)).sum())
        common = np.isfinite(expected) & ~off
        difference = max(difference, float((np.abs(scores - expected)[common] / np.maximum(expected[common], 1e-6)).max()))
        both = LocalOutlierFactor().fit(np.vstack([features, queries]))
        pooled["ours"].append(scores)
        pooled["unscaled"].append(scores / np.sqrt(len(corpus)))
        pooled["alone"].append(-LocalOutlierFactor(novelty=True).fit(features).score_samples(queries))
        pooled["both"].append(-both.negative_outlier_factor_[len(features) :])
    strange = np.concatenate([truth != digit for digit in digits])
    return [roc_auc_score(strange, np.concatenate(scores)) for scores in pooled.values()], difference, disagree, len(strange)


def speed(quick):
    """Markdown: the table of times, row by row."""
    libraries = {"farfield": signatures, "pysiglib": _pysiglib(), "iisignature": _iisignature()}
    count, runs = (100, 3) if quick else (1000, 15)
    yield from (f"| channels / depth | {' | '.join(libraries)} |", "|---|" + "--:|" * len(libraries))
    for channels, depth in SHAPES:
        paths = np.random.default_rng(0).normal(size=(count, 100, channels)).cumsum(axis=1)
        expected = signatures(paths, depth)
        for compute in filter(None, libraries.values()):
            np.testing.assert_allclose(compute(paths, depth), expected, rtol=1e-9, atol=1e-12 * np.abs(expected).max())
        best = dict.fromkeys(libraries, np.inf)
        for _ in range(runs):
            for name, compute in libraries.items():
                if compute:
                    start = time.process_time()
                    compute(paths, depth)
                    best[name] = min(best[name], (time.process_time() - start) * 1e6 / count)
        cells = (f"{best[name]:.2f}" if compute else "not installed" for name, compute in libraries.items())
        yield f"| {channels}/{depth} | {' | '.join(cells)} |"


def _pysiglib():
    spec = importlib.util.find_spec("pysiglib")
    if spec is None:
        return None
    library = ctypes.CDLL(str(Path(spec.submodule_search_locations[0]) / "libcpsig.so"))
    numbers, size, flag = ctypes.POINTER(ctypes.c_double), ctypes.c_uint64, ctypes.c_bool
    sizes = (size, size, size, size)
    library.signature_d.argtypes = (
        numbers,
        numbers,
        *sizes,
        flag,
        flag,
        ctypes.c_double,
        flag,
        flag,
        ctypes.c_int,
        numbers,
        size,
        size,
        size,
    )

    def compute(paths, depth):
        count, length, channels = paths.shape
        result = np.empty((count, signature_width(channels, depth)))
        read, write = (array.ctypes.data_as(numbers) for array in (paths, result))
        if library.signature_d(read, write, count, channels, length, depth, False, False, 1.0, True, False, 1, None, 0, 0, 0):
            raise RuntimeError("pysiglib refused the paths")
        return result

    return compute


def _iisignature():
    return importlib.import_module("iisignature").sig if importlib.util.find_spec("iisignature") else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accuracy", action="store_true", help="area under the ROC curve on pen strokes")
    parser.add_argument("--speed", action="store_true", help="time of signatures")
    parser.add_argument("--quick", action="store_true", help="small forms of both")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE}")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the data")
    options = parser.parse_args()
    if not (options.accuracy or options.speed):
        parser.error("nothing to do: give --accuracy or --speed")
    missed = []
    with threadpool_limits(1):
        if options.accuracy:
            _printed("accuracy", accuracy(options.data, options.quick, missed), options.write)
        if options.speed:
            _printed("speed", speed(options.quick), options.write)
    print("\n".join(missed), file=sys.stderr, end="\n" * bool(missed))
    sys.exit(bool(missed))


def _printed(name, table, write):
    lines = []
    for line in table:
        print(line, flush=True)
        lines.append(line)
    if write:
        PAGE.write_text(written(PAGE.read_text(), f"benchmarks.signature: {name}", "\n".join(lines)))


if __name__ == "__main__":
    main()
