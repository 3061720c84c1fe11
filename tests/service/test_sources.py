"""Data from files: every form gives the same rows, and what is no data is refused by name."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, feather, parquet

from service import sources
from service.errors import InvalidInput
from service.features import fingerprint
from service.sources.images import begun_shard
from tests.service.served import NORMAL, npy, pixels, rows
from tests.service.source_data import shard, tar_bytes

DATA = rows(20, width=3)
LABELS = np.arange(20) % 2
NAMES = ["a", "b b", "ü"]


def npz(array: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, X=array)
    return stream.getvalue()


def table() -> pa.Table:
    return pa.table(dict(zip(NAMES, DATA.T, strict=True)))


def labelled() -> pa.Table:
    return table().append_column("y", pa.array(LABELS))


WRITERS: dict[str, Callable[[Path], object]] = {
    "rows.npy": lambda path: np.save(path, DATA),
    "rows.npz": lambda path: np.savez(path, DATA),
    "named.npz": lambda path: np.savez_compressed(path, other=np.ones(3), X=DATA),
    "rows.csv": lambda path: csv.write_csv(table(), path),
    "rows.csv.gz": lambda path: path.write_bytes(gzip.compress(csv_bytes())),
    "rows.parquet": lambda path: parquet.write_table(table(), path),
    "rows.arrow": lambda path: feather.write_feather(table(), str(path)),
    "rows.feather": lambda path: feather.write_feather(table(), str(path), compression="zstd"),
}


def csv_bytes() -> bytes:
    stream = pa.BufferOutputStream()
    csv.write_csv(table(), stream)
    return bytes(stream.getvalue())


@pytest.mark.parametrize("name", WRITERS)
def test_every_form_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    """To the last bit; tables bring the names of their columns with them."""
    WRITERS[name](tmp_path / name)
    found = sources.read(tmp_path / name)
    assert found.name == name
    assert found.batch.rows is not None and found.labels is None and found.keys is None
    np.testing.assert_array_equal(found.batch.rows, DATA)
    assert found.feature_names == (None if ".np" in name else NAMES)


def test_an_array_of_one_axis_is_a_column(tmp_path: Path) -> None:
    """One feature per row."""
    np.save(tmp_path / "x.npy", np.arange(5.0))
    batch = sources.read(tmp_path / "x.npy").batch
    assert batch.rows is not None and batch.rows.shape == (5, 1)


def test_a_large_file_is_mapped_not_read(tmp_path: Path) -> None:
    """The rows of an .npy stay in the file until they are needed."""
    np.save(tmp_path / "x.npy", DATA)
    assert isinstance(sources.read(tmp_path / "x.npy").batch.rows, np.memmap)


def test_pixels_are_images(tmp_path: Path) -> None:
    """Bytes of shape [n, height, width, 3] are images, in .npy and in .npz."""
    np.save(tmp_path / "x.npy", pixels(NORMAL[:3]))
    np.savez(tmp_path / "x.npz", X=pixels(NORMAL[:3]), y=np.zeros(3))
    for name in ("x.npy", "x.npz"):
        images = sources.read(tmp_path / name).batch.images
        assert images is not None
        np.testing.assert_array_equal(np.stack(images), pixels(NORMAL[:3]))


def test_a_folder_of_images(tmp_path: Path) -> None:
    """Found in subfolders too, by suffix in any case, in order of their paths, which are their keys."""
    for index, name in enumerate(["b/2.PNG", "a.png", "b/1.jpeg", "c.txt", "d.gif"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(NORMAL[index].read_bytes())
    found = sources.read(tmp_path)
    assert found.keys == ["a.png", "b/1.jpeg", "b/2.PNG"]
    assert found.batch.images is not None
    assert list(found.batch.images) == [NORMAL[i].read_bytes() for i in (1, 2, 0)]
    assert list(found.batch.images[1:]) == [NORMAL[i].read_bytes() for i in (2, 0)]
    assert len(fingerprint(found.batch)) == 64


@pytest.mark.parametrize("name", ["l.csv", "l.parquet", "l.npz", "separate"])
def test_labels_from_a_column_an_array_or_a_file(tmp_path: Path, name: str) -> None:
    """They are taken out of the rows, so that no detector sees them."""
    csv.write_csv(labelled(), tmp_path / "l.csv")
    parquet.write_table(labelled(), tmp_path / "l.parquet")
    np.savez(tmp_path / "l.npz", X=DATA, y=LABELS)
    np.save(tmp_path / "rows.npy", DATA)
    np.save(tmp_path / "y.npy", LABELS)
    path, labels = (tmp_path / "rows.npy", str(tmp_path / "y.npy")) if name == "separate" else (tmp_path / name, "y")
    found = sources.read(path, labels)
    assert found.labels is not None and found.batch.rows is not None
    np.testing.assert_array_equal(found.labels, LABELS)
    np.testing.assert_array_equal(found.batch.rows, DATA)
    assert found.feature_names in (None, NAMES)


def test_numbers_of_any_type_become_rows(tmp_path: Path) -> None:
    """Integers, floats and booleans, also in columns of several chunks."""
    mixed = pa.table({"i": pa.array([1, 2], pa.int8()), "f": pa.array([0.5, 1.5], pa.float32()), "b": [True, False]})
    parquet.write_table(pa.concat_tables([mixed, mixed]), tmp_path / "x.parquet")
    found = sources.read(tmp_path / "x.parquet").batch.rows
    np.testing.assert_array_equal(found, [[1, 0.5, 1], [2, 1.5, 0]] * 2)


def refused(path: Path, labels: str | None = None) -> str:
    with pytest.raises(InvalidInput) as error:
        sources.read(path, labels)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.npy", b"", "cannot be read"),
        ("x.npy", b"hello", "cannot be read"),
        ("x.npz", b"PK\x03\x04", "cannot be read: it is no .npz archive"),
        ("x.npz", npy(DATA), "cannot be read: it is no .npz archive"),
        ("x.npy", npz(DATA), "cannot be read: it is an .npz archive"),
        ("x.npz", npz(DATA)[:-30], "cannot be read"),
        ("x.csv", b"", "cannot be read"),
        ("x.csv", b"a,b\n", "no rows"),
        ("x.csv", b"a,b\n1,2\n3\n", "cannot be read"),
        ("x.csv", b"a,b\n1,x\n", "column 'b' of x.csv holds string"),
        ("x.csv", b"a,b\n1,2\n,4\n", "column 'a' of x.csv has 1 empty cells"),
        ("x.csv", b"a,a\n1,2\n", "cannot be read"),
        ("x.csv", b"a,b\n1,\n2,\n", "column 'b' of x.csv holds null"),
        ("x.csv", b"day\n2020-01-01\n", "column 'day' of x.csv holds date32"),
        ("x.parquet", b"PAR1", "cannot be read"),
        ("x.arrow", b"ARROW1", "cannot be read"),
        ("x.json", b"[[1, 2]]", "'.json' are not read"),
        ("x", b"", "'none' are not read"),
    ],
)
def test_what_is_no_data_is_refused(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    """In one line with the name of the file."""
    (tmp_path / name).write_bytes(content)
    message = refused(tmp_path / name)
    assert says in message.replace(f"{tmp_path}/", "") and name in message


def test_pickles_are_refused(tmp_path: Path) -> None:
    """Arrays of objects, in .npy and .npz."""
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "x.npz", X=np.array([{}], dtype=object), allow_pickle=True)
    for name in ("x.npy", "x.npz"):
        assert "cannot be read" in refused(tmp_path / name)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """Files, images, arrays, labels."""
    assert "does not exist" in refused(tmp_path / "nope.npy")
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refused(tmp_path / "empty")
    np.savez(tmp_path / "two.npz", a=DATA, b=DATA)
    assert "['a', 'b']" in refused(tmp_path / "two.npz") and "'X'" in refused(tmp_path / "two.npz")
    np.save(tmp_path / "rows.npy", DATA)
    np.save(tmp_path / "few.npy", LABELS[:7])
    assert "no labels named 'y'" in refused(tmp_path / "rows.npy", "y")
    assert "7 labels for the 20 rows" in refused(tmp_path / "rows.npy", str(tmp_path / "few.npy"))
    assert "nope.npy does not exist" in refused(tmp_path / "rows.npy", str(tmp_path / "nope.npy"))
    csv.write_csv(table(), tmp_path / "rows.csv")
    np.save(tmp_path / "many.npy", np.arange(21))
    assert "21 labels for the 20 rows" in refused(tmp_path / "rows.csv", str(tmp_path / "many.npy"))


def test_a_table_without_a_header_is_refused(tmp_path: Path) -> None:
    """A first line of numbers would be lost as names: it is refused."""
    path = tmp_path / "bare.csv"
    path.write_text("1.5,2\n3,4\n")
    with pytest.raises(InvalidInput, match=r"first line of .* holds numbers"):
        sources.read(path)


def test_columns_are_found_by_their_names(tmp_path: Path) -> None:
    """Columns in another order are put in that of the fit; one that is missing is named."""
    path = tmp_path / "t.csv"
    path.write_text("b,a\n1,2\n3,4\n")
    rows = sources.aligned(sources.read(path), ["a", "b"]).batch.rows
    assert rows is not None
    assert rows.tolist() == [[2, 1], [4, 3]]
    with pytest.raises(InvalidInput, match=r"lacks the columns \['c'\]"):
        sources.aligned(sources.read(path), ["a", "c"])


E = np.arange(12.0).reshape(4, 3)


def listed(lists: np.ndarray[Any, Any], **others: Any) -> pa.Table:
    """A table with text, a column ``e`` of lists and others of numbers, one of which has a name like that of a number in a list."""
    return pa.table({"id": list("abcd"), "heat[2]": [1.5, 2, 3, 4], **others, "e": pa.array(lists.tolist(), pa.list_(pa.float64()))})


FEATURES = ["e[0]", "e[1]", "e[2]", "heat[2]"]


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "folder"])
def test_the_columns_that_hold_features_are_read(tmp_path: Path, name: str) -> None:
    """Alone, a column of lists for the numbers in it, whatever else there is; in a folder too."""
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
        for part in range(2):
            parquet.write_table(listed(E)[2 * part : 2 * part + 2], path / f"{part}.parquet")
    else:
        (parquet.write_table if name == "t.parquet" else feather.write_feather)(listed(E), str(path))
    found = sources.read(path, features=FEATURES)
    assert found.feature_names == FEATURES
    np.testing.assert_array_equal(found.batch.rows, np.column_stack([E, [1.5, 2, 3, 4]]))  # type: ignore[arg-type]
    shifted = sources.aligned(sources.read(path, features=["heat[2]", *FEATURES[:3]]), ["heat[2]", "e[2]", "e[1]", "e[0]"]).batch.rows
    np.testing.assert_array_equal(shifted, np.column_stack([[1.5, 2, 3, 4], E[:, ::-1]]))  # type: ignore[arg-type]


def test_forms_without_columns_are_read_as_they_are(tmp_path: Path) -> None:
    """Of them no features are asked for, nor of a table by a version that has no names."""
    np.save(tmp_path / "x.npy", DATA)
    np.testing.assert_array_equal(sources.read(tmp_path / "x.npy", features=NAMES).batch.rows, DATA)  # type: ignore[arg-type]
    csv.write_csv(table(), tmp_path / "x.csv")
    assert sources.read(tmp_path / "x.csv").feature_names == NAMES
    assert sources.read(tmp_path / "x.csv", features=NAMES[1:]).feature_names == NAMES[1:]


@pytest.mark.parametrize(
    ("features", "says"),
    [
        (["e[0]", "e[1]"], r"t.parquet holds \['e\[2\]'\], on which the detector was not fitted"),
        (
            ["e[0]", "e[1]", "e[2]", "e[3]"],
            r"t.parquet lacks the columns \['e\[3\]'\] that the detector was fitted on; it has \['e\[0\]', ",
        ),
        (["flow[0]", "flow[1]"], r"t.parquet lacks the columns \['flow\[0\]', 'flow\[1\]'\]; it has \['id', "),
        (["load[7]"], r"t.parquet holds \['load'\], on which the detector was not fitted"),
        (["id"], r"column 'id' of \S*/t.parquet holds string; numbers are needed"),
    ],
)
def test_columns_that_do_not_hold_the_features_are_refused(tmp_path: Path, features: list[str], says: str) -> None:
    """Lists that are longer or shorter than those of the fit, columns that are no lists or no numbers, and none at all."""
    parquet.write_table(listed(E, load=[1, 2, 3, 4]), tmp_path / "t.parquet")
    with pytest.raises(InvalidInput, match=says):
        sources.aligned(sources.read(tmp_path / "t.parquet", features=features), features)


def test_two_features_of_one_name_are_refused(tmp_path: Path) -> None:
    """A column cannot be told from a number in a list that is named like it."""
    parquet.write_table(listed(E, **{"e[1]": [1, 2, 3, 4]}).drop(["id"]), tmp_path / "t.parquet")
    assert "has the name of a number in a column of lists: ['e[1]']" in refused(tmp_path / "t.parquet")


@pytest.mark.parametrize("packed", [False, True])
def test_rows_that_are_not_counted_are_guessed(tmp_path: Path, packed: bool) -> None:
    """From the beginning of a table or of a shard and the size of all; the first that cannot be read is passed over."""
    text = b"a,b\n" + b"".join(b"%d,%d\n" % (i * 7919 % 99991, i) for i in range(800_000))
    for number in range(2):
        path = tmp_path / (f"{number}.csv.gz" if packed else f"{number}.csv")
        path.write_bytes(gzip.compress(text, 1) if packed else text)
    source = sources.open_source(tmp_path)
    assert source.rows is None
    assert source.guessed_rows() == pytest.approx(1_600_000, rel=0.1)
    if packed:
        (tmp_path / "0.csv.gz").write_bytes(gzip.compress(text[:100], 0)[:-9])
        assert source.guessed_rows() == pytest.approx(1_600_000, rel=0.1)


def test_images_of_shards_are_guessed(tmp_path: Path) -> None:
    """As many in each byte as in the first ones, whatever lies beside them."""
    (tmp_path / "0.tar").write_bytes(tar_bytes(shard(0, 40)))
    (tmp_path / "1.tgz").write_bytes(gzip.compress(tar_bytes(shard(0, 40))))
    for name in ("0.tar", "1.tgz"):
        source = sources.open_source(tmp_path / name)
        assert (source.rows, source.guessed_rows()) == (None, 40)
    first, size = begun_shard(sources.open_source(tmp_path / "0.tar").files[0], 50_000)
    assert 0 < first < 40
    assert first * (tmp_path / "0.tar").stat().st_size / size == pytest.approx(40, rel=0.2)
    (tmp_path / "2.tar").write_bytes(tar_bytes({"a.png": b""}))
    assert sources.open_source(tmp_path / "2.tar").guessed_rows() is None
