"""The Open Inference Protocol over gRPC, by Triton's own client, blocking and asyncio, and by calls that no client makes."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as blocking
import tritonclient.grpc.aio as asynchronous
from google.protobuf import descriptor_pb2
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from service import protocol
from service.problems import STATUS
from service.protocol.calls import CODES, SERVICE
from tests.servers import ServiceProcess, eventually
from tests.service.envelopes import of_rows, outputs
from tests.service.samples import fitted
from tests.service.served import NORMAL, Served, fitted_images, rows, served

BODY_LIMIT = 4_000_000
JSON_LIMIT = 1_000_000
OUTPUTS = ("score", "p_value", "is_outlier")
BATCH = rows(40, seed=3)
FILES = [path.read_bytes() for path in NORMAL[:4]]
FOLDER = Path(protocol.__file__).parent


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    detectors = {"rows": [fitted(1.0), fitted(2.0)], "images": [fitted_images()], "counted": [fitted()], "unloaded": [fitted()]}
    limits = {"FARFIELD_MAX_BODY_BYTES": str(BODY_LIMIT), "FARFIELD_MAX_JSON_BYTES": str(JSON_LIMIT)}
    with served(tmp_path_factory.mktemp("grpc"), detectors, FARFIELD_GRPC_PORT="0", **limits) as running:
        running.store.move_alias("rows", "shadow", 1)
        yield running


@pytest.fixture
def client(service: Served) -> Iterator[Any]:
    with blocking.InferenceServerClient(address(service)) as found:
        yield found


@pytest.fixture
def channel(service: Served) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(address(service), [("grpc.max_receive_message_length", -1)]) as found:
        yield found


def address(service: Served) -> str:
    found = re.search(r"gRPC on 127\.0\.0\.1, port (\d+)", service.process.log())
    assert found, service.process.log()
    return f"127.0.0.1:{found[1]}"


def given(module: Any, values: NDArray[Any], datatype: str, name: str = "rows") -> Any:
    tensor = module.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values)
    return tensor


def native(service: Served, reference: str = "rows", batch: NDArray[Any] = BATCH, **options: Any) -> dict[str, list[Any]]:
    results = service.score(reference, batch, params=options).json()["results"]
    return {name: [result[name] for result in results] for name in OUTPUTS}


def assert_equal(result: Any, expected: dict[str, list[Any]], rounding: float = 0.0) -> None:
    """To the last bit, or where the batch may have been scored with others but for ``rounding``."""
    assert tuple(expected) == OUTPUTS
    for name, values in expected.items():
        np.testing.assert_allclose(result.as_numpy(name), values, rtol=rounding)


def call(channel: grpc.Channel, method: str, message: Any, **how: Any) -> bytes:
    """The answer to a method's message, or to bytes that are none."""
    body = message if isinstance(message, bytes) else message.SerializeToString()
    answer: bytes = channel.unary_unary(f"/{SERVICE}/{method}")(body, **how)
    return answer


