"""Takes the pictures of the console that the README shows, of a service that scores images for a minute or two; needs Chromium.

python -m tests.service.pictures docs/images
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from models import Extractor, bundled
from service import engine
from service.features import Batch
from service.manifest import Source
from service.publication import publish
from service.recipe import Recipe
from tests.service.browser import Page, chromium
from tests.service.served import NORMAL, ODD, Served, served

NAME = "boards"
FITTED = 900  # of the normal images, drawn by chance; the others are scored
PAUSE = 0.2  # seconds between two images
ODD_SHARE = 0.06  # of those that are scored
SIZE = (1900, 1250)


def detectors(images: list[Path]) -> list[engine.Fitted]:
    """Two versions that differ in their alpha."""
    onnx_file, preprocessing, taps = bundled("mobilenet_v2")
    extractor = Extractor(onnx_file, preprocessing=preprocessing, taps=taps, device="cpu", threads=2)
    batch = Batch(images=[path.read_bytes() for path in images])
    return [engine.fit(Recipe(alpha=alpha), batch, extractor) for alpha in (0.05, 0.02)]


def score(service: Served, path: Path) -> None:
    files = [("images", (path.name, path.read_bytes(), "image/png"))]
    answer = service.client.post(f"/v1/detectors/{NAME}:score", files=files, headers={"x-request-id": path.stem})
    answer.raise_for_status()


def take(folder: Path) -> None:
    chance = np.random.default_rng(0)
    normal = [NORMAL[i] for i in chance.permutation(len(NORMAL))]
    with TemporaryDirectory() as data, served(Path(data), {}, FARFIELD_OUTLIER_INPUTS="true") as service, chromium() as browser:
        for fitted, alias in zip(detectors(normal[:FITTED]), ("champion", "challenger"), strict=True):
            publish(service.store, NAME, fitted, Source(name="printed-circuit patches", rows=FITTED, sha256="0" * 64), alias)
        page = Page.fresh(browser, str(service.client.base_url))
        page.resize(*SIZE)
        page.show(NAME)
        for path in normal[FITTED:]:
            score(service, ODD[chance.integers(len(ODD))] if chance.random() < ODD_SHARE else path)
            time.sleep(PAUSE)
        page.score(*ODD[::7][:3], *normal[:3])
        for theme in ("light", "dark"):
            page.prefer(("prefers-color-scheme", theme), ("prefers-reduced-motion", "reduce"))  # or buttons are still on their way
            page.wait(lambda: page.all("#feed-rows img") and page.all("#drift-ranked tr"))
            browser.save_screenshot(str(folder / f"console-{theme}.png"))


if __name__ == "__main__":
    take(Path(sys.argv[1]))
