"""Products by BLAS: what they give, and what they refuse."""

import numpy as np
import pytest

from detectors.blas import add_square, mirror, times_lower

KINDS = pytest.mark.parametrize("kind", [np.float32, np.float64])
WIDTHS = pytest.mark.parametrize("width", [1, 2, 63, 64, 65, 200])
RNG = np.random.default_rng(0)


@KINDS
@WIDTHS
@pytest.mark.parametrize("rows", [0, 1, 150])
def test_squares_are_added_below_the_diagonal(kind, width, rows):
    """What stood there is added to, what stands above stays; rows and sums are whole numbers, which both types hold."""
    some, total = (RNG.integers(-9, 10, shape).astype(kind) for shape in ((rows, width), (width, width)))
    expected = np.where(np.tri(width, dtype=bool), total + some.T @ some, total)
    add_square(some, total)
    np.testing.assert_array_equal(total, expected)


@KINDS
@WIDTHS
def test_a_triangle_is_mirrored(kind, width):
    square = RNG.normal(size=(width, width)).astype(kind)
    expected = np.tril(square) + np.tril(square, -1).T
    mirror(square)
    np.testing.assert_array_equal(square, expected)


@KINDS
@WIDTHS
def test_rows_times_a_triangle(kind, width):
    """In the place of the rows, whatever stands above the diagonal."""
    rows, square = (RNG.integers(-9, 10, (count, width)).astype(kind) for count in (20, width))
    expected = rows @ np.tril(square)
    assert times_lower(rows, square) is rows
    np.testing.assert_array_equal(rows, expected)


def frozen(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("rows", "square"),
    [
        (np.ones((3, 2)), np.ones((2, 2), np.float32)),
        (np.ones((3, 2), np.float32), np.ones((2, 2))),
        (np.ones((3, 2)), np.ones((3, 3))),
        (np.ones((3, 2), np.int64), np.ones((2, 2), np.int64)),
        (np.ones((2, 3)).T, np.ones((2, 2))),
        (np.ones((3, 4))[:, ::2], np.ones((2, 2))),
        (np.ones((3, 2)), np.asfortranarray(np.ones((2, 4)))[:, ::2]),
    ],
)
def test_what_does_not_lie_row_by_row_or_fit_is_refused(rows, square):
    """BLAS would read and write beside them."""
    for product in (add_square, times_lower):
        with pytest.raises(ValueError, match="do not go together, row by row"):
            product(rows, square)


def test_what_must_not_be_written_is_refused():
    with pytest.raises(ValueError, match="do not go together"):
        add_square(np.ones((3, 2)), frozen(np.zeros((2, 2))))
    with pytest.raises(ValueError, match="do not go together"):
        times_lower(frozen(np.ones((3, 2))), np.ones((2, 2)))
