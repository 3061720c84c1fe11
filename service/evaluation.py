"""How well a detector ranks labelled rows, and whether it keeps its false-alarm rate."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from detectors import REGISTRY, Detector, dumps
from models import Extractor
from service.archive import STATISTICS
from service.engine import Fitted, chi_square_p_values, fit, score
from service.errors import InvalidInput
from service.features import Batch, extract
from service.recipe import Recipe

TEST_SHARE = 0.3  # of the normal rows; all anomalous rows are tested


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures of one detector type on rows that it has not seen. Rates are shares from 0 to 1."""

    type: str
    auroc: float
    aupr: float
    fpr_at_95_tpr: float
    alpha: float
    false_alarm_rate: float  # share of normal test rows called outliers at alpha
    chi_square_false_alarm_rate: float | None  # the same by the detector's own model, where it has one
    detection_rate: float  # share of anomalous test rows called outliers at alpha
    n_fit: int
    n_calibration: int
    n_normal: int
    n_anomalous: int
    fit_seconds: float
    score_seconds: float  # of all test rows together, in one batch
    score_us_per_row: float  # microseconds
    state_bytes: int  # of all detectors of the recipe, see ``stored_bytes``

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(recipe: Recipe, batch: Batch, labels: NDArray[Any], extractor: Extractor | None = None) -> Evaluation:
    """Fit on 70 % of the normal rows (label 0), test on the other 30 % and on all anomalous rows (label 1)."""
    anomalous = _anomalous(labels)
    normal = np.random.default_rng(recipe.seed).permutation(np.flatnonzero(~anomalous))
    n_test = round(TEST_SHARE * len(normal))
    features = Batch(rows=extract(extractor, batch))  # extracted once, for both parts
    start = time.perf_counter()
    fitted = fit(recipe, features.take(np.sort(normal[n_test:])), levels=extractor.levels if extractor else None)
    fitted_at = time.perf_counter()
    test = np.concatenate([normal[:n_test], np.flatnonzero(anomalous)])
    verdicts = score(fitted, features.take(test))
    scored_at = time.perf_counter()
    truth = anomalous[test]
    return Evaluation(
        type=recipe.type,
        auroc=float(roc_auc_score(truth, verdicts.scores)),
        aupr=float(average_precision_score(truth, verdicts.scores)),
        fpr_at_95_tpr=fpr_at_tpr(truth, verdicts.scores, 0.95),
        alpha=recipe.alpha,
        false_alarm_rate=float(verdicts.is_outlier[~truth].mean()),
        chi_square_false_alarm_rate=_by_model(fitted, verdicts.scores[~truth], recipe.alpha),
        detection_rate=float(verdicts.is_outlier[truth].mean()),
        n_fit=fitted.n_fit,
        n_calibration=fitted.n_calibration,
        n_normal=int((~truth).sum()),
        n_anomalous=int(truth.sum()),
        fit_seconds=fitted_at - start,
        score_seconds=scored_at - fitted_at,
        score_us_per_row=1e6 * (scored_at - fitted_at) / len(test),
        state_bytes=sum(map(stored_bytes, fitted.judge.detectors)),
    )


def _by_model(fitted: Fitted, scores: NDArray[np.float64], alpha: float) -> float | None:
    if fitted.chi_square_degrees is None:
        return None
    return float((chi_square_p_values(fitted, scores) <= alpha).mean())


def fpr_at_tpr(truth: NDArray[np.bool_], scores: NDArray[np.float64], tpr: float) -> float:
    """Smallest false-positive rate of a threshold that finds at least the share ``tpr`` of the positives."""
    fprs, tprs, _ = roc_curve(truth, scores, drop_intermediate=False)
    return float(fprs[np.searchsorted(tprs, tpr, side="left")])


def stored_bytes(detector: Detector[Any]) -> int:
    """Bytes of the form of a fitted detector that is stored for scoring: header and arrays, without the sums that updates need."""
    header, arrays = dumps(next(kind for kind, cls in REGISTRY.items() if type(detector) is cls), detector)
    return len(header) + sum(array.nbytes for name, array in arrays.items() if not name.startswith(STATISTICS))


def _anomalous(labels: NDArray[Any]) -> NDArray[np.bool_]:
    values = np.unique(labels)
    if not np.isin(values, [0, 1]).all() or len(values) != 2:
        raise InvalidInput(f"labels must be 0 for normal and 1 for anomalous, with both present; found {values[:5].tolist()}", "#/labels")
    found: NDArray[np.bool_] = labels.astype(bool)
    return found
