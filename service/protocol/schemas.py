"""The JSON of the Open Inference Protocol v2, for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from service.metrics import Metrics, Tally
from service.protocol.scoring import input_slot, output_slots
from service.protocol.tensors import Slot
from service.versions import Loaded

Parameters = dict[str, str | float | bool]
SHAPE = "Sizes of the axes; -1 in metadata stands for any."


class ProtocolError(BaseModel):
    """What every refusal under /v2 is."""

    error: str


class Live(BaseModel):
    live: bool


class Ready(BaseModel):
    ready: bool
    live: bool


class ModelReady(BaseModel):
    name: str
    version: str
    ready: bool


class ServerMetadata(BaseModel):
    name: str
    version: str
    extensions: list[str]


class ModelList(BaseModel):
    models: list[str]


class TensorMetadata(BaseModel):
    name: str
    datatype: str
    shape: list[int] = Field(description=SHAPE)

    @classmethod
    def of(cls, slot: Slot) -> Self:
        return cls(name=slot.name, datatype=slot.datatype, shape=list(slot.shape))


class ModelMetadata(BaseModel):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    properties: dict[str, str]

    @classmethod
    def of(cls, loaded: Loaded, numbers: Iterable[int]) -> Self:
        """Of a loaded version, beside the versions ``numbers``."""
        manifest = loaded.manifest
        properties = {
            "version": str(loaded.number),
            "type": manifest.type,
            "alpha": repr(manifest.alpha),
            "n_fit": str(manifest.n_fit),
            "n_calibration": str(manifest.calibration.n),
            "created": manifest.created,
        }
        if manifest.extractor:
            properties["extractor"] = manifest.extractor.digest
        return cls(
            name=loaded.name,
            versions=[str(number) for number in numbers],
            platform=f"farfield_{manifest.type}",
            inputs=[TensorMetadata.of(input_slot(loaded.fitted))],
            outputs=[TensorMetadata.of(slot) for slot in output_slots(loaded.fitted)],
            properties=properties,
        )


class InferInput(BaseModel):
    name: str
    shape: list[int] = Field(description=SHAPE)
    datatype: str
    parameters: Parameters | None = Field(None, description="`binary_data_size` where the data follow the JSON.")
    data: list[Any] | None = Field(None, description="Numbers, nested or flat in row-major order; base64 for BYTES.")


class InferRequestedOutput(BaseModel):
    name: str
    parameters: Parameters | None = Field(None, description="`binary_data`: whether this output comes behind the JSON.")


class InferRequest(BaseModel):
    id: str | None = Field(None, description="Comes back in the answer.")
    parameters: Parameters | None = Field(None, description="`alpha` and `fdr` as for `:score`; `binary_data_output` for all outputs.")
    inputs: list[InferInput]
    outputs: list[InferRequestedOutput] | None = Field(None, description="All but `attribution` by default.")


class InferOutput(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    parameters: Parameters | None = None
    data: list[Any] | None = Field(None, description="Row-major and flat; missing where the data follow the JSON.")


class InferResponse(BaseModel):
    model_name: str
    model_version: str
    id: str | None = None
    parameters: Parameters
    outputs: list[InferOutput]


class IndexEntry(BaseModel):
    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str


class Duration(BaseModel):
    count: int
    ns: int

    @classmethod
    def of(cls, count: int, seconds: float) -> Self:
        return cls(count=count, ns=round(1e9 * seconds))


class Durations(BaseModel):
    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration

    @classmethod
    def of(cls, tally: Tally) -> Self:
        stages = {"queue": ("queue",), "compute_input": ("decode",), "compute_infer": ("extract", "score"), "compute_output": ("encode",)}
        return cls(
            success=Duration.of(tally.requests, sum(tally.seconds.values())),
            fail=Duration.of(tally.failures, tally.failed_seconds),
            **{name: Duration.of(tally.requests, sum(tally.seconds.get(stage, 0.0) for stage in of)) for name, of in stages.items()},
        )


class ModelStatistics(BaseModel):
    name: str
    version: str
    last_inference: int = Field(description="Milliseconds since 1970; 0 before the first.")
    inference_count: int = Field(description="Rows or images scored.")
    execution_count: int = Field(description="Batches scored: small requests that come together are one.")
    inference_stats: Durations
    batch_stats: list[dict[str, Any]] = Field(description="Always empty: sizes of batches are not bounded.")

    @classmethod
    def of(cls, name: str, number: int, tally: Tally) -> Self:
        return cls(
            name=name,
            version=str(number),
            last_inference=round(1000 * tally.last),
            inference_count=tally.rows,
            execution_count=tally.executions,
            inference_stats=Durations.of(tally),
            batch_stats=[],
        )


class Statistics(BaseModel):
    model_stats: list[ModelStatistics]

    @classmethod
    def of(cls, metrics: Metrics, versions: Iterable[tuple[str, int]]) -> Self:
        """What these names and numbers have scored since they were loaded."""
        return cls(model_stats=[ModelStatistics.of(name, number, metrics.tally(name, number)) for name, number in versions])
