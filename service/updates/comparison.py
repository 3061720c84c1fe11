"""How two versions differ: in what they are made of, in what they learned, and in how they judge the same rows. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors import ClassGaussian, Detector, Gaussian
from detectors.moments import Moments
from detectors.norm import VarianceNorm
from service.engine import Fitted

LARGEST_SHIFTS = 5

Learned = tuple[Moments, VarianceNorm]


@dataclass(frozen=True, slots=True)
class FeatureShift:
    """Mean of one feature; ``standard_deviations`` are of the older version, and None where the feature never varied in it."""

    feature: str
    older: float
    newer: float
    standard_deviations: float | None


@dataclass(frozen=True, slots=True)
class Shift:
    """What one part of a detector learned, newer against older; all None where it keeps no sums, or where the two are not alike.

    ``mean_shift`` is the Mahalanobis length of the difference of the means under the older covariance: square root of chi-square.
    ``covariance_change`` is the Frobenius norm of the difference of the covariances over that of the older one, both with each
    feature in standard deviations of the older version.
    """

    part: str
    mean_shift: float | None = None
    covariance_change: float | None = None
    effective_rows: tuple[float, float] | None = None  # older and newer, see ``Moments.effective``
    features: tuple[FeatureShift, ...] = ()  # those that moved farthest


@dataclass(frozen=True, slots=True)
class Difference:
    """``changes`` has what differs of the recipe and the numbers, older and newer; ``golden_p_values`` are of golden rows of the older."""

    changes: dict[str, tuple[Any, Any]]
    shifts: tuple[Shift, ...]
    golden_p_values: tuple[tuple[float, float], ...] | None  # by older and newer; None where the newer cannot score them

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare(older: Fitted, newer: Fitted) -> Difference:
    """The difference of two versions that were loaded with their statistics. Cost: O(d²) for d features."""
    ours, theirs = _facts(older), _facts(newer)
    changes = {what: (ours[what], theirs[what]) for what in ours if ours[what] != theirs[what]}
    return Difference(changes, tuple(_shifts(older, newer)), _golden_p_values(older, newer))


def _facts(fitted: Fitted) -> dict[str, Any]:
    recipe = fitted.recipe
    return {
        "type": recipe.type,
        "parameters": recipe.parameters,
        "levels": [f"{level.name} ({level.width})" for level in fitted.levels],
        "extractor": fitted.extractor.digest if fitted.extractor else None,
        "calibration": recipe.method,
        "trim": recipe.trim,
        "alpha": recipe.alpha,
        "n_fit": fitted.n_fit,
        "n_calibration": fitted.n_calibration,
        "threshold": _threshold(fitted),
    }


def _threshold(fitted: Fitted) -> float | None:
    return fitted.judge.judge(fitted.golden.features[:1], fitted.recipe.alpha).threshold


def _comparable(older: Fitted, newer: Fitted) -> bool:
    """Whether features of the one mean the same in the other."""
    extractors = [fitted.extractor.digest if fitted.extractor else None for fitted in (older, newer)]
    return older.levels == newer.levels and older.feature_names == newer.feature_names and extractors[0] == extractors[1]


def _shifts(older: Fitted, newer: Fitted) -> Iterator[Shift]:
    pairs = zip(older.recipe.types, older.judge.detectors, strict=False)  # of cross-conformal calibration the first of the folds
    for index, (kind, detector) in enumerate(pairs):
        ours = _learned(detector)
        theirs = _learned(newer.judge.detectors[index]) if _comparable(older, newer) and older.recipe.type == newer.recipe.type else []
        if not ours or [len(moments.mean) for moments, _ in ours] != [len(moments.mean) for moments, _ in theirs]:
            yield Shift(kind)
            continue
        first = 0
        for level, ((moments, norm), (moved, _)) in enumerate(zip(ours, theirs, strict=True)):
            part = kind if len(ours) == 1 else f"{kind}, {older.levels[level].name}"
            yield _shift(part, moments, norm, moved, older, first)
            first += len(moments.mean)


def _shift(part: str, older: Moments, norm: VarianceNorm, newer: Moments, fitted: Fitted, first: int) -> Shift:
    length = float(np.sqrt(norm.squared(newer.mean[None])[0]))
    scale = np.sqrt(np.diag(older.scatter) / older.mass)
    scale[scale == 0] = 1.0
    before, after = (moments.scatter / moments.mass / np.outer(scale, scale) for moments in (older, newer))
    change = float(np.linalg.norm(after - before) / max(np.linalg.norm(before), np.finfo(float).tiny))
    features = tuple(_feature_shifts(older, newer.mean, [fitted.feature_name(first + i) for i in range(len(scale))]))
    return Shift(part, length, change, (older.effective, newer.effective), features)


def _feature_shifts(older: Moments, mean: NDArray[np.float64], names: list[str]) -> Iterator[FeatureShift]:
    deviation = np.sqrt(np.diag(older.scatter) / older.mass)
    moved = mean - older.mean
    shifts = np.divide(moved, deviation, out=np.where(moved == 0, 0.0, np.inf), where=deviation > 0)
    for i in np.argsort(-np.abs(shifts), kind="stable")[:LARGEST_SHIFTS]:
        if moved[i]:
            yield FeatureShift(names[i], float(older.mean[i]), float(mean[i]), float(shifts[i]) if np.isfinite(shifts[i]) else None)


def _learned(detector: Detector[Any]) -> list[Learned]:
    """Moments of what was learned, level by level, with the norm by which a score is measured; empty where they are not kept."""
    statistics = getattr(detector.state_, "statistics", None)
    if statistics is None:
        return []
    if isinstance(detector, Gaussian):
        return list(zip(statistics.levels, detector.state_.levels, strict=True))
    if isinstance(detector, ClassGaussian):
        within, _ = statistics.moments()
        return [(within, detector.state_.norm)]
    return []


def _golden_p_values(older: Fitted, newer: Fitted) -> tuple[tuple[float, float], ...] | None:
    if not _comparable(older, newer) or not len(older.golden.features):
        return None
    rows = older.golden.features
    before, after = (fitted.judge.judge(rows, fitted.recipe.alpha).p_values.tolist() for fitted in (older, newer))
    return tuple(zip(before, after, strict=True))
