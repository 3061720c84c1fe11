"""ONNX feature extractors: preprocessing, taps, devices. Knows nothing of detectors or of the service."""

from models.bundled import BUNDLED, bundled
from models.errors import DeviceError, ImageError, ImageTooLargeError, ModelError, OnnxError, PreprocessingError, TapError
from models.extractor import Device, Extractor, Level, image_preprocessing
from models.graph import Tap
from models.preprocessing import RANGES, Preprocessing, decode

__all__ = [
    "BUNDLED", "RANGES", "Device", "DeviceError", "Extractor", "ImageError", "ImageTooLargeError", "Level", "ModelError", "OnnxError",
    "Preprocessing", "PreprocessingError", "Tap", "TapError", "bundled", "decode", "image_preprocessing",
]  # fmt: skip
