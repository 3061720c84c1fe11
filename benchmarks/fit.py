"""What a fit of data in files costs, beside the bare product over the same file, and beside others.

    python -m benchmarks.fit                  # 2 GB in a temporary folder, half an hour
    python -m benchmarks.fit --rows 100000    # some minutes
    python -m benchmarks.fit --only-file      # the first table, and what was aimed at there, in three minutes

prints Markdown: medians of alternating runs with half the range between quartiles. Of the first two tables each run has a process of
its own and one thread of the numerical libraries, but for the row "all cores", and is told in wall-clock seconds, seconds of
processor time, and the peak of memory that is no file's. Rows are float32, shifted by 50 times their spread.

* a file: ours in single and in double precision, from the file to a calibrated detector; the bare blocked product
  ``X.T @ X`` over the same file; ``dask.array``'s covariance by its own threads, one for each core, and ours by as many
* rows in memory: Ledoit-Wolf of ours, of scikit-learn, its IncrementalPCA, and the bare product, which none can do without
* shapes: Ledoit-Wolf of ours and of scikit-learn, of rows in memory of many shapes, by all cores and by one
* images: JPEGs through the bundled network, from files, beside the best that onnxruntime gives on inputs made before
* processes: the same fit on a Dask cluster of one and of two processes of this machine, start-up apart
* targets: what was aimed at, and what was found
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
from operator import truediv
from pathlib import Path

import numpy as np
import onnxruntime as ort
from PIL import Image
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import IncrementalPCA
from threadpoolctl import threadpool_limits

from benchmarks import pages
from detectors import Gaussian
from models import Extractor, Level, bundled, decode
from models.graph import parse, with_taps
from service.fitting import cluster, passes
from service.fitting.features import Extraction
from service.fitting.gathering import HELD_ROWS, Gathering, Plan, sums_arrays
from service.fitting.parted import Parted
from service.fitting.passes import Nowhere, chunk_rows
from service.fitting.task import Task
from service.recipe import Recipe
from service.sources import Losses, open_source
from service.sources.parts import PART_BYTES

WIDTH = 512
BLOCK = 16_384  # rows of a product
MEMORY = 256 * 2**20
MIB = 2**20
IMAGE_SIZE = 224
DIFFERENT = 2000  # images
TENSORS = 1024  # that onnxruntime alone is fed with in each turn
FIT = "a fit, from files to a calibrated detector"
ALL, OURS_BY_ALL, LEDOIT_WOLF_BY_ALL = "ours, float32, all cores", "ours, all cores", "LedoitWolf, all cores"
PRODUCT_BY_ALL = "bare product, all cores"
BY_ALL, BY_ONE = (OURS_BY_ALL, LEDOIT_WOLF_BY_ALL, PRODUCT_BY_ALL), ("ours", "LedoitWolf", "bare product")
EMPTY_TASKS = 2000
DATA, CORES, LINK = 10e12, 16, 25e9 / 8  # of the cluster on paper: bytes, cores of a node, bytes per second of its network
PAGE = Path("docs/scaling.md")
SMALLER = 100_000  # rows that are held in memory
SHAPES = (  # of rows that are
    (1_000_000, 64),
    (1_000_000, 128),
    (500_000, 256),
    (SMALLER, WIDTH),
    (1_000_000, WIDTH),
    (100_000, 768),
    (50_000, 1024),
    (20_000, 2048),
)


def made(path, rows):
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
    product_of(np.load(path, mmap_mode="r"), dtype)


def product_of(rows, dtype):
    """The same of rows."""
    total = np.zeros((rows.shape[1],) * 2)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK].astype(dtype, copy=False)
        total += block.T @ block


def fitted(path, precision, threads=1):
    """From the file to a calibrated detector, in one pass, whose chunks are summed by so many threads beside that which reads."""
    source = open_source(str(path))
    plan = Plan.of(Recipe(parameters={"precision": precision}), (Level("features", WIDTH),), source.rows, MEMORY, None, 1)
    with Extraction(None, 1, 1) as extraction:
        passes.fit(source, plan, extraction, Losses(), Nowhere(), lambda *_: None, threads=threads)


def by_all(work):
    """``work`` with as many threads of the numerical library as there are cores."""
    with threadpool_limits(os.cpu_count()):
        return work()


def dask_covariance(path):
    """What one would write with dask.array: mean, centred product, no shrinkage."""
    import dask.array as da

    rows = da.from_array(np.load(path, mmap_mode="r"), chunks=(BLOCK, WIDTH))
    centred = rows - rows.mean(axis=0)
    (centred.T @ centred / len(rows)).compute()


def in_memory(path, rows, what):
    """A fit of rows that are in memory already; the time of reading them is not counted."""
    return fit_of(np.array(np.load(path, mmap_mode="r")[:rows]), what)


def drawn(shape, what):
    """The same of normal rows of this shape."""
    return fit_of(np.random.default_rng(0).standard_normal(shape, np.float32) + np.float32(50), what)


def fit_of(some, what):
    """What is timed; scikit-learn's as it comes, with the precision by which it scores, as ours has."""
    fits = {
        "ours": lambda: Gaussian(precision="float32").fit(some),
        "bare product": lambda: product_of(some, np.float32),
        "ours, double": lambda: Gaussian().fit(some),
        "LedoitWolf": lambda: LedoitWolf().fit(some),
        "IncrementalPCA": lambda: IncrementalPCA(n_components=None, batch_size=BLOCK).fit(some),
    }
    fits |= {by_all_name: partial(by_all, fits[name]) for name, by_all_name in zip(BY_ONE, BY_ALL, strict=True)}
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
    """Figures of each run of each of ``works`` by name, every run in a process of its own, all taking turns."""
    found = {name: [] for name in works}
    for _ in range(runs):
        for name, (work, prepare) in works.items():
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                found[name].append(pool.submit(measured, work, prepare).result())
    return {name: list(zip(*values, strict=True)) for name, values in found.items()}


