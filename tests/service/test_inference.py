"""``/v2`` over a socket: the scores of ``/v1`` to the last bit, in every form of the Open Inference Protocol."""

from __future__ import annotations

import base64
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from service import engine
from service.features import Batch
from tests.servers import eventually
from tests.service.envelopes import HEADER, elements, of_rows, outputs, request, sent
from tests.service.samples import fitted
from tests.service.served import NORMAL, ODD, Served, fitted_images, rows, served

BODY_LIMIT = 4_000_000
SHOWN = [*NORMAL[:3], *ODD[:2]]
FILES = [path.read_bytes() for path in SHOWN]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    detectors = {
        "rows": [fitted(1.0), fitted(2.0)],
        "led": [fitted(1.0), fitted(2.0), fitted(3.0)],
        "images": [fitted_images()],
        "counted": [fitted()],
        "unloaded": [fitted(1.0), fitted(2.0)],
    }
    with served(tmp_path_factory.mktemp("inference"), detectors, FARFIELD_MAX_BODY_BYTES=str(BODY_LIMIT)) as running:
        running.store.move_alias("led", "champion", 2)
        running.store.move_alias("led", "shadow", 1)
        eventually(lambda: running.client.get("/v2/models/led").json()["properties"]["version"] == "2", "the champion is served")
        yield running


def infer(service: Served, model: str, sending: tuple[bytes, dict[str, str]], **headers: str) -> httpx2.Response:
    body, own = sending
    return service.client.post(f"/v2/models/{model}/infer", content=body, headers={**own, **headers})


def native(service: Served, reference: str, batch: NDArray[Any], **options: Any) -> dict[str, NDArray[Any]]:
    """What ``:score`` says, as the outputs of ``/v2``."""
    results = service.score(reference, batch, params=options).json()["results"]
    return {name: np.array([result[name] for result in results]) for name in ("score", "p_value", "is_outlier")}


@pytest.mark.parametrize("count", [3, 5000])
def test_the_time_of_each_stage_is_told(service: Served, count: int) -> None:
    """In the header of the native interface, of small and large batches and of images, whatever form the answer has."""
    body, headers = of_rows(rows(count), parameters={"binary_data_output": count > 3})
    files = request(sent("images", "BYTES", [len(FILES)], elements(*FILES)))
    for answer in (infer(service, "rows", (body, headers)), infer(service, "images", files)):
        found = dict(re.findall(r"(\w+);dur=([\d.]+)", answer.headers["server-timing"]))
        assert list(found) == ["decode", "queue", "extract", "score", "encode"]
        assert min(float(found[stage]) for stage in ("decode", "score", "encode")) > 0, found


def assert_equal(answer: httpx2.Response, expected: dict[str, NDArray[Any]], rounding: float = 0.0) -> None:
    """The answer has these outputs in this order, to the last bit, or but for ``rounding`` where others may have been scored with them."""
    found = outputs(answer)
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=rounding)


