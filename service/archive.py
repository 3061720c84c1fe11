"""Between a fitted detector in memory and its stored form, a manifest with blobs."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from detectors import REGISTRY, dumps, loads
from models import Device, Extractor, Level, ModelError, Preprocessing, Tap
from service import __version__
from service.engine import Fitted
from service.features import Batch, EncodedImage
from service.golden import Golden
from service.judges import JUDGES
from service.manifest import (
    BlobReference,
    CalibrationRecord,
    ExtractorRecord,
    GoldenRecord,
    LevelRecord,
    Manifest,
    SampleRecord,
    Source,
    UpdateRecord,
)
from service.recipe import Recipe
from service.reserve import Reserve
from service.sketch import Sketch
from service.store import CHUNK_BYTES

RESERVE = "calibration_rows"  # blob that updates alone need
STATISTICS = "statistics."  # prefix of the state's arrays that scoring does without


class ArchiveError(ValueError):
    """The manifest and its blobs do not make a detector; says why."""


def pack(
    fitted: Fitted, name: str, source: Source, *, parent: int | None = None, update: UpdateRecord | None = None
) -> tuple[Manifest, dict[str, bytes]]:
    """Manifest of ``fitted`` as a version of detector ``name``, and the bytes of its blobs; ``update`` is what made it of ``parent``."""
    blobs = {"calibration": _save(fitted.judge.arrays()), "golden": _save(_golden_arrays(fitted.golden))}
    if fitted.sketch:
        blobs["sketch"] = _save(fitted.sketch.arrays())
    if fitted.reserve:
        blobs[RESERVE] = _save(_reserve_arrays(fitted.reserve))
    states, kinds = [], [next(kind for kind, cls in REGISTRY.items() if type(detector) is cls) for detector in fitted.judge.detectors]
    for index, detector in enumerate(fitted.judge.detectors):
        state, arrays = dumps(kinds[index], detector)
        statistics = {key: value for key, value in arrays.items() if key.startswith(STATISTICS)}
        blobs[_blob("state", index)] = _save({key: value for key, value in arrays.items() if key not in statistics})
        if statistics:
            blobs[_blob("statistics", index)] = _save(statistics)
        states.append(state)
    parameters = {kind: json.loads(state)["parameters"] for kind, state in zip(kinds, states, strict=True)}
    extractor = None
    if fitted.extractor:
        blobs["extractor"] = fitted.extractor.onnx_file
        extractor = ExtractorRecord(digest=fitted.extractor.digest, spec=fitted.extractor.spec())
    manifest = Manifest(
        schema=1,
        writer=f"farfield {__version__}",
        detector=name,
        type=fitted.recipe.type,
        parameters=parameters[kinds[0]] if len(parameters) == 1 else parameters,
        levels=[LevelRecord(name=level.name, width=level.width) for level in fitted.levels],
        feature_names=fitted.feature_names,
        extractor=extractor,
        n_fit=fitted.n_fit,
        calibration=CalibrationRecord(
            method=fitted.judge.METHOD,
            n=fitted.n_calibration,
            folds=fitted.recipe.folds,
            trim=fitted.recipe.trim,
        ),
        alpha=fitted.recipe.alpha,
        seed=fitted.recipe.seed,
        calibrate=fitted.recipe.calibrate,
        sum_levels=fitted.recipe.sum_levels,
        source=source,
        sample=_sample_record(fitted),
        golden=_golden_record(fitted.golden),
        states=states,
        facts=[detector.facts(detector.state_) for detector in fitted.judge.detectors],
        blobs={key: BlobReference.to(data, CHUNK_BYTES) for key, data in sorted(blobs.items())},
        parent=parent,
        update=update,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return manifest, blobs


def unpack(
    manifest: Manifest,
    blob: Callable[[str], bytes],
    *,
    device: Device = "auto",
    require_device: bool = False,
    threads: int = 1,
    statistics: bool = False,
) -> Fitted:
    """The detector of a stored version, ready to score; with ``statistics`` also with the sums that it learned.

    ``blob`` gives the bytes of a blob by its name.

    Raises ArchiveError where a blob is not what the manifest says.
    """
    try:
        kinds = ("state", "statistics") if statistics else ("state",)
        detectors = []
        for index, state in enumerate(manifest.states):
            names = [name for kind in kinds if (name := _blob(kind, index)) in manifest.blobs]
            detectors.append(loads(state, {key: array for name in names for key, array in load(blob(name)).items()}, REGISTRY))
        judge = JUDGES[manifest.calibration.method].restored(detectors, load(blob("calibration")))
        golden = _golden(manifest.golden, load(blob("golden")))
        sketch = Sketch.restored(load(blob("sketch"))) if "sketch" in manifest.blobs else None
        extractor = None
        if manifest.extractor:
            extractor = _extractor(manifest.extractor, blob("extractor"), device, require_device, threads)
    except (ModelError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ArchiveError(str(error)) from None
    return Fitted(
        recipe=Recipe(
            manifest.type,
            manifest.parameters,
            manifest.sum_levels,
            calibrate=manifest.calibrate,
            alpha=manifest.alpha,
            seed=manifest.seed,
            method=manifest.calibration.method,
            folds=manifest.calibration.folds,
            trim=manifest.calibration.trim,
        ),
        judge=judge,
        levels=tuple(Level(level.name, level.width) for level in manifest.levels),
        extractor=extractor,
        golden=golden,
        n_fit=manifest.n_fit,
        feature_names=manifest.feature_names,
        sketch=sketch,
    )


def reserve(manifest: Manifest, blob: Callable[[str], bytes]) -> Reserve | None:
    """The rows that a stored version keeps for updates; None where it keeps none. Raises ArchiveError as ``unpack``."""
    if RESERVE not in manifest.blobs:
        return None
    try:
        arrays = load(blob(RESERVE))
        return Reserve(arrays["rows"], arrays["digests"], arrays["passed"], float(arrays["rate"]), int(arrays["untold"]))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ArchiveError(str(error)) from None


def _reserve_arrays(kept: Reserve) -> dict[str, NDArray[Any]]:
    return {"rows": kept.rows, "digests": kept.digests, "passed": kept.passed, "rate": np.array(kept.rate), "untold": np.array(kept.untold)}


def _blob(name: str, index: int) -> str:
    """Name of a blob of the ``index``-th detector; most versions have one alone."""
    return f"{name}.{index}" if index else name


def _extractor(record: ExtractorRecord, onnx_file: bytes, device: Device, require: bool, threads: int) -> Extractor:
    preprocessing = record.spec["preprocessing"]
    extractor = Extractor(
        onnx_file,
        preprocessing=Preprocessing.from_json(preprocessing) if preprocessing else None,
        taps=[Tap(**tap) for tap in record.spec["taps"]],
        device=device,
        require_device=require,
        threads=threads,
    )
    if extractor.digest != record.digest:
        raise ArchiveError(f"the extractor has digest {extractor.digest[:12]}, not {record.digest[:12]} as the manifest says")
    return extractor


def _sample_record(fitted: Fitted) -> SampleRecord | None:
    sampled = fitted.sampled
    return None if sampled is None else SampleRecord(rows=sampled.rows, of=sampled.of, rank_error=sampled.rank_error)


def _golden_record(golden: Golden) -> GoldenRecord:
    rows, inputs = len(golden.features), len(golden.inputs)
    return GoldenRecord(rows=rows, inputs=inputs, relative=golden.relative, absolute=golden.absolute)


def _golden_arrays(golden: Golden) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {
        "features": golden.features,
        "scores": golden.scores,
        "input_scores": golden.input_scores,
    }
    if golden.inputs.rows is not None:
        arrays["rows"] = golden.inputs.rows
    for index, image in enumerate(golden.inputs.images or ()):
        arrays[f"image.{index}"] = np.frombuffer(image, np.uint8) if isinstance(image, bytes) else image
    return arrays


def _golden(record: GoldenRecord, arrays: dict[str, NDArray[Any]]) -> Golden:
    images: list[EncodedImage] = []
    while (image := arrays.get(f"image.{len(images)}")) is not None:
        images.append(image.tobytes() if image.ndim == 1 else image)
    inputs = Batch(rows=arrays.get("rows"), images=images or None)
    return Golden(arrays["features"], arrays["scores"], inputs, arrays["input_scores"], record.relative, record.absolute)


def _save(arrays: dict[str, NDArray[Any]]) -> bytes:
    return save({name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()})
