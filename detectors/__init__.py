"""Anomaly detectors: arrays in, scores out. Knows no files, no network, no store."""

from typing import Any

from detectors.base import AdditiveDetector, Detector
from detectors.calibration import Calibration, outliers
from detectors.gaussian import Gaussian
from detectors.knn import KNN
from detectors.robust_shrinkage import RobustShrinkage
from detectors.signature import Signature
from detectors.state import dumps, loads
from detectors.weighting import Weighting

REGISTRY: dict[str, type[Detector[Any]]] = {
    "gaussian": Gaussian,
    "robust_shrinkage": RobustShrinkage,
    "signature": Signature,
    "weighting": Weighting,
    "knn": KNN,
}

__all__ = [
    "KNN", "REGISTRY", "AdditiveDetector", "Calibration", "Detector", "Gaussian", "RobustShrinkage", "Signature", "Weighting",
    "dumps", "loads", "outliers",
]  # fmt: skip
