"""Jobs under ``/v1``: ask for a fit, see how far it is, listen to it, and cancel it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from service import errors
from service.jobs.queue import Job
from service.jobs.schemas import KIND, FitRequest, JobAnswer, JobList, npy, parsed, told
from service.routes import BODY, CONFLICT, PROBLEMS, Name, Parts, Service
from service.settings import Settings
from service.uploads import data_sets

ID_PATTERN = r"^[0-9a-f]{32}$"
RETRY_SECONDS = 1  # after which it is worth asking again
SCHEMAS = (FitRequest,)  # named in a text below, and so needed in the OpenAPI document

Id = Annotated[str, Path(pattern=ID_PATTERN, description="Id of the job.", examples=["0f0e0d0c0b0a09080706050403020100"])]
Key = Annotated[
    str | None,
    Header(alias="Idempotency-Key", min_length=1, max_length=255, description="The same key again, within a day, gives the same job."),
]
Count = Annotated[int, Query(ge=1, le=1000, description="Most jobs to list.")]

FIT: dict[str, Any] = {
    "responses": {**PROBLEMS, **CONFLICT, **BODY},
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/FitRequest"},
                    "example": {"data": "/data/pumps.parquet", "alpha": 0.01, "alias": "champion"},
                }
            },
        }
    },
}
EVENTS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Server-sent events.", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
}

router = APIRouter(prefix="/v1", tags=["jobs"])


@router.post("/detectors/{name}:fit", summary="Fit a new version", status_code=202, response_model=JobAnswer, **FIT)
async def fit(name: Name, request: Request, parts: Parts, idempotency_key: Key = None) -> Response:
    """Queues a job, which a worker fits, calibrates and publishes by. `Location` is where to see how far it is."""
    body = await json_body(request, parts.settings)
    return accepted(await parts.lookups.run(_submitted, parts, name, body, idempotency_key))


@router.get("/jobs", summary="The newest jobs", responses={404: PROBLEMS[404], 422: PROBLEMS[422], 503: PROBLEMS[503]})
def list_jobs(parts: Parts, count: Count = 100) -> JobList:
    return JobList(jobs=[_answer(job) for job in parts.jobs.newest(count)])


@router.get("/jobs/{id}", summary="One job", responses=PROBLEMS)
def get_job(id: Id, parts: Parts) -> JobAnswer:  # noqa: A002  # the name in the path
    return _answer(parts.jobs.get(id))


@router.post("/jobs/{id}:cancel", summary="Cancel a job", responses=PROBLEMS)
def cancel_job(id: Id, parts: Parts) -> JobAnswer:  # noqa: A002
    """One that waits is cancelled at once, a running one within a second; one that is over stays as it is."""
    return _answer(parts.jobs.cancel(id))


@router.get("/jobs/{id}/events", summary="Listen to a job", response_class=StreamingResponse, responses={**PROBLEMS, **EVENTS})
async def listen(id: Id, parts: Parts) -> StreamingResponse:  # noqa: A002
    """An event `progress` with the job each time that it is otherwise, and at last `end`; a comment while nothing is new."""
    news = parts.watch.follow(id)
    first = await anext(news)  # which refuses a job that there is not, while that can still be an answer
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_events(first, news), media_type="text/event-stream", headers=headers)


async def json_body(request: Request, settings: Settings) -> bytes:
    """The body of a request that says what is to be done. Raises UnsupportedMedia or TooLarge."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media not in ("application/json", "") or request.headers.get("content-encoding", "identity") != "identity":
        raise errors.UnsupportedMedia(f"a body of type {media!r} is not read: send application/json, as it is")
    body = await request.body()
    if len(body) > settings.max_json_bytes:
        raise errors.TooLarge(f"a JSON body of {len(body)} bytes; the limit is {settings.max_json_bytes}")
    return body


def accepted(job: Job) -> Response:
    """The answer to who submitted a job."""
    headers = {"Location": f"/v1/jobs/{job.id}", "Retry-After": str(RETRY_SECONDS)}
    return Response(orjson.dumps(told(job)), 202, headers, media_type="application/json")


async def _events(first: Job | None, news: AsyncIterator[Job | None]) -> AsyncIterator[bytes]:
    yield _event(first)
    async for job in news:
        yield _event(job)


def _event(job: Job | None) -> bytes:
    if job is None:
        return b": nothing new\n\n"
    return b"event: %s\ndata: %s\n\n" % (b"end" if job.over else b"progress", orjson.dumps(told(job)))


def _submitted(parts: Service, name: str, body: bytes, key: str | None) -> Job:
    options, rows = parsed(body, parts.settings)
    if isinstance(options.data, str) and (upload := data_sets.named(options.data)) is not None:
        data_sets.complete(parts.store, upload)
    spec = options.model_dump()
    blob = b"" if rows is None else npy(rows)
    return parts.jobs.submit(KIND, name, spec, rows=blob, idempotency_key=key, most_waiting=parts.settings.max_waiting_jobs)


def _answer(job: Job) -> JobAnswer:
    return JobAnswer.model_validate(told(job))
