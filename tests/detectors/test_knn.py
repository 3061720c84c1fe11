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
