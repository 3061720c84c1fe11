"""Judges: the fitted detectors of a version with the calibration that turns their scores into p-values. Pure.

A version has one judge. Which one follows from the method of calibration; each says how it is
fitted, what it answers, and which arrays of it are stored beside the detectors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from detectors import Calibration, ClassGaussian, CombinedCalibration, CrossConformal, Detector, GroupedCalibration, ParetoTail
from detectors.labels import decoded, encoded
from service.names import Method

Features = NDArray[Any]  # (n, d)
Scores = NDArray[np.float64]  # (n,)
Arrays = dict[str, NDArray[Any]]
Held = tuple[NDArray[np.intp], NDArray[np.intp]]  # indices of the rows to fit on and of those held out


@dataclass(frozen=True, slots=True)
class Judgement:
    scores: Scores
    p_values: Scores
    threshold: float | None  # above it a score is an outlier at alpha; None where no one score decides
    nearest_class: NDArray[Any] | None = None  # within which each row was judged


class Judge(ABC):
    """Base of all judges."""

    METHOD: ClassVar[Method]

    @classmethod
    @abstractmethod
    def calibrated(cls, detectors: Sequence[Detector[Any]], rows: Features, trim: float = 0.0) -> Self:
        """The judge of fitted ``detectors`` by ``rows`` (n, d), normal ones that none of them has seen."""

    @property
    @abstractmethod
    def detectors(self) -> tuple[Detector[Any], ...]:
        """The fitted detectors."""

    @property
    @abstractmethod
    def reference(self) -> Scores:
        """Scores of all calibration rows, ascending."""

    @abstractmethod
    def judge(self, features: Features, alpha: float, *, tail: bool = False) -> Judgement:
        """Scores and p-values. Raises ValueError for an ``alpha`` that no p-value can reach, and where there is no ``tail``."""

    @abstractmethod
    def arrays(self) -> Arrays:
        """What is stored of the calibration."""

    @classmethod
    @abstractmethod
    def restored(cls, detectors: Sequence[Detector[Any]], arrays: Arrays) -> Self:
        """The judge of stored detectors and arrays."""

    def scores(self, features: Features) -> Scores:
        """The scores alone."""
        return np.asarray(np.sum([detector.scores(features) / len(self.detectors) for detector in self.detectors], axis=0))

    def off_span(self, scores: Scores) -> NDArray[np.bool_]:
        """Which of ``scores`` are of rows that left the directions in which normal rows vary."""
        return self.detectors[0].off_span(scores)

    def attributions(self, features: Features, by: str = "feature") -> NDArray[np.float64]:
        """Shares of features, or of principal components, in the scores."""
        shares = [_shares(detector, features, by) / len(self.detectors) for detector in self.detectors]
        return np.asarray(np.sum(shares, axis=0))


@dataclass(frozen=True, slots=True)
class SplitJudge(Judge):
    """One detector, calibrated on rows held out."""

    METHOD: ClassVar[Method] = "split-conformal"
    detector: Detector[Any]
    calibration: Calibration
    trim: float = 0.0  # share of the highest scores that the calibration has lost

    @classmethod
    def calibrated(cls, detectors: Sequence[Detector[Any]], rows: Features, trim: float = 0.0) -> Self:
        (detector,) = detectors
        return cls(detector, Calibration.of(detector.scores(rows), trim=trim), trim)

    @property
    def detectors(self) -> tuple[Detector[Any], ...]:
        return (self.detector,)

    @property
    def reference(self) -> Scores:
        return self.calibration.scores

    def judge(self, features: Features, alpha: float, *, tail: bool = False) -> Judgement:
        if tail and self.trim:
            raise ValueError("a Pareto tail needs the highest calibration scores, and those of this version were trimmed")
        rule = ParetoTail.of(self.calibration) if tail else self.calibration
        rule.check_alpha(alpha)
        scores = self.detector.scores(features)
        return Judgement(scores, rule.p_values(scores), rule.threshold(alpha))

    def scores(self, features: Features) -> Scores:
        return self.detector.scores(features)

    def arrays(self) -> Arrays:
        return {"scores": self.calibration.scores, "trim": np.array(self.trim)}

    @classmethod
    def restored(cls, detectors: Sequence[Detector[Any]], arrays: Arrays) -> Self:
        (detector,) = detectors
        return cls(detector, Calibration.of(arrays["scores"]), float(arrays["trim"]))


@dataclass(frozen=True, slots=True)
class ClassJudge(Judge):
    """One detector of several classes, calibrated within the class that each held-out row is nearest to."""

    METHOD: ClassVar[Method] = "class-conditional"
    detector: ClassGaussian
    calibration: GroupedCalibration

    @classmethod
    def calibrated(cls, detectors: Sequence[Detector[Any]], rows: Features, trim: float = 0.0) -> Self:  # noqa: ARG003
        (detector,) = detectors
        if not isinstance(detector, ClassGaussian):
            raise ValueError("calibration by class needs a detector that tells the nearest class: type class_gaussian")  # noqa: TRY004
        return cls(detector, GroupedCalibration.of(detector.scores(rows), detector.nearest_class(rows)))

    @property
    def detectors(self) -> tuple[Detector[Any], ...]:
        return (self.detector,)

    @property
    def reference(self) -> Scores:
        return np.sort(np.concatenate([calibration.scores for calibration in self.calibration.calibrations]))

    def judge(self, features: Features, alpha: float, *, tail: bool = False) -> Judgement:
        _refuse_tail(tail, self.METHOD)
        self.calibration.check_alpha(alpha)
        scores, nearest = self.detector.scores(features), self.detector.nearest_class(features)
        return Judgement(scores, self.calibration.p_values(scores, nearest), None, nearest)

    def arrays(self) -> Arrays:
        codes, text = encoded(self.calibration.groups)
        counts = [len(calibration.scores) for calibration in self.calibration.calibrations]
        scores = np.concatenate([calibration.scores for calibration in self.calibration.calibrations])
        return {"codes": codes, "text": np.array(text), "counts": np.array(counts), "scores": scores}

    @classmethod
    def restored(cls, detectors: Sequence[Detector[Any]], arrays: Arrays) -> Self:
        (detector,) = detectors
        if not isinstance(detector, ClassGaussian):
            raise TypeError("its detector tells no classes")
        groups = decoded(arrays["codes"], int(arrays["text"]))
        return cls(detector, GroupedCalibration.of(arrays["scores"], np.repeat(groups, arrays["counts"])))


@dataclass(frozen=True, slots=True)
class CrossJudge(Judge):
    """One detector per fold of the rows, each calibrated on the fold that it has not seen."""

    METHOD: ClassVar[Method] = "cross-conformal"
    cross: CrossConformal

    @classmethod
    def fitted(cls, detector: Detector[Any], features: Features, labels: Any, folds: int, seed: int) -> Self:
        """The judge that holds no rows out: one copy of ``detector`` for each fold of the rows."""
        return cls(CrossConformal.fit(detector, features, labels, folds=folds, seed=seed))

    @classmethod
    def calibrated(cls, detectors: Sequence[Detector[Any]], rows: Features, trim: float = 0.0) -> Self:  # noqa: ARG003
        raise ValueError(f"{cls.METHOD} calibration needs all rows at once: it fits a detector for each fold of them")

    @property
    def detectors(self) -> tuple[Detector[Any], ...]:
        return self.cross.detectors

    @property
    def reference(self) -> Scores:
        return np.sort(np.concatenate([calibration.scores for calibration in self.cross.calibrations]))

    def judge(self, features: Features, alpha: float, *, tail: bool = False) -> Judgement:
        _refuse_tail(tail, self.METHOD)
        self.cross.check_alpha(alpha)
        return Judgement(*self.cross.score(features), None)

    def arrays(self) -> Arrays:
        return {f"scores.{fold}": calibration.scores for fold, calibration in enumerate(self.cross.calibrations)}

    @classmethod
    def restored(cls, detectors: Sequence[Detector[Any]], arrays: Arrays) -> Self:
        calibrations = tuple(Calibration.of(arrays[f"scores.{fold}"]) for fold in range(len(detectors)))
        return cls(CrossConformal(tuple(detectors), calibrations))


@dataclass(frozen=True, slots=True)
class CombinedJudge(Judge):
    """Detectors of several types, calibrated as one by the same held-out rows.

    The score is the mean of the detectors' scores, each less its median over the calibration rows and divided by the
    distance of their quartiles. The p-value does not follow from it but from the ranks by all detectors, see ``CombinedCalibration``.
    """

    METHOD: ClassVar[Method] = "combined"
    members: tuple[Detector[Any], ...]
    calibration: CombinedCalibration

    @classmethod
    def calibrated(cls, detectors: Sequence[Detector[Any]], rows: Features, trim: float = 0.0) -> Self:  # noqa: ARG003
        return cls(tuple(detectors), CombinedCalibration.of(np.column_stack([detector.scores(rows) for detector in detectors])))

    @property
    def detectors(self) -> tuple[Detector[Any], ...]:
        return self.members

    @property
    def reference(self) -> Scores:
        return np.sort(self._mean(self.calibration.scores))

    def judge(self, features: Features, alpha: float, *, tail: bool = False) -> Judgement:
        _refuse_tail(tail, self.METHOD)
        self.calibration.check_alpha(alpha)
        columns = self._columns(features)
        return Judgement(self._mean(columns), self.calibration.p_values(columns), None)

    def scores(self, features: Features) -> Scores:
        return self._mean(self._columns(features))

    def off_span(self, scores: Scores) -> NDArray[np.bool_]:
        return np.zeros(len(scores), dtype=np.bool_)

    def attributions(self, features: Features, by: str = "feature") -> NDArray[np.float64]:
        raise ValueError("a combined version gives no attribution: ask one of its detectors, fitted by itself")

    def arrays(self) -> Arrays:
        return {"scores": self.calibration.scores}

    @classmethod
    def restored(cls, detectors: Sequence[Detector[Any]], arrays: Arrays) -> Self:
        return cls(tuple(detectors), CombinedCalibration.of(arrays["scores"]))

    def _columns(self, features: Features) -> NDArray[np.float64]:
        return np.column_stack([detector.scores(features) for detector in self.members])

    def _mean(self, columns: NDArray[np.float64]) -> Scores:
        low, middle, high = np.quantile(self.calibration.scores, [0.25, 0.5, 0.75], axis=0)
        spread = np.where(high > low, high - low, 1.0)
        return np.asarray(((columns / len(self.members) - middle / len(self.members)) / spread).sum(axis=1))


JUDGES: dict[Method, type[Judge]] = {judge.METHOD: judge for judge in (SplitJudge, ClassJudge, CrossJudge, CombinedJudge)}


def _refuse_tail(tail: bool, method: str) -> None:
    if tail:
        raise ValueError(f"a Pareto tail continues a split-conformal calibration; this version's is {method}")


def _shares(detector: Detector[Any], features: Features, by: str) -> NDArray[np.float64]:
    if by == "feature":
        return detector.attributions(features)
    if not hasattr(detector, "component_attributions"):
        raise ValueError(f"a {type(detector).__name__} has no principal components to attribute a score to")
    return np.asarray(detector.component_attributions(features))
