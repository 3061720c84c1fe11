"""What a fit of data in files costs, beside the bare product over the same file, and beside others.

    python -m benchmarks.fit                  # 2 GB in a temporary folder, a quarter of an hour
    python -m benchmarks.fit --rows 100000    # a minute

prints Markdown. Every figure is the median of alternating runs, each in a process of its own on one thread of the numerical
libraries, with the wall-clock seconds, the seconds of processor time, and the peak of memory that is no file's. Rows are float32,
shifted by 50 times their spread.

* a file: ours in single and in double precision, from the file to a calibrated detector; the bare blocked product
  ``X.T @ X`` over the same file; ``dask.array``'s covariance, on one thread as well
* rows in memory: Ledoit-Wolf of ours, of scikit-learn, and its IncrementalPCA
* images: JPEGs through the bundled network, from files, beside the best that onnxruntime gives on inputs made before
* processes: the same fit on a Dask cluster of one and of two processes of this machine, start-up apart
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
from PIL import Image
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import IncrementalPCA
from threadpoolctl import threadpool_limits

from detectors import Gaussian
from models import Extractor, Level, bundled, decode
from models.graph import parse, with_taps
from service.fitting import cluster, passes
from service.fitting.features import Extraction
from service.fitting.gathering import Gathering, Plan
from service.fitting.passes import Nowhere, chunk_rows
from service.fitting.task import Task
from service.recipe import Recipe
from service.sources import Losses, open_source

WIDTH = 512
BLOCK = 16_384  # rows of a product
MEMORY = 256 * 2**20
MIB = 2**20
IMAGE_SIZE = 224
SMALLER = 100_000  # rows that are held in memory


def written(path, rows):
    """A file of so many rows, correlated, of spreads from 0.5 to 3 and means 50 times as large."""
    rng = np.random.default_rng(0)
    spread = np.linspace(0.5, 3, WIDTH, dtype=np.float32)
    mixing = np.eye(WIDTH, dtype=np.float32) + 0.3 * rng.standard_normal((WIDTH, WIDTH), dtype=np.float32) / np.sqrt(
        WIDTH, dtype=np.float32
    )
    file = np.lib.format.open_memmap(path, "w+", np.float32, (rows, WIDTH))
    for start in range(0, rows, BLOCK):
        block = file[start : start + BLOCK]
        block[:] = (rng.standard_normal(block.shape, dtype=np.float32) @ mixing + 50) * spread
    file.flush()


def product(path, dtype):
    """The bare blocked product over the file, nothing centred and nothing checked."""
    rows, total = np.load(path, mmap_mode="r"), np.zeros((WIDTH, WIDTH))
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK].astype(dtype, copy=False)
        total += block.T @ block


def fitted(path, precision):
    """From the file to a calibrated detector, in one pass."""
    source = open_source(str(path))
    plan = Plan.of(Recipe(parameters={"precision": precision}), (Level("features", WIDTH),), source.rows, MEMORY, None, 1)
    with Extraction(None, 1, 1) as extraction:
        passes.fit(source, plan, extraction, Losses(), Nowhere(), lambda *_: None)


def dask_covariance(path):
    """What one would write with dask.array: mean, centred product, no shrinkage."""
    import dask  # only here
    import dask.array as da

    rows = da.from_array(np.load(path, mmap_mode="r"), chunks=(BLOCK, WIDTH))
    centred = rows - rows.mean(axis=0)
    with dask.config.set(scheduler="single-threaded"):
        (centred.T @ centred / len(rows)).compute()


def in_memory(path, rows, what):
    """A fit of rows that are in memory already; the time of reading them is not counted."""
    some = np.array(np.load(path, mmap_mode="r")[:rows])
    fits = {
        "ours": lambda: Gaussian(precision="float32").fit(some),
        "ours, double": lambda: Gaussian().fit(some),
        "LedoitWolf": lambda: LedoitWolf(store_precision=False).fit(some),
        "IncrementalPCA": lambda: IncrementalPCA(n_components=None, batch_size=BLOCK).fit(some),
    }
    return fits[what]


def measured(work, prepare=False):
    """Wall seconds, processor seconds and peak MiB beyond the start, of ``work`` on one thread."""
    with threadpool_limits(1):
        work = work() if prepare else work
        own, stop, peak = _anonymous(), threading.Event(), [0]

        def watch():
            while not stop.wait(0.005):
                peak[0] = max(peak[0], _anonymous())

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        figures = time.perf_counter() - wall, time.process_time() - cpu
        stop.set()
        watcher.join()
    return (*figures, (max(peak[0], own) - own) / MIB, peak[0] / MIB)


def _anonymous():
    """Bytes of memory of this process that are no file's."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


