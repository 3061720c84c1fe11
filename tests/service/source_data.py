"""The same made-up rows written in every form, and images in folders and shards."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import zarr
from pyarrow import csv, feather, parquet

from tests.service.served import NORMAL

ROWS = np.random.default_rng(7).standard_normal((100, 3))
LABELS = np.arange(100) % 2
NAMES = ("a", "b", "c")


def table(rows: np.ndarray = ROWS, names: Iterable[str] = NAMES) -> pa.Table:
    return pa.table(dict(zip(names, rows.T, strict=True)))


def labelled() -> pa.Table:
    return table().append_column("y", pa.array(LABELS)).append_column("id", pa.array([f"row {i}" for i in range(100)]))


def lists(rows: np.ndarray, kind: pa.DataType) -> pa.Table:
    return pa.table({"e": pa.array(rows.tolist(), kind)})


def csv_bytes(data: pa.Table) -> bytes:
    stream = pa.BufferOutputStream()
    csv.write_csv(data, stream)
    return bytes(stream.getvalue())


def write_zarr(path: Path, rows: np.ndarray = ROWS) -> None:
    array = zarr.create_array(str(path), shape=rows.shape, chunks=(7, 2), dtype=rows.dtype)
    array[:] = rows


WRITERS: dict[str, Callable[[Path], object]] = {
    "x.npy": lambda path: np.save(path, ROWS),
    "f.npy": lambda path: np.save(path, np.asfortranarray(ROWS)),
    "x.npz": lambda path: np.savez(path, X=ROWS, other=LABELS),
    "z.npz": lambda path: np.savez_compressed(path, ROWS),
    "f.npz": lambda path: np.savez_compressed(path, X=np.asfortranarray(ROWS)),
    "x.csv": lambda path: path.write_bytes(csv_bytes(table())),
    "x.csv.gz": lambda path: path.write_bytes(gzip.compress(csv_bytes(table()))),
    "x.parquet": lambda path: parquet.write_table(table(), path, row_group_size=30),
    "x.arrow": lambda path: feather.write_feather(table(), str(path), chunksize=11),
    "z.feather": lambda path: feather.write_feather(table(), str(path), compression="zstd"),
    "x.zarr": write_zarr,
}


def tar_bytes(members: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return stream.getvalue()


def shard(first: int, count: int) -> dict[str, bytes]:
    """Members of ``count`` samples with an image, a class and an object each."""
    members = {}
    for i in range(first, first + count):
        members[f"s/{i:03}.cls"] = str(i % 2).encode()
        members[f"s/{i:03}.png"] = NORMAL[i % len(NORMAL)].read_bytes()
        members[f"s/{i:03}.json"] = json.dumps({"kind": f"k{i}"}).encode()
        members[f"s/{i:03}.mask.png"] = b"a second image"
    return members


def images(folder: Path, count: int) -> None:
    for i in range(count):
        place = folder / f"{i % 3}" / f"{i:03}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(NORMAL[i % len(NORMAL)].read_bytes())