def refused(channel: grpc.Channel, method: str, message: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as error:
        call(channel, method, message, timeout=30)
    return error.value.code(), error.value.details()


def asking(batch: NDArray[np.float64] = BATCH, model: str = "rows", **more: Any) -> Any:
    """A request with rows as binary data."""
    tensor = {"name": "rows", "datatype": "FP64", "shape": batch.shape}
    return service_pb2.ModelInferRequest(model_name=model, **{"inputs": [tensor], "raw_input_contents": [batch.tobytes()], **more})


def containing(datatype: str, shape: list[int], **contents: Any) -> Any:
    """A request with rows as contents of a type."""
    tensor = {"name": "rows", "datatype": datatype, "shape": shape, "contents": contents}
    return service_pb2.ModelInferRequest(model_name="rows", inputs=[tensor])


def test_the_messages_are_compiled_from_the_proto_file(tmp_path: Path) -> None:
    """What is read at run time is what the compiler makes of the text."""
    made = tmp_path / "made.binpb"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{FOLDER}", f"--descriptor_set_out={made}", "open_inference.proto"]
    subprocess.run(command, check=True, timeout=60)
    parse = descriptor_pb2.FileDescriptorSet.FromString
    assert parse(made.read_bytes()) == parse((FOLDER / "open_inference.binpb").read_bytes())


def test_the_messages_are_the_protocols() -> None:
    """Every message, field, number and method of ours is one of Triton's client, of the same type."""
    (ours,) = descriptor_pb2.FileDescriptorSet.FromString((FOLDER / "open_inference.binpb").read_bytes()).file
    theirs = descriptor_pb2.FileDescriptorProto()
    service_pb2.DESCRIPTOR.CopyToProto(theirs)

    def fields(messages: Any, path: str = "") -> set[tuple[Any, ...]]:
        found: set[tuple[Any, ...]] = set()
        for message in messages:
            here = f"{path}.{message.name}"
            found |= {(here, f.name, f.number, f.type, f.label, f.type_name, f.HasField("oneof_index")) for f in message.field}
            found |= fields(message.nested_type, here)
        return found

    assert ours.package == theirs.package
    assert fields(ours.message_type) <= fields(theirs.message_type)
    methods = {(m.name, m.input_type, m.output_type, m.server_streaming) for m in ours.service[0].method}
    assert methods < {(m.name, m.input_type, m.output_type, m.server_streaming) for m in theirs.service[0].method}


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_both_clients_read_the_scores_of_v1(service: Served, client: Any, compression: str | None) -> None:
    """To the last bit, by the default version, a number and an alias, with options and the id back."""

    async def ask(**how: Any) -> Any:
        async with asynchronous.InferenceServerClient(address(service)) as other:
            return await other.infer("rows", [given(asynchronous, BATCH, "FP64")], compression_algorithm=compression, **how)

    for version, reference in (("", "rows"), ("1", "rows/versions/1"), ("shadow", "rows/versions/1")):
        how = {"model_version": version, "request_id": "42", "parameters": {"alpha": 0.3, "fdr": True}}
        expected = native(service, reference, alpha=0.3, fdr=True)
        for result in (
            client.infer("rows", [given(blocking, BATCH, "FP64")], compression_algorithm=compression, **how),
            asyncio.run(ask(**how)),
        ):
            assert_equal(result, expected)
            answer = result.get_response()
            assert (answer.id, answer.model_name, answer.model_version) == ("42", "rows", "1" if version else "2")
            assert answer.parameters["alpha"].double_param == 0.3
            assert answer.parameters["n_calibration"].int64_param == 60


def test_the_answer_is_that_of_http(service: Served, client: Any) -> None:
    """The same outputs in the same order, attribution only by name."""
    result = client.infer("rows", [given(blocking, BATCH, "FP64")])
    over_http = outputs(service.client.post("/v2/models/rows/infer", content=of_rows(BATCH)[0], headers=of_rows(BATCH)[1]))
    assert [output.name for output in result.get_response().outputs] == list(over_http)
    for name, values in over_http.items():
        np.testing.assert_array_equal(result.as_numpy(name), values)
    asked = [blocking.InferRequestedOutput("attribution"), blocking.InferRequestedOutput("score")]
    found = client.infer("rows", [given(blocking, BATCH, "FP64")], outputs=asked)
    np.testing.assert_allclose(found.as_numpy("attribution").sum(axis=1), found.as_numpy("score"), rtol=1e-9)


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("FP32", BATCH.astype(np.float32)),
        ("FP16", BATCH.astype(np.float16)),
        ("BF16", BATCH.astype(ml_dtypes.bfloat16)),
        ("INT8", (9 * BATCH).astype(np.int8)),
        ("UINT64", np.abs(9 * BATCH).astype(np.uint64)),
        ("BOOL", BATCH > 0),
    ],
)
def test_every_kind_of_number_as_binary_data(service: Served, client: Any, datatype: str, values: NDArray[Any]) -> None:
    """As the client itself puts them into bytes."""
    assert_equal(client.infer("rows", [given(blocking, values, datatype)]), native(service, batch=values.astype(np.float64)))


