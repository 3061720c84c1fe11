"""What a stream tells of drift: as figures for Prometheus, and in words and names for people. Pure."""

from __future__ import annotations

import numpy as np

from detectors.alarm_rate import confidence_sequence, promised
from detectors.bins import Bins, Counts, log_evidence, moved, rank_shift
from detectors.wasserstein import Slices
from service.drift.schemas import DriftReport, FalseAlarms, FeatureDrift, Features, MartingaleReport, Wasserstein
from service.drift.stream import ALARM, RATE, Reference, Stream, timestamp, unlike
from service.engine import Fitted

DOUBT = 0.05  # of intervals
FDR = 0.05  # among features told to have moved
NO_SKETCH = "this version was published without a sketch of its calibration rows: fit it again to watch its features"


def report(name: str, number: int, fitted: Fitted, reference: Reference, stream: Stream, ranked: int) -> DriftReport:
    """Everything, with the ``ranked`` features that moved most."""
    sketch = reference.sketch
    return DriftReport(
        detector=name,
        version=number,
        rows=stream.rows,
        since=timestamp(stream.began) if stream.rows else None,
        last=timestamp(stream.last) if stream.rows else None,
        martingale=_martingale(stream) if reference.bins else None,
        no_martingale=unlike(fitted),
        false_alarms=_false_alarms(fitted, reference, stream),
        features=_features(fitted, sketch.bins, _counts(stream), ranked) if sketch and sketch.bins else None,
        wasserstein=_wasserstein(sketch.slices, stream) if sketch and len(stream.recent) else None,
        no_features=_no_features(reference),
    )


def figures(reference: Reference, stream: Stream, fitted: Fitted) -> dict[str, float]:
    """By the names of the metrics; what a version does not have is left out."""
    alarms = _false_alarms(fitted, reference, stream)
    told: dict[str, float | None] = {
        "farfield_drift_rows": stream.rows,
        "farfield_false_alarm_rate": alarms.rate,
        "farfield_false_alarm_rate_lower": alarms.lower,
        "farfield_false_alarm_rate_upper": alarms.upper,
        "farfield_alpha": reference.alpha,
    }
    if alarms.promised:
        told["farfield_false_alarm_rate_promised_lower"], told["farfield_false_alarm_rate_promised_upper"] = alarms.promised
    if reference.bins:
        told["farfield_drift_log_martingale"] = stream.log_value
        told["farfield_drift_log_martingale_highest"] = stream.highest
        told["farfield_drift_alarm"] = float(stream.alarm)
    sketch = reference.sketch
    if sketch and len(stream.recent):
        told["farfield_drift_wasserstein_ratio"] = _wasserstein(sketch.slices, stream).ratio
        if sketch.bins:
            told["farfield_drift_features_moved"] = float(moved(log_evidence(sketch.bins.gaps, _counts(stream)), FDR).sum())
    return {figure: value for figure, value in told.items() if value is not None}


def _martingale(stream: Stream) -> MartingaleReport:
    return MartingaleReport(
        log=stream.log_value,
        highest=stream.highest,
        limit=ALARM,
        rate=RATE,
        alarm=stream.alarm,
        alarm_since=timestamp(stream.alarm_at) if stream.alarm else None,
        alarm_row=stream.alarm_row or None,
    )


def _false_alarms(fitted: Fitted, reference: Reference, stream: Stream) -> FalseAlarms:
    count, alpha = fitted.n_calibration, reference.alpha
    lower, upper = confidence_sequence(stream.outliers, stream.rows, alpha, count, DOUBT)
    exact = reference.bins is not None and fitted.judge.METHOD == "split-conformal"
    return FalseAlarms(
        alpha=alpha,
        outliers=stream.outliers,
        rate=stream.outliers / stream.rows if stream.rows else None,
        lower=lower,
        upper=upper,
        confidence=1 - DOUBT,
        promised=promised(alpha, count, DOUBT) if exact else None,
    )


def _counts(stream: Stream) -> Counts:
    """Counts (bins, d) of the last whole window and the one begun, together."""
    return np.asarray(stream.windows.sum(axis=0, dtype=np.int64))


def _features(fitted: Fitted, bins: Bins, counts: Counts, ranked: int) -> Features:
    evidence, shift = log_evidence(bins.gaps, counts), rank_shift(bins.gaps, counts)
    found = moved(evidence, FDR)
    return Features(
        rows=int(counts[:, 0].sum()),
        watched=len(evidence),
        fdr=FDR,
        moved=int(found.sum()),
        ranked=[
            FeatureDrift(feature=fitted.feature_name(i), log_evidence=evidence[i], rank_shift=shift[i], moved=found[i])
            for i in np.argsort(-evidence, kind="stable")[:ranked].tolist()
        ],
    )


def _wasserstein(slices: Slices, stream: Stream) -> Wasserstein:
    distance, null = slices.distance(stream.recent), slices.null_scale(len(stream.recent))
    return Wasserstein(rows=len(stream.recent), distance=distance, null_scale=null, ratio=distance / null if null else None)


def _no_features(reference: Reference) -> str | None:
    if reference.sketch is None:
        return NO_SKETCH
    return None if reference.sketch.bins else "too many features to watch one by one: see the distance of all of them together"
