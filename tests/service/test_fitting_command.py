"""``farfield fit`` with a file of options, as a dry run, in passes and on a cluster; and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from service.cli import app
from service.fitting.commands import FitConfig
from service.store import Store
from tests.service.fits import rows, write_parts
from tests.service.served import NORMAL, network
from tests.service.source_data import tar_bytes
from tests.service.test_cli import Shell
from tests.service.test_source_s3 import bucket

__all__ = ["bucket"]  # a fixture
PAGE = (Path(__file__).parents[2] / "docs" / "fitting.md").read_text()
EXAMPLE = re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[0]
COUNT = 50_000  # more than 1 MiB


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A folder with rows in two tables, and in many files, more than 1 MiB of each."""
    folder = tmp_path_factory.mktemp("fits")
    data = rows(COUNT, 3)
    for number, part in enumerate(np.array_split(np.arange(COUNT), 2)):
        columns: dict[str, Any] = dict(zip(("flow", "heat", "load"), data[part].T, strict=True))
        table = pa.table({**columns, "id": part, "kind": np.array(["a", "b"])[part % 2]})
        parquet.write_table(table, folder / f"rows-{number}.parquet", row_group_size=9000)
    write_parts(folder / "parts", data, 20)
    np.save(folder / "few.npy", data[:300])
    with Store.open(f"embedded:{folder / 'farfield-data'}"):
        yield Shell(folder)


