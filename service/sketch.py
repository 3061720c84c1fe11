"""What a version remembers of the features of its calibration rows, to tell later which of them have moved. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from detectors.bins import Bins, even_ranks
from detectors.wasserstein import Slices

MOST_ROWS = 2048  # of the calibration rows, drawn by a seed
MOST_FEATURES = 4096  # that are watched one by one; the distance of all of them together knows no limit
FEWEST_ROWS = 8
FEATURE_BINS = 8

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Sketch:
    bins: Bins | None  # of each feature; None where there are too many
    slices: Slices

    @classmethod
    def of(cls, rows: NDArray[Any], seed: int) -> Sketch | None:
        """Sketch of calibration rows (n, d); None of fewer than ``FEWEST_ROWS``."""
        if len(rows) < FEWEST_ROWS:
            return None
        rows = rows[np.sort(np.random.default_rng(seed).permutation(len(rows))[:MOST_ROWS])]
        bins = Bins.of(rows, even_ranks(len(rows), FEATURE_BINS), seed) if rows.shape[1] <= MOST_FEATURES else None
        return cls(bins, Slices.of(rows, seed))

    def arrays(self) -> Arrays:
        """What is stored."""
        slices, bins = self.slices, self.bins
        stored: Arrays = {
            "directions": slices.directions,
            "quantiles": slices.quantiles,
            "rows": np.array(slices.rows),
            "spread": np.array(slices.spread),
        }
        return stored if bins is None else {**stored, "edges": bins.edges, "breaks": bins.breaks, "gaps": bins.gaps}

    @classmethod
    def restored(cls, arrays: Arrays) -> Self:
        bins = Bins(arrays["edges"], arrays["breaks"], arrays["gaps"]) if "edges" in arrays else None
        return cls(bins, Slices(arrays["directions"], arrays["quantiles"], int(arrays["rows"]), float(arrays["spread"])))
