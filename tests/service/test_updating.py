"""Living versions: what an update learns and unlearns, by what it is calibrated, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from detectors import REGISTRY
from service import archive, engine
from service.engine import Fitted
from service.errors import InvalidInput
from service.features import Batch
from service.manifest import Source
from service.recipe import Recipe
from service.reserve import Reserve, digests_of
from service.sources import Data
from service.updates.comparison import compare
from service.updates.updating import Change, updated
from tests.service.served import NORMAL, pixel_extractor, rows

SOURCE = Source(name="rows", rows=1, sha256="0" * 64)
RECIPE = Recipe(alpha=0.1)
OLD, NEW = rows(300, seed=1), rows(100, seed=2) + 0.3
CLASSES = np.arange(300) % 3
SHRUNK, CLASSIFIED = replace(RECIPE, parameters={"covariance": "oas"}), Recipe("class_gaussian", alpha=0.1)


def given(data: NDArray[Any], labels: NDArray[Any] | None = None) -> Data:
    return Data(Batch(rows=data), "rows", labels=labels)


def fit(data: NDArray[Any], recipe: Recipe = RECIPE, classes: NDArray[Any] | None = None) -> Fitted:
    return engine.fit(recipe, Batch(rows=data), classes=classes)


def held_by(fitted: Fitted, data: NDArray[Any]) -> NDArray[np.bool_]:
    assert fitted.reserve is not None
    return np.isin(digests_of(Batch(rows=data)), fitted.reserve.digests)


def assert_learned(fitted: Fitted, data: NDArray[Any], classes: NDArray[Any] | None = None) -> None:
    """The detectors are those of one fit on ``data``, and the calibration is by the rows held out."""
    for kind, detector in zip(fitted.recipe.types, fitted.judge.detectors, strict=True):
        again = REGISTRY[kind](**detector.get_params()).fit(data, classes if detector.LABELLED else None)
        np.testing.assert_allclose(detector.scores(NEW), again.scores(NEW), rtol=1e-8)
    assert fitted.n_fit == len(data)
    assert fitted.reserve is not None
    assert fitted.n_calibration == len(fitted.reserve)
    np.testing.assert_array_equal(fitted.judge.reference, np.sort(fitted.judge.scores(fitted.reserve.rows)))


@pytest.mark.parametrize("type_", ["gaussian", "class_gaussian", "gaussian+class_gaussian"])
def test_an_update_equals_a_fit_on_the_same_rows(type_: str) -> None:
    """Rows added, rows forgotten and versions merged give the detectors of one fit on all rows that are learned by then."""
    recipe = Recipe(type_, alpha=0.1, method="combined" if "+" in type_ else "split-conformal")
    labelled = "class" in type_
    old = fit(OLD, recipe, CLASSES if labelled else None)
    later = CLASSES[: len(NEW)]
    change = Change(forget=given(OLD[:50], CLASSES[:50] if labelled else None), add=given(NEW, later if labelled else None))
    new, done = updated(old, change)
    held = held_by(old, OLD)
    learned = np.concatenate([OLD[50:][~held[50:]], NEW[~held_by(new, NEW)]])
    assert_learned(new, learned, np.concatenate([CLASSES[50:][~held[50:]], later[~held_by(new, NEW)]]))
    assert (done.forgotten, done.forgotten_calibration) == (50 - held[:50].sum(), held[:50].sum())
    assert (done.added, done.added_calibration) == (80, 20)
    other = fit(NEW, recipe, later if labelled else None)
    both, done = updated(old, Change(merge={"other:1": other}))
    learned = np.concatenate([OLD[~held], NEW[~held_by(other, NEW)]])
    assert_learned(both, learned, np.concatenate([CLASSES[~held], later[~held_by(other, NEW)]]))
    assert done.merged == ["other:1"]
    assert both.n_calibration == 80


def test_the_old_version_stays_as_it_is() -> None:
    """An update changes no number of the version that it starts from."""
    old = fit(OLD)
    before = archive.pack(old, "pumps", SOURCE)[1]
    updated(old, Change(forget=given(OLD[:9]), half_life=50, add=given(NEW)))
    assert archive.pack(old, "pumps", SOURCE)[1] == before


def test_decay_weighs_and_thins() -> None:
    """Rows one half-life old count half, among those learned and among those that calibrate."""
    old = fit(OLD)
    new, done = updated(old, Change(half_life=100, add=given(NEW)))
    (shift,) = compare(old, new).shifts
    assert done.weight == 0.5
    assert shift.effective_rows == pytest.approx((240, (120 + 80) ** 2 / (240 / 4 + 80)))
    assert new.n_calibration == 30 + 20
    assert new.reserve is not None
    assert held_by(new, OLD).sum() == 30
    assert not len(new.reserve.passed)


@pytest.mark.parametrize("change", ["add", "forget", "decay", "merge", "in small steps"])
def test_p_values_are_uniform_after_an_update(change: str) -> None:
    """The rate of false alarms at alpha 0.1 among fresh normal rows is 0.1, over 60 versions with calibration sets of their own.

    The bound is 4.5 standard deviations of a mean of as many independent beta-binomial shares of 50 rows.
    """
    shares = []
    for seed in range(60):
        draw = np.random.default_rng(seed)
        fitted = fit(draw.normal(size=(120, 3)), replace(RECIPE, seed=seed))
        for _ in range(5 if change == "in small steps" else 1):
            more = given(draw.normal(size=(3 if change == "in small steps" else 100, 3)))
            assert fitted.reserve is not None
            changes = {
                "forget": Change(forget=given(fitted.reserve.rows[:4])),
                "decay": Change(half_life=100, add=more),
                "merge": Change(merge={"a:1": fit(more.batch.rows)}) if change == "merge" and more.batch.rows is not None else None,
            }
            fitted, _ = updated(fitted, changes.get(change) or Change(add=more))
        found = fitted.judge.judge(draw.normal(size=(50, 3)), 0.1)
        count = fitted.n_calibration
        shares.append((np.mean(found.p_values <= 0.1), np.floor(0.1 * (count + 1)) / (count + 1), count))
    rate, expected, counts = np.mean(shares, axis=0)
    variance = 0.1 * 0.9 * (1 / 50 + 1 / counts) / len(shares)
    assert abs(rate - expected) < 4.5 * np.sqrt(variance)


def test_nothing_of_a_forgotten_row_is_left() -> None:
    """Its bytes are in no blob of the new version, in either precision, whether it was learned, held out or golden; nor its digest."""
    old = fit(OLD)
    gone = OLD[:40]
    new, _ = updated(old, Change(forget=given(gone)))
    blobs = b"".join(archive.pack(new, "pumps", SOURCE, parent=1)[1].values())
    was = b"".join(archive.pack(old, "pumps", SOURCE)[1].values())
    traces = (
        [row.tobytes() for row in gone]
        + [row.astype(np.float32).tobytes() for row in gone]
        + [d.tobytes() for d in digests_of(Batch(rows=gone))]
    )
    assert sum(trace in was for trace in traces) >= 2 * held_by(old, gone).sum() > 0
    assert not any(trace in blobs for trace in traces)


def test_forgotten_images_leave_the_golden_inputs_too() -> None:
    """An image is known by its bytes, and its features go out of the sums and the rows held out."""
    images = [path.read_bytes() for path in NORMAL[:100]]
    old = engine.fit(RECIPE, Batch(images=images), pixel_extractor())
    gone = [old.golden.inputs.images[0], *images[:10]]  # type: ignore[index]
    new, done = updated(old, Change(forget=Data(Batch(images=list(dict.fromkeys(gone))), "images")))
    assert done.forgotten_calibration > 0
    assert not set(gone) & set(new.golden.inputs.images or ())
    assert 0 < len(new.golden.inputs) < 4
    blobs = b"".join(archive.pack(new, "images", SOURCE)[1].values())
    assert not any(image in blobs for image in gone)


def test_a_row_held_out_twice_is_found_twice() -> None:
    """Rows are counted: one more than were held out was learned."""
    twice = np.concatenate([OLD[:1], OLD[:1]])
    kept = Reserve.of(Batch(rows=twice), twice, 0)
    assert kept.holds(digests_of(Batch(rows=OLD[[0, 0, 0, 1]]))).tolist() == [True, True, False, False]
    assert not len(kept.without(digests_of(Batch(rows=OLD[:1]))))


def test_more_rows_than_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many a random sample is kept, new rows join at its rate, and rows that are not in it still count as held out."""
    monkeypatch.setattr("service.reserve.MOST_ROWS", 30)
    old = fit(OLD)
    assert old.reserve is not None
    assert (len(old.reserve), len(old.reserve.passed), old.reserve.rate) == (30, 30, 0.5)
    assert old.n_calibration == 60
    new, _ = updated(old, Change(add=given(NEW)))
    assert new.n_calibration == 40  # 30 of 60 old ones and 10 of 20 new ones
    _, done = updated(old, Change(forget=given(OLD[:50])))
    learned = fit(OLD, replace(RECIPE)).n_fit - 240 + done.forgotten
    assert learned + done.forgotten_calibration == 50
    again = updated(old, Change(add=given(rows(3000, seed=3))))[0]
    assert again.reserve
    assert np.isin(old.reserve.digests, again.reserve.digests).mean() < 0.5  # of those held out then few are kept
    with pytest.raises(InvalidInput, match="100% of the rows held out are the same in both"):
        updated(again, Change(merge={"a:1": old}))
    unknown = replace(old, reserve=replace(old.reserve, untold=5))
    with pytest.raises(InvalidInput, match="5 rows were held out of which nothing is kept"):
        updated(unknown, Change(forget=given(OLD)))