def refused(shell: Shell, line: str, code: int = 1) -> str:
    """What is said on standard error, in one line unless it is wrong usage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(shell.folder)
        done = CliRunner().invoke(app, line.split())
    assert done.exit_code == code, (line, done.output, done.exception)
    assert done.stdout == ""
    said = " ".join(re.sub("[│╭╮╰╯─]", " ", done.stderr).split()) if code == 2 else done.stderr
    assert code == 2 or said.splitlines()[-1].startswith("error: "), said
    return said


def test_the_file_of_the_documents_is_fitted(shell: Shell) -> None:
    """As it stands there; what is given beside it wins."""
    (shell.folder / "fit.toml").write_text(EXAMPLE)
    assert re.match(r"pumps version 1: gaussian on \d+ rows x 3 features, .*, alias champion\n", shell.quick("fit --config fit.toml"))
    assert ", alias champion (before at 1)\n" in shell.quick("fit --config fit.toml --seed 8")
    shell.quick("fit valves --config fit.toml --seed 9 --alias trial --column heat --column flow --param covariance=empirical")
    (one, _), (other,) = shell.json("versions pumps --json"), shell.json("versions valves --json")
    assert (one["type"], one["parameters"]["covariance"], one["seed"], one["alpha"]) == ("gaussian", "oas", 7, 0.05)
    assert one["feature_names"] == ["flow", "heat", "load"]
    assert (one["source"]["of"], one["source"]["lost"], one["sample"]) == ("files", 0, None)
    assert (other["seed"], other["feature_names"], other["parameters"]["covariance"]) == (9, ["heat", "flow"], "empirical")
    assert (one["aliases"], other["aliases"]) == ([], ["trial"])


def test_every_option_can_stand_in_the_file(shell: Shell) -> None:
    """All names are in the documents, and all that the command line has; those that go together are taken together."""
    assert set(FitConfig.model_fields) <= set(re.findall(r"`(\w+)`", PAGE)) | set(re.findall(r"^\[?(\w+)", EXAMPLE, re.MULTILINE))
    (shell.folder / "net.onnx").write_bytes(network())
    (shell.folder / "images").mkdir()
    for path in NORMAL[:40]:
        (shell.folder / "images" / path.name).write_bytes(path.read_bytes())
    store = f"embedded:{shell.folder / 'farfield-data'}"
    (shell.folder / "rows.toml").write_text(
        f'name = "classes"\ndata = "rows-*.parquet"\ntype = "class_gaussian"\ncolumns = ["flow", "load"]\nkey = "id"\n'
        f'classes = "kind"\non_error = "fail"\nmost_losses = 0\nmethod = "class-conditional"\ntrim = 0.0\ncalibrate = 0.1\nalpha = 0.1\n'
        f'seed = 3\nalias = "champion"\nmemory = 1\nstore = "{store}"\nparameters = {{ covariance = "oas" }}\n'
    )
    assert "class_gaussian on " in shell.quick("fit --config rows.toml")
    (shell.folder / "images.toml").write_text(
        'name = "pictures"\ndata = ["images"]\nextractor = "net.onnx"\npixels = "0..255"\ntaps = ["features"]\nsum_levels = true\n'
        "alpha = 0.2\ncalibrate = 0.4\n"
    )
    assert "pictures version 1: gaussian on 24 rows x 192 features" in shell.quick("fit --config images.toml")
    (shell.folder / "folds.toml").write_text('name = "folds"\ndata = "few.npy"\nmethod = "cross-conformal"\nfolds = 3\nalpha = 0.1\n')
    assert "cross-conformal calibration" in shell.quick("fit --config folds.toml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("alhpa = 0.1", "bad.toml: alhpa: "),
        ('alpha = "much"', "bad.toml: alpha: "),
        ("alpha = 2", "bad.toml: alpha: "),
        ("data = 3", "bad.toml: data: "),
        ("memory = 0", "bad.toml: memory: "),
        ('on_error = "maybe"', "bad.toml: on_error: "),
        ("classes = [0, 1]", "bad.toml: classes: beside data"),
        ("alpha = ", "bad.toml is not TOML: "),
        ('type = "guess"', "there is no detector type 'guess'"),
        ('alpha = 0.1\nparameters = {covariance = "guess"}', "covariance"),
        ('cluster = "local:0"', "local:N for N processes here"),
        ('method = "cross-conformal"\nmemory = 1\ndata = "parts"', "needs all rows in the memory of one process"),
        ('columns = ["flow"]', "few.npy has no named columns"),
        ('data = ["parts", "wide.npy"]', "differ in shape of a row: (2,) and (3,)"),
        ('data = ["few.npy", "single.npy"]', "differ in type of the numbers: float32 and float64"),
        ('data = "empty.npy"', "empty.npy: holds no rows"),
        ('data = "nan.npy"', "nan.npy holds nan in row 0, column 0; finite numbers are needed"),
        ('data = "nan.npy"\non_error = "skip"', "nan.npy holds no rows"),
        ('data = "nope.npy"', "nope.npy does not exist"),
        ('data = "upload:0f0e0d0c0b0a09080706050403020100"', "does not exist"),
    ],
)
def test_what_is_wrong_is_named(shell: Shell, text: str, says: str) -> None:
    """In one line, with exit code 1, and nothing is published."""
    np.save(shell.folder / "wide.npy", rows(20, 2))
    np.save(shell.folder / "single.npy", rows(20, 3).astype(np.float32))
    np.save(shell.folder / "empty.npy", np.empty((0, 3)))
    np.save(shell.folder / "nan.npy", np.full((50, 3), np.nan))
    given = text if "data" in text else f'{text}\ndata = "few.npy"'
    (shell.folder / "bad.toml").write_text(f'name = "bad"\n{given}\n')
    assert says in refused(shell, "fit --config bad.toml")
    assert "bad" not in {found["name"] for found in shell.json("detectors --json")}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("fit", "NAME"),
        ("fit bad", "--data"),
        ("fit bad --data few.npy --memory 0", "--memory"),
        ("fit bad --data few.npy --on-error maybe", "--on-error"),
        ("fit bad --data few.npy --most-losses -1", "--most-losses"),
        ("fit bad --data few.npy --folds 3", "--folds"),
        ("fit bad --data few.npy --alpha 3", "--alpha"),
    ],
)
def test_wrong_usage(shell: Shell, line: str, says: str) -> None:
    """Names the option, with exit code 2."""
    assert says in refused(shell, line, 2)


def test_a_dry_run_tells_the_way(shell: Shell) -> None:
    """Whole, in one pass or two, with a sample, on a cluster: it says so, and publishes nothing, nor starts a cluster."""
    whole = shell.quick("fit dry --data few.npy --alpha 0.05 --dry-run")
    assert "gaussian, split-conformal calibration, alpha 0.05, 3 features\nall rows are held in memory at once" in whole
    assert whole.endswith("\ntime: under 1 s on one core to go through the rows, by the first 300 of them\n")
    one = shell.quick("fit dry --data parts --memory 1 --dry-run")
    assert re.search(r"read in one pass of 20 parts, in this process\nheld out: 20.00% of the rows, about 10000\n", one)
    assert "gaussian learns sums over all others\nmemory: about " in one
    assert re.search(r"time: (under|about) \d+ s on one core to go through the rows, by the first \d+ of them\n$", one)
    two = shell.quick("fit dry --data parts --memory 1 --dry-run --param reduce=pca --cluster local:2")
    assert "read in two passes of 20 parts, on the cluster local:2" in two
    both = shell.quick("fit dry --data parts --memory 1 --dry-run --type gaussian+knn")
    assert "gaussian learns sums over all others\nknn learns a sample of at most 14563 others\n" in both
    assert both.endswith("of them\ntime of fitting knn after that: not known, since it does not grow evenly with the rows\n")
    np.save(shell.folder / "wide.npy", rows(60, 1500))
    np.save(shell.folder / "nan.npy", np.full((300, 3), np.nan))
    assert "\nat the end up to 103 MiB of matrices of 1500 x 1500\n" in shell.quick("fit dry --data wide.npy --alpha 0.1 --dry-run")
    assert "no row can be read; nan.npy holds nan in row 0" in refused(shell, "fit dry --data nan.npy --dry-run")
    folds = shell.quick("fit dry --data few.npy --alpha 0.05 --calibration cross-conformal --dry-run")
    assert folds.endswith(
        "by the first 300 of them\ntime of fitting gaussian after that: not known, since it does not grow evenly with the rows\n"
    )
    assert "dry" not in {found["name"] for found in shell.json("detectors --json")}


def test_a_dry_run_looks_at_more_than_a_small_first_file(shell: Shell) -> None:
    """At as many rows as a chunk has, past what is left out; and it tells of sums where all that it looks at would be held out."""
    folder = shell.folder / "uneven"
    folder.mkdir()
    for number, part in enumerate(np.split(rows(COUNT, 3), [1, 2])):
        np.save(folder / f"{number}.npy", part)
    (folder / "0-broken.npy").write_bytes((folder / "0.npy").read_bytes()[:-8] + np.array(np.nan).tobytes())
    look = "fit dry --data uneven --memory 1 --dry-run --on-error skip --param reduce=pca"
    said = shell.quick(look)
    assert "read in two passes of 4 parts" in said
    assert said.endswith(f"by the first {COUNT} of them\n")
    said = shell.quick("fit dry --data uneven/0.npy --cluster local:2 --calibrate 0.999 --param reduce=pca --dry-run")
    assert "read in two passes of 1 parts" in said
    assert "more than limit=0 pieces" in refused(shell, f"{look} --most-losses 0")


def test_a_dry_run_guesses_rows_that_are_not_counted(shell: Shell) -> None:
    """By the size of the files, whether memory would hold them or not; it says so where it cannot."""
    (shell.folder / "rows.csv").write_bytes(b"a,b\n" + b"1.25,-3.5\n2.5,1\n" * 40_000)
    for memory in ("1", "256"):
        said = shell.quick(f"fit dry --data rows.csv --memory {memory} --dry-run")
        assert said.endswith("of them; about 80000 rows in all, by the size of the files\n")
    (shell.folder / "shard.tar").write_bytes(tar_bytes({f"{path.name}": path.read_bytes() for path in NORMAL[:20]}))
    assert "; about 20 rows in all" in shell.quick("fit dry --data shard.tar --alpha 0.3 --dry-run")
    (shell.folder / "none.tar").write_bytes(tar_bytes({"a.png": b""}))
    assert "no row can be read" in refused(shell, "fit dry --data none.tar --alpha 0.3 --on-error skip --dry-run")


def test_what_is_left_out_is_told(shell: Shell) -> None:
    """Under ``skip`` by name, up to the limit; and a sample by its size."""
    folder = write_parts(shell.folder / "damaged", rows(COUNT, 3), 6)
    (folder / "00002.npy").write_bytes(b"\x93NUMPY nothing")
    assert "00002.npy" in refused(shell, "fit lossy --data damaged --memory 1")
    done = shell.run("fit lossy --data damaged --memory 1 --on-error skip --most-losses 1 --type knn --alpha 0.05")
    assert re.search(r"^left out: .*00002\.npy", done.stderr, re.MULTILINE)
    assert re.search(r"^read: \d+ of \d+$", done.stderr, re.MULTILINE)
    assert re.match(r"lossy version 1: knn on \d+ rows x 3 features, split-conformal", done.stdout)
    (version,) = shell.json("versions lossy --json")
    assert version["sample"] == {"rows": 14563, "of": version["n_fit"], "rank_error": pytest.approx(np.sqrt(np.log(40) / 29126))}
    error = f"a sample of 14563 of {version['n_fit']} rows: the rank of any quantile of a feature is off by at most 1.13%, with a"
    assert done.stdout.splitlines()[1].startswith(error)
    assert f"version 1: {error}" in " ".join(shell.quick("versions lossy").split())
    assert "more than limit=0" in refused(shell, "fit lossy --data damaged --memory 1 --on-error skip --most-losses 0")


def test_data_in_s3_are_read_in_passes(shell: Shell, bucket: str) -> None:
    """By URL and glob, with the version that the same files here give."""
    import s3fs

    s3fs.S3FileSystem().put(str(shell.folder / "parts"), f"{bucket}/parts", recursive=True)
    shell.quick(f"fit there --data {bucket}/parts/*.npy --memory 1 --alpha 0.05")
    shell.quick("fit here --data parts --memory 1 --alpha 0.05")
    (there,), (here,) = shell.json("versions there --json"), shell.json("versions here --json")
    assert (there["n_fit"], there["calibration"]) == (here["n_fit"], here["calibration"])
    with Store.open(f"embedded:{shell.folder / 'farfield-data'}") as store:
        blobs = [store.manifest(name, 1).blobs["statistics"].sha256 for name in ("there", "here")]
    assert blobs[0] == blobs[1]


def test_a_fit_on_a_cluster_of_this_machine(shell: Shell) -> None:
    """From the command line to the version, without a word of Dask's."""
    done = shell.run("fit clustered --data parts --cluster local:2 --alpha 0.05")
    assert re.match(r"clustered version 1: gaussian on \d+ rows x 3 features", done.stdout)
    assert {line.split(":")[0] for line in done.stderr.splitlines()} == {"npy", "fingerprint", "read", "fit"}
