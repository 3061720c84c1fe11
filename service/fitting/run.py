"""A fit of data in files: whole where memory holds the rows, in passes where it does not, or on a cluster."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service import engine
from service.engine import Fitted
from service.errors import InvalidInput
from service.features import Batch, Progress, fingerprint
from service.fitting import passes
from service.fitting.features import Extraction
from service.fitting.passes import Keeper, chunk_rows
from service.fitting.task import Task
from service.manifest import Source as SourceRecord
from service.recipe import check
from service.sources import Chunk, Source


def fit(task: Task, keeper: Keeper, progress: Progress) -> tuple[Fitted, SourceRecord]:
    """Fit, and what is to be recorded of the data. Raises InvalidInput; ``keeper`` has the checkpoints of a fit in passes."""
    check(task.recipe, labelled=task.source.wanted.labels is not None)
    name = _name(task.source)
    if task.cluster:
        from service.fitting import cluster  # Dask is an extra

        fitted = cluster.fit(task, task.plan(), progress)
    elif not task.whole:
        with Extraction(task.extractor, task.max_pixels, os.cpu_count() or 1) as extraction:
            fitted = passes.fit(task.source, task.plan(), extraction, task.losses, keeper, progress)
    else:
        return _whole(task, progress)
    seen = fitted.n_fit + fitted.n_calibration
    return fitted, SourceRecord(name=name, rows=seen, sha256=task.source.fingerprint, of="files", lost=len(task.losses.lost))


def _whole(task: Task, progress: Progress) -> tuple[Fitted, SourceRecord]:
    source, chunks, features, rows = task.source, list[Chunk](), list[NDArray[Any]](), 0
    network: AbstractContextManager[Extraction | None] = nullcontext()
    if task.extractor:
        network = Extraction(task.extractor, task.max_pixels, os.cpu_count() or 1)
    progress("read", 0, source.rows or 0)
    with network as extraction:
        for chunk in source.walk(rows=chunk_rows(source), losses=task.losses):
            if extraction:
                chunk, found = extraction(chunk, task.losses)  # noqa: PLW2901
                features.append(found)
            chunks.append(chunk)
            rows += len(chunk)
            progress("read", rows, max(source.rows or 0, rows))
    if not rows:
        raise InvalidInput(f"{_name(source)} holds no rows")
    batch = _batch(chunks)
    labels = [chunk.labels for chunk in chunks if chunk.labels is not None]
    fitted = engine.fit(
        task.recipe,
        batch,
        task.extractor,
        features=np.concatenate(features) if features else None,
        feature_names=list(source.layout.names) if source.layout.names else None,
        classes=np.concatenate(labels) if labels else None,
        max_pixels=task.max_pixels,
        progress=progress,
    )
    return fitted, SourceRecord(name=_name(source), rows=rows, sha256=fingerprint(batch), lost=len(task.losses.lost))


def _batch(chunks: Sequence[Chunk]) -> Batch:
    blocks = [chunk.rows for chunk in chunks if chunk.rows is not None]
    if blocks:
        return Batch(rows=np.concatenate(blocks))
    return Batch(images=[image for chunk in chunks for image in chunk.images or ()])


def _name(source: Source) -> str:
    first = PurePosixPath(source.files[0].url.split("?")[0]).name
    return first if len(source.files) == 1 else f"{first} and {len(source.files) - 1} more"
