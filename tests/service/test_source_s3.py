"""An S3-compatible store, through s3fs against moto's server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import fsspec
import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from typer.testing import CliRunner

from service.cli import app
from service.errors import InvalidInput
from service.sources import open_source, read
from tests.service.source_data import LABELS, ROWS, WRITERS, images


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket with a file of each form and a folder of images."""
    running = ThreadedMotoServer("127.0.0.1", 0)
    running.start()
    host, port = running.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    import s3fs

    urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()  # buckets outlive their server in one process
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem()
    system.mkdir("data")
    for name, write in WRITERS.items():
        write(tmp_path / name)
        system.put(str(tmp_path / name), f"data/{name}", recursive=True)
    images(tmp_path / "images", 5)
    system.put(str(tmp_path / "images"), "data/images", recursive=True)
    yield "s3://data"
    for opened in list(s3fs.S3FileSystem._cache.values()):  # Zarr opens one of its own
        s3fs.S3FileSystem.close_session(opened.loop or system.loop, opened._s3)
    running.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def test_every_form_is_read_from_s3(bucket: str) -> None:
    """By ranges; the fingerprint goes by the ETags; folders are listed, and another bucket is not allowed."""
    for name in WRITERS:
        source = open_source(f"{bucket}/{name}", allow=(f"{bucket}/",))
        np.testing.assert_array_equal(np.concatenate([chunk.rows for chunk in source.walk(rows=13)]), ROWS)  # type: ignore[misc]
        assert all(file.mark for file in source.files)
    assert next(open_source(f"{bucket}/images", allow=("s3",)).walk()).keys[0] == "0/000.png"
    with pytest.raises(InvalidInput, match="does not exist"):
        open_source(f"{bucket}/nope.npy", allow=("s3",))
    with pytest.raises(InvalidInput, match="in allow="):
        open_source("s3://other/x.npy", allow=(f"{bucket}/",))


def test_data_are_read_whole_from_s3(bucket: str, tmp_path: Path) -> None:
    """Rows and images, which are files of this machine otherwise."""
    np.testing.assert_array_equal(read(f"{bucket}/x.npy", allow=("s3",)).batch.rows, ROWS)  # type: ignore[arg-type]
    found = read(f"{bucket}/images", allow=("s3",))
    names = sorted(path.relative_to(tmp_path / "images").as_posix() for path in (tmp_path / "images").rglob("*.png"))
    assert (found.keys, found.name) == (names, "000.png and 4 more")
    assert list(found.batch.images or ()) == [(tmp_path / "images" / name).read_bytes() for name in names]


def typed(line: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, line.split())
    assert done.exit_code == code, done.output
    return done.stderr if code else done.stdout


@pytest.fixture
def pumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector in the store of this environment."""
    monkeypatch.setenv("FARFIELD_STORE", f"embedded:{tmp_path / 'store'}")
    np.save(tmp_path / "other.npy", ROWS[::-1] * 1.5)
    typed(f"fit pumps --data {tmp_path}/other.npy --alpha 0.1")


def test_score_evaluate_and_feedback_take_urls(bucket: str, tmp_path: Path, pumps: None) -> None:
    """As a fit does, for labels too; what is not there, and a scheme that nothing knows, are told with the URL."""
    local, remote = (
        json.loads(typed(f"score pumps --data {place} --json"))["results"] for place in (f"{tmp_path}/x.npy", f"{bucket}/x.csv")
    )
    assert [row["p_value"] for row in remote] == [row["p_value"] for row in local]
    keys = " ".join(f"key-{number}" for number in range(len(ROWS)))
    assert json.loads(typed(f"feedback pumps {keys} --verdict false_alarm --data {bucket}/x.parquet --json"))["changed"] == len(ROWS)
    np.save(tmp_path / "y.npy", LABELS)
    fsspec.filesystem("s3").put(str(tmp_path / "y.npy"), f"{bucket}/y.npy")
    for data in (f"{tmp_path}/x.npy", f"{bucket}/x.npy"):
        assert json.loads(typed(f"evaluate --data {data} --labels {bucket}/y.npy --alpha 0.2 --json"))[0]["n_anomalous"] == LABELS.sum()
    typed(f"fit classes --type class_gaussian --data {tmp_path}/x.npy --classes {bucket}/y.npy --alpha 0.1")
    typed(f"update classes --add {tmp_path}/x.npy --classes {bucket}/y.npy")
    for line in ("score pumps", "evaluate", "feedback pumps key --verdict confirmed"):
        assert typed(f"{line} --data {bucket}/nope.npy", code=1).endswith("s3://data/nope.npy does not exist\n")
        assert "nosuch://data/x.npy cannot be read" in typed(f"{line} --data nosuch://data/x.npy", code=1)


def test_an_update_takes_urls(bucket: str, pumps: None) -> None:
    """As a fit does; what cannot be read is told with its URL."""
    added = json.loads(typed(f"update pumps --add {bucket}/x.csv --json"))["update"]
    assert (added["added"], added["added_calibration"]) == (80, 20)
    forgotten = json.loads(typed(f"update pumps:2 --forget {bucket}/x.arrow --json"))["update"]
    assert (forgotten["forgotten"], forgotten["forgotten_calibration"]) == (80, 20)
    assert typed(f"update pumps --add {bucket}/nope.npy", code=1).endswith("s3://data/nope.npy does not exist\n")
