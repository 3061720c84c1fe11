"""Nearest neighbours against brute force and scikit-learn, and rows that are hard to tell apart."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from detectors import KNN, neighbours
from detectors.neighbours import nearest


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize(("n", "width", "count"), [(500, 3, 7), (40, 30, 40), (1, 2, 5), (200, 1, 1)])
def test_nearest_equals_brute_force(n, width, count, offset, monkeypatch):
    """Distances and indices are those of sorting all distances, also far from the origin, in one block and in many."""
    points, queries = (np.random.default_rng(seed).normal(size=(rows, width)) + offset for seed, rows in ((0, n), (1, 60)))
    expected = cdist(queries, points)
    for numbers in (neighbours.BLOCK_NUMBERS, 1):
        monkeypatch.setattr(neighbours, "BLOCK_NUMBERS", numbers)
        distances, indices = nearest(points, queries, count)
        np.testing.assert_array_equal(indices, np.argsort(expected, axis=1)[:, :count])
        np.testing.assert_allclose(distances, np.sort(expected, axis=1)[:, :count], rtol=1e-12)


def test_nearest_among_equal_rows():
    """Rows that are there many times are at distance 0, and each is named once."""
    points = np.repeat(np.random.default_rng(0).normal(size=(5, 3)) * 1e8, 40, axis=0)
    distances, indices = nearest(points, points[::40], 40)
    assert not distances.any()
    assert all(set(row) == set(range(40 * i, 40 * i + 40)) for i, row in enumerate(indices))


def test_nearest_in_clusters_far_apart():
    """Clusters a billion times farther apart than they are wide: neighbours within each are still the nearest."""
    points = np.random.default_rng(0).normal(size=(300, 4)) + 1e9 * (np.arange(300) % 3 - 1)[:, None]
    distances, _ = nearest(points, points, 5)
    np.testing.assert_allclose(distances, np.sort(cdist(points, points), axis=1)[:, :5], rtol=1e-9)


@pytest.mark.parametrize("k", [1, 5, 50])
def test_equals_scikit_learn(k, digits):
    """Scores are the distances that NearestNeighbors gives, of rows of unit length or, for tables, as they are."""
    train, test = digits[:900], digits[900:]
    for unit, prepare in ((True, normalize), (False, np.array)):
        expected = NearestNeighbors(n_neighbors=k).fit(prepare(train)).kneighbors(prepare(test))[0][:, -1]
        np.testing.assert_allclose(KNN(neighbours=k, normalize=unit).fit(train).scores(test), expected, atol=1e-7)


def test_a_row_of_zeros_is_at_distance_one():
    """A row of length zero has no direction: it stays, at distance 1 from all others, and is learned and scored."""
    rows = np.random.default_rng(0).normal(size=(20, 3))
    assert KNN().fit(rows).scores(np.zeros((1, 3)))[0] == pytest.approx(1)
    with_zero = KNN(neighbours=1).fit(np.vstack([rows, np.zeros((1, 3))]))
    assert with_zero.scores(np.zeros((1, 3)))[0] == 0


def test_only_the_direction_counts():
    """With normalize a row's length does not matter, however large or small; without, it does."""
    rows, queries = np.random.default_rng(0).normal(size=(2, 50, 4))
    expected = KNN().fit(rows).scores(queries)
    for size in (1e-300, 1e-3, 1e60, 1e300):
        np.testing.assert_allclose(KNN().fit(rows).scores(queries * size), expected, rtol=1e-9)
    assert not np.allclose(KNN(normalize=False).fit(rows).scores(queries * 2), KNN(normalize=False).fit(rows).scores(queries))


def test_fewer_rows_than_neighbours():
    """With fewer normal rows than k the farthest of them counts."""
    rows = np.array([[0.0, 0.0], [3.0, 4.0]])
    assert KNN(neighbours=9, normalize=False).fit(rows).scores([[0.0, 0.0]])[0] == 5
    with pytest.raises(ValueError, match="'neighbours' parameter"):
        KNN(neighbours=0).fit(rows)


@pytest.mark.parametrize("parameters", [{}, {"normalize": False}, {"normalize": False, "indexed_rows": 10}, {"neighbours": 60}])
def test_fitted_rows_are_judged_by_the_others(parameters):
    """The training score of each row is that of a query to a detector fitted on the others; fresh rows get their plain scores."""
    rows, fresh = np.random.default_rng(1).normal(size=(2, 40, 3))
    detector = KNN(**parameters).fit(rows)
    expected = [KNN(**parameters).fit(np.delete(rows, i, axis=0)).scores(rows[i : i + 1])[0] for i in range(40)]
    np.testing.assert_allclose(detector.training_scores(detector.state_, rows), expected, rtol=1e-12)
    np.testing.assert_allclose(-detector.score_samples(fresh), detector.scores(fresh), rtol=1e-12)


def test_predict_calls_the_same_share_of_fresh_and_of_fitted_rows_outliers():
    """A threshold on left-out scores flags a tenth of the rows that were fitted, and about as many of others like them."""
    rows, fresh = np.random.default_rng(2).normal(size=(2, 2000, 4))
    detector = KNN(neighbours=1, normalize=False, contamination=0.1).fit(rows)
    assert (detector.predict(rows) == -1).mean() == pytest.approx(0.1, abs=0.005)
    assert (detector.predict(fresh) == -1).mean() == pytest.approx(0.1, abs=0.03)


def test_attributions_are_parts_of_the_squared_distance():
    """By hand: a gap of (3, 0, 4) to the nearest row makes a distance of 5, of which 9/5 and 16/5 are the first and the last feature's."""
    detector = KNN(neighbours=1, normalize=False).fit([[1.0, 2.0, 3.0], [50.0, 50.0, 50.0]])
    np.testing.assert_allclose(detector.attributions([[4.0, 2.0, 7.0]]), [[1.8, 0, 3.2]], rtol=1e-12)
    assert not detector.attributions([[1.0, 2.0, 3.0]]).any()


def test_many_rows_searched_in_cells():
    """Beyond ``indexed_rows`` neighbours come from cells: nearly the same scores, and the same whatever the order of asking."""
    rows, queries = np.random.default_rng(3).normal(size=(6000, 3)), np.random.default_rng(4).normal(size=(400, 3))
    exact, found = (KNN(normalize=False, indexed_rows=count).fit(rows) for count in (6000, 100))
    assert found.state_.cells is not None
    assert exact.state_.cells is None
    scores = found.scores(queries)
    assert np.isclose(scores, exact.scores(queries), rtol=1e-12).mean() > 0.99
    assert (scores >= exact.scores(queries) - 1e-12).all()
