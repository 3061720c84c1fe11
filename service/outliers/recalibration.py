"""Recalibration: a successor of a version whose detectors are the same, and whose calibration rows are more by its false alarms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from service import errors
from service.archive import pack
from service.engine import Fitted
from service.features import Batch, Features
from service.golden import Golden
from service.judges import JUDGES
from service.manifest import UpdateRecord
from service.outliers.feedback import Feedback, Mark
from service.reserve import digests_of
from service.settings import Settings
from service.sketch import Sketch
from service.store import Store
from service.updates.successors import alive
from service.versions import Reference, routes


@dataclass(frozen=True, slots=True)
class Usable:
    """The false alarms by which a version can be calibrated, and how many of the others there are."""

    rows: list[Features]  # each (d,)
    without_row: int  # of which no features are kept
    unlike: int  # of another width or extractor

    @classmethod
    def of(cls, marks: Sequence[Mark], fitted: Fitted) -> Usable:
        digest = fitted.extractor.digest if fitted.extractor else ""
        alarms = [mark for mark in marks if mark.verdict == "false_alarm"]
        kept = [(mark, mark.features) for mark in alarms if mark.features is not None]
        rows = [features for mark, features in kept if features.shape == (fitted.width,) and mark.extractor == digest]
        return cls(rows, len(alarms) - len(kept), len(kept) - len(rows))


def recalibrated(old: Fitted, rows: Sequence[Features]) -> tuple[Fitted, int]:
    """``old``, which stays as it is, calibrated by ``rows`` too, each (d,), and how many of them it had not been calibrated by before.

    ``old`` has its reserve. Raises InvalidInput where it cannot be calibrated again, or where there is nothing new.
    """
    if old.reserve is None:
        raise errors.InvalidInput(
            "this version keeps none of the rows that were held out, without which it cannot be calibrated: fit again"
        )
    if old.recipe.trim:
        raise errors.InvalidInput("this version leaves its highest calibration scores out, among which false alarms are: fit again")
    added = np.array(rows, dtype=old.reserve.rows.dtype).reshape(len(rows), old.width)
    digests, first = np.unique(digests_of(Batch(rows=added)), return_index=True)
    new = ~np.isin(digests, old.reserve.digests)
    added, digests = added[first[new]], digests[new]
    if not len(added):
        raise errors.InvalidInput("no false alarm has a row that this version is not calibrated by already")
    reserve = replace(old.reserve, rows=np.concatenate([old.reserve.rows, added]), digests=np.concatenate([old.reserve.digests, digests]))
    recipe = old.recipe
    judge = JUDGES[recipe.method].calibrated(old.judge.detectors, reserve.rows, recipe.trim)
    golden = Golden.scored(judge, reserve.rows, old.golden.inputs, old.extractor)
    kept = reserve.bounded(recipe.seed)
    return replace(old, judge=judge, golden=golden, reserve=kept, sketch=Sketch.of(reserve.rows, recipe.seed)), len(added)


def recalibrate(
    store: Store, settings: Settings, name: str, start: Reference, feedback: Feedback, alias: str | None = None
) -> dict[str, Any]:
    """Publish the version that ``recalibrated`` makes of the one that ``start`` means by its false alarms; what came of it, as JSON.

    ``alias`` moves if it is then where it was. Raises InvalidInput where no false alarm can be used, and AliasMoved.
    """
    parent = routes(store, [name])[name].number(name, start)
    before = store.aliases(name).get(alias or "", 0)
    old = alive(store, settings, name, parent)
    usable = Usable.of(feedback.all(name), old)
    left = {"without_row": usable.without_row, "unlike": usable.unlike}
    if not usable.rows:
        raise errors.InvalidInput(
            f"detector {name!r} has no false alarm by which version {parent} could be calibrated: {usable.without_row} came without their "
            f"row and {usable.unlike} with a row of another width or extractor. Rows come with feedback, or from the feed where "
            "FARFIELD_OUTLIER_INPUTS keeps them"
        )
    fitted, added = recalibrated(old, usable.rows)
    record = UpdateRecord.model_validate({"added_calibration": added, "false_alarms": added})
    manifest, blobs = pack(fitted, name, store.manifest(name, parent).source, parent=parent, update=record)
    number = store.publish(name, manifest, blobs)
    result = {"detector": name, "version": number, "parent": parent, "false_alarms": added, "n_calibration": fitted.n_calibration, **left}
    if alias:
        store.move_alias(name, alias, number, expected=before)
        result["alias"] = alias
    return result