def table(title, found, against):
    """Markdown of figures, each with its ratios to the one named ``against``, of the same turn."""
    yield from (
        "",
        f"**{title}**",
        "",
        f"| what | wall s | of {against} | processor s | of {against} | peak MiB | beyond the start |",
        "|---|--:|--:|--:|--:|--:|--:|",
    )
    for name, (walls, cpus, beyond, peaks) in found.items():
        cells = []
        for times, others in ((walls, found[against][0]), (cpus, found[against][1])):
            cells += [pages.spread(times), f"{statistics.median(map(truediv, times, others)):.2f}x"]
        yield f"| {name} | {' | '.join(cells)} | {statistics.median(peaks):.0f} | {statistics.median(beyond):.0f} |"


def shapes(most, runs):
    """Figures of each of ``SHAPES`` of at most so many numbers: Ledoit-Wolf of ours and of scikit-learn, and the bare product, by turns."""
    few = [shape for shape in SHAPES if shape[0] * shape[1] <= most]
    names = [*BY_ALL, *BY_ONE]
    return {shape: taking_turns({name: (partial(drawn, shape, name), True) for name in names}, runs) for shape in few}


def shapes_table(found):
    """Markdown of them."""
    side = "| ours, s | LedoitWolf, s | faster | the bare product is |"
    yield f"| rows x columns, all cores {side} one core: {side[2:]}"
    yield "|--:" * 9 + "|"
    for (rows, width), figures in found.items():
        cells = [f"{rows} x {width}"]
        for ours, theirs, bare in (BY_ALL, BY_ONE):
            cells += [pages.spread(figures[name][0]) for name in (ours, theirs)]
            cells += [f"{faster(figures, name, theirs):.1f}" for name in (ours, bare)]
        yield "| " + " | ".join(cells) + " |"


def faster(figures, one, other):
    """How many times as fast as the other, by the clock; the median of the turns."""
    return statistics.median(map(truediv, figures[other][0], figures[one][0]))


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
    """JPEG files of smooth noise, of which at most ``DIFFERENT`` differ: the others are links to them."""
    rng = np.random.default_rng(0)
    for index in range(count):
        if index >= DIFFERENT:
            (folder / f"{index:06}.jpg").hardlink_to(folder / f"{index % DIFFERENT:06}.jpg")
            continue
        rough = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
        rough.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC).save(folder / f"{index:06}.jpg", quality=90)


