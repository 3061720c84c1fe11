"""Features of chunks of rows and images, the network run on as many cores as there are."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Self

import numpy as np
from PIL import Image

from models import Extractor, ImageError, ModelError, decode
from service.errors import InvalidInput
from service.features import PIXELS_AT_A_TIME, EncodedImage, Features, finite_rows, numeric_rows
from service.sources import Chunk, Losses

IMAGES_PER_RUN = 8  # decoded and sent through the network together: more do not fit the caches of a core


class Extraction:
    """Makes features of chunks. Rows without an extractor are their own features; images that cannot be decoded
    are lost, or refused, as the policy says.

    Images are taken some at a time, each group decoded, resized and run by one thread, ``threads`` groups at once: on a CPU
    sessions of one thread side by side give the most. What comes out does not depend on the number of threads.
    """

    def __init__(self, extractor: Extractor | None, max_pixels: int, threads: int) -> None:
        self.extractor, self._max_pixels = extractor, max_pixels
        self._pool = ThreadPoolExecutor(threads)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __call__(self, chunk: Chunk, losses: Losses) -> tuple[Chunk, Features]:
        """The chunk without the images that went to ``losses``, and the features (n, d) of what is left of it."""
        if self.extractor is None:
            if chunk.rows is None:
                raise InvalidInput("this detector takes rows of numbers, not images: it has no extractor", "#/data")
            with _refused(chunk):
                rows = numeric_rows(chunk.rows)
                return chunk, finite_rows(rows) if chunk.rows.itemsize > rows.itemsize else rows  # sources give what is finite in its type
        if chunk.images is None or not self.extractor.takes_images:
            if chunk.rows is None or self.extractor.takes_images:
                raise InvalidInput("the extractor takes " + ("images, not rows" if chunk.images is None else "rows, not images"), "#/data")
            with _refused(chunk):
                return chunk, finite_rows(self.extractor.rows(numeric_rows(chunk.rows)))
        return self._of_images(chunk, self.extractor, losses)

    def _of_images(self, chunk: Chunk, extractor: Extractor, losses: Losses) -> tuple[Chunk, Features]:
        images = chunk.images or ()
        groups = [range(start, min(start + IMAGES_PER_RUN, len(images))) for start in range(0, len(images), IMAGES_PER_RUN)]
        with _refused(chunk):
            found = list(self._pool.map(lambda group: self._run([images[i] for i in group], extractor), groups))
        blocks, failures = zip(*found, strict=True) if found else ((), ())
        lost = {group[i]: error for group, errors in zip(groups, failures, strict=True) for i, error in errors.items()}
        for place, error in lost.items():
            losses.add(chunk.where(place), InvalidInput(f"{chunk.where(place)}: {error}", "#/data"))
        features = np.concatenate([np.empty((0, extractor.width), np.float32), *(block for some in blocks for block in some)])
        kept = _without(chunk, set(lost)) if lost else chunk
        with _refused(kept):
            return kept, finite_rows(features)

    def _run(self, images: list[EncodedImage], extractor: Extractor) -> tuple[list[Features], dict[int, str]]:
        """Features of those images that can be decoded, and why the others cannot, by their place."""
        blocks: list[Features] = []
        decoded: list[Image.Image] = []
        errors: dict[int, str] = {}
        for place, image in enumerate(images):
            try:
                decoded.append(decode(image, max_pixels=self._max_pixels) if isinstance(image, bytes) else Image.fromarray(image))
            except ImageError as error:
                errors[place] = str(error)
            if sum(image.width * image.height for image in decoded) >= PIXELS_AT_A_TIME:
                blocks.append(extractor.images(decoded))
                decoded.clear()
        if decoded:
            blocks.append(extractor.images(decoded))
        return blocks, errors


def _without(chunk: Chunk, places: set[int]) -> Chunk:
    kept = [place for place in range(len(chunk)) if place not in places]
    keys = chunk.keys[kept] if isinstance(chunk.keys, np.ndarray) else [chunk.keys[place] for place in kept]
    images = [chunk.images[place] for place in kept] if chunk.images is not None else None
    return replace(chunk, keys=keys, images=images, labels=None if chunk.labels is None else chunk.labels[kept])


@contextmanager
def _refused(chunk: Chunk) -> Iterator[None]:
    try:
        yield
    except (ModelError, InvalidInput) as error:
        raise InvalidInput(chunk.placed(str(error)), "#/data") from None
