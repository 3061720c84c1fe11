"""A running service with small detectors in its store, and what clients send to it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from models import Extractor, Preprocessing
from service import engine
from service.features import Batch
from service.recipe import Recipe
from service.store import Store
from tests.servers import ServiceProcess
from tests.service.samples import publish_fitted

IMAGES = Path(str(files("service") / "demo_images"))
NORMAL = sorted((IMAGES / "normal").glob("*.png"))
ODD = sorted((IMAGES / "test" / "odd").glob("*.png"))
JSON = "application/json"
NPY = "application/x-npy"


@dataclass(frozen=True)
class Served:
    """A service process, a client of it, and the store that it serves from."""

    process: ServiceProcess
    client: httpx2.Client
    store: Store
    store_url: str

    def score(self, reference: str, body: Any, **how: Any) -> httpx2.Response:
        """The answer to a body of rows as lists, of an array, or of bytes with ``media``."""
        media = how.pop("media", NPY if isinstance(body, np.ndarray) else JSON)
        url = f"/v1/detectors/{reference}:score"
        if isinstance(body, np.ndarray):
            body = npy(body)
        if isinstance(body, bytes):
            return self.client.post(url, content=body, headers={"content-type": media}, **how)
        return self.client.post(url, json=body if isinstance(body, dict) else {"rows": body}, **how)


@contextmanager
def served(folder: Path, detectors: Mapping[str, Sequence[engine.Fitted]], **environment: str) -> Iterator[Served]:
    """``farfield serve`` on an embedded store with these versions of these detectors."""
    url = f"embedded:{folder / 'data'}"
    with Store.open(url) as store:
        for name, versions in detectors.items():
            for version in versions:
                publish_fitted(store, name, version)
        process = ServiceProcess(folder / "service", url, environment)
        try:
            process.start()
            with httpx2.Client(base_url=process.url, timeout=60, limits=httpx2.Limits(max_connections=None)) as client:
                yield Served(process, client, store, url)
        finally:
            process.kill()


def rows(count: int, *, seed: int = 1, width: int = 4) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal((count, width))


def npy(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def pixels(paths: Sequence[Path]) -> NDArray[np.uint8]:
    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])


def network(width: int = 8) -> bytes:
    """An ONNX network whose features are the pixels that it takes, [N, width, width, 3] of bytes."""
    nodes = [
        helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["numbers"], ["features"], axis=1),
    ]
    taken = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", width, width, 3])
    given = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 3 * width * width])
    graph = helper.make_graph(nodes, "pixels", [taken], [given])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def pixel_extractor() -> Extractor:
    return Extractor(network(), preprocessing=Preprocessing(8, 8, layout="NHWC", dtype="uint8"), device="cpu", threads=1)


def fitted_images(count: int = 100) -> engine.Fitted:
    """A detector of images that is quick to fit."""
    images = Batch(images=[path.read_bytes() for path in NORMAL[:count]])
    return engine.fit(Recipe(alpha=0.1), images, pixel_extractor())
