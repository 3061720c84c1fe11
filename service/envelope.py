"""Bodies of the Open Inference Protocol v2 over HTTP: requests to tensors, tensors to answers.

A body is JSON, or JSON followed by the binary data of its tensors, or the data of one tensor alone; and each of them may
be compressed.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from service.errors import InvalidInput, ServiceError, TooLarge, UnsupportedMedia
from service.tensors import BYTES, DATATYPES, FORMS, Slot, Tensor, tensor_of_bytes, tensor_of_json

MOST_DIMENSIONS = 8
WINDOWS = {"gzip": 31, "deflate": 15}  # zlib's name for each encoding of a body
FAST = 1  # level of compression

JsonObject = dict[str, Any]


class Unsupported(ServiceError):
    """A part of the protocol, or of an extension of it, that this server does not offer."""


@dataclass(frozen=True, slots=True)
class Query:
    """An inference request; ``outputs`` says which are asked for, and which of them as binary data."""

    inputs: dict[str, Tensor]
    id: str | None = None
    parameters: JsonObject = field(default_factory=dict)
    outputs: dict[str, bool] | None = None  # None: all that come unasked
    binary: bool = False  # whether outputs that ``outputs`` does not name are binary data


def decompressed(body: bytes, encoding: str, limit: int) -> bytes:
    """A body without its ``Content-Encoding``. Raises TooLarge as soon as it passes ``limit`` bytes.

    >>> decompressed(zlib.compress(bytes(50)), "deflate", 50) == bytes(50)
    True
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in WINDOWS:
        raise UnsupportedMedia(f"a body in {encoding[:40]!r} encoding is not read: send it as it is, or as gzip or deflate")
    unpacker = zlib.decompressobj(WINDOWS[encoding])
    try:
        data = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidInput(f"the body is not {encoding}: {error}", "#") from None
    if len(data) > limit:
        raise TooLarge(f"the {encoding} body unpacks to more than the limit of {limit} bytes")
    if not unpacker.eof or unpacker.unused_data:
        raise InvalidInput(f"the {encoding} body is {'followed by other bytes' if unpacker.eof else 'cut off'}", "#")
    return data


def compressed(body: bytes, accepted: str) -> tuple[bytes, str | None]:
    """The body in the one encoding that ``Accept-Encoding`` names, and its name.

    HTTP libraries list all that they could read in every request; such a list asks for nothing.
    """
    encoding = accepted.strip().lower()
    if encoding not in WINDOWS:
        return body, None
    packer = zlib.compressobj(FAST, wbits=WINDOWS[encoding])
    return packer.compress(body) + packer.flush(), encoding


def decode(body: bytes, header_length: str | None, expected: Slot, json_limit: int) -> Query:
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
    try:
        document = orjson.loads(view[:length])
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the request is not JSON: {error}", "#") from None
    inputs = _inputs(_object(document, "the request").get("inputs"), view[length:])
    parameters = dict(_parameters(document, "the request"))
    binary = _flag(parameters.pop("binary_data_output", False), "binary_data_output")
    identity = document.get("id")
    if not isinstance(identity, str | None):
        raise InvalidInput("id must be a string", "#/id")
    return Query(inputs, identity, parameters, _outputs(document.get("outputs"), binary), binary)


def encode(head: JsonObject, outputs: Sequence[tuple[str, NDArray[Any], bool]]) -> tuple[bytes, int | None]:
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
    return tensor_of_bytes(data, expected.datatype, shape, expected.name)


def _inputs(items: Any, behind: memoryview) -> dict[str, Tensor]:
    """The inputs of a request; ``behind`` is what follows its JSON, and all of it must be theirs."""
    if not isinstance(items, list) or not items:
        raise InvalidInput('the request must have "inputs": a list with an object for each input', "#/inputs")
    found: dict[str, Tensor] = {}
    for index, item in enumerate(items):
        name, datatype, shape = _slot(_object(item, f"input {index}"), index)
        if name in found:
            raise InvalidInput(f"input {name!r} is given twice", "#/inputs")
        parameters = _parameters(item, f"input {name!r}")
        if any(key.startswith("shared_memory") for key in parameters):
            raise Unsupported(f"input {name!r} lies in shared memory, which this server does not read: send the data")
        size = parameters.get("binary_data_size")
        if size is None:
            found[name] = tensor_of_json(item.get("data"), datatype, shape, name)
            continue
        if "data" in item or type(size) is not int or not 0 <= size <= len(behind):
            announced = f"input {name!r} announces {size!r} bytes of binary data"
            raise InvalidInput(f"{announced}{', and has data' * ('data' in item)}; {len(behind)} are left in the body", "#/inputs")
        found[name] = tensor_of_bytes(behind[:size], datatype, shape, name)
        behind = behind[size:]
    if behind:
        raise InvalidInput(f"{len(behind)} bytes of the body belong to no input", "#")
    return found


def _slot(item: JsonObject, index: int) -> tuple[str, str, tuple[int, ...]]:
    name, datatype, shape = item.get("name"), item.get("datatype"), item.get("shape")
    if not isinstance(name, str):
        raise InvalidInput(f"input {index} needs a name", f"#/inputs/{index}/name")
    name = name[:80]
    if not isinstance(datatype, str) or datatype not in {BYTES, *FORMS}:
        known = ", ".join([*FORMS, BYTES])
        raise InvalidInput(f"input {name!r}: datatype must be one of {known}, not {str(datatype)[:40]!r}", f"#/inputs/{index}/datatype")
    if not isinstance(shape, list) or not 0 < len(shape) <= MOST_DIMENSIONS or not all(type(size) is int and size > 0 for size in shape):
        what = f"1 to {MOST_DIMENSIONS} whole numbers of at least 1"
        raise InvalidInput(f"input {name!r}: shape must be a list of {what}, not {str(shape)[:80]}", f"#/inputs/{index}/shape")
    return name, datatype, tuple(shape)


def _outputs(items: Any, binary: bool) -> dict[str, bool] | None:
    if items is None or items == []:
        return None
    if not isinstance(items, list):
        raise InvalidInput("outputs must be a list with an object for each output", "#/outputs")
    asked: dict[str, bool] = {}
    for index, item in enumerate(items):
        name = _object(item, f"output {index}").get("name")
        if not isinstance(name, str):
            raise InvalidInput(f"output {index} needs a name", f"#/outputs/{index}/name")
        parameters = _parameters(item, f"output {name[:80]!r}")
        if any(key == "classification" or key.startswith("shared_memory") for key in parameters):
            raise Unsupported(f"output {name[:80]!r}: this server offers no classification and no shared memory")
        asked[name] = _flag(parameters.get("binary_data", binary), "binary_data")
    return asked


def _object(value: Any, what: str) -> JsonObject:
    if not isinstance(value, dict):
        raise InvalidInput(f"{what} must be a JSON object", "#")
    return value


def _parameters(item: JsonObject, what: str) -> JsonObject:
    found = _object(item.get("parameters") or {}, f"parameters of {what}")
    for key, value in found.items():
        if not isinstance(value, str | int | float):
            raise InvalidInput(f"parameter {key[:80]!r} of {what} must be a string, a number or a boolean", "#/parameters")
    return found


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"{name} must be true or false", "#/parameters")
    return value
