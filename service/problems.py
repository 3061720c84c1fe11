"""Refusals as HTTP answers, in the form of RFC 9457."""

from __future__ import annotations

import json
import logging
import reprlib
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from service import errors

log = logging.getLogger(__name__)

PROTOCOL = "/v2"  # below it errors have the form, and the codes, of the Open Inference Protocol
PROTOCOL_STATUS = {415: 400, 422: 400}
CLIENT_GONE = 499  # by convention: the client closed the connection before it had sent the request

# Kind of refusal: status, and the last part of the problem's type.
STATUS: dict[type[errors.ServiceError], tuple[int, str]] = {
    errors.InvalidInput: (422, "invalid-input"),
    errors.UnsupportedMedia: (415, "unsupported-media"),
    errors.NotAcceptable: (406, "not-acceptable"),
    errors.ForeignOrigin: (403, "foreign-origin"),
    errors.TooLarge: (413, "too-large"),
    errors.UnknownDetector: (404, "unknown-detector"),
    errors.UnknownVersion: (404, "unknown-version"),
    errors.UnknownAlias: (404, "unknown-alias"),
    errors.UnknownJob: (404, "unknown-job"),
    errors.UnknownUpload: (404, "unknown-upload"),
    errors.UnknownShadow: (404, "unknown-shadow"),
    errors.AliasMoved: (409, "alias-moved"),
    errors.VersionInUse: (409, "version-in-use"),
    errors.NothingToRollBack: (409, "nothing-to-roll-back"),
    errors.KeyReused: (409, "key-reused"),
    errors.OffsetMoved: (409, "offset-moved"),
    errors.ChecksumMismatch: (460, "checksum-mismatch"),  # as tus has it
    errors.UploadsFull: (507, "uploads-full"),
    errors.FeedbackFull: (507, "feedback-full"),
    errors.NotReady: (503, "not-ready"),
    errors.Unsupported: (501, "unsupported"),
    errors.VersionRefused: (503, "version-refused"),
    errors.Overloaded: (503, "overloaded"),
    errors.DeadlineExceeded: (504, "deadline-exceeded"),
    errors.StoreUnavailable: (503, "store-unavailable"),
    errors.StoreFull: (507, "store-full"),
}


def problem(
    request: Request, status: int, detail: str, *, slug: str | None = None, headers: dict[str, str] | None = None, **more: Any
) -> Response:
    """An answer that says what is wrong; ``slug`` names the kind of problem where it is one of ours."""
    path = request.scope["path"]
    if path == PROTOCOL or path.startswith(f"{PROTOCOL}/"):
        return Response(json.dumps({"error": detail}), PROTOCOL_STATUS.get(status, status), headers, media_type="application/json")
    content = {
        "type": f"urn:farfield:problem:{slug}" if slug else "about:blank",
        "title": slug.replace("-", " ").capitalize() if slug else HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": quote(path, safe="/:@!$&'()*+,;="),
        **more,
    }
    # Plain ASCII, because a detail may quote half of a surrogate pair, which UTF-8 cannot hold.
    return Response(json.dumps(content), status, headers, media_type="application/problem+json")


REFUSALS = (errors.ServiceError, HTTPException, ClientDisconnect)  # what ``refusal`` answers


def refusal(request: Request, error: Exception) -> Response:
    """The answer to a request that ended in one of ``REFUSALS``."""
    if isinstance(error, errors.ServiceError):
        return _refused(request, error)
    if isinstance(error, HTTPException):
        return _unrouted(request, error)
    return Response(status_code=CLIENT_GONE)  # nobody reads it; the status is for the metrics


def install(app: FastAPI) -> None:
    """Answer every refusal and every unexpected error as a problem."""

    async def refused(request: Request, error: Exception) -> Response:
        return refusal(request, error)

    for kind in REFUSALS:
        app.add_exception_handler(kind, refused)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        found = [{"detail": explained(item), "pointer": _pointer(item)} for item in error.errors()]
        detail = "; ".join(f"{item['pointer']}: {item['detail']}" for item in found)
        return problem(request, 422, detail, slug="invalid-input", errors=found)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        log.error("unexpected error on %s", request.url.path, exc_info=error)
        return problem(request, 500, "the service failed on this request; its log has the details")


def _refused(request: Request, error: errors.ServiceError) -> Response:
    status, slug = STATUS[type(error)]
    detail = str(error)
    if isinstance(error, errors.StoreUnavailable):
        request.app.state.service.metrics.store_error()
        log.warning("%s", error)
        detail = error.public
    more: dict[str, Any] = {}
    if isinstance(error, errors.InvalidInput | errors.TooLarge) and error.pointer:
        more["errors"] = [{"detail": str(error), "pointer": error.pointer}]
    retry_after = getattr(error, "retry_after", None)
    headers = {"Retry-After": str(retry_after)} if retry_after else None
    return problem(request, status, detail, slug=slug, headers=headers, **more)


def _unrouted(request: Request, error: HTTPException) -> Response:
    headers = dict(error.headers or {})
    detail = {
        404: f"there is nothing at {request.scope['path']!r}; GET /docs describes what there is",
        405: f"{request.method} is not among the methods of this path: {headers.get('Allow') or headers.get('allow')}",
    }.get(error.status_code, str(error.detail))
    slug = {413: "too-large", 503: "overloaded"}.get(error.status_code)
    return problem(request, error.status_code, detail, slug=slug, headers=headers)


def explained(item: Mapping[str, Any]) -> str:
    """What pydantic expected, and what came."""
    if item["type"] == "extra_forbidden":
        return "there is no such parameter or member"
    if item["type"] in ("missing", "json_invalid"):
        return str(item["msg"])
    return f"{item['msg']}, not {reprlib.repr(item['input'])}"


def _pointer(item: Mapping[str, Any]) -> str:
    """Where an error is: ``#/rows/0`` in the body, ``alpha`` for a parameter of path or query."""
    place, *rest = item["loc"]
    if place != "body":
        return "/".join(map(str, rest))
    return "#" if item["type"] == "json_invalid" else "/".join(("#", *map(str, rest)))
