"""Inference requests of the Open Inference Protocol v2, whatever form they came in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from service.errors import InvalidInput, Unsupported
from service.protocol.tensors import BYTES, FORMS, Slot, Tensor

MOST_DIMENSIONS = 8

JsonObject = dict[str, Any]
Reader = Callable[[int, JsonObject, Slot], Tensor]  # number and JSON of an input, and what the JSON says of its form


@dataclass(frozen=True, slots=True)
class Query:
    """An inference request; ``outputs`` says which are asked for, and which of them as binary data."""

    inputs: dict[str, Tensor]
    id: str | None = None
    parameters: JsonObject = field(default_factory=dict)
    outputs: dict[str, bool] | None = None  # None: all that come unasked
    binary: bool = False  # whether outputs that ``outputs`` does not name are binary data


@dataclass(frozen=True, slots=True)
class Form:
    """What a request says beside its data. Requests that say the same share it: it never changes."""

    inputs: tuple[tuple[JsonObject, Slot], ...]
    id: str | None
    parameters: JsonObject
    outputs: dict[str, bool] | None
    binary: bool

    @classmethod
    def of(cls, document: JsonObject) -> Form:
        """That of a document in the protocol's JSON form. Raises InvalidInput and Unsupported."""
        parameters = dict(_parameters(document, "the request"))
        binary = _flag(parameters.pop("binary_data_output", False), "binary_data_output")
        identity = document.get("id")
        if not isinstance(identity, str | None):
            raise InvalidInput("id must be a string", "#/id")
        return cls(_inputs(document.get("inputs")), identity, parameters, _outputs(document.get("outputs"), binary), binary)

    def query(self, read: Reader) -> Query:
        """The request; ``read`` finds the data of each input in turn."""
        found = {slot.name: read(index, item, slot) for index, (item, slot) in enumerate(self.inputs)}
        return Query(found, self.id, self.parameters, self.outputs, self.binary)


def object_of(value: Any, what: str) -> JsonObject:
    """``value``, if it is a JSON object; raises InvalidInput otherwise."""
    if not isinstance(value, dict):
        raise InvalidInput(f"{what} must be a JSON object", "#")
    return value


def _inputs(items: Any) -> tuple[tuple[JsonObject, Slot], ...]:
    if not isinstance(items, list) or not items:
        raise InvalidInput('the request must have "inputs": a list with an object for each input', "#/inputs")
    found: dict[str, tuple[JsonObject, Slot]] = {}
    for index, item in enumerate(items):
        slot = _slot(object_of(item, f"input {index}"), index)
        if slot.name in found:
            raise InvalidInput(f"input {slot.name!r} is given twice", "#/inputs")
        if any(key.startswith("shared_memory") for key in _parameters(item, f"input {slot.name!r}")):
            raise Unsupported(f"input {slot.name!r} lies in shared memory, which this server does not read: send the data")
        found[slot.name] = item, slot
    return tuple(found.values())


def _slot(item: JsonObject, index: int) -> Slot:
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
    return Slot(name, datatype, tuple(shape))


def _outputs(items: Any, binary: bool) -> dict[str, bool] | None:
    if items is None or items == []:
        return None
    if not isinstance(items, list):
        raise InvalidInput("outputs must be a list with an object for each output", "#/outputs")
    asked: dict[str, bool] = {}
    for index, item in enumerate(items):
        name = object_of(item, f"output {index}").get("name")
        if not isinstance(name, str):
            raise InvalidInput(f"output {index} needs a name", f"#/outputs/{index}/name")
        parameters = _parameters(item, f"output {name[:80]!r}")
        if any(key == "classification" or key.startswith("shared_memory") for key in parameters):
            raise Unsupported(f"output {name[:80]!r}: this server offers no classification and no shared memory")
        asked[name] = _flag(parameters.get("binary_data", binary), "binary_data")
    return asked


def _parameters(item: JsonObject, what: str) -> JsonObject:
    found = object_of(item.get("parameters") or {}, f"parameters of {what}")
    for key, value in found.items():
        if not isinstance(value, str | int | float):
            raise InvalidInput(f"parameter {key[:80]!r} of {what} must be a string, a number or a boolean", "#/parameters")
    return found


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"{name} must be true or false", "#/parameters")
    return value
