"""Versions to publish: made-up ones for the store, whose content nobody reads, and small ones that score."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from service import archive, engine
from service.features import Batch
from service.manifest import BlobReference, CalibrationRecord, GoldenRecord, LevelRecord, Manifest, Source
from service.recipe import Recipe
from service.store import CHUNK_BYTES, Store


def manifest_of(blobs: Mapping[str, bytes], *, chunk_bytes: int = CHUNK_BYTES, note: str = "made up") -> Manifest:
    """A manifest of a version with these blobs; ``note`` tells versions of the same content apart."""
    return Manifest(
        schema=1,
        writer="tests",
        detector="any",
        type="gaussian",
        parameters={"note": note},
        levels=[LevelRecord(name="features", width=2)],
        n_fit=10,
        calibration=CalibrationRecord(n=5),
        alpha=0.2,
        seed=0,
        calibrate=0.2,
        sum_levels=False,
        source=Source(name=note, rows=15, sha256="0" * 64),
        golden=GoldenRecord(rows=0, inputs=0, relative=1e-6, absolute=1e-9),
        states=["{}"],
        blobs={name: BlobReference.to(data, chunk_bytes) for name, data in blobs.items()},
        created="2026-01-02T03:04:05+00:00",
    )


def publish(store: Store, name: str, blobs: Mapping[str, bytes] | None = None, *, note: str = "made up") -> int:
    blobs = {"state": b"state of " + note.encode()} if blobs is None else blobs
    return store.publish(name, manifest_of(blobs, note=note), blobs)


def read_whole(store: Store, name: str, number: int) -> dict[str, bytes]:
    """All blobs of a version, each checked against its sha256 by the store."""
    return {blob: store.blob(name, number, reference) for blob, reference in store.manifest(name, number).blobs.items()}


def fitted(scale: float = 1.0, *, width: int = 4, rows: int = 300) -> engine.Fitted:
    """A gaussian detector on normal rows with standard deviation ``scale``: another scale gives other scores."""
    data = scale * np.random.default_rng(0).standard_normal((rows, width))
    return engine.fit(Recipe(alpha=0.05), Batch(rows=data))


def publish_fitted(store: Store, name: str, detector: engine.Fitted) -> int:
    manifest, blobs = archive.pack(detector, name, Source(name="random rows", rows=300, sha256="0" * 64))
    return store.publish(name, manifest, blobs)
