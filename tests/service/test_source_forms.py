"""Sources: every form gives its rows in chunks, from any place on, whatever the chunks; fingerprints and what is allowed."""

from __future__ import annotations

import contextlib
import gzip
import os
import pickle
import re
import socket
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import tenacity
import zarr
from pyarrow import parquet

from service import sources
from service.errors import InvalidInput, SourceUnavailable
from service.sources import Chunk, Losses, Source, open_source, tries
from service.sources import parts as bounds
from service.sources.urls import shown
from tests.service.served import NORMAL
from tests.service.source_data import LABELS, NAMES, ROWS, WRITERS, csv_bytes, images, labelled, lists, shard, table, tar_bytes


def everything(source: Source, rows: int | None = None, start: tuple[int, int] = (0, 0)) -> list[Chunk]:
    return list(source.walk(start, rows))


def together(chunks: list[Chunk]) -> np.ndarray:
    return np.concatenate([chunk.rows for chunk in chunks if chunk.rows is not None])


@pytest.mark.parametrize("name", WRITERS)
def test_every_form_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    """To the last bit, in chunks of any size, with the row's number as key; and as reading it whole does."""
    WRITERS[name](tmp_path / name)
    source = open_source(tmp_path / name)
    assert source.layout.shape == (3,) and source.layout.dtype == "float64" and source.lost == ()
    assert source.rows in (100, None if "csv" in name else 100)
    assert source.layout.names == (None if "np" in name or "zarr" in name else NAMES)
    for rows in (1, 7, 100, None):
        chunks = everything(source, rows)
        assert max(len(chunk) for chunk in chunks) <= (rows or 100)
        np.testing.assert_array_equal(together(chunks), ROWS)
        np.testing.assert_array_equal(np.concatenate([np.asarray(chunk.keys) for chunk in chunks]), np.arange(100))
    np.testing.assert_array_equal(sources.read(tmp_path / name).batch.rows, ROWS)


@pytest.mark.parametrize("name", WRITERS)
def test_reading_goes_on_where_it_stopped(tmp_path: Path, name: str) -> None:
    """After any chunk, another process that has only the pickled description and the place gives the same chunks."""
    WRITERS[name](tmp_path / name)
    source = open_source(tmp_path / name)
    chunks = everything(source, 8)
    for at, chunk in enumerate(chunks):
        rest = everything(pickle.loads(pickle.dumps(source)), 8, (chunk.part, chunk.end))
        assert [(c.part, c.start, c.end) for c in rest] == [(c.part, c.start, c.end) for c in chunks[at + 1 :]]
        for one, other in zip(rest, chunks[at + 1 :], strict=True):
            np.testing.assert_array_equal(one.rows, other.rows)
            np.testing.assert_array_equal(one.keys, other.keys)


def test_rows_of_a_local_npy_are_views(tmp_path: Path) -> None:
    """float32 stays float32, nothing is copied, and a big file has several parts."""
    np.save(tmp_path / "x.npy", ROWS.astype(np.float32))
    chunk = everything(open_source(tmp_path / "x.npy"))[0]
    assert isinstance(chunk.rows, np.memmap) and chunk.rows.dtype == np.float32 and not chunk.rows.flags.owndata


