"""Fits of data in many files, in passes or on a cluster: their tasks, and what they ought to give."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service import archive
from service.engine import Fitted
from service.fitting import run
from service.fitting.passes import Keeper, Nowhere
from service.fitting.task import Task
from service.recipe import Recipe, method_for
from service.sources import Losses, hashed, held_out, open_source
from service.sources.parts import FILE_ROWS

MEMORY = 20_000  # bytes: less than any data here take
ALPHA = 0.05
AT = 1_700_000_000  # when all files were written


def rows(count: int, width: int = 4, *, seed: int = 1) -> NDArray[np.float64]:
    """Rows off the origin whose columns depend on each other."""
    mixed = np.random.default_rng(width).standard_normal((width, width))
    return np.random.default_rng(seed).standard_normal((count, width)) @ mixed + 5


def write_parts(folder: Path, data: NDArray[Any], count: int) -> Path:
    """``data`` as ``count`` files of different lengths in a folder, with the same time of change wherever they are written."""
    folder.mkdir(parents=True)
    ends = np.sort(np.random.default_rng(3).choice(np.arange(1, len(data)), count - 1, replace=False))
    for number, part in enumerate(np.split(data, ends)):
        np.save(folder / f"{number:05}.npy", part)
        os.utime(folder / f"{number:05}.npy", (AT, AT))
    return folder


def keys_of(folder: Path) -> NDArray[np.int64]:
    """Keys of the rows in the files of ``write_parts``, in their order."""
    lengths = [len(np.load(path)) for path in sorted(folder.iterdir())]
    return np.concatenate([np.arange(length) + number * FILE_ROWS for number, length in enumerate(lengths)])


def task_of(
    data: Path | str | Sequence[str],
    type_: str = "gaussian",
    *,
    memory: int = MEMORY,
    extractor: Any = None,
    losses: Losses | None = None,
    cluster: str | None = None,
    labels: str | None = None,
    key: str | None = None,
    columns: Sequence[str] | None = None,
    **recipe: Any,
) -> Task:
    losses = losses or Losses()
    source = open_source(data, labels=labels, key=key, columns=columns, losses=losses)
    said = {"alpha": ALPHA, "method": method_for(type_), **recipe}
    return Task(Recipe(type_, **said), source, extractor, losses, memory, 10**7, cluster)


def fit(task: Task, keeper: Keeper | None = None, progress: Any = lambda phase, done, total: None) -> Fitted:
    return run.fit(task, keeper or Nowhere(), progress)[0]


def held_of(task: Task, keys: Any) -> NDArray[np.bool_]:
    """Which rows the fit of a task holds out."""
    return held_out(hashed(keys, task.recipe.seed), task.plan().share)


def packed(task: Task, fitted: Fitted) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The version that ``fitted`` makes: its manifest but for the time, and its blobs."""
    manifest, blobs = archive.pack(fitted, "any", run._record(task, fitted.n_fit, task.source.fingerprint, "files"))
    return manifest.model_dump(exclude={"created"}), blobs
