"""Cells of many points: every point is in one, searches find what brute force finds, and thin cells are no trap."""

import pickle

import numpy as np
import pytest

from detectors import cells
from detectors.cells import Cells
from detectors.neighbours import nearest


@pytest.fixture(scope="module")
def divided():
    """8000 points of five dimensions in the order of their cells, with the cells."""
    generator = np.random.default_rng(0)
    points = generator.normal(size=(8000, 5)) * generator.uniform(0.1, 2, size=(8000, 1)) + generator.integers(0, 2, size=(8000, 5)) * 5
    order, found = Cells.divided(points, seed=0)
    assert sorted(order) == list(range(8000))
    return points[order], found


def test_each_point_lies_in_the_cell_of_its_nearest_centre(divided):
    """Cells hold all points, none is empty, and no other centre is nearer to a point than that of its cell."""
    points, found = divided
    sizes = np.diff(found.starts)
    assert (sizes > 0).all()
    assert sizes.sum() == len(points)
    distances, own = nearest(found.centres, points, 1)
    mine = np.linalg.norm(points - np.repeat(found.centres, sizes.astype(int), axis=0), axis=1)
    np.testing.assert_allclose(mine, distances[:, 0], rtol=1e-6)
    assert (own[:, 0] == np.repeat(np.arange(len(sizes)), sizes.astype(int))).mean() > 0.999


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_searches_find_nearly_all_neighbours(divided, dtype):
    """Of the 10 nearest over 97 % are found, distances are exact for the points found, and single queries find what many find."""
    points, found = divided[0].astype(dtype), Cells(divided[1].centres.astype(dtype), divided[1].starts)
    queries = points[::40].astype(float) + 0.05
    expected, true = nearest(points.astype(float), queries, 10)
    distances, indices = found.searched(points, queries, 10)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(indices, true, strict=True)]) > 0.97
    gaps = np.linalg.norm(points[indices].astype(float) - queries[:, None], axis=2)
    np.testing.assert_allclose(distances, gaps, rtol=1e-12)
    assert (distances >= expected - 1e-12).all()
    alone = np.concatenate([found.searched(points, query[None], 10)[0] for query in queries])
    np.testing.assert_allclose(alone, distances, rtol=1e-12)


def test_all_cells_are_searched_where_there_are_few(monkeypatch, divided):
    """With as many probes as cells the search is exact, in one block of queries and in many."""
    points, found = divided[0], Cells(divided[1].centres, divided[1].starts)
    monkeypatch.setattr(cells, "PROBES", len(found.centres))
    monkeypatch.setattr(cells, "BLOCK_NUMBERS", 37 * 15 * 5)
    distances, _ = found.searched(points, points[::50], 7)
    np.testing.assert_allclose(distances, nearest(points, points[::50], 7)[0], rtol=1e-9)


@pytest.mark.parametrize(("scale", "offset"), [(1e-150, 0), (1, 0), (1, 1e12), (1e100, 0)])
def test_points_of_any_scale(scale, offset):
    """Far from the origin, in units that single precision does not hold, and with an outlier among them: the same neighbours."""
    points = np.random.default_rng(3).normal(size=(6000, 3)) * scale
    points[7] = 1e9 * scale
    points += offset
    order, found = Cells.divided(points, seed=0)
    points = points[order]
    queries = np.concatenate([points[::50], [np.full(3, 1e12 * scale)]])
    distances, indices = found.searched(points, queries, 4)
    assert (indices >= 0).all()
    assert (distances[:-1, 0] == 0).all()
    np.testing.assert_allclose(distances, nearest(points, queries, 4)[0], rtol=1e-6)


@pytest.mark.parametrize("apart", [1e6, 1e7, 1e9])
def test_clusters_small_beside_their_distance(apart):
    """Where single precision does not tell the points of a cluster apart they are still found, each by itself first."""
    points = np.random.default_rng(4).normal(size=(3000, 3))
    points[1::2] += apart
    order, found = Cells.divided(points, seed=0)
    points = points[order]
    distances, _ = found.searched(points, points[::10], 5)
    assert (distances[:, 0] == 0).all()
    # Rounding may hide what is nearer by a thousandth.
    np.testing.assert_allclose(distances, nearest(points, points[::10], 5)[0], rtol=1e-3)


def test_constant_points():
    """All points equal: they are found, at distance 0."""
    points = np.full((1000, 2), 7.0)
    order, found = Cells.divided(points, seed=0)
    distances, indices = found.searched(points[order], points[:1], 5)
    assert (distances == 0).all()
    assert len(set(indices[0])) == 5


def test_cells_that_have_been_searched_can_be_sent_to_other_processes(divided):
    """With the index that was built for them, or without it."""
    points, found = divided
    expected = found.searched(points, points[:3], 5)[0]
    sent = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(sent.searched(points, points[:3], 5)[0], expected)


@pytest.mark.parametrize("many", [1, 2000])
def test_cells_of_one_point_each(many):
    """Where all cells searched hold fewer points than asked for, the search goes through all points."""
    points = np.concatenate([np.random.default_rng(0).normal(size=(500, 2)), 100 * np.arange(1, 41)[:, None] * np.ones((40, 2))])
    centres = np.concatenate([np.zeros((1, 2)), points[500:]])
    found = Cells(centres, np.append(0.0, np.arange(500.0, 541.0)))
    queries = np.full((many, 2), 4000.0)
    np.testing.assert_allclose(found.searched(points, queries, 30)[0], nearest(points, queries, 30)[0], rtol=1e-12)


def test_the_seed_decides():
    """The same seed gives the same cells."""
    points = np.random.default_rng(1).normal(size=(3000, 3))
    one, again, other = (Cells.divided(points, seed)[1].centres for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