def refused(answer: httpx2.Response, status: int) -> str:
    """What a refusal in the protocol's form says."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["error"]
    assert "Traceback" not in body["error"] and ".py" not in body["error"]
    return str(body["error"])


@pytest.mark.parametrize("identity", ["", "a", "ab", "abc", "abcd", "abcde", "abcdef", "abcdefg"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_binary_rows_score_as_under_v1(service: Served, dtype: type, identity: str) -> None:
    """Wherever in the body the data begin: aligned in memory or not."""
    batch = rows(50).astype(dtype)
    answer = infer(service, "rows", of_rows(batch, id=identity))
    assert answer.headers["content-type"] == "application/json"
    assert_equal(answer, native(service, "rows", batch))


@pytest.mark.parametrize("datatype", ["FP64", "FP32"])
def test_json_rows_score_as_under_v1(service: Served, datatype: str) -> None:
    """Nested and flat; FP32 means the number that a float32 holds."""
    batch = rows(20)
    expected = native(service, "rows", batch.astype({"FP64": np.float64, "FP32": np.float32}[datatype]))
    for data in (batch.tolist(), batch.ravel().tolist()):
        assert_equal(infer(service, "rows", request(sent("rows", datatype, [20, 4], data))), expected)


@pytest.mark.parametrize(
    ("datatype", "batch"),
    [
        ("BOOL", rows(9) > 0),
        ("UINT8", np.abs(9 * rows(9)).astype("u1")),
        ("INT16", (9 * rows(9)).astype("<i2")),
        ("INT64", (9 * rows(9)).astype("<i8")),
        ("FP16", rows(9).astype("<f2")),
    ],
)
def test_other_numbers_are_widened(service: Served, datatype: str, batch: NDArray[Any]) -> None:
    """As .npy bodies of the same numbers are."""
    assert_equal(infer(service, "rows", request(sent("rows", datatype, [9, 4], batch.tobytes()))), native(service, "rows", batch))


def test_bfloat16_is_widened(service: Served) -> None:
    """BF16 is the upper half of a float32."""
    halves = (rows(9).astype("<f4").view("<u4") >> 16).astype("<u2")
    whole = (halves.astype("<u4") << 16).view("<f4")
    assert_equal(infer(service, "rows", request(sent("rows", "BF16", [9, 4], halves.tobytes()))), native(service, "rows", whole))


def test_a_raw_body(service: Served) -> None:
    """The data of the input and nothing else, as the metadata describe it; the answer is binary."""
    batch = rows(7)
    answer = infer(service, "rows", (batch.tobytes(), {HEADER: "0"}))
    assert answer.headers["content-type"] == "application/octet-stream"
    assert_equal(answer, native(service, "rows", batch))
    image = infer(service, "images", (FILES[0], {HEADER: "0"}))
    np.testing.assert_array_equal(outputs(image)["score"], image_scores(service, FILES[:1]))


def image_scores(service: Served, files: list[bytes]) -> NDArray[np.float64]:
    parts = [("images", ("a.png", file, "image/png")) for file in files]
    answer = service.client.post("/v1/detectors/images:score", files=parts)
    return np.array([result["score"] for result in answer.json()["results"]])


@pytest.mark.parametrize("shape", [[5], [5, 1]])
def test_images_score_as_under_v1(service: Served, shape: list[int]) -> None:
    """As binary elements, and as base64 in JSON."""
    expected = image_scores(service, FILES)
    texts = [base64.b64encode(file).decode() for file in FILES]
    for data in (elements(*FILES), texts):
        found = outputs(infer(service, "images", request(sent("images", "BYTES", shape, data))))
        np.testing.assert_array_equal(found["score"], expected)


@pytest.mark.parametrize("pack", [gzip, zlib])
def test_compressed_both_ways(service: Served, pack: Any) -> None:
    """The length of the JSON is counted before compression, in the request and in the answer."""
    encoding = {gzip: "gzip", zlib: "deflate"}[pack]
    batch = rows(30)
    body, headers = of_rows(batch, parameters={"binary_data_output": True})
    plain = infer(service, "rows", (body, headers))
    coding = {"Content-Encoding": encoding, "Accept-Encoding": encoding}
    with service.client.stream("POST", "/v2/models/rows/infer", content=pack.compress(body), headers={**headers, **coding}) as answer:
        packed = b"".join(answer.iter_raw())
    assert (answer.headers["content-encoding"], answer.headers[HEADER]) == (encoding, plain.headers[HEADER])
    assert pack.decompress(packed) == plain.content
    assert_equal(plain, native(service, "rows", batch))


def test_outputs_as_asked_for(service: Served) -> None:
    """Those named, in their order, each in its form; attribution adds up to the score."""
    wanted = [{"name": "attribution"}, {"name": "score", "parameters": {"binary_data": True}}]
    answer = infer(service, "rows", of_rows(rows(6), outputs=wanted))
    length = int(answer.headers[HEADER])
    forms = {item["name"]: sorted(item.keys() & {"data", "parameters"}) for item in json.loads(answer.content[:length])["outputs"]}
    assert forms == {"attribution": ["data"], "score": ["parameters"]}
    found = outputs(answer)
    assert found["attribution"].shape == (6, 4)
    np.testing.assert_allclose(found["attribution"].sum(axis=1), found["score"], rtol=1e-9)
    with threadpool_limits(1, user_api="blas"):
        expected = engine.score(fitted(2.0), Batch(rows=rows(6)), attribute_by="feature").attributions
    np.testing.assert_array_equal(found["attribution"], expected)


def test_parameters_judge_as_options_do(service: Served) -> None:
    """alpha and fdr mean what they mean for :score; what else Triton's clients may send changes nothing."""
    batch = 2 * rows(100)
    for options in ({"alpha": 0.2}, {"alpha": 0.3, "fdr": True}):
        answer = infer(service, "rows", of_rows(batch, parameters={**options, "priority": 1, "timeout": 60_000_000}, id="x"))
        assert_equal(answer, native(service, "rows", batch, **options))
        document = answer.json()
        assert (document["id"], document["model_name"], document["model_version"]) == ("x", "rows", "2")
        body = service.score("rows", batch, params=options).json()
        assert {name: document["parameters"][name] for name in ("alpha", "threshold", "n_calibration")} == {
            name: body[name] for name in ("alpha", "threshold", "n_calibration")
        }
    unreachable = infer(service, "rows", of_rows(batch, parameters={"alpha": 0.001}))
    assert unreachable.status_code == 400
    assert "needs at least 999 calibration rows" in unreachable.json()["error"]


