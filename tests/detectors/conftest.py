"""Data that several detector tests share: real features, and the worked example of a few rows."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from models import Extractor, Tap, decode
from models.bundled import bundled

DEMO_IMAGES = Path(__file__).parents[2] / "service" / "demo_images" / "normal"
TAPS = ("MobilenetV2/expanded_conv_14/add_prequant", "MobilenetV2/expanded_conv_15/add_prequant")


@pytest.fixture(scope="session")
def digits():
    """1797 handwritten digits of 64 pixels; some pixels never vary."""
    return load_digits().data


@pytest.fixture(scope="session")
def image_features():
    """Features of 150 photographs by the bundled network: two taps of 160 columns, then the last 1280."""
    onnx_file, preprocessing, last = bundled("mobilenet_v2")
    taps = [*(Tap(name) for name in TAPS), *last]
    extractor = Extractor(onnx_file, preprocessing=preprocessing, taps=taps, device="cpu", threads=1)
    images = [decode(path.read_bytes()) for path in sorted(DEMO_IMAGES.glob("*.png"))[:150]]
    return extractor.images(images).astype(np.float64)


@pytest.fixture
def example():
    """Eight rows in the plane and five queries, small enough to check by hand."""
    rows = np.array([[2, 0], [0, 1], [-2, 1], [0, -2], [4, 6], [6, 7], [4, 8], [6, 5]], float)
    queries = np.array([[0, 0], [5, 6], [3, 3], [10, 0], [0.5, 0.6]])
    return rows, queries
