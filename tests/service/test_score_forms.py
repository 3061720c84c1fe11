"""``:score`` in the binary forms, in and out: the same content as JSON, and words for what is not right."""

from __future__ import annotations

import csv
import gzip
import io
import json
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import orjson
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load, save

from service import engine
from service.errors import InvalidInput
from service.features import Batch
from service.recipe import Recipe
from service.scoring import codecs, tables
from service.scoring.encoders import FORMS
from service.settings import Settings
from tests.service.samples import fitted
from tests.service.served import JSON, NPY, Served, npy, rows, served

ARROW, SAFETENSORS, CSV = "application/vnd.apache.arrow.stream", "application/vnd.safetensors", "text/csv"
NAMES = ["a", "b", "c", "d"]
LIMIT = 4_000_000


def named() -> engine.Fitted:
    """A detector whose features have names, calibrated by class."""
    data = np.random.default_rng(0).standard_normal((300, 4))
    data[150:] += 5
    recipe = Recipe("class_gaussian", alpha=0.1, method="class-conditional")
    return engine.fit(recipe, Batch(rows=data), feature_names=NAMES, classes=np.repeat(["left", "right"], 150))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    detectors = {"rows": [fitted()], "named": [named()], "single": [single()]}
    with served(tmp_path_factory.mktemp("forms"), detectors, FARFIELD_MAX_BODY_BYTES=str(LIMIT)) as running:
        yield running


def single() -> engine.Fitted:
    data = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
    return engine.fit(Recipe(alpha=0.05, parameters={"precision": "float32"}), Batch(rows=data))


def stream(*batches: pa.RecordBatch, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def lists(array: NDArray[Any]) -> pa.RecordBatch:
    return pa.record_batch([pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), array.shape[1])], ["rows"])


def columns(array: NDArray[Any], names: list[str]) -> pa.RecordBatch:
    return pa.record_batch([pa.array(column) for column in array.T], names)