@pytest.mark.parametrize(
    ("datatype", "field", "form"),
    [
        ("FP64", "fp64_contents", "f8"), ("FP32", "fp32_contents", "f4"), ("INT8", "int_contents", "i1"), ("INT16", "int_contents", "i2"),
        ("INT32", "int_contents", "i4"), ("INT64", "int64_contents", "i8"), ("UINT8", "uint_contents", "u1"),
        ("UINT16", "uint_contents", "u2"), ("UINT32", "uint_contents", "u4"), ("UINT64", "uint64_contents", "u8"),
        ("BOOL", "bool_contents", "?"),
    ],
)  # fmt: skip
def test_every_kind_of_number_as_contents(service: Served, channel: grpc.Channel, datatype: str, field: str, form: str) -> None:
    """In the field that the protocol has for the type."""
    values = np.abs(9 * BATCH).astype(form)
    answer = call(channel, "ModelInfer", containing(datatype, list(values.shape), **{field: values.ravel().tolist()}))
    found = blocking.InferResult(service_pb2.ModelInferResponse.FromString(answer))
    assert_equal(found, native(service, batch=values.astype(np.float64)))


def test_a_timeout_that_is_over(service: Served, client: Any, channel: grpc.Channel) -> None:
    """Microseconds from the client's ``timeout``: nothing is scored; 0 and longer ones change nothing, and what is no number is refused."""
    inputs = [given(blocking, BATCH, "FP64")]
    before = client.get_inference_statistics("rows").model_stats
    with pytest.raises(InferenceServerException, match="allows for an answer") as late:
        client.infer("rows", inputs, timeout=1)
    assert late.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    assert [found.inference_count for found in client.get_inference_statistics("rows").model_stats] == [b.inference_count for b in before]
    expected = native(service)
    for long in (0, 60_000_000):
        assert_equal(client.infer("rows", inputs, timeout=long), expected)
    wrong = {"timeout": {"double_param": 0.5}}
    assert refused(channel, "ModelInfer", asking(parameters=wrong)) == (
        CODE.INVALID_ARGUMENT, "timeout must be a whole number of microseconds, not '0.5'",
    )  # fmt: skip


def test_the_time_of_each_stage_is_told(channel: grpc.Channel) -> None:
    """Behind the answer, as the header ``Server-Timing`` has it."""
    _, made = channel.unary_unary(f"/{SERVICE}/ModelInfer").with_call(asking().SerializeToString())
    timing = dict(made.trailing_metadata())["server-timing"]
    assert re.findall(r"(\w+);dur=[\d.]+", timing) == ["decode", "queue", "extract", "score", "encode"]


def test_images(service: Served, client: Any, channel: grpc.Channel) -> None:
    """PNG files as BYTES, raw in the client's encoding of them, and as contents."""
    parts = [("images", ("a.png", file, "image/png")) for file in FILES]
    expected = [result["score"] for result in service.client.post("/v1/detectors/images:score", files=parts).json()["results"]]
    found = client.infer("images", [given(blocking, np.array(FILES, object), "BYTES", "images")])
    assert found.as_numpy("score").tolist() == expected
    tensor = {"name": "images", "datatype": "BYTES", "shape": [len(FILES)], "contents": {"bytes_contents": FILES}}
    answer = call(channel, "ModelInfer", service_pb2.ModelInferRequest(model_name="images", inputs=[tensor]))
    assert np.frombuffer(service_pb2.ModelInferResponse.FromString(answer).raw_output_contents[0]).tolist() == expected


def test_metadata_and_health(service: Served, client: Any) -> None:
    """As over HTTP."""
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("rows", "shadow")
    over_http = service.client.get("/v2").json()
    assert client.get_server_metadata(as_json=True) == over_http
    model = client.get_model_metadata("rows")
    over_http = service.client.get("/v2/models/rows").json()
    assert (model.name, list(model.versions), model.platform) == ("rows", over_http["versions"], over_http["platform"])
    for ours, theirs in ((model.inputs, over_http["inputs"]), (model.outputs, over_http["outputs"])):
        assert [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in ours] == theirs


def test_models_are_loaded_and_unloaded(service: Served, client: Any) -> None:
    """The index and readiness follow, and inference loads again; over HTTP the same is seen."""

    def states() -> dict[str, str]:
        return {model.name: model.state for model in client.get_model_repository_index().models}

    assert client.is_model_ready("unloaded")
    assert states()["unloaded"] == "READY"
    client.unload_model("unloaded")
    assert states()["unloaded"] == "UNAVAILABLE" and not client.is_model_ready("unloaded")
    assert service.client.get("/v2/models/unloaded/ready").status_code == 503
    client.load_model("unloaded")
    assert states()["unloaded"] == "READY"
    with pytest.raises(InferenceServerException, match="config cannot be given") as error:
        client.load_model("unloaded", config="{}")
    assert error.value.status() == "StatusCode.UNIMPLEMENTED"


