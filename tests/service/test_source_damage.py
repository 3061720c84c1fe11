"""Damaged and hostile data: refused by name, or left out up to a limit and remembered."""

from __future__ import annotations

import gzip
import io
import os
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from service.errors import InvalidInput
from service.sources import Losses, open_source
from service.sources.losses import Loss
from tests.service.source_data import ROWS, WRITERS, csv_bytes, images, lists, shard, table, tar_bytes, write_zarr


def refused(path: Path | str, **how: object) -> str:
    """What is said where a source of ``path`` is opened or read."""
    with pytest.raises(InvalidInput) as error:
        for _ in open_source(path, **how).walk():  # type: ignore[arg-type]
            pass
    assert "\n" not in str(error.value)
    return str(error.value)


def npy_header(shape: tuple[int, ...], dtype: str = "<f8", order: bool = False) -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (len(text) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def npz_of(member: bytes, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("X.npy", member)
    return stream.getvalue()


def parquet_bytes() -> bytes:
    stream = io.BytesIO()
    parquet.write_table(table(), stream, write_page_checksum=True)
    return stream.getvalue()


def broken_in_the_middle(data: bytes, at: int, count: int = 40) -> bytes:
    return data[:at] + b"\xff" * count + data[at + count :]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.npy", npy_header((10**12, 4)) + bytes(64), "bytes, and 64 bytes follow"),
        ("x.npy", npy_header((100, 4)) + bytes(3199), "3200 bytes, and 3199 bytes follow"),
        ("x.npy", npy_header((-2, -2)) + bytes(32), "shape (-2, -2)"),
        ("x.npy", npy_header((2, 2), "|O") + bytes(32), "Python objects"),
        ("x.npy", npy_header((2, 2), "<c16") + bytes(64), "complex128; numbers are needed"),
        ("x.npy", npy_header((1, 10**9), "|u1")[:-1], "cannot be read"),
        *((f"x.{form}", b"", "cannot be read: ") for form in ("npy", "npz", "parquet", "arrow", "csv", "csv.gz", "tar")),
        ("x.npz", npz_of(npy_header((10**12, 4)) + bytes(64)), "bytes, and 64 bytes follow"),
        ("x.npz", npz_of(npy_header((4, 4)) + bytes(128))[:-40], "cannot be read"),
        ("x.npz", broken_in_the_middle(npz_of(npy_header((40, 3)) + ROWS[:40].tobytes()), 200), "cannot be read"),
        ("x.parquet", parquet_bytes()[:-20], "cannot be read"),
        ("x.parquet", broken_in_the_middle(parquet_bytes(), 40), "cannot be read"),
        ("x.csv", b"a,b\n1,2\n3\n", "Expected 2 columns, got 1"),
        ("x.csv", b"1,2\n3,4\n", "first line of"),
        ("x.csv", b"a,b\n1,2\n,4\n", "column 'a' of x.csv has 1 empty cells, the first in row 1"),
        ("x.csv", b"a,b\n1,2\n3,nan\n", "column 'b' of x.csv has 1 empty cells, the first in row 1"),
        ("x.csv", b"a,b\n1,2\n3,inf\n", "holds inf in row 1, column 'b'"),
        ("x.csv", b"a\n" + b"1\n" * 600_000 + b"x\n", "cannot be read: In CSV column #0"),
        ("x.csv.gz", gzip.compress(csv_bytes(table()), mtime=0)[:-300], "cannot be read"),
        ("x.csv.gz", b"not packed", "cannot be read"),
        ("x.arrow", b"ARROW1\0\0" + bytes(100), "cannot be read"),
        ("x.tar", tar_bytes(shard(0, 4))[:3000], "cannot be read"),
        ("x.tar", tar_bytes({"a.png": b"image"})[:1024], "cannot be read: it is cut or damaged"),
        ("x.tar", broken_in_the_middle(tar_bytes({"a.png": b"image", "b.png": b"image"}), 1124), "it is cut or damaged"),
        ("x.tar", tar_bytes({"a.cls": b"1"}), "sample 'a' of"),
        ("x.tar", tar_bytes({"a.png": b""}), "has 0 bytes"),
        ("x.tar", b"hello", "cannot be read"),
        ("x.png", b"", "has 0 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_data_are_refused(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    """In one line with the name of the file and what was found."""
    (tmp_path / name).write_bytes(content)
    message = refused(tmp_path / name)
    assert says in message.replace(f"{tmp_path}/", "") and name in message


def test_an_archive_that_unpacks_to_far_more_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros, packed a thousand to one; under the size that is looked at they are data as any other."""
    (tmp_path / "x.npz").write_bytes(npz_of(npy_header((10**6,)) + bytes(8 * 10**6)))
    assert open_source(tmp_path / "x.npz").rows == 10**6
    monkeypatch.setattr("service.sources.arrays.BOMB_BYTES", 10**6)
    assert "would unpack to" in refused(tmp_path / "x.npz")


def test_rows_that_no_memory_holds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row is never divided, so its size has a limit; so has a Zarr chunk, which is unpacked whole."""
    monkeypatch.setattr("service.sources.parts.ROW_BYTES", 16)
    np.save(tmp_path / "x.npy", ROWS)
    assert "a row of x.npy has 24 bytes; at most 16 are read" in refused(tmp_path / "x.npy")
    write_zarr(tmp_path / "x.zarr")
    monkeypatch.setattr("service.sources.zarr_arrays.BLOCK_BYTES", 16)
    assert "its chunks have 112 bytes; at most 16 are read" in refused(tmp_path / "x.zarr")


def test_an_array_in_fortran_order_is_read_whole_up_to_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless it can be mapped; so are labels."""
    monkeypatch.setattr("service.sources.arrays.WHOLE_BYTES", 2399)
    np.save(tmp_path / "x.npy", np.asfortranarray(ROWS))
    assert sum(map(len, open_source(tmp_path / "x.npy").walk())) == 100
    np.savez(tmp_path / "x.npz", X=np.asfortranarray(ROWS))
    assert "Fortran order" in refused(tmp_path / "x.npz")
    np.savez(tmp_path / "l.npz", X=ROWS, y=np.zeros(300))
    assert "2400 bytes; at most 2399" in refused(tmp_path / "l.npz", labels="y")


def two(folder: Path, write: Callable[[Path, int], object], suffix: str) -> str:
    for i in range(2):
        write(folder / f"{i}.{suffix}", i)
    return refused(folder)


def test_files_that_do_not_go_together_are_both_named(tmp_path: Path) -> None:
    """Another width, type of number, set of columns, or form."""
    for name in "abcdefg":
        (tmp_path / name).mkdir()
    said = two(tmp_path / "a", lambda path, i: np.save(path, ROWS[:, : 3 - i]), "npy")
    assert "1.npy" in said and "0.npy" in said and "differ in shape of a row: (2,) and (3,)" in said
    assert "differ in type of the numbers: float32 and float64" in two(
        tmp_path / "b", lambda path, i: np.save(path, ROWS.astype([float, np.float32][i])), "npy"
    )
    assert "differ in columns: ('a', 'b', 'd') and ('a', 'b', 'c')" in two(
        tmp_path / "c", lambda path, i: parquet.write_table(table(names="ab" + "cd"[i]), path), "parquet"
    )
    assert "differ in type of the numbers" in two(
        tmp_path / "d", lambda path, i: parquet.write_table(table(ROWS.astype([float, np.float32][i])), path), "parquet"
    )
    assert "differ in columns" in two(
        tmp_path / "e", lambda path, i: parquet.write_table(lists(ROWS[:, : 3 - i], pa.list_(pa.float64())), path), "parquet"
    )
    assert "differ in columns" in two(
        tmp_path / "f", lambda path, i: path.write_bytes(csv_bytes(table(ROWS[:, : 3 - i], "abc"[: 3 - i]))), "csv"
    )
    np.save(tmp_path / "g" / "x.npy", ROWS)
    (tmp_path / "g" / "x.png").write_bytes(b"image")
    assert "more than one form: images, npy" in refused(tmp_path / "g")


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_lists_of_several_lengths_are_refused(tmp_path: Path, form: str) -> None:
    """The row is named, and so is an empty cell in a list."""
    write = parquet.write_table if form == "parquet" else feather.write_feather
    path = tmp_path / f"x.{form}"
    write(pa.table({"e": [[1.0, 2.0], [3.0, 4.0], [5.0], [6.0, 7.0, 8.0]]}), str(path))
    assert "has 1 numbers in row 2 and 2 in row 0" in refused(path)
    write(pa.table({"e": [[1.0, 2.0], [3.0, None]]}), str(path))
    assert "1 empty cells in its lists, the first in row 1" in refused(path)
    write(pa.table({"e": [[1.0, 2.0], None]}), str(path))
    assert "column 'e' of" in refused(path)


@pytest.mark.parametrize("name", WRITERS)
def test_data_without_rows_are_refused_when_nothing_else_is_there(tmp_path: Path, name: str) -> None:
    """An array or table of no rows."""
    empty = ROWS[:0]
    path = tmp_path / name
    if name.endswith(".npy"):
        np.save(path, empty)
    elif name.endswith(".npz"):
        np.savez(path, X=empty)
    elif name == "x.csv":
        path.write_text("a,b,c\n")
    elif name == "x.csv.gz":
        path.write_bytes(gzip.compress(b"a,b,c\n"))
    elif name == "x.parquet":
        parquet.write_table(table(empty), path)
    elif name == "x.zarr":
        write_zarr(path, empty)
    else:
        feather.write_feather(table(empty), str(path))
    assert "holds no rows" in refused(path)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named_by_file_row_and_column(tmp_path: Path, dtype: type, value: float) -> None:
    """The rows before it are given, whatever the size of the chunks."""
    rows = ROWS.astype(dtype)
    rows[61, 2] = rows[80, 0] = value
    np.save(tmp_path / "x.npy", rows)
    assert f"x.npy holds {value} in row 61, column 2" in refused(tmp_path / "x.npy")
    for size in (1, 10, 100):
        losses = Losses("skip")
        got = [chunk.rows for chunk in open_source(tmp_path / "x.npy").walk(rows=size, losses=losses)]
        np.testing.assert_array_equal(np.concatenate(got), rows[:61])  # type: ignore[arg-type]
        assert [loss.name for loss in losses.lost] == ["x.npy"]


def test_large_numbers_are_finite(tmp_path: Path) -> None:
    """Though their sum is not."""
    rows = np.full((50, 2), 3e38, np.float32)
    np.save(tmp_path / "x.npy", rows)
    assert sum(map(len, open_source(tmp_path / "x.npy").walk())) == 50


def test_a_few_damaged_files_can_be_left_out(tmp_path: Path) -> None:
    """Those that cannot be described when the source is opened, those that break later when they are read."""
    for i in range(30):
        parquet.write_table(table(ROWS + i), tmp_path / f"{i:02}.parquet", compression="zstd")
    (tmp_path / "03.parquet").write_bytes(b"broken")
    data = (tmp_path / "17.parquet").read_bytes()
    (tmp_path / "17.parquet").write_bytes(broken_in_the_middle(data, 10))
    assert "03.parquet" in refused(tmp_path)
    losses = Losses("skip", limit=2)
    source = open_source(tmp_path, losses=losses)
    assert source.rows == 2900 and [Path(loss.name).name for loss in source.lost] == ["03.parquet"]
    assert any("left out" in line and "03.parquet" in line for line in source.describe())
    got = np.concatenate([chunk.rows for chunk in source.walk(losses=losses)])  # type: ignore[misc]
    np.testing.assert_array_equal(got, np.concatenate([ROWS + i for i in range(30) if i not in (3, 17)]))
    assert [Path(loss.name).name for loss in losses.lost] == ["03.parquet", "17.parquet"]
    with pytest.raises(InvalidInput, match=r"more than limit=1 .*17.parquet"):
        few = Losses("skip", limit=1)
        list(open_source(tmp_path, losses=few).walk(losses=few))


def test_one_of_ten_thousand_files_is_damaged(tmp_path: Path) -> None:
    """It is named, whether it cannot be described or breaks when it is read; with ``skip`` the others are all read."""
    np.save(tmp_path / "row.npy", ROWS[:1])
    data = (tmp_path / "row.npy").read_bytes()
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(10_000):
        (folder / f"{i:05}.npy").write_bytes(data)
    (folder / "07777.npy").write_bytes(data[:-1])
    assert refused(folder).startswith(f"{folder}/07777.npy cannot be read: ")
    (folder / "07777.npy").write_bytes(data[:-24] + np.full(3, np.nan).tobytes())
    losses = Losses("skip", limit=1)
    assert sum(map(len, open_source(folder, losses=losses).walk(losses=losses))) == 9_999
    assert [loss.reason.partition(" in ")[0] for loss in losses.lost] == [f"{folder}/07777.npy holds nan"]


def test_images_are_left_out_one_by_one(tmp_path: Path) -> None:
    """In folders and shards; where they stood is not forgotten."""
    images(tmp_path / "i", 9)
    (tmp_path / "i" / "0" / "000.png").write_bytes(b"")
    (tmp_path / "t.tar").write_bytes(tar_bytes({"a.png": b"", "b.png": b"image", "c.txt": b"", "d.png": b"image"}))
    for path, count, name in ((tmp_path / "i", 8, "0/000.png"), (tmp_path / "t.tar", 2, "t.tar/a.png")):
        losses = Losses("skip")
        chunks = list(open_source(path).walk(losses=losses))
        assert sum(map(len, chunks)) == count and losses.lost[0].name == name
        assert chunks[-1].end == count + len(losses.lost)
    assert "0/000.png has 0 bytes" in refused(tmp_path / "i")
    (tmp_path / "u.tar").write_bytes((tmp_path / "t.tar").read_bytes())
    losses = Losses("skip")
    list(open_source([str(tmp_path / "t.tar"), str(tmp_path / "u.tar")]).walk(losses=losses))
    assert len(losses.lost) == 4, "images of one name in two shards are two"


def test_files_of_one_name_are_lost_one_by_one(tmp_path: Path) -> None:
    """Of several folders, whether they cannot be described or break when they are read."""
    folders = [tmp_path / name for name in "abc"]
    for content in (b"broken", npy_header((100, 3)) + np.full((100, 3), np.nan).tobytes()):
        for folder in folders:
            folder.mkdir(exist_ok=True)
            (folder / "x.npy").write_bytes(content)
            (folder / f"{folder.name}.npy").write_bytes(npy_header((100, 3)) + ROWS.tobytes())
        losses = Losses("skip", limit=3)
        assert sum(map(len, open_source([str(folder) for folder in folders], losses=losses).walk(losses=losses))) == 300
        assert [str(folder / "x.npy") in loss.reason for folder, loss in zip(folders, losses.lost, strict=True)] == [True] * 3


def test_files_of_several_places_have_names_of_their_own(tmp_path: Path) -> None:
    """Below the folder that all places are in, in whatever order and way they are given; those of one folder as if it were given."""
    for name in ("a/0/x.png", "b/x.png", "b/y.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"image")
    for places, names in (
        (("a", "b"), ["a/0/x.png", "b/x.png", "b/y.png"]),
        (("b", "a/../a/0/*.png"), ["b/x.png", "b/y.png", "a/0/x.png"]),
        (("b/x.png", "b/y*"), ["x.png", "y.png"]),
        (("b", "b/x.png"), ["x.png", "y.png", "x.png"]),
    ):
        source = open_source([f"{tmp_path}/{place}" for place in places])
        assert [file.name for file in source.files] == [key for chunk in source.walk() for key in chunk.keys] == names


def test_labels_apart_need_all_rows(tmp_path: Path) -> None:
    """Where a file is left out, nothing tells which labels are its own."""
    (tmp_path / "d").mkdir()
    np.save(tmp_path / "d" / "a.npy", ROWS)
    (tmp_path / "d" / "b.npy").write_bytes(b"broken")
    np.save(tmp_path / "y.npy", np.arange(100))
    assert "b.npy cannot be read" in refused(tmp_path / "d", labels=str(tmp_path / "y.npy"), losses=Losses("skip"))


def test_a_policy_is_checked() -> None:
    """Its word and its limit."""
    with pytest.raises(InvalidInput, match="'ignore' must be 'fail' or 'skip'"):
        Losses("ignore")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="limit=-1"):
        Losses("skip", limit=-1)
    losses = Losses("skip", limit=0)
    with pytest.raises(InvalidInput, match=r"more than limit=0 .* broken"):
        losses.add("x", InvalidInput("broken"))
    assert losses.lost == [] and Loss("a", "b") == Loss("a", "b")


def test_columns_go_with_tables(tmp_path: Path) -> None:
    """Arrays and images have none."""
    np.save(tmp_path / "x.npy", ROWS)
    images(tmp_path / "i", 1)
    write_zarr(tmp_path / "x.zarr")
    for path in (tmp_path / "x.npy", tmp_path / "i", tmp_path / "x.zarr"):
        assert "has no named columns" in refused(path, columns=["a"])


def test_zarr_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package is not there, the extra is named."""
    write_zarr(tmp_path / "x.zarr")
    monkeypatch.setitem(__import__("sys").modules, "zarr", None)
    assert "pip install 'farfield[zarr]'" in refused(tmp_path / "x.zarr")


def test_nothing_named_is_nothing_read() -> None:
    """An empty list of URLs."""
    assert "no data are named" in refused([])  # type: ignore[arg-type]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    """Also where one leads back to a folder above it."""
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for place in ("data/a/x.npy", "elsewhere/y.npy"):
        np.save(tmp_path / place, ROWS)
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "a" / "back").symlink_to(tmp_path / "data")
    assert [file.name for file in open_source(tmp_path / "data").files] == ["a/x.npy", "b/y.npy"]
    with pytest.raises(InvalidInput, match=r"b/y\.npy is not read: it is a link that leads out of what may be read$"):
        open_source(tmp_path / "data", allow=(str(tmp_path / "data"),))


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than passed over. Who tests may read everything, so the system's answer is made up."""
    (tmp_path / "closed").mkdir()
    np.save(tmp_path / "x.npy", ROWS)
    scandir = os.scandir

    def refusing(place: str) -> Any:
        if Path(place).name == "closed":
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(InvalidInput, match="closed cannot be listed: Permission denied"):
        open_source(tmp_path)


def test_what_is_no_file_is_never_opened(tmp_path: Path) -> None:
    """Pipes, on which a reader would wait for ever, and links that lead nowhere: named or left out; others passed over."""
    np.save(tmp_path / "x.npy", ROWS)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "notes.txt").symlink_to(tmp_path / "nowhere")
    assert len(open_source(tmp_path).files) == 1
    os.mkfifo(tmp_path / "y.npy")
    (tmp_path / "z.npy").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match=r"y\.npy is no file: it is a link that leads nowhere, a pipe"):
        open_source(tmp_path)
    losses = Losses("skip")
    assert [file.name for file in open_source(tmp_path, losses=losses).files] == ["x.npy"]
    assert [Path(loss.name).name for loss in losses.lost] == ["y.npy", "z.npy"]
    with pytest.raises(InvalidInput, match=r"nothing can be read; .*y\.npy is no file"):
        open_source(tmp_path / "y.npy", losses=Losses("skip"))


def test_names_that_cannot_be(tmp_path: Path) -> None:
    """No UTF-8, and a NUL: refused in a sentence that can be printed."""
    np.save(tmp_path / os.fsdecode(b"x\xe9.npy"), ROWS)
    with pytest.raises(InvalidInput, match=r"x\\udce9\.npy has a name that is no UTF-8: rename it") as refused:
        open_source(tmp_path)
    assert str(refused.value).isascii()
    with pytest.raises(InvalidInput, match="holds a NUL"):
        open_source(f"{tmp_path}/x\0.npy")


def test_a_file_that_is_given_twice(tmp_path: Path) -> None:
    """By a pattern and by its name: its rows would have two keys each, and be learned and held out at once."""
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", ROWS)
    with pytest.raises(InvalidInput, match=r"a\.npy is given twice"):
        open_source([str(tmp_path / "*.npy"), f"{tmp_path}/./a.npy"])


def test_a_damaged_chunk_of_zarr(tmp_path: Path) -> None:
    """Is named by its rows, and left out if that is wanted."""
    WRITERS["x.zarr"](tmp_path / "x.zarr")
    (tmp_path / "x.zarr" / "c" / "2" / "0").write_bytes(b"xxxx")
    with pytest.raises(InvalidInput, match=r"x\.zarr/.* cannot be read: rows 14 to 20: "):
        list(open_source(tmp_path / "x.zarr").walk(rows=7))
    assert sum(map(len, open_source(tmp_path / "x.zarr").walk(rows=7, losses=Losses("skip")))) == 14


def test_a_program_waits_for_a_read_when_it_ends() -> None:
    """A library that came back from one while the interpreter is taken down would bring it down."""
    program = """
import time
from service.sources.ahead import ahead
def slow():
    yield 1
    time.sleep(0.5)
    print("read", flush=True)
    yield 2
for _ in ahead(slow()):
    break
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "read\n"
