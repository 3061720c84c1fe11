"""The stored form of a version: one canonical JSON manifest, and blobs that it names by sha256."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.names import Method

SCHEMA = 1  # raised when the meaning of a field changes


class ManifestError(ValueError):
    """The text is no manifest that this build can read; says why."""


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BlobReference(Part):
    """Where the bytes of a blob are: ``chunks`` pieces of ``chunk_bytes`` each, the last one shorter."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0)
    chunk_bytes: int = Field(gt=0)

    @property
    def chunks(self) -> int:
        return -(-self.size // self.chunk_bytes)

    @classmethod
    def to(cls, data: bytes, chunk_bytes: int) -> Self:
        return cls(sha256=hashlib.sha256(data).hexdigest(), size=len(data), chunk_bytes=chunk_bytes)


class LevelRecord(Part):
    name: str
    width: int = Field(gt=0)


class ExtractorRecord(Part):
    """``spec`` is what ``models.Extractor.spec`` gives; the ONNX file is the blob ``extractor``."""

    digest: str
    spec: dict[str, Any]


class CalibrationRecord(Part):
    """The scores of the calibration rows themselves are in the blob ``calibration``."""

    method: Method = "split-conformal"
    n: int = Field(gt=0)
    folds: int = 5  # of cross-conformal calibration
    trim: float = 0.0


class GoldenRecord(Part):
    """How closely a loaded version must give again the scores in the blob ``golden``.

    ``relative`` is for rows of features; ``absolute``, in the unit of the score, is for raw inputs,
    whose features differ a little between processors.
    """

    rows: int = Field(ge=0)
    inputs: int = Field(ge=0)
    relative: float = Field(gt=0)
    absolute: float = Field(gt=0)


class Source(Part):
    """The data of the fit: a name for people, and the sha256 of all rows, or of what is known of the files without reading them."""

    name: str
    rows: int
    sha256: str
    of: Literal["rows", "files"] = "rows"  # what the sha256 is of
    lost: int = 0  # files, parts and images that could not be read and were left out


class SampleRecord(Part):
    """Rows that a detector was fitted on where memory did not hold them all, with the error of a quantile's rank at 95 %."""

    rows: int = Field(gt=0)
    of: int = Field(gt=0)
    rank_error: float = Field(ge=0)


class UpdateRecord(Part):
    """What made a version of its parent, in this order."""

    forgotten: int = Field(0, ge=0, description="Rows taken out of the sums, which cannot tell whether they were ever in them.")
    forgotten_calibration: int = Field(0, ge=0, description="Rows found among those held out, and taken out.")
    merged: list[str] = Field([], description="Versions whose rows were added, as NAME:VERSION.")
    half_life: float | None = Field(None, gt=0, description="In rows added.")
    weight: float = Field(1.0, gt=0, le=1, description="What each earlier row counts of what it did before.")
    added: int = Field(0, ge=0, description="New rows learned.")
    added_calibration: int = Field(0, ge=0, description="New rows held out.")
    false_alarms: int = Field(0, ge=0, description="How many of these are there since people marked them as false alarms.")


class Manifest(Part):
    """All that is known of a version but its number, which is its place in the store."""

    schema_: Literal[1] = Field(1, alias="schema")
    writer: str
    detector: str
    type: str
    parameters: dict[str, Any]
    levels: list[LevelRecord]
    feature_names: list[str] | None = None
    extractor: ExtractorRecord | None = None
    n_fit: int
    calibration: CalibrationRecord
    alpha: float = Field(gt=0, lt=1)
    seed: int
    calibrate: float
    sum_levels: bool
    source: Source
    sample: SampleRecord | None = None
    golden: GoldenRecord
    states: list[str]  # JSON texts of detectors.dumps; their arrays are the blobs `state`, `statistics`, `state.1` and so on
    facts: list[dict[str, float]] = []  # what each of these detectors tells of its fit
    blobs: dict[str, BlobReference]
    parent: int | None = None
    update: UpdateRecord | None = None
    created: str

    @property
    def width(self) -> int:
        return sum(level.width for level in self.levels)

    @cached_property
    def state_bytes(self) -> int:
        """Of what scoring goes through."""
        return sum(blob.size for name, blob in self.blobs.items() if name.startswith("state"))

    def canonical(self) -> bytes:
        """UTF-8 JSON with sorted keys and no blanks: equal manifests give equal bytes."""
        data = self.model_dump(mode="json", by_alias=True)
        return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """The manifest in ``text``; raises ManifestError for another schema, for a field of a newer release, and for anything malformed."""
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ManifestError(f"its manifest is no JSON: {error}") from None
        found = data.get("schema") if isinstance(data, dict) else None
        if isinstance(found, int) and found > SCHEMA:
            raise ManifestError(f"it was written by a newer farfield (schema {found}; this one reads up to {SCHEMA})")
        if found != SCHEMA:
            raise ManifestError(f"its manifest has schema {found!r}; schema {SCHEMA} is read")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")  # which explains what else is odd
            place = ".".join(map(str, first["loc"]))
            if first["type"] == "extra_forbidden":
                writer = data.get("writer")
                raise ManifestError(f"it was written by another release ({writer}), whose {place!r} this one does not know") from None
            raise ManifestError(f"its manifest is malformed at {place}: {first['msg']}") from None
