"""ONNX graphs: what is safe to load, and inner tensors exposed as pooled outputs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, TypeVar

import onnx
from google.protobuf.message import DecodeError, Message
from onnx import TensorProto, helper

from models.errors import OnnxError, TapError

DOMAINS = {"", "ai.onnx", "ai.onnx.ml"}  # the standard operators: no custom code is ever loaded

Pool = Literal["mean", "max", "none"]
M = TypeVar("M", bound=Message)

_POOLING = {"mean": "GlobalAveragePool", "max": "GlobalMaxPool"}


@dataclass(frozen=True, slots=True)
class Tap:
    """A tensor of the graph to read features from, pooled over its spatial axes inside the graph.

    A tensor of rank 2, [N, d], is taken as it is. One of rank 3 or more, [N, channels, ...], is
    pooled to [N, channels], unless ``pool`` is "none".
    """

    tensor: str
    pool: Pool = "mean"

    def __post_init__(self) -> None:
        if self.pool not in (*_POOLING, "none"):
            raise TapError(f"tap {self.tensor!r}: pool must be 'mean', 'max' or 'none', not {self.pool!r}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def parse(cls, text: str) -> Self:
        """``TENSOR`` or ``TENSOR=POOL``, as the command line has it; tensor names may hold colons.

        >>> Tap.parse("stage5=max")
        Tap(tensor='stage5', pool='max')
        """
        tensor, equals, pool = text.rpartition("=")
        if equals and pool in (*_POOLING, "none"):
            return cls(tensor, pool)  # type: ignore[arg-type]  # one of Pool, by the line above
        return cls(text)


def parse(data: bytes) -> onnx.ModelProto:
    """The model in ``data``, checked to be self-contained and of standard operators alone.

    Raises OnnxError for what is no ONNX model, for external data, and for other operator domains.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise OnnxError(f"not an ONNX model: its {len(data)} bytes are no ModelProto message") from None
    if not model.graph.node or not model.opset_import:
        raise OnnxError("not an ONNX model: it holds no graph with nodes and no operator set")
    if any(not isinstance(name, str) for name in _names(model)):
        raise OnnxError("the ONNX model is damaged: a name in its graph is not UTF-8")
    for tensor in _tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise OnnxError(f"tensor {tensor.name!r} has its data in another file: save the model as one file")
    domains = {opset.domain for opset in model.opset_import} | {node.domain for node in _messages(model, onnx.NodeProto)}
    if domains - DOMAINS - {function.domain for function in model.functions}:
        raise OnnxError(f"operator domains {sorted(domains - DOMAINS)} are not standard: only ONNX's own are run")
    return model


def with_taps(model: onnx.ModelProto, taps: Sequence[Tap]) -> tuple[onnx.ModelProto, list[str]]:
    """A copy of ``model`` whose only outputs are the pooled ``taps``, and the names of these outputs."""
    ranks = _ranks(model)
    for tap in taps:
        if tap.tensor not in ranks:
            raise TapError(f"tap {tap.tensor!r} is no tensor of the graph; near names: {_near(tap.tensor, ranks)}")
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    del tapped.graph.output[:]
    names = []
    for index, tap in enumerate(taps):
        name = f"farfield_level_{index}"
        for node in _pooling_nodes(tap, ranks[tap.tensor], name):
            tapped.graph.node.append(node)
        tapped.graph.output.append(helper.make_empty_tensor_value_info(name))
        names.append(name)
    return tapped, names


def default_taps(model: onnx.ModelProto) -> tuple[Tap, ...]:
    """The output named ``features``, or else the only output; anything else must be chosen by the user."""
    outputs = [output.name for output in model.graph.output]
    if "features" in outputs:
        return (Tap("features"),)
    if len(outputs) == 1:
        return (Tap(outputs[0]),)
    raise TapError(f"the model has several outputs, {outputs}: name the tensors to read features from with --tap")


def _pooling_nodes(tap: Tap, rank: int | None, name: str) -> list[onnx.NodeProto]:
    if tap.pool == "none" or rank == 2:
        return [helper.make_node("Identity", [tap.tensor], [name])]
    if rank is not None and rank < 3:
        raise TapError(f"tap {tap.tensor!r} has rank {rank}: features need a batch axis and at least one more")
    pooled = f"{name}_pooled"
    return [
        helper.make_node(_POOLING[tap.pool], [tap.tensor], [pooled]),
        helper.make_node("Flatten", [pooled], [name], axis=1),
    ]


def _ranks(model: onnx.ModelProto) -> dict[str, int | None]:
    """Rank of every tensor that a node gives or the model takes; None where it cannot be inferred."""
    names = [name for node in model.graph.node for name in node.output if name]
    ranks: dict[str, int | None] = dict.fromkeys([*(value.name for value in model.graph.input), *names])
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except (onnx.shape_inference.InferenceError, UnicodeDecodeError, ValueError, TypeError) as error:
        raise OnnxError(f"the ONNX model is damaged: {error}") from None
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.name in ranks and value.type.tensor_type.HasField("shape"):
            ranks[value.name] = len(value.type.tensor_type.shape.dim)
    return ranks


def _names(model: onnx.ModelProto) -> Iterator[Any]:
    """Names of tensors, nodes and domains; protobuf gives one that is not UTF-8 as bytes."""
    yield from (opset.domain for opset in model.opset_import)
    for node in _messages(model, onnx.NodeProto):
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
    for value in _messages(model, onnx.ValueInfoProto):
        yield value.name
    for tensor in _tensors(model):
        yield tensor.name


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    return _messages(model, TensorProto)


def _messages(message: Message, kind: type[M]) -> Iterator[M]:
    """All messages of ``kind`` anywhere inside ``message``: in subgraphs, attributes and functions too."""
    if isinstance(message, kind):
        yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for child in value if field.is_repeated else (value,):
                yield from _messages(child, kind)


def _near(name: str, names: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, list(names), n=5, cutoff=0.3)
