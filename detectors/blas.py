"""Products by BLAS that numpy has no name for. Other threads go on meanwhile: scipy's wrappers hold Python's lock, ctypes lets go of it."""

from __future__ import annotations

from ctypes import CFUNCTYPE, POINTER, byref, c_char_p, c_double, c_float, c_int, c_void_p, py_object, pythonapi
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cython_blas

MIRRORED_ROWS = 64  # at a time, which caches hold
REALS: dict[np.dtype[Any], Any] = {np.dtype(np.float32): c_float, np.dtype(np.float64): c_double}


def _routine(name: str, *arguments: Any) -> Any:
    """A routine of the BLAS that scipy has brought, from where scipy gives it to other languages."""
    capsule = cython_blas.__pyx_capi__[name]
    named = CFUNCTYPE(c_char_p, py_object)(("PyCapsule_GetName", pythonapi))
    pointed = CFUNCTYPE(c_void_p, py_object, c_char_p)(("PyCapsule_GetPointer", pythonapi))
    return CFUNCTYPE(None, *arguments)(pointed(capsule, named(capsule)))


def _trmm(name: str, real: Any) -> Any:
    number = POINTER(c_int)
    return _routine(name, *(c_char_p,) * 4, number, number, POINTER(real), c_void_p, number, c_void_p, number)


def _syrk(name: str, real: Any) -> Any:
    number, scale = POINTER(c_int), POINTER(real)
    return _routine(name, c_char_p, c_char_p, number, number, scale, c_void_p, number, scale, c_void_p, number)


_TRMM = {np.dtype(np.float32): _trmm("strmm", c_float), np.dtype(np.float64): _trmm("dtrmm", c_double)}
_SYRK = {np.dtype(np.float32): _syrk("ssyrk", c_float), np.dtype(np.float64): _syrk("dsyrk", c_double)}


def times_lower(rows: NDArray[np.floating[Any]], triangle: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """``rows`` (n, r) times a lower ``triangle`` (r, r) of the same type, in the place of ``rows``. Cost: n r² operations.

    Both lie row by row; of the triangle what is above the diagonal is not looked at. Raises ValueError for others.

    >>> times_lower(np.array([[1.0, 2.0]]), np.array([[3.0, 9.0], [4.0, 5.0]]))
    array([[11., 10.]])
    """
    real, size = REALS.get(rows.dtype), rows.itemsize
    fits = triangle.shape == (rows.shape[1],) * 2 and triangle.dtype == rows.dtype and rows.flags.writeable
    in_order = rows.shape[1] == 1 or rows.strides[1] == triangle.strides[1] == size  # of one column the stride means nothing
    if real is None or not fits or not in_order:
        raise ValueError(f"rows {rows.dtype} {rows.shape} and a triangle {triangle.dtype} {triangle.shape} do not go together, row by row")
    # BLAS counts along columns: to it rows are the columns of a transposed matrix, and the triangle is an upper one.
    count, width = rows.shape
    leading = (c_int(max(triangle.strides[0] // size, width)), c_int(rows.strides[0] // size))
    _TRMM[rows.dtype](
        b"L", b"U", b"N", b"N", byref(c_int(width)), byref(c_int(count)), byref(real(1)),
        triangle.ctypes.data, byref(leading[0]), rows.ctypes.data, byref(leading[1]),
    )  # fmt: skip
    return rows


def add_square(rows: NDArray[np.floating[Any]], total: NDArray[np.floating[Any]]) -> None:
    """Add ``rows.T @ rows`` (d, d), of ``rows`` (n, d), to ``total``, in place: its lower triangle, the rest stays. Cost: n d² operations.

    Both lie row by row without gaps and have one type. Raises ValueError for others.

    >>> total = np.zeros((2, 2))
    >>> add_square(np.array([[1.0, 2.0], [3.0, 4.0]]), total)
    >>> total
    array([[10.,  0.],
           [14., 20.]])
    """
    real, width = REALS.get(rows.dtype), rows.shape[1]
    fits = total.shape == (width, width) and total.dtype == rows.dtype and total.flags.writeable
    if real is None or not fits or not rows.flags.c_contiguous or not total.flags.c_contiguous:
        raise ValueError(f"rows {rows.dtype} {rows.shape} and their sum {total.dtype} {total.shape} do not go together, row by row")
    # BLAS counts along columns: to it rows are the columns of a transposed matrix, and the triangle is an upper one.
    size, one = byref(c_int(width)), byref(real(1))
    _SYRK[rows.dtype](b"U", b"N", size, byref(c_int(len(rows))), one, rows.ctypes.data, size, one, total.ctypes.data, size)


def mirror(triangle: NDArray[np.floating[Any]]) -> None:
    """Copy what is below the diagonal of ``triangle`` (d, d) above it, in place."""
    for start in range(0, len(triangle), MIRRORED_ROWS):
        stop = start + MIRRORED_ROWS
        corner = triangle[start:stop, start:stop]
        corner[:] = np.tril(corner) + np.tril(corner, -1).T
        triangle[start:stop, stop:] = triangle[stop:, start:stop].T
