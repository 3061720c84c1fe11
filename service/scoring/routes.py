"""The routes of ``:score``: documented by FastAPI, and answered past it where a request has nothing for it to find fault with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from service.direct import DirectRoute
from service.names import ALIAS_PATTERN, NAME_PATTERN
from service.routes import BODY, PROBLEM, PROBLEMS, Alias, Name, Number, Parts, Query_, Service
from service.schemas import Options, ScoreResponse
from service.scoring.callers import TIMEOUTS, Caller, headers_of
from service.scoring.encoders import FORMS, JSON, Encoded, accepted
from service.scoring.scoring import received, timing
from service.versions import Reference

PLAIN = {"name": re.compile(NAME_PATTERN), "alias": re.compile(ALIAS_PATTERN), "number": re.compile("[1-9][0-9]{0,17}")}


@lru_cache(1024)
def _options(query: bytes) -> Options | None:
    """The options in a query; None where something is wrong with them."""
    try:
        return Options.model_validate(dict(parse_qsl(query.decode(), keep_blank_values=True, strict_parsing=bool(query))))
    except (ValidationError, ValueError):
        return None


def _binary(what: str) -> dict[str, Any]:
    return {"schema": {"type": "string", "format": "binary", "description": what}}


SCORE: dict[str, Any] = {
    "response_model": ScoreResponse,
    "responses": {
        200: {
            "description": "The verdicts in the form that `Accept` likes best; `Server-Timing` has the milliseconds of each stage.",
            "content": {
                form: _binary("The same content: see the reference.") if form != "text/csv" else {"schema": {"type": "string"}}
                for form in FORMS
                if form != JSON
            },
        },
        **PROBLEMS,
        **BODY,
        406: {"description": "There is no answer in a form that `Accept` names.", **PROBLEM},
        504: {"description": f"The time that {' or '.join(TIMEOUTS)} allows was over before the work began.", **PROBLEM},
    },
    "openapi_extra": {
        "requestBody": {
            "description": "May be compressed: `Content-Encoding` gzip, deflate or zstd.",
            "required": True,
            "content": {
                JSON: {
                    "schema": {"$ref": "#/components/schemas/ScoreRequest"},
                    "example": {"rows": [[0.1, -0.3], [8.0, 7.5]], "alpha": 0.05, "attribute": 2},
                },
                "application/x-npy": _binary("An .npy file, [rows, features]."),
                "application/vnd.apache.arrow.stream": _binary("One column of lists of a fixed size, or a column for each feature."),
                "application/vnd.safetensors": _binary("A tensor `rows`, or one alone."),
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {"images": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                    }
                },
                "image/*": _binary("One image file."),
            },
        }
    },
}

router = APIRouter(prefix="/v1", tags=["score"])


@router.post("/detectors/{name}@{alias}:score", summary="Score a batch by the version of an alias", **SCORE)
async def score_by_alias(name: Name, alias: Alias, request: Request, parts: Parts, options: Query_) -> Response:
    return await _score(parts, name, alias, request, options)


@router.post("/detectors/{name}:score", summary="Score a batch by the default version", **SCORE)
async def score(name: Name, request: Request, parts: Parts, options: Query_) -> Response:
    """The default version is that of alias `champion` where it is set, and the latest one otherwise."""
    return await _score(parts, name, None, request, options)


@router.post("/detectors/{name}/versions/{number}:score", summary="Score a batch by one version", **SCORE)
async def score_by_version(name: Name, number: Number, request: Request, parts: Parts, options: Query_) -> Response:
    return await _score(parts, name, number, request, options)


async def _direct(request: Request, parts: Mapping[str, str], options: Options) -> Response:
    reference = int(parts["number"]) if "number" in parts else parts.get("alias")
    return await _score(request.app.state.service, parts["name"], reference, request, options)


async def _score(parts: Service, name: str, reference: Reference, request: Request, options: Options) -> Response:
    headers = headers_of(request)
    caller = Caller.of(request.receive, headers)
    form = accepted(headers.get("accept", ""))
    loaded = parts.versions.cached(name, reference)
    if loaded is None:
        loaded = await parts.lookups.run(parts.versions.get, name, reference)
    task = await received(request, headers, parts.settings, options, form, caller)
    scored = await parts.judging.judge(loaded, task)
    return Encoded(scored.body, scored.media, {"server-timing": timing(scored.seconds)})


PATHS = ("/v1/detectors/{name}@{alias}:score", "/v1/detectors/{name}:score", "/v1/detectors/{name}/versions/{number}:score")
DIRECT = [DirectRoute(path, PLAIN, _direct, _options) for path in PATHS]
