"""What a detector is fitted on and what it is tested on, drawn by a seed, the same for all detectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.evaluation import TEST_SHARE

LARGEST = 10_000  # rows fitted, and rows tested of either kind
DRAWN_SHARE = 0.8  # of the rows of a contaminated fit, so that seeds differ


@dataclass(frozen=True, slots=True)
class Trial:
    """Rows to fit and rows to score; in a contaminated fit the scored rows are the fitted ones, and ``test`` is None."""

    fit: NDArray[np.float64]
    test: NDArray[np.float64] | None
    truth: NDArray[np.bool_]  # which of the scored rows are anomalous


def novelty(rows: NDArray[np.float64], anomalous: NDArray[np.bool_], seed: int) -> Trial:
    """Fit on normal rows alone, test on others: the split of ``farfield evaluate`` with this seed, before any calibration."""
    normal = np.random.default_rng(seed).permutation(np.flatnonzero(~anomalous))
    n_test = round(TEST_SHARE * len(normal))
    fitted = np.sort(normal[n_test:][:LARGEST])
    test = np.concatenate([normal[:n_test][:LARGEST], np.flatnonzero(anomalous)[:LARGEST]])
    return Trial(rows[fitted], rows[test], anomalous[test])


def contaminated(rows: NDArray[np.float64], anomalous: NDArray[np.bool_], seed: int) -> Trial:
    """Fit on normal and anomalous rows together, unlabelled, and rank these same rows."""
    count = min(round(DRAWN_SHARE * len(rows)), LARGEST)
    drawn = np.random.default_rng(seed).choice(len(rows), count, replace=False)
    return Trial(rows[drawn], None, anomalous[drawn])


def standardised(trial: Trial) -> Trial:
    """Columns to mean 0 and standard deviation 1 of the fitted rows; a column that never varies is only centred."""
    centre, spread = trial.fit.mean(axis=0), trial.fit.std(axis=0)
    spread = np.where(spread > 1e-12 * (np.abs(centre) + spread), spread, 1.0)
    test = None if trial.test is None else (trial.test - centre) / spread
    return Trial((trial.fit - centre) / spread, test, trial.truth)


PROTOCOLS: dict[str, Callable[[NDArray[np.float64], NDArray[np.bool_], int], Trial]] = {
    "clean": novelty,
    "clean-standardised": lambda rows, anomalous, seed: standardised(novelty(rows, anomalous, seed)),
    "contaminated": contaminated,
    "contaminated-standardised": lambda rows, anomalous, seed: standardised(contaminated(rows, anomalous, seed)),
}
