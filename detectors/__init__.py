"""Anomaly detectors: arrays in, scores out. Knows no files, no network, no store."""

from typing import Any

from detectors.base import AdditiveDetector, Detector
from detectors.calibration import Calibration, outliers
from detectors.gaussian import Gaussian
from detectors.state import dumps, loads

REGISTRY: dict[str, type[Detector[Any]]] = {
    "gaussian": Gaussian,
}

__all__ = ["REGISTRY", "AdditiveDetector", "Calibration", "Detector", "Gaussian", "dumps", "loads", "outliers"]