@pytest.mark.parametrize(
    ("slot", "version"),
    [
        ("rows", 2), ("rows/versions/1", 1), ("rows/versions/latest", 2), ("led", 2), ("led/versions/champion", 2),
        ("led/versions/shadow", 1), ("led/versions/3", 3),
    ],
)  # fmt: skip
def test_versions_and_aliases(service: Served, slot: str, version: int) -> None:
    """An alias stands where a number does, and every answer has the number."""
    name = slot.partition("/")[0]
    answer = infer(service, slot, of_rows(rows(5)))
    assert answer.json()["model_version"] == str(version)
    assert_equal(answer, native(service, f"{name}/versions/{version}", rows(5)))
    ready = service.client.get(f"/v2/models/{slot}/ready").json()
    assert ready == {"name": name, "version": str(version), "ready": True}
    assert service.client.get(f"/v2/models/{slot}").json()["properties"]["version"] == str(version)


def test_metadata(service: Served) -> None:
    """Of the server and of its models; an alias is resolved to the one version that it means."""
    for path in ("/v2", "/v2/"):
        server = service.client.get(path).json()
        assert server["name"] == "farfield" and {"binary_tensor_data", "model_repository", "statistics"} <= set(server["extensions"])
    assert service.client.get("/v2/health/live").json() == {"live": True}
    assert service.client.get("/v2/health/ready").json() == {"ready": True, "live": True}
    assert {"images", "led", "rows"} < set(service.client.get("/v2/models").json()["models"])
    model = service.client.get("/v2/models/led").json()
    assert (model["name"], model["versions"], model["platform"]) == ("led", ["1", "2", "3"], "farfield_gaussian")
    assert model["inputs"] == [{"name": "rows", "datatype": "FP64", "shape": [-1, 4]}]
    assert [output["name"] for output in model["outputs"]] == ["score", "p_value", "is_outlier", "attribution"]
    assert model["properties"]["n_calibration"] == "60"
    assert service.client.get("/v2/models/led/versions/shadow").json()["versions"] == ["1"]
    assert service.client.get("/v2/models/images").json()["inputs"] == [{"name": "images", "datatype": "BYTES", "shape": [-1]}]


