"""The scoring path of the Open Inference Protocol: a request to a batch, verdicts to the outputs of an answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from math import inf, isfinite
from typing import Any, Generic, Protocol, TypeVar

from numpy.typing import NDArray
from pydantic import ValidationError

from service import engine
from service.errors import InvalidInput, TooLarge, Unsupported
from service.features import Batch, Timed
from service.problems import explained
from service.protocol.query import JsonObject, Query
from service.protocol.tensors import BYTES, Output, Slot, Tensor
from service.schemas import Options
from service.scoring import codecs
from service.scoring.callers import Caller
from service.scoring.encoders import TAIL
from service.scoring.scoring import terms_of, timing
from service.scoring.work import Terms
from service.settings import Settings
from service.verdicts import Verdicts
from service.versions import Loaded

ATTRIBUTION = "attribution"
OPTIONS = {"alpha", "fdr", "tail"}
TIMEOUT, LONGEST_TIMEOUT = "timeout", 18  # parameter with the microseconds that a request allows; digits of it
IGNORED = {"priority", "content_type", "headers"}  # clients send them to any server; nothing here depends on them
DEFAULTS = Options.model_validate({})
STATEFUL = {"sequence_id", "sequence_start", "sequence_end"}

T = TypeVar("T")
A_co = TypeVar("A_co", covariant=True)


class Sent(Protocol[A_co]):
    """A request as it came over HTTP or gRPC, which is not looked into before a thread has it, unless it is small."""

    @property
    def size(self) -> int | None:
        """Bytes; None where they are compressed, and so may become any number."""

    def query(self, expected: Slot, settings: Settings) -> Query:
        """What is asked, of a model that takes ``expected``. Raises InvalidInput, TooLarge, UnsupportedMedia or Unsupported."""

    def answer(self, head: JsonObject, outputs: list[Output]) -> A_co:
        """An answer in the form of the request."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request turns out to be."""

    query: Query
    options: Options
    slots: tuple[Slot, ...]  # of all outputs there are
    outputs: dict[str, bool]  # those asked for, and whether as binary data
    batch: Batch
    timeout: float  # seconds from when it came to when its answer is of no use


@dataclass(slots=True)
class Task(Generic[T]):
    """A request to infer, from what was sent to its answer. Once it has been looked into, ``caller`` waits no longer than it allows."""

    sent: Sent[T]
    caller: Caller
    since: float  # when it came, by time.monotonic
    asked: Asked = field(init=False)  # once it is decoded
    batch: Batch | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    keys: list[str] | None = None  # the protocol has no names for rows, nor for requests
    request: str = ""

    @property
    def size(self) -> int | None:
        return self.sent.size

    def decode(self, loaded: Loaded, settings: Settings) -> Batch:
        if self.batch is None:
            with Timed(self.seconds, "decode"):
                self.asked = _decoded(loaded.fitted, self.sent, settings)
            self.caller.deadline = min(self.caller.deadline, self.since + self.asked.timeout)
            self.batch = self.asked.batch
        return self.batch

    def terms(self) -> Terms:
        by = "feature" if ATTRIBUTION in self.asked.outputs else None
        return terms_of(self.asked.options)._replace(attribute_by=by)

    def encode(self, loaded: Loaded, verdicts: Verdicts) -> Inferred[T]:
        arrays = (verdicts.scores, verdicts.p_values, verdicts.is_outlier, verdicts.attributions)
        head = _head(loaded, self.asked.query, self.asked.options, verdicts)
        return Inferred(self.sent.answer(head, _asked(self.asked.outputs, self.asked.slots, arrays)), verdicts.seconds)


@dataclass(frozen=True, slots=True)
class Inferred(Generic[T]):
    """An answer in the form of its request, and how long each stage took."""

    answer: T
    seconds: dict[str, float]

    def timing(self) -> str:
        """As in the header ``Server-Timing`` of the native interface."""
        return timing(self.seconds)


def _decoded(fitted: engine.Fitted, sent: Sent[Any], settings: Settings) -> Asked:
    slot, slots = input_slot(fitted), output_slots(fitted)
    query = sent.query(slot, settings)
    options = _options(query.parameters)
    outputs = query.outputs or {output.name: query.binary for output in slots if output.name != ATTRIBUTION}
    if unknown := outputs.keys() - {output.name for output in slots}:
        raise InvalidInput(f"there is no output {min(unknown)[:80]!r}; there are {[output.name for output in slots]}", "#/outputs")
    return Asked(query, options, slots, outputs, _batch(query, slot, settings), _timeout(query.parameters))


def input_slot(fitted: engine.Fitted) -> Slot:
    """The one input of a detector: rows of numbers, or images as files."""
    if fitted.extractor is None:
        return _rows(fitted.width)
    return Slot("images", BYTES, (-1,)) if fitted.extractor.takes_images else Slot("rows", "FP64", (-1, -1))


