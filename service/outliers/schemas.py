"""The JSON of the feed of outliers, of feedback and of shadows."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from service.names import ALIAS_PATTERN, Verdict
from service.outliers.feed import Outlier, encoded, timestamp
from service.outliers.feedback import Mark
from service.outliers.figures import AFTER, BEFORE, BOTH, NEITHER
from service.outliers.shadow import Pair, Setting
from service.schemas import Schema


class FeatureShare(Schema):
    feature: str
    share: float


class OutlierAnswer(Schema):
    id: str = Field(description="The same as of its webhook.")
    place: str = Field(description="Its entry in the stream, for `before`.")
    time: str
    key: str = Field(description="As the caller named the row, else the request and the row's index in it.")
    version: int
    score: float
    p_value: float
    alpha: float = Field(description="The one that its request was judged by.")
    attribution: list[FeatureShare] = Field(description="The largest shares in its score; none where the detector gives none.")
    features: list[float] | None = Field(description="Where FARFIELD_OUTLIER_INPUTS keeps them.")
    thumbnail: str | None = Field(description="PNG in base64, of an image, where FARFIELD_OUTLIER_INPUTS keeps it.")

    @classmethod
    def of(cls, outlier: Outlier) -> OutlierAnswer:
        return cls(
            **outlier.plain(),
            place=outlier.place,
            features=None if outlier.features is None else outlier.features.tolist(),
            thumbnail=encoded(outlier.thumbnail) if outlier.thumbnail else None,
        )


class OutlierList(Schema):
    detector: str
    outliers: list[OutlierAnswer] = Field(description="The newest first.")


class Annotation(Schema):
    """In the form of Grafana's own annotations."""

    time: int = Field(description="Milliseconds since 1970.")
    title: str
    text: str = Field(description="Escaped for HTML, as which dashboards show it.")
    tags: list[str]


class FeedbackOptions(Schema):
    """All of a request for feedback but the rows."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"keys": ["pump-7/2026-01-02"], "verdict": "false_alarm"}})

    keys: list[Any] = Field(min_length=1, max_length=1000, description="Keys of the rows: strings or whole numbers.")
    verdict: Verdict | None = Field(description="What they are; null takes back what was said.")


class FeedbackRequest(FeedbackOptions):
    rows: list[list[float]] | None = Field(None, description="The rows, one for each key, where the feed does not keep them.")


class FeedbackAnswer(Schema):
    detector: str
    changed: int = Field(description="Rows that were marked otherwise before, or not at all.")


class MarkAnswer(Schema):
    key: str
    verdict: Verdict
    time: str
    version: int | None = Field(description="Of the newest outlier with this key, where the feed had one; and so are the next two.")
    score: float | None
    p_value: float | None
    row: bool = Field(description="Whether its features are kept, without which it calibrates nothing.")

    @classmethod
    def of(cls, mark: Mark) -> MarkAnswer:
        return cls(
            key=mark.key,
            verdict=mark.verdict,
            time=timestamp(mark.time),
            version=mark.version,
            score=mark.score,
            p_value=mark.p_value,
            row=mark.features is not None,
        )


class FeedbackList(Schema):
    detector: str
    feedback: list[MarkAnswer] = Field(description="What was said last first.")


class ShadowRequest(Schema):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"alias": "champion", "shadow": "challenger", "share": 0.1}})

    alias: str = Field(pattern=ALIAS_PATTERN, description="Whose traffic is compared.")
    shadow: str = Field(pattern=ALIAS_PATTERN, description="Who scores it too.")
    share: float = Field(1.0, gt=0, le=1, description="Of the rows, drawn at random.")

    def setting(self) -> Setting:
        return Setting(self.alias, self.shadow, self.share)


class Comparison(Schema):
    """Of the process that answers, since these two versions are compared; the metrics add up over processes."""

    version: int
    shadow_version: int
    rows: int
    agreement: float | None = Field(description="Share of rows that both call outliers, or neither, at the alpha of the version.")
    both: int = Field(description="Rows that both call outliers.")
    only_version: int
    only_shadow: int
    mean_p_value_difference: float | None = Field(description="Mean of the absolute differences of p-values.")

    @classmethod
    def of(cls, pair: Pair) -> Comparison:
        counts = pair.compared.rows
        rows = sum(counts.values())
        return cls(
            version=pair.version.number,
            shadow_version=pair.shadow.number,
            rows=rows,
            agreement=(counts[BOTH] + counts[NEITHER]) / rows if rows else None,
            both=counts[BOTH],
            only_version=counts[BEFORE],
            only_shadow=counts[AFTER],
            mean_p_value_difference=pair.compared.difference / rows if rows else None,
        )


class ShadowAnswer(Schema):
    alias: str
    shadow: str
    share: float
    compared: Comparison | None = Field(description="Null while one of the aliases is not set, or both mean the same version.")

    @classmethod
    def of(cls, setting: Setting, pair: Pair | None) -> ShadowAnswer:
        compared = Comparison.of(pair) if pair else None
        return cls(alias=setting.alias, shadow=setting.shadow, share=setting.share, compared=compared)