def states(service: Served, body: Any = None) -> dict[tuple[str, str], tuple[str, str]]:
    answer = service.client.post("/v2/repository/index", content=b"" if body is None else json.dumps(body).encode())
    assert answer.status_code == 200, answer.text
    return {(item["name"], item["version"]): (item["state"], item["reason"]) for item in answer.json()}


def test_unloaded_models_are_not_ready_and_score_again(service: Served) -> None:
    """Unloading drops all versions of a model; loading brings back its default, and inference whatever it asks for."""

    def state(number: str) -> tuple[str, str]:
        return states(service)["unloaded", number]

    client, first = service.client, "unloaded/versions/1"
    assert state("1") == ("UNAVAILABLE", "not in memory")
    assert client.get(f"/v2/models/{first}/ready").status_code == 200
    assert state("1") == state("2") == ("READY", "")
    assert client.post("/v2/repository/models/unloaded/unload").json() == {"name": "unloaded", "version": "2", "ready": False}
    assert state("1") == state("2") == ("UNAVAILABLE", "unloaded by request")
    assert {name for name, _ in states(service, {"ready": True})} >= {"rows", "led"}
    assert "unloaded" not in {name for name, _ in states(service, {"ready": True})}
    assert 'detector="unloaded",version=' not in client.get("/metrics").text
    assert "was unloaded" in refused(client.get("/v2/models/unloaded/ready"), 503)
    assert_equal(infer(service, first, of_rows(rows(3))), native(service, first, rows(3)))
    assert (state("1")[0], state("2")[0]) == ("READY", "UNAVAILABLE")
    assert client.post("/v2/repository/models/unloaded/load", json={"parameters": {}}).json()["version"] == "2"
    assert client.get("/v2/models/unloaded/ready").status_code == 200
    assert state("2") == ("READY", "")


def test_statistics_count_what_was_scored(service: Served) -> None:
    """Requests of both interfaces, rows, time by stage, and refusals; an unloaded version begins anew."""
    infer(service, "counted", of_rows(rows(5)))
    service.score("counted", rows(7))
    infer(service, "counted", of_rows(rows(5, width=3)))
    (counted,) = service.client.get("/v2/models/counted/stats").json()["model_stats"]
    assert (counted["name"], counted["version"]) == ("counted", "1")
    assert (counted["inference_count"], counted["execution_count"]) == (12, 2)
    durations = counted["inference_stats"]
    assert {stage: item["count"] for stage, item in durations.items()} == {
        "success": 2, "fail": 1, "queue": 2, "compute_input": 2, "compute_infer": 2, "compute_output": 2,
    }  # fmt: skip
    assert all(item["ns"] > 0 for item in durations.values())
    parts = sum(durations[stage]["ns"] for stage in ("queue", "compute_input", "compute_infer", "compute_output"))
    assert durations["success"]["ns"] == pytest.approx(parts, abs=10)
    assert counted["last_inference"] > 1.7e12
    for path in ("counted/versions/1/stats", "counted/versions/latest/stats"):
        assert service.client.get(f"/v2/models/{path}").json()["model_stats"] == [counted]
    assert counted in service.client.get("/v2/models/stats").json()["model_stats"]
    service.client.post("/v2/repository/models/counted/unload")
    assert service.client.get("/v2/models/counted/stats").json() == {"model_stats": []}
    assert service.client.get("/v2/models/counted/versions/1/stats").json()["model_stats"][0]["inference_count"] == 0


def test_what_a_damaged_version_says(service: Served) -> None:
    """It is not ready, cannot be loaded, and the index has the reason."""
    manifest = service.store.manifest("rows", 1)
    service.store.publish("bad", manifest, dict.fromkeys(manifest.blobs, b"damaged"))
    for method, path in (("GET", "models/bad/ready"), ("POST", "models/bad/infer"), ("POST", "repository/models/bad/load")):
        assert "refused" in refused(service.client.request(method, f"/v2/{path}"), 503)
    state, reason = states(service)["bad", "1"]
    assert state == "UNAVAILABLE" and len(reason) > 10


