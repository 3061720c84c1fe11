"""What a request costs over HTTP, beside other servers with the same scorer.

    python -m benchmarks.serving            # two hours, and 4 GB of environments that are made once
    python -m benchmarks.serving --quick    # half an hour, when they are made

starts ``farfield serve`` with one worker and with two, and every server of ``benchmarks/serving_peers`` with one, on ports of this
machine, each in an environment of its own and with one thread for products of matrices. wrk sends them the same rows and images, by turns
of some seconds over connections that are kept. Figures are medians of the rounds, with half the range between quartiles; ratios are
those within each round. Before that, an answer of each is compared with the detector's own scores.

The scorer is a Gaussian detector in single precision, of 512 features or of those of the bundled network. The others answer the scores
alone, ours p-values and decisions too, which it counts, watches for drift and shows in metrics.

Beside them stand limits of the machine, in the same rounds: the detector's kernel on one thread, fed from memory; onnxruntime, fed with
tensors made before, in the fastest of its arrangements; and a server in Python that does nothing but score ("bare ASGI").
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import httpx2
import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks import pages
from benchmarks.fit import onnxruntime_alone, pictures
from benchmarks.serving_peers import Unavailable, peers
from benchmarks.serving_peers.bodies import FORMS
from benchmarks.serving_peers.scorer import WIDTH
from benchmarks.serving_peers.servers import MARK, Sample, Server, load, running, settle, start
from benchmarks.serving_peers.targets import KERNEL, NETWORK, OURS, TWO, judged, table
from models import Extractor, bundled, decode
from models.graph import parse, with_taps
from service import __version__, archive, engine
from service.features import Batch
from service.manifest import Source
from service.recipe import Recipe
from service.store import Store

PAGE = Path("docs/performance.md")
SECTION = "benchmarks.serving"
FITTED, PICTURES = 4000, 100
SHAPES = {f"{count} x {WIDTH}": count for count in (1, 32, 1024, 10_000)} | {"1 JPEG": 1, "32 JPEG": 32}
IN_FLIGHT = 500e6  # bytes of the bodies of all connections, beyond which nothing is measured: a server holds them all
LONGEST = 5  # times the usual length of a turn, for what needs longer to answer all connections once
TOLERANCE = 1e-5
ROWS, IMAGES = "/v1/detectors/rows:score", "/v1/detectors/images:score"
PATHS = {"JSON": ROWS, "npy": ROWS, "v2 JSON": "/v2/models/rows/infer", "v2 binary": "/v2/models/rows/infer", "images": IMAGES}
LIMITS = {"FARFIELD_MAX_JSON_BYTES": str(2**27)}  # ours refuses JSON as large as that of 10 000 rows otherwise


@dataclass(slots=True)
class Material:
    """The detectors, and what is sent: rows (n, 512) and the bytes of images."""

    folder: Path
    rows: engine.Fitted
    images: engine.Fitted
    inputs: dict[str, np.ndarray | list[bytes]]

    @classmethod
    def made(cls, folder: Path) -> Material:
        """Fit both, and write their states where peers read them: see ``scorer``."""
        rng = np.random.default_rng(0)
        rows = rng.standard_normal((max(SHAPES.values()), WIDTH), dtype=np.float32)
        fitted = engine.fit(_recipe(0.01), Batch(rows=rng.standard_normal((FITTED, WIDTH), dtype=np.float32)))
        drawn = folder / "pictures"
        drawn.mkdir()
        pictures(drawn, PICTURES)
        files = [path.read_bytes() for path in sorted(drawn.iterdir())]
        onnx_file, preprocessing, taps = bundled("mobilenet_v2")
        extractor = Extractor(onnx_file, preprocessing=preprocessing, taps=taps, device="cpu", threads=1)
        seen = engine.fit(_recipe(0.05), Batch(images=files), extractor)
        model, _ = with_taps(parse(onnx_file), taps)
        (folder / "extractor.onnx").write_bytes(model.SerializeToString())
        for name, one in (("rows", fitted), ("images", seen)):
            norm = one.detector.state_.levels[0]
            np.savez(folder / f"{name}.npz", mean=norm.mean.astype(np.float32), whiten=norm.whiten)
        inputs = {name: files[:count] if name.endswith("JPEG") else rows[:count] for name, count in SHAPES.items()}
        return cls(folder, fitted, seen, inputs)

    def store(self, name: str) -> str:
        """The address of a store with both detectors."""
        address = f"embedded:{self.folder / name}"
        with Store.open(address) as store:
            for detector, fitted in (("rows", self.rows), ("images", self.images)):
                manifest, blobs = archive.pack(fitted, detector, Source(name="drawn", rows=FITTED, sha256="0" * 64))
                store.publish(detector, manifest, blobs)
        return address

    def scores(self, shape: str) -> np.ndarray:
        """What the detector itself says."""
        inputs = self.inputs[shape]
        batch = Batch(rows=inputs) if isinstance(inputs, np.ndarray) else Batch(images=inputs)
        return engine.score(self.images if batch.rows is None else self.rows, batch).scores


def _recipe(alpha: float) -> Recipe:
    return Recipe(alpha=alpha, parameters={"precision": "float32"})


def in_process(calls, rows_each, seconds) -> Sample:
    """Turns of a function in this process, each worth so many answers."""
    done, begin = 0, time.perf_counter()
    while time.perf_counter() < begin + seconds:
        calls()
        done += 1
    return Sample(done * rows_each / (time.perf_counter() - begin))


def network(material: Material):
    """A function that runs onnxruntime in its fastest arrangement here, and how many images it takes each time."""
    onnx_file, preprocessing, taps = bundled("mobilenet_v2")
    maker = Extractor(onnx_file, preprocessing=preprocessing, taps=taps, device="cpu", threads=1)
    tensors = maker.preprocessed([decode(image) for image in material.inputs["32 JPEG"]])
    cores, best = os.cpu_count() or 1, {}
    for threads, side in {(cores, 1), (1, cores)}:
        run, pool = onnxruntime_alone(onnx_file, taps, threads), ThreadPoolExecutor(side)
        for batch in (1, 8, 32):
            groups = [tensors[i : i + batch] for i in range(0, len(tensors), batch)]
            calls = partial(_all, pool, run, groups)
            best[in_process(calls, len(tensors), 1).rate] = calls
    return best[max(best)], len(tensors)


def _all(pool, run, groups):
    list(pool.map(run, groups))


@dataclass(slots=True)
class Run:
    """Servers that answer as the detector does, and what was found; ``troubles`` are of those that do not take part."""

    material: Material
    environment: dict[str, str]  # of the servers
    servers: list[Server] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    figures: dict = field(default_factory=dict)

    def start_all(self, options: argparse.Namespace) -> None:
        for name, workers in ((OURS, 1), (TWO, 2)):
            given = ["--store", self.material.store(f"store{workers}"), "--workers", str(workers), "--no-worker", "--port", "{port}"]
            command = [sys.executable, "-m", "service.cli", "serve", *given]
            self._start(name, __version__, command, PATHS, LIMITS)
        for peer in peers():
            if options.peers is None or peer.name in options.peers:
                try:
                    python = peer.interpreter(options.folder)
                    command = [python, peer.script, "{port}", self.material.folder]
                    self._start(peer.name, peer.version(python), command, peer.paths)
                except Unavailable as error:
                    self._trouble(peer.name, error)

    def _start(self, name: str, version: str, command: list, paths: dict[str, str], settings: dict[str, str] | None = None) -> None:
        _say(f"starting {name} {version}")
        server = start(name, version, command, paths, self.environment | (settings or {}), self.material.folder)
        first = next(iter(paths))
        try:
            server.wait(first, self.made(first, "1 x 512"))
        except Unavailable as error:
            self._trouble(name, error)
        else:
            self.servers.append(server)

    def _trouble(self, name: str, error: Exception) -> None:
        self.troubles.append(f"{name}: {error}")
        _say(self.troubles[-1])

    def made(self, form: str, shape: str):
        return FORMS[form].make(self.material.inputs[shape])

    def measure(self, shape: str, options: argparse.Namespace) -> None:
        """All contestants that have this shape, for every number of connections."""
        calls, limits = {}, self._limits(shape)
        for server in self.servers:
            for form in server.paths:
                if (form == "images") == shape.endswith("JPEG"):
                    self._check(calls, server, form, shape)
        for connections in options.connections:
            chosen = dict(limits)
            for contestant, (size, alone, call) in calls.items():
                if size * connections <= IN_FLIGHT:
                    chosen[contestant] = partial(_turn, call, connections, alone)
            self.figures[shape, connections] = taking_turns(
                chosen, options.rounds, options.seconds, partial(settle, self.environment[MARK])
            )
            _say(f"{shape}, {connections} connections")

    def _check(self, calls: dict, server: Server, form: str, shape: str) -> None:
        """Add a contestant if it answers as the detector does: the size of its body, seconds of one answer, and what measures."""
        headers, body = made = self.made(form, shape)
        path = self.material.folder / f"{form} {shape}"
        path.write_bytes(body)
        try:
            scores, expected = server.scores(form, made), self.material.scores(shape)
            if scores.shape != expected.shape or not np.allclose(scores, expected, rtol=TOLERANCE):
                raise Unavailable(f"answers other scores to {shape} as {form}: {scores[:3]} where {expected[:3]} are right")
        except (Unavailable, httpx2.HTTPError) as error:
            self._trouble(server.name, error)
        else:
            call = partial(load, server.url(form), headers, path)
            calls[server.name, form] = len(body), call(1, 1).p50 / 1000 or math.inf, call

    def _limits(self, shape: str) -> dict:
        inputs = self.material.inputs[shape]
        if isinstance(inputs, np.ndarray):
            kernel = self.material.rows.detector.state_.levels[0].squared
            return {(KERNEL, ""): partial(in_process, partial(kernel, inputs), 1)}
        calls, count = network(self.material)
        return {(NETWORK, ""): partial(in_process, calls, count / len(inputs))}

    def text(self) -> str:
        lines = [*judged(self.figures)]
        for shape in dict.fromkeys(shape for shape, _ in self.figures):
            lines += table(self.figures, shape)
        versions = ", ".join(f"{server.name} {server.version}" for server in self.servers)
        lines += ["", f"Versions: {versions}.", *(f"\nLeft out: {trouble}" for trouble in self.troubles)]
        return "\n".join(lines)


def _turn(call, connections: int, alone: float, seconds: int) -> Sample:
    """A turn that is long enough for every connection to get an answer, within reason."""
    return call(connections, math.ceil(min(max(seconds, alone * connections), LONGEST * seconds)))


def taking_turns(calls: dict, rounds: int, seconds: int, pause: Callable[[], None]) -> dict:
    """Samples of each of ``calls`` by name, with a pause before each; every round has one of each, beginning one place further on."""
    found, names = {name: [] for name in calls}, list(calls)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            pause()
            found[name].append(calls[name](seconds))
    return found


def _machine() -> str:
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?: unknown")
    cores = f"{os.cpu_count()} cores, {model.partition(':')[2].strip()}, Python {platform.python_version()}"
    return f"{datetime.now(UTC):%Y-%m-%d}, {cores}; load when it began {os.getloadavg()[0]:.1f}"


def _say(line: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {line}", file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [peer.name for peer in peers()]
    parser.add_argument("--quick", action="store_true", help="2 rounds of 1 second, with 8 and 64 connections")
    parser.add_argument("--peers", nargs="*", choices=names, metavar="NAME", help=f"of {', '.join(names)}; all by default")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES), metavar="SHAPE", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--connections", nargs="+", type=int, help="1, 8, 16 and 64 by default")
    parser.add_argument("--seconds", type=int, help="of a turn; 4 by default")
    parser.add_argument("--rounds", type=int, help="turns of each; 5 by default")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "farfield-peers"), help="where the peers are installed")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE}")
    options = parser.parse_args()
    usual = (
        {"connections": [8, 64], "seconds": 1, "rounds": 2} if options.quick else {"connections": [1, 8, 16, 64], "seconds": 4, "rounds": 5}
    )
    for name, value in usual.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def main() -> None:
    options = _options()
    begun = _machine()
    with tempfile.TemporaryDirectory(prefix="farfield-serving-") as folder, threadpool_limits(1), running() as environment:
        run = Run(Material.made(Path(folder)), environment)
        run.start_all(options)
        for shape in options.shapes:
            run.measure(shape, options)
    text = f"{begun}, when it ended {os.getloadavg()[0]:.1f}; {options.rounds} rounds of {options.seconds} s.\n\n{run.text()}"
    print(text)
    if options.write:
        PAGE.write_text(pages.written(PAGE.read_text(), SECTION, text))


if __name__ == "__main__":
    main()
