"""A fit of data in files: whole where memory holds the rows, in passes where it does not, or on a cluster."""

from __future__ import annotations

import os
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from service import engine
from service.engine import Fitted
from service.features import Features, Progress, fingerprint
from service.fitting import cluster, passes
from service.fitting.features import Extraction
from service.fitting.passes import Keeper, chunk_rows
from service.fitting.task import Task
from service.manifest import Source as SourceRecord
from service.recipe import check
from service.sources import Chunk, hashed, whole


def fit(task: Task, keeper: Keeper, progress: Progress) -> tuple[Fitted, SourceRecord]:
    """Fit, and what is to be recorded of the data. Raises InvalidInput; ``keeper`` has the checkpoints of a fit in passes."""
    check(task.recipe, labelled=task.source.wanted.labels is not None)
    if task.whole:
        return _whole(task, progress)
    if task.cluster:
        fitted = cluster.fit(task, task.plan(), progress)
    else:
        cores, plan = os.cpu_count() or 1, task.plan()
        threads = passes.summing_threads(plan, cores)
        with Extraction(task.extractor, task.max_pixels, cores) as extraction:
            fitted = passes.fit(task.source, plan, extraction, task.losses, keeper, progress, threads=threads)
    return fitted, _record(task, fitted.n_fit + fitted.n_calibration, task.source.fingerprint, "files")


def _whole(task: Task, progress: Progress) -> tuple[Fitted, SourceRecord]:
    features: list[Features] = []
    hashes: list[NDArray[np.uint64]] = []

    def extracted(chunk: Chunk) -> Chunk:
        chunk, found = extraction(chunk, task.losses)
        features.append(found)
        hashes.append(hashed(chunk.keys, task.recipe.seed))
        return chunk

    with Extraction(task.extractor, task.max_pixels, os.cpu_count() or 1) as extraction:
        data = whole(task.source, task.losses, progress, chunk_rows(task.source), extracted)
    fitted = engine.fit(
        task.recipe,
        data.batch,
        task.extractor,
        features=np.concatenate(features) if task.extractor else None,
        feature_names=data.feature_names,
        classes=data.labels,
        hashes=np.concatenate(hashes),
        max_pixels=task.max_pixels,
        progress=progress,
    )
    return fitted, _record(task, len(data.batch), fingerprint(data.batch), "rows")


def _record(task: Task, rows: int, sha256: str, of: Literal["rows", "files"]) -> SourceRecord:
    return SourceRecord(name=task.source.name, rows=rows, sha256=sha256, of=of, lost=len(task.losses.lost))
