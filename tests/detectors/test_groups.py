"""Calibration by groups: each group's own p-values, its promise in every group, and what is refused."""

import numpy as np
import pytest
from scipy.stats import binom

from detectors import AlphaTooSmall, Calibration, ClassGaussian, GroupedCalibration, outliers
from detectors.labels import decoded, encoded

RNG = np.random.default_rng(0)
SCORES, GROUPS = RNG.normal(size=60).round(1), RNG.choice(["red", "green", "blue"], 60)  # ties included


def test_p_values_are_those_of_the_rows_own_group():
    """Row by row, by a calibration of the scores of its group alone."""
    calibration = GroupedCalibration.of(SCORES, GROUPS)
    new, groups = RNG.normal(size=40).round(1), RNG.choice(["red", "green", "blue"], 40)
    expected = [Calibration.of(SCORES[group == GROUPS]).p_values(np.array([score]))[0] for score, group in zip(new, groups, strict=True)]
    np.testing.assert_array_equal(calibration.p_values(new, groups), expected)


def test_thresholds_and_p_values_never_disagree():
    """A p-value is at most alpha exactly where the score exceeds its group's threshold."""
    calibration = GroupedCalibration.of(SCORES, GROUPS)
    thresholds = dict(zip(calibration.groups, calibration.thresholds(0.1), strict=True))
    expected = [thresholds[group] for group in GROUPS] < SCORES
    np.testing.assert_array_equal(calibration.p_values(SCORES, GROUPS) <= 0.1, expected)
    assert expected.any()


def test_one_group_is_the_plain_calibration():
    """Whatever the group is called, whole number or text."""
    for name in (7, "all"):
        np.testing.assert_array_equal(
            GroupedCalibration.of(SCORES, [name] * 60).p_values(SCORES, [name] * 60), Calibration.of(SCORES).p_values(SCORES)
        )


def test_an_empty_batch_has_no_p_values():
    """No rows, no p-values, no error."""
    assert len(GroupedCalibration.of(SCORES, GROUPS).p_values(np.empty(0), np.empty(0, str))) == 0


def test_every_group_keeps_the_rate_where_one_calibration_for_all_does_not():
    """One group scores ten times as high: pooled, it has nearly all alarms; grouped, each has its alpha, within a 99.99 % interval."""
    rng = np.random.default_rng(1)
    alarms = {"grouped": np.zeros(2), "pooled": np.zeros(2)}
    for _ in range(2000):
        groups = np.arange(200) % 2
        scores = np.abs(rng.normal(size=200)) * np.where(groups, 10, 1)
        new = np.abs(rng.normal(size=2)) * [1, 10]
        alarms["grouped"] += outliers(GroupedCalibration.of(scores, groups).p_values(new, [0, 1]), 0.1)
        alarms["pooled"] += outliers(Calibration.of(scores).p_values(new), 0.1)
    low, high = binom.interval(0.9999, 2000, 10 / 101)  # k = floor(0.1 * 101) of 101 places
    assert ((low <= alarms["grouped"]) & (alarms["grouped"] <= high)).all()
    assert alarms["pooled"][0] == 0
    assert alarms["pooled"][1] > 1.5 * high


def test_the_nearest_class_of_a_detector_is_a_group():
    """Classes that the detector names for held-out rows and for new ones: a function of the row alone."""
    rng = np.random.default_rng(2)
    labels = np.repeat(["near", "far"], 150)
    rows = rng.normal(size=(300, 3)) + np.where(labels == "far", 20, 0)[:, None]
    held_out = np.arange(300) % 3 == 0
    detector = ClassGaussian().fit(rows[~held_out], labels[~held_out])
    calibration = GroupedCalibration.of(detector.scores(rows[held_out]), detector.nearest_class(rows[held_out]))
    new = np.array([[0.0, 0, 0], [20, 20, 20], [0, 9, 0], [20, 11, 20]])
    p_values = calibration.p_values(detector.scores(new), detector.nearest_class(new))
    np.testing.assert_array_equal(outliers(p_values, 0.05), [False, False, True, True])


def test_a_group_without_calibration_rows_is_refused_by_name():
    """The message names the row, its group and the groups that there are; another kind of group is none of them."""
    calibration = GroupedCalibration.of(SCORES, GROUPS)
    with pytest.raises(ValueError, match=r"row 1 is of class 'violet', which has no calibration rows; there are \['blue',"):
        calibration.p_values(np.zeros(2), ["red", "violet"])
    with pytest.raises(ValueError, match="row 0 is of class 3"):
        calibration.p_values(np.zeros(1), [3])


def test_as_many_groups_as_scores_are_needed():
    """One too few raises ValueError, in calibration and in judging."""
    with pytest.raises(ValueError, match="59 classes for 60 rows"):
        GroupedCalibration.of(SCORES, GROUPS[:-1])
    with pytest.raises(ValueError, match="1 classes for 2 rows"):
        GroupedCalibration.of(SCORES, GROUPS).p_values(np.zeros(2), ["red"])


def test_the_smallest_group_decides_what_alpha_is_allowed():
    """The refusal names it, with the rows that it has."""
    calibration = GroupedCalibration.of(np.arange(30.0), ["many"] * 21 + ["few"] * 9)
    calibration.check_alpha(0.1)
    with pytest.raises(
        AlphaTooSmall, match=r"alpha=0\.05 needs at least 19 calibration rows in class .few.; there are 9, which allow 0.1 and"
    ):
        calibration.check_alpha(0.05)


@pytest.mark.parametrize("groups", [GROUPS, np.arange(60) % 4])
def test_it_can_be_stored_as_two_arrays(groups):
    """All scores and the group of each, as numbers, are enough to build it again."""
    calibration = GroupedCalibration.of(SCORES, groups)
    sizes = [len(part.scores) for part in calibration.calibrations]
    codes, text = encoded(np.repeat(calibration.groups, sizes))
    again = GroupedCalibration.of(np.concatenate([part.scores for part in calibration.calibrations]), decoded(codes, text))
    np.testing.assert_array_equal(again.p_values(SCORES, groups), calibration.p_values(SCORES, groups))
