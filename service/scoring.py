"""The scoring path of the native interface: the body of a request to a batch, verdicts to the body of an answer."""

from __future__ import annotations

import math
from typing import Any

import orjson
from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from service import codecs, engine, errors
from service.features import Batch, timed
from service.problems import explained
from service.schemas import Options
from service.settings import Settings
from service.versions import Loaded

TAIL = "generalised Pareto: p-values below 1 / (n_calibration + 1) are a model's, without guarantee"

Payload = tuple[str, bytes | list[bytes]]  # "json", "npy" or "images", and what came


async def read_payload(request: Request, settings: Settings) -> Payload:
    """The body, read whole but not looked into: that is work for a thread."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.headers.get("content-encoding", "identity") != "identity":
        raise errors.UnsupportedMedia(f"a body in {request.headers['content-encoding']!r} encoding is not read: send it as it is")
    if media == "multipart/form-data":
        return "images", await _files(request, settings)
    body = await request.body()
    if media.startswith("image/"):
        return "images", [body]
    if media == "application/x-npy" or (media == "application/octet-stream" and body.startswith(codecs.NPY_MAGIC)):
        return "npy", body
    if media in ("application/json", ""):
        if len(body) > settings.max_json_bytes:
            raise errors.TooLarge(f"a JSON body of {len(body)} bytes; the limit is {settings.max_json_bytes}: send .npy instead")
        return "json", body
    raise errors.UnsupportedMedia(
        f"a body of type {media!r} is not read: send application/json, application/x-npy, multipart/form-data or image/png"
    )


async def _files(request: Request, settings: Settings) -> list[bytes]:
    try:
        async with request.form(max_files=settings.max_rows, max_part_size=settings.max_body_bytes) as form:
            return [await part.read() for _, part in form.multi_items() if isinstance(part, UploadFile)]
    except HTTPException as error:
        if error.status_code != 400:  # a body over the limit is refused as such
            raise
        raise errors.InvalidInput(f"the form cannot be read: {error.detail}", "#") from None


def judge(loaded: Loaded, payload: Payload, options: Options, settings: Settings) -> tuple[bytes, engine.Verdicts]:
    """The answer to a request, encoded, and the verdicts in it."""
    seconds: dict[str, float] = {}
    with timed(seconds, "decode"):
        batch, options = _decoded(payload, options, settings)
    verdicts = engine.score(loaded.fitted, batch, **asked(options), max_pixels=settings.max_pixels)
    with timed(seconds, "encode"):
        content = orjson.dumps(answer(loaded, verdicts, options))
    for stage, spent in seconds.items():
        verdicts.seconds[stage] = verdicts.seconds.get(stage, 0.0) + spent
    return content, verdicts


def _decoded(payload: Payload, options: Options, settings: Settings) -> tuple[Batch, Options]:
    form, body = payload
    if isinstance(body, list):
        return codecs.batch_of_images(body, settings), options
    if form == "npy":
        return codecs.batch_of_npy(body, settings), options
    rows, others = codecs.parse_json(body)
    try:
        options = Options.model_validate(options.model_dump() | others)
    except ValidationError as error:
        first = error.errors()[0]
        raise errors.InvalidInput(f"{first['loc'][0]}: {explained(first)}", f"#/{first['loc'][0]}") from None
    return codecs.rows_of_json(rows, settings), options


def asked(options: Options) -> dict[str, Any]:
    """Options as ``engine.score`` takes them."""
    return {
        "alpha": options.alpha,
        "fdr": options.fdr,
        "tail": options.tail is not None,
        "attribute_by": options.attribute_by if options.attribute else None,
        "chi_square": options.chi_square,
    }


def answer(loaded: Loaded, verdicts: engine.Verdicts, options: Options) -> dict[str, Any]:
    """The answer of ``:score`` as plain data."""
    fitted = loaded.fitted
    columns: dict[str, list[Any]] = {
        "score": verdicts.scores.tolist(),
        "p_value": verdicts.p_values.tolist(),
        "is_outlier": verdicts.is_outlier.tolist(),
    }
    if verdicts.off_span.any():
        columns["off_span"] = verdicts.off_span.tolist()
    if verdicts.nearest_class is not None:
        columns["nearest_class"] = verdicts.nearest_class.tolist()
    if verdicts.chi_square_p_values is not None:
        columns["chi_square_p_value"] = verdicts.chi_square_p_values.tolist()
    if verdicts.attributions is not None:
        columns["attribution"] = [fitted.largest_shares(row, options.attribute, options.attribute_by) for row in verdicts.attributions]
    content: dict[str, Any] = {
        "detector": loaded.name,
        "version": loaded.number,
        "alpha": verdicts.alpha,
        "threshold": None if verdicts.threshold is None or math.isinf(verdicts.threshold) else verdicts.threshold,
        "calibration": fitted.judge.METHOD,
        "n_calibration": fitted.n_calibration,
    }
    if options.tail:
        content["tail"] = TAIL
    if verdicts.attributions is not None:
        content["attribution"] = fitted.detector.ATTRIBUTION
    return {**content, "results": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]}