def test_parts_are_ranges_that_can_be_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges of rows of an .npy, .npz and Zarr, the latter along its own chunks; row groups of Parquet."""
    monkeypatch.setattr(bounds, "rows_of", lambda row_bytes, budget=0: 30)
    for name, counts in {
        "x.npy": [30, 30, 30, 10],
        "x.npz": [30, 30, 30, 10],
        "x.zarr": [28, 28, 28, 16],
        "x.parquet": [30, 30, 30, 10],
    }.items():
        WRITERS[name](tmp_path / name)
        source = open_source(tmp_path / name)
        assert [part.rows for part in source.parts] == counts
        assert len({part.name for part in source.parts}) == 4
        last = list(source.chunks(3, rows=1000))
        np.testing.assert_array_equal(together(last), ROWS[-counts[3] :])
        np.testing.assert_array_equal(last[0].keys, np.arange(100)[-counts[3] :])


def test_several_files_follow_each_other(tmp_path: Path) -> None:
    """In a folder or glob by name, in a list as given; keys of the second file begin at 2^40; files without rows are fine."""
    for name, rows in {"b": ROWS[:40], "a": ROWS[40:], "0": ROWS[:0]}.items():
        parquet.write_table(table(rows), tmp_path / f"{name}.parquet")
    (tmp_path / "_SUCCESS").write_text("not data")
    for given in (tmp_path, str(tmp_path / "*.parquet")):
        source = open_source(given)
        assert [file.name for file in source.files] == ["0.parquet", "a.parquet", "b.parquet"] and source.rows == 100
        np.testing.assert_array_equal(together(everything(source)), np.r_[ROWS[40:], ROWS[:40]])
    source = open_source([str(tmp_path / "b.parquet"), str(tmp_path / "a.parquet")])
    np.testing.assert_array_equal(together(everything(source)), ROWS)
    assert [int(np.asarray(chunk.keys)[0]) for chunk in everything(source)] == [0, 2**40]


def test_arrow_streams(tmp_path: Path) -> None:
    """As programs send them to each other: the rows are not counted before they are read; a batch may be empty."""
    whole = table()
    for name, empty in (("x.arrow", False), ("none.arrow", True)):
        with pa.OSFile(str(tmp_path / name), "wb") as sink, pa.ipc.new_stream(sink, whole.schema) as stream:
            stream.write_table(whole.slice(0, 0))
            for start in range(0, 0 if empty else len(whole), 11):
                stream.write_table(whole.slice(start, 11))
    for place in (tmp_path / "x.arrow", tmp_path):
        source = open_source(place)
        assert source.rows is None
        np.testing.assert_array_equal(together(everything(source, 13)), ROWS)
        np.testing.assert_array_equal(together(everything(source, 13, (0, 40))), ROWS[40:])
    with pytest.raises(InvalidInput, match=r"none\.arrow: holds no rows"):
        open_source(tmp_path / "none.arrow")
    (tmp_path / "x.arrow").write_bytes((tmp_path / "x.arrow").read_bytes()[:-40])
    with pytest.raises(InvalidInput, match=r"x\.arrow cannot be read: "):
        everything(open_source(tmp_path / "x.arrow"))


def test_lists_of_which_the_first_row_group_has_none(tmp_path: Path) -> None:
    """The width is that of the first that has rows."""
    lists = pa.table({"x": pa.array([[1.0, 2.0, 3.0]] * 5, pa.list_(pa.float64()))})
    with parquet.ParquetWriter(tmp_path / "x.parquet", lists.schema) as writer:
        writer.write_table(lists.slice(0, 0))
        writer.write_table(lists)
    np.testing.assert_array_equal(together(everything(open_source(tmp_path / "x.parquet"))), [[1.0, 2.0, 3.0]] * 5)


@pytest.mark.parametrize("form", ["csv", "parquet", "arrow"])
def test_columns_labels_and_keys_of_tables(tmp_path: Path, form: str) -> None:
    """Columns come in the order asked for; labels and keys are taken out of the rows."""
    path = tmp_path / f"x.{form}"
    if form == "csv":
        path.write_bytes(csv_bytes(labelled()))
    elif form == "parquet":
        parquet.write_table(labelled(), path)
    else:
        pa.feather.write_feather(labelled(), str(path))
    source = open_source(path, columns=["c", "a"], labels="y", key="id")
    chunks = everything(source, 33)
    assert source.layout.names == ("c", "a")
    np.testing.assert_array_equal(together(chunks), ROWS[:, [2, 0]])
    np.testing.assert_array_equal(np.concatenate([chunk.labels for chunk in chunks]), LABELS)
    assert [key for chunk in chunks for key in chunk.keys] == [f"row {i}" for i in range(100)]
    whole = open_source(path, labels="y", key="id")
    assert whole.layout.names == NAMES
    with pytest.raises(InvalidInput, match=r"lacks the columns \['z'\]; it has \['a', 'b', 'c', 'y', 'id'\]"):
        open_source(path, columns=["a", "z"])
    with pytest.raises(InvalidInput, match=r"column 'id' of .* holds string; numbers are needed"):
        open_source(path, labels="y")
    with pytest.raises(InvalidInput, match=r"key column 'a' of .* holds double; integers or strings"):
        open_source(path, columns=["b"], key="a")


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 3), pa.large_list(pa.float64())], ids=str)
@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_columns_of_lists(tmp_path: Path, kind: pa.DataType, form: str) -> None:
    """A list is as many features, beside plain columns; single precision stays so, alone."""
    rows = ROWS.astype(np.float32)
    path = tmp_path / f"x.{form}"
    write = parquet.write_table if form == "parquet" else pa.feather.write_feather
    write(lists(rows, kind).append_column("n", pa.array(rows[:, 0])), str(path))
    source = open_source(path)
    assert source.layout.names == ("e[0]", "e[1]", "e[2]", "n")
    assert source.layout.dtype == ("float32" if kind.value_type == pa.float32() else "float64")
    np.testing.assert_array_equal(together(everything(source, 9)), np.c_[rows, rows[:, 0]])


def test_numbers_of_a_csv_are_doubles_whatever_the_first_rows_hold(tmp_path: Path) -> None:
    """Integers in the first block, and fractions far behind it, in one file and from file to file."""
    (tmp_path / "a.csv").write_text("v,w\n" + "1,2\n" * 600_000 + "0.5,true\n".replace("true", "7"))
    (tmp_path / "b.csv").write_text("v,w\n0.25,3\n")
    found = together(everything(open_source(tmp_path)))
    assert found.dtype == np.float64 and found.shape == (600_002, 2)
    assert found[-2:].tolist() == [[0.5, 7], [0.25, 3]]


def test_labels_at_an_address_with_a_query(tmp_path: Path, web: str) -> None:
    """As signed ones have it, slashes and all; of rows, and of images in a shard."""
    np.save(tmp_path / "x.npy", ROWS)
    np.save(tmp_path / "y.npy", LABELS)
    (tmp_path / "x.tar").write_bytes(tar_bytes(shard(0, 100)))
    for name in ("x.npy", "x.tar"):
        source = open_source(f"{web}/{name}", labels=f"{web}/y.npy{SIGNED}", allow=(web,))
        assert (source.label_file and source.label_file.key) == "y.npy"
        np.testing.assert_array_equal(np.concatenate([chunk.labels for chunk in everything(source) if chunk.labels is not None]), LABELS)


def test_labels_in_a_file_of_their_own(tmp_path: Path) -> None:
    """One for each row of all files together."""
    np.save(tmp_path / "y.npy", LABELS)
    parts = tmp_path / "rows"
    parts.mkdir()
    np.save(parts / "a.npy", ROWS[:40])
    np.save(parts / "b.npy", ROWS[40:])
    chunks = everything(open_source(parts, labels=str(tmp_path / "y.npy")), 7)
    np.testing.assert_array_equal(np.concatenate([chunk.labels for chunk in chunks]), LABELS)
    np.save(tmp_path / "y.npy", LABELS[:7])
    with pytest.raises(InvalidInput, match="7 labels for the 100 rows"):
        open_source(parts, labels=str(tmp_path / "y.npy"))
    np.savez(tmp_path / "x.npz", X=ROWS, y=LABELS)
    np.testing.assert_array_equal(everything(open_source(tmp_path / "x.npz", labels="y"), 60)[1].labels, LABELS[60:])


def test_a_zarr_group_has_rows_and_labels(tmp_path: Path) -> None:
    """The array X, and the one that is named for the labels."""
    import zarr

    group = zarr.open_group(str(tmp_path / "g"), mode="w")
    for name, values in {"X": ROWS, "y": LABELS}.items():
        group.create_array(name, shape=values.shape, chunks=(16, *values.shape[1:]), dtype=values.dtype)[:] = values
    chunks = everything(open_source(tmp_path / "g", labels="y"), 10)
    np.testing.assert_array_equal(together(chunks), ROWS)
    np.testing.assert_array_equal(np.concatenate([chunk.labels for chunk in chunks]), LABELS)


def test_a_folder_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoded, by name, with the path below the folder as key; parts of some files each."""
    images(tmp_path / "i", 20)
    monkeypatch.setattr("service.sources.images.IMAGES_PER_PART", 8)
    source = open_source(tmp_path / "i")
    assert source.rows == 20 and [part.rows for part in source.parts] == [8, 8, 4] and source.layout.shape is None
    names = sorted(str(path.relative_to(tmp_path / "i")) for path in (tmp_path / "i").rglob("*.png"))
    for rows in (3, None):
        chunks = everything(source, rows)
        assert [key for chunk in chunks for key in chunk.keys] == names
        assert [image for chunk in chunks for image in chunk.images or ()] == [(tmp_path / "i" / name).read_bytes() for name in names]
    assert everything(source, 3, (1, 6))[0].keys == names[14:16]


