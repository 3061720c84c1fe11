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


@pytest.mark.parametrize("covariance", ["empirical", "oas", "spiked"])
def test_a_far_row_is_forgotten_exactly_or_refused(covariance):
    """Up to half a million standard deviations away scores are those of the other rows to 1e-5, beyond forgetting is refused."""
    expected, far = ClassGaussian(covariance=covariance).fit(ROWS, LABELS).scores(QUERIES), []
    for exponent in range(1, 16):
        row = 0.5 * 10.0**exponent * ROWS[LABELS == "dog"].std(axis=0)[None]
        detector = ClassGaussian(covariance=covariance).fit(np.vstack([ROWS, row]), np.append(LABELS, "dog"))
        try:
            np.testing.assert_allclose(detector.forget(row, ["dog"]).scores(QUERIES), expected, rtol=1e-5)
        except ValueError as error:
            assert "fit again without those rows" in str(error)
            far.append(exponent)
    assert far == list(range(7, 16))


@pytest.mark.parametrize("covariance", ["oas", "spiked"])
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_the_nearest_class_is_found_however_far_another_is(covariance, precision):
    """With one row of 50 at 10^k standard deviations distances equal those by 80 bits, to 1e-5 or fitting is refused; shares add up."""
    rows = np.random.default_rng(0).normal(size=(50, 4)) + np.arange(50)[:, None] % 3
    fitted = 0
    for exponent in range(13):
        rows[6] = 10.0**exponent
        detector = ClassGaussian(covariance=covariance, precision=precision)
        try:
            state = detector.fit(rows, np.arange(50) % 3).state_
        except ValueError as error:
            assert precision == "float32"
            assert "would put an error" in str(error)
            continue
        exact = ClassGaussian(covariance=covariance).fit(rows, np.arange(50) % 3).state_
        whiten = exact.norm.whiten.astype(np.longdouble)
        gaps = [(rows.astype(np.longdouble) - mean) @ whiten for mean in state.means]
        expected = np.min([np.square(gap).sum(axis=1) for gap in gaps], axis=0).astype(float)
        np.testing.assert_allclose(detector.scores(rows), expected, rtol=1e-5)
        shares = detector.attributions(rows)
        assert (np.abs(shares.sum(axis=1) - expected) <= 1e-5 * np.abs(shares).sum(axis=1)).all()
        fitted += 1
    assert fitted == 13 if covariance == "oas" or precision == "float64" else fitted >= 2


@pytest.mark.parametrize("normalize", [False, True])
def test_equal_rows_in_several_classes_vary_in_neither_distance(normalize):
    """Where all rows are equal both distances of a relative score are of the same unit, and no row scores below them."""
    for row in np.random.default_rng(3).normal(size=(20, 1, 4)):
        detector = ClassGaussian(relative=True, normalize=normalize, covariance="oas").fit(np.repeat(row, 21, axis=0), np.arange(21) % 3)
        assert detector.scores(np.vstack([row, 1e6 * QUERIES[:, :4]])).min() >= -1e-6


def test_shares_add_up_far_from_the_origin():
    """Directions of rows 1e12 from the origin have few digits; shares and scores are of the same ones."""
    detector = ClassGaussian(covariance="oas", normalize=True).fit(ROWS + 1e12, LABELS)
    scores = detector.scores(QUERIES + 1e12)
    np.testing.assert_allclose(detector.attributions(QUERIES + 1e12).sum(axis=1), scores, rtol=1e-9)


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


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("parameters", [{}, {"normalize": True}, {"precision": "float32", "covariance": "oas"}])
def test_shares_of_principal_components(parameters, relative):
    """Those within classes are never negative, those of all rows never positive, and together they add up to the score."""
    detector = ClassGaussian(relative=relative, **parameters).fit(ROWS, LABELS)
    shares = detector.component_attributions(QUERIES)
    assert shares.shape == (40, 10 if relative else 5)
    assert (shares[:, :5] >= 0).all()
    assert (shares[:, 5:] <= 0).all()
    rounding = (1e-5 if "precision" in parameters else 1e-9) * np.abs(shares).sum(axis=1)
    assert (np.abs(shares.sum(axis=1) - detector.scores(QUERIES)) <= rounding).all()


def test_a_row_along_a_component_gives_that_one_all():
    """From the mean of any class, three deviations along the component of least variance within classes are a share of 9 in the last."""
    state = (detector := ClassGaussian().fit(ROWS, LABELS)).state_
    variances, directions = np.linalg.eigh(state.statistics.within / 300)
    planted = state.means + 3 * np.sqrt(variances[0]) * directions[:, 0]
    np.testing.assert_allclose(detector.component_attributions(planted), [[0, 0, 0, 0, 9]] * 3, atol=1e-9)
