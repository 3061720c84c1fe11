"""The rows that a version scores as one stream, and what is remembered of it to tell drift. Pure, and of bounded size.

All replicas add to one stream, which lies in the store; see ``service.drift.monitor``. Its size does not grow with the rows: a count for
each bin of scores, two counts for each bin of each feature, and the projections of the last few rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import log
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from detectors.bins import Bins, Counts, upper_ranks
from detectors.martingale import BETS, Martingale
from service.engine import Fitted
from service.judges import ClassJudge, SplitJudge
from service.sketch import Sketch

RATE = 0.001  # probability that the drift alarm of a stream is ever raised while nothing drifts
ALARM = log(1 / RATE)
SCORE_BINS = 32
WINDOW = 1000  # rows of features to a window; what is told of features is of the last whole window and the one begun
RECENT = 256  # rows whose projections are kept

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Reference:
    """What the stream of a version is compared with."""

    bins: Bins | None  # of calibration scores; None where new scores are not exchangeable with them
    sketch: Sketch | None  # None for versions published without one
    alpha: float
    seed: int

    @classmethod
    def of(cls, fitted: Fitted) -> Self:
        scores = fitted.judge.reference[:, None]
        bins = Bins.of(scores, upper_ranks(len(scores), SCORE_BINS), fitted.recipe.seed) if unlike(fitted) is None else None
        return cls(bins, fitted.sketch, fitted.recipe.alpha, fitted.recipe.seed)


def unlike(fitted: Fitted) -> str | None:
    """Why new scores of a version would not be like its calibration scores even without drift; None where they are."""
    judge = fitted.judge
    if isinstance(judge, SplitJudge) and judge.trim:
        return "its highest calibration scores were trimmed, so that normal rows outscore the others too often"
    if not isinstance(judge, SplitJudge | ClassJudge):
        return f"{judge.METHOD} calibration scores are not made as those of new rows are, so that their ranks prove nothing"
    return None


@dataclass(frozen=True, slots=True)
class Sighting:
    """Rows scored one after another: what is to be added to a stream."""

    scores: Floats  # (m,)
    outliers: int  # with a p-value of at most the version's alpha
    features: Floats  # (k, d), some of the rows, chosen without looking at them
    at: float  # seconds since 1970


@dataclass(frozen=True, slots=True)
class Stream:
    """State after ``rows`` rows."""

    rows: int
    outliers: int
    began: float  # seconds since 1970
    last: float
    log_value: float  # log M of the martingale
    highest: float  # that it ever had: an alarm stays until the stream is begun anew
    alarm_row: int  # 0 without an alarm
    alarm_at: float
    martingale: Martingale
    windows: NDArray[np.int32]  # (2, bins, d) counts of features: of the last whole window, and of the one begun
    recent: NDArray[np.float32]  # (up to RECENT, L), projections of features, newest last

    @classmethod
    def begun(cls, reference: Reference) -> Self:
        """The stream of a version that has scored nothing."""
        sketch = reference.sketch
        martingale = Martingale.begun(len(_gaps(reference)))
        features = sketch.bins if sketch else None
        windows = np.zeros((2, len(features.gaps), features.edges.shape[1]) if features else (2, 0, 0), dtype=np.int32)
        recent = np.empty((0, sketch.slices.directions.shape[1] if sketch else 0), dtype=np.float32)
        return cls(0, 0, 0.0, 0.0, 0.0, 0.0, 0, 0.0, martingale, windows, recent)

    @property
    def alarm(self) -> bool:
        return self.alarm_row > 0

    def after(self, reference: Reference, seen: Sighting) -> Stream:
        """The stream with ``seen`` added. What is drawn follows from the seed and the rows before, so that it can be computed again."""
        drawn = np.random.default_rng([reference.seed, self.rows])
        stream = _judged(self, reference.bins, seen, drawn) if reference.bins else self
        if reference.sketch and len(seen.features):
            stream = _compared(stream, reference.sketch, seen.features, drawn)
        rows, began = self.rows + len(seen.scores), self.began or seen.at
        return replace(stream, rows=rows, outliers=self.outliers + seen.outliers, began=began, last=max(self.last, seen.at))

    def packed(self, reference: Reference) -> bytes:
        """As safetensors, with the weights of the bins of ``reference``, by which the counts are understood."""
        numbers = [self.rows, self.outliers, self.began, self.last, self.log_value, self.highest, self.alarm_row, self.alarm_at]
        return save(
            {
                "numbers": np.array(numbers, dtype=np.float64),
                "gaps": _gaps(reference),
                "counts": self.martingale.counts,
                "wealth": self.martingale.wealth,
                "windows": np.ascontiguousarray(self.windows),
                "recent": np.ascontiguousarray(self.recent),
            }
        )

    @classmethod
    def unpacked(cls, data: bytes, reference: Reference) -> Stream:
        """A stored stream; one begun anew where what is stored was written by another release and does not fit."""
        begun = cls.begun(reference)
        arrays = load(data)
        if not {"numbers", "gaps", "wealth", "windows", "recent", "counts"} <= set(arrays):
            return begun
        rows, outliers, began, last, log_value, highest, alarm_row, alarm_at = arrays["numbers"].tolist()
        fits = np.array_equal(arrays["gaps"], _gaps(reference)) and arrays["wealth"].shape == (BETS,)
        if not (fits and arrays["windows"].shape == begun.windows.shape and arrays["recent"].shape[1:] == begun.recent.shape[1:]):
            return begun
        numbers = (int(rows), int(outliers), began, last, log_value, highest, int(alarm_row), alarm_at)
        return cls(*numbers, Martingale(arrays["counts"], arrays["wealth"]), arrays["windows"], arrays["recent"])


def _gaps(reference: Reference) -> Counts:
    return reference.bins.gaps if reference.bins else np.ones(1, dtype=np.int64)


def _judged(stream: Stream, bins: Bins, seen: Sighting, drawn: np.random.Generator) -> Stream:
    """With the scores added to the martingale."""
    index = bins.index(seen.scores[:, None], drawn.random((len(seen.scores), 1)))[:, 0]
    martingale, values = stream.martingale.updated(bins.gaps, index, 1 - drawn.random(len(index)))
    over = np.flatnonzero(values >= ALARM)
    if len(over) and not stream.alarm:
        stream = replace(stream, alarm_row=stream.rows + int(over[0]) + 1, alarm_at=seen.at)
    return replace(stream, martingale=martingale, log_value=float(values[-1]), highest=max(stream.highest, float(values.max())))


def _compared(stream: Stream, sketch: Sketch, features: Floats, drawn: np.random.Generator) -> Stream:
    """With the features counted in the window begun, and their projections kept."""
    recent = np.concatenate([stream.recent, sketch.slices.projected(features).astype(np.float32)])[-RECENT:]
    windows = stream.windows
    if sketch.bins:
        index = sketch.bins.index(features, drawn.random(features.shape))
        counts = np.stack([(index == place).sum(axis=0) for place in range(len(sketch.bins.gaps))])
        begun = windows[1] + counts.astype(np.int32)
        full = begun[:, 0].sum() >= WINDOW
        windows = np.stack([begun, np.zeros_like(begun)] if full else [windows[0], begun])
    return replace(stream, recent=recent, windows=windows)


def timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
