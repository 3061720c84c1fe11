"""Rows that count less: sums of weighted rows, what is estimated from them, and what cannot be done with them."""

import numpy as np
import pytest

from detectors import ClassGaussian, Gaussian
from detectors.covariance import ledoit_wolf, oas
from detectors.moments import Moments, rounded_up

WEIGHTS = (0.125, 0.5, 1.0)


def parts(width=3, rows=40):
    """Three sets of rows with means far apart for their spread, and the weight of each row."""
    draw = np.random.default_rng(0)
    found = [draw.exponential(size=(rows + 7 * i, width)) + i for i in range(3)]
    return found, np.repeat(WEIGHTS, [len(part) for part in found])


def weighted_sums(rows, weights):
    """Mean and weighted sums of c c^T, |c|^2 c and |c|^4 about it, one row at a time."""
    mean = sum(w * row for row, w in zip(rows, weights, strict=True)) / sum(weights)
    centred = [(w, row - mean) for row, w in zip(rows, weights, strict=True)]
    scatter = sum(w * np.outer(c, c) for w, c in centred)
    return mean, scatter, sum(w * (c @ c) * c for w, c in centred), sum(w * (c @ c) ** 2 for w, c in centred)


def decayed_moments(found):
    """Sums that decay by a half and by a quarter of it between the parts, as ``WEIGHTS`` has it."""
    return (Moments.of(found[0]) * 0.25 + Moments.of(found[1])) * 0.5 + Moments.of(found[2])


def test_decayed_sums_equal_sums_of_weighted_rows():
    """Mean and all orders are those of the rows with their weights, and so is Kish's effective number."""
    found, weights = parts()
    moments = decayed_moments(found)
    for name, expected in zip(("mean", "scatter", "cubic", "quartic"), weighted_sums(np.concatenate(found), weights), strict=True):
        np.testing.assert_allclose(getattr(moments, name), expected, rtol=1e-12, atol=1e-12, err_msg=name)
    assert moments.count == len(weights)
    assert moments.mass == pytest.approx(weights.sum(), rel=1e-14)
    assert moments.effective == pytest.approx(weights.sum() ** 2 / np.square(weights).sum(), rel=1e-14)


def test_shrinkage_takes_the_effective_number_of_rows():
    """Ledoit and Wolf's intensity over weighted rows, written out; Chen's with the effective number for n."""
    found, weights = parts()
    _, scatter, _, quartic = weighted_sums(np.concatenate(found), weights)
    mass, effective = weights.sum(), weights.sum() ** 2 / np.square(weights).sum()
    covariance = scatter / mass
    target = np.trace(covariance) / 3
    delta = np.square(covariance - target * np.eye(3)).sum()
    beta = (quartic / mass - np.square(covariance).sum()) / effective
    assert ledoit_wolf(decayed_moments(found))[1] == pytest.approx(min(beta, delta) / delta, rel=1e-10)
    square = np.square(covariance).mean()
    expected = (square + target**2) / ((effective + 1) * (square - target**2 / 3))
    assert oas(decayed_moments(found))[1] == pytest.approx(min(expected, 1), rel=1e-10)


@pytest.mark.parametrize("covariance", ["ledoit_wolf", "oas", "empirical", "spiked"])
def test_decay_alone_changes_no_score(covariance):
    """Rows of one weight are as good as rows that count one."""
    rows = np.random.default_rng(1).normal(size=(60, 4))
    detector = Gaussian(covariance=covariance).fit(rows)
    before = detector.scores(rows)
    np.testing.assert_allclose(detector.decay(0.3).scores(rows), before, rtol=1e-10)


def test_half_a_weight_is_as_if_every_later_row_came_twice():
    """Scores by old rows that count one half and new ones are those by the old rows and each new row twice, but for shrinkage."""
    draw = np.random.default_rng(2)
    old, new = draw.normal(size=(50, 4)), draw.normal(size=(20, 4)) + 1
    decayed = Gaussian(covariance="empirical").fit(old).decay(0.5).partial_fit(new)
    twice = Gaussian(covariance="empirical").fit(np.concatenate([old, new, new]))
    np.testing.assert_allclose(decayed.scores(new), twice.scores(new), rtol=1e-10)


@pytest.mark.parametrize("relative", [False, True])
def test_classes_decay_too(relative):
    """So with classes, one of which is there in the new rows alone."""
    draw = np.random.default_rng(3)
    old, new = draw.normal(size=(50, 3)), draw.normal(size=(30, 3)) + 2
    classes, later = np.arange(50) % 2, np.arange(30) % 3
    parameters = {"covariance": "empirical", "relative": relative}
    decayed = ClassGaussian(**parameters).fit(old, classes).decay(0.5).partial_fit(new, later)
    twice = ClassGaussian(**parameters).fit(np.concatenate([old, new, new]), np.concatenate([classes, later, later]))
    np.testing.assert_allclose(decayed.scores(new), twice.scores(new), rtol=1e-9, atol=1e-9)
    assert decayed.state_.statistics.moments()[1].effective == pytest.approx(55**2 / 42.5)


@pytest.mark.parametrize("weight", [0, -0.5, 1.5, float("nan")])
def test_weights_that_are_none_are_refused(weight):
    """A weight lies above 0 and is at most 1."""
    with pytest.raises(ValueError, match="weight must lie above 0 and be at most 1, not"):
        Gaussian().fit(np.eye(5)).decay(weight)


def test_rows_that_decayed_cannot_be_forgotten():
    """What they count by now is not known; the detector stays as it is."""
    draw = np.random.default_rng(4)
    rows, classes = draw.normal(size=(30, 3)), np.arange(30) % 2
    for detector, labels in ((Gaussian().fit(rows), None), (ClassGaussian().fit(rows, classes), classes[:5])):
        detector.decay(0.5)
        before = detector.scores(rows)
        with pytest.raises(ValueError, match="cannot be taken out after a decay"):
            detector.forget(rows[:5], labels)
        np.testing.assert_array_equal(detector.scores(rows), before)


def test_spiked_covariance_needs_one_weight():
    """The law of noise eigenvalues is one of equally weighted rows."""
    rows = np.random.default_rng(5).normal(size=(60, 4))
    with pytest.raises(ValueError, match="needs rows of one weight"):
        Gaussian(covariance="spiked").fit(rows[:40]).decay(0.5).partial_fit(rows[40:])


def test_peaks_do_not_tell_where_a_forgotten_row_lay():
    """Else a peak less the sum that is left would be the square of the row's distance from the mean, feature by feature."""
    rows = np.random.default_rng(6).normal(size=(200, 3))
    row = np.array([[3.0, -4.0, 5.0]])
    whole = Moments.of(np.concatenate([rows, row]))
    left = whole - Moments.of(row)
    assert set(np.frexp(left.peaks)[0]) == {0.5}
    assert (left.peaks >= whole.peaks).all()
    again = left + Moments.of(row) - Moments.of(row)
    np.testing.assert_array_equal(again.peaks, left.peaks)


def test_rounding_up_to_a_power_of_two():
    """Powers of two and zero stay as they are."""
    np.testing.assert_array_equal(rounded_up(np.array([0, 1, 1.1, 2, 3, 1e-300])), [0, 1, 2, 2, 4, 2.0**-996])
