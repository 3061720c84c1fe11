"""An ONNX network with its preprocessing: raw inputs in, one row of features per input out."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

from models.errors import DeviceError, OnnxError, PreprocessingError, TapError
from models.graph import Tap, default_taps, parse, with_taps
from models.preprocessing import RANGES, Preprocessing

log = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda"]
BATCH_ROWS = 16  # on a CPU larger batches gain nothing and cost memory
NO_SLOWER = 1.1  # how much longer an input may take in a larger batch, which spares what each run costs beside the network

CUDA_NEEDS = "farfield[gpu], CUDA 13, cuDNN 9 and a GPU that is visible with its driver (docker run --gpus all)"
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_ELEMENT_TYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(double)": np.float64}


@dataclass(frozen=True, slots=True)
class Level:
    """One tap as the features have it: a name, and the number of columns."""

    name: str
    width: int


class Extractor:
    """A network that turns images, or rows, into features.

    Its identity is ``digest``: the sha256 of the ONNX file together with the preprocessing and the
    taps, so that two extractors with one digest give the same features on the same device.

    Parameters
    ----------
    onnx_file : the bytes of the ONNX file; it must be self-contained and of standard operators
    preprocessing : for networks that take images; None for those that take rows [N, d]
    taps : the tensors that become features, concatenated in this order; by default the output
        ``features``, or the only output
    device : "auto" takes CUDA where it can be had, "cpu" and "cuda" say which
    require_device : whether to raise DeviceError where "cuda" cannot be had; else the CPU serves,
        ``fell_back`` is true, and a warning is logged
    threads : threads inside one call of the network; 0 lets onnxruntime choose

    Raises OnnxError, TapError, PreprocessingError or DeviceError with a sentence for the caller.
    """

    def __init__(
        self,
        onnx_file: bytes,
        *,
        preprocessing: Preprocessing | None = None,
        taps: Sequence[Tap] = (),
        device: Device = "auto",
        require_device: bool = False,
        threads: int = 0,
    ) -> None:
        model = parse(onnx_file)
        self.onnx_file = onnx_file
        self.preprocessing = preprocessing
        self.device: Device = device
        self.taps = tuple(taps) or default_taps(model)
        self.digest = self._digest()
        tapped, self._outputs = with_taps(model, self.taps)
        self._session = _session(tapped, device, threads)
        self.provider: str = self._session.get_providers()[0]
        self.fell_back = device == "cuda" and self.provider != CUDA
        if self.fell_back:
            self._report_missing_device(require_device)
        self._input = _only_input(self._session)
        self.levels = self._probe()
        self.batch = 1  # inputs that are run together best, as far as is known

    @property
    def width(self) -> int:
        """Number of features of one input."""
        return sum(level.width for level in self.levels)

    @property
    def takes_images(self) -> bool:
        return self.preprocessing is not None

    def spec(self) -> dict[str, Any]:
        """Preprocessing and taps as plain JSON data."""
        preprocessing = self.preprocessing.to_json() if self.preprocessing else None
        return {"preprocessing": preprocessing, "taps": [tap.to_json() for tap in self.taps]}

    def images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Features (n, width) of decoded images, in batches."""
        starts = range(0, len(images), BATCH_ROWS)
        return self._joined([self._run(self.preprocessed(images[i : i + BATCH_ROWS])) for i in starts])

    def rows(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Features (n, width) of raw input rows (n, d), in batches."""
        if self.preprocessing is not None:
            raise PreprocessingError("this extractor takes images, not rows of numbers")
        expected = self._input.shape[1:]
        if rows.ndim != len(expected) + 1 or any(
            isinstance(want, int) and want != got for want, got in zip(expected, rows.shape[1:], strict=True)
        ):
            raise PreprocessingError(f"the network takes inputs of shape {expected}, not {list(rows.shape[1:])}")
        with np.errstate(over="ignore", invalid="ignore"):
            cast = rows.astype(_ELEMENT_TYPES[self._input.type], copy=False)
        if not np.isfinite(cast).all() or (cast.dtype == np.uint8 and not np.array_equal(cast, rows)):
            raise PreprocessingError(f"the network takes {self._input.type}: some values cannot be given in that type")
        rows = cast
        return self._joined([self._run(rows[i : i + BATCH_ROWS]) for i in range(0, len(rows), BATCH_ROWS)])

    def measure(self, seconds: float) -> None:
        """Find ``batch``: the most inputs, at ``BATCH_ROWS`` at most, of which one in a batch takes the least time on this machine.

        Batches of one, two, four inputs and so on are run until one takes longer than ``seconds``, which is the longest that a
        batch shall take; a larger batch that is slower by no more than a tenth counts as no slower.
        """
        count, least, one = 1, math.inf, self._zeros()
        while count <= BATCH_ROWS:
            batch = np.repeat(one, count, axis=0)
            start = time.perf_counter()
            try:
                self._run(batch)
            except OnnxError:  # it takes no more, whatever it declares: requests with as many say so
                break
            spent = time.perf_counter() - start
            if count > 1 and spent > seconds:
                break
            if spent / count <= NO_SLOWER * least:
                self.batch, least = count, min(least, spent / count)
            count *= 2
        log.info("a network runs %d inputs together, %.1f ms each", self.batch, 1000 * least)

    def preprocessed(self, images: Sequence[Image.Image]) -> NDArray[Any]:
        """The tensor (n, ...) that the network gets for ``images``."""
        preprocessing = self.preprocessing
        if preprocessing is None:
            raise PreprocessingError("this extractor takes rows of numbers, not images")
        return np.stack([preprocessing(image) for image in images])

    def _joined(self, blocks: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        return np.concatenate([np.empty((0, self.width), np.float32), *blocks])

    def _run(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Features of one batch; a network with a fixed batch size gets it padded to that size."""
        fixed = self._input.shape[0]
        if not isinstance(fixed, int):
            return self._infer(batch)
        blocks = [batch[i : i + fixed] for i in range(0, len(batch), fixed)]
        last = blocks[-1]
        blocks[-1] = np.concatenate([last, np.repeat(last[-1:], fixed - len(last), axis=0)])
        return np.concatenate([self._infer(block) for block in blocks])[: len(batch)]

    def _infer(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        try:
            levels = self._session.run(self._outputs, {self._input.name: batch})
        except Exception as error:  # noqa: BLE001  # onnxruntime's exceptions share no narrower base
            raise OnnxError(f"the network failed on its input: {_first_line(error)}") from None
        return np.concatenate([level.reshape(len(batch), -1) for level in levels], axis=1, dtype=np.float32)

    def _probe(self) -> tuple[Level, ...]:
        """Widths of the levels, from a run on zeros, which also shows that preprocessing and network fit."""
        shape = self._input.shape
        one = self._zeros()
        batch = np.repeat(one, shape[0] if isinstance(shape[0], int) else 1, axis=0)
        try:
            levels = self._session.run(self._outputs, {self._input.name: batch})
        except Exception as error:  # noqa: BLE001  # onnxruntime's exceptions share no narrower base
            raise OnnxError(f"the network refuses input of shape {list(batch.shape)}: {_first_line(error)}") from None
        for tap, level in zip(self.taps, levels, strict=True):
            if not isinstance(level, np.ndarray) or level.dtype.kind != "f" or level.shape[:1] != (len(batch),):
                raise TapError(f"tap {tap.tensor!r} gives {_described(level)}: features are floats with a batch axis")
        return tuple(Level(t.tensor, int(np.prod(v.shape[1:]))) for t, v in zip(self.taps, levels, strict=True))

    def _zeros(self) -> NDArray[Any]:
        """One input (1, ...) of zeros, or of a black image."""
        shape = self._input.shape
        if self.preprocessing is not None:
            one = self.preprocessed([Image.new("RGB", (8, 8))])
            if one.dtype != _ELEMENT_TYPES[self._input.type]:
                raise PreprocessingError(f"preprocessing gives {one.dtype}; the network takes {self._input.type}")
            return one
        if any(not isinstance(size, int) for size in shape[1:]):
            raise PreprocessingError(f"the network takes inputs of shape {shape}: declare a preprocessing for images")
        return np.zeros((1, *shape[1:]), dtype=_ELEMENT_TYPES[self._input.type])

    def _digest(self) -> str:
        text = json.dumps(self.spec(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(hashlib.sha256(self.onnx_file).digest() + text.encode()).hexdigest()

    def _report_missing_device(self, required: bool) -> None:
        message = f"CUDA was asked for but cannot be had: {self.provider} serves. It needs {CUDA_NEEDS}"
        if required:
            raise DeviceError(message)
        log.warning(message)


def image_preprocessing(onnx_file: bytes, value_range: str | None, resize: str = "stretch") -> Preprocessing | None:
    """Preprocessing that fits the input of the network: None if it takes rows instead of images.

    ``value_range`` is one of ``RANGES`` and must be given where the network takes floats: what it
    was trained on is written nowhere in the file, and a wrong guess ruins features without a sign.
    """
    session = _session(parse(onnx_file), "cpu", 1)
    tensor = _only_input(session)
    if len(tensor.shape) != 4:
        return None
    layout: Literal["NCHW", "NHWC"] = "NCHW" if tensor.shape[1] in (1, 3) else "NHWC"
    channels, height, width = (tensor.shape[i] for i in ((1, 2, 3) if layout == "NCHW" else (3, 1, 2)))
    if channels not in (1, 3) or not isinstance(height, int) or not isinstance(width, int):
        raise PreprocessingError(f"the network takes {tensor.shape}: declare its preprocessing in full, height and width included")
    dtype: Literal["uint8", "float32"] = "uint8" if tensor.type == "tensor(uint8)" else "float32"
    if dtype == "float32" and value_range not in RANGES:
        raise PreprocessingError(f"the network takes floats: say which range of pixel values, one of {sorted(RANGES)}")
    mean, std = RANGES["pixels" if dtype == "uint8" else value_range or ""]
    return Preprocessing(
        height, width, resize=resize, colour="grey" if channels == 1 else "rgb",  # type: ignore[arg-type]
        mean=mean[:channels], std=std[:channels], layout=layout, dtype=dtype,
    )  # fmt: skip


def cuda_works() -> bool:
    """Whether a network gets CUDA here: onnxruntime may be built for it where no device, or no driver, is."""
    tensors = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "identity", tensors[:1], tensors[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    try:
        return str(_session(model, "cuda", 1).get_providers()[0]) == CUDA
    except OnnxError:
        return False


def _session(model: onnx.ModelProto, device: Device, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    available = ort.get_available_providers()
    providers = [CUDA, CPU] if device != "cpu" and CUDA in available else [CPU]
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=providers)
    except Exception as error:  # noqa: BLE001  # onnxruntime's exceptions share no narrower base
        raise OnnxError(f"onnxruntime cannot load the model: {_first_line(error)}") from None


def _only_input(session: ort.InferenceSession) -> Any:
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in _ELEMENT_TYPES or len(inputs[0].shape) < 2:
        found = [f"{item.name}: {item.type} {item.shape}" for item in inputs]
        raise OnnxError(f"an extractor takes one input of floats or bytes with a batch axis; this model takes {found}")
    return inputs[0]


def _described(value: Any) -> str:
    return f"{value.dtype} of shape {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
