"""Living versions: one made of another without fitting it again, by rows added and forgotten, versions merged, and decay. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import dataclass, field
from operator import add, sub
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors import AdditiveDetector, AlphaTooSmall, rows_needed
from models.preprocessing import DEFAULT_MAX_PIXELS
from service.engine import Fitted, updatable
from service.errors import InvalidInput
from service.features import Batch, Features, Progress, extract
from service.golden import Golden
from service.judges import JUDGES, CrossJudge
from service.manifest import UpdateRecord
from service.reserve import Reserve, digests_of
from service.sketch import Sketch
from service.sources import Data, aligned

SMALLEST_WEIGHT = 2.0**-40  # of rows that have grown old: below, nothing of them is left
MOST_SHARED = 0.05  # of the rows held out by two versions that are to be merged


@dataclass(frozen=True, slots=True)
class Change:
    """What is done to a version, in this order."""

    forget: Data | None = None
    merge: dict[str, Fitted] = field(default_factory=dict)
    half_life: float | None = None
    add: Data | None = None


def updated(
    old: Fitted, change: Change, *, max_pixels: int = DEFAULT_MAX_PIXELS, progress: Progress = lambda phase, done, total: None
) -> tuple[Fitted, UpdateRecord]:
    """``old``, which stays as it is, with ``change`` done to it and calibrated again, and what was done.

    ``old`` has its statistics and its reserve. Of the rows added the share that was held out in the fit is held out; all that
    are held out by now are scored again by the new detector, which has seen none of them. Raises InvalidInput, naming the place.
    """
    update = _Update(old, max_pixels, progress)
    if change.forget:
        update.forget(change.forget)
    for reference, other in change.merge.items():
        update.merge(reference, other)
    if change.half_life is not None and change.add:
        update.decay(change.half_life, len(change.add.batch))
    if change.add:
        update.add(change.add)
    progress("fit", 0, 1)
    fitted = update.concluded()
    progress("fit", 1, 1)
    return fitted, UpdateRecord(**update.record)


class _Update:
    """An update half done: the sums learned, the rows held out, and the record of what was done."""

    def __init__(self, old: Fitted, max_pixels: int, progress: Progress) -> None:
        self.old, self.reserve = old, _kept(old)
        self.sums = list(_sums_of(old))
        self.n_fit, self.inputs = old.n_fit, old.golden.inputs
        self.record: dict[str, Any] = {}
        self._max_pixels, self._progress = max_pixels, progress

    def forget(self, given: Data) -> None:
        """Take rows out of those held out, where they are among them, and else out of those learned."""
        features = self._features(given, "#/forget")
        inputs = given.batch
        if self.old.extractor is None and inputs.rows is not None:
            inputs = Batch(rows=inputs.rows.astype(self.reserve.rows.dtype))  # in which they were held out
        digests = digests_of(inputs)
        learned = ~self.reserve.holds(digests)
        left = self.reserve.without(digests)
        before = len(self.reserve) + len(self.reserve.passed)
        self.record |= {"forgotten": int(learned.sum()), "forgotten_calibration": before - len(left) - len(left.passed)}
        if learned.any() and self.reserve.untold:
            raise InvalidInput(
                f"{self.reserve.untold} rows were held out of which nothing is kept, since they were more than a fit holds: whether "
                f"{learned.sum()} of these rows were learned cannot be told; fit again without them",
                "#/forget",
            )
        if learned.any():
            self._combine(sub, self._learned(features, given, np.flatnonzero(learned)), "these rows cannot be forgotten", "#/forget")
        self.reserve, self.n_fit = left, self.n_fit - int(learned.sum())
        self.inputs = self.inputs.take(np.flatnonzero(~np.isin(digests_of(self.inputs), digests)))

    def merge(self, reference: str, other: Fitted) -> None:
        """Add the rows that another version has learned, and those that it holds out."""
        for what, ours, theirs in _likeness(self.old, other):
            if ours != theirs:
                raise InvalidInput(f"version {reference} cannot be merged: its {what} is {theirs}, where {ours} is needed", "#/merge")
        held = _kept(other)
        if (shared := self.reserve.shared(held)) >= MOST_SHARED:
            raise InvalidInput(
                f"version {reference} cannot be merged: {shared:.0%} of the rows held out are the same in both, as of a version and one "
                "made of it, whose rows would count twice",
                "#/merge",
            )
        self._combine(add, _sums_of(other), f"version {reference} cannot be merged", "#/merge")
        self.reserve, self.n_fit = self.reserve.joined(held, self.old.recipe.seed), self.n_fit + other.n_fit
        self.record.setdefault("merged", []).append(reference)

    def decay(self, half_life: float, age: int) -> None:
        """Let what there is count half for each ``half_life`` of the ``age`` in rows by which it grows older."""
        weight = 2.0 ** -(age / half_life)
        if weight < SMALLEST_WEIGHT:
            raise InvalidInput(
                f"{age} rows are {age / half_life:.3g} half-lives, after which nothing is left of the older ones: "
                "fit on the new rows alone, or give a longer half-life",
                "#/half_life",
            )
        self.sums = [sums * weight for sums in self.sums]
        self.reserve = self.reserve.decayed(weight, self.old.recipe.seed)
        self.record |= {"half_life": half_life, "weight": weight}

    def add(self, given: Data) -> None:
        """Learn of the rows, and hold the share out that a fit does; what is no whole number is rounded up or down by chance."""
        features, recipe = self._features(given, "#/add"), self.old.recipe
        draw = np.random.default_rng([recipe.seed, self.n_fit, len(self.reserve)])
        order = draw.permutation(len(features))
        held = int(len(features) * recipe.calibrate + draw.random())
        held_out, learned = np.sort(order[:held]), np.sort(order[held:])
        if len(learned):
            self._combine(add, self._learned(features, given, learned), "these rows cannot be added", "#/add")
        if held:
            inputs = given.batch.take(held_out)
            self.reserve = self.reserve.joined(Reserve.of(inputs, features[held_out], recipe.seed), recipe.seed)
            self.inputs = self.inputs if len(self.inputs) else inputs
        self.n_fit += len(learned)
        self.record |= {"added": len(learned), "added_calibration": held}

    def concluded(self) -> Fitted:
        """The new version: the detectors of the sums, calibrated by all rows held out."""
        old, recipe = self.old, self.old.recipe
        try:
            detectors = [copy(detector).concluded(sums) for detector, sums in zip(_additive(old), self.sums, strict=True)]
        except ValueError as error:
            raise InvalidInput(f"there is no detector of what is left: {error}") from None
        try:
            if not len(self.reserve):
                raise AlphaTooSmall(recipe.alpha, needed=rows_needed(recipe.alpha), rows=0, smallest=1.0)
            judge = JUDGES[recipe.method].calibrated(detectors, self.reserve.rows, recipe.trim)
            judge.judge(self.reserve.rows[:1], recipe.alpha)
        except AlphaTooSmall as error:
            raise InvalidInput(f"{error}: add more rows, of which a share of {recipe.calibrate:g} is held out") from None
        golden = Golden.scored(judge, self.reserve.rows, self.inputs, old.extractor)
        kept = self.reserve.bounded(recipe.seed)
        sketch = Sketch.of(self.reserve.rows, recipe.seed)
        return Fitted(recipe, judge, old.levels, old.extractor, golden, self.n_fit, old.feature_names, reserve=kept, sketch=sketch)

    def _features(self, given: Data, pointer: str) -> Features:
        data = aligned(given, self.old.feature_names)
        features = extract(self.old.extractor, data.batch, max_pixels=self._max_pixels, progress=self._progress)
        if features.shape[1] != self.old.width:
            raise InvalidInput(f"rows have {features.shape[1]} features; this detector takes {self.old.width}", pointer)
        return features

    def _learned(self, features: Features, given: Data, chosen: NDArray[np.intp]) -> Iterator[Any]:
        """Sums over the ``chosen`` rows, one for each detector."""
        for detector in _additive(self.old):
            yield detector.sums(features[chosen], given.labels[chosen] if detector.LABELLED and given.labels is not None else None)

    def _combine(self, operate: Callable[[Any, Any], Any], others: Iterable[Any], refused: str, pointer: str) -> None:
        try:
            self.sums = [operate(ours, theirs) for ours, theirs in zip(self.sums, others, strict=True)]
        except ValueError as error:
            raise InvalidInput(f"{refused}: {error}", pointer) from None


def _additive(fitted: Fitted) -> list[AdditiveDetector[Any, Any]]:
    return [detector for detector in fitted.judge.detectors if isinstance(detector, AdditiveDetector)]


def _sums_of(fitted: Fitted) -> Iterator[Any]:
    return (detector.learned() for detector in _additive(fitted))


def _kept(fitted: Fitted) -> Reserve:
    """The rows that a version holds out. Raises InvalidInput for one that cannot be updated."""
    kind = fitted.recipe.type
    if fitted.judge.METHOD == CrossJudge.METHOD:
        raise InvalidInput(f"a version of {CrossJudge.METHOD} calibration cannot be updated, since no rows were held out: fit again")
    if not updatable(fitted.judge):
        raise InvalidInput(f"a version of type {kind} cannot be updated, since what it learns is no sum over rows: fit again")
    if fitted.reserve is None:
        raise InvalidInput("this version keeps none of the rows that were held out, by which an update is calibrated: fit again")
    return fitted.reserve


def _likeness(ours: Fitted, theirs: Fitted) -> Iterator[tuple[str, Any, Any]]:
    """What has to be the same in two versions that are merged."""
    for what, of in (
        ("type", lambda fitted: fitted.recipe.type),
        ("calibration", lambda fitted: fitted.recipe.method),
        ("levels", lambda fitted: [(level.name, level.width) for level in fitted.levels]),
        ("feature names", lambda fitted: fitted.feature_names),
        ("parameters", lambda fitted: [detector.parameters() for detector in fitted.judge.detectors]),
        ("extractor", lambda fitted: fitted.extractor.digest if fitted.extractor else None),
    ):
        yield what, of(ours), of(theirs)
