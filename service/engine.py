"""Fit and score, pure: data in, values out. Knows detectors and extractors; knows no web and no store."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from detectors import REGISTRY, Calibration, Detector, outliers
from models import Extractor, ImageError, ImageTooLargeError, Level, ModelError, decode
from models.preprocessing import DEFAULT_MAX_PIXELS
from service.errors import InvalidInput, TooLarge, VersionRefused

EncodedImage = bytes | NDArray[np.uint8]  # a file's bytes, or pixels [height, width, 3]
Features = NDArray[np.float64]  # (n, d)

GOLDEN_ROWS = 8
GOLDEN_INPUTS = 4
GOLDEN_INPUT_BYTES = 2**20  # a larger image is not kept as golden input
GOLDEN_RELATIVE = 1e-6
GOLDEN_SPREAD = 0.05  # of the calibration scores' interquartile range
IMAGES_AT_A_TIME = 64
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


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to fit, as plain data."""

    type: str = "gaussian"
    parameters: dict[str, Any] = field(default_factory=dict)
    sum_levels: bool = False  # one model per level of the extractor, for detectors with a parameter `levels`
    calibrate: float = 0.2  # share of the rows held out
    alpha: float = 0.01
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Golden:
    """Rows and raw inputs with the scores that they had when the version was fitted."""

    features: Features
    scores: NDArray[np.float64]
    inputs: Batch
    input_scores: NDArray[np.float64]
    relative: float = GOLDEN_RELATIVE
    absolute: float = 1e-9


