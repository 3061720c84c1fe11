"""The detectors that are compared, each with the defaults of its library, and what is measured of one of them."""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import EllipticEnvelope
from sklearn.ensemble import IsolationForest
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import LocalOutlierFactor
from sklearn.svm import OneClassSVM
from threadpoolctl import threadpool_limits

from benchmarks.protocols import Trial
from detectors import REGISTRY, Detector
from service.evaluation import fpr_at_tpr, stored_bytes

OF_STREAMS = {"signature"}  # types whose rows are no plain features; those that learn with classes are left out too
LIBRARIES = ("farfield", "scikit-learn", "pyod")
FIGURES = ("auroc", "aupr", "fpr95", "fit_seconds", "score_us", "state_bytes")


@dataclass(frozen=True, slots=True)
class Contestant:
    """A detector with its defaults. ``make`` takes whether the scored rows are the fitted ones, and a seed."""

    name: str
    make: Callable[[bool, int], Any]
    fresh: Callable[[Any, NDArray[np.float64]], NDArray[np.float64]]  # scores of rows not fitted, higher = more anomalous
    own: Callable[[Any, NDArray[np.float64]], NDArray[np.float64]]  # scores of the fitted rows
    state_bytes: Callable[[Any], int]


def contestants(libraries: tuple[str, ...] = LIBRARIES) -> list[Contestant]:
    """All detectors of these libraries. Raises ModuleNotFoundError where PyOD is asked for and missing."""
    makers = {"farfield": _ours, "scikit-learn": _sklearn, "pyod": _pyod}
    return [contestant for library in libraries for contestant in makers[library]()]


def measure(contestant: Contestant, trial: Trial, seed: int) -> dict[str, Any]:
    """Figures of one detector on one trial, on one thread of the numerical libraries; or what it failed with.

    Times are of the processor, not of the clock, so that what else the machine does hardly touches them.
    """
    with warnings.catch_warnings(record=True) as caught, threadpool_limits(1):
        warnings.simplefilter("always")
        try:
            result = {"status": "ok", **_figures(contestant, trial, seed)}
        except Exception as error:  # noqa: BLE001  # whatever a detector fails with is its result
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {error} ({where.filename.rsplit('/', 1)[-1]}:{where.lineno})"
            result = {"status": "failed", "error": text}
    return {**result, "warnings": sorted({f"{w.category.__name__}: {w.message}"[:400] for w in caught})[:3]}


def _figures(contestant: Contestant, trial: Trial, seed: int) -> dict[str, float]:
    model = contestant.make(trial.test is None, seed)
    start = time.process_time()
    model.fit(trial.fit)
    fitted = time.process_time()
    scores = contestant.own(model, trial.fit) if trial.test is None else contestant.fresh(model, trial.test)
    scored = time.process_time()
    if not np.isfinite(scores).all():
        raise ValueError(f"{(~np.isfinite(scores)).sum()} of {len(scores)} scores are not finite")
    return {
        "auroc": float(roc_auc_score(trial.truth, scores)),
        "aupr": float(average_precision_score(trial.truth, scores)),
        "fpr95": fpr_at_tpr(trial.truth, scores, 0.95),
        "fit_seconds": fitted - start,
        "score_us": 1e6 * (scored - fitted) / len(scores),
        "state_bytes": contestant.state_bytes(model),
    }


def _ours() -> list[Contestant]:
    types = {name: cls for name, cls in REGISTRY.items() if name not in OF_STREAMS and not cls.LABELLED}
    return [
        Contestant(f"farfield {name}", lambda own, seed, cls=cls: cls(), lambda m, rows: m.scores(rows), _own_scores, stored_bytes)  # type: ignore[misc]
        for name, cls in types.items()
    ]


def _own_scores(model: Detector[Any], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return model.training_scores(model.state_, rows)


def _sklearn() -> list[Contestant]:
    makers: dict[str, Callable[[bool, int], Any]] = {
        "IsolationForest": lambda own, seed: IsolationForest(random_state=seed),
        "LocalOutlierFactor": lambda own, seed: LocalOutlierFactor(novelty=not own),
        "OneClassSVM": lambda own, seed: OneClassSVM(),
        "EllipticEnvelope": lambda own, seed: EllipticEnvelope(random_state=seed),
    }
    return [
        Contestant(f"scikit-learn {name}", make, lambda m, rows: -m.score_samples(rows), _sklearn_own, _held)
        for name, make in makers.items()
    ]


def _sklearn_own(model: Any, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return -np.asarray(model.negative_outlier_factor_ if isinstance(model, LocalOutlierFactor) else model.score_samples(rows))


def _pyod() -> list[Contestant]:
    classes = {"MCD": "mcd", "KNN": "knn", "ECOD": "ecod", "PCA": "pca"}
    try:
        found = {name: getattr(import_module(f"pyod.models.{module}"), name) for name, module in classes.items()}
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"PyOD cannot be had ({error}): pip install pyod, or leave it out with --libraries") from None
    seeded = {"MCD", "PCA"}
    return [
        Contestant(
            f"pyod {name}",
            lambda own, seed, cls=cls, name=name: cls(random_state=seed) if name in seeded else cls(),  # type: ignore[misc]
            lambda m, rows: m.decision_function(rows),
            lambda m, rows: m.decision_scores_,
            _held,
        )
        for name, cls in found.items()
    ]


def _held(model: Any) -> int:
    """Bytes of the arrays, text and numbers that a peer holds, each object counted once; its classes and names are not counted."""
    seen: set[int] = set()

    def size(value: Any) -> int:
        if id(value) in seen or value is None or callable(value):
            return 0
        seen.add(id(value))
        kept.append(value)  # so that no id is given a second time
        if isinstance(value, np.ndarray):
            inside = value.ravel().tolist() if value.dtype.kind == "O" else []
            return value.nbytes + sum(map(size, inside))
        if isinstance(value, str | bytes):
            return len(value)
        if isinstance(value, int | float | np.generic):
            return 8
        if isinstance(value, dict):
            value = list(value.values())
        return sum(map(size, value)) if isinstance(value, list | tuple | set) else size(value.__getstate__())

    kept: list[Any] = []
    return size(model)