@pytest.mark.parametrize("pack", [False, True])
def test_shards(tmp_path: Path, pack: bool) -> None:
    """The first image of each sample; labels from .cls or .json; a later start; keys are the names of shard and image."""
    for index in range(2):
        data = tar_bytes(shard(index * 10, 10))
        (tmp_path / f"{index}.tar{'.gz' * pack}").write_bytes(gzip.compress(data) if pack else data)
    source = open_source(tmp_path, labels="cls")
    chunks = everything(source, 4)
    names = [f"{i // 10}.tar{'.gz' * pack}/s/{i:03}.png" for i in range(20)]
    assert [key for chunk in chunks for key in chunk.keys] == names
    assert [image for chunk in chunks for image in chunk.images or ()] == [NORMAL[i % len(NORMAL)].read_bytes() for i in range(20)]
    assert np.concatenate([chunk.labels for chunk in chunks]).tolist() == [i % 2 for i in range(20)]
    assert everything(source, 4, (1, 8))[0].keys == names[-2:]
    assert everything(open_source(tmp_path, labels="kind"))[1].labels.tolist()[:2] == ["k10", "k11"]
    assert source.rows is None and "rows not counted of encoded images" in source.describe()[0]
    assert sources.read(tmp_path).keys == names


def test_shards_that_number_their_images_alike(tmp_path: Path) -> None:
    """Their images have keys of their own all the same, by which some are held out."""
    for index in range(2):
        (tmp_path / f"{index}.tar").write_bytes(tar_bytes(shard(0, 10)))
    keys = [key for chunk in open_source(tmp_path).walk() for key in chunk.keys]
    assert len(set(keys)) == len(keys) == 20


