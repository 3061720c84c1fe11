"""Weightings of things of any kind, against closed forms and explicit inverses."""

import re

import numpy as np
import pytest

from detectors import Weighting, cholesky, similarity, subsets
from detectors.similarity import between, factored, left_out, magnitude, unexplained, weighting


def alike(n, t=1.0):
    """Similarities among n random points."""
    points = np.random.default_rng(n).normal(size=(n, 3))
    return np.exp(-t * np.linalg.norm(points[:, None] - points, axis=2))


def test_equals_the_inverse(monkeypatch):
    """Weights, magnitude and both kinds of share are what the inverse matrix gives, also with its columns taken a few at a time."""
    whole = alike(61)
    among, to_new = whole[:60, :60], whole[60:, :60]
    inverse = np.linalg.inv(among)
    np.testing.assert_allclose(weighting(among), inverse.sum(axis=1), rtol=1e-9)
    assert magnitude(among) == pytest.approx(inverse.sum(), rel=1e-9)
    np.testing.assert_allclose(unexplained(among, to_new), 1 - to_new @ inverse @ to_new[0], rtol=1e-9)
    for columns in (512, 7):
        monkeypatch.setattr(similarity, "INVERTED_COLUMNS", columns)
        np.testing.assert_allclose(left_out(among), 1 / np.diag(inverse), rtol=1e-9)


def test_panels_give_the_factor(monkeypatch):
    """A few columns at a time, the last panel narrower: the same factor, with zeros above, also on a second try with jitter."""
    points = np.random.default_rng(1).normal(size=(60, 2))
    points[-3:] = points[:3]  # the first panels factor, the last one does not without jitter
    whole = np.exp(-np.linalg.norm(points[:, None] - points, axis=2))
    monkeypatch.setattr(cholesky, "PANEL_COLUMNS", 7)
    factor, jitter = factored(whole.copy())
    assert jitter > 0
    np.testing.assert_allclose(factor, np.linalg.cholesky(whole + jitter * np.eye(60)), rtol=1e-3, atol=1e-9)
    np.testing.assert_allclose(factor @ factor.T, whole + jitter * np.eye(60), rtol=0, atol=1e-14)
    assert (np.triu(factor, 1) == 0).all()
    assert factored(whole[:57, :57].copy())[1] == 0
    np.testing.assert_allclose(factored(whole[:57, :57].copy())[0], np.linalg.cholesky(whole[:57, :57]), rtol=1e-9)


def test_complete_graph_and_cycle():
    """Where every thing sees the others alike the magnitude is n over the sum of a row."""
    complete = np.where(np.eye(6, dtype=bool), 1, np.exp(-1))
    assert magnitude(complete) == pytest.approx(6 / (1 + 5 * np.exp(-1)), rel=1e-12)
    steps = np.minimum(np.arange(8), 8 - np.arange(8))
    cycle = np.exp(-np.array([np.roll(steps, i) for i in range(8)]))
    assert magnitude(cycle) == pytest.approx(8 / np.exp(-steps).sum(), rel=1e-12)


def test_strings_by_edit_distance():
    """A word between two that are known is better explained than one far from all."""
    words, new = ["house", "mouse", "horse", "cat", "cart"], ["house", "hose", "xylophone"]
    among, to_known = between(words, words, edits), between(new, words, edits)
    shares = unexplained(np.exp(-among), np.exp(-to_known))
    detector = Weighting(metric="precomputed", scale="fixed", scale_value=1.0).fit(among)
    np.testing.assert_allclose(detector.scores(to_known), shares, atol=1e-12)
    assert shares[0] == pytest.approx(0, abs=1e-12)
    assert 0.5 < shares[1] < 0.9
    assert shares[2] > 0.999


def test_a_function_of_pairs():
    """Its values stand at their pairs; among the same things it is called once a pair, and things of any kind are taken."""
    called = []

    def gap(left, right):
        called.append((left, right))
        return abs(len(left) - len(right))

    words = ["a", "bcd", "efghij"]
    np.testing.assert_array_equal(between(words, words, gap), [[0, 2, 5], [2, 0, 3], [5, 3, 0]])
    assert len(called) == len(set(called)) == 6
    called.clear()
    np.testing.assert_array_equal(between(words, [{1, 2}], gap), [[1], [1], [4]])
    assert len(called) == 3
    assert between([], words, gap).shape == (0, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, "near", None, 1j])