def taking_turns(works, runs):
    """Medians of each of ``works`` by name, every run in a process of its own, all taking turns."""
    found = {name: [] for name in works}
    for _ in range(runs):
        for name, (work, prepare) in works.items():
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                found[name].append(pool.submit(measured, work, prepare).result())
    return {name: tuple(map(statistics.median, zip(*values, strict=True))) for name, values in found.items()}


def table(title, found, against):
    """Markdown of figures, each as a ratio of processor time to the one named ``against``."""
    yield from (
        "",
        f"**{title}**",
        "",
        f"| what | wall s | processor s | of {against} | peak MiB | beyond the start |",
        "|---|--:|--:|--:|--:|--:|",
    )
    for name, (wall, cpu, beyond, peak) in found.items():
        yield f"| {name} | {wall:.2f} | {cpu:.2f} | {cpu / found[against][1]:.2f}x | {peak:.0f} | {beyond:.0f} |"


def accuracy(path):
    """How far the sums of single precision are from those of double, relative to their size."""
    rows = np.load(path, mmap_mode="r")
    blocks = [slice(start, start + BLOCK) for start in range(0, len(rows), BLOCK)]
    sums = {}
    for precision in ("float32", "float64"):
        total = None
        for block in blocks:
            one = Gaussian(precision=precision).sums(rows[block]).levels[0]
            total = one if total is None else total + one
        sums[precision] = total.scatter
    return np.linalg.norm(sums["float32"] - sums["float64"]) / np.linalg.norm(sums["float64"])


def pictures(folder, count):
    """JPEG files of smooth noise, each another one."""
    rng = np.random.default_rng(0)
    for index in range(count):
        rough = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
        rough.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC).save(folder / f"{index:06}.jpg", quality=90)


def images(folder):
    """Markdown: images per second of the whole way, and of onnxruntime alone in every arrangement."""
    onnx_file, preprocessing, taps = bundled("mobilenet_v2")
    cores = os.cpu_count() or 1
    network = Extractor(onnx_file, preprocessing=preprocessing, taps=taps, device="cpu", threads=1)
    inputs = network.preprocessed([decode(path.read_bytes()) for path in sorted(folder.iterdir())[:128]])
    best = {}
    for threads, side in ((cores, 1), (1, cores)):
        run = onnxruntime_alone(onnx_file, taps, threads)
        for batch in (1, 8, 32):
            groups = [inputs[i : i + batch] for i in range(0, len(inputs), batch)]
            with ThreadPoolExecutor(side) as pool:
                start = time.perf_counter()
                list(pool.map(run, groups))
                best[f"{side} at a time, {threads} threads each, batch {batch}"] = len(inputs) / (time.perf_counter() - start)
    source = open_source(str(folder))
    plan = Plan.of(Recipe(alpha=0.05), network.levels, source.rows, MEMORY, None, 10**7)
    with Extraction(network, 10**7, cores) as extraction:
        start = time.perf_counter()
        passes.fit(source, plan, extraction, Losses(), Nowhere(), lambda *_: None)
        whole = source.rows / (time.perf_counter() - start)
    fastest = max(best, key=best.get)
    yield from ("", f"**{source.rows} JPEGs of {IMAGE_SIZE} px**", "", "| what | images/s | of the best |", "|---|--:|--:|")
    for name, rate in best.items():
        yield f"| onnxruntime alone, {name} | {rate:.0f} | {rate / best[fastest]:.2f} |"
    yield f"| a fit, from files to a calibrated detector | {whole:.0f} | {whole / best[fastest]:.2f} |"


