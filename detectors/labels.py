"""Classes of rows: text or whole numbers as they come, and as the floating-point numbers that a state stores."""

from __future__ import annotations

from numbers import Number
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import column_or_1d

from detectors.arrays import Matrix

LARGEST = 2**53  # whole numbers up to it are exact in float64

Labels = NDArray[Any]  # (n,), text or int64


def checked(y: ArrayLike | None, count: int, owner: str) -> Labels:
    """Classes ``y`` of ``count`` rows as text or int64. Raises ValueError, naming ``owner``, for all that is neither.

    >>> checked([2.0, 1.0], 2, "a detector")
    array([2, 1])
    """
    if y is None:
        raise ValueError(f"{owner} requires y to be passed, but the target y is None: give the class of each row")
    labels: Labels = column_or_1d(y, warn=True)
    if len(labels) != count:
        raise ValueError(f"y has {len(labels)} classes for {count} rows of X: give one per row")
    if all(isinstance(label, str) for label in labels):
        return labels.astype(str)
    if labels.dtype.kind == "O" and all(isinstance(label, Number) for label in labels):
        labels = np.asarray(labels.tolist())
    if labels.dtype.kind in "biuf":
        numbers = labels.astype(np.float64)
        if (np.abs(numbers) <= LARGEST).all() and (numbers == np.rint(numbers)).all():
            return numbers.astype(np.int64)
    raise ValueError(f"classes in y must be text or whole numbers up to 2^53, not {labels.dtype} such as {labels[0]!r}")


def encoded(labels: Labels) -> tuple[Matrix, int]:
    """Numbers (n, w) that stand for ``labels``, and 1 where they are the code points of text, 0 where the labels themselves.

    >>> codes, text = encoded(np.array(["b", "ax"]))
    >>> codes, text, decoded(codes, text)
    (array([[ 98.,   0.],
           [ 97., 120.]]), 1, array(['b', 'ax'], dtype='<U2'))
    """
    if labels.dtype.kind != "U":
        return labels.astype(np.float64)[:, None], 0
    width = max(1, labels.dtype.itemsize // 4)
    return np.ascontiguousarray(labels.astype(f"=U{width}")).view(np.uint32).reshape(-1, width).astype(np.float64), 1


def decoded(codes: Matrix, text: int) -> Labels:
    """The labels that ``encoded`` was given."""
    if not text:
        return codes[:, 0].astype(np.int64)
    return np.ascontiguousarray(codes.astype(np.uint32)).view(f"=U{codes.shape[1]}")[:, 0]
