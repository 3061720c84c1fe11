"""Anomaly detectors: arrays in, scores out. Knows no files, no network, no store."""

from typing import Any

from detectors.additive import AdditiveDetector
from detectors.base import Detector
from detectors.calibration import AlphaTooSmall, Calibration, outliers, rows_needed
from detectors.class_gaussian import ClassGaussian
from detectors.combination import CombinedCalibration, merged_p_values
from detectors.cross import CrossConformal
from detectors.gaussian import Gaussian
from detectors.groups import GroupedCalibration
from detectors.knn import KNN
from detectors.robust_shrinkage import RobustShrinkage
from detectors.signature import Signature
from detectors.state import dumps, loads
from detectors.tail import ParetoTail
from detectors.weighting import Weighting

REGISTRY: dict[str, type[Detector[Any]]] = {
    "gaussian": Gaussian,
    "class_gaussian": ClassGaussian,
    "robust_shrinkage": RobustShrinkage,
    "signature": Signature,
    "weighting": Weighting,
    "knn": KNN,
}

__all__ = [
    "KNN", "REGISTRY", "AdditiveDetector", "AlphaTooSmall", "Calibration", "ClassGaussian", "CombinedCalibration", "CrossConformal",
    "Detector", "Gaussian", "GroupedCalibration", "ParetoTail", "RobustShrinkage", "Signature", "Weighting", "dumps", "loads",
    "merged_p_values", "outliers", "rows_needed",
]  # fmt: skip
