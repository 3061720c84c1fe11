"""Fit and score in process: the split, what is checked, and the golden rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import Level
from service import engine
from service.errors import InvalidInput, VersionRefused
from service.features import PIXELS_AT_A_TIME, Batch, fingerprint
from service.golden import GOLDEN_INPUTS, GOLDEN_ROWS
from service.names import Method
from service.recipe import Recipe, split
from tests.service.served import NORMAL, fitted_images, pixels, rows

RECIPE = Recipe(alpha=0.05)


@given(st.integers(30, 2000), st.floats(0.05, 0.9), st.integers(0, 2**32))
def test_the_split_is_disjoint_whole_and_repeatable(count: int, calibrate: float, seed: int) -> None:
    """Every row is on one side; the share held out is the one asked for; the same seed splits in the same way."""
    recipe = Recipe(calibrate=calibrate, alpha=0.5, seed=seed)
    kept, held_out = split(count, recipe)
    assert sorted([*kept, *held_out]) == list(range(count))
    assert len(held_out) == round(count * calibrate)
    for first, second in zip(split(count, recipe), (kept, held_out), strict=True):
        np.testing.assert_array_equal(first, second)


def test_another_seed_splits_otherwise() -> None:
    """The split is drawn: neither the first rows nor the last ones."""
    splits = {tuple(split(300, replace(RECIPE, seed=seed))[1]) for seed in range(5)}
    assert len(splits) == 5


def test_rows_held_out_have_no_part_in_the_fit() -> None:
    """Whatever stands in the held-out rows, the state is the same; whatever stands in the others, it is not."""
    data = rows(300)
    kept, held_out = split(len(data), RECIPE)
    one = engine.fit(RECIPE, Batch(rows=data))
    data[held_out] *= 100
    other = engine.fit(RECIPE, Batch(rows=data))
    probe = rows(20, seed=9)
    np.testing.assert_array_equal(one.detector.scores(probe), other.detector.scores(probe))
    assert other.judge.reference.min() > one.judge.reference.max()
    data[kept] *= 2
    assert (engine.fit(RECIPE, Batch(rows=data)).detector.scores(probe) != one.detector.scores(probe)).all()


def test_calibration_scores_are_those_of_the_rows_held_out() -> None:
    """Sorted, and no others."""
    data = rows(300)
    fitted = engine.fit(RECIPE, Batch(rows=data))
    _, held_out = split(len(data), RECIPE)
    np.testing.assert_array_equal(fitted.judge.reference, np.sort(fitted.detector.scores(data[held_out])))
    assert (fitted.n_fit, fitted.n_calibration) == (240, 60)


def test_false_alarms_are_as_rare_as_promised() -> None:
    """Of fresh normal rows a share of about alpha, and no more than that, is called outliers."""
    fitted = engine.fit(Recipe(alpha=0.05, calibrate=0.5), Batch(rows=rows(4000)))
    verdicts = engine.score(fitted, Batch(rows=rows(20_000, seed=7)))
    assert 0.03 < verdicts.is_outlier.mean() < 0.065


@pytest.mark.parametrize(
    ("recipe", "count", "says"),
    [
        (Recipe(alpha=0.01), 300, "alpha=0.01 needs at least 99 calibration rows, and 60 of 300"),
        (Recipe(alpha=0.01), 494, "99 calibration rows, and 99 of 494|fits"),
        (Recipe(alpha=0.05), 1, "0 of 1 rows"),
        (Recipe(alpha=0.5, calibrate=0.9), 10, "1 of 10 rows are left to fit on; at least 2"),
        (Recipe(alpha=0.0), 300, "alpha=0.0 must lie between 0 and 1"),
        (Recipe(alpha=1.0), 300, "alpha=1.0 must lie between 0 and 1"),
        (Recipe(calibrate=0.0), 300, "calibrate=0.0"),
        (Recipe(calibrate=float("nan")), 300, "calibrate=nan"),
        (Recipe(seed=-1), 1000, "seed=-1"),
        (Recipe(type="nope", alpha=0.05), 300, "no detector type 'nope'"),
        (Recipe(parameters={"nope": 1}, alpha=0.05), 300, "no parameter 'nope'; it has"),
        (Recipe(parameters={"covariance": "nope"}, alpha=0.05), 300, "'covariance'"),
    ],
)
def test_what_cannot_be_fitted_is_refused(recipe: Recipe, count: int, says: str) -> None:
    """With what is wrong and what would do."""
    if "fits" in says:
        assert engine.fit(recipe, Batch(rows=rows(count))).n_calibration == 99
        return
    with pytest.raises(InvalidInput) as refused:
        engine.fit(recipe, Batch(rows=rows(count)))
    assert says in str(refused.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_value_that_is_not_finite_is_named(value: float) -> None:
    """By row and feature, in the data as they came, both when fitting and when scoring."""
    data = rows(300)
    fitted = engine.fit(RECIPE, Batch(rows=data))
    data[250, 3] = data[299, 0] = value
    for refused in (lambda: engine.fit(RECIPE, Batch(rows=data)), lambda: engine.score(fitted, Batch(rows=data))):
        with pytest.raises(InvalidInput, match=f"row 250, feature 3 is {value}") as error:
            refused()
        assert error.value.pointer == "#/rows/250/3"


@pytest.mark.parametrize("method", ["split-conformal", "cross-conformal"])
@pytest.mark.parametrize("side", [0, 1])
def test_a_row_that_cannot_be_fitted_is_named(method: Method, side: int) -> None:
    """By its number among all rows, not among those that are learned, or held out, or in one fold."""
    recipe, data = replace(RECIPE, parameters={"normalize": True}, method=method), rows(300)
    place = split(len(data), RECIPE)[side][40]
    data[place] = 0
    with pytest.raises(InvalidInput, match=f"row {place} has length zero"):
        engine.fit(recipe, Batch(rows=data))


def test_rows_all_the_same_are_refused() -> None:
    """There is no variation to learn from; one constant column among others is nothing unusual."""
    with pytest.raises(InvalidInput, match="all 300 rows are the same"):
        engine.fit(RECIPE, Batch(rows=np.full((300, 4), 7.0)))
    data = rows(300)
    data[:, 2] = 7.0
    fitted = engine.fit(replace(RECIPE, parameters={"covariance": "empirical"}), Batch(rows=data))
    assert engine.score(fitted, Batch(rows=data + np.array([0, 0, 1e-3, 0]))).is_outlier.all()


def test_a_row_has_one_score_alone_and_in_company() -> None:
    """A batch is scored row by row."""
    fitted, batch = engine.fit(RECIPE, Batch(rows=rows(300))), rows(50, seed=3)
    alone = [engine.score(fitted, Batch(rows=batch[i : i + 1])).scores[0] for i in range(len(batch))]
    np.testing.assert_allclose(engine.score(fitted, Batch(rows=batch)).scores, alone, rtol=1e-12)


def test_images_and_their_pixels_are_the_same_input() -> None:
    """Files and decoded arrays give the same features; large images go through in small groups with the same result."""
    fitted = fitted_images()
    encoded = engine.score(fitted, Batch(images=[path.read_bytes() for path in NORMAL[:10]]))
    decoded = engine.score(fitted, Batch(images=list(pixels(NORMAL[:10]))))
    np.testing.assert_array_equal(encoded.scores, decoded.scores)


def test_groups_of_large_images_change_no_score() -> None:
    """Ten images that make two groups get the scores that each gets alone, in the same order."""
    fitted, large = fitted_images(), np.kron(pixels(NORMAL[:10]), np.ones((1, 24, 24, 1), np.uint8))
    assert PIXELS_AT_A_TIME < large[..., 0].size < 2 * PIXELS_AT_A_TIME
    alone = [engine.score(fitted, Batch(images=[image])).scores[0] for image in large]
    np.testing.assert_allclose(engine.score(fitted, Batch(images=list(large))).scores, alone, rtol=1e-12)


def test_a_bad_image_is_named() -> None:
    """By its place in the batch."""
    with pytest.raises(InvalidInput, match="image 2: not an image") as error:
        engine.score(fitted_images(), Batch(images=[*(path.read_bytes() for path in NORMAL[:2]), b"junk"]))
    assert error.value.pointer == "#/images/2"


def test_golden_rows_are_held_out_ones_with_their_scores() -> None:
    """They are of the data and no part of the fit, and an unchanged detector passes them."""
    data = rows(300)
    fitted = engine.fit(RECIPE, Batch(rows=data))
    _, held_out = split(len(data), RECIPE)
    np.testing.assert_array_equal(fitted.golden.features, data[held_out[:GOLDEN_ROWS]])
    np.testing.assert_array_equal(fitted.golden.scores, fitted.detector.scores(fitted.golden.features))
    fitted.check("pumps", 3)


@pytest.mark.parametrize("change", [1e-5, 0.1])
def test_a_changed_state_fails_the_golden_rows(change: float) -> None:
    """A detector whose whitening is off by a little gives other scores, and is refused by name with both of them."""
    fitted = engine.fit(RECIPE, Batch(rows=rows(300)))
    state = fitted.detector.state_
    norm = replace(state.levels[0], whiten=state.levels[0].whiten * (1 + change))
    fitted.detector.state_ = replace(state, levels=(norm,))
    with pytest.raises(VersionRefused, match=r"version 3 of detector 'pumps' was refused: a golden row scores .* when fitted"):
        fitted.check("pumps", 3)


def test_a_state_that_does_not_fit_its_golden_rows_is_refused() -> None:
    """Where the scores cannot be computed at all, the version is refused like any other damaged one."""
    fitted = engine.fit(RECIPE, Batch(rows=rows(300)))
    for features, scores in ((rows(8, width=3), fitted.golden.scores), (fitted.golden.features, np.ones(3))):
        changed = replace(fitted, golden=replace(fitted.golden, features=features, scores=scores))
        with pytest.raises(VersionRefused, match="its golden rows cannot be scored"):
            changed.check("pumps", 3)


def test_a_changed_preprocessing_fails_the_golden_inputs() -> None:
    """Raw images are kept too: another extractor in front of the same state is found out."""
    fitted = fitted_images()
    assert len(fitted.golden.inputs) == GOLDEN_INPUTS
    fitted.check("boards", 1)
    assert fitted.extractor and fitted.extractor.preprocessing
    fitted.extractor.preprocessing = replace(fitted.extractor.preprocessing, resize="crop", interpolation="nearest", colour="bgr")
    shifted = [np.roll(np.asarray(image), 20) for image in pixels(NORMAL[:4])]
    changed = replace(fitted, golden=replace(fitted.golden, inputs=Batch(images=shifted)))
    with pytest.raises(VersionRefused, match="a golden input scores"):
        changed.check("boards", 1)


def test_levels_can_be_modelled_one_by_one() -> None:
    """``sum_levels`` gives the detector the widths of the extractor's levels."""
    assert engine.fit(replace(RECIPE, sum_levels=True), Batch(rows=rows(300))).detector.get_params()["levels"] == [4]


