"""How near an approximation comes to what it stands for, measured on a seeded sample: a version states it."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sklearn.base import clone

from detectors.arrays import Floats, Scores

ASKED = 250  # rows whose scores are compared
COMPARED = 1250  # rows among which two forms of a detector are compared, where the exact one cannot learn all


def relative_errors(found: Scores, exact: Scores) -> dict[str, float]:
    """Mean and 95 % quantile of how far scores ``found`` (n,) are from ``exact`` ones, as shares of these.

    >>> relative_errors(np.array([1.0, 2.2, 0.0]), np.array([1.0, 2.0, 0.0]))
    {'error_mean': 0.033333, 'error_95': 0.09}
    """
    errors = np.abs(found - exact) / np.where(exact > 0, exact, 1.0)
    return {"error_mean": round(float(errors.mean()), 6), "error_95": round(float(np.quantile(errors, 0.95)), 6)}


def sample(points: Floats, count: int, seed: int) -> Any:
    """At most ``count`` of ``points`` (n, d), drawn without replacement."""
    return points[np.random.default_rng(seed).choice(len(points), min(count, len(points)), replace=False)]


def rank_correlation(detector: Any, one: dict[str, Any], other: dict[str, Any], points: Floats, seed: int) -> dict[str, float]:
    """Spearman's rank correlation of the scores that a detector gives with ``one`` and with ``other`` parameters to a fifth of some points.

    Both learn the others, in double precision; ``points`` are standardized already. Nothing where either gives one score to all, or
    cannot learn them, as where so many lie so near each other that the exact form is refused.
    """
    drawn = sample(points, COMPARED, seed)
    asked, learned = np.split(drawn, [len(drawn) // 5])
    forms = [clone(detector).set_params(standardize=False, precision="float64", **changed) for changed in (one, other)]
    try:
        scores = [form.fit(learned).scores(asked) for form in forms]
    except ValueError:
        return {}
    if min(map(np.ptp, scores)) == 0:
        return {}
    return {"rank_correlation": round(float(spearmanr(*scores).statistic), 6)}
