"""The scoring path of the native interface: the body of a request to a batch, verdicts to the body of an answer."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from service import codecs, engine, errors
from service.problems import explained
from service.schemas import Options
from service.settings import Settings
from service.versions import Loaded

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
    with engine.timed(seconds, "decode"):
        batch, options = _decoded(payload, options, settings)
    verdicts = engine.score(
        loaded.fitted, batch, alpha=options.alpha, fdr=options.fdr, attribute=options.attribute > 0, max_pixels=settings.max_pixels
    )
    with engine.timed(seconds, "encode"):
        content = orjson.dumps(answer(loaded, verdicts, options.attribute))
    for stage, spent in seconds.items():
        verdicts.seconds[stage] = verdicts.seconds.get(stage, 0.0) + spent
    return content, verdicts


def _decoded(payload: Payload, options: Options, settings: Settings) -> tuple[engine.Batch, Options]:
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


def answer(loaded: Loaded, verdicts: engine.Verdicts, attribute: int) -> dict[str, Any]:
    """The answer of ``:score`` as plain data."""
    columns = zip(verdicts.scores.tolist(), verdicts.p_values.tolist(), verdicts.is_outlier.tolist(), strict=True)
    results: list[dict[str, Any]] = [{"score": s, "p_value": p, "is_outlier": o} for s, p, o in columns]
    if verdicts.attributions is not None:
        for result, shares in zip(results, verdicts.attributions, strict=True):
            result["attribution"] = loaded.fitted.largest_shares(shares, attribute)
    calibration = loaded.fitted.calibration
    content: dict[str, Any] = {
        "detector": loaded.name,
        "version": loaded.number,
        "alpha": verdicts.alpha,
        "threshold": verdicts.threshold if verdicts.threshold != float("inf") else None,
        "n_calibration": len(calibration.scores),
    }
    if verdicts.alpha < calibration.smallest_p_value:
        content["warning"] = (
            f"alpha is below {calibration.smallest_p_value:.3g}, the smallest p-value that "
            f"{len(calibration.scores)} calibration rows can give: nothing can be called an outlier"
        )
    return {**content, "results": results}