def test_statistics_and_metrics_count_every_call(service: Served, client: Any) -> None:
    """Requests, rows and refusals of all interfaces together; calls by method, and by the status that HTTP has for them."""
    client.infer("counted", [given(blocking, BATCH, "FP64")])
    service.score("counted", BATCH)
    service.score("counted", rows(1, width=3))
    with pytest.raises(InferenceServerException, match="3 features"):
        client.infer("counted", [given(blocking, rows(1, width=3), "FP64")])
    (counted,) = client.get_inference_statistics("counted").model_stats
    assert (counted.inference_count, counted.execution_count) == (80, 2)
    assert (counted.inference_stats.success.count, counted.inference_stats.fail.count) == (2, 2)
    text = service.client.get("/metrics").text
    for code in ("200", "422"):
        assert re.search(rf'farfield_requests_total\{{code="{code}",route="/{SERVICE}/ModelInfer"\}} [1-9]', text)
    assert 'farfield_rows_scored_total{detector="counted",version="1"} 80.0' in text


ONE = rows(1)
TENSOR = {"name": "rows", "datatype": "FP64", "shape": [1, 4]}
CODE = grpc.StatusCode
REFUSALS: dict[str, tuple[Any, grpc.StatusCode, str]] = {
    "no message": (b"\xff\xff\xff", CODE.INVALID_ARGUMENT, "damaged at byte 0"),
    "cut off": (asking().SerializeToString()[:-1], CODE.INVALID_ARGUMENT, "cut off"),
    "no name": (asking(model=""), CODE.INVALID_ARGUMENT, "cannot name a detector"),
    "bad name": (asking(model="a b"), CODE.INVALID_ARGUMENT, "cannot name a detector"),
    "unknown model": (asking(model="nope"), CODE.NOT_FOUND, "no detector named 'nope'"),
    "unknown version": (asking(model_version="7"), CODE.NOT_FOUND, "no version 7"),
    "unknown alias": (asking(model_version="absent"), CODE.NOT_FOUND, "no alias 'absent'"),
    "bad version": (asking(model_version="1.5"), CODE.INVALID_ARGUMENT, "version must be a number or an alias, not '1.5'"),
    "no inputs": (service_pb2.ModelInferRequest(model_name="rows"), CODE.INVALID_ARGUMENT, '"inputs"'),
    "raw for none": (asking(raw_input_contents=[b"", b""]), CODE.INVALID_ARGUMENT, "2 elements for 1 inputs"),
    "neither": (asking(ONE, raw_input_contents=[]), CODE.INVALID_ARGUMENT, "given as fp64_contents, or raw; nothing came"),
    "both": (asking(ONE, inputs=[{**TENSOR, "contents": {"fp64_contents": [1]}}]), CODE.INVALID_ARGUMENT, "give one of them"),
    "another field": (containing("FP64", [1, 4], fp32_contents=[1]), CODE.INVALID_ARGUMENT, "fp32_contents came"),
    "two fields": (containing("FP64", [1, 1], fp64_contents=[1], bool_contents=[True]), CODE.INVALID_ARGUMENT, "bool_contents, fp64"),
    "too few": (containing("FP64", [1, 4], fp64_contents=[1]), CODE.INVALID_ARGUMENT, "1 elements where the shape [1, 4] has 4"),
    "too few BYTES": (containing("BYTES", [2], bytes_contents=[b"a"]), CODE.INVALID_ARGUMENT, "1 elements where the shape [2] has 2"),
    "out of range": (containing("INT8", [1, 1], int_contents=[128]), CODE.INVALID_ARGUMENT, "element 0 of data is '128', which is no INT8"),
    "FP16 as contents": (containing("FP16", [1, 1], fp32_contents=[1]), CODE.INVALID_ARGUMENT, "raw_input_contents alone"),
    "short": (asking(ONE, raw_input_contents=[bytes(31)]), CODE.INVALID_ARGUMENT, "takes 32 bytes, and 31 came"),
    "BYTES that lie": (
        asking(inputs=[{"name": "rows", "datatype": "BYTES", "shape": [1]}], raw_input_contents=[b"\xff\xff\xff\xffa"]),
        CODE.INVALID_ARGUMENT, "announces 4294967295 bytes",
    ),
    "negative shape": (asking(inputs=[{**TENSOR, "shape": [-1, 4]}]), CODE.INVALID_ARGUMENT, "not [-1, 4]"),
    "overflow": (asking(inputs=[{**TENSOR, "shape": [2**62, 2**62]}]), CODE.INVALID_ARGUMENT, "bytes, and 1280 came"),
    "no shape": (asking(inputs=[{**TENSOR, "shape": []}]), CODE.INVALID_ARGUMENT, "shape must be a list"),
    "datatype": (asking(inputs=[{**TENSOR, "datatype": "FP8"}]), CODE.INVALID_ARGUMENT, "not 'FP8'"),
    "NaN": (asking(np.full((1, 4), np.nan)), CODE.INVALID_ARGUMENT, "row 0, feature 0 is nan"),
    "width": (asking(rows(2, width=5)), CODE.INVALID_ARGUMENT, "5 features; this detector takes 4"),
    "parameter": (asking(parameters={"alfa": {"double_param": 0.1}}), CODE.INVALID_ARGUMENT, "no parameter 'alfa'"),
    "empty parameter": (asking(parameters={"alpha": {}}), CODE.INVALID_ARGUMENT, "parameter 'alpha' of the request must be"),
    "output": (asking(outputs=[{"name": "scores"}]), CODE.INVALID_ARGUMENT, "no output 'scores'"),
    "sequence": (asking(parameters={"sequence_id": {"int64_param": 7}}), CODE.UNIMPLEMENTED, "no state between requests"),
    "shared memory": (
        asking(inputs=[{**TENSOR, "parameters": {"shared_memory_region": {"string_param": "a"}}}]), CODE.UNIMPLEMENTED, "shared memory",
    ),
    "too many rows": (
        asking(inputs=[{"name": "rows", "datatype": "UINT8", "shape": [100_001, 1]}], raw_input_contents=[bytes(100_001)]),
        CODE.RESOURCE_EXHAUSTED, "100001 rows",
    ),
    "much without binary data": (asking(id="x" * (JSON_LIMIT + 1)), CODE.RESOURCE_EXHAUSTED, "the limit is 1000000"),
    "too large": (asking(raw_input_contents=[bytes(BODY_LIMIT + 70_000)]), CODE.RESOURCE_EXHAUSTED, "larger than max"),
    "many fields": (asking(raw_input_contents=[b""] * 20_000), CODE.INVALID_ARGUMENT, "more than 10000 fields"),
}  # fmt: skip