def images(folder, runs):
    """Images per second of the whole way, and of onnxruntime alone in every arrangement, by turns: Markdown, and the share of the best."""
    onnx_file, preprocessing, taps = bundled("mobilenet_v2")
    cores = os.cpu_count() or 1
    network = Extractor(onnx_file, preprocessing=preprocessing, taps=taps, device="cpu", threads=1)
    inputs = network.preprocessed([decode(path.read_bytes()) for path in sorted(folder.iterdir())[:128]])
    source = open_source(str(folder))
    plan = Plan.of(Recipe(alpha=0.05), network.levels, source.rows, MEMORY, None, 10**7)

    def fit():
        with Extraction(network, 10**7, cores) as extraction:
            passes.fit(source, plan, extraction, Losses(), Nowhere(), lambda *_: None)
        return source.rows

    works = {}
    for threads, side in ((cores, 1), (1, cores)):
        run = onnxruntime_alone(onnx_file, taps, threads)
        works |= {
            f"onnxruntime alone, {side} at a time, {threads} threads each, batch {batch}": partial(tensors_run, run, inputs, side, batch)
            for batch in (1, 8, 32)
        }
    rates = {name: [] for name in (*works, FIT)}
    for number in range(runs + 1):
        for name, work in {**works, FIT: fit}.items():
            start = time.perf_counter()
            count = work() if number or name != FIT else 0  # the first turn only warms the sessions
            if number:
                rates[name].append(count / (time.perf_counter() - start))
    fastest = max(works, key=lambda name: statistics.median(rates[name]))
    shares = {name: statistics.median(map(truediv, found, rates[fastest])) for name, found in rates.items()}
    lines = [f"**{source.rows} JPEGs of {IMAGE_SIZE} px**", "", "| what | images/s | of the best |", "|---|--:|--:|"]
    return [*lines, *(f"| {name} | {pages.spread(found, 0)} | {shares[name]:.2f} |" for name, found in rates.items())], shares[FIT]


def judged_file(file):
    """Markdown: what was aimed at for rows from a file, and what was found, by the clock."""
    single, bare, bare_by_all = "ours, float32", "bare product, float32", "bare product, float32, all cores"
    peak = max(statistics.median(file[name][3]) for name in (single, ALL))
    aims = {
        "a fit from a file takes at most 1.3 times its bare product, both by all cores": 1 / faster(file, ALL, bare_by_all),
        "a fit by all cores takes at most 1.3 times the bare product by one": 1 / faster(file, ALL, bare),
        "a fit that sums by one core and reads by another the same": 1 / faster(file, single, bare),
    }
    found = [(aim, f"{slower:.2f}", slower <= 1.3) for aim, slower in aims.items()]
    found.append(("in at most 400 MiB", f"{peak:.0f} MiB", peak <= 400))
    return targets([*found, against("3 times as fast as dask.array, by all cores", 3, file, ALL, "dask.array", bare_by_all)])


def judged(memory, largest, share):
    """Markdown: the same for rows in memory and images; ``largest`` are figures of as many rows as the file's."""
    found = [
        against("5 times as fast as LedoitWolf, as many rows as the file's in memory, by all cores", 5, largest, *BY_ALL),
        against("the same by one core", 5, largest, *BY_ONE),
        against("the same of a tenth of the rows, by all cores", 5, memory, *BY_ALL),
        against("the same of a tenth of the rows, by one core", 5, memory, *BY_ONE),
        against("15 times as fast as IncrementalPCA, by one core", 15, memory, "ours", "IncrementalPCA", "bare product"),
    ]
    if share is not None:
        found.append(("images at 0.85 of the best rate of onnxruntime", f"{share:.2f}", share >= 0.85))
    return targets(found)


def against(aim, least, figures, ours, peer, bare):
    """An aim, how many times as fast as a peer ours and the bare product are, and whether ours is fast enough."""
    found = faster(figures, ours, peer)
    return aim, f"{found:.1f}; the bare product {faster(figures, bare, peer):.1f}", found >= least


def targets(found):
    """Markdown of aims, what was found, and whether they are met."""
    lines = (f"| {aim} | {value} | {'yes' if met else '**no**'} |" for aim, value, met in found)
    return ["| aimed at | found | met |", "|---|--:|---|", *lines]


