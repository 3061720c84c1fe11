"""Tables: Parquet by row groups, Arrow IPC and CSV as streams. Columns of numbers, or of lists of numbers."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray
from pyarrow import csv, ipc, parquet

from service.errors import InvalidInput
from service.sources.files import File
from service.sources.losses import Losses
from service.sources.parts import ROW_BYTES, Chunk, Layout, Part, Stretch, Wanted, one_layout, repeated, row_numbers

ARROW_FILE = b"ARROW1"  # begins the form with a footer; the other is a stream
STREAM_BYTES = 2**20  # of a Parquet column, or of a CSV, that is read at a time
BATCHES_PER_CHUNK = 4  # of Parquet, which needs several times the memory of what it decodes at a time
PLACE = re.compile(r"\[\d+\]\Z")  # in the name of a feature, after the column of lists that it is of
Widths = Callable[[str], int | None]  # of the lists of a column, where known


def scan_parquet(files: Sequence[File], wanted: Wanted, losses: Losses) -> Layout:
    """Reads the footers; the width of a column of lists is its number of values over that of its rows."""

    def head(file: File, index: int) -> Layout:
        with file.open() as opened:
            footer = parquet.ParquetFile(opened)
            about = footer.metadata
            groups = [about.row_group(i) for i in range(about.num_row_groups)]
            parts, first = [], 0
            for number, group in enumerate(groups):
                parts.append(Part(f"{file.name}#{number}" if len(groups) > 1 else file.name, index, number, first, group.num_rows))
                first += group.num_rows
            values = {
                group.column(i).path_in_schema.split(".")[0]: (group.column(i).num_values, group.num_rows)
                for group in [group for group in groups if group.num_rows][:1]
                for i in range(about.num_columns)
            }

            def width(name: str) -> int | None:
                count, rows = values.get(name, (0, 0))
                return count // rows if rows else None

            return _layout(file, footer.schema_arrow, wanted, parts, width)

    return one_layout(files, head, losses)


def read_parquet(stretch: Stretch) -> Iterator[Chunk]:
    """Chunks of a row group; a later start decodes what is before it in the group.

    Damage to numbers that are stored as they are is seen only where the file was written with page checksums.
    """
    with stretch.file.open() as opened:
        table = parquet.ParquetFile(opened, buffer_size=STREAM_BYTES, pre_buffer=False, page_checksum_verification=True)
        names = _read_columns(table.schema_arrow, stretch.wanted)
        batches = table.iter_batches(max(1, stretch.rows // BATCHES_PER_CHUNK), [stretch.part.group], names, use_threads=False)
        yield from _chunks(stretch, batches)


def scan_arrow(files: Sequence[File], wanted: Wanted, losses: Losses) -> Layout:
    """Reads the footers and the sizes of the record batches; of a stream, which does not count its rows, the first batch with rows."""

    def head(file: File, index: int) -> Layout:
        with _arrow(file) as (schema, rows, batches):
            first = cache(lambda: next((batch for batch in batches if batch.num_rows), None))

            def width(name: str) -> int | None:
                if rows == 0 or (batch := first()) is None:
                    return None
                lists = batch.column(name)
                return len(lists[0]) if lists[0].is_valid else 0

            count = 0 if rows is None and first() is None else rows
            return _layout(file, schema, wanted, [Part(file.name, index, 0, 0, count)], width)

    return one_layout(files, head, losses)


def read_arrow(stretch: Stretch) -> Iterator[Chunk]:
    """Chunks of a file. A record batch is read whole, so they should be small; those before a later start are read too."""
    with _arrow(stretch.file) as (schema, _, batches):
        names = _read_columns(schema, stretch.wanted)
        yield from _chunks(stretch, (batch.select(names) for batch in batches))


def scan_csv(files: Sequence[File], wanted: Wanted, losses: Losses) -> Layout:
    """Reads the first block of each file, for the names of the columns and what they hold."""

    def head(file: File, index: int) -> Layout:
        with _csv(file, {}) as table:
            if all(_is_number(name) for name in table.schema.names):
                raise InvalidInput(f"the first line of {file.shown} holds numbers: give it one with the names of the columns")
            rows = None if any(batch.num_rows for batch in table) else 0
            return _layout(file, table.schema, wanted, [Part(file.name, index, 0, 0, rows)], lambda name: None)

    return replace(one_layout(files, head, losses), dtype="float64")


def read_csv(stretch: Stretch) -> Iterator[Chunk]:
    """Chunks of a file; a later start reads over all that is before it. Numbers are read in double precision."""
    with _csv(stretch.file, {}) as table:
        schema = table.schema
    names = _read_columns(schema, stretch.wanted)
    values = _value_columns(stretch.file, schema, stretch.wanted)
    doubles = {name: pa.float64() for name in values if not pa.types.is_boolean(schema.field(name).type)}
    with _csv(stretch.file, doubles) as table:
        yield from _chunks(stretch, (batch.select(names) for batch in table))


def begun_csv(file: File, most: int) -> tuple[int, int]:
    """Rows in the first ``most`` bytes of the text of a CSV, and how many bytes of the file, packed or not, these are."""
    with file.open() as opened:
        plain = gzip.GzipFile(fileobj=opened) if file.suffix.endswith(".gz") else opened
        return max(len(plain.read(most).splitlines()) - 1, 0), opened.tell()


@contextmanager
def _csv(file: File, types: dict[str, pa.DataType]) -> Iterator[Any]:
    with file.open() as opened:
        plain = pa.CompressedInputStream(opened, "gzip") if file.suffix.endswith(".gz") else opened
        reading = csv.ReadOptions(use_threads=False, block_size=STREAM_BYTES)
        with csv.open_csv(plain, reading, convert_options=csv.ConvertOptions(column_types=types)) as table:
            yield table


@contextmanager
def _arrow(file: File) -> Iterator[tuple[Any, int | None, Iterator[Any]]]:
    """Schema, number of rows and record batches of a file in either of Arrow's forms; a stream does not count its rows."""
    with pa.OSFile(file.url) if file.local else file.open() as opened:
        counted = opened.read(len(ARROW_FILE)) == ARROW_FILE
        opened.seek(0)
        with (ipc.open_file if counted else ipc.open_stream)(opened) as table:
            if counted:
                yield table.schema, table.count_rows(), map(table.get_batch, range(table.num_record_batches))
            else:
                yield table.schema, None, iter(table)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _value_columns(file: File, schema: pa.Schema, wanted: Wanted) -> list[str]:
    columns, there = _columns(schema, wanted), set(schema.names)
    missing = [name for name in [*columns, *([wanted.key] if wanted.key else [])] if name not in there]
    if missing:
        raise InvalidInput(f"{file.shown} lacks the columns {missing[:5]}; it has {schema.names[:5]}")
    return [name for name in columns if name not in (wanted.labels, wanted.key)]


