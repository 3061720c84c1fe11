"""The arguments of a fit, and of what is scored by it, and what they stand for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from models import BUNDLED, RANGES, Extractor, Tap, bundled, image_preprocessing
from models.preprocessing import Preprocessing
from service import errors
from service.judges import CrossJudge
from service.names import Method
from service.problems import explained
from service.recipe import Recipe, method_for
from service.schemas import Options
from service.settings import Settings

DEFAULT = Recipe()

ExtractorOption = Annotated[str | None, typer.Option("--extractor", help=f"An ONNX file, or one of {', '.join(BUNDLED)}.")]
TapOption = Annotated[
    list[str] | None, typer.Option("--tap", help="Tensor to read features from, TENSOR or TENSOR=mean|max|none; repeat for levels.")
]
PixelsOption = Annotated[str | None, typer.Option("--pixels", help=f"Range of pixel values that the network takes: {', '.join(RANGES)}.")]
PreprocessingOption = Annotated[
    Path | None, typer.Option("--preprocessing", help="JSON file with the preprocessing in full, instead of --pixels.")
]
ParamOption = Annotated[list[str] | None, typer.Option("--param", help="Parameter of the detector, NAME=VALUE; repeatable.")]
SumOption = Annotated[bool, typer.Option("--sum-levels", help="Model each tap by itself and add the scores up, instead of all together.")]
MethodOption = Annotated[Method | None, typer.Option("--calibration", help="Method of calibration.")]
FoldsOption = Annotated[
    int | None, typer.Option("--folds", help=f"Folds of cross-conformal calibration, which holds no rows out; {DEFAULT.folds} by default.")
]
TrimOption = Annotated[
    float, typer.Option("--trim", help="Share of the highest calibration scores to leave out, if some rows may be anomalies.")
]
CalibrateOption = Annotated[
    float | None, typer.Option("--calibrate", help=f"Share of the rows held out for calibration; {DEFAULT.calibrate} by default.")
]


def recipe_of(
    type_: str,
    *,
    param: list[str] | None,
    sum_levels: bool,
    calibrate: float | None,
    alpha: float,
    seed: int,
    method: Method | None,
    folds: int | None,
    trim: float,
) -> Recipe:
    """The recipe of a fit; several types are combined unless another method is asked for. Refuses options that would do nothing."""
    method = method or method_for(type_)
    if folds is not None and method != CrossJudge.METHOD:
        raise errors.InvalidInput(f"--folds is for --calibration {CrossJudge.METHOD}, not for {method}")
    if calibrate is not None and method == CrossJudge.METHOD:
        raise errors.InvalidInput(f"--calibrate holds rows out, and {CrossJudge.METHOD} calibration holds none out")
    return Recipe(
        type_,
        parameters_of(param),
        sum_levels,
        DEFAULT.calibrate if calibrate is None else calibrate,
        alpha,
        seed,
        method,
        DEFAULT.folds if folds is None else folds,
        trim,
    )


def options_of(**given: Any) -> Options:
    try:
        return Options.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        raise errors.InvalidInput(f"--{str(first['loc'][0]).replace('_', '-')}: {explained(first)}") from None


def parameters_of(given: list[str] | None) -> dict[str, Any]:
    """Parameters from ``NAME=VALUE``, where a value is JSON if it can be and else a string."""
    parameters: dict[str, Any] = {}
    for item in given or []:
        name, equals, value = item.partition("=")
        if not equals:
            raise errors.InvalidInput(f"--param {item!r} must read NAME=VALUE")
        try:
            parameters[name] = json.loads(value)
        except ValueError:
            parameters[name] = value
    return parameters


def extractor_of(
    settings: Settings,
    images: bool,  # whether the data are images
    extractor: str | None,
    taps: list[str] | None,
    pixels: str | None,
    preprocessing: Path | None,
    threads: int,
) -> Extractor | None:
    """The extractor that was asked for, which runs on so many threads; for images without one, the bundled network."""
    if extractor is None and not images:
        if taps or pixels or preprocessing:
            raise errors.InvalidInput("--tap, --pixels and --preprocessing belong to an extractor: name one with --extractor")
        return None
    parsed = [Tap.parse(tap) for tap in taps or []]
    device: dict[str, Any] = {"device": settings.device, "require_device": settings.require_device, "threads": threads}
    if extractor is None or extractor in BUNDLED:
        if pixels or preprocessing:
            raise errors.InvalidInput("--pixels and --preprocessing belong to a network of your own: a bundled one knows its preprocessing")
        onnx_file, declared, default_taps = bundled(extractor or next(iter(BUNDLED)))
        return Extractor(onnx_file, preprocessing=declared, taps=parsed or default_taps, **device)
    path = Path(extractor)
    if not path.is_file():
        raise errors.InvalidInput(f"--extractor {extractor}: no such file, and not one of {', '.join(BUNDLED)}")
    if path.stat().st_size > settings.max_extractor_bytes:
        raise errors.TooLarge(f"{path} has {path.stat().st_size} bytes; the limit is {settings.max_extractor_bytes}")
    onnx_file = path.read_bytes()
    if preprocessing:
        chosen: Preprocessing | None = _declared(preprocessing)
    else:
        chosen = image_preprocessing(onnx_file, pixels)
    return Extractor(onnx_file, preprocessing=chosen, taps=parsed, **device)


def _declared(path: Path) -> Preprocessing:
    try:
        declared = json.loads(path.read_text())
    except ValueError as error:
        raise errors.InvalidInput(f"--preprocessing {path} is not JSON: {error}") from None
    if not isinstance(declared, dict):
        raise errors.InvalidInput(f"--preprocessing {path} must hold one JSON object")
    return Preprocessing.from_json(declared)
