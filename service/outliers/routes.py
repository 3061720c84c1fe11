"""Outliers under ``/v1``: the feed, annotations of it, feedback on it, and shadows."""

from __future__ import annotations

import html
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from numpy.typing import NDArray
from pydantic import ValidationError

from service import errors
from service.features import finite_rows
from service.jobs.routes import json_body
from service.jobs.schemas import json_object
from service.names import row_keys
from service.outliers.feed import Outlier
from service.outliers.schemas import (
    Annotation,
    FeedbackAnswer,
    FeedbackList,
    FeedbackOptions,
    FeedbackRequest,
    MarkAnswer,
    OutlierAnswer,
    OutlierList,
    ShadowAnswer,
    ShadowRequest,
)
from service.problems import explained
from service.routes import BODY, PROBLEM, PROBLEMS, Name, Parts, Service
from service.scoring import codecs
from service.versions import routes

SCHEMAS = (FeedbackRequest,)  # named in a text below, and so needed in the OpenAPI document

Count = Annotated[int, Query(ge=1, le=1000, description="Most outliers.")]
Before = Annotated[str | None, Query(pattern=r"^\d{1,15}-\d{1,15}$", description="`place` of an outlier: only older ones.")]
Milliseconds = Annotated[int | None, Query(ge=0, le=10**15, description="Milliseconds since 1970.")]

FEEDBACK: dict[str, Any] = {
    "responses": {**PROBLEMS, **BODY, 507: {"description": "Too many rows are marked.", **PROBLEM}},
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/FeedbackRequest"},
                    "example": {"keys": ["pump-7/2026-01-02"], "verdict": "false_alarm", "rows": [[0.1, -0.3]]},
                }
            },
        }
    },
}

router = APIRouter(prefix="/v1")


@router.get("/detectors/{name}/outliers", tags=["outliers"], summary="The newest outliers", responses=PROBLEMS)
async def list_outliers(name: Name, parts: Parts, count: Count = 100, before: Before = None) -> OutlierList:
    """Of all replicas together, and about a second old."""
    found = await parts.lookups.run(partial(_known, parts, name, count, before=before))
    return OutlierList(detector=name, outliers=[OutlierAnswer.of(outlier) for outlier in found])


@router.get("/detectors/{name}/annotations", tags=["outliers"], summary="Outliers as annotations of a chart", responses=PROBLEMS)
async def list_annotations(
    name: Name,
    parts: Parts,
    start: Annotated[Milliseconds, Query(alias="from")] = None,
    end: Annotated[Milliseconds, Query(alias="to")] = None,
    count: Count = 100,
) -> list[Annotation]:
    """The newest ones between two times, in the form of Grafana's own annotations."""
    found = await parts.lookups.run(
        partial(_known, parts, name, count, since=(start or 0) / 1000, until=None if end is None else end / 1000)
    )
    return [_annotation(name, outlier) for outlier in found]


@router.post("/detectors/{name}:feedback", tags=["outliers"], summary="Say what outliers really were", **FEEDBACK)
async def give_feedback(name: Name, request: Request, parts: Parts) -> FeedbackAnswer:
    """All rows of the request are marked, or none. A key that no outlier in the feed has is marked all the same."""
    body = await json_body(request, parts.settings)
    return FeedbackAnswer(detector=name, changed=await parts.lookups.run(_marked, parts, name, body))


@router.get("/detectors/{name}/feedback", tags=["outliers"], summary="What was said of outliers", responses=PROBLEMS)
async def list_feedback(name: Name, parts: Parts) -> FeedbackList:
    found = await parts.lookups.run(_marks, parts, name)
    return FeedbackList(detector=name, feedback=found)


@router.put("/detectors/{name}/shadow", tags=["shadow"], summary="Score the traffic of an alias by another one too", responses=PROBLEMS)
async def put_shadow(name: Name, body: ShadowRequest, parts: Parts) -> ShadowAnswer:
    """Beside the requests, whose answers stay as they are. Each replica begins within about a second."""
    await parts.lookups.run(parts.shadows.put, name, body.setting())
    return ShadowAnswer.of(*await parts.lookups.run(parts.shadows.get, name))


@router.get("/detectors/{name}/shadow", tags=["shadow"], summary="What a shadow was found to do otherwise", responses=PROBLEMS)
async def get_shadow(name: Name, parts: Parts) -> ShadowAnswer:
    return ShadowAnswer.of(*await parts.lookups.run(parts.shadows.get, name))


@router.delete("/detectors/{name}/shadow", tags=["shadow"], summary="End a shadow", status_code=204, responses=PROBLEMS)
async def delete_shadow(name: Name, parts: Parts) -> None:
    await parts.lookups.run(parts.shadows.delete, name)


def _known(parts: Service, name: str, count: int, **where: Any) -> list[Outlier]:
    """Outliers of a detector that there is."""
    routes(parts.store, [name])[name].number(name, None)
    return parts.feed.newest(name, count, **where)


def _marks(parts: Service, name: str) -> list[MarkAnswer]:
    routes(parts.store, [name])[name].number(name, None)
    return [MarkAnswer.of(mark) for mark in parts.feedback.all(name)]


def _marked(parts: Service, name: str, body: bytes) -> int:
    members = json_object(body)
    lists = members.pop("rows", None)
    try:
        options = FeedbackOptions.model_validate(members)
    except ValidationError as error:
        first = error.errors()[0]
        place = "/".join(map(str, first["loc"]))
        raise errors.InvalidInput(f"{place}: {explained(first)}", f"#/{place}") from None
    keys = row_keys(options.keys)
    rows = None if lists is None else _rows(parts, name, lists, len(keys))
    routes(parts.store, [name])[name].number(name, None)
    return parts.feedback.mark(name, keys, options.verdict, rows)


def _rows(parts: Service, name: str, lists: Any, count: int) -> NDArray[Any]:
    """The rows of feedback, as wide as the default version takes them."""
    fitted = parts.versions.get(name, None).fitted
    if fitted.extractor:
        raise errors.InvalidInput("rows of a detector with an extractor come from the feed alone: leave them out", "#/rows")
    rows = codecs.rows_of_json(lists, parts.settings).rows
    assert rows is not None  # noqa: S101
    if rows.shape != (count, fitted.width):
        raise errors.InvalidInput(
            f"there are {len(rows)} rows of {rows.shape[1]} features for {count} keys of {fitted.width} each", "#/rows"
        )
    return finite_rows(rows)


def _annotation(name: str, outlier: Outlier) -> Annotation:
    key = html.escape(outlier.key)
    return Annotation(
        time=round(outlier.time * 1000),
        title=f"outlier of {name}",
        text=f"{key}: score {outlier.score:.6g}, p-value {outlier.p_value:.4g}, version {outlier.version}",
        tags=["farfield", "outlier", name],
    )
