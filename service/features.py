"""From raw inputs to features: rows of numbers as they are, images by an extractor. Pure."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models import Extractor, ImageError, ImageTooLargeError, ModelError, decode
from models.preprocessing import DEFAULT_MAX_PIXELS
from service.errors import InvalidInput, TooLarge

EncodedImage = bytes | NDArray[np.uint8]  # a file's bytes, or pixels [height, width, 3]
Features = NDArray[Any]  # (n, d), float64 or float32
Progress = Callable[[str, int, int], None]  # phase, done, total

IMAGES_AT_A_TIME = 64
STAGES = ("decode", "queue", "extract", "score", "encode")  # of scoring a request
PIXELS_AT_A_TIME = 16_000_000  # decoded, so that a batch of large images takes no more memory than one of them


@dataclass(frozen=True, slots=True)
class Batch:
    """What is fitted or scored: rows of numbers, or images. Exactly one of the two is set."""

    rows: NDArray[Any] | None = None  # (n, d)
    images: Sequence[EncodedImage] | None = None

    def __len__(self) -> int:
        inputs = self.images if self.rows is None else self.rows
        return len(inputs) if inputs is not None else 0

    def take(self, index: NDArray[np.intp]) -> Batch:
        if self.rows is not None:
            return Batch(rows=self.rows[index])
        return Batch(images=[self.images[i] for i in index] if self.images is not None else None)


def joined(batches: Sequence[Batch]) -> Batch:
    """One batch of several, all of rows or all of images."""
    if batches[0].rows is not None:
        return Batch(rows=np.concatenate([batch.rows for batch in batches if batch.rows is not None]))
    return Batch(images=[image for batch in batches for image in batch.images or ()])


def extract(
    extractor: Extractor | None,
    batch: Batch,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    progress: Progress = lambda phase, done, total: None,
    seconds: dict[str, float] | None = None,
) -> Features:
    """Features (n, d) of a batch: its rows as they are, or what the extractor makes of them."""
    if extractor is None:
        if batch.rows is None:
            raise InvalidInput("this detector takes rows of numbers, not images: it has no extractor", "#/images")
        return finite_rows(batch.rows)
    if extractor.takes_images:
        if batch.images is None:
            raise InvalidInput("this detector takes images: send image files, or an array of pixels", "#/rows")
        return _image_features(extractor, batch.images, max_pixels, progress, {} if seconds is None else seconds)
    if batch.rows is None:
        raise InvalidInput("the extractor of this detector takes rows of numbers, not images", "#/images")
    try:
        return finite_rows(extractor.rows(finite_rows(batch.rows)))
    except ModelError as error:
        raise InvalidInput(str(error), "#/rows/0") from None


def finite_rows(rows: NDArray[Any]) -> Features:
    """Rows (n, d) as float64, or as they are in float32. Raises InvalidInput for other shapes and types and for what is not finite."""
    rows = numeric_rows(rows)
    total = np.einsum("ij->", rows)  # of all rows together, which needs no memory for each
    if not isfinite(total) and not np.isfinite(rows).all():
        row, column = np.argwhere(~np.isfinite(rows))[0]
        raise InvalidInput(f"row {row}, feature {column} is {rows[row, column]}; finite numbers are needed", f"#/rows/{row}/{column}")
    return rows


def numeric_rows(rows: NDArray[Any]) -> Features:
    """Rows (n, d) as float64, or as they are in float32. Raises InvalidInput for other shapes and types."""
    if rows.dtype.kind not in "fiub":
        raise InvalidInput(f"rows hold {rows.dtype}; numbers are needed", "#/rows")
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise InvalidInput(f"rows have shape {list(rows.shape)}; [rows, features] is needed", "#/rows")
    return rows if rows.dtype == np.float32 else rows.astype(np.float64, copy=False)


def fingerprint(batch: Batch) -> str:
    """Sha256 over the rows or images in their order."""
    digest = hashlib.sha256()
    if batch.rows is not None:
        digest.update(f"{batch.rows.dtype} {batch.rows.shape}".encode())
        digest.update(np.ascontiguousarray(batch.rows).data)
    for image in batch.images or ():
        digest.update(hashlib.sha256(image if isinstance(image, bytes) else np.ascontiguousarray(image).data).digest())
    return digest.hexdigest()


def _image_features(
    extractor: Extractor, images: Sequence[EncodedImage], max_pixels: int, progress: Progress, seconds: dict[str, float]
) -> Features:
    blocks = []
    done = 0
    while done < len(images):
        progress("extract", done, len(images))
        with Timed(seconds, "decode"):
            decoded = _some_decoded(images, done, max_pixels)
        try:
            blocks.append(extractor.images(decoded))
        except ModelError as error:
            raise InvalidInput(f"images {done} to {done + len(decoded) - 1}: {error}", f"#/images/{done}") from None
        done += len(decoded)
    progress("extract", len(images), len(images))
    return finite_rows(np.concatenate(blocks))


def _some_decoded(images: Sequence[EncodedImage], start: int, max_pixels: int) -> list[Image.Image]:
    """Images from ``start`` on, until there are enough to be worth a run of the network."""
    decoded: list[Image.Image] = []
    pixels = 0
    while start + len(decoded) < len(images) and len(decoded) < IMAGES_AT_A_TIME and pixels < PIXELS_AT_A_TIME:
        decoded.append(_decoded(images, start + len(decoded), max_pixels))
        pixels += decoded[-1].width * decoded[-1].height
    return decoded


def _decoded(images: Sequence[EncodedImage], index: int, max_pixels: int) -> Image.Image:
    image = images[index]
    if not isinstance(image, bytes):
        return Image.fromarray(image)
    try:
        return decode(image, max_pixels=max_pixels)
    except ImageTooLargeError as error:
        raise TooLarge(f"image {index}: {error}", f"#/images/{index}") from None
    except ImageError as error:
        raise InvalidInput(f"image {index}: {error}", f"#/images/{index}") from None


class Timed:
    """Adds the time of the block to ``stage``, less what stages inside it have added."""

    __slots__ = ("_inside", "_seconds", "_stage", "_start")

    def __init__(self, seconds: dict[str, float], stage: str) -> None:
        self._seconds, self._stage = seconds, stage

    def __enter__(self) -> None:
        self._inside = sum(self._seconds.values())
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        seconds = self._seconds
        spent = time.perf_counter() - self._start - (sum(seconds.values()) - self._inside)
        seconds[self._stage] = seconds.get(self._stage, 0.0) + spent
