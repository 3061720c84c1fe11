"""Requests and answers of the Open Inference Protocol v2 as messages of gRPC.

Their classes are made from ``open_inference.binpb``, which is compiled from the ``.proto`` file beside it, in a pool of
their own: clients that bring the protocol's messages themselves can live in the same process.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from service.errors import InvalidInput, TooLarge
from service.protocol.query import Form, JsonObject, Query
from service.protocol.tensors import BYTES, DATATYPES, Output, Slot, Tensor, tensor_of_bytes, tensor_of_numbers
from service.settings import Settings

MOST_FIELDS = 10_000  # at the top of a message
RAW_INPUTS = 7  # number of the field of ModelInferRequest that holds binary data
VARINT, FIXED_64, LENGTH, FIXED_32 = 0, 1, 2, 5  # how protobuf writes a field
LONGEST_VARINT = 10
# The field of InferTensorContents that holds a datatype. The numbers of 16 bits have none.
CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", BYTES: "bytes_contents",
}  # fmt: skip


def _message_classes() -> tuple[dict[str, Any], dict[str, Any]]:
    """Classes of messages by name, and descriptors of methods by name."""
    found = descriptor_pb2.FileDescriptorSet.FromString((files("service.protocol") / "open_inference.binpb").read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in found.file:
        pool.AddSerializedFile(file.SerializeToString())
    classes = message_factory.GetMessageClassesForFiles([file.name for file in found.file], pool)
    service = pool.FindServiceByName("inference.GRPCInferenceService")
    return {name.removeprefix("inference."): made for name, made in classes.items()}, service.methods_by_name


MESSAGES, METHODS = _message_classes()


def parsed(name: str, data: bytes | bytearray, limit: int) -> Any:
    """The message ``name``. Raises InvalidInput, or TooLarge beyond ``limit`` bytes: in memory a message takes many times its size."""
    if len(data) > limit:
        raise TooLarge(f"{len(data)} bytes of {name} without binary data; the limit is {limit}: send tensors as raw_input_contents")
    try:
        return MESSAGES[name].FromString(bytes(data))
    except DecodeError:
        raise InvalidInput(f"the message is no {name}") from None


class Message:
    """A ModelInferRequest. Its binary data stay where they lie in ``data``; raises InvalidInput or TooLarge for the rest."""

    def __init__(self, data: bytes, limit: int) -> None:
        head, raw = bytearray(), []
        view = memoryview(data)
        for number, start, content, end in _fields(view):
            if number == RAW_INPUTS:
                raw.append(view[content:end])
            else:
                head += view[start:end]
        self._raw = raw
        self._head = parsed("ModelInferRequest", head, limit)
        self.size = len(data)
        self.name, self.version = self._head.model_name, self._head.model_version

    def query(self, expected: Slot, settings: Settings) -> Query:
        head = self._head
        if self._raw and len(self._raw) != len(head.inputs):
            raise InvalidInput(f"raw_input_contents has {len(self._raw)} elements for {len(head.inputs)} inputs", "#/raw_input_contents")
        inputs = [
            {"name": given.name, "datatype": given.datatype, "shape": list(given.shape), "parameters": _plain(given.parameters)}
            for given in head.inputs
        ]
        outputs = [{"name": asked.name, "parameters": _plain(asked.parameters)} for asked in head.outputs]
        document = {"id": head.id or None, "parameters": _plain(head.parameters), "inputs": inputs, "outputs": outputs}
        return Form.of(document).query(self._tensor)

    def answer(self, head: JsonObject, outputs: list[Output]) -> bytes:
        """A ModelInferResponse, with all outputs as binary data."""
        answer = MESSAGES["ModelInferResponse"](model_name=head["model_name"], model_version=head["model_version"], id=head.get("id", ""))
        for key, value in head["parameters"].items():
            setattr(answer.parameters[key], _choice(value), value)
        for name, values, _ in outputs:
            answer.outputs.add(name=name, datatype=DATATYPES[values.dtype], shape=values.shape)
            answer.raw_output_contents.append(np.ascontiguousarray(values).tobytes())
        encoded: bytes = answer.SerializeToString()
        return encoded

    def _tensor(self, index: int, _item: JsonObject, slot: Slot) -> Tensor:
        contents = [field.name for field, _ in self._head.inputs[index].contents.ListFields()]
        if self._raw:
            if contents:
                raise InvalidInput(f"input {slot.name!r} has {contents[0]}, and there are raw_input_contents: give one of them", "#/inputs")
            return tensor_of_bytes(self._raw[index], slot)
        needed = CONTENTS.get(slot.datatype)
        if needed is None:
            raise InvalidInput(f"input {slot.name!r}: {slot.datatype} is taken as raw_input_contents alone", "#/inputs")
        if contents != [needed]:
            came = ", ".join(contents) or "nothing"
            raise InvalidInput(f"input {slot.name!r}: {slot.datatype} is given as {needed}, or raw; {came} came", "#/inputs")
        values = getattr(self._head.inputs[index].contents, needed)
        slot.check_count(len(values))
        return Tensor(BYTES, slot.shape, list(values)) if slot.datatype == BYTES else tensor_of_numbers(values, slot)


def _fields(data: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a message: the number of each, and where it, its content and the next one begin. Raises InvalidInput."""
    end = count = 0
    while end < len(data):
        count += 1
        start = end
        tag, content = _varint(data, start)
        kind = tag & 7
        if kind == LENGTH:
            size, content = _varint(data, content)
            end = content + size
        elif kind == VARINT:
            end = _varint(data, content)[1]
        elif kind in (FIXED_32, FIXED_64):
            end = content + (4 if kind == FIXED_32 else 8)
        else:
            raise InvalidInput("the message is no ModelInferRequest")
        if end > len(data):
            raise InvalidInput(f"the message is cut off: a field ends at byte {end}, and {len(data)} came")
        if count > MOST_FIELDS:
            raise InvalidInput(f"the message has more than {MOST_FIELDS} fields")
        yield tag >> 3, start, content, end


def _varint(data: memoryview, start: int) -> tuple[int, int]:
    """A number in protobuf's form, of 7 bits a byte with the lowest first, and where it ends."""
    value = 0
    for index, byte in enumerate(data[start : start + LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, start + index + 1
    raise InvalidInput(f"the message is damaged at byte {start}")


def _plain(parameters: Any) -> JsonObject:
    """Parameters as they would stand in JSON; one without a value is none of its kinds."""
    return {key: getattr(value, kind) if (kind := value.WhichOneof("parameter_choice")) else None for key, value in parameters.items()}


def _choice(value: str | float | bool) -> str:
    if isinstance(value, bool):
        return "bool_param"
    return {str: "string_param", int: "int64_param", float: "double_param"}[type(value)]