REFUSED: list[tuple[str, Any, str]] = [
    ("another width", lambda: Change(add=given(rows(20, width=5))), "rows have 5 features; this detector takes 4"),
    ("not finite", lambda: Change(add=given(np.full((20, 4), np.nan))), "row 0, feature 0 is nan"),
    ("strangers", lambda: Change(forget=given(1e3 * rows(20))), "these rows cannot be forgotten: .* not among those summed"),
    ("all rows", lambda: Change(forget=given(OLD)), "at least one row must remain"),
    ("the rows held out", lambda: Change(forget=given(fit(OLD).reserve.rows)), "needs at least 9 calibration rows; there are 0"),  # type: ignore[union-attr]
    ("too old", lambda: Change(half_life=2, add=given(NEW)), "100 rows are 50 half-lives"),
    ("another type", lambda: Change(merge={"a:1": fit(NEW, CLASSIFIED, CLASSES[:100])}), "its type is class_gaussian"),
    ("other parameters", lambda: Change(merge={"a:1": fit(NEW, SHRUNK)}), "its parameters is .*oas"),
    ("other levels", lambda: Change(merge={"a:1": fit(rows(100, width=5))}), "its levels"),
    ("itself", lambda: Change(merge={"a:1": fit(OLD)}), "100% of the rows held out are the same"),
    ("its own child", lambda: Change(merge={"a:2": updated(fit(OLD), Change(add=given(NEW)))[0]}), "whose rows would count twice"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "reason"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_cannot_be_done_is_refused(change: Any, reason: str) -> None:
    """With a sentence that says why, and where in the request."""
    with pytest.raises(InvalidInput, match=reason):
        updated(fit(OLD), change())


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (Recipe("knn", alpha=0.1), "of type knn cannot be updated, since what it learns is no sum over rows: fit again"),
        (Recipe("gaussian+knn", alpha=0.1, method="combined"), "of type gaussian.knn cannot be updated"),
        (Recipe(alpha=0.1, method="cross-conformal"), "cross-conformal calibration cannot be updated"),
    ],
)
def test_versions_that_cannot_be_updated(recipe: Recipe, reason: str) -> None:
    """They keep no rows for it either."""
    fitted = fit(OLD, recipe)
    assert fitted.reserve is None
    with pytest.raises(InvalidInput, match=reason):
        updated(fitted, Change(add=given(NEW)))


