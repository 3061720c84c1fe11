"""The JSON of jobs: what a request to fit may say, checked as far as can be before the work, and what is told of a job."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, StrictInt, StrictStr, ValidationError

from detectors import REGISTRY
from models import BUNDLED
from service import errors
from service.jobs.queue import Job
from service.names import Method, checked_alias
from service.problems import explained
from service.recipe import MOST_FOLDS, Recipe, check, method_for, split
from service.schemas import Schema
from service.scoring import codecs
from service.settings import Settings
from service.sources.files import checked
from service.uploads import data_sets

KIND = "fit"

Place = Annotated[str, Field(min_length=1, max_length=4096)]


class FitOptions(Schema):
    """All that a request to fit can say but the rows themselves."""

    type: str = Field("gaussian", description=f"Type of the detector, or several joined by +: {', '.join(REGISTRY)}.")
    parameters: dict[str, Any] = Field({}, description="Parameters of the detector.")
    sum_levels: bool = Field(False, description="Model each tap by itself and add the scores up, instead of all together.")
    data: Place | Annotated[list[Place], Field(min_length=1, max_length=10_000)] | None = Field(
        None,
        description="Absolute path, URL or glob of the data, or several, under a root of FARFIELD_DATA_ROOTS, or `upload:ID`; "
        "instead of `rows`.",
    )
    columns: list[str] | None = Field(None, description="Columns of the table to learn, in this order; all by default.")
    key: str | None = Field(None, description="Column that tells rows apart; by their hashes rows are held out.")
    on_error: Literal["fail", "skip"] = Field("fail", description="Whether a file, part or image that cannot be read ends the fit.")
    most_losses: int = Field(100, ge=0, description="How many of them may be left out with `skip`.")
    classes: list[StrictInt] | list[StrictStr] | str | None = Field(
        None, description="The class of each row: a list beside `rows`; a column, an array or the path of an .npy file beside `data`."
    )
    extractor: str | None = Field(None, description=f"A bundled network: {', '.join(BUNDLED)}. Images get one without asking.")
    pixels: str | None = Field(None, description="Range of pixel values that the network takes, for one that is not bundled.")
    taps: list[str] = Field([], description="Tensors to read features from, TENSOR or TENSOR=mean|max|none.")
    method: Method | None = Field(None, description="Method of calibration; `combined` for several types, else `split-conformal`.")
    folds: int = Field(5, ge=2, le=MOST_FOLDS, description="Folds of cross-conformal calibration.")
    trim: float = Field(0.0, ge=0, le=0.5, description="Share of the highest calibration scores to leave out.")
    calibrate: float = Field(0.2, gt=0, lt=1, description="Share of the rows held out for calibration.")
    alpha: float = Field(0.01, gt=0, lt=1, description="Accepted false-alarm rate.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the split into fit and calibration rows.")
    alias: str | None = Field(None, description="Alias to point at the new version.")

    def recipe(self) -> Recipe:
        return Recipe(
            self.type,
            self.parameters,
            self.sum_levels,
            self.calibrate,
            self.alpha,
            self.seed,
            self.method or method_for(self.type),
            self.folds,
            self.trim,
        )


class FitRequest(FitOptions):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"data": "/data/pumps.parquet", "alpha": 0.01, "alias": "champion"}}
    )

    rows: list[list[float]] | None = Field(None, description="Rows to fit on, instead of `data`; up to FARFIELD_MAX_INLINE_BYTES.")


class JobProgress(Schema):
    phase: str
    done: int
    total: int = Field(description="0 where it is not known.")
    rate: float = Field(description="Units per second, of late.")
    seconds_left: float | None = Field(description="Of this phase, at this rate; null where it is not known.")


class JobAnswer(Schema):
    id: str
    kind: str
    detector: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    cancelling: bool = Field(description="Whether it was asked to end and has not yet.")
    created: str
    started: str | None
    ended: str | None
    attempts: int = Field(description="How often a worker took it.")
    progress: JobProgress
    request: dict[str, Any] = Field(description="What was asked for, without the rows.")
    result: dict[str, Any] | None = Field(description="Of a done job: the version that it published.")
    error: str | None = Field(description="Why it failed, or why its last attempt did.")


class JobList(Schema):
    jobs: list[JobAnswer]


def parsed(body: bytes, settings: Settings) -> tuple[FitOptions, NDArray[np.float64] | None]:
    """What a body asks for and its rows, checked as far as can be before the work. Raises InvalidInput or TooLarge, naming the place."""
    given, members = codecs.parse_json(body) if b'"rows"' in body else (None, json_object(body))
    try:
        options = FitOptions.model_validate(members)
    except ValidationError as error:
        first = error.errors()[0]
        raise errors.InvalidInput(f"{first['loc'][0]}: {explained(first)}", f"#/{first['loc'][0]}") from None
    if (given is None) == (options.data is None):
        raise errors.InvalidInput('give the data either as "rows" or, by path or URL, as "data"', "#/data" if options.data else "#/rows")
    rows = None
    if given is not None:
        rows = codecs.rows_of_json(given, settings).rows
        assert rows is not None  # noqa: S101
        check_inline(options, rows, settings)
    else:
        check_data(options, settings)
    _check_options(options)
    if rows is not None:
        split(len(rows), options.recipe())
    return options, rows


def check_data(options: FitOptions, settings: Settings) -> None:
    """Raises InvalidInput unless data and classes lie where ``data_roots`` lets them be read, or the data were uploaded."""
    places = [options.data] if isinstance(options.data, str) else options.data or [""]
    if isinstance(options.classes, list):
        raise errors.InvalidInput("classes beside data are the name of a column or array, or the path of an .npy file", "#/classes")
    if data_sets.named(places[0]) is not None:
        if len(places) > 1:
            raise errors.InvalidInput("an upload is fitted on by itself: name it alone", "#/data")
        return
    if not settings.data_roots:
        raise errors.InvalidInput("no data are read by path or URL here: FARFIELD_DATA_ROOTS names no place; send rows", "#/data")
    for place in places:
        if not place.startswith("/") and "://" not in place:
            raise errors.InvalidInput(f"{place!r} is neither an absolute path nor a URL", "#/data")
        try:
            checked(place, settings.data_roots)
        except errors.InvalidInput as error:
            if "\0" in place:
                raise errors.InvalidInput(str(error), "#/data") from None
            raise errors.InvalidInput(f"{place} is not under any of the places that FARFIELD_DATA_ROOTS lets fits read", "#/data") from None


def npy(rows: NDArray[np.float64]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, rows)
    return stream.getvalue()


def told(job: Job) -> dict[str, Any]:
    """What is told of a job over HTTP and by the command line, as ``JobAnswer`` has it."""
    progress = job.progress
    return {
        "id": job.id,
        "kind": job.kind,
        "detector": job.detector,
        "state": job.state,
        "cancelling": job.cancelling and not job.over,
        "created": _time(job.created),
        "started": _time(job.started),
        "ended": _time(job.ended),
        "attempts": job.attempts,
        "progress": {
            "phase": progress.phase,
            "done": progress.done,
            "total": progress.total,
            "rate": progress.rate,
            "seconds_left": progress.seconds_left,
        },
        "request": _without_classes(job.spec),
        "result": job.result,
        "error": job.error,
    }


def json_object(body: bytes) -> dict[str, Any]:
    """The members of a body that is a JSON object."""
    try:
        members = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise errors.InvalidInput(f"the body is not JSON: {error}", "#") from None
    if not isinstance(members, dict):
        raise errors.InvalidInput('the body must be an object: {"rows": [[0.1, 0.2], [0.3, 0.4]]}', "#")
    return members


def check_inline(options: FitOptions, rows: NDArray[np.float64], settings: Settings) -> None:
    """Raises InvalidInput or TooLarge for rows in a request that are too many, not finite, or not as their classes are."""
    if rows.nbytes > settings.max_inline_bytes:
        raise errors.TooLarge(
            f"{rows.shape[0]} rows x {rows.shape[1]} features are {rows.nbytes} bytes; the limit is {settings.max_inline_bytes}: "
            "put them where the workers can read them, and name the place as data",
            "#/rows",
        )
    if not np.isfinite(rows).all():
        row, column = np.argwhere(~np.isfinite(rows))[0]
        raise errors.InvalidInput(
            f"row {row}, feature {column} is {rows[row, column]}; finite numbers are needed", f"#/rows/{row}/{column}"
        )
    if isinstance(options.classes, str):
        raise errors.InvalidInput("classes beside rows are a list, with one for each row", "#/classes")
    if options.classes is not None and len(options.classes) != len(rows):
        raise errors.InvalidInput(f"there are {len(options.classes)} classes for {len(rows)} rows", "#/classes")
    if options.extractor or options.taps:
        raise errors.InvalidInput("the bundled networks take images, which only data can be: leave out extractor and taps", "#/extractor")


def _check_options(options: FitOptions) -> None:
    check(options.recipe(), labelled=options.classes is not None)
    if options.extractor is not None and options.extractor not in BUNDLED:
        raise errors.InvalidInput(f"there is no bundled network {options.extractor!r}; there are {sorted(BUNDLED)}", "#/extractor")
    if options.alias is not None:
        try:
            checked_alias(options.alias)
        except errors.InvalidInput as error:
            raise errors.InvalidInput(str(error), "#/alias") from None


def _without_classes(spec: dict[str, Any]) -> dict[str, Any]:
    """What was asked for, also of rows to add and to forget, but for lists of classes, which are as long as the rows."""
    told = {name: value for name, value in spec.items() if name != "classes" or not isinstance(value, list)}
    return told | {name: _without_classes(told[name]) for name in ("add", "forget") if told.get(name)}


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
