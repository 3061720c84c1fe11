"""Request bodies to batches: JSON, ``.npy``, images, and what ``service.scoring.tables`` reads, checked before any of it is believed."""

from __future__ import annotations

import io
import json
import math
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
import simdjson
from numpy.typing import NDArray

from service.errors import InvalidInput, TooLarge
from service.features import Batch
from service.settings import Settings

NPY_MAGIC = b"\x93NUMPY"
LONGEST_HEADER = 1024  # bytes of an .npy header
LARGEST_SIZE = 2**62  # of one axis
OPENING_BRACKET = ord("[")
LONGEST_REASON = 200  # characters

Body = bytes | bytearray


def batch_of_json(body: Body, settings: Settings) -> tuple[Batch, dict[str, Any]]:
    """The rows of a JSON object ``{"rows": [[…], …]}``, and its other members."""
    if (found := _usual_json(body, settings)) is not None:
        return found
    rows, others = parse_json(body)
    return rows_of_json(rows, settings), others


def _usual_json(body: Body, settings: Settings) -> tuple[Batch, dict[str, Any]] | None:
    """The same from the parser straight into an array, for a body that is as it should be, and simple besides.

    None for any other one. Numbers get the same bits either way.
    """
    try:
        document: Any = simdjson.Parser().parse(body)
        names = list(document.keys())
        rows = document["rows"]
        width = len(rows[0])
        others = {name: document[name] for name in names if name != "rows"}
        if len(set(names)) < len(names) or any(len(row) != width for row in rows):
            return None
        # A row within a row would be flattened, and seen only here; brackets in a string lead to the slow way for nothing.
        if not width or np.count_nonzero(np.frombuffer(body, np.uint8) == OPENING_BRACKET) != len(rows) + 1:
            return None
        _check_size(len(rows), width, settings)
        array = np.frombuffer(rows.as_buffer(of_type="d"))
    except (ValueError, TypeError, AttributeError, LookupError, RuntimeError):
        return None
    return Batch(rows=array.reshape(len(rows), width)), others


def parse_json(body: Body) -> tuple[Any, dict[str, Any]]:
    """``rows`` as they stand in a JSON object, and its other members."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        data = _with_numbers_beyond_json(body, error)
    if not isinstance(data, dict) or "rows" not in data:
        raise InvalidInput('the body must be an object with a member "rows": {"rows": [[0.1, 0.2], [0.3, 0.4]]}', "#/rows")
    return data.pop("rows"), data


def _with_numbers_beyond_json(body: Body, error: orjson.JSONDecodeError) -> Any:
    """A body that fails as JSON for its NaN, Infinity or 1e999 alone: read, so that the row and feature can be named."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidInput(f"the body is not JSON: {error}", "#") from None


def rows_of_json(rows: Any, settings: Settings) -> Batch:
    """Rows from nested lists of numbers; the first thing that is not as it should be is named."""
    if not isinstance(rows, list):
        raise InvalidInput(f"rows must be a list of lists of numbers, not {_kind(rows)}", "#/rows")
    if not rows:
        raise InvalidInput("rows is empty: give at least one row", "#/rows")
    width = len(rows[0]) if isinstance(rows[0], list) else 0
    _check_size(len(rows), width, settings)
    for index, row in enumerate(rows):
        if not isinstance(row, list):
            raise InvalidInput(f"row {index} must be a list of numbers, not {_kind(row)}", f"#/rows/{index}")
        if not row:
            raise InvalidInput(f"row {index} is empty; a list of numbers is needed", f"#/rows/{index}")
        if len(row) != width:
            raise InvalidInput(f"row {index} has {len(row)} numbers where row 0 has {width}", f"#/rows/{index}")
    try:
        array = np.array(rows, dtype=object if _mixed(rows) else np.float64)
    except (ValueError, TypeError, OverflowError):
        array = np.empty(0, dtype=object)
    if array.dtype == object:
        _name_the_odd_one(rows)
    return Batch(rows=array)