def test_a_version_without_its_held_out_rows_cannot_be_updated() -> None:
    """As those published before there were updates."""
    with pytest.raises(InvalidInput, match="keeps none of the rows that were held out"):
        updated(replace(fit(OLD), reserve=None), Change(add=given(NEW)))


def test_the_difference_of_two_versions() -> None:
    """The mean's shift is the Mahalanobis length under the older covariance; the covariance's is relative; golden rows are the older's."""
    recipe = replace(RECIPE, parameters={"covariance": "empirical"})
    older, newer = fit(OLD, recipe), fit(2 * OLD + [0, 0, 5, 0], recipe)
    found = compare(older, newer)
    (shift,) = found.shifts
    learned, moved = OLD[~held_by(older, OLD)], (2 * OLD + [0, 0, 5, 0])[~held_by(older, OLD)]
    gap = moved.mean(axis=0) - learned.mean(axis=0)
    assert shift.mean_shift == pytest.approx(np.sqrt(gap @ np.linalg.solve(np.cov(learned.T, bias=True), gap)), rel=1e-9)
    assert shift.covariance_change == pytest.approx(3, rel=1e-9)  # a covariance four times as large
    assert shift.features[0].feature == "features[2]"
    assert shift.features[0].standard_deviations == pytest.approx(gap[2] / learned[:, 2].std(), rel=1e-9)
    assert found.golden_p_values is not None
    assert len(found.golden_p_values) == 8
    assert compare(older, older).changes == {}


def test_differences_that_are_unknown() -> None:
    """Types without sums have no shift, and versions of unlike features no p-values in common."""
    other = fit(OLD, Recipe("knn", alpha=0.1))
    (shift,) = compare(other, other).shifts
    assert shift.mean_shift is None
    wide = compare(fit(OLD), fit(rows(100, width=5)))
    assert wide.golden_p_values is None
    assert wide.shifts[0].mean_shift is None
    assert wide.changes["levels"] == (["features (4)"], ["features (5)"])


def test_a_feature_that_never_varied() -> None:
    """Its shift has no size in standard deviations, and stands first."""
    still = OLD * [1, 1, 0, 1]
    older, newer = fit(still), fit(still + np.array([0, 0, 1, 0]))
    (shift,) = compare(older, newer).shifts
    assert (shift.features[0].feature, shift.features[0].standard_deviations) == ("features[2]", None)
