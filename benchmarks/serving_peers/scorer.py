"""What every peer scores with: the state of one of our detectors, applied by numpy as one writes it. Runs in the peers' environments."""

from __future__ import annotations

from pathlib import Path

import numpy as np

WIDTH = 512


class Scorer:
    """Squared Mahalanobis distances by the mean and the whitening matrix in ``folder``/``name``.npz."""

    def __init__(self, folder, name="rows"):
        with np.load(Path(folder, f"{name}.npz")) as state:
            self.mean, self.whiten = state["mean"], state["whiten"]

    def __call__(self, rows):
        """Scores (n,) of rows (n, d), in single precision as the state."""
        whitened = (rows.astype(np.float32, copy=False) - self.mean) @ self.whiten
        return np.einsum("ij,ij->i", whitened, whitened)