@dataclass(frozen=True, slots=True)
class Fitted:
    """A detector with everything that scoring needs."""

    recipe: Recipe
    detector: Detector[Any]
    calibration: Calibration
    levels: tuple[Level, ...]
    extractor: Extractor | None
    golden: Golden
    n_fit: int
    feature_names: list[str] | None = None

    @property
    def width(self) -> int:
        return sum(level.width for level in self.levels)

    def feature_name(self, column: int) -> str:
        """Name of a column of the features: the data's own, or that of its level with the index in it."""
        if self.feature_names:
            return self.feature_names[column]
        for level in self.levels:
            if column < level.width:
                return f"{level.name}[{column}]"
            column -= level.width
        raise IndexError(column)

    def largest_shares(self, shares: NDArray[np.float64], count: int) -> list[dict[str, Any]]:
        """The ``count`` features with the largest absolute share (d,) in a score, largest first."""
        order = np.argsort(-np.abs(shares), kind="stable")[:count]
        return [{"feature": self.feature_name(int(i)), "share": float(shares[i])} for i in order]


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Scores of a batch with what follows from them; ``seconds`` are the times of the stages."""

    scores: NDArray[np.float64]
    p_values: NDArray[np.float64]
    is_outlier: NDArray[np.bool_]
    alpha: float
    threshold: float
    attributions: NDArray[np.float64] | None
    seconds: dict[str, float]


Progress = Callable[[str, int, int], None]  # phase, done, total


def fit(
    recipe: Recipe,
    batch: Batch,
    extractor: Extractor | None = None,
    *,
    levels: tuple[Level, ...] | None = None,
    feature_names: list[str] | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    progress: Progress = lambda phase, done, total: None,
) -> Fitted:
    """Fit a detector on one part of ``batch``, all of it normal, and calibrate it on the rest.

    ``levels`` says how the columns divide where ``batch`` is what an extractor gave before.
    Raises InvalidInput for data that cannot be fitted, and for too few rows to ever raise an alarm
    at ``recipe.alpha``.
    """
    if recipe.type not in REGISTRY:
        raise InvalidInput(f"there is no detector type {recipe.type!r}; there are {sorted(REGISTRY)}", "#/type")
    kept, held_out = split(len(batch), recipe)
    features = extract(extractor, batch, max_pixels=max_pixels, progress=progress)
    levels = extractor.levels if extractor else levels or (Level("features", features.shape[1]),)
    if (features == features[0]).all():
        raise InvalidInput(f"all {len(features)} rows are the same: there is no variation to learn what is normal from", "#/data")
    progress("fit", 0, 1)
    detector = _unfitted(recipe, levels)
    try:
        detector.fit(features[kept])
        calibration = Calibration.of(detector.scores(features[held_out]))
    except ValueError as error:
        raise InvalidInput(f"the detector cannot be fitted: {error}", "#/data") from None
    inputs = batch.take(_kept_as_golden(batch, held_out)) if extractor else Batch()
    golden = _golden(detector, calibration, features[held_out[:GOLDEN_ROWS]], inputs, extractor)
    progress("fit", 1, 1)
    return Fitted(recipe, detector, calibration, levels, extractor, golden, len(kept), feature_names)


def split(rows: int, recipe: Recipe) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of the rows to fit on and of those held out for calibration, drawn by the recipe's seed.

    Raises InvalidInput if so few are held out that no p-value could reach alpha.
    """
    if not 0 < recipe.calibrate < 1 or not 0 < recipe.alpha < 1:
        raise InvalidInput(f"calibrate={recipe.calibrate} and alpha={recipe.alpha} must lie between 0 and 1", "#/calibrate")
    if recipe.seed < 0:
        raise InvalidInput(f"seed={recipe.seed} must be a whole number of at least 0", "#/seed")
    held_out = round(rows * recipe.calibrate)
    if 1 / (held_out + 1) > recipe.alpha:
        needed = int(np.ceil(1 / recipe.alpha - 1 - 1e-9))
        raise InvalidInput(
            f"alpha={recipe.alpha} needs at least {needed} calibration rows, and {held_out} of {rows} rows are held out: "
            f"give more rows, hold out a larger share, or accept an alpha of at least {1 / (held_out + 1):.3g}",
            "#/alpha",
        )
    if rows - held_out < 2:
        raise InvalidInput(f"{rows - held_out} of {rows} rows are left to fit on; at least 2 are needed", "#/calibrate")
    order = np.random.default_rng(recipe.seed).permutation(rows)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def score(
    fitted: Fitted,
    batch: Batch,
    *,
    alpha: float | None = None,
    fdr: bool = False,
    attribute: bool = False,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Verdicts:
    """Score, p-value and decision of each row of ``batch``. Raises InvalidInput, naming the place."""
    if len(batch) == 0:
        raise InvalidInput("the batch is empty: give at least one row", "#/rows" if batch.images is None else "#/images")
    alpha = fitted.recipe.alpha if alpha is None else alpha
    seconds: dict[str, float] = {}
    if fitted.extractor is None and batch.rows is not None and batch.rows.ndim == 2:
        _check_width(batch.rows, fitted)  # before anything as large is copied
    with timed(seconds, "extract"):
        features = extract(fitted.extractor, batch, max_pixels=max_pixels, seconds=seconds)
    _check_width(features, fitted)
    with timed(seconds, "score"):
        try:
            scores = fitted.detector.scores(features)
            shares = fitted.detector.attributions(features) if attribute else None
        except (ValueError, NotImplementedError) as error:
            raise InvalidInput(str(error), "#/rows") from None
        p_values = fitted.calibration.p_values(scores)
        decisions = outliers(p_values, alpha, fdr=fdr)
    return Verdicts(scores, p_values, decisions, alpha, fitted.calibration.threshold(alpha), shares, seconds)


def _check_width(rows: NDArray[Any], fitted: Fitted) -> None:
    if rows.shape[1] != fitted.width:
        raise InvalidInput(f"rows have {rows.shape[1]} features; this detector takes {fitted.width}", "#/rows/0")


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
    """Rows (n, d) as float64. Raises InvalidInput for other shapes and types and for what is not finite."""
    if rows.dtype.kind not in "fiub":
        raise InvalidInput(f"rows hold {rows.dtype}; numbers are needed", "#/rows")
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise InvalidInput(f"rows have shape {list(rows.shape)}; [rows, features] is needed", "#/rows")
    rows = rows.astype(np.float64, copy=False)
    if not np.isfinite(rows).all():
        row, column = np.argwhere(~np.isfinite(rows))[0]
        raise InvalidInput(f"row {row}, feature {column} is {rows[row, column]}; finite numbers are needed", f"#/rows/{row}/{column}")
    return rows


def check_golden(fitted: Fitted, name: str, number: int) -> None:
    """Score the golden rows and inputs again. Raises VersionRefused where they come out differently, or not at all."""
    golden = fitted.golden
    try:
        scores = fitted.detector.scores(golden.features)
        input_scores = fitted.detector.scores(extract(fitted.extractor, golden.inputs)) if len(golden.inputs) else np.empty(0)
        rows_agree = np.allclose(scores, golden.scores, rtol=golden.relative, atol=0)
        inputs_agree = np.allclose(input_scores, golden.input_scores, rtol=0, atol=golden.absolute)
    except (ValueError, InvalidInput, TooLarge) as error:
        raise VersionRefused(name, number, f"its golden rows cannot be scored: {error}") from None
    if not rows_agree:
        raise VersionRefused(name, number, f"a golden row scores {_worst(scores, golden.scores)} when fitted")
    if not inputs_agree:
        raise VersionRefused(name, number, f"a golden input scores {_worst(input_scores, golden.input_scores)} when fitted")


def fingerprint(batch: Batch) -> str:
    """Sha256 over the rows or images in their order."""
    digest = hashlib.sha256()
    if batch.rows is not None:
        digest.update(f"{batch.rows.dtype} {batch.rows.shape}".encode())
        digest.update(np.ascontiguousarray(batch.rows).data)
    for image in batch.images or ():
        digest.update(hashlib.sha256(image if isinstance(image, bytes) else np.ascontiguousarray(image).data).digest())
    return digest.hexdigest()


def _unfitted(recipe: Recipe, levels: tuple[Level, ...]) -> Detector[Any]:
    cls = REGISTRY[recipe.type]
    parameters = dict(recipe.parameters)
    known = sorted(cls().get_params(deep=False))
    if recipe.sum_levels:
        if "levels" not in known:
            raise InvalidInput(f"detector type {recipe.type!r} knows no levels to sum over", "#/sum_levels")
        parameters["levels"] = [level.width for level in levels]
    if unknown := set(parameters) - set(known):
        raise InvalidInput(f"detector type {recipe.type!r} has no parameter {sorted(unknown)}; it has {known}", "#/parameters")
    return cls(**parameters)


def _kept_as_golden(batch: Batch, held_out: NDArray[np.intp]) -> NDArray[np.intp]:
    small = [i for i in held_out if batch.images is None or _size(batch.images[i]) <= GOLDEN_INPUT_BYTES]
    return np.array(small[:GOLDEN_INPUTS], dtype=np.intp)


def _golden(detector: Detector[Any], calibration: Calibration, features: Features, inputs: Batch, extractor: Extractor | None) -> Golden:
    low, middle, high = np.quantile(calibration.scores, [0.25, 0.5, 0.75])
    absolute = max(GOLDEN_SPREAD * (high - low), GOLDEN_RELATIVE * abs(middle), 1e-12)
    input_scores = detector.scores(extract(extractor, inputs)) if len(inputs) else np.empty(0)
    return Golden(features, detector.scores(features), inputs, input_scores, absolute=float(absolute))


def _image_features(
    extractor: Extractor, images: Sequence[EncodedImage], max_pixels: int, progress: Progress, seconds: dict[str, float]
) -> Features:
    blocks = []
    done = 0
    while done < len(images):
        progress("extract", done, len(images))
        with timed(seconds, "decode"):
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


def _size(image: EncodedImage) -> int:
    return len(image) if isinstance(image, bytes) else image.nbytes


def _worst(scores: NDArray[np.float64], expected: NDArray[np.float64]) -> str:
    index = int(np.argmax(np.abs(scores - expected)))
    return f"{scores[index]:.9g} now and {expected[index]:.9g}"


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the time of the block to ``stage``, less what stages inside it have added."""
    inside = sum(seconds.values())
    start = time.perf_counter()
    try:
        yield
    finally:
        spent = time.perf_counter() - start - (sum(seconds.values()) - inside)
        seconds[stage] = seconds.get(stage, 0.0) + spent
