"""Bodies of the Open Inference Protocol v2 over HTTP: requests to queries, outputs to answers.

A body is JSON, or JSON followed by the binary data of its tensors, or the data of one tensor alone; and each of them may
be compressed.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import orjson

from service.errors import InvalidInput, TooLarge
from service.protocol.query import Form, JsonObject, Query, object_of
from service.protocol.tensors import BYTES, DATATYPES, FORMS, Output, Slot, Tensor, tensor_of_bytes, tensor_of_json
from service.scoring.compression import WINDOWS, decompressed
from service.settings import Settings

FAST = 1  # level of compression
MOST_KNOWN, LONGEST_KNOWN = 256, 1024  # heads that are remembered, and bytes of one


@dataclass(frozen=True, slots=True)
class Answer:
    body: bytes
    header_length: int | None  # of the JSON before compression, where data follow it
    encoding: str | None


@dataclass(frozen=True, slots=True)
class Body:
    """A request as it came, with what its headers say."""

    body: bytes | bytearray
    encoding: str
    header_length: str | None
    accepted: str

    @property
    def size(self) -> int | None:
        return None if self.encoding else len(self.body)

    def query(self, expected: Slot, settings: Settings) -> Query:
        body = decompressed(self.body, self.encoding, settings.max_body_bytes)
        return decode(body, self.header_length, expected, settings.max_json_bytes)

    def answer(self, head: JsonObject, outputs: list[Output]) -> Answer:
        body, length = encode(head, outputs)
        body, encoding = compressed(body, self.accepted)
        return Answer(body, length, encoding)


def compressed(body: bytes, accepted: str) -> tuple[bytes, str | None]:
    """The body in the one encoding that ``Accept-Encoding`` names, and its name.

    HTTP libraries list all that they could read in every request; such a list asks for nothing.
    """
    encoding = accepted.strip().lower()
    if encoding not in WINDOWS:
        return body, None
    packer = zlib.compressobj(FAST, wbits=WINDOWS[encoding])
    return packer.compress(body) + packer.flush(), encoding


def decode(body: bytes | bytearray, header_length: str | None, expected: Slot, json_limit: int) -> Query:
    """The request in a body whose first ``header_length`` bytes are JSON, and all of whose bytes are where that is None.

    With a length of 0 the whole body is the data of the input ``expected``. Arrays of the binary form are views of
    ``body``. Raises InvalidInput, TooLarge or Unsupported.
    """
    view = memoryview(body)
    length = len(body) if header_length is None else _header_length(header_length, len(body))
    if length == 0 and header_length is not None:
        return Query({expected.name: _raw(view, expected)}, binary=True)
    if length > json_limit:
        raise TooLarge(f"{length} bytes of JSON in the request; the limit is {json_limit}: send tensors as binary data")
    behind = _Behind(view[length:])
    form = _known_form(bytes(view[:length])) if behind.data and length <= LONGEST_KNOWN else _form(view[:length])
    query = form.query(behind.tensor)
    if behind.data:
        raise InvalidInput(f"{len(behind.data)} bytes of the body belong to no input", "#")
    return query


def _form(head: memoryview | bytes) -> Form:
    """What the JSON of a request says."""
    try:
        document = orjson.loads(head)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the request is not JSON: {error}", "#") from None
    return Form.of(object_of(document, "the request"))


_known_form = lru_cache(MOST_KNOWN)(_form)  # a client that sends binary data says the same in every request


def encode(head: JsonObject, outputs: list[Output]) -> tuple[bytes, int | None]:
    """The answer with outputs of name, array and whether as binary data; and the length of its JSON if any is binary.

    Raises InvalidInput for numbers that JSON cannot hold.
    """
    entries: list[JsonObject] = []
    behind: list[memoryview] = []
    for name, values, binary in outputs:
        entry: JsonObject = {"name": name, "shape": list(values.shape), "datatype": DATATYPES[values.dtype]}
        contiguous = np.ascontiguousarray(values)
        if binary:
            entry["parameters"] = {"binary_data_size": contiguous.nbytes}
            behind.append(contiguous.data)
        elif not np.isfinite(contiguous).all():
            raise InvalidInput(f"output {name!r} holds numbers that JSON cannot: ask for it as binary data", "#/outputs")
        else:
            entry["data"] = contiguous.ravel()
        entries.append(entry)
    text = orjson.dumps({**head, "outputs": entries}, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join([text, *behind]), len(text)) if behind else (text, None)


def _header_length(text: str, size: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise InvalidInput(f"Inference-Header-Content-Length must be a number of bytes, not {text[:40]!r}", "#")
    if int(text) > size:
        raise InvalidInput(f"Inference-Header-Content-Length is {int(text)}, and the body has {size} bytes", "#")
    return int(text)


def _raw(data: memoryview, expected: Slot) -> Tensor:
    """The input that is the whole body: one element of BYTES, or as many rows as there are."""
    if expected.datatype == BYTES:
        return Tensor(BYTES, (1,), [bytes(data)])
    fixed = [size for size in expected.shape if size != -1]
    if len(fixed) < len(expected.shape) - 1:
        raise InvalidInput(f"a raw body cannot be divided into {list(expected.shape)}: send a request with a shape", "#")
    row = math.prod(fixed) * np.dtype(FORMS[expected.datatype]).itemsize
    if not data or len(data) % row:
        one = f"one row of {expected.datatype} {fixed} takes {row}"
        raise InvalidInput(f"a raw body of {len(data)} bytes holds no whole number of rows: {one}", "#")
    shape = tuple(len(data) // row if size == -1 else size for size in expected.shape)
    return tensor_of_bytes(data, Slot(expected.name, expected.datatype, shape))


class _Behind:
    """What follows the JSON of a body; each input that announces binary data takes its share."""

    def __init__(self, data: memoryview) -> None:
        self.data = data

    def tensor(self, _index: int, item: JsonObject, slot: Slot) -> Tensor:
        size = (item.get("parameters") or {}).get("binary_data_size")
        if size is None:
            return tensor_of_json(item.get("data"), slot)
        if "data" in item or type(size) is not int or not 0 <= size <= len(self.data):
            announced = f"input {slot.name!r} announces {size!r} bytes of binary data"
            raise InvalidInput(f"{announced}{', and has data' * ('data' in item)}; {len(self.data)} are left in the body", "#/inputs")
        data, self.data = self.data[:size], self.data[size:]
        return tensor_of_bytes(data, slot)
