"""A product with a triangle by BLAS, during which other threads go on: scipy's wrapper of it holds Python's lock, ctypes lets go of it."""

from __future__ import annotations

from ctypes import CFUNCTYPE, POINTER, byref, c_char_p, c_double, c_float, c_int, c_void_p, py_object, pythonapi
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cython_blas

REALS: dict[np.dtype[Any], Any] = {np.dtype(np.float32): c_float, np.dtype(np.float64): c_double}


def _routine(name: str, real: Any) -> Any:
    """A routine of the BLAS that scipy has brought, from where scipy gives it to other languages."""
    capsule = cython_blas.__pyx_capi__[name]
    named = CFUNCTYPE(c_char_p, py_object)(("PyCapsule_GetName", pythonapi))
    pointed = CFUNCTYPE(c_void_p, py_object, c_char_p)(("PyCapsule_GetPointer", pythonapi))
    number = POINTER(c_int)
    arguments = (c_char_p, c_char_p, c_char_p, c_char_p, number, number, POINTER(real), c_void_p, number, c_void_p, number)
    return CFUNCTYPE(None, *arguments)(pointed(capsule, named(capsule)))


_TRMM = {np.dtype(np.float32): _routine("strmm", c_float), np.dtype(np.float64): _routine("dtrmm", c_double)}


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
