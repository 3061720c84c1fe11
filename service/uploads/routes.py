"""Uploads under ``/v1/uploads``, by tus 1.0.0: core, creation, checksum, expiration and termination."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Path, Request, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import errors
from service.routes import BODY, CONFLICT, PROBLEM, PROBLEMS, Parts, Service
from service.uploads import data_sets
from service.uploads.parts import ID_PATTERN, Upload, Uploads
from service.uploads.schemas import ALGORITHMS, LONGEST_METADATA, UploadAnswer, UploadList, check_sum, headers, metadata, told

ROOT = "/v1/uploads"
TUS = "1.0.0"
MEDIA = "application/offset+octet-stream"

Id = Annotated[str, Path(pattern=ID_PATTERN, description="Id of the upload.", examples=["0f0e0d0c0b0a09080706050403020100"])]
Resumable = Annotated[str, Header(alias="Tus-Resumable", description=f"Version of tus: {TUS}; taken to be that where it is not sent.")]
Length = Annotated[int, Header(alias="Upload-Length", ge=1, description="Bytes of the whole file.")]
Metadata = Annotated[
    str,
    Header(
        alias="Upload-Metadata",
        max_length=LONGEST_METADATA,
        description="`filename` and, if wished, `sha256` (hex) of the file, each with a blank and its Base64 after it; joined by commas.",
        examples=["filename cm93cy5ucHk="],
    ),
]
Offset = Annotated[int, Header(alias="Upload-Offset", ge=0, description="Where in the file the part begins.")]
Checksum = Annotated[str | None, Header(alias="Upload-Checksum", description="`sha256` or `sha1`, a blank, and the Base64 of the digest.")]

TUS_PROBLEMS: dict[int | str, dict[str, Any]] = {
    404: {"description": "No such upload, or it has expired.", **PROBLEM},
    412: {"description": f"Another version of tus than {TUS} is spoken.", **PROBLEM},
    422: PROBLEMS[422],
    503: PROBLEMS[503],
}
FULL: dict[int | str, dict[str, Any]] = {507: {"description": "No room for it: too many uploads, or a full store.", **PROBLEM}}
APPEND: dict[str, Any] = {
    "responses": {**TUS_PROBLEMS, **CONFLICT, **BODY, **FULL, 460: {"description": "The part is not the bytes that were sent.", **PROBLEM}},
    "openapi_extra": {"requestBody": {"required": True, "content": {MEDIA: {"schema": {"type": "string", "format": "binary"}}}}},
}

router = APIRouter(prefix="/v1", tags=["uploads"])


@router.options("/uploads", include_in_schema=False)
def options(parts: Parts) -> Response:
    """What this server can do, as tus tells it."""
    able = {
        "Tus-Version": TUS,
        "Tus-Extension": "creation,checksum,expiration,termination",
        "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
        "Tus-Max-Size": str(parts.settings.max_upload_bytes),
    }
    return Response(status_code=204, headers=able)


@router.post(
    "/uploads", summary="Begin an upload", status_code=201, response_model=UploadAnswer, responses={**TUS_PROBLEMS, **BODY, **FULL}
)
def create(length: Length, about: Metadata, parts: Parts, response: Response, tus: Resumable = TUS) -> UploadAnswer:
    """`Location` is where its parts go. What is not complete when `Upload-Expires` comes is dropped."""
    _check_version(tus)
    named = metadata(about)
    upload = _uploads(parts).create(named["filename"], length, parts.settings, named.get("sha256"))
    response.headers.update({**headers(upload), "Location": f"{ROOT}/{upload.id}"})
    return _answer(upload)


@router.head("/uploads/{id}", summary="Where an upload goes on", response_class=Response, responses=TUS_PROBLEMS)
async def head(id: Id, parts: Parts, tus: Resumable = TUS) -> Response:  # noqa: A002  # the name in the path
    """In `Upload-Offset`. An upload of which every byte is there is looked at first, if it has not been yet."""
    _check_version(tus)
    upload = await parts.uploads.run(data_sets.settled, _uploads(parts), id)
    return Response(headers=headers(upload))


@router.patch("/uploads/{id}", summary="Send a part", status_code=204, response_class=Response, **APPEND)
async def append(id: Id, offset: Offset, request: Request, parts: Parts, checksum: Checksum = None, tus: Resumable = TUS) -> Response:  # noqa: A002
    """A part is added whole or not at all, and acknowledged once the store has it; the same part again is acknowledged again.

    With the last one the file is opened: refused with 422 if it has not its sha256, or is not in the form that its name says.
    """
    _check_version(tus)
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != MEDIA or request.headers.get("content-encoding", "identity") != "identity":
        raise errors.UnsupportedMedia(f"a body of type {media!r} is not read: send {MEDIA}, as it is")
    part = await _part(request, parts.settings.max_part_bytes)
    upload = await parts.uploads.run(_appended, _uploads(parts), id, offset, part, checksum)
    return Response(status_code=204, headers=headers(upload))


@router.get("/uploads", summary="All uploads and data sets", responses={503: PROBLEMS[503]})
def list_uploads(parts: Parts) -> UploadList:
    return UploadList(uploads=[_answer(upload) for upload in _uploads(parts).all()])


@router.get("/uploads/{id}", summary="One upload or data set", responses=TUS_PROBLEMS)
def get_upload(id: Id, parts: Parts) -> UploadAnswer:  # noqa: A002
    return _answer(_uploads(parts).get(id))


@router.delete("/uploads/{id}", summary="End an upload or data set", status_code=204, responses=TUS_PROBLEMS)
def delete_upload(id: Id, parts: Parts, tus: Resumable = TUS) -> None:  # noqa: A002
    """Its bytes are gone at once; a fit that has not read them yet fails."""
    _check_version(tus)
    _uploads(parts).delete(id)


class TusVersion:
    """ASGI middleware that names the version of tus in every answer under ``/v1/uploads``, refusals included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def versioned(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"tus-resumable", TUS.encode())]
            await send(message)

        of_uploads = scope["type"] == "http" and scope["path"].startswith(ROOT)
        await self._app(scope, receive, versioned if of_uploads else send)


def _check_version(tus: str) -> None:
    if tus != TUS:
        raise HTTPException(412, f"Tus-Resumable is {tus[:80]!r}; this server speaks {TUS}", {"Tus-Version": TUS})


async def _part(request: Request, limit: int) -> bytes:
    """The body, of at most ``limit`` bytes; one that is announced as larger is not read."""
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > limit:
        raise errors.TooLarge(f"a part of {announced} bytes; the limit is {limit}: send several")
    part = bytearray()
    async for piece in request.stream():
        part += piece
        if len(part) > limit:
            raise errors.TooLarge(f"a part of more than {limit} bytes, which is the limit: send several")
    return bytes(part)


def _appended(found: Uploads, upload_id: str, offset: int, part: bytes, checksum: str | None) -> Upload:
    check_sum(part, checksum)
    found.append(upload_id, offset, part)
    upload = data_sets.settled(found, upload_id)
    if upload.state == "refused":
        raise errors.InvalidInput(f"the upload is refused: {upload.reason}")
    return upload


def _uploads(parts: Service) -> Uploads:
    return Uploads(parts.store.connection)


def _answer(upload: Upload) -> UploadAnswer:
    return UploadAnswer.model_validate(told(upload))
