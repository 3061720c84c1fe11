"""The stored form of a version: what goes in comes out, and what was changed does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from service import engine
from service.archive import ArchiveError, pack, reserve, unpack
from service.features import Batch
from service.golden import GOLDEN_INPUT_BYTES, GOLDEN_ROWS
from service.manifest import ExtractorRecord, Manifest, ManifestError, Source
from service.recipe import Recipe
from tests.service.samples import fitted
from tests.service.served import NORMAL, fitted_images, network, pixel_extractor, rows

SOURCE = Source(name="random", rows=300, sha256="0" * 64)
MAKERS: dict[str, Callable[[], engine.Fitted]] = {
    "rows": fitted,
    "named": lambda: engine.fit(Recipe(alpha=0.05), Batch(rows=rows(300)), feature_names=list("äbcd")),
    "levels": lambda: engine.fit(Recipe(alpha=0.05, sum_levels=True), Batch(rows=rows(300))),
    "images": fitted_images,
}


def assert_same(one: Any, other: Any, place: str = "") -> None:
    """Two values are alike to the last bit, through dataclasses, sequences and arrays."""
    if isinstance(one, np.ndarray):
        assert (one.dtype, one.shape) == (other.dtype, other.shape), place
        assert one.tobytes() == other.tobytes(), place
    elif is_dataclass(one):
        for field in fields(one):
            assert_same(getattr(one, field.name), getattr(other, field.name), f"{place}.{field.name}")
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_same(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, tuple | list):
        assert len(one) == len(other), place
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{place}[{index}]")
    else:
        assert one == other, place


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_a_round_trip_keeps_every_bit(make: Callable[[], engine.Fitted]) -> None:
    """State, calibration, golden rows, names and extractor; scores are equal, not just near."""
    before = make()
    manifest, blobs = pack(before, "pumps", SOURCE)
    after = unpack(Manifest.parse(manifest.canonical()), blobs.__getitem__, device="cpu")
    assert_same(before.judge.arrays(), after.judge.arrays(), "judge")
    for part in ("levels", "golden", "n_fit", "feature_names"):
        assert_same(getattr(before, part), getattr(after, part), part)
    assert_same(before.detector.state_.levels, after.detector.state_.levels)
    assert (after.recipe.type, after.recipe.alpha, after.recipe.seed) == (before.recipe.type, before.recipe.alpha, before.recipe.seed)
    assert after.detector.get_params() == before.detector.get_params()
    batch = Batch(images=[path.read_bytes() for path in NORMAL[:9]]) if before.extractor else Batch(rows=rows(9))
    assert_same(engine.score(before, batch, attribute_by="feature").scores, engine.score(after, batch).scores)
    after.check("pumps", 1)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_packing_what_was_unpacked_gives_the_same_blobs(make: Callable[[], engine.Fitted]) -> None:
    """The form is canonical; only what updates alone need is left behind, unless it is asked for."""
    manifest, blobs = pack(make(), "pumps", SOURCE)
    again, other = pack(unpack(manifest, blobs.__getitem__, device="cpu"), "pumps", SOURCE)
    assert other == {name: data for name, data in blobs.items() if name not in ("statistics", "calibration_rows")}
    assert again.states == manifest.states
    whole = unpack(manifest, blobs.__getitem__, device="cpu", statistics=True)
    assert pack(replace(whole, reserve=reserve(manifest, blobs.__getitem__)), "pumps", SOURCE)[1] == blobs


def test_the_statistics_are_stored_apart() -> None:
    """What an update needs is there, of its own, and a load for scoring never reads it."""
    manifest, blobs = pack(fitted(), "pumps", SOURCE)
    assert {name.split(".")[0] for name in load(blobs["statistics"])} == {"statistics"}
    assert not any(name.startswith("statistics") for name in load(blobs["state"]))
    read: list[str] = []

    def blob(name: str) -> bytes:
        read.append(name)
        return blobs[name]

    unpack(manifest, blob)
    assert sorted(read) == ["calibration", "golden", "sketch", "state"]
    np.testing.assert_array_equal(load(blobs["statistics"])["statistics.levels.0.count"], 240)


def test_the_manifest_names_every_blob_by_its_content() -> None:
    """Size and sha256 of each, and the text is canonical: sorted, without blanks, equal for equal manifests."""
    manifest, blobs = pack(fitted_images(), "boards", SOURCE)
    assert set(manifest.blobs) == set(blobs) == {"state", "calibration", "golden", "statistics", "extractor", "calibration_rows", "sketch"}
    for name, reference in manifest.blobs.items():
        assert reference == type(reference).to(blobs[name], reference.chunk_bytes)
    assert blobs["extractor"] == network()
    assert Manifest.parse(manifest.canonical()).canonical() == manifest.canonical()
    assert (
        manifest.canonical()
        == json.dumps(json.loads(manifest.canonical()), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    )


def test_another_extractor_is_refused() -> None:
    """The network, its preprocessing and its taps are what the digest says, or the version is not loaded."""
    manifest, blobs = pack(fitted_images(), "boards", SOURCE)
    assert manifest.extractor
    assert_refused(manifest, {**blobs, "extractor": network() + b"\x32\x05other"}, "the extractor has digest")
    spec = manifest.extractor.spec
    record = ExtractorRecord(digest=manifest.extractor.digest, spec={**spec, "preprocessing": {**spec["preprocessing"], "resize": "crop"}})
    assert_refused(manifest.model_copy(update={"extractor": record}), blobs, "the extractor has digest")
    assert_refused(manifest, {**blobs, "extractor": b"no network"}, "not an ONNX model")


def assert_refused(manifest: Manifest, blobs: dict[str, bytes], says: str) -> None:
    with pytest.raises(ArchiveError, match=says):
        unpack(manifest, blobs.__getitem__, device="cpu")


@pytest.mark.parametrize("blob", ["state", "calibration", "golden"])
def test_blobs_that_are_no_arrays_are_refused(blob: str) -> None:
    """Garbage, and a torn file."""
    manifest, blobs = pack(fitted(), "pumps", SOURCE)
    for data in (b"", b"garbage", blobs[blob][:-1]):
        with pytest.raises(ArchiveError):
            unpack(manifest, {**blobs, blob: data}.__getitem__)


def test_arrays_missing_or_left_over_are_refused() -> None:
    """The arrays of the state are exactly those that its type has."""
    manifest, blobs = pack(fitted(), "pumps", SOURCE)
    arrays = load(blobs["state"])
    fewer = {name: array for name, array in arrays.items() if not name.endswith("mean")}
    assert_refused(manifest, {**blobs, "state": save(fewer)}, "'levels.0.mean' is missing")
    more = {**arrays, "other": np.zeros(3)}
    assert_refused(manifest, {**blobs, "state": save(more)}, "'other'")
    scores = load(blobs["calibration"])["scores"]
    assert_refused(manifest, {**blobs, "calibration": save({"scores": scores[:0]})}, "calibration")


def test_unknown_types_and_parameters_are_refused() -> None:
    """A version of a type that this build does not have says so."""
    manifest, blobs = pack(fitted(), "pumps", SOURCE)
    for text, says in (('"type": "gaussian"', "'other'"), ('"format": 1', "format 2")):
        changed = manifest.states[0].replace(text, {'"type": "gaussian"': '"type": "other"', '"format": 1': '"format": 2'}[text])
        assert [changed] != manifest.states
        assert_refused(manifest.model_copy(update={"states": [changed]}), blobs, says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "no JSON"),
        (b"[]", "schema None"),
        (b'{"schema": 2}', "newer farfield \\(schema 2; this one reads up to 1\\)"),
        (b'{"schema": 1}', "malformed at"),
    ],
)
def test_other_manifests_are_refused(text: bytes, says: str) -> None:
    """By what they are."""
    with pytest.raises(ManifestError, match=says):
        Manifest.parse(text)


def test_unknown_members_of_a_manifest_are_refused() -> None:
    """What a later build added may change the meaning of the rest."""
    text = pack(fitted(), "pumps", SOURCE)[0].canonical()
    with pytest.raises(ManifestError, match=r"^it was written by another release \(farfield .+\), whose 'surprise' this one does not know"):
        Manifest.parse(text.replace(b'"schema":1', b'"schema":1,"surprise":1'))


def test_large_images_are_no_golden_inputs() -> None:
    """They would make the version large; where all are large there are none, and the features alone are checked."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 600, 600, 3), dtype=np.uint8)
    assert noise[0].nbytes > GOLDEN_INPUT_BYTES
    before = engine.fit(Recipe(alpha=0.2), Batch(images=list(noise)), pixel_extractor())
    manifest, blobs = pack(before, "boards", SOURCE)
    after = unpack(manifest, blobs.__getitem__, device="cpu")
    assert (len(after.golden.inputs), len(after.golden.features)) == (0, GOLDEN_ROWS)
    after.check("boards", 1)
