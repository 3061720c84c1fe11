"""A fit killed at any moment goes on where it was, on another machine too, and gives the same version bit for bit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.fitting import checkpoint, passes
from service.fitting.checkpoint import Checkpoint, Checkpoints
from service.fitting.task import Task
from service.jobs import work
from service.jobs.schemas import FitOptions
from service.settings import Settings
from service.sources import Losses
from service.store import Store
from tests.service.fits import fit, packed, rows, task_of, write_parts
from tests.service.samples import read_whole
from tests.service.served import pixel_extractor
from tests.service.source_data import WRITERS, images, shard, tar_bytes
from tests.service.stores import KINDS

ROOT = Path(__file__).parents[2]
COUNT, WIDTH = 9000, 16  # more than 1 MiB
NEVER = 10**9


class Fitter:
    """The process that fits and is killed, again and again."""

    url = ""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.service.killed_fitter"]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def fit(self, name: str, data: Path, options: dict[str, Any], moment: int = NEVER) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(
            json.dumps({"url": self.url, "name": name, "data": str(data), "options": options, "moment": moment}) + "\n"
        )
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def close(self) -> None:
        with self.process:
            self.process.kill()


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The data on two machines: 15 files, two of which hold a NaN."""
    data = rows(COUNT, WIDTH)
    data[[2000, 7000], 3] = np.nan
    folder = tmp_path_factory.mktemp("machines")
    first = write_parts(folder / "first", data, 15)
    return [first, Path(shutil.copytree(first, folder / "second" / "elsewhere"))]