def onnxruntime_alone(onnx_file, taps, threads):
    """A function from a batch of inputs to features, on so many threads, with nothing of ours around it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    model, outputs = with_taps(parse(onnx_file), taps)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(outputs, {name: batch})


def processes(path, counts):
    """Markdown: the fit on a cluster, and what is sent when two parts are joined."""
    source = open_source(str(path))
    yield from ("", "**Processes of a Dask cluster on this machine**", "", "| processes | s | speed-up |", "|--:|--:|--:|")
    first = None
    for count in counts:
        task = Task(Recipe(parameters={"precision": "float32"}), source, None, Losses(), MEMORY, 1, f"local:{count}")
        with cluster.client(f"local:{count}") as connected:
            start = time.perf_counter()
            cluster.fit_on(connected, task, task.plan(), lambda *_: None)
            seconds = time.perf_counter() - start
        first = first or seconds
        yield f"| {count} | {seconds:.2f} | {first / seconds:.2f}x |"


def joins(path):
    """Markdown: the constants of the tree of joins."""
    source = open_source(str(path))
    plan = Plan.of(Recipe(parameters={"precision": "float32"}), (Level("features", WIDTH),), source.rows, MEMORY, None, 1)

    halves, seconds = [], []
    chunks = source.walk(rows=chunk_rows(source), losses=Losses())
    for _ in range(2):
        gathering, chunk = Gathering.begun(plan), next(chunks)
        start = time.perf_counter()
        gathering.take(chunk, chunk.rows)
        seconds.append((time.perf_counter() - start) / len(chunk))
        halves.append(gathering)
    size = sum(array.nbytes for array in halves[0].arrays().values())
    start = time.perf_counter()
    halves[0].join(halves[1])
    joined = time.perf_counter() - start
    chunks.close()
    yield from ("", "**Constants of a cluster**", "", "| what | value |", "|---|--:|")
    yield f"| rows read and summed, per core and second | {1 / min(seconds):.0f} |"
    yield f"| bytes of what is gathered of a part, but for held-out rows | {8 * (WIDTH * WIDTH + 3 * WIDTH + 3)} |"
    yield f"| bytes of what is gathered of the first chunk | {size} |"
    yield f"| bytes of the held-out rows of the whole | {plan.share * source.rows * (WIDTH * 4 + 16):.0f} |"
    yield f"| seconds of a join | {joined:.4f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the file")
    parser.add_argument("--images", type=int, default=2000, help="JPEG files; 100000 take a quarter of an hour and 1 GB")
    parser.add_argument("--runs", type=int, default=3, help="runs of each, taking turns")
    parser.add_argument("--folder", type=Path, help="where the file is made; a temporary folder by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="farfield-fit-") as folder:
        path = Path(folder, "rows.npy")
        written(path, options.rows)
        works = {
            "bare product, float32": (partial(product, path, np.float32), False),
            "ours, float32": (partial(fitted, path, "float32"), False),
            "bare product, float64": (partial(product, path, np.float64), False),
            "ours, float64": (partial(fitted, path, "float64"), False),
            "dask.array": (partial(dask_covariance, path), False),
        }
        for line in table(f"{options.rows} x {WIDTH} float32 from a file", taking_turns(works, options.runs), "bare product, float32"):
            print(line, flush=True)
        print(f"\nSingle against double precision, Frobenius norm of the difference: {accuracy(path):.1e} of the whole")
        some = min(SMALLER, options.rows)
        names = ("ours", "ours, double", "LedoitWolf", "IncrementalPCA")
        works = {name: (partial(in_memory, path, some, name), True) for name in names}
        for line in table(f"{some} x {WIDTH} float32 in memory", taking_turns(works, options.runs), "ours"):
            print(line, flush=True)
        for line in (*processes(path, (1, 2)), *joins(path)):
            print(line, flush=True)
        pictures_folder = Path(folder, "images")
        pictures_folder.mkdir()
        pictures(pictures_folder, options.images)
        for line in images(pictures_folder):
            print(line, flush=True)


if __name__ == "__main__":
    main()
