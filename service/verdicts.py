"""What comes out of scoring a batch. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.features import Features


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Scores of a batch with what follows from them; ``seconds`` are the times of the stages."""

    scores: NDArray[np.float64]
    p_values: NDArray[np.float64]
    is_outlier: NDArray[np.bool_]
    off_span: NDArray[np.bool_]
    alpha: float
    threshold: float | None  # None where no one score decides
    attributions: NDArray[np.float64] | None
    chi_square_p_values: NDArray[np.float64] | None  # by the detector's own model; not calibrated
    nearest_class: NDArray[Any] | None  # within which each row was judged, where calibration is by class
    features: Features  # what was scored
    seconds: dict[str, float]

    def part(self, rows: slice) -> Verdicts:
        """Those of some of the rows, where each row was judged alone; they took as long as all."""
        columns = self.attributions, self.chi_square_p_values, self.nearest_class
        shares, by_model, nearest = [None if column is None else column[rows] for column in columns]
        return Verdicts(
            self.scores[rows],
            self.p_values[rows],
            self.is_outlier[rows],
            self.off_span[rows],
            self.alpha,
            self.threshold,
            shares,
            by_model,
            nearest,
            self.features[rows],
            dict(self.seconds),
        )


def largest(shares: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Places (n, count) of the largest of absolute ``shares`` (n, d) in each row, largest first; of equal ones any."""
    sizes = -np.abs(shares)
    if count < shares.shape[1]:
        places = np.sort(np.argpartition(sizes, count, axis=1)[:, :count], axis=1)
        return np.take_along_axis(places, np.argsort(np.take_along_axis(sizes, places, axis=1), axis=1, kind="stable"), axis=1)
    return np.argsort(sizes, axis=1, kind="stable")
