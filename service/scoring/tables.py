"""Rows in the binary forms of tables and tensors, read in place where the form allows it: Arrow IPC streams and safetensors."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from service.errors import InvalidInput

LONGEST_HEADER = 65_536  # bytes of the JSON of a safetensors body
TENSOR = "rows"
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip


def rows_of_safetensors(body: bytes | bytearray) -> NDArray[Any]:
    """The tensor ``rows``, or the only one, as a view of ``body``."""
    size = int.from_bytes(body[:8], "little")
    if len(body) < 8 or size > min(LONGEST_HEADER, len(body) - 8):
        raise InvalidInput("the body is not safetensors: its header is cut off, or too long", "#")
    try:
        header = orjson.loads(body[8 : 8 + size])
        header.pop("__metadata__", None)
        name = TENSOR if TENSOR in header or len(header) != 1 else next(iter(header))
        dtype, shape, (start, end) = (header[name][key] for key in ("dtype", "shape", "data_offsets"))
        expected = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
        sound = all(type(number) is int and 0 <= number < 2**62 for number in (*shape, start, end))
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError):
        raise InvalidInput(f"the body is not safetensors with a tensor {TENSOR!r} of one of {', '.join(DTYPES)}", "#") from None
    if not sound or end - start != expected or end > len(body) - 8 - size:
        raise InvalidInput(f"tensor {name[:80]!r} does not lie within the body as its header says: {dtype} {shape}", "#/rows")
    if not expected:
        raise InvalidInput(f"the tensor is empty, of shape {shape}: give at least one row, of at least one feature", "#/rows")
    return np.frombuffer(body, DTYPES[dtype], math.prod(shape), 8 + size + start).reshape(shape)


def rows_of_arrow(body: bytes | bytearray, names: list[str] | None) -> NDArray[Any]:
    """Rows (n, d) of an Arrow IPC stream: one column of lists of a fixed size, or a column of numbers for each feature.

    Columns of lists are a view of ``body`` where they come in one batch. Others are brought into the order of ``names``, where
    the version has names.
    """
    try:
        schema, batches = _batches(body)
    except (pa.ArrowException, UnicodeDecodeError, struct.error, OSError, EOFError) as error:
        raise InvalidInput(f"the body is not an Arrow IPC stream: {str(error)[:200]}", "#") from None
    if len(schema) == 1 and pa.types.is_fixed_size_list(schema.field(0).type):
        return _rows_of_lists(schema.field(0), batches)
    return _rows_of_columns(_order(schema, names), schema, batches)


def _batches(body: bytes | bytearray) -> tuple[pa.Schema, list[pa.RecordBatch]]:
    """Batches over the memory of ``body``, in which nothing is compressed: a small body could announce any amount of memory."""
    source = pa.BufferReader(pa.py_buffer(body))
    schema = pa.ipc.read_schema(pa.ipc.read_message(source))
    for name, field in zip(schema.names, schema, strict=True):  # a name that is no text raises here
        kind = field.type.value_type if pa.types.is_fixed_size_list(field.type) else field.type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            raise InvalidInput(f"column {name[:80]!r} holds {str(field.type)[:80]}; numbers are needed", "#/rows")
    batches = []
    while source.tell() < source.size():
        try:
            message = pa.ipc.read_message(source)
        except EOFError:  # the mark at the end of a stream
            break
        if _is_compressed(memoryview(message.metadata)):
            raise InvalidInput(
                "buffers of the Arrow stream are compressed: send them plain, the whole body with Content-Encoding: zstd", "#"
            )
        batch = pa.ipc.read_record_batch(message, schema)
        batch.validate(full=True)
        batches.append(batch)
    if not sum(batch.num_rows for batch in batches):
        raise InvalidInput("the Arrow stream holds no row: give at least one", "#/rows")
    return schema, batches


def _is_compressed(metadata: memoryview) -> bool:
    """Whether the fourth field of a record batch is there: its compression (Message.fbs of Arrow, read as flatbuffers lay it out)."""

    def field(table: int, index: int) -> int:
        """Place of a field of a table, 0 where it is not there."""
        layout = table - struct.unpack_from("<i", metadata, table)[0]
        (size,) = struct.unpack_from("<H", metadata, layout)
        offset = 4 + 2 * index
        found: int = struct.unpack_from("<H", metadata, layout + offset)[0] if offset < size else 0
        return table + found if found else 0

    def pointed(place: int) -> int:
        found: int = place + struct.unpack_from("<I", metadata, place)[0]
        return found

    header = field(pointed(0), 2)
    return bool(header and field(pointed(header), 3))


def _rows_of_lists(field: pa.Field, batches: list[pa.RecordBatch]) -> NDArray[Any]:
    width = field.type.list_size
    if width == 0:
        raise InvalidInput(f"the lists of column {field.name[:80]!r} are empty: give at least one feature", "#/rows/0")
    parts, before = [], 0
    for batch in batches:
        column = batch.column(0)
        _refuse_null(column, field.name, before)
        values = column.flatten()
        if values.null_count:
            place = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
            row, feature = before + place // width, place % width
            raise InvalidInput(f"row {row}, feature {feature} is null; a number is needed", f"#/rows/{row}/{feature}")
        parts.append(_numbers(values).reshape(-1, width))
        before += batch.num_rows
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _rows_of_columns(order: list[int], schema: pa.Schema, batches: list[pa.RecordBatch]) -> NDArray[Any]:
    kinds = {schema.field(index).type for index in order}
    if any(pa.types.is_fixed_size_list(kind) for kind in kinds):
        raise InvalidInput("there are columns beside one of lists: send the lists alone, or a column of numbers for each feature", "#/rows")
    rows = np.empty((sum(batch.num_rows for batch in batches), len(order)), np.float32 if kinds == {pa.float32()} else np.float64)
    before = 0
    for batch in batches:
        for place, index in enumerate(order):
            column = batch.column(index)
            _refuse_null(column, schema.field(index).name, before, place)
            rows[before : before + batch.num_rows, place] = _numbers(column)
        before += batch.num_rows
    return rows


def _order(schema: pa.Schema, names: list[str] | None) -> list[int]:
    """Which column is which feature. Raises InvalidInput where a feature has none or two, or a column is no feature."""
    if names is None:
        return list(range(len(schema)))
    given = schema.names
    if missing := [name for name in names if given.count(name) != 1]:
        what = "comes twice" if missing[0] in given else "is missing"
        raise InvalidInput(f"column {missing[0][:80]!r} {what}: a column for each feature of this version is needed", "#/rows")
    if others := [name for name in given if name not in set(names)]:
        raise InvalidInput(f"column {others[0][:80]!r} is no feature of this version", "#/rows")
    return [given.index(name) for name in names]


def _refuse_null(column: pa.Array, name: str, before: int, place: int | None = None) -> None:
    if column.null_count:
        row = before + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        where = f"#/rows/{row}" if place is None else f"#/rows/{row}/{place}"
        raise InvalidInput(f"row {row} of column {name[:80]!r} is null; a number is needed", where)


def _numbers(column: pa.Array) -> NDArray[Any]:
    found: NDArray[Any] = column.to_numpy(zero_copy_only=not pa.types.is_boolean(column.type))
    return found
