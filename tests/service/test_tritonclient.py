"""Triton's own Python client, blocking and asyncio, works unchanged: every form it can send and ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as blocking
import tritonclient.http.aio as asynchronous
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from tests.service.samples import fitted
from tests.service.served import NORMAL, Served, fitted_images, rows, served

OUTPUTS = ("score", "p_value", "is_outlier")
FILES = [path.read_bytes() for path in NORMAL[:4]]
BATCH = rows(40, seed=3)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("triton"), {"rows": [fitted(1.0), fitted(2.0)], "images": [fitted_images()]}) as running:
        running.store.move_alias("rows", "shadow", 1)
        yield running


@pytest.fixture
def client(service: Served) -> Iterator[Any]:
    with blocking.InferenceServerClient(address(service)) as found:
        yield found


def address(service: Served) -> str:
    return service.process.url.removeprefix("http://")


def given(module: Any, values: NDArray[Any], datatype: str, name: str = "rows", **how: Any) -> Any:
    tensor = module.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values, **how)
    return tensor


def native(service: Served, reference: str = "rows", batch: NDArray[Any] = BATCH, **options: Any) -> dict[str, list[Any]]:
    results = service.score(reference, batch, params=options).json()["results"]
    return {name: [result[name] for result in results] for name in OUTPUTS}


def assert_equal(result: Any, expected: dict[str, list[Any]], rounding: float = 0.0) -> None:
    """To the last bit, or where the batch may have been scored with others but for ``rounding``."""
    assert tuple(expected) == OUTPUTS
    for name, values in expected.items():
        np.testing.assert_allclose(result.as_numpy(name), values, rtol=rounding)


@pytest.mark.parametrize("sent_as", ["binary", "JSON"])
@pytest.mark.parametrize("asked_as", ["default", "binary", "JSON"])
@pytest.mark.parametrize(("request_coding", "answer_coding"), [(None, None), ("gzip", "deflate"), ("deflate", "gzip")])
def test_every_form(
    service: Served, client: Any, sent_as: str, asked_as: str, request_coding: str | None, answer_coding: str | None
) -> None:
    """The client reads the scores of /v1 out of each, and so does its asyncio twin."""
    coding = {"request_compression_algorithm": request_coding, "response_compression_algorithm": answer_coding}

    def arguments(module: Any) -> dict[str, Any]:
        asked = [module.InferRequestedOutput(name, binary_data=asked_as == "binary") for name in OUTPUTS]
        inputs = [given(module, BATCH, "FP64", binary_data=sent_as == "binary")]
        return {"inputs": inputs, "outputs": None if asked_as == "default" else asked, **coding}

    async def ask() -> Any:
        async with asynchronous.InferenceServerClient(address(service)) as other:
            return await other.infer("rows", **arguments(asynchronous))

    expected = native(service)
    assert_equal(client.infer("rows", **arguments(blocking)), expected)
    assert_equal(asyncio.run(ask()), expected)


@pytest.mark.parametrize(
    ("datatype", "values"),
    [
        ("FP32", BATCH.astype(np.float32)),
        ("FP16", BATCH.astype(np.float16)),
        ("BF16", BATCH.astype(ml_dtypes.bfloat16)),
        ("INT32", (9 * BATCH).astype(np.int32)),
        ("BOOL", BATCH > 0),
    ],
)
def test_every_kind_of_number(service: Served, client: Any, datatype: str, values: NDArray[Any]) -> None:
    """As the client itself puts them into bytes."""
    assert_equal(client.infer("rows", [given(blocking, values, datatype)]), native(service, batch=values.astype(np.float64)))


def test_images(service: Served, client: Any) -> None:
    """PNG files as BYTES, one by one in the client's own encoding of them."""
    parts = [("images", ("a.png", file, "image/png")) for file in FILES]
    results = service.client.post("/v1/detectors/images:score", files=parts).json()["results"]
    found = client.infer("images", [given(blocking, np.array(FILES, object), "BYTES", "images")])
    assert found.as_numpy("score").tolist() == [result["score"] for result in results]


def test_version_parameters_and_identity(service: Served, client: Any) -> None:
    """A number or an alias as version, options as parameters, the id back, attribution by name."""
    inputs = [given(blocking, BATCH, "FP64")]
    for version in ("1", "shadow"):
        result = client.infer("rows", inputs, version, request_id="42", parameters={"alpha": 0.3, "fdr": True})
        assert_equal(result, native(service, "rows/versions/1", alpha=0.3, fdr=True))
        answer = result.get_response()
        assert (answer["id"], answer["model_version"], answer["parameters"]["alpha"]) == ("42", "1", 0.3)
    asked = [blocking.InferRequestedOutput("attribution"), blocking.InferRequestedOutput("score")]
    result = client.infer("rows", inputs, outputs=asked)
    np.testing.assert_allclose(result.as_numpy("attribution").sum(axis=1), result.as_numpy("score"), rtol=1e-9)


