"""The array types that travel between the modules of this package."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]  # (d,)
Matrix = NDArray[np.float64]  # (d, d)
Rows = NDArray[np.float64]  # (n, d), one row per observation
Scores = NDArray[np.float64]  # (n,), higher = more anomalous
Floats = NDArray[np.floating[Any]]  # in single or double precision
Attributions = NDArray[np.float64]  # (n, d), share of each feature in the score of its row
