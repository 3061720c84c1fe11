"""Read-ahead, memory and the split into rows to fit on and rows held out."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyarrow import feather, parquet

from service.errors import InvalidInput
from service.sources import ahead, hashed, held_out
from service.sources.ahead import abreast
from service.sources.split import _mixed

ROOT = Path(__file__).parents[2]
MIB = 2**20


def reader() -> threading.Thread | None:
    return next((thread for thread in threading.enumerate() if thread.name == "read-ahead"), None)


def ended(thread: threading.Thread) -> bool:
    thread.join(10)
    return not thread.is_alive()


@given(st.lists(st.integers()), st.integers(1, 4))
def test_reading_ahead_changes_nothing(values: list[int], depth: int) -> None:
    """The same values in the same order."""
    assert list(ahead(iter(values), depth)) == values


@given(st.lists(st.integers()), st.integers(1, 4))
def test_working_abreast_keeps_the_order(values: list[int], threads: int) -> None:
    """Each value with what was made of it."""
    assert list(abreast(lambda value: value + 1, iter(values), threads)) == [(value, value + 1) for value in values]


def test_threads_work_at_the_same_time() -> None:
    """As many as were asked for, and on no more values than that."""
    together = threading.Barrier(3)
    taken: list[int] = []

    def values() -> Iterator[int]:
        for i in range(9):
            taken.append(i)
            yield i

    made = abreast(lambda _: together.wait(10), values(), threads=3)
    next(made)
    assert taken == [0, 1, 2]
    assert len(list(made)) == 8


def test_an_error_of_the_work_comes_after_what_was_before_it() -> None:
    """And values that nobody has begun with are left alone."""

    def inverse(value: int) -> float:
        return 1 / value

    seen: list[int] = []
    with pytest.raises(ZeroDivisionError):
        for value, _ in abreast(inverse, iter([1, 2, 0, 3, 4, 5, 6]), threads=2):
            seen.append(value)
    assert seen == [1, 2]


def test_an_error_of_the_work_ends_the_reader() -> None:
    """While the error is still held, nobody reads any more."""

    def refuse(value: int) -> int:
        raise ValueError(value)

    with pytest.raises(ValueError, match="0") as error:
        list(abreast(refuse, ahead(iter(range(1000))), threads=2))
    assert error.value.args == (0,)
    thread = reader()
    assert thread is None or ended(thread)


def test_what_comes_next_is_read_while_the_first_is_used() -> None:
    """Without being asked for: two wait and one is in the reader's hand, and no more than that."""
    read: list[int] = []
    third = threading.Event()

    def chunks() -> Iterator[int]:
        for i in range(100):
            read.append(i)
            if i == 3:
                third.set()
            yield i

    values = ahead(chunks(), depth=2)
    assert next(values) == 0
    assert third.wait(10)  # while this caller does something else
    time.sleep(0.05)
    assert len(read) == 4  # one used, two waiting, one in hand
    thread = reader()
    values.close()  # type: ignore[attr-defined]
    assert thread is not None and ended(thread)
    assert len(read) <= 5


def test_errors_come_after_the_values_before_them() -> None:
    """And they are the reader's own."""

    def chunks() -> Iterator[int]:
        yield 1
        yield 2
        raise InvalidInput("broken")

    seen = []
    with pytest.raises(InvalidInput, match="broken"):
        for value in ahead(chunks()):
            seen.append(value)  # noqa: PERF402
    assert seen == [1, 2]


def test_a_caller_that_leaves_does_not_wait_for_a_slow_read() -> None:
    """The thread ends after that read, and closes what it read from."""
    go, closed = threading.Event(), threading.Event()

    def chunks() -> Iterator[int]:
        try:
            yield 0
            go.wait(60)
            yield 1
            yield 2
        finally:
            closed.set()

    values = ahead(chunks())
    next(values)
    thread = reader()
    values.close()  # type: ignore[attr-defined]
    assert thread is not None and thread.is_alive() and not closed.is_set()
    go.set()
    assert ended(thread) and closed.is_set()


def test_no_thread_starts_for_nothing() -> None:
    """Before the first value is asked for."""
    values = ahead(iter([1]))
    assert reader() is None
    assert list(values) == [1]


