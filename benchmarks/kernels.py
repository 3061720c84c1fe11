"""What the Gaussian kernels cost, beside what this machine's products and memory reach, and beside others.

    python -m benchmarks.kernels            # some minutes, and 1.6 GB in a temporary folder
    python -m benchmarks.kernels --quick    # half a minute

prints Markdown tables row by row as they are measured. Each figure is the median of alternating repetitions on one thread, with
its spread (half the range between quartiles, in per cent of the median), the last table excepted, of one run:

* rates: square products and a copy of 256 MiB
* scoring: ``VarianceNorm.squared`` against the full product ``X @ W``, scikit-learn's ``mahalanobis`` and,
  where PyOD is installed and fits such a width in less than minutes, ``decision_function`` of its MCD and PCA
* one row: the kernel, and ``Gaussian.scores`` with all that it checks
* Ledoit–Wolf: time, and apart from it peak resident memory, of processes of their own, ours and scikit-learn's by turns
* a file: a fit on memory-mapped float32 rows, with the peak of memory that is no file's
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from sklearn.covariance import EmpiricalCovariance, LedoitWolf
from threadpoolctl import threadpool_limits

from benchmarks.pages import median_and_spread
from detectors import Gaussian
from detectors.covariance import ledoit_wolf
from detectors.moments import Moments
from detectors.norm import VarianceNorm

ROUNDS = 3  # of processes
SECONDS = 0.1  # of repetitions per figure
FITTED_ROWS = 4  # times the width, for what has to be fitted
LEAST_REPETITIONS = 3
PRODUCT_ROWS = 2048
LARGEST_MCD, LARGEST_PCA = 64, 1280  # columns, beyond which these of PyOD's take minutes to fit


def alternating(calls, seconds):
    """Median seconds of each of ``calls`` by name, and half its range between quartiles; all take turns."""
    inner = {name: max(1, int(seconds / 50 / _once(call))) for name, call in calls.items()}
    times = {name: [] for name in calls}
    until = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < until or len(times[next(iter(calls))]) < LEAST_REPETITIONS:
        for name, call in calls.items():
            call()  # or the first would find the cache as the last left it
            start = time.perf_counter()
            for _ in range(inner[name]):
                call()
            times[name].append((time.perf_counter() - start) / inner[name])
    return {name: (np.median(t), np.subtract(*np.percentile(t, [75, 25])) / 2) for name, t in times.items()}


def rates(seconds):
    """Markdown: rates of this machine on one thread."""
    yield from ("| what | rate |", "|---|--:|")
    rng = np.random.default_rng(0)
    for dtype in ("float32", "float64"):
        square = rng.normal(size=(1024, 1024)).astype(dtype)
        taken, spread = alternating({"product": lambda square=square: square @ square}, seconds)["product"]
        yield f"| product of 1024 x 1024, {dtype} | {2 * 1024**3 / taken / 1e9:.0f} GFLOP/s ± {100 * spread / taken:.0f} % |"
    source, target = np.ones(2**25), np.empty(2**25)
    taken, spread = alternating({"copy": lambda: np.copyto(target, source)}, seconds)["copy"]
    yield f"| copy of 256 MiB, read and written | {2 * source.nbytes / taken / 1e9:.0f} GB/s ± {100 * spread / taken:.0f} % |"


def full_product(rows, mean, whiten):
    whitened = (rows - mean) @ whiten
    return np.einsum("ij,ij->i", whitened, whitened)


def scoring(widths, counts, seconds):
    """Markdown: time of ours, and of each other as a multiple of it."""
    yield from ("| rows x columns, type | ours | error | full product | scikit-learn | PyOD |", "|---|--:|--:|--:|--:|--:|")
    for width in widths:
        rng = np.random.default_rng(width)
        mix = rng.normal(size=(width, width)) / np.sqrt(width) + np.eye(width)
        fitted = rng.normal(size=(FITTED_ROWS * width, width)) @ mix
        moments = Moments.of(fitted)
        covariance, _ = ledoit_wolf(moments)
        exact = VarianceNorm.of(moments.mean, covariance)
        learned, pyod = EmpiricalCovariance().fit(fitted), _pyod(fitted)
        for dtype in ("float32", "float64"):
            norm = VarianceNorm.of(moments.mean, covariance, precision=dtype)
            mean = norm.mean.astype(dtype)
            for count in counts:
                rows = (rng.normal(size=(count, width)) @ mix).astype(dtype)
                error = np.abs(norm.squared(rows) / full_product(rows, exact.mean, exact.whiten) - 1).max()
                calls = {
                    "ours": lambda rows=rows, norm=norm: norm.squared(rows),
                    "full": lambda rows=rows, norm=norm, mean=mean: full_product(rows, mean, norm.whiten),
                    "sklearn": lambda rows=rows, learned=learned: learned.mahalanobis(rows),
                } | {name: lambda rows=rows, model=model: model.decision_function(rows) for name, model in pyod.items()}
                taken = alternating(calls, seconds)
                ours = taken["ours"][0]
                others = ", ".join(f"{name} {taken[name][0] / ours:.1f}x" for name in pyod) or "-"
                yield (
                    f"| {count} x {width}, {dtype} | {_time(taken['ours'])} | {error:.0e} | {taken['full'][0] / ours:.2f}x "
                    f"| {taken['sklearn'][0] / ours:.1f}x | {others} |"
                )


def one_row(widths, seconds):
    """Markdown: one row by the kernel, and with all checks."""
    yield from ("| columns, type | kernel | `Gaussian.scores` |", "|---|--:|--:|")
    for width in widths:
        rows = np.random.default_rng(0).normal(size=(2 * width, width))
        for precision in ("float32", "float64"):
            detector = Gaussian(precision=precision).fit(rows)
            row = rows[:1].astype(precision)
            norm = detector.state_.levels[0]
            calls = {"kernel": lambda norm=norm, row=row: norm.squared(row), "scores": lambda d=detector, row=row: d.scores(row)}
            taken = alternating(calls, seconds)
            yield f"| {width}, {precision} | {_time(taken['kernel'])} | {_time(taken['scores'])} |"


def shrinkage(shapes, rounds):
    """Markdown: Ledoit–Wolf in processes that do nothing else, ours and scikit-learn's by turns; memory is looked at in others."""
    yield (
        "| rows x columns | ours | scikit-learn | faster | the bare product | faster than scikit-learn "
        "| memory above start, ours | scikit-learn's | shrinkage differs by |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for shape in shapes:
        runs = [[_apart(_shrinkage, name, shape) for name in SHRINKAGES] for _ in range(rounds)]
        ours, theirs, bare = (_stated([seconds for seconds, _ in found], " s") for found in zip(*runs, strict=True))
        faster = _stated([theirs / ours for (ours, _), (theirs, _), _ in runs], "x")
        best = _stated([theirs / bare for _, (theirs, _), (bare, _) in runs], "x")
        memory, more = (_apart(_shrinkage_memory, name, shape) for name in ("ours", "scikit-learn"))
        gap = abs(runs[0][0][1] / runs[0][1][1] - 1)
        yield f"| {shape[0]} x {shape[1]} | {ours} | {theirs} | {faster} | {bare} | {best} | {memory:.0f} MB | {more:.0f} MB | {gap:.0e} |"


def from_file(shape, dtype="float32"):
    """Markdown: a fit on a file of rows that is made for it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        rows = np.lib.format.open_memmap(path, "w+", np.dtype(dtype), shape)
        rng = np.random.default_rng(0)
        for start in range(0, shape[0], 4096):
            rows[start : start + 4096] = rng.standard_normal(rows[start : start + 4096].shape, np.float32)
        rows.flush()
        size = rows.nbytes
        del rows
        seconds, memory = _apart(_fit_file, str(path))
    yield from ("| rows x columns, type | size of the file | fit | peak memory that is no file's |", "|---|--:|--:|--:|")
    yield f"| {shape[0]} x {shape[1]}, {dtype} | {size / 1e6:.0f} MB | {seconds:.1f} s | {memory:.0f} MB |"


class Peak:
    """Peak of this process's memory that belongs to no file, in MB, sampled while open."""

    def __enter__(self):
        self.start = self.highest = _anonymous()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _watch(self):
        while not self._over.wait(0.005):
            self.highest = max(self.highest, _anonymous())


def _stated(values, unit):
    median, half = median_and_spread(values)
    return f"{median:.2f}{unit} ± {half:.0f} %"


def _shrinkage(name, shape):
    """Seconds that it takes, and the intensity; none of the bare product."""
    rows = np.random.default_rng(0).standard_normal(shape)
    rows *= np.linspace(0.5, 2, shape[1])
    with threadpool_limits(1):
        start = time.perf_counter()
        intensity = SHRINKAGES[name](rows)
        return time.perf_counter() - start, intensity


def _bare_product(rows):
    """The product of centred rows with themselves, in blocks, without centring them."""
    total = np.zeros((rows.shape[1],) * 2)
    for start in range(0, len(rows), PRODUCT_ROWS):
        block = rows[start : start + PRODUCT_ROWS]
        total += block.T @ block


SHRINKAGES = {
    "ours": lambda rows: ledoit_wolf(Moments.of(rows))[1],
    "scikit-learn": lambda rows: LedoitWolf(store_precision=False).fit(rows).shrinkage_,
    "the bare product": _bare_product,
}


def _shrinkage_memory(name, shape):
    """Peak above what the rows take, in MB."""
    rows = np.random.default_rng(0).standard_normal(shape)
    with threadpool_limits(1), Peak() as peak:
        ledoit_wolf(Moments.of(rows)) if name == "ours" else LedoitWolf(store_precision=False).fit(rows)
    return peak.highest - peak.start


def _fit_file(path):
    rows = np.load(path, mmap_mode="r")
    with threadpool_limits(1), Peak() as peak:
        start = time.perf_counter()
        Gaussian(precision="float32").fit(rows)
        seconds = time.perf_counter() - start
    return seconds, peak.highest


def _apart(function, *arguments):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _anonymous():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1000


def _pyod(rows):
    try:
        from pyod.models.mcd import MCD
        from pyod.models.pca import PCA
    except ImportError:
        return {}
    makers = {"PCA": (PCA, LARGEST_PCA), "MCD": (lambda: MCD(random_state=0), LARGEST_MCD)}
    return {name: make().fit(rows) for name, (make, largest) in makers.items() if rows.shape[1] <= largest}


def _once(call):
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _time(taken):
    median, spread = taken
    return (
        f"{median * 1e6:.1f} µs ± {100 * spread / median:.0f} %"
        if median < 1e-3
        else f"{median * 1e3:.2f} ms ± {100 * spread / median:.0f} %"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few shapes, small, to see that it works")
    quick = parser.parse_args().quick
    seconds = SECONDS / 10 if quick else SECONDS
    widths, counts = ([64, 512], [1, 32, 1024]) if quick else ([64, 256, 512, 1280, 2048], [1, 32, 1024, 4096])
    with threadpool_limits(1):
        for lines in (rates(seconds), scoring(widths, counts, seconds), one_row(widths, seconds)):
            _printed(lines)
    _printed(shrinkage([(10_000, 256)] if quick else [(100_000, 512), (20_000, 2048)], 1 if quick else ROUNDS))
    _printed(from_file((20_000, 512) if quick else (200_000, 2048)))


def _printed(lines):
    for line in lines:
        print(line, flush=True)
    print()


if __name__ == "__main__":
    main()
