"""The JSON of updates and of differences: what a request may say, checked as far as can be before the work, and the order that it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, StrictInt, StrictStr, ValidationError

from service import errors
from service.features import Batch, Progress
from service.jobs.schemas import FitOptions, check_data, check_inline, json_object
from service.problems import explained
from service.schemas import Schema
from service.scoring import codecs
from service.settings import MIB, Settings
from service.sources import Data, Losses, open_source, whole
from service.store import Store
from service.updates.successors import Order, Reader
from service.uploads import data_sets

KIND = "update"
MOST_MERGED = 20

T = TypeVar("T")


class RowsOptions(Schema):
    """Rows that are added or forgotten, but for those that stand in the request."""

    data: str | None = Field(
        None, max_length=4096, description="Absolute path or URL, under a root of FARFIELD_DATA_ROOTS; instead of `rows`."
    )
    classes: list[StrictInt] | list[StrictStr] | str | None = Field(
        None,
        description="The class of each row, where the detector learns them: a list beside `rows`; a column, array or file beside `data`.",
    )


class UpdateOptions(Schema):
    """All that a request to update can say but the rows themselves. What is done, is done in the order of the members from `forget` on."""

    version: int | str | None = Field(None, description="Number or alias of the version to start from; the default version without it.")
    forget: RowsOptions | None = Field(None, description="Rows to take out, of those learned and of those held out.")
    merge: list[str] = Field([], max_length=MOST_MERGED, description="Versions, NAME:NUMBER, of which the rows are added.")
    half_life: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Rows added after which the earlier ones count half; needs `add`."
    )
    add: RowsOptions | None = Field(None, description="Rows to learn, of which the share that the fit held out is held out.")
    alias: str | None = Field(None, description="Alias to point at the new version, if it is then where it is now.")


class UpdateJob(UpdateOptions):
    """An update as a job keeps it, beside one array with all rows of the request."""

    inline: dict[Literal["add", "forget"], int] = Field({}, description="How many of the rows are for what, in this order.")


class RowsRequest(RowsOptions):
    rows: list[list[float]] | None = Field(None, description="The rows, instead of `data`; up to FARFIELD_MAX_INLINE_BYTES in all.")


class UpdateRequest(UpdateOptions):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"version": "champion", "add": {"data": "/data/july.parquet"}, "alias": "champion"}}
    )

    forget: RowsRequest | None = None
    add: RowsRequest | None = None


class FeatureShiftAnswer(Schema):
    feature: str
    older: float = Field(description="Its mean.")
    newer: float
    standard_deviations: float | None = Field(description="Of the older version; null where the feature never varied in it.")


class ShiftAnswer(Schema):
    part: str = Field(description="The detector, and its level where it has several.")
    mean_shift: float | None = Field(
        description="Mahalanobis length of the shift of the mean under the older covariance; null where unknown."
    )
    covariance_change: float | None = Field(
        description="Frobenius norm of the change of the covariance over that of the older one, in older standard deviations; or null."
    )
    effective_rows: tuple[float, float] | None = Field(
        description="Rows of equal weight that are as good as those learned, older and newer."
    )
    features: list[FeatureShiftAnswer] = Field(description="Those that moved farthest.")


class DifferenceAnswer(Schema):
    changes: dict[str, tuple[Any, Any]] = Field(description="What differs of the recipe and the numbers, older and newer.")
    shifts: list[ShiftAnswer]
    golden_p_values: list[tuple[float, float]] | None = Field(
        description="Of the older version's golden rows, by the older and by the newer; null where the newer cannot score them."
    )


def parsed(body: bytes, settings: Settings) -> tuple[UpdateJob, NDArray[np.float64] | None]:
    """What a body asks for, and the rows that stand in it. Raises InvalidInput or TooLarge, naming the place."""
    members = json_object(body)
    given = {
        part: members[part].pop("rows") for part in ("add", "forget") if isinstance(members.get(part), dict) and "rows" in members[part]
    }
    try:
        options = UpdateOptions.model_validate(members)
    except ValidationError as error:
        first = error.errors()[0]
        place = "/".join(map(str, first["loc"]))
        raise errors.InvalidInput(f"{place}: {explained(first)}", f"#/{place}") from None
    rows = {part: _at(part, partial(_inline, getattr(options, part), lists, settings)) for part, lists in given.items()}
    for part in ("add", "forget"):
        place = getattr(options, part)
        if place and part not in rows:
            _at(part, partial(_check_place, place, settings))
    widths = {found.shape[1] for found in rows.values()}
    if len(widths) > 1:
        raise errors.InvalidInput(
            f"rows to add and to forget have {sorted(widths)} features: one detector takes one number", "#/forget/rows"
        )
    order(UpdateJob(**options.model_dump()), settings, bytes).check()
    job = UpdateJob(**options.model_dump(), inline={part: len(found) for part, found in rows.items()})  # type: ignore[misc]
    together = np.concatenate(list(rows.values())) if rows else None
    if together is not None:
        check_inline(FitOptions.model_validate({}), together, settings)
    return job, together


def order(
    job: UpdateJob,
    settings: Settings,
    rows: Callable[[], bytes],
    progress: Progress = lambda phase, done, total: None,
    store: Store | None = None,
) -> Order:
    """The order that a job stands for; ``rows`` gives those of the request as an .npy file, and ``store`` has uploads."""

    def reader(part: Literal["add", "forget"], start: int) -> Reader | None:
        place: RowsOptions | None = getattr(job, part)
        if place is None:
            return None
        if place.data is None:
            return lambda names: _sent(place, rows, start, start + job.inline.get(part, 0))
        return lambda names: _at(part, lambda: _read(place, names, settings, progress, store))

    return Order(job.version, reader("forget", job.inline.get("add", 0)), tuple(job.merge), job.half_life, reader("add", 0), job.alias)


def _inline(place: RowsOptions, lists: Any, settings: Settings) -> NDArray[np.float64]:
    if place.data is not None:
        raise errors.InvalidInput('give the rows either as "rows" or, by path or URL, as "data"', "#/data")
    rows = codecs.rows_of_json(lists, settings).rows
    assert rows is not None  # noqa: S101
    check_inline(FitOptions.model_validate({"classes": place.classes}), rows, settings)
    return rows


def _check_place(place: RowsOptions, settings: Settings) -> None:
    if place.data is None:
        raise errors.InvalidInput('give the rows either as "rows" or, by path or URL, as "data"', "#/rows")
    check_data(FitOptions.model_validate(place.model_dump()), settings)


def _sent(place: RowsOptions, rows: Callable[[], bytes], start: int, end: int) -> Data:
    classes = None if place.classes is None else np.array(place.classes)
    return Data(Batch(rows=codecs.parse_npy(rows())[start:end]), "rows in a request", labels=classes)


def _read(place: RowsOptions, names: Sequence[str] | None, settings: Settings, progress: Progress, store: Store | None) -> Data:
    """The rows at a path or URL or of an upload, read whole, so far as this worker's own settings let them be read.

    Of a table the columns are read that hold the features ``names``.
    """
    _check_place(place, settings)
    assert store is not None  # noqa: S101
    labels = place.classes if isinstance(place.classes, str) else None
    with data_sets.readable(store, place.data or "", settings.data_roots) as (places, allow):
        source = open_source(places, features=names, labels=labels, allow=allow)
        if (size := (source.rows or 0) * source.layout.feature_bytes) > settings.fit_memory * MIB:
            raise errors.InvalidInput(
                f"{source.name} has {size // MIB} MiB of rows, and an update holds its rows in memory, up to {settings.fit_memory} MiB of "
                "them (FARFIELD_FIT_MEMORY): give them in several updates, each of the version before",
                "#/data",
            )
        return whole(source, Losses(), progress)


def _at(part: str, check: Callable[[], T]) -> T:
    """What ``check`` gives; the place of what it refuses lies in ``part`` of the request."""
    try:
        return check()
    except (errors.InvalidInput, errors.TooLarge) as error:
        raise type(error)(f"{part}: {error}", f"#/{part}{(error.pointer or '#').removeprefix('#')}") from None