def test_a_chunk_of_images_is_bounded_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are asked for."""
    images(tmp_path, 9)
    monkeypatch.setattr("service.sources.images.CHUNK_BYTES", 1)
    assert [len(chunk) for chunk in everything(open_source(tmp_path))] == [1] * 9


def test_the_fingerprint_tells_one_state_of_the_data_from_another(tmp_path: Path) -> None:
    """It is the same twice and after a move with the times kept; each change of files or request gives another."""
    folder = tmp_path / "a"
    folder.mkdir()
    for name in ("1.npy", "2.npy"):
        np.save(folder / name, ROWS)
        os.utime(folder / name, ns=(0, 1_000_000_000))
    first = open_source(folder).fingerprint
    assert re.fullmatch("[0-9a-f]{64}", first) and open_source(folder).fingerprint == first
    folder = folder.rename(tmp_path / "b")
    assert open_source(folder).fingerprint == first
    os.utime(folder / "1.npy", ns=(0, 2_000_000_000))
    touched = open_source(folder).fingerprint
    np.save(folder / "3.npy", ROWS)
    longer = open_source(folder).fingerprint
    back = open_source([str(folder / name) for name in ("3.npy", "2.npy", "1.npy")]).fingerprint
    np.save(tmp_path / "y.npy", np.arange(300))
    with_labels = open_source(folder, labels=str(tmp_path / "y.npy")).fingerprint
    (tmp_path / "y.npy").rename(folder.parent / "z.npy")
    (folder / "3.npy").rename(folder / "4.npy")
    assert len({first, touched, longer, back, with_labels, open_source(folder).fingerprint}) == 6


def test_the_description_names_counts_and_columns(tmp_path: Path) -> None:
    """Before anything is read."""
    parquet.write_table(table(), tmp_path / "x.parquet", row_group_size=30)
    source = open_source(tmp_path / "x.parquet")
    assert source.describe() == [
        f"parquet: 1 files in 4 parts, {(tmp_path / 'x.parquet').stat().st_size} bytes; 100 rows of 3 float64",
        "columns: a, b, c",
        f"fingerprint: {source.fingerprint}",
    ]


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.mark.parametrize("name", WRITERS)
def test_every_form_is_read_through_fsspec(tmp_path: Path, memory: Any, name: str) -> None:
    """From a file system that is not this machine's, whole or from the middle of it."""
    WRITERS[name](tmp_path / name)
    memory.put(str(tmp_path / name), f"/data/{name}", recursive=True)
    source = open_source(f"memory://data/{name}", allow=("memory",))
    np.testing.assert_array_equal(together(everything(source, 13)), ROWS)
    np.testing.assert_array_equal(together(everything(source, 13, (0, 20)))[-5:], ROWS[-5:])
    assert source.fingerprint == open_source(f"memory://data/{name}", allow=("memory://data/",)).fingerprint


def test_folders_and_globs_through_fsspec(tmp_path: Path, memory: Any) -> None:
    """Of images with their paths as keys, of shards, and of files that match a pattern."""
    images(tmp_path / "i", 6)
    memory.put(str(tmp_path / "i"), "/i", recursive=True)
    assert [key for chunk in everything(open_source("memory://i", allow=("memory",))) for key in chunk.keys] == open_names(tmp_path / "i")
    memory.pipe({"/s/0.tar": tar_bytes(shard(0, 3)), "/s/1.tar": tar_bytes(shard(3, 3)), "/s/readme": b""})
    chunks = everything(open_source("memory://s/*.tar", allow=("memory",)))
    assert sum(map(len, chunks)) == 6
    with pytest.raises(InvalidInput, match="memory://nope does not exist"):
        open_source("memory://nope", allow=("memory",))
    with pytest.raises(InvalidInput, match="no file is named like"):
        open_source("memory://s/*.npy", allow=("memory",))


