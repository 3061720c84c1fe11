"""The Open Inference Protocol v2 under ``/v2``: each version of a detector is a version of a model of its name.

The interface of Triton, KServe and MLServer, so that their clients score here unchanged. What a detector or version is
called, and what each number means, is as under ``/v1``; the scores are the same to the last bit.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Path, Request, Response
from starlette.exceptions import HTTPException

from service import __version__, errors
from service.envelope import Unsupported
from service.names import ALIAS_PATTERN
from service.protocol import (
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
from service.protocol_scoring import Sent, judge
from service.routes import Name, Parts, Service
from service.versions import Loaded, Reference, Versions, routes

VERSION_PATTERN = rf"^([0-9]{{1,18}}|{ALIAS_PATTERN.strip('^$')})$"
HEADER_LENGTH = "Inference-Header-Content-Length"
EXTENSIONS = ["binary_tensor_data", "model_repository", "model_repository(unload_dependents)", "statistics"]
SCHEMAS = (InferRequest,)  # named in a text below, and so needed in the OpenAPI document

Version = Annotated[str, Path(pattern=VERSION_PATTERN, description="Number of the version, or an alias.", examples=["3", "champion"])]


def _unloaded(request: Request) -> set[tuple[str, int]]:
    unloaded: set[tuple[str, int]] = request.app.state.unloaded
    return unloaded


Unloaded = Annotated[set[tuple[str, int]], Depends(_unloaded)]  # names and numbers that a client has unloaded from this process

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
    "responses": ERRORS,
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
def server() -> ServerMetadata:
    return ServerMetadata(name="farfield", version=__version__, extensions=EXTENSIONS)


@router.get("/health/live", summary="Whether the process answers")
def live() -> Live:
    return Live(live=True)


@router.get("/health/ready", summary="Whether versions are loaded and checked", responses=STORE)
def ready(parts: Parts) -> Ready:
    if not serves(parts.versions):
        raise HTTPException(503, "no version is loaded and checked yet")
    return Ready(ready=True, live=True)


@router.get("/models", summary="Names of all models", responses=STORE)
def models(parts: Parts) -> ModelList:
    return ModelList(models=sorted(parts.store.known()))


@router.get("/models/stats", summary="What all loaded versions have scored")
def all_statistics(parts: Parts) -> Statistics:
    return Statistics.of(parts.metrics, [(loaded.name, loaded.number) for loaded in parts.versions.loaded()])


@router.get("/models/{name}", summary="Inputs and outputs of a model", responses=ERRORS)
async def model(name: Name, parts: Parts, unloaded: Unloaded) -> ModelMetadata:
    """Of its default version: that of alias `champion` where it is set, and the latest one otherwise."""
    loaded = await _loaded(parts, unloaded, name, None)
    numbers = await parts.lookups.run(_numbers, parts, name)
    return ModelMetadata.of(loaded, numbers)


@router.get("/models/{name}/versions/{version}", summary="Inputs and outputs of a version", responses=ERRORS)
async def model_version(name: Name, version: Version, parts: Parts, unloaded: Unloaded) -> ModelMetadata:
    loaded = await _loaded(parts, unloaded, name, _reference(version))
    return ModelMetadata.of(loaded, [loaded.number])


@router.get("/models/{name}/ready", summary="Whether a model can score", responses=ERRORS)
async def model_ready(name: Name, parts: Parts, unloaded: Unloaded) -> ModelReady:
    """Loads the default version if it is not in memory, unless it was unloaded by request."""
    return await _readiness(parts, unloaded, name, None)


@router.get("/models/{name}/versions/{version}/ready", summary="Whether a version can score", responses=ERRORS)
async def version_ready(name: Name, version: Version, parts: Parts, unloaded: Unloaded) -> ModelReady:
    """Loads the version if it is not in memory, unless it was unloaded by request."""
    return await _readiness(parts, unloaded, name, _reference(version))


@router.get("/models/{name}/stats", summary="What the loaded versions of a model have scored", responses=ERRORS)
def statistics(name: Name, parts: Parts) -> Statistics:
    numbers = sorted(loaded.number for loaded in parts.versions.loaded() if loaded.name == name)
    if not numbers:
        _numbers(parts, name)
    return Statistics.of(parts.metrics, [(name, number) for number in numbers])


@router.get("/models/{name}/versions/{version}/stats", summary="What a version has scored", responses=ERRORS)
def version_statistics(name: Name, version: Version, parts: Parts) -> Statistics:
    reference = _reference(version)
    loaded = parts.versions.cached(name, reference)
    number = loaded.number if loaded else routes(parts.store, [name])[name].number(name, reference)
    return Statistics.of(parts.metrics, [(name, number)])


@router.post("/models/{name}/infer", summary="Score by the default version", **INFER)
async def infer(name: Name, request: Request, parts: Parts, unloaded: Unloaded) -> Response:
    """The default version is that of alias `champion` where it is set, and the latest one otherwise."""
    return await _infer(parts, unloaded, name, None, request)


@router.post("/models/{name}/versions/{version}/infer", summary="Score by one version, or by that of an alias", **INFER)
async def infer_by_version(name: Name, version: Version, request: Request, parts: Parts, unloaded: Unloaded) -> Response:
    return await _infer(parts, unloaded, name, _reference(version), request)


@router.post("/repository/index", summary="All versions of all models, and whether they are in memory", responses=ERRORS)
async def index(request: Request, parts: Parts, unloaded: Unloaded) -> list[IndexEntry]:
    """With the body `{"ready": true}` only those that are. A version that is not is loaded by the next request for it."""
    only_ready = _json_object(await request.body()).get("ready", False)
    if not isinstance(only_ready, bool):
        raise errors.InvalidInput("ready must be true or false", "#/ready")
    entries = await parts.lookups.run(_index, parts, unloaded)
    return [entry for entry in entries if entry.state == "READY" or not only_ready]


@router.post("/repository/models/{name}/load", summary="Load the default version of a model", responses=ERRORS)
async def load(name: Name, request: Request, parts: Parts, unloaded: Unloaded) -> ModelReady:
    """What the store says now is loaded, checked and served."""
    _refuse_overrides(await request.body())
    await parts.lookups.run(parts.versions.refresh, name)
    loaded = await _loaded(parts, unloaded, name, None)
    return ModelReady(name=name, version=str(loaded.number), ready=True)


@router.post("/repository/models/{name}/unload", summary="Drop all versions of a model from memory", responses=ERRORS)
async def unload(name: Name, request: Request, parts: Parts, unloaded: Unloaded) -> ModelReady:
    """Nothing is deleted, and the next request for a version loads it again."""
    _refuse_overrides(await request.body())
    numbers = await parts.lookups.run(_numbers, parts, name)
    await parts.lookups.run(_drop, parts.versions, name)
    unloaded.update((name, number) for number in numbers)
    return ModelReady(name=name, version=str(numbers[-1]), ready=False)


def serves(versions: Versions) -> bool:
    """Whether the store has been looked into, and not every version found there was refused."""
    return versions.ready and (bool(versions.loaded()) or not versions.refused())


def _reference(version: str) -> Reference:
    return int(version) if version.isdecimal() else version


def _numbers(parts: Service, name: str) -> list[int]:
    """Numbers of all versions of ``name``, ascending. Raises UnknownDetector."""
    routing = routes(parts.store, [name])[name]
    if not routing.numbers:
        raise errors.UnknownDetector(name)
    return routing.numbers


async def _loaded(parts: Service, unloaded: set[tuple[str, int]], name: str, reference: Reference) -> Loaded:
    loaded = parts.versions.cached(name, reference)
    if loaded is None:
        loaded = await parts.lookups.run(parts.versions.get, name, reference)
        unloaded.discard((name, loaded.number))
    return loaded


async def _readiness(parts: Service, unloaded: set[tuple[str, int]], name: str, reference: Reference) -> ModelReady:
    if parts.versions.cached(name, reference) is None and unloaded:
        number = (await parts.lookups.run(routes, parts.store, [name]))[name].number(name, reference)
        if (name, number) in unloaded:
            raise HTTPException(503, f"version {number} of model {name!r} was unloaded; the next request to load it or to infer loads it")
    loaded = await _loaded(parts, unloaded, name, reference)
    return ModelReady(name=name, version=str(loaded.number), ready=True)


def _drop(versions: Versions, name: str) -> None:
    """Drop what is loaded of ``name``; no refresh that runs at the same time brings it back."""
    with versions._refreshing, versions._lock:  # noqa: SLF001  # Versions has no public way yet
        for loaded in versions.loaded():
            if loaded.name == name:
                versions._unload(name, loaded.number)  # noqa: SLF001


def _index(parts: Service, unloaded: set[tuple[str, int]]) -> list[IndexEntry]:
    in_memory = {(loaded.name, loaded.number) for loaded in parts.versions.loaded()}
    refused = {(item["detector"], item["version"]): str(item["reason"]) for item in parts.versions.refused()}
    entries = []
    for name, routing in routes(parts.store, sorted(parts.store.known())).items():
        for number in routing.numbers:
            key = (name, number)
            if key in in_memory:
                entries.append(IndexEntry(name=name, version=str(number), state="READY", reason=""))
            else:
                reason = refused.get(key) or ("unloaded by request" if key in unloaded else "not in memory")
                entries.append(IndexEntry(name=name, version=str(number), state="UNAVAILABLE", reason=reason))
    return entries


async def _infer(parts: Service, unloaded: set[tuple[str, int]], name: str, reference: Reference, request: Request) -> Response:
    loaded = await _loaded(parts, unloaded, name, reference)
    body = await request.body()
    asked = request.headers.get
    sent = Sent(body, asked("content-encoding", ""), asked(HEADER_LENGTH), asked("accept-encoding", ""), time.perf_counter())
    try:
        answer, verdicts = await parts.gate.run(judge, loaded, sent, parts.settings)
    except Unsupported as error:
        raise HTTPException(501, str(error)) from None
    except Exception:
        parts.metrics.failed(name, loaded.number, time.perf_counter() - sent.arrived)
        raise
    parts.metrics.scored(name, loaded.number, verdicts)
    parts.metrics.stages(verdicts.seconds)
    headers = {} if answer.header_length is None else {HEADER_LENGTH: str(answer.header_length)}
    if answer.encoding:
        headers["Content-Encoding"] = answer.encoding
    return Response(
        answer.body, headers=headers, media_type="application/json" if answer.header_length is None else "application/octet-stream"
    )


def _refuse_overrides(body: bytes) -> None:
    """Models come from the store alone: a configuration or files in the request are not taken."""
    parameters = _json_object(body).get("parameters") or {}
    if not isinstance(parameters, dict):
        raise errors.InvalidInput("parameters must be a JSON object", "#/parameters")
    if others := sorted(parameters.keys() - {"unload_dependents"}):
        raise HTTPException(501, f"models are loaded as the store has them: {', '.join(others)[:200]} cannot be given")


def _json_object(body: bytes) -> dict[str, Any]:
    """The body, or an empty object where there is none."""
    try:
        found = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError as error:
        raise errors.InvalidInput(f"the body is not JSON: {error}", "#") from None
    if not isinstance(found, dict):
        raise errors.InvalidInput("the body must be a JSON object", "#")
    return found
