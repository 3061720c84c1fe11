"""Questions to the eigenvalues of a matrix, against the eigenvalues themselves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detectors import cholesky
from detectors.cholesky import exceeds, factor, repaired, solved
from detectors.norm import VarianceNorm

squares = st.integers(1, 6).flatmap(lambda d: arrays(float, (d, d), elements=st.integers(-9, 9).map(float)))


@given(squares, st.integers(-20, 20).map(lambda k: k + 0.5))
def test_exceeds_agrees_with_the_eigenvalues(square, least):
    """Whatever the signs, the answer is that of the smallest eigenvalue, but where it equals the bound to rounding."""
    matrix = square + square.T
    smallest = np.linalg.eigvalsh(matrix)[0]
    if abs(smallest - least) > 1e-6:
        assert exceeds(matrix, least) == (smallest > least)


def test_discs_answer_without_a_factor(monkeypatch):
    """A matrix whose diagonal outweighs the rest is not factored, another is."""
    monkeypatch.setattr(cholesky.lapack, "dpotrf", lambda *arguments, **options: pytest.fail("factored"))
    dominated = np.eye(5) + 0.1
    assert exceeds(dominated, 0.5)
    np.testing.assert_array_equal(repaired(np.eye(5), 0.5), np.eye(5))
    with pytest.raises(pytest.fail.Exception):
        exceeds(np.eye(5) + 1, 0.5)


def test_panels_tell_the_same(monkeypatch):
    """Wide matrices are factored some columns at a time, which changes nothing: not a factor, nor what is made of one."""
    rng = np.random.default_rng(0)
    spread = rng.normal(size=(90, 30))
    matrix, rows = spread.T @ spread, rng.normal(size=(70, 30))

    def told():
        norm = VarianceNorm.of(np.zeros(30), matrix)
        return factor(matrix), norm.squared(rows), solved(matrix, rows.T), exceeds(matrix, 1.0), exceeds(matrix, 1e9)

    expected = told()
    monkeypatch.setattr(cholesky, "PANEL_COLUMNS", 7)
    for found, whole in zip(told(), expected, strict=True):
        np.testing.assert_allclose(found, whole, rtol=1e-10, atol=1e-12)
    assert factor(matrix - 1e9 * np.eye(30)) is None