def open_names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png"))


class Ranges(BaseHTTPRequestHandler):
    """Serves the files of ``folder``, with ranges; /away sends elsewhere, /403 answers 403, and /cut breaks off in the middle.

    Each of ``faults`` is what one request meets instead, of those with a range or of the others as the first letter of it says: a status,
    ``gone`` for no answer, ``short`` for half of one, ``away`` for elsewhere.
    """

    folder: Path
    faults: list[str]

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        fault = self.faults.pop(0)[1:] if self.faults and self.faults[0][0] == ("r" if "Range" in self.headers else "l") else ""
        if fault == "gone":
            self.close_connection = True
            return
        if fault.isdecimal():
            self.send_error(int(fault))
            return
        path = self.folder / self.path.partition("?")[0].lstrip("/")
        if self.path.startswith("/away") or fault == "away":
            self.send_response(302)
            self.send_header("Location", "/x.npy")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if status := re.match(r"/([45]\d\d)/", self.path):
            self.send_error(int(status[1]))
            return
        cut = self.path.startswith("/cut/")
        path = self.folder / path.name if cut else path
        if not path.is_file():
            self.send_error(404)
            return
        if cut and body:
            self.close_connection = True
            return
        data = path.read_bytes()
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if found:
            first, last = int(found[1]), min(int(found[2] or len(data)), len(data) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            data = data[first : last + 1]
        else:
            self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            with contextlib.suppress(BrokenPipeError):
                self.wfile.write(data[: len(data) // 2] if fault == "short" else data)
            self.close_connection = fault == "short"

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def faults() -> list[str]:
    return []


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for between tries."""
    monkeypatch.setattr(tries.again, "wait", tenacity.wait_none())


@pytest.fixture
def web(tmp_path: Path, faults: list[str], at_once: None) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Ranges,), {"folder": tmp_path, "faults": faults}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_files_are_read_over_http_where_it_is_allowed(tmp_path: Path, web: str) -> None:
    """By ranges; a redirect is not followed, for it could lead out of what is allowed."""
    for name in ("x.npy", "x.parquet", "x.csv.gz", "z.npz"):
        WRITERS[name](tmp_path / name)
        source = open_source(f"{web}/{name}", allow=(web,))
        np.testing.assert_array_equal(together(everything(source, 13)), ROWS)
        assert source.files[0].mark == '"1"'
    with pytest.raises(InvalidInput, match=r"neither the scheme 'http' nor a prefix of it is in allow=\['file', 's3'\]"):
        open_source(f"{web}/x.npy", allow=("file", "s3"))
    with pytest.raises(InvalidInput, match="redirects are not followed"):
        open_source(f"{web}/away.npy", allow=("http",))
    with pytest.raises(InvalidInput, match=r"nope.npy does not exist"):
        open_source(f"{web}/nope.npy", allow=("http",))


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("401/x.npy", "/401/x.npy may not be read from here: the server answers 401 Unauthorized"),
        ("403/x.npy", "/403/x.npy may not be read from here: the server answers 403 Forbidden"),
        ("404/x.npy", "/404/x.npy does not exist"),
        ("410/x.npy", "/410/x.npy does not exist"),
        ("503/x.npy", "/503/x.npy cannot be read: the server answers 503"),
        ("cut/x.npy", "/cut/x.npy cannot be read now: "),
    ],
)
def test_what_the_web_answers_is_told(tmp_path: Path, web: str, path: str, says: str) -> None:
    """With the URL, and without what may let others in; what may be there later is not said to be wrong."""
    np.save(tmp_path / "x.npy", ROWS)
    with pytest.raises(SourceUnavailable if path[:3] in ("503", "cut") else InvalidInput) as refused:
        everything(open_source(f"{web}/{path}?signature=secret", allow=(web,)))
    assert str(refused.value).startswith(f"{web}{says}")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("fault", ["l503", "l429", "lgone", "r503", "r429", "rgone", "rshort"])
def test_what_may_pass_is_asked_for_again(tmp_path: Path, web: str, faults: list[str], fault: str) -> None:
    """Whether a file is looked up (by HEAD and, where that fails, GET) or read: two tries fail, the third gives every row."""
    np.save(tmp_path / "x.npy", ROWS)
    faults[:] = [fault] * (4 if fault[0] == "l" else 2)
    np.testing.assert_array_equal(together(everything(open_source(f"{web}/x.npy", allow=(web,)))), ROWS)
    assert faults == []


def zarr_of(folder: Path, chunks: tuple[int, int]) -> str:
    array = zarr.create_array(str(folder / "x.zarr"), shape=ROWS.shape, chunks=chunks, dtype=ROWS.dtype)
    array[:] = ROWS
    return "x.zarr/zarr.json"


@pytest.mark.parametrize("fault", ["l503", "lshort"])
def test_zarr_asks_again_too(tmp_path: Path, web: str, faults: list[str], fault: str) -> None:
    """For what describes the array, and for chunks, of which it reads several at once: each may fail three times."""
    chunks = open_source(f"{web}/{zarr_of(tmp_path, (25, 1))}", allow=(web,)).steps(rows=50)
    read = []
    for _ in range(2):
        faults[:] = [fault] * 3
        read.append(next(chunks))
        assert faults == []
    np.testing.assert_array_equal(together(read), ROWS)


@pytest.mark.parametrize(("status", "asked"), [(503, tries.TRIES), (403, 1)])
def test_zarr_refuses_what_stays(tmp_path: Path, web: str, faults: list[str], status: int, asked: int) -> None:
    """As other forms do: no chunk that cannot be read is taken for an empty one."""
    chunks = open_source(f"{web}/{zarr_of(tmp_path, (50, 3))}", allow=(web,)).steps(rows=50)
    next(chunks)
    faults[:] = [f"l{status}"] * 99
    kind, says = (SourceUnavailable, "read now") if status == HTTPStatus.SERVICE_UNAVAILABLE else (InvalidInput, "read")
    with pytest.raises(kind, match=rf"^{web}/x\.zarr/zarr\.json cannot be {says}: {status}"):
        next(chunks)
    assert len(faults) == 99 - asked


def test_zarr_follows_no_redirect(tmp_path: Path, web: str, faults: list[str]) -> None:
    """Which could lead out of what is allowed, here to a chunk that would do."""
    chunks = open_source(f"{web}/{zarr_of(tmp_path, (50, 3))}", allow=(web,)).steps(rows=50)
    next(chunks)
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.zarr" / "c" / "1" / "0").read_bytes())
    faults[:] = ["laway"]
    with pytest.raises(InvalidInput, match=rf"^{web}/x\.zarr/zarr\.json cannot be read: "):
        next(chunks)
    assert faults == []


@pytest.mark.parametrize(("status", "asked"), [(503, tries.TRIES), (403, 1), (404, 1)])
def test_what_stays_is_refused(tmp_path: Path, web: str, faults: list[str], status: int, asked: int) -> None:
    """After a bounded number of tries, and at the first one where another would be in vain."""
    np.save(tmp_path / "x.npy", ROWS)
    source = open_source(f"{web}/x.npy?signature=secret", allow=(web,))
    faults[:] = [f"r{status}"] * 99
    kind, says = (SourceUnavailable, "read now") if status == HTTPStatus.SERVICE_UNAVAILABLE else (InvalidInput, "read")
    with pytest.raises(kind, match=rf"^{web}/x\.npy cannot be {says}: ") as refused:
        everything(source)
    assert len(faults) == 99 - asked
    assert "secret" not in str(refused.value)


def test_an_outage_is_no_damage(tmp_path: Path, web: str, faults: list[str]) -> None:
    """With ``skip`` a file that cannot be read now is not left out: the next fit would have another set of rows."""
    for name in "abc":
        np.save(tmp_path / f"{name}.npy", ROWS)
    losses = Losses("skip")
    source = open_source([f"{web}/{name}.npy" for name in "abc"], allow=(web,))
    chunks = source.steps(rows=len(ROWS), losses=losses)
    next(chunks)
    faults[:] = ["rgone"] * 99
    with pytest.raises(SourceUnavailable, match=rf"^{web}/b\.npy cannot be read now: "):
        next(chunks)
    assert losses.lost == []
    faults[:] = ["lgone"] * 99
    with pytest.raises(SourceUnavailable, match=rf"^{web}/a\.npy cannot be reached: "):
        open_source(f"{web}/a.npy", allow=(web,), losses=losses)


def test_tries_are_apart() -> None:
    """Half a second, a second and two."""
    state = tenacity.RetryCallState(tries.again, None, (), {})
    waits = []
    for state.attempt_number in range(1, tries.TRIES):
        waits.append(tries.again.wait(state))
    assert waits == [0.5, 1, 2]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("host", "says"), [("127.0.0.1:{free}", "Connection refused"), ("nowhere.invalid", "")], ids=["nobody listens", "no such host"]
)
def test_a_server_that_is_not_there_is_no_missing_file(host: str, says: str) -> None:
    """Nor does anything else of the refusal than the URL and why."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"http://{host.format(free=taken.getsockname()[1])}/x.npy"
        with pytest.raises(SourceUnavailable) as refused:
            open_source(f"{url}?signature=secret", allow=("http",))
    assert str(refused.value).startswith(f"{url} cannot be reached: {says}")
    assert "secret" not in str(refused.value)


def test_addresses_that_differ_in_their_query_are_lost_one_by_one(tmp_path: Path, web: str) -> None:
    """Up to the limit, and nobody is told the query."""
    (tmp_path / "x.npy").write_bytes(b"broken")
    np.save(tmp_path / "y.npy", ROWS)
    places = [f"{web}/y.npy", *(f"{web}/x.npy?secret={number}" for number in range(3))]
    losses = Losses("skip", limit=3)
    assert open_source(places, allow=(web,), losses=losses).rows == 100
    assert [loss.reason.partition(" cannot be read")[0] for loss in losses.lost] == [f"{web}/x.npy"] * 3
    assert "secret" not in str([loss.reason for loss in losses.lost])
    with pytest.raises(InvalidInput, match="more than limit=2 pieces"):
        open_source(places, allow=(web,), losses=Losses("skip", limit=2))


def test_images_that_differ_in_the_query_of_their_address_have_keys_of_their_own(tmp_path: Path, web: str) -> None:
    """The first has its name alone; the same address again has the same key, and none holds the query."""
    images(tmp_path / "i", 2)
    numbers = "secret=1", "secret=2", "secret=1", "secret=3"
    chunks = everything(open_source([f"{web}/i/0/000.png?{number}" for number in numbers] + [f"{web}/i/1/001.png?secret=1"], allow=(web,)))
    assert [key for chunk in chunks for key in chunk.keys] == ["0/000.png", "0/000.png?2", "0/000.png", "0/000.png?3", "1/001.png"]


SIGNED = "?signature=the'secret of/mine@secret"


@pytest.mark.parametrize(
    ("content", "asked", "says"),
    [
        ({"a": ["x"]}, {}, "column 'a' of {url} holds string; numbers are needed"),
        ({"a": [1, None]}, {}, "column 'a' of {url} has 1 empty cells, the first in row 1"),
        ({"a": [[1.0], [1.0, 2.0]]}, {}, "column 'a' of {url} has 2 numbers in row 1 and 1 in row 0"),
        ({"a": [[1.0], [None]]}, {}, "column 'a' of {url} has 1 empty cells in its lists, the first in row 1"),
        ({"a": [[1.0]], "b": [[1.0]]}, {"columns": ["c"]}, "{url} lacks the columns ['c']; it has ['a', 'b']"),
        ({"a": [1.0], "b": [1.0]}, {"columns": ["a", "b", "a"]}, "the columns ['a'] are asked for more than once"),
        ({"a[0]": [1.0], "a": [[1.0]]}, {}, "a column of {url} has the name of a number in a column of lists: ['a[0]']"),
        ({"a": [1.0], "b": [1.0]}, {"key": "b"}, "key column 'b' of {url} holds double; integers or strings are needed"),
        ({"a": [1.0]}, {"labels": f"https://host/y.txt{SIGNED}"}, "{url} holds no labels named 'https://host/y.txt', and that is no .npy"),
        ({"a": [1.0]}, {"labels": "https://[host/y.npy?signature=secret"}, "https://[host/y.npy is no URL: the host is none"),
    ],
)
def test_a_signature_is_not_repeated(tmp_path: Path, web: str, content: dict[str, Any], asked: dict[str, Any], says: str) -> None:
    """Whatever is wrong with the table that it lets read."""
    parquet.write_table(pa.table(content), tmp_path / "x.parquet")
    with pytest.raises(InvalidInput) as refused:
        everything(open_source(f"{web}/x.parquet{SIGNED}", allow=(web,), **asked))
    assert str(refused.value).startswith(says.format(url=f"{web}/x.parquet"))
    assert "secret" not in str(refused.value)


def test_signatures_of_several_places_are_not_repeated(tmp_path: Path, web: str) -> None:
    """Where they hold no data, or data of two forms."""
    for name in ("x.npy", "x.csv"):
        WRITERS[name](tmp_path / name)
    (tmp_path / "x.txt").write_text("text")
    for names, says in ((("x.txt", "x.txt"), "no images and no other data"), (("x.npy", "x.csv"), "data of more than one form: csv, npy")):
        with pytest.raises(InvalidInput) as refused:
            open_source([f"{web}/{name}{SIGNED}" for name in names], allow=(web,))
        assert str(refused.value).startswith(f"{web}/{names[0]}, {web}/{names[1]} holds {says}")
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://me:secret@127.0.0.1/x.npy",
        "http://me:the@secret@127.0.0.1/x.npy",
        "http://me:the/secret@127.0.0.1/x.npy",
        "http://me:the?secret@127.0.0.1/x.npy",
        "http://me:the#secret@127.0.0.1/x.npy",
        "http://me:secret@[127.0.0.1/x.npy",
        "http://[127.0.0.1/x.npy?secret@of",
        "http://[127.0.0.1/x.npy?of@secret",
        "http://me:secret@127.0.0.1/x.npy?the@secret",
        "http://me:the?secret@[127.0.0.1/x.npy?of@secret",
        "memory://data/x.npy::http://me:secret@127.0.0.1/x.npy?secret",
        "memory://data::http://127.0.0.1/x.npy?secret",
        "http://me:secret@127.0.0.1\N{FULLWIDTH SOLIDUS}/x.npy",
        "http://127.0.0.1:99999/x.npy?secret",
        "simplecache::http://127.0.0.1/x.npy?secret",
    ],
)
def test_what_lets_others_in_is_not_repeated(url: str) -> None:
    """Where such URLs are refused, whether they are well formed or not."""
    for allow in (("file",), ("http",)):
        with pytest.raises(InvalidInput) as refused:
            open_source(url, allow=allow)
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("503, url='http://host:80/x.npy?the@secret'", "503, url='http://host:80/x.npy"),
        ("(https://host:80), s3://bucket/a@b/rows-?.npy", "(https://host:80), s3://bucket/a@b/rows-?.npy"),
        ("GET.http://host/x?secret HTTPS://me:secret@host/", "GET.http://host/x HTTPS://host/"),
        ("http://[bad/x?the@secret http://[bad/a@b", "http://… http://b"),
        ("http://host/a,http://me:secret@host/b", "http://host/a,http://…"),
        ("://" * 9999, "://://…"),
        ("a" * 99999, "a" * 99999),
    ],
)
def test_texts_are_told_without_what_lets_others_in(text: str, told: str) -> None:
    """Of libraries, for example, whatever stands around a URL in them."""
    assert shown(text) == told


