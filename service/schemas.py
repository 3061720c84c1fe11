"""The JSON of the HTTP interface, with the examples that its documentation shows."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Schema(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Options(Schema):
    """How to judge a batch; each may stand in the query or in a JSON body, where the body wins."""

    alpha: float | None = Field(None, gt=0, lt=1, description="Accepted false-alarm rate; the version's own by default.")
    fdr: bool = Field(False, description="Judge the batch together, by Benjamini and Hochberg at level alpha.")
    tail: Literal["pareto"] | None = Field(
        None, description="Continue p-values beyond the largest calibration score by a generalised Pareto model, which guarantees nothing."
    )
    attribute: int = Field(0, ge=0, le=100, description="Name this many features with the largest shares in each score.")
    attribute_by: Literal["feature", "level", "component"] = Field(
        "feature", description="What `attribute` counts: features, levels of the extractor, or principal components."
    )
    chi_square: bool = Field(
        False,
        description="Add the p-value by the detector's own model, a chi-square law that real features are far from: not calibrated.",
    )


class ScoreRequest(Options):
    rows: list[list[float]] = Field(description="Rows of features, all of the detector's width.")
    keys: list[str | int] | None = Field(None, description="What the rows are called in the feed of outliers, in feedback and in webhooks.")


class Share(Schema):
    """One of `feature`, `level` and `component` is there: what `attribute_by` asked for."""

    feature: str | None = None
    level: str | None = None
    component: str | None = None
    share: float = Field(
        description="What it adds to the score, or by how much the score falls without it: see `attribution` of the answer."
    )


class Result(Schema):
    score: float = Field(description="Higher = more anomalous, in the detector's own unit.")
    p_value: float = Field(description="Probability of a score at least this large for a normal row.")
    is_outlier: bool
    off_span: bool | None = Field(None, description="Whether the row left the directions in which normal rows vary; only where one did.")
    nearest_class: str | int | None = Field(None, description="The class within which the row was judged, where calibration is by class.")
    chi_square_p_value: float | None = Field(None, description="By the detector's own model, on request; not calibrated.")
    attribution: list[Share] | None = Field(None, description="The largest shares, on request.")


class ScoreResponse(Schema):
    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "detector": "screws",
                "version": 3,
                "alpha": 0.01,
                "threshold": 1520.4,
                "calibration": "split-conformal",
                "n_calibration": 400,
                "results": [{"score": 2210.7, "p_value": 0.0024937, "is_outlier": True}],
            }
        }
    )

    detector: str
    version: int = Field(description="The version that gave all of these results.")
    alpha: float
    threshold: float | None = Field(description="Scores above it are outliers; null where p-values do not follow from the score alone.")
    calibration: str = Field(description="Method of calibration: split-conformal, class-conditional, cross-conformal or combined.")
    n_calibration: int
    tail: str | None = Field(None, description="Says that p-values are continued by a model, where that was asked for.")
    attribution: Literal["additive", "leave_one_out"] | None = Field(None, description="What shares are, where some were asked for.")
    results: list[Result]


class DetectorSummary(Schema):
    name: str
    versions: list[int]
    aliases: dict[str, int]
    default_version: int = Field(description="What a request without alias or number is scored by.")


class DetectorList(Schema):
    detectors: list[DetectorSummary]
    next: str | None = Field(None, description="Where there are more than were asked for: `after` of the request that goes on.")


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
    calibration: str
    folds: int | None = Field(description="Of cross-conformal calibration.")
    trim: float = Field(description="Share of the highest calibration scores left out; more than 0 gives up the guarantee.")
    n_calibration: int
    alpha: float
    source: dict[str, Any]
    facts: list[dict[str, float]] = Field(description="What each detector of the version tells of its fit, such as its `jitter`.")
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