def write_large(folder: Path, form: str) -> tuple[str, int]:
    """About 300 MiB of float32 rows of 64 numbers, and how many rows they are."""
    block = np.random.default_rng(0).standard_normal((MIB // 8, 64)).astype(np.float32)  # 32 MiB
    count = 10 * len(block)
    path = folder / f"x.{form}"
    if form == "npy":
        array = np.lib.format.open_memmap(path, "w+", np.float32, (count, 64))
        for i in range(10):
            array[i * len(block) : (i + 1) * len(block)] = block
        array.flush()
        return str(path), count
    data = pa.concat_tables([pa.table({"e": pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), 64)})] * 10)
    if form == "parquet":  # one row group
        parquet.write_table(data, path, row_group_size=count, compression="none", use_dictionary=False)
    else:
        feather.write_feather(data, str(path), compression="uncompressed", chunksize=2**14)
    return str(path), count


@pytest.mark.parametrize("form", ["npy", "parquet", "arrow"])
def test_a_large_source_is_read_in_little_memory(tmp_path: Path, form: str) -> None:
    """320 MiB in one array, row group or file of batches: the process grows by less than half of it, mapped pages with it."""
    path, count = write_large(tmp_path, form)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.service.source_memory", path]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    rows, grown = map(int, done.stdout.split())
    assert rows == count
    assert grown < 160


def test_the_mixer_is_splitmix64() -> None:
    """The first output from the seeds 1234567 and 0, which the authors' C code gives."""
    assert _mixed(np.array([1234567, 0], np.uint64)).tolist() == [6457827717110365317, 16294208416658607535]


def split(keys: Any, seed: int, share: float) -> NDArray[np.bool_]:
    return held_out(hashed(keys, seed), share)


def test_the_split_is_the_same_everywhere() -> None:
    """Known answers: a change of them would move rows from one side to the other in every fit that is resumed."""
    assert np.flatnonzero(split(np.arange(40), seed=0, share=0.2)).tolist() == [0, 3, 5, 6, 21, 24, 25, 29, 36]
    assert np.flatnonzero(split(np.arange(40), seed=1, share=0.2)).tolist() == [0, 5, 12, 20, 21, 22, 25, 27, 31, 38]
    assert np.flatnonzero(split([f"{i}.png" for i in range(40)], seed=0, share=0.2)).tolist() == [14, 15, 16, 18, 25, 28, 29, 32, 36]


def plain(key: int | str, seed: int, share: float) -> bool:
    """The same in Python's integers, one key at a time."""

    def mixed(state: int) -> int:
        z = (state + 0x9E3779B97F4A7C15) % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    salt = hashlib.blake2b(str(seed).encode(), digest_size=8).digest()
    if isinstance(key, str):
        value = int.from_bytes(hashlib.blake2b(key.encode(), key=salt, digest_size=8).digest(), "little")
    else:
        value = mixed(mixed(key % 2**64) ^ int.from_bytes(salt, "little"))
    return value < int(share * 2**64)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), unique=True), st.integers(), st.floats(0.01, 0.99), st.randoms())
def test_the_split_depends_on_the_key_alone(keys: list[int], seed: int, share: float, random: object) -> None:
    """Not on order, on the chunk, or on what else is there; names are as good as numbers; a larger share holds out more."""
    names = [str(key) for key in keys]
    shuffled = sorted(range(len(keys)), key=lambda _: random.random())  # type: ignore[attr-defined]
    for all_keys, some in ((np.array(keys, np.int64), np.array), (names, list)):
        mask = split(all_keys, seed, share)
        assert mask.shape == (len(keys),) and mask.dtype == bool
        np.testing.assert_array_equal(split(some([all_keys[i] for i in shuffled]), seed, share) if keys else mask, mask[shuffled])
        assert [split(all_keys[i : i + 1], seed, share)[0] for i in range(len(keys))] == mask.tolist()
        assert [plain(key if some is list else int(key), seed, share) for key in all_keys] == mask.tolist()
        assert not (mask & ~split(all_keys, seed, min(share * 1.5, 0.999))).any()


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5])
def test_the_share_is_kept_and_seeds_are_independent(share: float) -> None:
    """Of 200 000 rows, within five standard deviations, among even and odd keys and among those another seed took."""
    keys = np.arange(200_000)
    one, other = split(keys, 0, share), split(keys, 1, share)
    names = split([f"{i}.png" for i in range(200_000)], 0, share)
    for mask in (one, other, names, one[::2], one[1::2], other[one], one[2**16 :]):
        assert abs(mask.mean() - share) < 5 * np.sqrt(share * (1 - share) / len(mask))


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_a_share_is_a_part(share: float) -> None:
    """Of none or of all nothing could be calibrated or fitted."""
    with pytest.raises(InvalidInput, match="must lie between 0 and 1"):
        split(np.arange(3), 0, share)
