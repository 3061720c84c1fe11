"""The JSON of the HTTP interface, with the examples that its documentation shows."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Schema(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Options(Schema):
    """How to judge a batch; each may stand in the query or in a JSON body, where the body wins."""

    alpha: float | None = Field(None, gt=0, lt=1, description="Accepted false-alarm rate; the version's own by default.")
    fdr: bool = Field(False, description="Judge the batch together, by Benjamini and Hochberg at level alpha.")
    attribute: int = Field(0, ge=0, le=100, description="Name this many features with the largest shares in each score.")


class ScoreRequest(Options):
    rows: list[list[float]] = Field(description="Rows of features, all of the detector's width.")


class Share(Schema):
    feature: str
    share: float = Field(description="What the feature adds to the score; all shares of a row add up to it.")


class Result(Schema):
    score: float = Field(description="Higher = more anomalous, in the detector's own unit.")
    p_value: float = Field(description="Probability of a score at least this large for a normal row.")
    is_outlier: bool
    attribution: list[Share] | None = Field(None, description="The largest shares, on request.")


class ScoreResponse(Schema):
    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "detector": "screws",
                "version": 3,
                "alpha": 0.01,
                "threshold": 1520.4,
                "n_calibration": 400,
                "results": [{"score": 2210.7, "p_value": 0.0024937, "is_outlier": True}],
            }
        }
    )

    detector: str
    version: int = Field(description="The version that gave all of these results.")
    alpha: float
    threshold: float | None = Field(description="Scores above it are outliers; null where alpha is too small for any.")
    n_calibration: int
    warning: str | None = None
    results: list[Result]


class DetectorSummary(Schema):
    name: str
    versions: list[int]
    aliases: dict[str, int]
    default_version: int = Field(description="What a request without alias or number is scored by.")


class DetectorList(Schema):
    detectors: list[DetectorSummary]


class VersionSummary(Schema):
    """What a version is, as its manifest has it."""

    detector: str
    version: int
    aliases: list[str]
    type: str
    parameters: dict[str, Any]
    levels: list[dict[str, Any]]
    extractor: dict[str, Any] | None
    n_fit: int
    n_calibration: int
    alpha: float
    source: dict[str, Any]
    golden_rows: int
    bytes: int
    parent: int | None
    created: str
    writer: str


class Refused(Schema):
    detector: str
    version: int
    reason: str


class VersionList(Schema):
    versions: list[VersionSummary]
    refused: list[Refused] = Field(description="Versions whose manifest is damaged.")


class AliasRequest(Schema):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"version": 3, "expected": 2}})

    version: int = Field(gt=0)
    expected: int | None = Field(None, ge=0, description="Where the alias must be now for the move to happen; 0: not set.")


class AliasResponse(Schema):
    detector: str
    alias: str
    version: int
    previous: int | None = Field(description="Where the alias was before.")


class AliasHistory(Schema):
    detector: str
    alias: str
    version: int
    history: list[dict[str, Any]] = Field(description="Where the alias was, newest first, and until when.")


class Readiness(Schema):
    ready: bool
    store: str = Field(description="Name and version of the server, or why it does not answer.")
    loaded: int
    refused: list[Refused] = Field(description="Versions that were found damaged, or that score otherwise than when fitted.")


class FieldError(Schema):
    detail: str
    pointer: str = Field(description="JSON pointer into the body, or the name of a parameter of path or query.")


class Problem(Schema):
    """An error in the form of RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[FieldError] | None = None
