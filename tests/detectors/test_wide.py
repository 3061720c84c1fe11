"""Ten thousand columns and twenty rows: time and memory that a machine has, and a score that means something."""

import tracemalloc

import numpy as np
import pytest

from detectors import REGISTRY
from tests.detectors.test_ordeal import fitted

# Without shrinkage the directions never seen take an eigendecomposition: too long for a test.
PARAMETERS = {"class_gaussian": {"covariance": "oas"}}
MATRICES = {"gaussian": 5, "class_gaussian": 6, "robust_shrinkage": 6}  # of 10 000 columns by 10 000, 0.8 GB each
NO_MATRIX = 0.1  # of one: what all others do with


@pytest.mark.parametrize("kind", REGISTRY)
def test_ten_thousand_columns(kind):
    """Twenty rows of 10 000 columns are learned within so many matrices of columns by columns; a row off in one column is seen."""
    width = 10_000
    rows = np.random.default_rng(0).normal(size=(20, width)) + 3
    detector = REGISTRY[kind](**PARAMETERS.get(kind, {}))
    tracemalloc.start()
    try:
        learned = fitted(detector, rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MATRICES.get(kind, NO_MATRIX) * 8 * width**2
    fresh = np.random.default_rng(1).normal(size=(1, width)) + 3
    scores = learned.scores(np.vstack([fresh, fresh + 300 * (np.arange(width) == 7)]))
    assert np.isfinite(scores).all()
    assert scores[1] > scores[0]