def ask(service: Served, name: str, body: Any, media: str = NPY, params: dict[str, Any] | None = None, **headers: str) -> httpx2.Response:
    """The answer to a body with these headers, whose names have underscores."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    content = npy(body) if isinstance(body, np.ndarray) else body
    return service.client.post(f"/v1/detectors/{name}:score", content=content, params=params, headers={"content-type": media, **named})


def results(answer: httpx2.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


SENT = rows(20)
IN = {
    "Arrow lists": (ARROW, stream(lists(SENT))),
    "Arrow batches": (ARROW, stream(lists(SENT[:7]), lists(SENT[7:]))),
    "Arrow columns": (ARROW, stream(columns(SENT, ["w", "x", "y", "z"]))),
    "Arrow column batches": (ARROW, stream(columns(SENT[:7], NAMES), columns(SENT[7:], NAMES))),
    "safetensors": (SAFETENSORS, save({"rows": SENT})),
    "safetensors of another name": (SAFETENSORS, save({"features": SENT})),
    "safetensors among others": (SAFETENSORS, save({"a": SENT[:3], "rows": SENT}, {"made": "up"})),
}


@pytest.mark.parametrize(("media", "body"), IN.values(), ids=IN.keys())
def test_every_form_of_body_scores_alike(service: Served, media: str, body: bytes) -> None:
    """To the last bit as the same rows in JSON."""
    assert results(service.score("rows", body, media=media)) == results(service.score("rows", SENT.tolist()))


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
@pytest.mark.parametrize(("media", "body"), [(JSON, orjson.dumps({"rows": SENT.tolist()})), (NPY, npy(SENT)), *IN.values()])
def test_compressed_bodies(service: Served, encoding: str, media: str, body: bytes) -> None:
    """In each encoding and form, the same scores."""
    assert results(ask(service, "rows", packed(body, encoding), media, content_encoding=encoding)) == results(
        service.score("rows", SENT.tolist())
    )


def packed(body: bytes, encoding: str) -> bytes:
    if encoding == "zstd":
        return bytes(pa.compress(body, "zstd", asbytes=True))
    return gzip.compress(body) if encoding == "gzip" else zlib.compress(body)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
def test_bombs_and_damage(service: Served, encoding: str) -> None:
    """What unpacks to more than the limit is 413, what is cut off or otherwise encoded 422; the memory of the process stays small."""
    before = memory(service)
    bomb = packed(bytes(100_000_000), encoding)
    assert len(bomb) < LIMIT
    for _ in range(4):
        refused = ask(service, "rows", bomb, NPY, content_encoding=encoding)
        assert (refused.status_code, refused.json()["type"]) == (413, "urn:farfield:problem:too-large")
    assert memory(service) - before < 50_000_000
    for body in (packed(npy(SENT), encoding)[:-20], b"\x01\x02\x03", b""):
        refused = ask(service, "rows", body, NPY, content_encoding=encoding)
        assert refused.status_code == 422 and "#" in refused.text, (body, refused.text)


def memory(service: Served) -> int:
    """Bytes that the process has had at most."""
    status = Path(f"/proc/{service.process.process.pid}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def test_columns_come_by_name(service: Served) -> None:
    """In any order, where the version has names; as they stand where it has none."""
    expected = results(service.score("named", SENT.tolist()))
    shuffled = columns(SENT[:, [2, 0, 3, 1]], [NAMES[i] for i in (2, 0, 3, 1)])
    assert results(service.score("named", stream(shuffled), media=ARROW)) == expected
    assert results(service.score("named", stream(lists(SENT)), media=ARROW)) == expected
    assert results(service.score("rows", stream(shuffled), media=ARROW)) != results(service.score("rows", SENT.tolist()))


def raw_safetensors(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: str, shape: list[Any], end: int, begin: int = 0) -> dict[str, Any]:
    return {"rows": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}


HOLE = pa.array([1.0, None, 3.0])
BAD = {
    "no Arrow": (ARROW, b"hello", "not an Arrow IPC stream", "#"),
    "empty Arrow": (ARROW, b"", "not an Arrow IPC stream", "#"),
    "Arrow cut off": (ARROW, stream(lists(SENT))[:-300], "not an Arrow IPC stream", "#"),
    "no batch": (ARROW, stream(lists(SENT[:0])), "no row", "#/rows"),
    "compressed buffers": (ARROW, stream(lists(SENT), compression="zstd"), "compressed: send them plain", "#"),
    "text column": (ARROW, stream(pa.record_batch([pa.array(["x"])], ["a"])), "column 'a' holds string", "#/rows"),
    "dictionary": (ARROW, stream(pa.record_batch([pa.array(["x"]).dictionary_encode()], ["a"])), "column 'a' holds dictionary", "#/rows"),
    "null in a column": (ARROW, stream(pa.record_batch([HOLE] * 4, NAMES)), "row 1 of column 'a' is null", "#/rows/1/0"),
    "null in a list": (
        ARROW,
        stream(pa.record_batch([pa.array([[1.0, 2, 3, 4], [1, None, 3, 4]], pa.list_(pa.float64(), 4))], ["r"])),
        "row 1, feature 1 is null",
        "#/rows/1/1",
    ),
    "null list": (
        ARROW,
        stream(pa.record_batch([pa.array([None], pa.list_(pa.float64(), 4))], ["r"])),
        "row 0 of column 'r' is null",
        "#/rows/0",
    ),
    "NaN in Arrow": (ARROW, stream(lists(np.array([[1, 2, np.nan, 4]]))), "row 0, feature 2 is nan", "#/rows/0/2"),
    "lists beside": (
        ARROW,
        stream(pa.record_batch([*lists(SENT).columns, *columns(SENT, NAMES).columns[:3]], NAMES)),
        "beside one of lists",
        "#/rows",
    ),
    "missing column": (ARROW, stream(columns(SENT[:, :3], NAMES[:3])), "column 'd' is missing", "#/rows"),
    "unknown column": (ARROW, stream(columns(SENT[:, [0, 1, 2, 3, 0]], [*NAMES, "e"])), "column 'e' is no feature", "#/rows"),
    "column twice": (ARROW, stream(columns(SENT[:, [0, 1, 2, 3, 0]], [*NAMES, "a"])), "column 'a' comes twice", "#/rows"),
    "width of lists": (ARROW, stream(lists(SENT[:, :3])), "3 features", "#/rows/0"),
    "no safetensors": (SAFETENSORS, b"hello", "not safetensors", "#"),
    "long header": (SAFETENSORS, struct.pack("<Q", 2**60) + b"{}", "not safetensors", "#"),
    "header no JSON": (SAFETENSORS, raw_safetensors(b"{"), "not safetensors", "#"),
    "header a list": (SAFETENSORS, raw_safetensors([]), "not safetensors", "#"),
    "two tensors": (SAFETENSORS, save({"a": SENT, "b": SENT}), "with a tensor 'rows'", "#"),
    "bfloat": (SAFETENSORS, raw_safetensors(entry("BF16", [1, 4], 8), bytes(8)), "one of F64", "#"),
    "beyond the body": (SAFETENSORS, raw_safetensors(entry("F64", [1, 4], 32), bytes(31)), "does not lie within", "#/rows"),
    "wrong size": (SAFETENSORS, raw_safetensors(entry("F64", [2, 4], 32), bytes(32)), "does not lie within", "#/rows"),
    "negative": (SAFETENSORS, raw_safetensors(entry("F64", [-1, -4], 32), bytes(32)), "does not lie within", "#/rows"),
    "before the body": (SAFETENSORS, raw_safetensors(entry("F64", [1, 4], 0, -32), bytes(32)), "does not lie within", "#/rows"),
    "empty tensor": (SAFETENSORS, save({"rows": SENT[:0]}), "is empty", "#/rows"),
    "one axis": (SAFETENSORS, save({"rows": SENT[0]}), "[rows, features] is needed", "#/rows"),
}


@pytest.mark.parametrize(("media", "body", "says", "pointer"), BAD.values(), ids=BAD.keys())
def test_bodies_are_refused_by_their_place(service: Served, media: str, body: bytes, says: str, pointer: str) -> None:
    """With 422, what is wrong, and where."""
    refused = service.score("named", body, media=media)
    assert refused.status_code == 422, refused.text
    assert says in refused.json()["detail"]
    assert [error["pointer"] for error in refused.json()["errors"]] == [pointer]


def test_damaged_tables_are_read_or_refused() -> None:
    """Whatever byte is changed, there are rows or a refusal, and nothing else comes out."""
    rng = np.random.default_rng(0)
    for body, read in (
        (IN["Arrow columns"][1], lambda data: tables.rows_of_arrow(data, None)),
        (IN["safetensors"][1], tables.rows_of_safetensors),
    ):
        for _ in range(1500):
            damaged = bytearray(body)
            damaged[rng.integers(len(body))] = rng.integers(256)
            try:
                assert read(bytes(damaged)).dtype.kind in "fiub"
            except InvalidInput:
                continue


def test_large_bodies_are_not_copied() -> None:
    """From the bytes of a body to an array there is less than a hundredth of its size, in each form that can be read in place."""
    array = np.zeros((4096, 512), np.float32)
    forms = {
        "npy": (npy(array), codecs.parse_npy),
        "safetensors": (save({"rows": array}), tables.rows_of_safetensors),
        "Arrow": (stream(lists(array)), lambda body: tables.rows_of_arrow(body, None)),
    }
    for form, (body, read) in forms.items():
        read(body)  # whatever is made once
        tracemalloc.start()
        view = read(body)
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert taken < array.nbytes / 100, form
        place, begin = view.__array_interface__["data"][0], np.frombuffer(body, np.uint8).__array_interface__["data"][0]
        assert begin <= place < begin + len(body), form
        assert view.dtype == np.float32, form


JSONS = [
    '{"rows": [[1, 2.5], [-3e2, 4]]}',
    '{"alpha": 0.1, "rows": [[1, 2]], "fdr": true}',
    '{"rows": [[1, 2], [3]]}',
    '{"rows": [[1], [2, 3], [4, 5, 6]]}',
    '{"rows": [[1, 2], [3], [4, 5, 6]]}',
    '{"rows": [[1, [2]], [3, 4]]}',
    '{"rows": [[1, [2, 3]], [4, []]]}',
    '{"rows": [[1, 2], 3]}',
    '{"rows": [[[1, 2]]]}',
    '{"rows": [], "alpha": 0.1}',
    '{"rows": [[]]}',
    '{"rows": [[true, 2]]}',
    '{"rows": [[1, null]]}',
    '{"rows": [[1, "2"]]}',
    '{"rows": [[1, {}]]}',
    '{"rows": [[18446744073709551615, 18446744073709551616, 9007199254740993]]}',
    '{"rows": [[1e999, 1]]}',
    '{"rows": [[NaN, 1]]}',
    '{"rows": [[1, 2]], "rows": [[3, 4]]}',
    '{"rows": [[1, 2]], "tail": "["}',
    '{"rows": [[4.9e-324, 1.7976931348623157e308, 0.1, 1.0000000000000002, -0.0]]}',
    "[[1, 2]]",
    '{"rows": "["}',
    '{"Rows": [[1]]}',
    "7",
    "",
]  # fmt: skip


@pytest.mark.parametrize("text", JSONS)
def test_the_quick_parser_reads_as_the_slow_one(text: str) -> None:
    """The same bits, the same members, and the same refusal word for word."""

    def slowly(body: bytes) -> tuple[Batch, dict[str, Any]]:
        found, others = codecs.parse_json(body)
        return codecs.rows_of_json(found, Settings()), others

    assert outcome(lambda: codecs.batch_of_json(text.encode(), Settings())) == outcome(lambda: slowly(text.encode()))


def outcome(read: Any) -> Any:
    try:
        batch, others = read()
    except InvalidInput as error:
        return str(error), error.pointer
    return batch.rows.astype(np.float64).tobytes(), batch.rows.shape, others


def test_the_quick_parser_is_taken() -> None:
    """For a body as clients send it."""
    body = orjson.dumps({"rows": rows(50).tolist(), "alpha": 0.1, "fdr": False, "tail": "pareto"})
    found = codecs._usual_json(body, Settings())
    assert found is not None
    assert found[1] == {"alpha": 0.1, "fdr": False, "tail": "pareto"}


def test_quick_and_slow_agree_on_numbers() -> None:
    """Bit for bit, over numbers of every size and length."""
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal((500, 6)) * 10.0 ** rng.integers(-300, 300, (500, 6))
    body = orjson.dumps({"rows": numbers.tolist()})
    found = codecs._usual_json(body, Settings())
    assert found is not None and found[0].rows is not None
    assert found[0].rows.tobytes() == numbers.tobytes() == np.array(orjson.loads(body)["rows"]).tobytes()


OPTIONS = {"rows": {"attribute": 2, "alpha": 0.2, "chi_square": True}, "named": {"attribute": 3}, "single": {}}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_answer_has_the_same_content(service: Served, name: str, form: str) -> None:
    """Read with the library of each form, it is the answer in JSON."""
    sent = 2 * rows(30)
    expected = service.score(name, sent, params=OPTIONS[name]).json()
    answer = ask(service, name, sent, params=OPTIONS[name], accept=form)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].partition(";")[0] == form
    head, found = READ[form](answer.content)
    without_null = {key: value for key, value in expected.items() if value is not None and key != "results"}
    assert {key: value for key, value in head.items() if value is not None} == without_null
    assert found == expected["results"]


def read_json(content: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    document = json.loads(content)
    return document, document.pop("results")


def read_arrow(content: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    table = pa.ipc.open_stream(content).read_all()
    return {key.decode(): json.loads(value) for key, value in table.schema.metadata.items()}, table.to_pylist()


def read_safetensors(content: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    size = int.from_bytes(content[:8], "little")
    head = {key: json.loads(value) for key, value in json.loads(content[8 : 8 + size])["__metadata__"].items()}
    found = load(content)
    shares, parts = found.pop("attribution_share", None), found.pop("attribution_part", None)
    plain = {key: values.tolist() for key, values in found.items()}
    if "classes" in head:
        names = head.pop("classes")
        plain["nearest_class"] = [names[index] for index in plain["nearest_class"]]
    if shares is not None:
        by, names = head.pop("attribution_by"), head.pop("attribution_parts")
        plain["attribution"] = [
            [{by: names[part], "share": share} for part, share in zip(*row, strict=True)]
            for row in zip(parts.tolist(), shares.tolist(), strict=True)
        ]
    return head, records(plain)


def records(plain: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(plain, row, strict=True)) for row in zip(*plain.values(), strict=True)]


HEAD = ("detector", "version", "alpha", "threshold", "calibration", "n_calibration", "tail", "attribution")


def unflattened(rows: list[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    head: dict[str, Any] = {}
    for row in rows:
        head = {key: row.pop(key) for key in HEAD if key in row}
        if places := sorted(key for key in row if key.startswith("share_")):
            row["attribution"] = [{"feature": row.pop(f"feature_{place[6:]}"), "share": row.pop(place)} for place in places]
    return head, rows


def read_npy(content: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    array = np.load(io.BytesIO(content), allow_pickle=False)
    return unflattened([dict(zip(array.dtype.names, row, strict=True)) for row in array.tolist()])


def read_csv(content: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    def value(text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            return text

    lines = csv.DictReader(io.StringIO(content.decode()))
    return unflattened([{key: value(text) for key, text in row.items()} for row in lines])


READ = {JSON: read_json, ARROW: read_arrow, SAFETENSORS: read_safetensors, NPY: read_npy, CSV: read_csv}


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("text/*", CSV),
        (f"{CSV};q=0.5, {ARROW};q=0.9", ARROW),
        (f"application/json;q=0, */*;q=0.1, {CSV};q=0.05", ARROW),
        ("text/html, application/xhtml+xml, */*;q=0.8", JSON),
        ("TEXT/CSV", CSV),
    ],
)
def test_accept_chooses(service: Served, accept: str, form: str) -> None:
    """By quality, and where it is the same by our order."""
    answer = ask(service, "rows", SENT, accept=accept)
    assert answer.headers["content-type"] == (f"{CSV}; charset=utf-8" if form == CSV else form)


@pytest.mark.parametrize("accept", ["text/html", "image/png, text/html;q=0.9", "application/json;q=0", "nonsense"])
def test_no_form_that_is_accepted(service: Served, accept: str) -> None:
    """406, with what there is."""
    refused = ask(service, "rows", SENT, accept=accept)
    assert (refused.status_code, refused.json()["type"]) == (406, "urn:farfield:problem:not-acceptable")
    assert CSV in refused.json()["detail"]


def test_refusals_are_problems_whatever_is_accepted(service: Served) -> None:
    """An error has one form."""
    refused = ask(service, "rows", rows(1, width=3), accept=CSV)
    assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")


def test_the_stages_are_told(service: Served) -> None:
    """Server-Timing names each of them, with milliseconds, in every form of answer and for small and large batches."""
    for count, form in ((1, JSON), (2000, ARROW)):
        header = ask(service, "rows", rows(count), accept=form).headers["server-timing"]
        parts = [item.split(";dur=") for item in header.split(", ")]
        assert [name for name, _ in parts] == ["decode", "queue", "extract", "score", "encode"]
        assert all(float(duration) >= 0 for _, duration in parts)
        assert sum(float(duration) for _, duration in parts) > 0