def _read_columns(schema: pa.Schema, wanted: Wanted) -> list[str]:
    """All columns that are asked for, those of labels and keys with them."""
    beside = [name for name in (wanted.labels, wanted.key) if name is not None and name in schema.names]
    return [*(name for name in _columns(schema, wanted) if name not in beside), *beside]


def _columns(schema: pa.Schema, wanted: Wanted) -> Sequence[str]:
    """Those that are asked for, all by default; for the features ``e[0]`` and ``e[1]`` the column of lists ``e``."""
    if wanted.features is None:
        return wanted.columns or [field.name for field in schema if not wanted.numbers_alone or _holds_numbers(field.type)]
    there = set(schema.names)

    def column(feature: str) -> str:
        lists = PLACE.sub("", feature)
        return lists if feature not in there and lists in there else feature

    return list(dict.fromkeys(map(column, wanted.features)))


def _layout(file: File, schema: pa.Schema, wanted: Wanted, parts: list[Part], width: Widths) -> Layout:
    if len(set(schema.names)) < len(schema.names):
        raise ValueError(f"two columns have the same name: {repeated(schema.names)}")
    values = _value_columns(file, schema, wanted)
    if all(part.rows == 0 for part in parts):
        return Layout(tuple(parts), (len(values),), "float64", tuple(values))
    names: list[str] = []
    single = True
    for name in values:
        kind = schema.field(name).type
        if not _holds_numbers(kind):
            raise InvalidInput(f"column {name!r} of {file.shown} holds {kind}; numbers are needed")
        single &= (kind.value_type if _is_list(kind) else kind) in (pa.float32(), pa.float16())
        count = (kind.list_size if pa.types.is_fixed_size_list(kind) else width(name) or 0) if _is_list(kind) else 1
        if count * 8 > ROW_BYTES:
            raise InvalidInput(f"column {name!r} of {file.shown} has lists of {count} numbers; at most {ROW_BYTES // 8} are read")
        names.extend((f"{name}[{i}]" for i in range(count)) if _is_list(kind) else [name])
    if wanted.columns and (twice := repeated(wanted.columns)):
        raise InvalidInput(f"the columns {twice} are asked for more than once")
    if len(set(names)) < len(names):
        raise InvalidInput(f"a column of {file.shown} has the name of a number in a column of lists: {repeated(names)}")
    if wanted.features and (more := set(names) - set(wanted.features)):
        raise InvalidInput(f"{file.shown} holds {[name for name in names if name in more][:5]}, on which the detector was not fitted")
    if not names:
        beside = [name for name in (wanted.labels, wanted.key) if name]
        raise InvalidInput(f"{file.shown} has no column of numbers{f' besides {beside}' if beside else ''}")
    if wanted.key and not (_is_text(schema.field(wanted.key).type) or pa.types.is_integer(schema.field(wanted.key).type)):
        raise InvalidInput(
            f"key column {wanted.key!r} of {file.shown} holds {schema.field(wanted.key).type}; integers or strings are needed"
        )
    return Layout(tuple(parts), (len(names),), "float32" if single else "float64", tuple(names), wanted.labels in schema.names)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _holds_numbers(kind: pa.DataType) -> bool:
    """One in each row, or a list of them; true and false count as numbers where they are not in lists."""
    number = kind.value_type if _is_list(kind) else kind
    return bool(pa.types.is_integer(number) or pa.types.is_floating(number) or pa.types.is_boolean(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _chunks(stretch: Stretch, batches: Iterator[pa.RecordBatch]) -> Iterator[Chunk]:
    """The rows of ``batches`` from the stretch's start on, divided anew."""
    over, start, held = stretch.start, stretch.start, 0
    waiting: list[pa.RecordBatch] = []
    for batch in batches:
        skipped = min(over, batch.num_rows)
        over, at = over - skipped, skipped
        while at < batch.num_rows:
            piece = batch.slice(at, stretch.rows - held)
            waiting.append(piece)
            at, held = at + piece.num_rows, held + piece.num_rows
            if held == stretch.rows:
                yield _chunk(stretch, pa.Table.from_batches(waiting), start)
                start, held, waiting = start + held, 0, []
    if waiting:
        yield _chunk(stretch, pa.Table.from_batches(waiting), start)


def _chunk(stretch: Stretch, table: pa.Table, start: int) -> Chunk:
    file, wanted, layout, part = stretch.file, stretch.wanted, stretch.layout, stretch.part
    for name in table.column_names:
        if table[name].null_count:
            row = part.first + start + int(np.argmax(table[name].is_null().to_numpy()))
            raise InvalidInput(f"column {name!r} of {file.shown} has {table[name].null_count} empty cells, the first in row {row}")
    values = _value_columns(file, table.schema, wanted)
    rows = np.empty((table.num_rows, *(layout.shape or ())), layout.dtype)
    at = 0
    for name in values:
        column = table[name]
        if _is_list(column.type):
            block = _lists(column.combine_chunks(), name, file, part.first + start)
            width = block.shape[1]
            if at + width > rows.shape[1]:
                raise InvalidInput(f"column {name!r} of {file.shown} has lists of {width} numbers, more than in the first file")
            rows[:, at : at + width] = block
            at += width
        else:
            rows[:, at] = column.to_numpy()
            at += 1
    if at != rows.shape[1]:
        raise InvalidInput(f"{file.shown} has {at} numbers in row {part.first + start}; {rows.shape[1]} were expected")
    end = start + table.num_rows
    keys: Any = row_numbers(part, start, end)
    if wanted.key:
        column = table[wanted.key]
        keys = column.to_pylist() if _is_text(column.type) else column.to_numpy()
    return Chunk(stretch.number, start, end, keys, rows, labels=table[wanted.labels].to_numpy() if layout.labelled else None)


def _lists(column: Any, name: str, file: File, first: int) -> NDArray[Any]:
    """A column of lists (n, width)."""
    array = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
    lengths = pa.compute.list_value_length(array).to_numpy()
    odd = np.flatnonzero(lengths != lengths[0])
    if len(odd):
        raise InvalidInput(
            f"column {name!r} of {file.shown} has {lengths[odd[0]]} numbers in row {first + int(odd[0])} and {lengths[0]} in row {first}"
        )
    flat = array.flatten()
    if flat.null_count:
        row = first + int(np.argmax(flat.is_null().to_numpy(zero_copy_only=False))) // int(lengths[0])
        raise InvalidInput(f"column {name!r} of {file.shown} has {flat.null_count} empty cells in its lists, the first in row {row}")
    return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(len(array), int(lengths[0]))
