"""The native HTTP interface under ``/v1``. Routes take, compute and answer; they hold no logic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request

from service.drift.monitor import Drift
from service.gate import Gate
from service.jobs.queue import Jobs
from service.jobs.watch import JobWatch
from service.listing import listed
from service.manifest import Manifest
from service.metrics import Metrics
from service.names import ALIAS_PATTERN, NAME_PATTERN, checked_alias
from service.outliers.feed import Feed
from service.outliers.feedback import Feedback
from service.outliers.shadow import Shadows
from service.outliers.sightings import Sightings
from service.schemas import (
    AliasHistory,
    AliasRequest,
    AliasResponse,
    DetectorList,
    DetectorSummary,
    Options,
    Problem,
    Refused,
    ScoreRequest,
    VersionList,
    VersionSummary,
)
from service.scoring.judging import Judging
from service.settings import Settings
from service.store import Store
from service.versions import Routing, Versions, routes


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of one process, made by ``create_app`` and handed to every route."""

    settings: Settings
    store: Store
    versions: Versions
    metrics: Metrics
    gate: Gate  # for scoring
    judging: Judging
    jobs: Jobs
    watch: JobWatch
    lookups: Gate  # for versions that are not in memory: a store that hangs must not take the threads of scoring
    uploads: Gate  # for parts of uploads
    drift: Drift
    feed: Feed
    sightings: Sightings
    feedback: Feedback
    shadows: Shadows


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Parts = Annotated[Service, Depends(_service)]
Name = Annotated[str, Path(pattern=NAME_PATTERN, description="Name of the detector.", examples=["screws"])]
Alias = Annotated[str, Path(pattern=ALIAS_PATTERN, description="Name of the alias.", examples=["champion"])]
Number = Annotated[int, Path(gt=0, description="Number of the version.", examples=[3])]
Query_ = Annotated[Options, Query()]

PROBLEM = {"content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    404: {"description": "No such detector, version or alias.", **PROBLEM},
    422: {"description": "The input is not what is needed; `errors` names the place.", **PROBLEM},
    503: {"description": "Overloaded, store away, or version refused; see `Retry-After`.", **PROBLEM},
}
CONFLICT: dict[int | str, dict[str, Any]] = {409: {"description": "The alias or version is in another state.", **PROBLEM}}
BODY: dict[int | str, dict[str, Any]] = {
    413: {"description": "The body, or what is in it, is too large.", **PROBLEM},
    415: {"description": "The body is in a form that is not read.", **PROBLEM},
}

router = APIRouter(prefix="/v1")


@router.get("/detectors", tags=["versions"], summary="Detectors by name", responses=PROBLEMS)
def list_detectors(
    parts: Parts,
    count: Annotated[int | None, Query(ge=1, le=1000, description="Most detectors; all of them by default.")] = None,
    after: Annotated[str, Query(pattern=f"{NAME_PATTERN}|^$", description="`next` of an answer: only those behind it.")] = "",
    contains: Annotated[str, Query(max_length=64, description="Only those with this in their name, in capitals or not.")] = "",
) -> DetectorList:
    found, last = listed(parts.store, count, after, contains)
    return DetectorList(detectors=[_summary(name, routing) for name, routing in found.items()], next=last)


@router.get("/detectors/{name}", tags=["versions"], summary="One detector", responses=PROBLEMS)
def get_detector(name: Name, parts: Parts) -> DetectorSummary:
    return _summary(name, routes(parts.store, [name])[name])


@router.get("/detectors/{name}/versions", tags=["versions"], summary="All versions of a detector", responses=PROBLEMS)
def list_versions(name: Name, parts: Parts) -> VersionList:
    whole, damaged = parts.store.manifests(name)
    aliases = parts.store.aliases(name)
    refused = [Refused(detector=name, version=number, reason=reason) for number, reason in damaged.items()]
    return VersionList(versions=[_version(manifest, number, aliases) for number, manifest in whole.items()], refused=refused)


@router.get("/detectors/{name}/versions/{number}", tags=["versions"], summary="One version", responses=PROBLEMS)
def get_version(name: Name, number: Number, parts: Parts) -> VersionSummary:
    return _version(parts.store.manifest(name, number), number, parts.store.aliases(name))


@router.delete(
    "/detectors/{name}/versions/{number}",
    tags=["versions"],
    summary="Delete a version",
    status_code=204,
    responses={**PROBLEMS, **CONFLICT},
)
def delete_version(name: Name, number: Number, parts: Parts) -> None:
    """Refused with 409 while an alias points at the version."""
    parts.store.delete_version(name, number)
    parts.versions.refresh(name)


@router.put("/detectors/{name}/aliases/{alias}", tags=["aliases"], summary="Move an alias", responses={**PROBLEMS, **CONFLICT})
def put_alias(name: Name, alias: Alias, body: AliasRequest, parts: Parts) -> AliasResponse:
    """The version is loaded and checked first; one that is damaged is never promoted."""
    previous = parts.versions.promote(name, checked_alias(alias), body.version, expected=body.expected)
    return AliasResponse(detector=name, alias=alias, version=body.version, previous=previous)


@router.get("/detectors/{name}/aliases/{alias}", tags=["aliases"], summary="Where an alias is and was", responses=PROBLEMS)
def get_alias(name: Name, alias: Alias, parts: Parts) -> AliasHistory:
    number = routes(parts.store, [name])[name].number(name, alias)
    return AliasHistory(detector=name, alias=alias, version=number, history=parts.store.history(name, alias))


@router.delete("/detectors/{name}/aliases/{alias}", tags=["aliases"], summary="Remove an alias", status_code=204, responses=PROBLEMS)
def delete_alias(name: Name, alias: Alias, parts: Parts) -> None:
    parts.store.delete_alias(name, alias)
    parts.versions.refresh(name)


@router.post(
    "/detectors/{name}/aliases/{alias}:rollback", tags=["aliases"], summary="Undo the last move", responses={**PROBLEMS, **CONFLICT}
)
def rollback(name: Name, alias: Alias, parts: Parts) -> AliasResponse:
    """The version to go back to is loaded and checked first; a second rollback goes one move further back."""
    left, reached = parts.versions.rollback(name, alias)
    return AliasResponse(detector=name, alias=alias, version=reached, previous=left)


def _summary(name: str, routing: Routing) -> DetectorSummary:
    return DetectorSummary(name=name, default_version=routing.number(name, None), versions=routing.numbers, aliases=routing.aliases)


def _version(manifest: Manifest, number: int, aliases: dict[str, int]) -> VersionSummary:
    extractor = manifest.extractor
    return VersionSummary(
        detector=manifest.detector,
        version=number,
        aliases=[alias for alias, at in aliases.items() if at == number],
        type=manifest.type,
        parameters=manifest.parameters,
        levels=[level.model_dump() for level in manifest.levels],
        extractor={"digest": extractor.digest, **extractor.spec} if extractor else None,
        n_fit=manifest.n_fit,
        calibration=manifest.calibration.method,
        folds=manifest.calibration.folds if manifest.calibration.method == "cross-conformal" else None,
        trim=manifest.calibration.trim,
        n_calibration=manifest.calibration.n,
        alpha=manifest.alpha,
        source=manifest.source.model_dump(),
        facts=manifest.facts,
        golden_rows=manifest.golden.rows + manifest.golden.inputs,
        bytes=sum(blob.size for blob in manifest.blobs.values()),
        parent=manifest.parent,
        created=manifest.created,
        writer=manifest.writer,
    )


SCHEMAS = (ScoreRequest, Problem)  # named in the texts above, and so needed in the OpenAPI document