@pytest.mark.parametrize(
    ("url", "allow"),
    [
        ("memory://data/x.npy", ("file",)),
        ("memory://database/x.npy", ("memory://data",)),
        ("memory://data/../secret/x.npy", ("memory://data/",)),
        ("memory://data/%2e%2e/secret/x.npy", ("memory://data/",)),
        ("http://good.example@evil.example/x.npy", ("http",)),
        ("http://good.example.evil.example/x.npy", ("http://good.example",)),
        ("http://good.example:81/x.npy", ("http://good.example/",)),
        ("HTTP://good.example/x.npy", ("https",)),
        ("simplecache::http://good.example/x.npy", ("http",)),
        ("memory://a::http://good.example/x.npy", ("memory",)),
        ("{folder}/secret/x.npy", ("{folder}/data",)),
        ("{folder}/data/../secret/x.npy", ("{folder}/data",)),
        ("{folder}/data/link.npy", ("{folder}/data",)),
        ("{folder}/data/*.npy", ("{folder}/data",)),
        ("file://{folder}/secret/x.npy", ("{folder}/data",)),
        ("{folder}/data/real.npy", ("http",)),
    ],
)
def test_what_is_not_allowed_is_refused(tmp_path: Path, url: str, allow: tuple[str, ...]) -> None:
    """By scheme, host and path, whatever stands for them; links are followed before they are judged."""
    for name in ("secret", "data"):
        (tmp_path / name).mkdir()
    for name in ("secret/x.npy", "data/real.npy"):
        np.save(tmp_path / name, ROWS)
    (tmp_path / "data" / "link.npy").symlink_to(tmp_path / "secret" / "x.npy")
    with pytest.raises(InvalidInput, match=r"is not read|are not read|does not exist"):
        open_source(url.format(folder=tmp_path), allow=[entry.format(folder=tmp_path) for entry in allow])
    assert open_source(tmp_path / "data" / "real.npy", allow=(f"{tmp_path}/data",)).rows == 100


def test_file_systems_that_are_not_there_are_named() -> None:
    """A scheme that nothing knows, and what is no URL."""
    with pytest.raises(InvalidInput, match=r"http://\[bad/x.npy is no URL: "):
        open_source("http://[bad/x.npy", allow=("http",))
    with pytest.raises(InvalidInput, match="nosuch"):
        open_source("nosuch://a/x.npy", allow=("nosuch",))