def test_a_function_that_returns_no_number_is_refused(value):
    """The error names the value and the pair."""
    with pytest.raises(ValueError, match=rf"returned {re.escape(repr(value))} of things 1 and 2: it must return a finite number"):
        between("abc", "abc", lambda left, right: value if (left, right) == ("b", "c") else 1.0)


def test_factored_in_place_and_with_jitter():
    """The factor takes the memory of the matrix; a singular one gets the smallest addition that helps, after failed attempts too."""
    matrix = alike(50)
    factor, jitter = factored(matrix)
    assert factor is matrix
    assert jitter == 0
    assert not np.triu(factor, 1).any()
    np.testing.assert_allclose(factor @ factor.T, alike(50), atol=1e-12)
    twice = np.kron(alike(30), np.ones((2, 2)))
    factor, jitter = factored(twice.copy())
    assert 0 < jitter <= 1e-10
    np.testing.assert_allclose(factor @ factor.T, twice + jitter * np.eye(60), atol=1e-12)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((2, 3)), "n rows and n columns, not of shape \\(2, 3\\)"),
        (np.array([[1, 0.5], [0.4, 1]]), "not symmetric"),
        (np.array([[1, 0.5], [0.5, 2]]), "similarity 1 to itself"),
        (np.array([[1, np.nan], [np.nan, 1]]), "not symmetric"),
        (np.array([[1, 0.9, 0], [0.9, 1, 0.9], [0, 0.9, 1]]), "not positive definite"),
    ],
)
def test_what_is_no_matrix_of_similarities_is_refused(matrix, message):
    """Shape, symmetry, diagonal and definiteness are each named; the caller's matrix stays what it was."""
    before = matrix.copy()
    for function in (weighting, magnitude, left_out):
        with pytest.raises(ValueError, match=message):
            function(matrix)
    np.testing.assert_array_equal(matrix, before)


def test_near_duplicates_are_found_wherever_they_lie():
    """Of each group within the radius one is left, whatever the grid that its members straddle; those just outside stay."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(300, 8))
    shifts = rng.normal(size=(300, 8))
    shifts /= np.linalg.norm(shifts, axis=1, keepdims=True)
    twins, others = points + 0.99e-6 * shifts, points[:50] + 3e-6 * shifts[50:100]
    kept, repeated = subsets.distinct(np.vstack([points, twins, others, points]), 1e-6)
    np.testing.assert_array_equal(kept, [*range(300), *range(600, 650)])
    np.testing.assert_array_equal(repeated, [1] * 300 + [0] * 50)
    distances = np.linalg.norm(np.vstack([points, twins])[:, None] - np.vstack([points, twins]), axis=2)
    kept, repeated = subsets.apart(distances, 1e-6)
    np.testing.assert_array_equal(kept, range(300))
    assert repeated.all()


def test_many_equal_points_are_one():
    """Any number of equal points leaves one, also where the values are so large that products of them err."""
    points = np.repeat(np.random.default_rng(1).normal(size=(20, 3)) * 1e6, 50, axis=0)
    np.testing.assert_array_equal(subsets.distinct(points, 0.0)[0], range(0, 1000, 50))


def test_farthest_points_cover():
    """Each point taken is the farthest from those taken before: the radius of cover falls, and beats that of random ones."""
    points = np.random.default_rng(2).normal(size=(500, 3))
    taken = subsets.farthest(points, 50)
    assert len(set(taken)) == 50

    def radius(some):
        return np.linalg.norm(points[:, None] - points[some], axis=2).min(axis=1).max()

    gaps = np.linalg.norm(points[taken][:, None] - points[taken], axis=2)[np.triu_indices(50, 1)]
    assert gaps.min() >= radius(taken) - 1e-12
    assert radius(taken) < min(radius(np.random.default_rng(seed).choice(500, 50, replace=False)) for seed in range(5))


def edits(left, right):
    """Levenshtein's distance, by its recursion."""
    if not left or not right:
        return len(left) + len(right)
    change = edits(left[1:], right[1:]) + (left[0] != right[0])
    return min(change, edits(left[1:], right) + 1, edits(left, right[1:]) + 1)
