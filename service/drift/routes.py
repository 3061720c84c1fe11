"""Drift under ``/v1``: what is known of it, and to begin anew."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from service.drift.report import report
from service.drift.schemas import DriftReport
from service.routes import PROBLEMS, Name, Parts

router = APIRouter(prefix="/v1")

Version = Annotated[int | None, Query(gt=0, description="Number of the version; by default that of a request without alias or number.")]
Ranked = Annotated[int, Query(ge=0, le=1000, description="Name this many features with the strongest evidence.")]


@router.get("/detectors/{name}/drift", tags=["drift"], summary="Whether the rows that a version scores have drifted", responses=PROBLEMS)
def get_drift(name: Name, parts: Parts, version: Version = None, features: Ranked = 10) -> DriftReport:
    """Of all replicas together, and about a second old."""
    loaded = parts.versions.get(name, version)
    return report(name, loaded.number, loaded.fitted, *parts.drift.stream(loaded), features)


@router.post("/detectors/{name}:reset-drift", tags=["drift"], summary="Begin a version's stream anew", status_code=204, responses=PROBLEMS)
def reset_drift(name: Name, parts: Parts, version: Version = None) -> None:
    """Its alarm is lowered, and its rows so far are forgotten. New rows are compared with the calibration rows as at first."""
    parts.drift.reset(name, parts.versions.get(name, version).number)
