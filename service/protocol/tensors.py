"""Tensors of the Open Inference Protocol v2, from JSON and from binary data.

The protocol's words for sizes and types are believed only after the bytes have been counted: no array is made, and no
loop begun, for a shape that the body does not fill.
"""

from __future__ import annotations

import base64
import math
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidInput

BYTES, BOOL, BFLOAT16 = "BYTES", "BOOL", "BF16"
FORMS = {
    BOOL: "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8", BFLOAT16: "<u2",
}  # fmt: skip  # numpy's form of a datatype on the wire
CODES = {
    BOOL: "b", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q", "INT8": "b", "INT16": "h",
    "INT32": "i", "INT64": "q", "FP32": "d", "FP64": "d",
}  # fmt: skip  # array.array's code for a datatype in JSON: it takes numbers alone, and none beyond its range
DATATYPES = {np.dtype(form): name for name, form in FORMS.items() if name != BFLOAT16}
LENGTH = struct.Struct("<I")  # before each element of BYTES

Output = tuple[str, NDArray[Any], bool]  # name, values, and whether as binary data


@dataclass(frozen=True, slots=True)
class Slot:
    """An input or output as a model's metadata has it; -1 stands for any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def check_count(self, count: int) -> None:
        """Raises InvalidInput unless the shape has ``count`` elements."""
        if count != (needed := math.prod(self.shape)):
            shape = list(self.shape)
            raise InvalidInput(f"input {self.name!r}: data has {count} elements where the shape {shape} has {needed}", "#/inputs")


@dataclass(frozen=True, slots=True)
class Tensor:
    """``data`` is an array of ``shape``, or for BYTES the elements in row-major order."""

    datatype: str
    shape: tuple[int, ...]
    data: NDArray[Any] | list[bytes]


def tensor_of_bytes(data: memoryview, slot: Slot) -> Tensor:
    """A tensor from its binary data, in place; BF16 is widened to float32, and elements of BYTES are copied out."""
    name, datatype, shape = slot.name, slot.datatype, slot.shape
    count = math.prod(shape)
    if datatype == BYTES:
        return Tensor(datatype, shape, _elements(data, count, name))
    form = np.dtype("u1" if datatype == BOOL else FORMS[datatype])
    if count * form.itemsize != len(data):
        needed = f"{datatype} {list(shape)} takes {count * form.itemsize} bytes"
        raise InvalidInput(f"input {name!r}: {needed}, and {len(data)} came", "#/inputs")
    values = np.frombuffer(data, form).reshape(shape)
    if datatype == BFLOAT16:
        values = (values.astype("<u4") << 16).view("<f4")
    return Tensor(datatype, shape, _booleans(values, name) if datatype == BOOL else values)


def tensor_of_json(data: Any, slot: Slot) -> Tensor:
    """A tensor from JSON, nested or flat. Elements of BYTES are base64, because JSON holds no bytes."""
    name, datatype = slot.name, slot.datatype
    if not isinstance(data, list):
        raise InvalidInput(f"input {name!r}: data must be a list, or parameters must have a binary_data_size", "#/inputs")
    if datatype not in CODES and datatype != BYTES:
        raise InvalidInput(f"input {name!r}: {datatype} has no form in JSON: send it as binary data", "#/inputs")
    flat = _flattened(data, slot)
    if datatype == BYTES:
        return Tensor(datatype, slot.shape, [_unpacked(element, index, name) for index, element in enumerate(flat)])
    return tensor_of_numbers(flat, slot)


def tensor_of_numbers(flat: Sequence[Any], slot: Slot) -> Tensor:
    """A tensor from as many elements as its shape has, each of them a number that its datatype can hold."""
    name, datatype = slot.name, slot.datatype
    try:
        numbers = array(CODES[datatype], flat)
    except (TypeError, OverflowError):
        raise InvalidInput(_odd_one(flat, datatype, name), "#/inputs") from None
    values = np.frombuffer(numbers, numbers.typecode).reshape(slot.shape)
    with np.errstate(over="ignore"):
        values = _booleans(values, name) if datatype == BOOL else values.astype(FORMS[datatype], copy=False)
    return Tensor(datatype, slot.shape, values)


def _elements(data: memoryview, count: int, name: str) -> list[bytes]:
    """Elements of BYTES: each is preceded by its length."""
    found: list[bytes] = []
    if count * LENGTH.size > len(data):
        raise InvalidInput(f"input {name!r}: {count} elements do not fit into {len(data)} bytes of data", "#/inputs")
    for index in range(count):
        size = LENGTH.unpack_from(data)[0] if len(data) >= LENGTH.size else None
        if size is None or size > len(data) - LENGTH.size:
            announced = "has no length" if size is None else f"announces {size} bytes"
            raise InvalidInput(f"input {name!r}: element {index} {announced}, and {len(data)} are left with its length", "#/inputs")
        found.append(bytes(data[LENGTH.size : LENGTH.size + size]))
        data = data[LENGTH.size + size :]
    if data:
        raise InvalidInput(f"input {name!r}: {len(data)} bytes follow its {count} elements", "#/inputs")
    return found


def _flattened(data: list[Any], slot: Slot) -> list[Any]:
    """Nested lists in row-major order; those that are flat already as they are."""
    nested = len(slot.shape) > 1 and len(data) > 0 and isinstance(data[0], list)
    for size in slot.shape[1:] if nested else ():
        for index, inner in enumerate(data):
            if not isinstance(inner, list) or len(inner) != size:
                what = f"list {index} of data does not have the {size} elements that its shape says"
                raise InvalidInput(f"input {slot.name!r}: {what}", "#/inputs")
        data = list(chain.from_iterable(data))
    slot.check_count(len(data))
    return data


def _unpacked(element: Any, index: int, name: str) -> bytes:
    try:
        return base64.b64decode(element, validate=True)
    except (TypeError, ValueError):
        raise InvalidInput(
            f"input {name!r}: element {index} of BYTES must be base64 in JSON, or be sent as binary data", "#/inputs"
        ) from None


def _booleans(values: NDArray[Any], name: str) -> NDArray[np.bool_]:
    if ((values < 0) | (values > 1)).any():
        raise InvalidInput(f"input {name!r}: elements of BOOL are 0 or 1", "#/inputs")
    return values.view(np.bool_)


def _odd_one(flat: Sequence[Any], datatype: str, name: str) -> str:
    """Which element is no number that the datatype can hold."""
    for index, value in enumerate(flat):
        try:
            array(CODES[datatype], [value])
        except (TypeError, OverflowError):
            return f"input {name!r}: element {index} of data is {str(value)[:40]!r}, which is no {datatype}"
    raise AssertionError(name)