@pytest.fixture(scope="module", params=["embedded", "tls"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    started = KINDS[request.param](tmp_path_factory.mktemp("kill") / "server")
    yield started
    started.close()


@pytest.fixture(scope="module")
def process() -> Iterator[Fitter]:
    started = Fitter()
    yield started
    started.close()


@pytest.fixture
def fitter(process: Fitter, server: Any) -> Fitter:
    process.url = server.url
    return process


COMMON = {"alpha": 0.1, "calibrate": 0.05, "on_error": "skip", "most_losses": 2}
FITS = {
    "one pass": {"type": "gaussian+knn", **COMMON},
    "two passes": {"parameters": {"reduce": "pca", "kept_variance": 0.9}, **COMMON},
}


@pytest.mark.parametrize("options", FITS.values(), ids=FITS)
def test_a_killed_fit_gives_the_same_version(fitter: Fitter, server: Any, name: str, copies: list[Path], options: dict[str, Any]) -> None:
    """Killed at random moments, on two machines in turn, until it ends: blobs and manifest are those of a fit that nothing disturbed."""
    undisturbed = fitter.fit(f"{name}-0", copies[0], options)
    assert undisturbed == {"ended": "finished", "phase": "read", "rows": 0}
    random, attempts = np.random.default_rng(len(options)), []
    while not attempts or attempts[-1]["ended"] != "finished":
        attempts.append(fitter.fit(name, copies[len(attempts) % 2], options, int(random.integers(20, 100))))
        assert attempts[-1]["ended"] != "failed"
        assert len(attempts) < 40
    begun = [(attempt["phase"] == "second look", attempt["rows"]) for attempt in attempts if attempt["phase"] != "none"]
    assert len(begun) > 3
    assert begun == sorted(begun), "each goes on where the last one was, or beyond"
    assert begun[-1] > (False, COUNT // 3)
    if "parameters" in options:
        assert begun[-1][0], "the second pass was interrupted too"
    with Store.open(server.url) as store, server.client() as raw:
        (one,), (other,) = store.numbers(name), store.numbers(f"{name}-0")
        assert read_whole(store, name, one) == read_whole(store, f"{name}-0", other)
        made, expected = (
            store.manifest(*version).model_dump(exclude={"created", "detector"}) for version in ((name, one), (f"{name}-0", other))
        )
        assert made == expected
        assert made["source"]["lost"] == 2
        assert not list(raw.scan_iter(match=f"farfield:{{{name}-0}}:checkpoint:*", count=10_000))
        left = list(raw.scan_iter(match=f"farfield:{{{name}}}:checkpoint:*", count=10_000))
        assert all(raw.ttl(key) > 0 for key in left), "what a killed fit leaves expires"


def test_a_damaged_checkpoint_is_none(fitter: Fitter, server: Any, name: str, copies: list[Path]) -> None:
    """A chunk that is changed, cut or gone: the fit begins from zero, and gives what it should."""
    options = FITS["one pass"]
    fitter.fit(f"{name}-0", copies[0], options)
    with Store.open(server.url) as store, server.client() as raw:
        for damage in ("changed", "cut", "gone"):
            assert fitter.fit(name, copies[0], options, 60)["ended"] == "killed"
            for key in raw.scan_iter(match=f"farfield:{{{name}}}:checkpoint:*:*:0", count=10_000):
                data = raw.get(key)
                raw.set(key, {"changed": data[:-1] + bytes([data[-1] ^ 1]), "cut": data[:-9], "gone": data}[damage])
                if damage == "gone":
                    raw.delete(key)
        again = fitter.fit(name, copies[0], options)
        assert again == {"ended": "finished", "phase": "read", "rows": 0}
        assert read_whole(store, name, 1) == read_whole(store, f"{name}-0", 1)


def test_checkpoints_of_other_fits_are_not_taken(fitter: Fitter, server: Any, name: str, copies: list[Path]) -> None:
    """Another seed, or data that have changed: from zero; the same again: from where it was."""
    options = FITS["one pass"]
    assert fitter.fit(name, copies[0], options, 60)["ended"] == "killed"
    assert fitter.fit(name, copies[0], {**options, "seed": 1}, 20) == {"ended": "killed", "phase": "read", "rows": 0}
    assert fitter.fit(name, copies[0], options, 20)["rows"] > 0


def test_a_fit_killed_after_it_has_published(server: Any, name: str, copies: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves its checkpoint. The job that is taken over publishes nothing twice; the same fit asked for anew gives the same version."""
    settings = Settings(store=server.url, fit_memory=1, checkpoint_seconds=1e-9, data_roots=[str(copies[0])])
    options = FitOptions(data=str(copies[0]), **FITS["one pass"])
    begun: list[int] = []

    def die(_: Checkpoints) -> None:
        raise KeyboardInterrupt

    def fit(store: Store, job: str) -> int:
        begun.clear()
        version: int = work.fit(store, settings, job, name, options, lambda phase, done, total: begun.append(done))["version"]
        return version

    with Store.open(server.url) as store, server.client() as raw:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Checkpoints, "drop", die)
            fit(store, "one")
        left = list(raw.scan_iter(match=f"farfield:{{{name}}}:checkpoint:*", count=10_000))
        assert left
        assert all(0 < raw.ttl(key) <= 7 * 86_400 for key in left)
        assert (fit(store, "one"), begun) == (1, [])
        assert store.numbers(name) == [1]
        assert fit(store, "two") == 2
        assert begun[0] > 0, "it goes on from the checkpoint"
        assert read_whole(store, name, 1) == read_whole(store, name, 2)
        assert not list(raw.scan_iter(match=f"farfield:{{{name}}}:checkpoint:*", count=10_000))


def test_what_was_lost_before_a_checkpoint_is_remembered(embedded_store: Store, tmp_path: Path, name: str) -> None:
    """Though a file of the same name in another folder is still to come, which is lost too."""
    data = rows(COUNT)
    for folder in "ab":
        write_parts(tmp_path / folder, data, 4)
        np.save(tmp_path / folder / "00000.npy", np.full((10, 4), np.nan))
    seen: list[int] = []

    def fitted(stop: float) -> list[str]:
        task = task_of([f"{tmp_path}/{folder}" for folder in "ab"], losses=Losses("skip"))
        kept = Checkpoints(embedded_store.connection, name, task.identity(), 0)

        def progress(phase: str, done: int, total: int) -> None:
            seen.append(done)
            if done > stop:
                raise KeyboardInterrupt

        fit(task, kept, progress)
        return [loss.name for loss in task.losses.lost]

    with pytest.raises(KeyboardInterrupt):
        fitted(stop=0)
    seen.clear()
    assert fitted(stop=np.inf) == ["a/00000.npy", "b/00000.npy"]
    assert seen[0] > 0, "it goes on from the checkpoint"


def pictures(folder: Path) -> None:
    """In folders, two of them no images."""
    images(folder, 60)
    for number in (9, 40):
        (folder / f"{number % 3}" / f"{number:03}.png").write_bytes(b"no image")


def shards(folder: Path) -> None:
    """Three of them, with one image that is none in each, of the same name."""
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.tar").write_bytes(tar_bytes(shard(0, 20) | {"s/007.png": b"no image"}))


@pytest.mark.parametrize(
    ("name_of_data", "write", "lost"),
    [*((form, WRITERS[form], 0) for form in WRITERS), ("pictures", pictures, 2), ("shards", shards, 3)],
    ids=[*WRITERS, "pictures", "shards"],
)
def test_every_form_goes_on_where_it_was(
    embedded_store: Store,
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    name_of_data: str,
    write: Callable[[Path], object],
    lost: int,
) -> None:
    """Interrupted after each two chunks, of an extractor's features too: the same version bit for bit, and the same losses."""
    monkeypatch.setattr(passes, "CHUNK_BYTES", 8 * 3 * 9)
    monkeypatch.setattr(passes, "IMAGES", 7)
    monkeypatch.setattr(checkpoint, "SHARE_OF_TIME", 1e9)
    write(tmp_path / name_of_data)

    def task() -> Task:
        extractor = pixel_extractor() if lost else None
        return task_of(tmp_path / name_of_data, extractor=extractor, losses=Losses("skip"), memory=2000, alpha=0.2, calibrate=0.3, seed=5)

    def interrupted(kept: Any) -> tuple[dict[str, Any], dict[str, bytes], list[str]] | None:
        chunks = 0

        def progress(phase: str, done: int, total: int) -> None:
            nonlocal chunks
            chunks += 1
            if chunks > 3:
                raise KeyboardInterrupt

        asked = task()
        assert not asked.whole
        try:
            fitted = fit(asked, kept, progress if kept else lambda *_: None)
        except KeyboardInterrupt:
            return None
        return (*packed(asked, fitted), sorted(loss.name for loss in asked.losses.lost))

    attempts: list[Any] = [None]
    while attempts[-1] is None:
        attempts.append(interrupted(Checkpoints(embedded_store.connection, name, task().identity(), 1e-9)))
        assert len(attempts) < 40
    assert len(attempts) > 4
    assert attempts[-1] == (undisturbed := interrupted(None))
    assert undisturbed is not None and len(undisturbed[-1]) == lost


def test_checkpoints_in_a_store_that_is_away_or_full(tmp_path: Path, name: str) -> None:
    """The fit goes on without them; the last one stays whole, and its chunks replace those before it."""
    server = KINDS["redis"](tmp_path / "server")
    try:
        with Store.open(server.url, timeout=0.2) as store, server.client() as raw:
            kept = Checkpoints(store.connection, name, {"fit": 1}, 0.001)
            assert kept.load() is None
            kept.save(Checkpoint({"position": 1}, {"rows": np.arange(2_000_000.0), "empty": np.empty((0, 3)), "one": np.array(1.5)}))
            kept.save(Checkpoint({"position": 2}, {"rows": np.arange(1_000_000.0)}))
            assert len(raw.keys()) == 1 + 2
            raw.config_set("maxmemory", "1mb")
            kept.save(Checkpoint({"position": 3}, {"rows": np.arange(3.0)}))
            raw.config_set("maxmemory", "0")
            found = Checkpoints(store.connection, name, {"fit": 1}, 1).load()
            assert found is not None
            assert found.progress == {"position": 2}
            np.testing.assert_array_equal(found.arrays["rows"], np.arange(1_000_000.0))
            assert Checkpoints(store.connection, name, {"fit": 2}, 1).load() is None
            server.freeze()
            kept.save(Checkpoint({"position": 4}, {"rows": np.arange(3.0)}))
            kept.drop()
            server.thaw()
            kept.drop()
            assert raw.keys() == []
    finally:
        server.close()
