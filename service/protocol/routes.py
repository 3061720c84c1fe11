"""The Open Inference Protocol v2 over HTTP, under ``/v2``.

The interface of Triton, KServe and MLServer, so that their clients score here unchanged. What a detector or version is
called, and what each number means, is as under ``/v1``; a batch that is scored by itself has the same scores to the last bit.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Path, Request, Response

from service.direct import DirectRoute
from service.errors import InvalidInput
from service.names import NAME_PATTERN
from service.protocol.envelope import Body
from service.protocol.models import VERSION_PATTERN, Models, reference_of
from service.protocol.schemas import (
    IndexEntry,
    InferRequest,
    InferResponse,
    Live,
    ModelList,
    ModelMetadata,
    ModelReady,
    ProtocolError,
    Ready,
    ServerMetadata,
    Statistics,
)
from service.routes import Name
from service.scoring.callers import Caller, headers_of
from service.scoring.encoders import Encoded
from service.scoring.scoring import body_of

HEADER_LENGTH = "Inference-Header-Content-Length"
SCHEMAS = (InferRequest,)  # named in a text below, and so needed in the OpenAPI document


def _models(request: Request) -> Models:
    models: Models = request.app.state.models
    return models


Found = Annotated[Models, Depends(_models)]
Version = Annotated[str, Path(pattern=VERSION_PATTERN, description="Number of the version, or an alias.", examples=["3", "champion"])]

ERROR = {"model": ProtocolError}
STORE: dict[int | str, dict[str, Any]] = {503: {"description": "Not ready, overloaded, or store away; see `Retry-After`.", **ERROR}}
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request is not what is needed.", **ERROR},
    404: {"description": "No such model, version or alias.", **ERROR},
    **STORE,
    "default": {"description": "Another refusal: 413 too large, 501 not offered, 500 unexpected.", **ERROR},
}
EXAMPLE = {
    "id": "42",
    "parameters": {"alpha": 0.01},
    "inputs": [{"name": "rows", "shape": [2, 2], "datatype": "FP64", "data": [[0.1, -0.3], [8.0, 7.5]]}],
}
INFER: dict[str, Any] = {
    "response_model": InferResponse,
    "responses": {
        200: {"description": "The outputs; `Server-Timing` has the milliseconds of each stage."},
        **ERRORS,
        504: {"description": "The time that the request allows was over.", **ERROR},
    },
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}, "example": EXAMPLE},
                "application/octet-stream": {
                    "schema": {"type": "string", "format": "binary", "description": f"JSON of `{HEADER_LENGTH}` bytes, then data."}
                },
            },
        }
    },
}

router = APIRouter(prefix="/v2", tags=["inference protocol"])


@router.get("/", include_in_schema=False)
@router.get("", summary="Name, version and extensions of the server")
async def server(models: Found) -> ServerMetadata:
    return models.server()


@router.get("/health/live", summary="Whether the process answers")
async def live() -> Live:
    return Live(live=True)


@router.get("/health/ready", summary="Whether versions are loaded and checked", responses=STORE)
async def ready(models: Found) -> Ready:
    models.check_ready()
    return Ready(ready=True, live=True)


@router.get("/models", summary="Names of all models", responses=STORE)
async def list_models(models: Found) -> ModelList:
    return ModelList(models=await models.names())


@router.get("/models/stats", summary="What all loaded versions have scored")
async def all_statistics(models: Found) -> Statistics:
    return await models.statistics(None)


@router.get("/models/{name}", summary="Inputs and outputs of a model", responses=ERRORS)
async def model(name: Name, models: Found) -> ModelMetadata:
    """Of its default version: that of alias `champion` where it is set, and the latest one otherwise."""
    return await models.metadata(name, None)


@router.get("/models/{name}/versions/{version}", summary="Inputs and outputs of a version", responses=ERRORS)
async def model_version(name: Name, version: Version, models: Found) -> ModelMetadata:
    return await models.metadata(name, reference_of(version))


@router.get("/models/{name}/ready", summary="Whether a model can score", responses=ERRORS)
async def model_ready(name: Name, models: Found) -> ModelReady:
    """Loads the default version if it is not in memory, unless it was unloaded by request."""
    return await models.readiness(name, None)


@router.get("/models/{name}/versions/{version}/ready", summary="Whether a version can score", responses=ERRORS)
async def version_ready(name: Name, version: Version, models: Found) -> ModelReady:
    """Loads the version if it is not in memory, unless it was unloaded by request."""
    return await models.readiness(name, reference_of(version))


@router.get("/models/{name}/stats", summary="What the loaded versions of a model have scored", responses=ERRORS)
async def statistics(name: Name, models: Found) -> Statistics:
    return await models.statistics(name)


@router.get("/models/{name}/versions/{version}/stats", summary="What a version has scored", responses=ERRORS)
async def version_statistics(name: Name, version: Version, models: Found) -> Statistics:
    return await models.statistics(name, reference_of(version))


@router.post("/models/{name}/infer", summary="Score by the default version", **INFER)
async def infer(name: Name, request: Request, models: Found) -> Response:
    """The default version is that of alias `champion` where it is set, and the latest one otherwise."""
    return await _infer(models, name, "", request)


@router.post("/models/{name}/versions/{version}/infer", summary="Score by one version, or by that of an alias", **INFER)
async def infer_by_version(name: Name, version: Version, request: Request, models: Found) -> Response:
    return await _infer(models, name, version, request)


@router.post("/repository/index", summary="All versions of all models, and whether they are in memory", responses=ERRORS)
async def index(request: Request, models: Found) -> list[IndexEntry]:
    """With the body `{"ready": true}` only those that are. A version that is not is loaded by the next request for it."""
    only_ready = _json_object(await request.body()).get("ready", False)
    if not isinstance(only_ready, bool):
        raise InvalidInput("ready must be true or false", "#/ready")
    return await models.index(only_ready=only_ready)


@router.post("/repository/models/{name}/load", summary="Load the default version of a model", responses=ERRORS)
async def load(name: Name, request: Request, models: Found) -> ModelReady:
    """What the store says now is loaded, checked and served."""
    return await models.load(name, _parameters(await request.body()))


@router.post("/repository/models/{name}/unload", summary="Drop all versions of a model from memory", responses=ERRORS)
async def unload(name: Name, request: Request, models: Found) -> ModelReady:
    """Nothing is deleted, and the next request for a version loads it again."""
    return await models.unload(name, _parameters(await request.body()))


async def _direct(request: Request, parts: Mapping[str, str], _query: bytes) -> Response:
    return await _infer(_models(request), parts["name"], parts.get("version", ""), request)


async def _infer(models: Models, name: str, version: str, request: Request) -> Response:
    headers = headers_of(request)
    since, caller = time.monotonic(), Caller.of(request.receive, headers)
    loaded = await models.loaded(name, reference_of(version))
    given = await body_of(request)
    body = Body(given, headers.get("content-encoding", ""), headers.get(HEADER_LENGTH.lower()), headers.get("accept-encoding", ""))
    inferred = await models.infer(loaded, body, caller, since)
    answer, told = inferred.answer, {"server-timing": inferred.timing()}
    if answer.header_length is not None:
        told[HEADER_LENGTH.lower()] = str(answer.header_length)
    if answer.encoding:
        told["content-encoding"] = answer.encoding
    return Encoded(answer.body, "application/json" if answer.header_length is None else "application/octet-stream", told)


def _parameters(body: bytes) -> set[str]:
    """Names of the parameters in a request to load or unload."""
    parameters = _json_object(body).get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InvalidInput("parameters must be a JSON object", "#/parameters")
    return set(parameters)


def _json_object(body: bytes) -> dict[str, Any]:
    """The body, or an empty object where there is none."""
    try:
        found = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is not JSON: {error}", "#") from None
    if not isinstance(found, dict):
        raise InvalidInput("the body must be a JSON object", "#")
    return found


PLAIN = {"name": re.compile(NAME_PATTERN), "version": re.compile(VERSION_PATTERN)}
DIRECT = [DirectRoute(path, PLAIN, _direct) for path in ("/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer")]