def test_a_timeout_that_is_over(service: Served, client: Any) -> None:
    """Microseconds of the client's ``timeout``, or what a header says: 504, and nothing is scored. 0 and longer ones change nothing."""
    inputs = [given(blocking, BATCH, "FP64")]
    assert client.is_model_ready("rows", "1")
    (before,) = client.get_inference_statistics("rows", "1")["model_stats"]

    async def ask(**how: Any) -> Any:
        async with asynchronous.InferenceServerClient(address(service)) as other:
            return await other.infer("rows", [given(asynchronous, BATCH, "FP64")], "1", **how)

    for how in ({"timeout": 1}, {"headers": {"x-request-timeout": "0.000001"}}):
        with pytest.raises(InferenceServerException, match="allows for an answer") as late:
            client.infer("rows", inputs, "1", **how)
        assert late.value.status() == "504"
        with pytest.raises(InferenceServerException, match="allows for an answer"):
            asyncio.run(ask(**how))
    (after,) = client.get_inference_statistics("rows", "1")["model_stats"]
    assert after["inference_count"] == before["inference_count"]
    assert after["inference_stats"]["fail"]["count"] == before["inference_stats"]["fail"]["count"] + 4
    expected = native(service, "rows/versions/1")
    for long in (0, 60_000_000):
        assert_equal(client.infer("rows", inputs, "1", timeout=long), expected)
        assert_equal(asyncio.run(ask(timeout=long)), expected)


@pytest.mark.parametrize("timeout", [-1, 1.5, True, "soon", 10**18])
def test_a_timeout_that_is_none_is_refused(client: Any, timeout: Any) -> None:
    """In words that say what it has to be."""
    with pytest.raises(InferenceServerException, match="timeout must be a whole number of microseconds") as refused:
        client.infer("rows", [given(blocking, BATCH, "FP64")], timeout=timeout)
    assert refused.value.status() == "400"


def test_many_at_once(service: Served) -> None:
    """Through the client's pool of connections each request gets its own answer."""
    batches = [rows(1 + index, seed=index) for index in range(16)]
    with blocking.InferenceServerClient(address(service), concurrency=8) as client:
        waiting = [client.async_infer("rows", [given(blocking, batch, "FP64")]) for batch in batches]
        for batch, answer in zip(batches, waiting, strict=True):
            assert_equal(answer.get_result(), native(service, batch=batch), rounding=1e-12)


def test_health_and_metadata(client: Any) -> None:
    """What its example programs look at before they begin, down to a model that was unloaded."""
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("rows") and client.is_model_ready("rows", "shadow") and not client.is_model_ready("nope")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert client.get_model_metadata("rows", "1")["inputs"] == [{"name": "rows", "datatype": "FP64", "shape": [-1, 4]}]
    client.unload_model("rows")
    assert not client.is_model_ready("rows")
    index = {(item["name"], item["version"]): item["state"] for item in client.get_model_repository_index()}
    assert index == {("images", "1"): "READY", ("rows", "1"): "UNAVAILABLE", ("rows", "2"): "UNAVAILABLE"}
    client.load_model("rows")
    assert client.is_model_ready("rows")
    client.infer("rows", [given(blocking, BATCH, "FP64")])
    (counted,) = client.get_inference_statistics("rows")["model_stats"]
    assert counted["inference_count"] == len(BATCH)


@pytest.mark.parametrize(
    ("model", "name", "values", "status", "says"),
    [
        ("nope", "rows", BATCH, "404", "no detector named"),
        ("rows", "other", BATCH, "400", "the only input is 'rows'"),
        ("rows", "rows", BATCH[:, :3], "400", "3 features; this detector takes 4"),
    ],
)
def test_refusals_are_understood(service: Served, client: Any, model: str, name: str, values: NDArray[Any], status: str, says: str) -> None:
    """The client raises its own error, with the status and the words of the service; so does its asyncio twin."""
    with pytest.raises(InferenceServerException, match=says) as refused:
        client.infer(model, [given(blocking, np.ascontiguousarray(values), "FP64", name)])
    assert refused.value.status() == status

    async def ask() -> Any:
        async with asynchronous.InferenceServerClient(address(service)) as other:
            await other.infer(model, [given(asynchronous, np.ascontiguousarray(values), "FP64", name)])

    with pytest.raises(InferenceServerException, match=says):
        asyncio.run(ask())


def test_what_is_not_offered(client: Any) -> None:
    """A configuration in the request is refused as such."""
    with pytest.raises(InferenceServerException, match="as the store has them"):
        client.load_model("rows", config="{}")
