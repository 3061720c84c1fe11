"""An S3-compatible store, through s3fs against moto's server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from service.errors import InvalidInput
from service.sources import open_source
from tests.service.source_data import ROWS, WRITERS, images


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
