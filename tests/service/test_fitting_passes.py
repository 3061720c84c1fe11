"""Fits that read their data in passes: they give what a fit on all rows gives, where that can be, and say what a sample leaves open."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from detectors import REGISTRY
from models import Level
from service import archive
from service.errors import InvalidInput
from service.fitting import passes
from service.fitting.features import Extraction
from service.fitting.gathering import Plan
from service.manifest import Source
from service.recipe import Recipe
from service.sources import Losses, hashed, open_source
from service.sources.parts import FILE_ROWS
from tests.service.fits import ALPHA, fit, held_of, keys_of, packed, rows, task_of, write_parts
from tests.service.served import NORMAL, pixel_extractor
from tests.service.source_data import images, shard, tar_bytes

COUNT = 3000
NEW = rows(500, seed=2)


@pytest.fixture(scope="module", params=[np.float64, np.float32])
def parts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parts(tmp_path_factory.mktemp("parts") / "data", rows(COUNT).astype(request.param), 9)


def all_rows(folder: Path) -> np.ndarray:
    return np.concatenate([np.load(path) for path in sorted(folder.iterdir())])


@pytest.mark.parametrize("parameters", REGISTRY["gaussian"].VARIANTS, ids=str)
def test_a_gaussian_is_exact(parts: Path, parameters: dict[str, Any]) -> None:
    """In every variant: scores and calibration are those of a fit at once on the rows that are not held out."""
    task = task_of(parts, parameters=parameters, seed=4)
    assert not task.whole
    fitted, data, held = fit(task), all_rows(parts), held_of(task, keys_of(parts))
    exact = REGISTRY["gaussian"](**parameters).fit(data[~held])
    close = 1e-5 if parameters.get("precision") == "float32" else 1e-9
    np.testing.assert_allclose(fitted.judge.scores(NEW), exact.scores(NEW), rtol=close)
    np.testing.assert_allclose(fitted.judge.reference, np.sort(exact.scores(data[held])), rtol=close)
    assert (fitted.n_fit, fitted.n_calibration, fitted.sampled) == (COUNT - held.sum(), held.sum(), None)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    """Rows of three classes in row groups, with a key of text."""
    data, kinds = rows(COUNT), np.random.default_rng(5).choice(["bolt", "nut", "washer"], COUNT)
    columns = {f"x{i}": data[:, i] + 3 * (kinds == "nut") for i in range(4)}
    made = pa.table({**columns, "kind": kinds, "id": [f"row {i}" for i in range(COUNT)]})
    parquet.write_table(made, tmp_path_factory.mktemp("table") / "rows.parquet", row_group_size=400)
    return next(tmp_path_factory.getbasetemp().glob("table*/rows.parquet")), made


@pytest.mark.parametrize("parameters", REGISTRY["class_gaussian"].VARIANTS, ids=str)
@pytest.mark.parametrize("method", ["split-conformal", "class-conditional"])
def test_gaussians_of_classes_are_exact(table: tuple[Path, pa.Table], parameters: dict[str, Any], method: str) -> None:
    """So they are, and rows are held out by the hashes of their keys."""
    path, made = table
    task = task_of(path, "class_gaussian", parameters=parameters, labels="kind", key="id", columns=["x0", "x1", "x2", "x3"], method=method)
    fitted, held = fit(task), held_of(task, made["id"].to_pylist())
    data, kinds = np.column_stack([made[f"x{i}"] for i in range(4)]), np.array(made["kind"])
    exact = REGISTRY["class_gaussian"](**parameters).fit(data[~held], kinds[~held])
    close = 1e-5 if parameters.get("precision") == "float32" else 1e-9
    np.testing.assert_allclose(fitted.judge.scores(NEW), exact.scores(NEW), rtol=close)
    np.testing.assert_allclose(fitted.judge.reference, np.sort(exact.scores(data[held])), rtol=close)
    assert fitted.feature_names == ["x0", "x1", "x2", "x3"]


def test_rows_are_held_out_by_key_wherever_they_are(tmp_path: Path) -> None:
    """The same rows in another order, in other files and another form, with the same keys: the same are held out."""
    data, ids = rows(COUNT), np.arange(COUNT)
    order = np.random.default_rng(0).permutation(COUNT)
    kept = []
    for name, chosen in (("a.parquet", ids), ("b.parquet", order)):
        columns = {f"x{i}": data[chosen, i] for i in range(4)}
        parquet.write_table(pa.table({**columns, "id": ids[chosen]}), tmp_path / name, row_group_size=700)
        kept.append(fit(task_of(tmp_path / name, key="id")).judge.reference)
    np.testing.assert_allclose(kept[0], kept[1], rtol=1e-9)


def test_whole_fits_hold_out_by_key_too(tmp_path: Path) -> None:
    """Exactly the share asked for, the rows of the smallest hashes, in whatever order they come."""
    data, ids = rows(400), np.arange(400)
    chosen = np.argsort(hashed(ids, 0))
    expected = REGISTRY["gaussian"]().fit(data[np.sort(chosen[80:])]).scores(data[chosen[:80]])
    for name, order in (("a.parquet", ids), ("b.parquet", np.random.default_rng(0).permutation(400))):
        columns = {f"x{i}": data[order, i] for i in range(4)}
        parquet.write_table(pa.table({**columns, "id": ids[order]}), tmp_path / name, row_group_size=70)
        found = fit(task_of(tmp_path / name, key="id", memory=2**30)).judge.reference
        np.testing.assert_allclose(found, np.sort(expected), rtol=1e-9)


def test_p_values_are_uniform(parts: Path) -> None:
    """Of new normal rows, the share at or under alpha is alpha, within 4.5 standard deviations of calibration and count."""
    fitted = fit(task_of(parts, calibrate=0.3, memory=60_000))
    new = rows(20_000, seed=9)
    found = fitted.judge.judge(new, ALPHA).p_values
    for alpha in (0.02, 0.05, 0.2, 0.5):
        deviation = np.sqrt(alpha * (1 - alpha) * (1 / fitted.n_calibration + 1 / len(new)))
        assert abs((found <= alpha).mean() - alpha) < 4.5 * deviation + 1 / fitted.n_calibration


SAMPLED = {"knn": {}, "weighting": {}, "robust_shrinkage": {}, "signature": {"channels": 2}}


@pytest.mark.parametrize("kind", SAMPLED)
def test_other_types_learn_a_sample_and_say_so(parts: Path, kind: str) -> None:
    """The rows with the smallest hashes; the manifest has their number, of how many, and the error of a rank."""
    task = task_of(parts, kind, parameters=SAMPLED[kind])
    fitted, data, keys = fit(task), all_rows(parts), keys_of(parts)
    held, hashes = held_of(task, keys), hashed(keys, 0)
    drawn = np.flatnonzero(~held)[np.argsort(hashes[~held])[: task.plan().most_sampled]]
    np.testing.assert_array_equal(fitted.judge.scores(NEW), REGISTRY[kind](**SAMPLED[kind]).fit(data[drawn]).scores(NEW))
    sample = archive.pack(fitted, "any", Source(name="x", rows=1, sha256=""))[0].sample
    assert sample is not None
    assert (sample.rows, sample.of) == (len(drawn), (~held).sum())
    assert sample.rank_error == pytest.approx(np.sqrt(np.log(40) / (2 * len(drawn))))


def test_a_sample_that_holds_all_is_exact(parts: Path) -> None:
    """Two types, one of sums and one of a sample: both as fitted at once, and no error is stated."""
    task = task_of(parts, "gaussian+knn")
    plan = Plan.of(task.recipe, task.levels, COUNT, 10**8, None, 1)
    with Extraction(None, 1, 1) as extraction:
        fitted = passes.fit(task.source, plan, extraction, Losses(), passes.Nowhere(), lambda *_: None)
    data, held = all_rows(parts), hashed(keys_of(parts), 0) < plan.share * 2**64
    for detector, kind in zip(fitted.judge.detectors, ("gaussian", "knn"), strict=True):
        np.testing.assert_allclose(detector.scores(NEW), REGISTRY[kind]().fit(data[~held]).scores(NEW), rtol=1e-6)
    assert fitted.sampled is not None
    assert (fitted.sampled.rows, fitted.sampled.rank_error) == (fitted.n_fit, 0)


@pytest.mark.parametrize("parameters", [{}, {"reduce": "pca"}], ids=str)
def test_the_number_of_threads_changes_nothing(monkeypatch: pytest.MonkeyPatch, parts: Path, parameters: dict[str, Any]) -> None:
    """Of chunks that several threads sum the sums are joined in order: equal to the last bit, in one pass and in two."""
    monkeypatch.setattr(passes, "CHUNK_BYTES", 2**11)
    task = task_of(parts, parameters=parameters)

    def packed_by(threads: int) -> bytes:
        with Extraction(None, 1, 1) as extraction:
            fitted = passes.fit(task.source, task.plan(), extraction, Losses(), passes.Nowhere(), lambda *_: None, threads=threads)
        return b"".join(archive.pack(fitted, "any", Source(name="x", rows=COUNT, sha256=""))[1].values())

    assert packed_by(1) == packed_by(2) == packed_by(5)


def test_wide_rows_are_summed_by_fewer_threads() -> None:
    """So that the sums of all threads together take a stated memory at most, but for one thread."""
    found = {}
    for width in (4, 512, 2048, 10_000):
        plan = Plan.of(Recipe(), (Level("features", width),), COUNT, 10**8, None, 1)
        found[width] = passes.summing_threads(plan, 8)
        assert found[width] == 1 or found[width] * passes.SUMS_MATRICES * 8 * width**2 <= passes.SUMS_BYTES
    assert found == {4: 8, 512: 8, 2048: 2, 10_000: 1}


def test_rows_that_are_not_counted(tmp_path: Path) -> None:
    """CSV does not tell how many it has: the share held out is that of the recipe, and a sample of them is kept."""
    data = rows(COUNT)
    np.savetxt(tmp_path / "x.csv", data, delimiter=",", header="a,b,c,d", comments="", fmt="%.17g")
    task = task_of(tmp_path / "x.csv")
    assert task.source.rows is None
    fitted, held = fit(task), held_of(task, np.arange(COUNT))
    exact = REGISTRY["gaussian"]().fit(data[~held])
    np.testing.assert_allclose(fitted.judge.scores(NEW), exact.scores(NEW), rtol=1e-9)
    assert fitted.n_calibration == min(held.sum(), task.plan().most_held)
    assert fitted.reserve is not None
    assert fitted.reserve.untold == held.sum() - fitted.n_calibration


def test_a_version_of_passes_loads_and_updates_like_any(parts: Path) -> None:
    """Packed and unpacked again it gives the same scores, and its golden rows are right."""
    task = task_of(parts)
    fitted = fit(task)
    manifest, blobs = archive.pack(fitted, "any", Source(name="x", rows=COUNT, sha256=""))
    again = archive.unpack(manifest, blobs.__getitem__, statistics=True)
    again.check("any", 1)
    np.testing.assert_array_equal(again.judge.scores(NEW), fitted.judge.scores(NEW))
    assert again.detector.learned().levels[0].count == fitted.n_fit
    assert archive.reserve(manifest, blobs.__getitem__) is not None


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures") / "images"
    images(folder, 90)
    for place in ("0/030.png", "2/050.png"):
        (folder / place).write_bytes(NORMAL[0].read_bytes()[:-400])
    (folder / "1" / "040.png").write_bytes(b"no image")
    return folder


def test_images_that_cannot_be_decoded(pictures: Path) -> None:
    """The first is named; with ``skip`` they are left out and named, up to the limit; the rest are fitted on as if they were not there."""
    with pytest.raises(InvalidInput, match=r"^0/030\.png: not an image"):
        fit(task_of(pictures, extractor=pixel_extractor()))
    with pytest.raises(InvalidInput, match=r"more than limit=2 pieces.*2/050\.png"):
        fit(task_of(pictures, extractor=pixel_extractor(), losses=Losses("skip", 2)))
    task = task_of(pictures, extractor=pixel_extractor(), losses=Losses("skip", 3), alpha=0.2)
    fitted = fit(task)
    assert sorted(loss.name for loss in task.losses.lost) == ["0/030.png", "1/040.png", "2/050.png"]
    kept = [key for key in next(iter(task.source.walk(losses=Losses("skip")))).keys if key not in {x.name for x in task.losses.lost}]
    held, features = held_of(task, kept), features_of([pictures / key for key in kept])
    exact = REGISTRY["gaussian"]().fit(features[~held])
    np.testing.assert_allclose(fitted.judge.reference, np.sort(exact.scores(features[held])), rtol=1e-6)
    assert len(fitted.golden.inputs) == 4
    archived = packed(task, fitted)[0]
    assert archived["source"]["lost"] == 3


def test_images_of_one_name_are_lost_one_by_one(tmp_path: Path) -> None:
    """Of two folders, where they cannot be decoded; each is named, and counts against the limit."""
    for folder in "ab":
        images(tmp_path / folder, 30)
        (tmp_path / folder / "0" / "003.png").write_bytes(b"no image")
    task = task_of([f"{tmp_path}/{folder}" for folder in "ab"], extractor=pixel_extractor(), losses=Losses("skip", 2), alpha=0.2)
    assert packed(task, fit(task))[0]["source"]["lost"] == 2
    assert [loss.name for loss in task.losses.lost] == ["a/0/003.png", "b/0/003.png"]


def features_of(paths: Sequence[Path]) -> np.ndarray:
    with Extraction(pixel_extractor(), 10**7, 1) as extraction:
        return np.concatenate([extraction(chunk, Losses())[1] for chunk in open_source([str(path) for path in paths]).walk()])


def test_features_do_not_depend_on_threads(pictures: Path) -> None:
    """Of the bundled network, to the last bit."""
    from service.fitting.arguments import extractor_of
    from service.settings import Settings

    extractor = extractor_of(Settings(device="cpu"), True, None, None, None, None, 1)
    chunk = next(iter(open_source(pictures, losses=Losses("skip")).walk()))
    found = []
    for threads in (1, 3):
        with Extraction(extractor, 10**7, threads) as extraction:
            found.append(extraction(chunk, Losses("skip"))[1])
    assert found[0].shape == (87, extractor.width)  # type: ignore[union-attr]
    np.testing.assert_array_equal(*found)


def test_a_shard_of_which_nothing_is_left(tmp_path: Path) -> None:
    """Though it is the first one; and data of which nothing at all is left are refused in a sentence."""
    broken = {f"s/{i:03}.png": b"no image" for i in range(3)}
    (tmp_path / "0.tar").write_bytes(tar_bytes(broken))
    (tmp_path / "1.tar").write_bytes(tar_bytes(shard(3, 60)))
    task = task_of(str(tmp_path / "*.tar"), extractor=pixel_extractor(), losses=Losses("skip"), alpha=0.2, memory=200_000)
    assert not task.whole
    fitted = fit(task)
    assert (fitted.n_fit + fitted.n_calibration, len(task.losses.lost)) == (60, 3)
    with pytest.raises(InvalidInput, match="0 of the rows are left to fit on"):
        fit(task_of(tmp_path / "0.tar", extractor=pixel_extractor(), losses=Losses("skip"), memory=1))


@pytest.mark.parametrize("cluster", [None, "local:1"])
def test_data_that_change_between_two_passes(tmp_path: Path, cluster: str | None) -> None:
    """A file that is gone when the rows are looked at again, with ``skip``: nothing is fitted on two different sets of rows."""
    folder = write_parts(tmp_path / "data", rows(COUNT), 9)

    def progress(phase: str, done: int, total: int) -> None:
        if (phase, done) == ("second look", 0):
            max(folder.iterdir()).unlink()

    task = task_of(folder, parameters={"reduce": "pca"}, losses=Losses("skip"), cluster=cluster)
    with pytest.raises(InvalidInput, match=r"changed while they were read twice: \d+ rows .* in the first pass and \d+ in the second"):
        fit(task, progress=progress)


def test_a_row_that_is_refused_is_found(tmp_path: Path) -> None:
    """By its file and its number there, whatever part and chunk it is in, and whichever rows before it are held out."""
    folder = write_parts(tmp_path / "data", rows(COUNT), 7)
    lengths = [len(np.load(path)) for path in sorted(folder.iterdir())]
    file, row = int(np.argmax(lengths)), 100
    task = task_of(folder, parameters={"normalize": True})
    while held_of(task, np.array([file * FILE_ROWS + row]))[0]:
        row += 1
    block = np.load(folder / f"{file:05}.npy")
    block[row] = 0
    np.save(folder / f"{file:05}.npy", block)
    with pytest.raises(InvalidInput, match=rf"^not to be learned: row {row} of {folder}/{file:05}\.npy has length zero"):
        fit(task_of(folder, parameters={"normalize": True}))


def test_rows_refused_together_are_told_by_their_file(tmp_path: Path) -> None:
    """Of a table, in the numbers of its file and not of the row group."""
    data = rows(COUNT)
    data[2500:] *= 1e200
    table = pa.table(dict(zip("abcd", data.T, strict=True)))
    parquet.write_table(table, tmp_path / "x.parquet", row_group_size=1000)
    with pytest.raises(InvalidInput, match=rf"^not to be learned: rows 2000 to 2999 of {tmp_path}/x\.parquet: values up to "):
        fit(task_of(tmp_path / "x.parquet"))
