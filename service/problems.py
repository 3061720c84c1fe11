"""Refusals as HTTP answers, in the form of RFC 9457."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from service import errors

log = logging.getLogger(__name__)

# Kind of refusal: status, and the last part of the problem's type.
STATUS: dict[type[errors.ServiceError], tuple[int, str]] = {
    errors.InvalidInput: (422, "invalid-input"),
    errors.UnsupportedMedia: (415, "unsupported-media"),
    errors.TooLarge: (413, "too-large"),
    errors.UnknownDetector: (404, "unknown-detector"),
    errors.UnknownVersion: (404, "unknown-version"),
    errors.UnknownAlias: (404, "unknown-alias"),
    errors.AliasMoved: (409, "alias-moved"),
    errors.VersionInUse: (409, "version-in-use"),
    errors.NothingToRollBack: (409, "nothing-to-roll-back"),
    errors.VersionRefused: (503, "version-refused"),
    errors.Overloaded: (503, "overloaded"),
    errors.StoreUnavailable: (503, "store-unavailable"),
}


def problem(
    request: Request, status: int, detail: str, *, slug: str | None = None, headers: dict[str, str] | None = None, **more: Any
) -> JSONResponse:
    """An answer that says what is wrong; ``slug`` names the kind of problem where it is one of ours."""
    content = {
        "type": f"urn:farfield:problem:{slug}" if slug else "about:blank",
        "title": slug.replace("-", " ").capitalize() if slug else HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": request.url.path,
        **more,
    }
    return JSONResponse(content, status, headers, media_type="application/problem+json")


def install(app: FastAPI) -> None:
    """Answer every refusal and every unexpected error as a problem."""

    @app.exception_handler(errors.ServiceError)
    async def refused(request: Request, error: errors.ServiceError) -> JSONResponse:
        status, slug = STATUS[type(error)]
        if isinstance(error, errors.StoreUnavailable):
            request.app.state.service.metrics.store_error()
        more: dict[str, Any] = {}
        if isinstance(error, errors.InvalidInput) and error.pointer:
            more["errors"] = [{"detail": str(error), "pointer": error.pointer}]
        retry_after = getattr(error, "retry_after", None)
        headers = {"Retry-After": str(retry_after)} if retry_after else None
        return problem(request, status, str(error), slug=slug, headers=headers, **more)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        found = [{"detail": item["msg"], "pointer": _pointer(item["loc"])} for item in error.errors()]
        detail = "; ".join(f"{item['pointer']}: {item['detail']}" for item in found)
        return problem(request, 422, detail, slug="invalid-input", errors=found)

    @app.exception_handler(HTTPException)
    async def unrouted(request: Request, error: HTTPException) -> JSONResponse:
        return problem(request, error.status_code, str(error.detail), headers=dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        log.error("unexpected error on %s", request.url.path, exc_info=error)
        return problem(request, 500, "the service failed on this request; its log has the details")


def _pointer(location: tuple[str | int, ...] | Any) -> str:
    """Where an error is: ``#/rows/0`` in the body, ``alpha`` for a parameter of path or query."""
    place, *rest = location
    return "#/" + "/".join(map(str, rest)) if place == "body" else "/".join(map(str, rest))
