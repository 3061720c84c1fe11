"""Living versions under ``/v1``: ask for an update, and for the difference of two versions."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from service.jobs.queue import Job
from service.jobs.routes import Key, accepted, json_body
from service.jobs.schemas import JobAnswer, npy
from service.routes import BODY, CONFLICT, PROBLEMS, Name, Number, Parts, Service
from service.updates.schemas import KIND, DifferenceAnswer, UpdateRequest, parsed
from service.updates.successors import difference
from service.versions import routes

SCHEMAS = (UpdateRequest,)  # named in a text below, and so needed in the OpenAPI document

Other = Annotated[int, Path(gt=0, description="Number of the newer version.", examples=[4])]

UPDATE: dict[str, Any] = {
    "responses": {**PROBLEMS, **CONFLICT, **BODY},
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/UpdateRequest"},
                    "example": {"version": "champion", "add": {"data": "/data/july.parquet"}, "alias": "champion"},
                }
            },
        }
    },
}

router = APIRouter(prefix="/v1")


@router.post(
    "/detectors/{name}:update",
    tags=["jobs"],
    summary="Update a version without refitting",
    status_code=202,
    response_model=JobAnswer,
    **UPDATE,
)
async def update(name: Name, request: Request, parts: Parts, idempotency_key: Key = None) -> Response:
    """Queues a job, which makes a new version of an old one. Its result has the number, and the difference to the parent."""
    body = await json_body(request, parts.settings)
    return accepted(await parts.lookups.run(_submitted, parts, name, body, idempotency_key))


@router.get(
    "/detectors/{name}/versions/{number}/difference/{other}", tags=["versions"], summary="How two versions differ", responses=PROBLEMS
)
async def compare_versions(name: Name, number: Number, other: Other, parts: Parts) -> DifferenceAnswer:
    """What changed from version `number`, the older one, to version `other`."""
    found = await parts.lookups.run(difference, parts.store, parts.settings, name, number, other)
    return DifferenceAnswer.model_validate(found.to_json())


def _submitted(parts: Service, name: str, body: bytes, key: str | None) -> Job:
    job, rows = parsed(body, parts.settings)
    routes(parts.store, [name])[name].number(name, job.version)  # which refuses what there is not
    blob = b"" if rows is None else npy(rows)
    return parts.jobs.submit(KIND, name, job.model_dump(), rows=blob, idempotency_key=key, most_waiting=parts.settings.max_waiting_jobs)