GOOD = of_rows(rows(2))
REFUSALS: dict[str, tuple[str, tuple[bytes, dict[str, str]], int, str]] = {
    "unknown model": ("nope", GOOD, 404, "no detector named 'nope'"),
    "unknown version": ("rows/versions/7", GOOD, 404, "no version 7"),
    "version 0": ("rows/versions/0", GOOD, 404, "no version 0"),
    "unknown alias": ("rows/versions/shadow", GOOD, 404, "no alias 'shadow'"),
    "no version": ("rows/versions/1.5", GOOD, 400, "version"),
    "version of 5000 digits": (f"rows/versions/{'9' * 5000}", GOOD, 400, "version"),
    "no name": ("a%20b", GOOD, 400, "name"),
    "width": ("rows", of_rows(rows(2, width=5)), 400, "5 features; this detector takes 4"),
    "NaN": ("rows", of_rows(np.array([[1, 2, np.nan, 4]])), 400, "row 0, feature 2 is nan"),
    "beyond FP32": ("rows", request(sent("rows", "FP32", [1, 4], [1, 2, 3, 1e300])), 400, "row 0, feature 3 is inf"),
    "name of the input": ("rows", request(sent("x", "FP64", [1, 4], [1, 2, 3, 4])), 400, "the only input is 'rows'"),
    "one input too many": ("rows", request(sent("rows", "FP64", [1], [1]), sent("x", "FP64", [1], [1])), 400, "'rows', 'x' came"),
    "one dimension": ("rows", request(sent("rows", "FP64", [4], [1, 2, 3, 4])), 400, "shape [4]; [rows, features]"),
    "BYTES to rows": ("rows", request(sent("rows", "BYTES", [1], elements(b"a"))), 400, "holds numbers"),
    "numbers to images": ("images", request(sent("images", "UINT8", [3], b"abc")), 400, "BYTES [n], an image file"),
    "images in two dimensions": ("images", request(sent("images", "BYTES", [1, 2], elements(b"a", b"b"))), 400, "BYTES [1, 2]"),
    "no image": ("images", request(sent("images", "BYTES", [1], elements(b"text"))), 400, "image 0"),
    "too wide": ("rows", request(sent("rows", "UINT8", [1, 70_000], bytes(70_000))), 413, "70000 features"),
    "too many rows": ("rows", request(sent("rows", "UINT8", [100_001, 1], bytes(100_001))), 413, "100001 rows"),
    "too large": ("rows", (bytes(BODY_LIMIT + 1), {}), 413, str(BODY_LIMIT)),
    "a bomb": ("rows", (zlib.compress(bytes(BODY_LIMIT + 1)), {"Content-Encoding": "deflate"}), 413, "unpacks to more than"),
    "encoding": ("rows", (b"", {"Content-Encoding": "br"}), 400, "'br'"),
    "alpha": ("rows", of_rows(rows(1), parameters={"alpha": 2}), 400, "alpha: Input should be less than 1, not 2"),
    "fdr": ("rows", of_rows(rows(1), parameters={"fdr": "perhaps"}), 400, "fdr"),
    "parameter": ("rows", of_rows(rows(1), parameters={"alfa": 0.1}), 400, "no parameter 'alfa'"),
    "output": ("rows", of_rows(rows(1), outputs=[{"name": "scores"}]), 400, "no output 'scores'"),
    "sequence": ("rows", of_rows(rows(1), parameters={"sequence_id": 7}), 501, "no state between requests"),
    "classification": ("rows", of_rows(rows(1), outputs=[{"name": "score", "parameters": {"classification": 1}}]), 501, "classification"),
}