@lru_cache
def _rows(width: int) -> Slot:
    return Slot("rows", "FP64", (-1, width))


def output_slots(fitted: engine.Fitted) -> tuple[Slot, ...]:
    """What a detector answers: the last only where it is asked for by name."""
    return _outputs(fitted.width if fitted.attributes else None)


@lru_cache
def _outputs(shares: int | None) -> tuple[Slot, ...]:
    always = Slot("score", "FP64", (-1,)), Slot("p_value", "FP64", (-1,)), Slot("is_outlier", "BOOL", (-1,))
    return always if shares is None else (*always, Slot(ATTRIBUTION, "FP64", (-1, shares)))


def _options(parameters: dict[str, Any]) -> Options:
    if stateful := sorted(parameters.keys() & STATEFUL):
        raise Unsupported(f"{stateful[0]}: detectors keep no state between requests")
    known = parameters.keys() - IGNORED - {TIMEOUT}
    if not known:
        return DEFAULTS
    if unknown := sorted(known - OPTIONS):
        raise InvalidInput(
            f"there is no parameter {unknown[0][:80]!r}; there are alpha, fdr, tail, timeout and binary_data_output", "#/parameters"
        )
    try:
        return Options.model_validate({name: parameters[name] for name in known})
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInput(f"{first['loc'][0]}: {explained(first)}", f"#/parameters/{first['loc'][0]}") from None


def _timeout(parameters: dict[str, Any]) -> float:
    """Seconds that a request allows, infinite where it says nothing, or 0 as Triton has it."""
    if TIMEOUT not in parameters:
        return inf
    text = str(parameters[TIMEOUT])
    if not (text.isascii() and text.isdecimal() and len(text) <= LONGEST_TIMEOUT):
        raise InvalidInput(f"timeout must be a whole number of microseconds, not {text[:40]!r}", f"#/parameters/{TIMEOUT}")
    return int(text) / 1e6 or inf


def _batch(query: Query, slot: Slot, settings: Settings) -> Batch:
    if query.inputs.keys() != {slot.name}:
        raise InvalidInput(
            f"the only input is {slot.name!r}, {slot.datatype} {list(slot.shape)}; {', '.join(map(repr, query.inputs))} came"
        )
    tensor = query.inputs[slot.name]
    if slot.datatype == BYTES:
        return codecs.batch_of_images(_files(tensor, slot), settings)
    if isinstance(tensor.data, list):
        raise InvalidInput(f"input {slot.name!r} holds numbers, such as FP32 or FP64; BYTES came", "#/inputs/0/datatype")
    if len(tensor.shape) != 2:
        raise InvalidInput(f"input {slot.name!r} has shape {list(tensor.shape)}; [rows, features] is needed", "#/inputs/0/shape")
    for count, limit, what in zip(tensor.shape, (settings.max_rows, settings.max_features), ("rows", "features"), strict=True):
        if count > limit:
            raise TooLarge(f"{count} {what} in one request; the limit is {limit}", "#/inputs/0/shape")
    return Batch(rows=tensor.data)


def _files(tensor: Tensor, slot: Slot) -> list[bytes]:
    """One image file per element; clients that think of batches send [n, 1]."""
    if isinstance(tensor.data, list) and tensor.shape in {(len(tensor.data),), (len(tensor.data), 1)}:
        return tensor.data
    needed = "BYTES [n], an image file in each element"
    raise InvalidInput(f"input {slot.name!r} is {tensor.datatype} {list(tensor.shape)}; {needed}, is needed", "#/inputs/0")


def _head(loaded: Loaded, query: Query, options: Options, verdicts: Verdicts) -> dict[str, Any]:
    """The answer without its outputs. A threshold is left out where no one score decides, and where it is not finite."""
    parameters: dict[str, Any] = {
        "alpha": verdicts.alpha,
        "calibration": loaded.fitted.judge.METHOD,
        "n_calibration": loaded.fitted.n_calibration,
    }
    if options.tail:
        parameters["tail"] = TAIL
    if verdicts.threshold is not None and isfinite(verdicts.threshold):
        parameters["threshold"] = verdicts.threshold
    named = {"model_name": loaded.name, "model_version": str(loaded.number), "parameters": parameters}
    return named if query.id is None else {**named, "id": query.id}


def _asked(asked: dict[str, bool], outputs: tuple[Slot, ...], arrays: tuple[NDArray[Any] | None, ...]) -> list[Output]:
    """The outputs in the order in which they were asked for."""
    given = {slot.name: values for slot, values in zip(outputs, arrays, strict=False) if values is not None}
    return [(name, given[name], binary) for name, binary in asked.items()]
