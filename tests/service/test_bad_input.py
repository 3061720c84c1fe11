"""What is not right is refused: with the right status, in words that help, and without harm to the service."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper
from typer.testing import CliRunner

from service.cli import app
from service.errors import InvalidInput
from service.scoring import codecs
from tests.servers import eventually
from tests.service.samples import fitted
from tests.service.served import JSON, NORMAL, NPY, Served, fitted_images, npy, pixels, rows, served

GOOD = [[0.1, 0.2, 0.3, 0.4]]
BODY_LIMIT = 4_000_000
PROBLEM_MEMBERS = {"type", "title", "status", "detail", "instance"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    detectors = {"rows": [fitted(), fitted(2.0)], "images": [fitted_images()]}
    with served(tmp_path_factory.mktemp("bad"), detectors, FARFIELD_MAX_BODY_BYTES=str(BODY_LIMIT)) as running:
        running.store.move_alias("rows", "champion", 1)
        yield running


@dataclass(frozen=True)
class Case:
    """A request, and what its refusal must say: status, kind of problem, words of the detail, place."""

    status: int
    kind: str | None
    says: tuple[str, ...]
    url: str = "rows:score"
    body: bytes | None = None
    media: str = JSON
    pointer: str | None = None
    method: str = "POST"
    query: dict[str, str] = field(default_factory=dict)

    def send(self, client: httpx2.Client) -> httpx2.Response:
        url = self.url if self.url.startswith("/") else f"/v1/detectors/{self.url}"
        headers = {"content-type": self.media} if self.body is not None else {}
        return client.request(self.method, url, content=self.body, headers=headers, params=self.query or None)


def invalid(says: str | tuple[str, ...], pointer: str | None = None, **how: Any) -> Case:
    return Case(422, "invalid-input", (says,) if isinstance(says, str) else says, pointer=pointer, **how)


def of_json(text: str, says: str | tuple[str, ...], pointer: str | None = None, **how: Any) -> Case:
    return invalid(says, pointer, body=text.encode(), **how)


def of_npy(array: NDArray[Any], says: str | tuple[str, ...], pointer: str | None = "#/rows", **how: Any) -> Case:
    return invalid(says, pointer, body=npy(array), media=NPY, **how)


def of_header(text: str, says: str, data: bytes = b"") -> Case:
    """An .npy body with a header of one's own."""
    header = text.encode("latin1") + b"\n"
    return invalid(says, "#", body=b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data, media=NPY)


