"""The class-conditional Gaussian against the worked example, plain formulas, and the laws of its sums."""

import numpy as np
import pytest
from sklearn.base import is_outlier_detector

from detectors import ClassGaussian, Gaussian
from detectors.labels import checked, decoded, encoded
from detectors.state import dumps, loads
from tests import naive

CLASSES = np.repeat([0, 1], 4)
RNG = np.random.default_rng(8)
LABELS = RNG.choice(["cat", "dog", "horse"], size=300)
ROWS = RNG.normal(size=(300, 5)) @ RNG.normal(size=(5, 5)) + 4 * RNG.normal(size=(3, 5))[np.unique(LABELS, return_inverse=True)[1]]
QUERIES = 3 * RNG.normal(size=(40, 5))


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, [0, 0.206896552, 17.034482759, 36, 0.653103448]),
        ({"relative": True}, [-0.947272727, -0.618557994, 16.878119122, 3.270909091, 0.032030721]),
        ({"normalize": True}, [None, 0.005356955, 0.054173703, 2.479385708, 0.005356955]),
        ({"normalize": True, "relative": True}, [None, -0.535203183, -0.548288973, 0.247964107, -0.535203183]),
    ],
)
def test_the_worked_example(parameters, expected, example):
    """The four published forms give these numbers on eight rows of two classes; a query of length zero is left to the others."""
    rows, queries = example
    chosen = [number for number, value in enumerate(expected) if value is not None]
    detector = ClassGaussian(**parameters).fit(rows, CLASSES)
    np.testing.assert_allclose(detector.scores(queries[chosen]), [expected[number] for number in chosen], rtol=0, atol=2e-9)


@pytest.mark.parametrize("relative", [False, True])
def test_equals_the_formula_on_three_classes(relative):
    """Scores and nearest classes equal the slow twin, one class and one row at a time."""
    detector = ClassGaussian(relative=relative).fit(ROWS, LABELS)
    scores, nearest = naive.class_distance(ROWS, LABELS, QUERIES, relative=relative)
    np.testing.assert_allclose(detector.scores(QUERIES), scores, rtol=1e-9)
    np.testing.assert_array_equal(detector.nearest_class(QUERIES), nearest)


def test_one_class_is_the_plain_gaussian():
    """With one class the distance is that of a Gaussian with the empirical covariance; a relative one is refused."""
    one = ClassGaussian().fit(ROWS, np.zeros(300))
    np.testing.assert_allclose(one.scores(QUERIES), Gaussian(covariance="empirical").fit(ROWS).scores(QUERIES), rtol=1e-9)
    for name in ("fit", "partial_fit"):
        with pytest.raises(ValueError, match="two classes or more"):
            getattr(ClassGaussian(relative=True), name)(ROWS, np.zeros(300))


@pytest.mark.parametrize("covariance", ["empirical", "oas", "spiked"])
@pytest.mark.parametrize("relative", [False, True])
def test_blocks_shards_and_forgetting_are_exact(covariance, relative):
    """Blocks, shards merged in any order, and rows taken out again give the scores of one fit, though no part has all classes."""
    parameters = {"covariance": covariance, "relative": relative}
    whole = ClassGaussian(**parameters).fit(ROWS, LABELS).scores(QUERIES)
    cats, dogs, horses = (np.flatnonzero(name == LABELS) for name in ("cat", "dog", "horse"))
    left, right = np.append(cats, dogs[::2]), np.append(dogs[1::2], horses)
    blocks = ClassGaussian(**parameters)
    for part in (left, right[::3], right[1::3], right[2::3]):
        blocks.partial_fit(ROWS[part], LABELS[part])
    np.testing.assert_allclose(blocks.scores(QUERIES), whole, rtol=1e-9, atol=1e-9)
    shards = [ClassGaussian(**parameters).fit(ROWS[part], LABELS[part]) for part in (left, right)]
    for first, second in ((0, 1), (1, 0)):
        pair = [loads(*dumps("c", shards[number]), {"c": ClassGaussian}) for number in (first, second)]
        np.testing.assert_allclose(pair[0].merge(pair[1]).scores(QUERIES), whole, rtol=1e-9, atol=1e-9)
    kept = blocks.forget(ROWS[right], LABELS[right]).scores(QUERIES)
    np.testing.assert_allclose(kept, shards[0].scores(QUERIES), rtol=1e-8, atol=1e-8)


def test_a_class_of_which_all_is_forgotten_is_gone():
    """After its last row is taken out a class is nearest to nothing; rows that were never there cannot be taken."""
    horses = LABELS == "horse"
    detector = ClassGaussian().fit(ROWS, LABELS).forget(ROWS[horses], LABELS[horses])
    np.testing.assert_allclose(detector.scores(QUERIES), ClassGaussian().fit(ROWS[~horses], LABELS[~horses]).scores(QUERIES), rtol=1e-9)
    assert set(detector.nearest_class(ROWS)) == {"cat", "dog"}
    with pytest.raises(ValueError, match="of class horse out of 0"):
        detector.forget(ROWS[horses], LABELS[horses])
    with pytest.raises(ValueError, match="all 300 rows"):
        ClassGaussian().fit(ROWS, LABELS).forget(ROWS, LABELS)
    with pytest.raises(ValueError, match="not among those summed"):
        detector.forget(100 * ROWS[~horses][:50], LABELS[~horses][:50])
    with pytest.raises(ValueError, match="of one kind"):
        detector.partial_fit(ROWS[:3], [1, 2, 3])


@pytest.mark.parametrize("labels", [["b", "äx", ""], [3, -(2**53), 2**53], [True, False, True], [1.0, 2.0, 5.0]])
def test_classes_come_back_as_they_went_in(labels):
    """Text and whole numbers survive the numbers that a state holds."""
    np.testing.assert_array_equal(decoded(*encoded(checked(labels, 3, "it"))), labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "requires y"),
        ([1, 2], "2 classes for 3 rows"),
        ([0.5, 1, 2], "whole numbers"),
        ([np.nan, 1, 2], "whole numbers"),
        ([2**60, 1, 2], "up to 2\\^53"),
        (np.array(["a", 1, None], dtype=object), "text or whole numbers"),
        ([[1, 2]] * 3, "1d array"),
    ],
)
def test_classes_that_are_none_are_refused(labels, message):
    """Missing, too few, fractional, mixed and two-dimensional classes raise ValueError that says what is wanted."""
    with pytest.raises(ValueError, match=message):
        ClassGaussian().fit(np.eye(3), labels)


def test_constant_columns_within_classes_have_no_variance():
    """A column that only tells the classes apart has variance exactly zero within them, not that of rounding."""
    rows = np.column_stack([ROWS, np.where(LABELS == "cat", 0.1, 0.3)])
    within = ClassGaussian().fit(rows, LABELS).state_.statistics.within
    assert not within[-1].any()


def test_relative_attributions_add_up_on_both_sides():
    """Shares of a relative score are those of the nearest class less those of the background, and add up."""
    detector = ClassGaussian(relative=True).fit(ROWS, LABELS)
    np.testing.assert_allclose(detector.attributions(QUERIES).sum(axis=1), detector.scores(QUERIES), rtol=1e-8, atol=1e-9)


def test_tags_say_that_classes_are_needed():
    """scikit-learn is told that y is required, and not that this is one of its outlier detectors, which are fitted without."""
    assert ClassGaussian().__sklearn_tags__().target_tags.required
    assert not Gaussian().__sklearn_tags__().target_tags.required
    assert is_outlier_detector(Gaussian())
    assert set(ClassGaussian().fit_predict(ROWS, LABELS)) == {-1, 1}
