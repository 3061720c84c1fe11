"""Calibration by false alarms: what it does to p-values, what it promises still, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from service import engine, errors
from service.archive import reserve
from service.features import Batch
from service.outliers.feedback import Mark
from service.outliers.recalibration import Usable, recalibrated
from service.recipe import Recipe
from service.settings import Settings
from service.store import Store
from service.versions import load
from tests.service.samples import fitted, publish_fitted
from tests.service.served import rows

FITTED = fitted()
ALARMS = rows(4, seed=5) * 0.1 + np.array([2.5, 2.5, 0.0, 0.0])


def p_values(version: engine.Fitted, batch: np.ndarray) -> np.ndarray:
    return engine.score(version, Batch(rows=batch)).p_values


def test_false_alarms_count_as_normal_from_then_on() -> None:
    """Each alone made the p-values of rows such as itself larger; the detector and its scores are the same."""
    newer, added = recalibrated(FITTED, list(ALARMS))
    assert (added, newer.n_calibration, newer.n_fit) == (4, FITTED.n_calibration + 4, FITTED.n_fit)
    some = rows(500, seed=9) * 2
    np.testing.assert_array_equal(engine.score(newer, Batch(rows=some)).scores, engine.score(FITTED, Batch(rows=some)).scores)
    assert (p_values(newer, ALARMS) > p_values(FITTED, ALARMS)).all()
    assert FITTED.reserve is not None
    assert len(FITTED.reserve) == FITTED.n_calibration


def test_p_values_fall_by_no_more_than_is_promised() -> None:
    """Whatever rows are marked, p-values keep at least the share (n + 1) / (n + m + 1), which rows beyond all marked ones do have left."""
    n = FITTED.n_calibration
    some = np.concatenate([rows(2000, seed=9) * 2, np.full((1, 4), 99.0)])
    before = p_values(FITTED, some)
    for marked in (ALARMS, np.zeros((1, 4)), rows(30, seed=3), np.full((1, 4), 50.0)):
        newer, added = recalibrated(FITTED, list(marked))
        ratio = p_values(newer, some) / before
        assert (ratio >= (n + 1) / (n + added + 1) - 1e-12).all()
        assert ratio[-1] == pytest.approx((n + 1) / (n + added + 1))


def test_the_same_false_alarm_counts_once() -> None:
    """Given twice, or again to the version that it made; an alarm that is new counts beside it."""
    newer, added = recalibrated(FITTED, [ALARMS[0], ALARMS[0]])
    assert added == 1
    with pytest.raises(errors.InvalidInput, match="already"):
        recalibrated(newer, [ALARMS[0]])
    assert recalibrated(newer, [ALARMS[0], ALARMS[1]])[1] == 1


def test_a_version_made_so_is_stored_whole(embedded_store: Store) -> None:
    """Its golden rows pass, and it keeps the false alarms for the versions after it."""
    newer, _ = recalibrated(FITTED, list(ALARMS))
    number = publish_fitted(embedded_store, "pumps", newer)
    loaded = load(embedded_store, Settings(), "pumps", number)
    np.testing.assert_array_equal(p_values(loaded.fitted, ALARMS), p_values(newer, ALARMS))
    kept = reserve(loaded.manifest, lambda blob: embedded_store.blob("pumps", number, loaded.manifest.blobs[blob]))
    assert kept is not None
    assert len(kept) == FITTED.n_calibration + 4


def test_only_marks_that_fit_are_used() -> None:
    """False alarms with features of this width and extractor; the others are told of."""
    marks = [
        Mark("a", "false_alarm", 1e9, features=ALARMS[0]),
        Mark("b", "false_alarm", 1e9),
        Mark("c", "confirmed", 1e9, features=ALARMS[1]),
        Mark("d", "false_alarm", 1e9, features=np.ones(3)),
        Mark("e", "false_alarm", 1e9, features=ALARMS[2], extractor="another"),
    ]
    usable = Usable.of(marks, FITTED)
    assert (len(usable.rows), usable.without_row, usable.unlike) == (1, 1, 2)


def test_what_cannot_be_calibrated_again_says_why() -> None:
    trimmed = engine.fit(Recipe(alpha=0.1, trim=0.1), Batch(rows=rows(200)))
    for version, why in ((replace(FITTED, reserve=None), "keeps none"), (trimmed, "highest calibration scores")):
        with pytest.raises(errors.InvalidInput, match=why):
            recalibrated(version, list(ALARMS))