def header(shape: str, descr: str = "'<f8'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"


def of_image(data: bytes, says: str | tuple[str, ...], **how: Any) -> Case:
    return invalid(says, "#/images/0", url="images:score", body=data, media="image/png", **how)


def of_query(says: str | tuple[str, ...], pointer: str, url: str = "rows:score", **query: str) -> Case:
    return invalid(says, pointer, body=json.dumps({"rows": GOOD}).encode(), query=query, url=url)


def png(width: int, height: int) -> bytes:
    """A black picture of one bit per pixel: small as a file, large when decoded."""
    packer = zlib.compressobj(9)
    line = bytes(1 + (width + 7) // 8)
    data = b"".join([*(packer.compress(line) for _ in range(height)), packer.flush()])
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")]
    packed = (struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, X=rows(3))
    return stream.getvalue()


def alias(name: str, body: Any, status: int, kind: str | None, *says: str, **how: Any) -> Case:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Case(status, kind, says, url=f"/v1/detectors/{name}", body=data, method="PUT", **how)


AN_IMAGE = NORMAL[0].read_bytes()
ONE = json.dumps({"rows": GOOD}).encode()
NAME = ("name", "pattern")

CASES = {
    # values
    "string": of_json('{"rows": [[1, 2, 3, "x"]]}', ("row 0, feature 3", "a string", "number is needed"), "#/rows/0/3"),
    "null": of_json('{"rows": [[1, 2, 3, 4], [1, null, 3, 4]]}', ("row 1, feature 1", "null"), "#/rows/1/1"),
    "boolean": of_json('{"rows": [[true, 2, 3, 4]]}', ("row 0, feature 0", "a boolean"), "#/rows/0/0"),
    "object": of_json('{"rows": [[{}, 2, 3, 4]]}', ("row 0, feature 0", "an object"), "#/rows/0/0"),
    "list in a row": of_json('{"rows": [[1, 2, 3, [4]]]}', ("row 0, feature 3", "a list"), "#/rows/0/3"),
    "NaN in JSON": of_json('{"rows": [[NaN, 2, 3, 4]]}', ("row 0, feature 0 is nan", "finite"), "#/rows/0/0"),
    "Infinity in JSON": of_json('{"rows": [[1, -Infinity, 3, 4]]}', ("row 0, feature 1 is -inf", "finite"), "#/rows/0/1"),
    "1e999": of_json('{"rows": [[1e999, 2, 3, 4]]}', ("row 0, feature 0 is inf", "finite"), "#/rows/0/0"),
    "5000 digits": of_json(f'{{"rows": [[{"9" * 5000}, 2, 3, 4]]}}', "not JSON", "#"),
    "NaN": of_npy(np.array([[1, 2, np.nan, 4]]), ("row 0, feature 2 is nan", "finite"), "#/rows/0/2"),
    "infinity": of_npy(np.array([[1, 2, 3, 4], [1, 2, 3, -np.inf]]), ("row 1, feature 3 is -inf", "finite"), "#/rows/1/3"),
    "complex": of_npy(np.ones((1, 4), complex), ("complex128", "numbers are needed")),
    "datetime": of_npy(np.zeros((1, 4), "M8[s]"), ("datetime64[s]", "numbers are needed")),
    "timedelta": of_npy(np.zeros((1, 4), "m8[s]"), ("timedelta64[s]", "numbers are needed")),
    "text": of_npy(np.array([list("abcd")]), ("<U1", "numbers are needed")),
    "records": of_npy(np.zeros(3, [("a", "f8"), ("b", "f8")]), "numbers are needed"),
    # shapes
    "width": of_json('{"rows": [[1, 2, 3]]}', ("3 features", "takes 4"), "#/rows/0"),
    "width in .npy": of_npy(rows(5, width=7), ("7 features", "takes 4"), "#/rows/0"),
    "no rows": of_json('{"rows": []}', ("empty", "at least one row"), "#/rows"),
    "no rows in .npy": of_npy(np.empty((0, 4)), ("[0, 4]", "at least one row")),
    "no features": of_npy(np.empty((3, 0)), ("[3, 0]", "at least one feature")),
    "empty row": of_json('{"rows": [[]]}', ("row 0 is empty", "numbers is needed"), "#/rows/0"),
    "one dimension": of_json('{"rows": [1, 2, 3, 4]}', ("row 0", "a list of numbers", "not a number"), "#/rows/0"),
    "one dimension in .npy": of_npy(np.ones(4), ("[4]", "[rows, features]")),
    "no dimension": of_npy(np.array(4.0), ("[]", "[rows, features]")),
    "three dimensions": of_npy(np.ones((1, 2, 2)), ("[1, 2, 2]", "[rows, features]")),
    "ragged": of_json('{"rows": [[1, 2, 3, 4], [1, 2, 3]]}', ("row 1 has 3 numbers", "row 0 has 4"), "#/rows/1"),
    "too wide": Case(413, "too-large", ("70000 features", "limit is 65536"), body=npy(np.zeros((1, 70_000), np.int8)), media=NPY),
    "too many rows": Case(413, "too-large", ("100001 rows", "limit is 100000"), body=npy(np.zeros((100_001, 4), np.int8)), media=NPY),
    # bodies
    "nesting": of_json("[" * 100_000, ("not JSON", "depth"), "#"),
    "nested rows": of_json('{"rows": ' + "[" * 500 + "]" * 500 + "}", "row 0, feature 0 is a list", "#/rows/0/0"),
    "a list": of_json("[[1, 2, 3, 4]]", ('"rows"', "object"), "#/rows"),
    "without rows": of_json('{"alpha": 0.1}', '"rows"', "#/rows"),
    "rows a string": of_json('{"rows": "1234"}', ("list of lists", "a string"), "#/rows"),
    "empty body": of_json("", "not JSON", "#"),
    "not JSON": of_json('{"rows": [[1, 2', "not JSON", "#"),
    "not UTF-8": invalid("not JSON", "#", body=b'{"rows": "\xff"}'),
    "unknown member": of_json('{"rows": [[1, 2, 3, 4]], "alfa": 0.1}', ("alfa", "no such"), "#/alfa"),
    "alpha in the body": of_json('{"rows": [[1, 2, 3, 4]], "alpha": 2}', ("alpha", "less than 1", "not 2"), "#/alpha"),
    "attribute in the body": of_json('{"rows": [[1, 2, 3, 4]], "attribute": 1.5}', ("attribute", "integer", "1.5"), "#/attribute"),
    # .npy files
    "empty .npy": invalid("not an .npy file", "#", body=b"", media=NPY),
    "truncated": invalid(("160 bytes", "157 came"), "#", body=npy(np.ones((5, 4)))[:-3], media=NPY),
    "overlong": invalid(("160 bytes", "161 came"), "#", body=npy(np.ones((5, 4))) + b"x", media=NPY),
    "2**40 rows": of_header(header(f"({2**40}, 4)"), "announces 35184372088832 bytes"),
    "2**80 rows": of_header(header(f"({2**80}, 4)"), "no array can have"),
    "hexadecimal size": of_header(header(f"(0x{'f' * 900}, 4)"), "no array can have"),
    "negative sizes": of_header(header("(-1, -4)"), "no array can have", bytes(32)),
    "boolean size": of_header(header("(True, 4)"), "no array can have", bytes(32)),
    "zero times huge": invalid("empty", body=of_header(header(f"(0, {2**61})"), "").body, media=NPY),
    "long header": of_header(header("(1, 4)") + " " * 5000, "not an .npy file", bytes(32)),
    "nested header": of_header("(" * 900, "not an .npy file"),
    "minus signs": of_header("-" * 900 + "1", "not an .npy file"),
    "half a header": of_header("{'descr': '<f8'", "not an .npy file"),
    "unknown type": of_header(header("(1, 4)", "'zzz'"), "not an .npy file", bytes(32)),
    "version 9": invalid(("version 9.0", "only 1.0 and 2.0"), "#", body=b"\x93NUMPY\x09\x00" + npy(np.ones((1, 4)))[8:], media=NPY),
    ".npz": invalid("not an .npy file", "#", body=npz(), media=NPY),
    # images
    "no image": of_image(b"hello, this is text", ("image 0", "PNG, JPEG, WEBP, BMP")),
    "empty image": of_image(b"", "image 0"),
    "truncated image": of_image(AN_IMAGE[: len(AN_IMAGE) // 2], ("image 0", "decoded")),
    "four channels": of_npy(np.zeros((2, 8, 8, 4), np.uint8), ("[2, 8, 8, 4]", "[n, height, width, 3]"), url="images:score"),
    "rows to images": of_json('{"rows": [[1, 2, 3, 4]]}', "takes images", "#/rows", url="images:score"),
    "images to rows": invalid("takes rows of numbers, not images", "#/images", body=AN_IMAGE, media="image/png"),
    "pixels to rows": of_npy(pixels(NORMAL[:1]), "takes rows of numbers, not images", "#/images"),
    "no file in the form": invalid(
        "no image in the form",
        "#/images",
        url="images:score",
        body=b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\ntext\r\n--x--\r\n',
        media="multipart/form-data; boundary=x",
    ),
    "form without boundary": Case(422, "invalid-input", ("boundary",), url="images:score", body=b"abc", media="multipart/form-data"),
    "no form": Case(422, "invalid-input", ("multipart",), url="images:score", body=b"abc", media="multipart/form-data; boundary=x"),
    # media types
    "csv": Case(415, "unsupported-media", ("'text/csv'", "application/json"), body=b"1,2,3,4", media="text/csv"),
    "octets": Case(415, "unsupported-media", ("octet-stream", "application/x-npy"), body=b"\0\1", media="application/octet-stream"),
    "urlencoded": Case(
        415, "unsupported-media", ("urlencoded", "application/json"), body=b"rows=1", media="application/x-www-form-urlencoded"
    ),
    # names
    "detector": Case(404, "unknown-detector", ("'nope'",), url="nope:score", body=ONE),
    "alias": Case(404, "unknown-alias", ("'rows'", "'nope'"), url="rows@nope:score", body=ONE),
    "version": Case(404, "unknown-version", ("'rows'", "version 7"), url="rows/versions/7:score", body=ONE),
    "huge version": Case(404, "unknown-version", ("'rows'", str(10**30)), url=f"rows/versions/{10**30}:score", body=ONE),
    "version 0": of_query(("number", "greater than 0", "not '0'"), "number", "rows/versions/0:score"),
    "version -1": of_query(("number", "greater than 0", "not '-1'"), "number", "rows/versions/-1:score"),
    "version x": of_query(("number", "integer", "not 'x'"), "number", "rows/versions/x:score"),
    "version of 5000 digits": of_query("number", "number", f"rows/versions/{'9' * 5000}:score"),
    "blank in a name": of_query((*NAME, "'a b'"), "name", "a%20b:score"),
    "zero byte in a name": of_query(NAME, "name", "a%00b:score"),
    "line feed after a name": of_query(NAME, "name", "rows%0a:score"),
    "long name": of_query(NAME, "name", f"{'x' * 65}:score"),
    "emoji": of_query(NAME, "name", "%F0%9F%98%80:score"),
    "two at signs": of_query(NAME, "name", "rows@@champion:score"),
    "encoded slash": Case(404, None, ("nothing at", "a/b:score"), url="a%2Fb:score", body=ONE),
    "dots": Case(404, None, ("nothing at",), url="/v1/detectors/..%2f..%2fetc%2fpasswd", method="GET"),
    "unknown path": Case(404, None, ("nothing at", "/v1/nothing"), url="/v1/nothing", method="GET"),
    "asset": Case(404, None, ("nothing at",), url="/assets/docs/..%2f..%2f..%2fservice%2fcli.py", method="GET"),
    "method": Case(405, None, ("DELETE",), url="/v1/detectors/rows", method="DELETE"),
    "no such detector to read": Case(404, "unknown-detector", ("'nope'",), url="/v1/detectors/nope", method="GET"),
    "no such version to read": Case(404, "unknown-version", ("version 9",), url="/v1/detectors/rows/versions/9", method="GET"),
    # the query
    "alpha 0": of_query(("alpha", "greater than 0", "'0'"), "alpha", alpha="0"),
    "alpha 1": of_query(("alpha", "less than 1", "'1'"), "alpha", alpha="1"),
    "alpha -1": of_query(("alpha", "greater than 0", "'-1'"), "alpha", alpha="-1"),
    "alpha nan": of_query(("alpha", "'nan'"), "alpha", alpha="nan"),
    "alpha abc": of_query(("alpha", "number", "'abc'"), "alpha", alpha="abc"),
    "attribute -1": of_query(("attribute", "greater than or equal to 0", "'-1'"), "attribute", attribute="-1"),
    "fdr maybe": of_query(("fdr", "boolean", "'maybe'"), "fdr", fdr="maybe"),
    "unknown parameter": of_query(("alfa", "no such"), "alfa", alfa="0.1"),
    # aliases
    "alias latest": alias("rows/aliases/latest", {"version": 1}, 422, "invalid-input", "'latest'", "reserved"),
    "alias v3": alias("rows/aliases/v3", {"version": 1}, 422, "invalid-input", "'v3'", "reserved"),
    "alias of digits": alias("rows/aliases/3", {"version": 1}, 422, "invalid-input", "alias", "pattern", "'3'", pointer="alias"),
    "promote unknown": alias("rows/aliases/x", {"version": 9}, 404, "unknown-version", "version 9"),
    "promote nothing": alias("rows/aliases/x", {}, 422, "invalid-input", "required", pointer="#/version"),
    "promote 0": alias("rows/aliases/x", {"version": 0}, 422, "invalid-input", "greater than 0", "not 0", pointer="#/version"),
    "promote more": alias("rows/aliases/x", {"version": 1, "a": 2}, 422, "invalid-input", "no such", pointer="#/a"),
    "half a surrogate": alias("rows/aliases/x", b'{"version": 1, "\\ud800": 2}', 422, "invalid-input", "unicode"),
    "promote no JSON": alias("rows/aliases/x", b"{version", 422, "invalid-input", "JSON", pointer="#"),
    "promote a bomb": alias("rows/aliases/x", b"[" * 100_000, 400, None, "parsing the body"),
    "promote 5000 digits": alias("rows/aliases/x", b'{"version": ' + b"9" * 5000 + b"}", 400, None, "parsing the body"),
    "elsewhere": alias("rows/aliases/champion", {"version": 2, "expected": 7}, 409, "alias-moved", "at version 1", "version 7"),
    "in use": Case(409, "version-in-use", ("champion",), url="/v1/detectors/rows/versions/1", method="DELETE"),
    "no way back": Case(409, "nothing-to-roll-back", ("champion",), url="rows/aliases/champion:rollback"),
}


def assert_problem(answer: httpx2.Response, status: int, kind: str | None) -> dict[str, Any]:
    """The answer is a problem of this kind in the form of RFC 9457, and tells nothing of the inside of the service."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body.keys() >= PROBLEM_MEMBERS
    assert body["type"] == (f"urn:farfield:problem:{kind}" if kind else "about:blank")
    assert body["status"] == status
    assert body["title"] and len(body["detail"]) < 1000
    assert re.fullmatch(r"/[!-~]*", body["instance"])
    assert_reveals_nothing(answer.text)
    return body


def assert_reveals_nothing(text: str) -> None:
    assert "Traceback" not in text and 'File \\"' not in text and ".py" not in text.replace("cli.py", "")
    assert str(Path(__file__).parents[2]) not in text and "/tmp/" not in text and "site-packages" not in text


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_refusals(service: Served, case: Case) -> None:
    """Each bad request gets its status and kind of problem, and words that name the place, what was needed and what came."""
    body = assert_problem(case.send(service.client), case.status, case.kind)
    for words in case.says:
        assert words in body["detail"], body["detail"]
    if case.pointer:
        assert case.pointer in [error["pointer"] for error in body["errors"]]


def test_the_service_answers_after_all_of_them(service: Served) -> None:
    """No refusal leaves a mark: all cases again, and in between and afterwards good rows get the same scores."""
    before = service.score("rows", GOOD).json()
    for case in CASES.values():
        case.send(service.client)
        assert service.score("rows", GOOD).json() == before
    assert service.process.process.poll() is None
    assert "Traceback" not in service.process.log()


def test_a_pickle_is_never_opened(service: Served, tmp_path: Path) -> None:
    """An .npy of objects, whose pickle would run a command, is refused unread."""
    evidence = tmp_path / "evidence"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {evidence}",)

    body = npy_of_objects(Payload())
    answer = service.score("rows", body, media=NPY)
    assert "objects are never read" in assert_problem(answer, 422, "invalid-input")["detail"]
    assert_problem(service.score("rows", pickle.dumps(Payload()), media=NPY), 422, "invalid-input")
    assert not evidence.exists()


def npy_of_objects(value: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([[value]], dtype=object), allow_pickle=True)
    return stream.getvalue()


@given(st.data())
@settings(max_examples=300)
def test_a_damaged_npy_is_read_or_refused(data: st.DataObject) -> None:
    """Whatever bytes of a body are changed, it gives an array or a refusal, and nothing else comes out."""
    body = bytearray(npy(rows(3)))
    places = st.integers(0, len(body) - 1)
    for place, byte in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=8)):
        body[place] = byte
    with contextlib.suppress(InvalidInput):
        assert codecs.parse_npy(bytes(body[: data.draw(places) or None])).dtype.kind in "fiub"


def memory(service: Served) -> int:
    """Most bytes of memory that the process has ever held."""
    status = Path(f"/proc/{service.process.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return 1024 * int(found[1])


def test_an_image_bomb_takes_no_memory(service: Served) -> None:
    """A small file that would decode to 2.5 billion pixels is refused by its header."""
    bomb = png(50_000, 50_000)
    assert len(bomb) < 1_000_000
    before = memory(service)
    assert "50000 x 50000 pixels" in assert_problem(service.score("images", bomb, media="image/png"), 413, "too-large")["detail"]
    assert memory(service) - before < 300_000_000


def test_many_large_images_take_the_memory_of_few(service: Served) -> None:
    """Twenty images of 25 million pixels in one request are decoded a few at a time."""
    large = png(5000, 5000)
    before = memory(service)
    parts = [("images", (f"{index}.png", large, "image/png")) for index in range(20)]
    answer = service.client.post("/v1/detectors/images:score", files=parts)
    assert len(answer.json()["results"]) == 20
    assert memory(service) - before < 300_000_000


def exchange(service: Served, request: bytes, *more: bytes) -> bytes:
    """What the service answers to bytes on a socket, up to the end of its first answer."""
    host, port = service.process.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request)
        for part in more:
            connection.sendall(part)
        answer = b""
        while b"\r\n\r\n" not in answer or len(answer.partition(b"\r\n\r\n")[2]) < content_length(answer):
            received = connection.recv(65536)
            if not received:
                break
            answer += received
    return answer


def content_length(answer: bytes) -> int:
    found = re.search(rb"content-length: (\d+)", answer)
    return int(found[1]) if found else 0


def head(media: str, *lines: str, url: str = "/v1/detectors/rows:score", method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} {url} HTTP/1.1", "Host: x", f"Content-Type: {media}", *lines, "", ""]).encode()


@pytest.mark.parametrize("media", [JSON, NPY, "multipart/form-data; boundary=x", "image/png"])
def test_a_body_announced_too_large_is_not_waited_for(service: Served, media: str) -> None:
    """Two gigabytes are refused as soon as their header has come."""
    start = time.monotonic()
    answer = exchange(service, head(media, f"Content-Length: {2**31}"))
    assert time.monotonic() - start < 5
    assert answer.startswith(b"HTTP/1.1 413") and b"problem:too-large" in answer
    assert str(2**31).encode() in answer and str(BODY_LIMIT).encode() in answer


def test_other_routes_have_the_same_limit(service: Served) -> None:
    """A body that a route hands to FastAPI to read is limited just so."""
    url = "/v1/detectors/rows/aliases/x"
    answer = exchange(service, head(JSON, f"Content-Length: {2**31}", url=url, method="PUT"))
    assert answer.startswith(b"HTTP/1.1 413") and b"problem:too-large" in answer


def test_a_body_in_pieces_is_cut_off_at_the_limit(service: Served) -> None:
    """A chunked body announces no size; it is refused when it has passed the limit."""
    piece = b"%x\r\n%s\r\n" % (1_000_000, b" " * 1_000_000)
    answer = exchange(service, head(JSON, "Transfer-Encoding: chunked"), *[piece] * 5)
    assert answer.startswith(b"HTTP/1.1 413") and str(BODY_LIMIT).encode() in answer


def test_a_client_that_leaves_is_no_error(service: Served) -> None:
    """A connection closed in the middle of a body leaves no traceback in the log."""
    host, port = service.process.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head(JSON, "Content-Length: 100") + b"{")
    eventually(lambda: 'code="499"' in service.client.get("/metrics").text, "the request is counted as abandoned")
    assert "Traceback" not in service.process.log()


# The command line


def farfield(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FARFIELD_")}
    command = [sys.executable, "-m", "service.cli", *words]
    return subprocess.run(command, cwd=folder, env={**environment, "COLUMNS": "80"}, capture_output=True, text=True, timeout=60)


def linear(*, external: bool = False) -> bytes:
    """A network [N, 4] -> [N, 2]; its weights may claim to lie in another file."""
    weights = onnx.numpy_helper.from_array(rows(4, width=2).astype(np.float32), "weights")
    if external:
        weights.data_location = TensorProto.EXTERNAL
        weights.external_data.add(key="location", value="/etc/passwd")
    taken = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    given = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "weights"], ["y"])], "linear", [taken], [given], [weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files, good and bad."""
    folder = tmp_path_factory.mktemp("data")
    good = rows(600)
    with_nan = good.copy()
    with_nan[7, 1] = np.nan
    arrays = {"good": good, "one": good[:1], "nan": with_nan, "constant": np.ones((600, 4)), "few": good[:100], "empty": good[:0]}
    for name, array in {**arrays, "cube": good.reshape(600, 2, 2), "text": np.array(["a"] * 600), "number": np.array(1.0)}.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "objects.npy").write_bytes(npy_of_objects({}))
    (folder / "torn.npy").write_bytes(npy(good)[:-9])
    (folder / "text.csv").write_text("a,b\n1,2\n3,x\n")
    (folder / "hole.csv").write_text("a,b\n1,2\n3,\n")
    (folder / "rows.txt").write_text("1 2 3\n")
    (folder / "bad.onnx").write_bytes(b"hello")
    (folder / "external.onnx").write_bytes(linear(external=True))
    (folder / "linear.onnx").write_bytes(linear())
    (folder / "bad.json").write_text("{")
    (folder / "folder").mkdir()
    return folder


COMMANDS = {
    "one row": ("fit x --data one.npy", ("alpha=0.01", "99 calibration rows", "1 rows")),
    "nan": ("fit x --data nan.npy", ("row 7", "column 1", "nan")),
    "constant": ("fit x --data constant.npy", ("all 600 rows are the same",)),
    "few": ("fit x --data few.npy", ("alpha=0.01", "99 calibration rows", "20 of 100")),
    "empty": ("fit x --data empty.npy", ("empty.npy", "no rows")),
    "three axes": ("fit x --data cube.npy", ("(2, 2)", "[features]")),
    "a number": ("fit x --data number.npy", ("1 rows",)),
    "text": ("fit x --data text.npy", ("<U1", "numbers")),
    "objects": ("fit x --data objects.npy", ("objects.npy", "objects")),
    "torn": ("fit x --data torn.npy", ("torn.npy", "cannot be read")),
    "missing": ("fit x --data missing.npy", ("missing.npy does not exist",)),
    "no images": ("fit x --data folder", ("folder", "no images")),
    "text column": ("fit x --data text.csv", ("'b'", "text.csv", "string")),
    "empty cell": ("fit x --data hole.csv", ("'b'", "hole.csv", "1 empty cells")),
    "suffix": ("fit x --data rows.txt", ("rows.txt", "'.txt'", ".npy")),
    "no onnx": ("fit x --data good.npy --extractor bad.onnx", ("not an ONNX model",)),
    "external data": ("fit x --data good.npy --extractor external.onnx", ("'weights'", "another file")),
    "missing onnx": ("fit x --data good.npy --extractor no.onnx", ("no.onnx", "no such file", "mobilenet_v2")),
    "images needed": ("fit x --data good.npy --extractor mobilenet_v2", ("takes images",)),
    "unknown tap": ("fit x --data good.npy --extractor linear.onnx --tap z", ("'z'", "no tensor", "near names")),
    "tap of nothing": ("fit x --data good.npy --tap z", ("--tap", "--extractor")),
    "no preprocessing": ("fit x --data good.npy --extractor linear.onnx --preprocessing no.json", ("no.json",)),
    "bad preprocessing": ("fit x --data good.npy --extractor linear.onnx --preprocessing bad.json", ("bad.json", "not JSON")),
    "type": ("fit x --data good.npy --type nope", ("'nope'", "gaussian")),
    "parameter": ("fit x --data good.npy --param nope=1", ("nope", "covariance")),
    "parameter without value": ("fit x --data good.npy --param nope", ("'nope'", "NAME=VALUE")),
    "value": ("fit x --data good.npy --param covariance=nope", ("covariance", "'nope'", "oas")),
    "name": ("fit a/b --data good.npy", ("'a/b'", "letters, digits")),
    "alias": ("fit x --data good.npy --alias latest", ("'latest'", "reserved")),
    "store": ("fit x --data good.npy --store nope://x", ("nope://x", "redis")),
    "no store": ("fit x --data good.npy --store redis://127.0.0.1:1", ("did not answer", "127.0.0.1:1")),
    "output": ("score x --data good.npy --output a.txt", ("'.txt'", ".parquet")),
    "score alpha": ("score x --data good.npy --alpha 2", ("--alpha", "less than 1", "2.0")),
    "no detector": ("score x --data good.npy", ("'x'", "no detector")),
    "labels": ("evaluate --data good.npy", ("'y'", "labels")),
    "labels of text": ("evaluate --data good.npy --labels text.npy", ("0 for normal", "'a'")),
}


def assert_refused(exit_code: int, stdout: str, stderr: str, says: tuple[str, ...]) -> None:
    """Exit code 1, nothing on stdout, and on stderr one line of error with these words, after what the data are."""
    assert (exit_code, stdout) == (1, "")
    errors = [
        line
        for line in stderr.splitlines()
        if not re.match(r"(fit|extract|read): \d+ of (\d+|an unknown number)$|\w+: \d+ files in |columns: |fingerprint: ", line)
    ]
    assert len(errors) == 1 and errors[0].startswith("error: "), stderr
    for words in says:
        assert words in errors[0]


@pytest.mark.parametrize(("words", "says"), COMMANDS.values(), ids=COMMANDS.keys())
def test_commands_refuse_in_one_clear_line(data: Path, words: str, says: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each bad command says what is wrong in one line, and raises nothing."""
    monkeypatch.chdir(data)
    done = CliRunner().invoke(app, words.split())
    assert isinstance(done.exception, SystemExit), done.exception
    assert_refused(done.exit_code, done.stdout, done.stderr, says)


def test_a_process_refuses_as_its_command_does(data: Path) -> None:
    """In a process of its own nothing is added to that line, neither by Python nor by a library."""
    for words, says in (COMMANDS["objects"], COMMANDS["constant"]):
        done = farfield(data, *words.split())
        assert_refused(done.returncode, done.stdout, done.stderr, says)


def test_pages_of_other_sites_change_nothing(service: Served) -> None:
    """A browser's request for a page elsewhere is refused, one for our own console is not; none may frame our pages."""
    url = "/v1/detectors/rows:score"
    body = {"rows": rows(1).tolist()}
    foreign = service.client.post(url, json=body, headers={"origin": "https://elsewhere.example"})
    assert_problem(foreign, 403, "foreign-origin")
    own = service.client.post(url, json=body, headers={"origin": str(service.client.base_url).rstrip("/")})
    assert own.status_code == 200
    assert own.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(("encoding", "media"), [("br", JSON), ("gzip, zstd", JSON), ("gzip", "image/png")])
def test_other_encodings_are_refused_as_such(service: Served, encoding: str, media: str) -> None:
    """A body in an encoding that is not read is not read as if it were none; and images come compressed already."""
    answer = service.client.post("/v1/detectors/rows:score", content=b"{}", headers={"content-encoding": encoding, "content-type": media})
    assert_problem(answer, 415, "unsupported-media")