def test_features_go_by_the_names_of_the_data() -> None:
    """Or else by the name of their level and their place in it."""
    named = engine.fit(RECIPE, Batch(rows=rows(300)), feature_names=["a", "b", "c", "d"])
    shares = np.array([[0.0, -5.0, 1.0, 2.0], [3.0, 0.0, 3.0, -3.0]])
    (first, second) = named.largest_shares(shares, 2)
    assert first == [{"feature": "b", "share": -5.0}, {"feature": "d", "share": 2.0}]
    assert [part["share"] for part in second] in ([3.0, 3.0], [3.0, -3.0]) and len(named.largest_shares(shares, 9)[1]) == 4
    unnamed = engine.fit(RECIPE, Batch(rows=rows(300)))
    assert [unnamed.feature_name(i) for i in range(4)] == [f"features[{i}]" for i in range(4)]
    with pytest.raises(IndexError):
        unnamed.feature_name(4)


@given(st.integers(0, 299), st.integers(0, 3), st.integers(0, 63))
def test_the_fingerprint_changes_with_any_bit(row: int, column: int, bit: int) -> None:
    """Any bit of any value."""
    data = rows(300)
    before = fingerprint(Batch(rows=data))
    data.view(np.uint64)[row, column] ^= np.uint64(1 << bit)
    assert fingerprint(Batch(rows=data)) != before