def tensors_run(run, inputs, side, batch):
    """Send ``TENSORS`` inputs made before through the network, so many calls beside each other; how many there were."""
    groups = [inputs[i : i + batch] for i in range(0, len(inputs), batch)] * (TENSORS // len(inputs))
    with ThreadPoolExecutor(side) as pool:
        list(pool.map(run, groups))
    return sum(map(len, groups))


def onnxruntime_alone(onnx_file, taps, threads):
    """A function from a batch of inputs to features, on so many threads, with nothing of ours around it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    model, outputs = with_taps(parse(onnx_file), taps)
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(outputs, {name: batch})


def processes(path, counts, runs):
    """Markdown: the fit on a cluster of so many processes, by turns, and empty tasks per second of the last."""
    source = open_source(str(path))
    seconds, tasks = {count: [] for count in counts}, 0.0
    for count in [*counts] * runs:
        task = Task(Recipe(parameters={"precision": "float32"}), source, None, Losses(), MEMORY, 1, f"local:{count}")
        with cluster.client(f"local:{count}") as connected:
            connected.gather(connected.map(abs, range(count), pure=False))  # workers that have begun
            start = time.perf_counter()
            cluster.fit_on(connected, task, task.plan(), lambda *_: None)
            seconds[count].append(time.perf_counter() - start)
            tasks = tasks_per_second(connected, EMPTY_TASKS)
    lines = ["**Processes of a Dask cluster on this machine**", "", "| processes | s | speed-up |", "|--:|--:|--:|"]
    for count, found in seconds.items():
        lines.append(f"| {count} | {pages.spread(found)} | {statistics.median(map(truediv, seconds[counts[0]], found)):.2f}x |")
    return lines, tasks


def constants(path):
    """What a cluster's arithmetic is made of, measured here: of one core, of what is gathered of a part, and of a join of two."""
    source = open_source(str(path))
    plan = Plan.of(Recipe(parameters={"precision": "float32"}), (Level("features", WIDTH),), source.rows, MEMORY, None, 1)
    halves, rates = [], []
    chunks = source.walk(rows=chunk_rows(source), losses=Losses())
    with threadpool_limits(1):
        for _ in range(2):
            gathering, chunk = Gathering.begun(plan), next(chunks)
            start = time.perf_counter()
            one = Parted.of(chunk, chunk.rows, plan.recipe.seed, plan.share)
            gathering.take(one, gathering.summed(one))
            rates.append(len(chunk) / (time.perf_counter() - start))
            halves.append(gathering)
        start = time.perf_counter()
        halves[0].join(halves[1])
        joined = time.perf_counter() - start
    chunks.close()
    held = HELD_ROWS * (4 * WIDTH + 16)
    return {"rate": max(rates), "sums": sum(array.nbytes for array in sums_arrays(halves[0].sums).values()), "held": held, "join": joined}


def paper(found, tasks):
    """Markdown: the constants, and what follows from them for clusters that were never seen."""
    yield from ("**Constants**", "", "| what | value |", "|---|--:|")
    yield f"| rows of {WIDTH} float32 that a core sums per second | {found['rate']:.0f} |"
    yield f"| MB that it reads per second | {found['rate'] * 4 * WIDTH / 1e6:.0f} |"
    yield f"| MB of the sums of a part | {found['sums'] / 1e6:.2f} |"
    yield f"| MB of all held-out rows together | {found['held'] / 1e6:.1f} |"
    yield f"| ms of a join of two | {1e3 * found['join']:.1f} |"
    yield f"| empty tasks that the scheduler hands out per second | {tasks:.0f} |"
    yield from (
        "",
        f"**On paper: {DATA / 1e12:.0f} TB in parts of {PART_BYTES // MIB} MiB, nodes of {CORES} cores and {LINK * 8 / 1e9:.0f} Gbit/s**",
        "",
    )
    yield "| nodes | read per node, GB | s reading | bound by | sent per node to join, MB | levels of joins | s joining | s scheduling |"
    yield "|--:|--:|--:|---|--:|--:|--:|--:|"
    parts = DATA / PART_BYTES
    levels = int(np.ceil(np.log(parts) / np.log(cluster.FAN_IN)))
    for nodes in (1, 4, 16, 64, 256):
        by_cores = CORES * found["rate"] * 4 * WIDTH
        reading = DATA / nodes / min(by_cores, LINK)
        sent = (parts * found["sums"] + levels * found["held"]) / nodes
        joining = parts / nodes / CORES * found["join"] * 2 + levels * cluster.FAN_IN * (found["join"] + found["sums"] / LINK)
        bound = "network" if by_cores > LINK else "cores"
        cells = (nodes, f"{DATA / nodes / 1e9:.0f}", f"{reading:.0f}", bound, f"{sent / 1e6:.0f}", levels, f"{joining:.1f}")
        yield "| " + " | ".join(map(str, (*cells, f"{2 * parts / tasks:.0f}"))) + " |"
    most = PART_BYTES * tasks / 2 / min(by_cores, LINK)
    yield from ("", f"Scheduling takes as long as reading at {most:.0f} nodes; parts of twice the size double that.")


def tasks_per_second(connected, count):
    """How fast the scheduler hands out tasks that do nothing."""
    start = time.perf_counter()
    connected.gather(connected.map(lambda number: number, range(count), pure=False))
    return count / (time.perf_counter() - start)


def sections(options, folder):
    """Name and table of each section in turn."""
    path = Path(folder, "rows.npy")
    made(path, options.rows)
    works = {
        "bare product, float32": (partial(product, path, np.float32), False),
        "ours, float32": (partial(fitted, path, "float32"), False),
        "bare product, float64": (partial(product, path, np.float64), False),
        "ours, float64": (partial(fitted, path, "float64"), False),
        "bare product, float32, all cores": (partial(by_all, partial(product, path, np.float32)), False),
        ALL: (partial(fitted, path, "float32", os.cpu_count()), False),
        "dask.array": (partial(dask_covariance, path), False),
    }
    file = taking_turns(works, options.runs)
    lines = list(table(f"{options.rows} x {WIDTH} float32 from a file", file, "bare product, float32"))
    yield "file", [*lines, "", f"Single against double precision: {accuracy(path):.1e} of the scatter, by Frobenius norms."]
    yield "file targets", judged_file(file)
    if options.only_file:
        return
    some = min(SMALLER, options.rows)
    names = ("ours", "bare product", "ours, double", "LedoitWolf", "IncrementalPCA", OURS_BY_ALL, PRODUCT_BY_ALL, LEDOIT_WOLF_BY_ALL)
    works = {name: (partial(in_memory, path, some, name), True) for name in names}
    memory = taking_turns(works, options.runs)
    yield "memory", list(table(f"{some} x {WIDTH} float32 in memory", memory, "ours"))
    of_shapes = shapes(options.rows * WIDTH, options.runs)
    yield "shapes", list(shapes_table(of_shapes))
    lines, tasks = processes(path, (1, 2), options.runs)
    yield "processes", lines
    yield "paper", list(paper(constants(path), tasks))
    share = None
    if options.images:
        pictures_folder = Path(folder, "images")
        pictures_folder.mkdir()
        pictures(pictures_folder, options.images)
        lines, share = images(pictures_folder, options.image_runs)
        yield "images", lines
    largest = of_shapes.get((options.rows, WIDTH), memory)
    yield "targets", judged(memory, largest, share)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the file")
    parser.add_argument("--images", type=int, default=2000, help="JPEG files; 100000 take half an hour and 1 GB; 0 leaves them out")
    parser.add_argument("--runs", type=int, default=3, help="runs of each, taking turns")
    parser.add_argument("--image-runs", type=int, default=3, help="runs of the images")
    parser.add_argument("--folder", type=Path, help="where the file is made; a temporary folder by default")
    parser.add_argument("--only-file", action="store_true", help="measure the fit from a file alone")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="farfield-fit-") as folder:
        for name, lines in sections(options, folder):
            text = "\n".join(lines).strip()
            print(f"{text}\n", flush=True)
            if options.write:
                PAGE.write_text(pages.written(PAGE.read_text(), f"benchmarks.fit: {name}", text))


if __name__ == "__main__":
    main()
