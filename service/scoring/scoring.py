"""The scoring path of the native interface: the body of a request to a batch, verdicts to the body of an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from service import errors
from service.features import STAGES, Batch, Timed
from service.names import row_keys
from service.problems import explained
from service.schemas import Options
from service.scoring import codecs, tables
from service.scoring.callers import Caller
from service.scoring.codecs import Body
from service.scoring.compression import decompressed
from service.scoring.encoders import FORMS, Answer
from service.scoring.work import Terms
from service.settings import Settings
from service.verdicts import Verdicts
from service.versions import Loaded

REQUEST, LONGEST_REQUEST = "x-request-id", 128  # header with the name of a request, by which its rows are known; characters of it

READ = {
    "": "json",
    "application/json": "json",
    "application/x-npy": "npy",
    "application/vnd.apache.arrow.stream": "arrow",
    "application/vnd.safetensors": "safetensors",
}


@dataclass(slots=True)
class Task:
    """A request to score, from its body to its answer."""

    form: str  # one of READ's, or "images"
    body: Body | list[bytes]
    encoding: str
    options: Options
    answer: str  # a media type of FORMS
    caller: Caller
    request: str = ""  # its own name
    batch: Batch | None = None
    keys: list[str] | None = None  # of the rows, where they are named
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def size(self) -> int | None:
        if self.encoding:
            return None
        return sum(map(len, self.body)) if isinstance(self.body, list) else len(self.body)

    def decode(self, loaded: Loaded, settings: Settings) -> Batch:
        """The batch in the body, and the options in it."""
        if self.batch is None:
            with Timed(self.seconds, "decode"):
                self.batch = self._decoded(loaded, settings)
            self.body = b""  # decoded arrays that are views of it keep it
        return self.batch

    def _decoded(self, loaded: Loaded, settings: Settings) -> Batch:
        if isinstance(self.body, list):
            return codecs.batch_of_images(self.body, settings)
        body = decompressed(self.body, self.encoding, settings.max_body_bytes)
        if self.form == "json":
            return self._decoded_json(body, settings)
        if self.form == "npy":
            return codecs.batch_of_npy(body, settings)
        if self.form == "safetensors":
            return codecs.batch_of_array(tables.rows_of_safetensors(body), settings)
        names = None if loaded.fitted.extractor else loaded.fitted.feature_names
        return codecs.batch_of_array(tables.rows_of_arrow(body, names), settings)

    def terms(self) -> Terms:
        return terms_of(self.options)

    def encode(self, loaded: Loaded, verdicts: Verdicts) -> Scored:
        return Scored(FORMS[self.answer](Answer.of(loaded, verdicts, self.options)), self.answer, verdicts.seconds)

    def _decoded_json(self, body: Body, settings: Settings) -> Batch:
        if len(body) > settings.max_json_bytes:
            raise errors.TooLarge(f"a JSON body of {len(body)} bytes; the limit is {settings.max_json_bytes}: send .npy instead")
        batch, others = codecs.batch_of_json(body, settings)
        if (keys := others.pop("keys", None)) is not None:
            self.keys = row_keys(keys, len(batch))
        if others:
            try:
                self.options = Options.model_validate(self.options.model_dump() | others)
            except ValidationError as error:
                first = error.errors()[0]
                raise errors.InvalidInput(f"{first['loc'][0]}: {explained(first)}", f"#/{first['loc'][0]}") from None
        return batch


@dataclass(frozen=True, slots=True)
class Scored:
    """An encoded answer, and how long each stage took."""

    body: bytes
    media: str
    seconds: dict[str, float]


def timing(seconds: dict[str, float]) -> str:
    """Stages as in the header ``Server-Timing``, in milliseconds."""
    return ", ".join([f"{stage};dur={1000 * seconds.get(stage, 0.0):.3f}" for stage in STAGES])


async def received(request: Request, headers: Mapping[str, str], settings: Settings, options: Options, answer: str, caller: Caller) -> Task:
    """The task in a request with such ``headers``, its body read whole but not looked into."""
    media = headers.get("content-type", "").partition(";")[0].strip().lower()
    encoding = headers.get("content-encoding", "")
    form, body = "images", b""  # type: str, Body | list[bytes]
    if media == "multipart/form-data":
        body = await _files(request, settings)
    else:
        body = await body_of(request)
        if media.startswith("image/"):
            body = [bytes(body)]
        elif media == "application/octet-stream" and body.startswith(codecs.NPY_MAGIC):
            form = "npy"
        elif media in READ:
            form = READ[media]
        else:
            raise errors.UnsupportedMedia(
                f"a body of type {media!r} is not read: send {', '.join(filter(None, READ))}, multipart/form-data or image/png"
            )
    if form == "images" and encoding not in ("", "identity"):
        raise errors.UnsupportedMedia(
            f"images in {encoding[:40]!r} encoding are not read: they are compressed already, send them as they are"
        )
    name = headers.get(REQUEST, "")
    return Task(form, body, encoding, options, answer, caller, name if name.isprintable() and len(name) <= LONGEST_REQUEST else "")


async def body_of(request: Request) -> Body:
    """The body in one piece of memory: as it came where it came at once, else each part put in its place."""
    message = await request.receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        whole: bytes = message.get("body", b"")
        return whole
    announced = request.headers.get("content-length", "")
    body, end = bytearray(int(announced) if announced.isdigit() else 0), 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        body[end : end + len(part)] = part
        end += len(part)
        if not message.get("more_body", False):
            return body
        message = await request.receive()


async def _files(request: Request, settings: Settings) -> list[bytes]:
    try:
        async with request.form(max_files=settings.max_rows, max_part_size=settings.max_body_bytes) as form:
            return [await part.read() for _, part in form.multi_items() if isinstance(part, UploadFile)]
    except HTTPException as error:
        if error.status_code != 400:  # a body over the limit is refused as such
            raise
        raise errors.InvalidInput(f"the form cannot be read: {error.detail}", "#") from None


def terms_of(options: Options) -> Terms:
    """Options as ``engine.score`` takes them."""
    by = options.attribute_by if options.attribute else None
    return Terms(options.alpha, options.fdr, options.tail is not None, by, options.chi_square)


def answer(loaded: Loaded, verdicts: Verdicts, options: Options) -> dict[str, Any]:
    """The answer of ``:score`` as plain data."""
    return Answer.of(loaded, verdicts, options).plain()
