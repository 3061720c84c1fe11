"""Ten thousand columns and twenty rows: time and memory that a machine has, and a score that means something."""

import tracemalloc

import numpy as np
import pytest

from detectors import REGISTRY
from tests.detectors.test_ordeal import fitted

WIDE = [
    ("gaussian", {}, 5),
    ("class_gaussian", {"covariance": "oas"}, 6),
    ("robust_shrinkage", {}, 6),
    ("signature", {"depth": 2}, 0.1),
    ("weighting", {}, 0.1),
    ("knn", {"normalize": False}, 0.1),
]


@pytest.mark.parametrize(("kind", "parameters", "matrices"), WIDE, ids=[kind for kind, _, _ in WIDE])
def test_ten_thousand_columns(kind, parameters, matrices):
    """Twenty rows of 10 000 columns are learned within so many matrices of 0.8 GB, columns by columns; a row off in one column is seen."""
    width = 10_000
    rows = np.random.default_rng(0).normal(size=(20, width))
    detector = REGISTRY[kind](**parameters)
    tracemalloc.start()
    try:
        learned = fitted(detector, rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < matrices * 8 * width**2
    fresh = np.random.default_rng(1).normal(size=(1, width))
    scores = learned.scores(np.vstack([fresh, fresh + 300 * (np.arange(width) == 7)]))
    assert np.isfinite(scores).all()
    assert scores[1] > scores[0]


def test_every_type_is_tried_with_ten_thousand_columns():
    assert {kind for kind, _, _ in WIDE} == set(REGISTRY)
