"""A disk that takes no more: what was there stays whole, who asked is told, and with room again it goes on.

The kernel refuses to let a file grow beyond RLIMIT_FSIZE, as it does where a disk is full.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from service import errors
from service.cli import app
from service.store import Store
from service.uploads import data_sets
from service.uploads.parts import Uploads
from tests.servers import eventually, running
from tests.service.parts import FILE, PART, ROOT, about, begun, send, sent
from tests.service.samples import publish, read_whole
from tests.service.served import served


@contextmanager
def full(most: int, process: int = 0) -> Iterator[None]:
    """No file that a process, by default this one, writes grows beyond ``most`` bytes."""
    before = resource.prlimit(process, resource.RLIMIT_FSIZE)
    resource.prlimit(process, resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.prlimit(process, resource.RLIMIT_FSIZE, before)


def test_an_upload_that_there_is_no_room_to_look_at(tmp_path: Path) -> None:
    """Every byte of it is kept, the last part is answered with 507, and asked again with room it is a data set."""
    with served(tmp_path, {}) as service:
        upload = begun(service.client)
        send(service.client, upload, 0, FILE[:PART])
        assert service.process.process
        with full(len(FILE) // 2, service.process.process.pid):
            answer = send(service.client, upload, PART, FILE[PART:])
            assert (answer.status_code, answer.json()["type"]) == (507, "urn:farfield:problem:uploads-full")
            assert answer.json()["detail"].startswith(f"this machine has no room for the {len(FILE)} bytes of the upload: ")
        assert service.client.head(f"{ROOT}/{upload}").headers["upload-offset"] == str(len(FILE))
        assert send(service.client, upload, len(FILE), b"").status_code == 204
        assert about(service.client, upload)["state"] == "complete"


def test_a_data_set_that_there_is_no_room_to_fetch(tmp_path: Path) -> None:
    """The worker is told so in a sentence, and nothing of it is left in its folder."""
    with served(tmp_path, {}) as service:
        upload = sent(service.client)
        unread = data_sets.readable(service.store, f"upload:{upload}", [])
        with full(len(FILE) // 2), pytest.raises(errors.UploadsFull, match="has no room for"), unread:
            pytest.fail("there is nothing to read")
        with data_sets.readable(service.store, f"upload:{upload}", []) as (path, _):
            assert Path(str(path)).read_bytes() == FILE
        assert Uploads(service.store.connection).get(upload).state == "complete"


def test_the_disk_of_the_embedded_store_is_full(tmp_path: Path) -> None:
    """A fit fails with one line and publishes nothing; what was there is whole; with room again it is published."""
    folder, large = tmp_path / "data", np.random.default_rng(0).standard_normal((400, 600))
    np.save(tmp_path / "large.npy", large)
    command = f"fit pumps --data {tmp_path}/large.npy --alpha 0.05 --store embedded:{folder}".split()
    with Store.open(f"embedded:{folder}") as store:
        publish(store, "pumps", {"state": b"small"})
        server = int((folder / "valkey.pid").read_text())
        written = max(path.stat().st_size for path in (folder / "appendonlydir").iterdir())
        resource.prlimit(server, resource.RLIMIT_FSIZE, (written + 1_000_000,) * 2)
        done = CliRunner().invoke(app, command)
        assert (done.exit_code, done.stdout) == (1, "")
        assert "error: the store" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
        eventually(lambda: not running(server), "the server has ended, rather than answer for what it could not write")
    with Store.open(f"embedded:{folder}") as store:
        assert store.numbers("pumps") == [1]
        assert read_whole(store, "pumps", 1) == {"state": b"small"}
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.stderr
        assert store.numbers("pumps") == [1, 2]
        assert store.manifest("pumps", 2).n_fit == 320