def batch_of_npy(body: Body, settings: Settings) -> Batch:
    """Rows [n, d], or images [n, height, width, 3] of bytes, read in place from the body."""
    array = parse_npy(body)
    if array.ndim == 4 and array.dtype == np.uint8:
        if array.shape[3] != 3 or 0 in array.shape[1:3]:
            raise InvalidInput(f"the array has shape {list(array.shape)}; images are [n, height, width, 3]", "#/rows")
        if array.shape[1] * array.shape[2] > settings.max_pixels:
            raise TooLarge(f"images of {array.shape[1]} x {array.shape[2]} pixels are over the limit of {settings.max_pixels}")
        _check_size(len(array), 1, settings)
        return Batch(images=list(array))
    return batch_of_array(array, settings)


def batch_of_array(array: NDArray[Any], settings: Settings) -> Batch:
    """Rows [n, d] of whatever form."""
    if array.ndim != 2:
        raise InvalidInput(f"the array has shape {list(array.shape)}; [rows, features] is needed", "#/rows")
    _check_size(array.shape[0], array.shape[1], settings)
    return Batch(rows=array)


def parse_npy(body: Body) -> NDArray[Any]:
    """The array of an ``.npy`` body, without a copy. Its size is compared with its header before it is touched."""
    before, size = (10, body[8:10]) if body[6:7] == b"\1" else (12, body[8:12])
    try:
        shape, fortran, dtype, start = _npy_header(bytes(body[: before + min(int.from_bytes(size, "little"), LONGEST_HEADER + 1)]))
    except Exception as error:  # noqa: BLE001  # numpy lets through whatever Python's parser and tokenizer raise
        raise InvalidInput(f"the body is not an .npy file: {str(error)[:LONGEST_REASON]}", "#") from None
    if not all(type(size) is int and 0 <= size <= LARGEST_SIZE for size in shape):
        raise InvalidInput("the .npy announces a shape that no array can have", "#")
    if 0 in shape:
        raise InvalidInput(f"the array is empty, of shape {list(shape)}: give at least one row, of at least one feature", "#/rows")
    if dtype.kind not in "fiub":
        raise InvalidInput(f"the .npy holds {dtype}; numbers are needed (objects are never read)", "#/rows")
    expected, found = math.prod(shape) * dtype.itemsize, len(body) - start
    if expected != found:
        raise InvalidInput(f"the .npy announces {expected} bytes of data, {dtype} {list(shape)}, and {found} came", "#")
    return np.frombuffer(body, dtype, offset=start).reshape(shape, order="F" if fortran else "C")


@lru_cache(256)  # the same client sends the same header; numpy parses it by Python's own parser
def _npy_header(begin: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether in Fortran order, type, and where the data begin. A header of numbers is short: long ones are not parsed at all."""
    stream = io.BytesIO(begin)
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        header = np.lib.format.read_array_header_1_0(stream, LONGEST_HEADER)
    elif version == (2, 0):
        header = np.lib.format.read_array_header_2_0(stream, LONGEST_HEADER)
    else:
        raise ValueError(f"format version {version[0]}.{version[1]} is not read, only 1.0 and 2.0")
    return *header, stream.tell()


def batch_of_images(images: list[bytes], settings: Settings) -> Batch:
    if not images:
        raise InvalidInput("there is no image in the form: send each as a file, in any field", "#/images")
    _check_size(len(images), 1, settings)
    return Batch(images=images)


def _check_size(rows: int, width: int, settings: Settings) -> None:
    if rows > settings.max_rows:
        raise TooLarge(f"{rows} rows in one request; the limit is {settings.max_rows}", "#/rows")
    if width > settings.max_features:
        raise TooLarge(f"{width} features in a row; the limit is {settings.max_features}", "#/rows/0")


def _mixed(rows: list[list[Any]]) -> bool:
    """Whether any value is something that numpy would quietly turn into a number."""
    return any(isinstance(value, str | bool) or value is None for row in rows for value in row)


def _name_the_odd_one(rows: list[list[Any]]) -> None:
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InvalidInput(f"row {i}, feature {j} is {_kind(value)}; a number is needed", f"#/rows/{i}/{j}")
    raise InvalidInput("rows hold a number too large for float64", "#/rows")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
