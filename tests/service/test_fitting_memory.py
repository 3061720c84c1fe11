"""How much memory a fit in passes takes, and how many files it reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from service.errors import InvalidInput
from service.sources import Losses
from tests.service.fits import fit, rows, task_of

ROOT = Path(__file__).parents[2]
WIDTH = 16
BOUND = 260  # MiB: of which most are pages of the file, which is mapped


def grown(path: Path, kind: str) -> tuple[int, int]:
    """Rows that a fit of a file saw, and by how many MiB it made a process of its own grow."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.service.fit_memory", str(path), kind], cwd=ROOT, capture_output=True, text=True, check=True
    )
    seen, mebibytes = done.stdout.split()
    return int(seen), int(mebibytes)


def write(path: Path, count: int) -> Path:
    """A file of many rows, some thousand different ones."""
    some = rows(4096, WIDTH)
    opened = np.lib.format.open_memmap(path, mode="w+", dtype=np.float64, shape=(count, WIDTH))
    for start in range(0, count, len(some)):
        opened[start : start + len(some)] = some[: count - start]
    return path


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """A file four times as large as another, both larger than what may be held, takes hardly more."""
    small, large = 1_200_000, 4_800_000  # 146 and 586 MiB
    found = [grown(write(tmp_path / "x.npy", count), "gaussian") for count in (small, large)]
    assert [seen for seen, _ in found] == [small, large]
    assert max(mebibytes for _, mebibytes in found) < BOUND
    assert found[1][1] < found[0][1] + 80


def test_a_corrupt_file_among_many(tmp_path: Path) -> None:
    """Of ten thousand: named, or left out and named."""
    data = rows(10_000, 4)
    for number in range(10_000):
        np.save(tmp_path / f"{number:05}.npy", data[number : number + 1])
    (tmp_path / "06789.npy").write_bytes(b"\x93NUMPY but no more")
    with pytest.raises(InvalidInput, match=r"06789\.npy cannot be read"):
        task_of(tmp_path)
    losses = Losses("skip", 1)
    fitted = fit(task_of(tmp_path, losses=losses))
    assert fitted.n_fit + fitted.n_calibration == 9999
    assert [Path(loss.name).name for loss in losses.lost] == ["06789.npy"]