@pytest.mark.parametrize(("model", "sending", "status", "says"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refusals(service: Served, model: str, sending: tuple[bytes, dict[str, str]], status: int, says: str) -> None:
    """In the protocol's form, with its codes, in words that name what came and what is needed; and the service goes on."""
    assert says in refused(infer(service, model, sending), status)
    assert infer(service, "rows", GOOD).status_code == 200


def test_refusals_of_other_routes(service: Served) -> None:
    """Everything below /v2 refuses in the protocol's form: unknown paths and methods, pages of other sites, models in requests."""
    client = service.client
    assert "nothing at" in refused(client.get("/v2/nothing"), 404)
    assert "DELETE" in refused(client.delete("/v2/models/rows"), 405)
    assert "evil.example" in refused(client.post("/v2/models/rows/infer", headers={"Origin": "http://evil.example"}), 403)
    for path in ("models/nope", "models/nope/ready", "models/nope/stats", "models/rows/versions/9/stats"):
        refused(client.get(f"/v2/{path}"), 404)
    for action in ("load", "unload"):
        assert "no detector named" in refused(client.post(f"/v2/repository/models/nope/{action}"), 404)
        assert "config cannot be given" in refused(
            client.post(f"/v2/repository/models/rows/{action}", json={"parameters": {"config": "{}"}}), 501
        )
        assert "JSON object" in refused(client.post(f"/v2/repository/models/rows/{action}", json=[]), 400)
    for body, says in ((b"[", "not JSON"), (b"7", "JSON object"), (b'{"ready": 1}', "true or false")):
        assert says in refused(client.post("/v2/repository/index", content=body), 400)
    assert client.get("/v2x").headers["content-type"] == "application/problem+json"
    assert "Traceback" not in service.process.log()


def test_overload_is_told_in_the_protocols_form(tmp_path: Path) -> None:
    """503 with Retry-After at once; what is answered is right, and afterwards the service answers again."""
    with served(tmp_path, {"rows": [fitted()]}, FARFIELD_THREADS="1", FARFIELD_QUEUE="1") as service:
        sending = of_rows(batch := rows(20_000))
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: infer(service, "rows", sending), range(12)))
        assert {answer.status_code for answer in answers} == {200, 503}
        for answer in answers:
            if answer.status_code == 503:
                assert "waiting already" in refused(answer, 503)
                assert int(answer.headers["retry-after"]) >= 1
        eventually(lambda: infer(service, "rows", of_rows(rows(1))).status_code == 200, "the service answers again")
        expected = native(service, "rows", batch)
        for answer in answers:
            if answer.status_code == 200:
                assert_equal(answer, expected)


def test_concurrent_requests_do_not_mix(service: Served) -> None:
    """64 requests at the same time in different forms, each with rows and a version of its own."""
    batches = [rows(1 + index % 7, seed=index) for index in range(64)]

    def ask(index: int) -> httpx2.Response:
        batch = batches[index]
        sending = of_rows(batch) if index % 3 else request(sent("rows", "FP64", list(batch.shape), batch.tolist()))
        return infer(service, f"rows/versions/{1 + index % 2}", sending)

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(ask, range(64)))
    for index, (answer, batch) in enumerate(zip(answers, batches, strict=True)):
        assert_equal(answer, native(service, f"rows/versions/{1 + index % 2}", batch), rounding=1e-12)


def test_requests_made_from_the_openapi_document(service: Served) -> None:
    """What schemathesis makes of the document is answered as the document says, and never by an error of the service."""
    schema = schemathesis.openapi.from_dict(service.client.get("/openapi.json").json())
    tried = set()
    for result in schema.include(path_regex="^/v2").get_all_operations():
        operation = result.ok()
        tried.add(operation.path)

        @given(case=operation.as_strategy())
        @settings(
            max_examples=15,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def conforms(case: schemathesis.Case) -> None:
            case.call_and_validate(base_url=service.process.url)

        conforms()
    assert len(tried) == 16
