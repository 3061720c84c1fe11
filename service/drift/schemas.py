"""The JSON of the report on drift."""

from __future__ import annotations

from pydantic import Field

from service.schemas import Schema


class MartingaleReport(Schema):
    log: float = Field(description="Natural logarithm of the conformal test martingale: evidence for drift; 0 at first.")
    highest: float = Field(description="The highest that it ever was.")
    limit: float = Field(description="The alarm is raised when it gets here: log(1 / rate).")
    rate: float = Field(description="Probability that the alarm is ever raised while nothing drifts, however long one watches.")
    alarm: bool = Field(description="Whether it was ever raised, since the stream began or was reset.")
    alarm_since: str | None
    alarm_row: int | None = Field(description="The row of the stream that raised it, counted from 1.")


class FalseAlarms(Schema):
    alpha: float = Field(description="The version's own.")
    outliers: int = Field(description="Rows with a p-value of at most alpha, whatever alpha their requests asked for.")
    rate: float | None = Field(description="Their share; null before any row.")
    lower: float = Field(description="Lower end of the interval of the rate, which holds at all times together.")
    upper: float
    confidence: float
    promised: tuple[float, float] | None = Field(
        description="Where the rate lies without drift, with this confidence, for so many calibration rows; null where its law is unknown."
    )


class FeatureDrift(Schema):
    feature: str
    log_evidence: float = Field(description="Natural logarithm of the evidence that recent rows have another law than calibration rows.")
    rank_shift: float = Field(description="P(a recent value exceeds a calibration value) less 1/2.")
    moved: bool


class Features(Schema):
    rows: int = Field(description="Recent rows of which the features were looked at.")
    watched: int = Field(description="Number of features.")
    fdr: float = Field(description="Expected share, at most, of features that have not moved among those told to have.")
    moved: int = Field(description="Features told to have moved.")
    ranked: list[FeatureDrift] = Field(description="Those with the strongest evidence, strongest first.")


class Wasserstein(Schema):
    rows: int = Field(description="The most recent rows, which are compared.")
    distance: float = Field(description="Sliced 2-Wasserstein distance between them and the calibration rows, in the unit of the features.")
    null_scale: float = Field(description="The distance to expect without drift.")
    ratio: float | None = Field(description="The one by the other: about 1 without drift.")


class DriftReport(Schema):
    detector: str
    version: int
    rows: int = Field(description="Rows of the stream, over all replicas.")
    since: str | None = Field(description="When its first row was scored.")
    last: str | None = Field(description="When its last row was.")
    martingale: MartingaleReport | None
    no_martingale: str | None = Field(description="Why there is none.")
    false_alarms: FalseAlarms
    features: Features | None
    wasserstein: Wasserstein | None
    no_features: str | None = Field(description="Why features are not told of.")
