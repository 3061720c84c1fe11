"""Networks that farfield brings along, so that the first fit needs no download."""

from __future__ import annotations

from importlib.resources import files

from models.graph import Tap
from models.preprocessing import Preprocessing

BUNDLED: dict[str, tuple[Preprocessing, tuple[Tap, ...]]] = {
    "mobilenet_v2": (Preprocessing(224, 224, layout="NHWC", dtype="uint8"), (Tap("features"),)),
}


def bundled(name: str) -> tuple[bytes, Preprocessing, tuple[Tap, ...]]:
    """ONNX file, preprocessing and default taps of a bundled network."""
    preprocessing, taps = BUNDLED[name]
    return files(__name__).joinpath(f"{name}.onnx").read_bytes(), preprocessing, taps