@pytest.mark.parametrize(("message", "code", "says"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refusals(service: Served, channel: grpc.Channel, message: Any, code: grpc.StatusCode, says: str) -> None:
    """With the status of gRPC for it, in words that name what came and what is needed; and the service goes on."""
    found, detail = refused(channel, "ModelInfer", message)
    assert found == code and says in detail and "Traceback" not in detail
    assert call(channel, "ModelInfer", asking(ONE))


def test_refusals_of_other_methods(service: Served, channel: grpc.Channel) -> None:
    """Names, versions, broken and large messages, and methods that are not there."""
    assert refused(channel, "ModelMetadata", service_pb2.ModelMetadataRequest(name="nope"))[0] == CODE.NOT_FOUND
    assert refused(channel, "ModelReady", service_pb2.ModelReadyRequest(name="a b"))[0] == CODE.INVALID_ARGUMENT
    assert refused(channel, "ModelStatistics", service_pb2.ModelStatisticsRequest(name="nope"))[0] == CODE.NOT_FOUND
    assert refused(channel, "RepositoryModelUnload", service_pb2.RepositoryModelUnloadRequest(model_name="nope"))[0] == CODE.NOT_FOUND
    assert refused(channel, "ModelReady", b"\xff") == (CODE.INVALID_ARGUMENT, "the message is no ModelReadyRequest")
    assert refused(channel, "ModelReady", service_pb2.ModelReadyRequest(name="x" * 70_000))[0] == CODE.RESOURCE_EXHAUSTED
    for method in ("ModelStreamInfer", "ModelConfig", "Nothing"):
        assert refused(channel, method, b"")[0] == CODE.UNIMPLEMENTED
    assert "Traceback" not in service.process.log()


def test_a_damaged_version_is_unavailable(service: Served, channel: grpc.Channel) -> None:
    manifest = service.store.manifest("rows", 1)
    service.store.publish("bad", manifest, dict.fromkeys(manifest.blobs, b"damaged"))
    code, detail = refused(channel, "ModelInfer", asking(model="bad"))
    assert code == CODE.UNAVAILABLE and "was refused" in detail


def test_every_status_has_its_counterpart() -> None:
    """No refusal is without a status in gRPC, but for those of routes that gRPC has not."""
    assert {status for status, _ in STATUS.values()} - {406, 460} <= CODES.keys()


def test_many_at_once_get_their_own_answers(service: Served, channel: grpc.Channel) -> None:
    """On one connection."""
    batches = [rows(1 + index % 7, seed=index) for index in range(64)]
    calls = [channel.unary_unary(f"/{SERVICE}/ModelInfer").future(asking(batch).SerializeToString()) for batch in batches]
    for batch, made in zip(batches, calls, strict=True):
        found = blocking.InferResult(service_pb2.ModelInferResponse.FromString(made.result()))
        assert_equal(found, native(service, batch=batch), rounding=1e-12)


def test_overload_deadlines_and_the_end(tmp_path: Path) -> None:
    """A full queue refuses at once, work that nobody waits for any more is not done, and a signal lets calls end."""
    limits = {"FARFIELD_GRPC_PORT": "0", "FARFIELD_THREADS": "1", "FARFIELD_QUEUE": "2"}
    with served(tmp_path, {"rows": [fitted()]}, **limits) as running, grpc.insecure_channel(address(running)) as channel:
        infer, big = channel.unary_unary(f"/{SERVICE}/ModelInfer"), asking(rows(100_000)).SerializeToString()
        full: set[grpc.StatusCode] = set()
        while CODE.UNAVAILABLE not in full:  # a burst that comes slower than it is scored fills no queue
            calls = [infer.future(big) for _ in range(12)]
            full = {made.code() for made in calls}
            assert {CODE.OK} <= full <= {CODE.OK, CODE.UNAVAILABLE}

        scored = executions(running)
        long = infer.future(big)
        hurried = infer.future(asking(rows(5000)).SerializeToString(), timeout=1e-4)  # too large to be scored at once
        assert (hurried.code(), long.code()) == (CODE.DEADLINE_EXCEEDED, CODE.OK)
        infer(asking(rows(5)).SerializeToString())
        assert executions(running) == scored + 2

        last: list[Any] = []

        def calls_wait() -> bool:  # a slow reader of the metrics may find all of them answered: there are new ones then
            if all(made.done() for made in last):
                last[:] = [infer.future(big) for _ in range(3)]
            return "farfield_queue_depth 0.0" not in running.client.get("/metrics").text

        eventually(calls_wait, "calls wait")
        running.process.process.send_signal(signal.SIGTERM)
        assert CODE.OK in {made.code() for made in last}
        assert {made.code() for made in last} <= {CODE.OK, CODE.UNAVAILABLE}
        assert running.process.process.wait(30) == 128 + signal.SIGTERM
    assert "Traceback" not in running.process.log()


def executions(service: Served) -> int:
    found: int = service.client.get("/v2/models/rows/stats").json()["model_stats"][0]["execution_count"]
    return found


def test_a_port_that_is_taken_is_named(service: Served, tmp_path: Path) -> None:
    """The second service says so, and ends."""
    port = address(service).partition(":")[2]
    second = ServiceProcess(tmp_path, f"embedded:{tmp_path / 'data'}", {"FARFIELD_GRPC_PORT": port})
    second.spawn()
    assert second.process.wait(60) == 1
    assert f"cannot listen for gRPC on 127.0.0.1, port {port}" in second.log() and "Traceback" not in second.log()