def test_the_fingerprint_is_of_values_order_shape_and_type() -> None:
    """Equal data have equal fingerprints whatever their layout in memory; order, shape and type count."""
    data = rows(10)
    one = fingerprint(Batch(rows=data))
    assert fingerprint(Batch(rows=np.asfortranarray(data))) == one
    for other in (data[::-1], data.reshape(20, 2), data.astype(np.float32), data[:9]):
        assert fingerprint(Batch(rows=other)) != one
    images = [path.read_bytes() for path in NORMAL[:3]]
    assert fingerprint(Batch(images=images)) != fingerprint(Batch(images=images[::-1]))
    assert fingerprint(Batch(images=images)) != fingerprint(Batch(images=[*images[:2], images[2] + b"\0"]))


def test_times_of_stages_exclude_each_other() -> None:
    """The stages of one request add up to no more than the whole."""
    seconds = engine.score(fitted_images(), Batch(images=[path.read_bytes() for path in NORMAL[:5]])).seconds
    assert set(seconds) == {"decode", "extract", "score"}
    assert all(spent >= 0 for spent in seconds.values())


def test_levels_extracted_before_are_the_levels_of_the_fit() -> None:
    """Features that an extractor gave earlier, as evaluation has them, are summed by the levels that are named with them."""
    levels = (Level("left", 1), Level("right", 3))
    batch = Batch(rows=rows(200))
    summed = engine.fit(Recipe(sum_levels=True, alpha=0.05), batch, levels=levels)
    assert summed.levels == levels
    assert summed.detector.get_params()["levels"] == [1, 3]
    assert not np.allclose(summed.judge.reference, engine.fit(Recipe(alpha=0.05), batch).judge.reference)
