"""The codecs of the Open Inference Protocol: exact both ways, and whatever bytes come are read or refused."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from service.errors import InvalidInput, ServiceError, TooLarge, Unsupported, UnsupportedMedia
from service.protocol.envelope import compressed, decode, encode
from service.protocol.query import Query
from service.protocol.tensors import CODES, FORMS, Slot, Tensor
from service.scoring.compression import decompressed
from tests.service.envelopes import HEADER, elements, request, sent

LIMIT = 2**20
ROWS, IMAGES = Slot("rows", "FP64", (-1, 4)), Slot("images", "BYTES", (-1,))
BFLOATS = struct.pack("<4H", 0x3F80, 0xC000, 0x0000, 0x4049)  # 1, -2, 0 and the nearest to pi, 3.140625


def read(body: bytes, headers: dict[str, str], expected: Slot = ROWS) -> Query:
    return decode(body, headers.get(HEADER), expected, LIMIT)


def only(query: Query) -> Tensor:
    (tensor,) = query.inputs.values()
    return tensor


def array_of(query: Query) -> NDArray[Any]:
    data = only(query).data
    assert isinstance(data, np.ndarray)
    return data


def extremes(datatype: str) -> NDArray[Any]:
    dtype = np.dtype(FORMS[datatype])
    if dtype.kind == "b":
        return np.array([[True, False]])
    limits = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    return np.array([[limits.min, limits.max, 1]], dtype)


@pytest.mark.parametrize("datatype", sorted(FORMS.keys() - {"BF16"}))
def test_binary_data_are_read_in_place(datatype: str) -> None:
    """Each type of number with its extremes comes out bit by bit, as a view of the body."""
    values = extremes(datatype)
    body, headers = request(sent("rows", datatype, list(values.shape), values.tobytes()))
    found = array_of(read(body, headers))
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)
    assert np.shares_memory(found, np.frombuffer(body, np.uint8))


@pytest.mark.parametrize("datatype", sorted(CODES))
@pytest.mark.parametrize("flat", [True, False], ids=["flat", "nested"])
def test_json_is_read_exactly(datatype: str, flat: bool) -> None:
    """Each type that JSON has, with its extremes, nested and flat."""
    values = np.vstack([extremes(datatype)] * 2)
    data = (values.ravel() if flat else values).tolist()
    found = array_of(read(*request(sent("rows", datatype, list(values.shape), data))))
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


def test_bfloat16_is_widened() -> None:
    """The upper half of a float32, with no rounding."""
    found = array_of(read(*request(sent("rows", "BF16", [1, 4], BFLOATS))))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[1, -2, 0, 3.140625]])


def test_bytes_are_taken_apart() -> None:
    """By their lengths in binary data, from base64 in JSON; the empty element is one too."""
    files = [b"first", b"", bytes(range(256))]
    assert only(read(*request(sent("images", "BYTES", [3], elements(*files))))).data == files
    texts = [base64.b64encode(file).decode() for file in files]
    assert only(read(*request(sent("images", "BYTES", [3], texts)))).data == files


def test_json_and_binary_inputs_may_be_mixed() -> None:
    """Binary data belong to the inputs that announce them, in their order."""
    first, last = np.arange(4.0), np.arange(6, dtype="<i2")
    body, headers = request(
        sent("a", "FP64", [4], first.tobytes()), sent("b", "INT8", [2], [1, 2]), sent("c", "INT16", [2, 3], last.tobytes())
    )
    found = {name: tensor.data for name, tensor in read(body, headers).inputs.items()}
    np.testing.assert_array_equal(found["a"], first)
    np.testing.assert_array_equal(found["b"], [1, 2])
    np.testing.assert_array_equal(found["c"], last.reshape(2, 3))


def test_a_raw_body_is_the_input() -> None:
    """As many rows as its bytes make; for BYTES the one element."""
    rows = np.arange(8.0).reshape(2, 4)
    query = read(rows.tobytes(), {HEADER: "0"})
    np.testing.assert_array_equal(array_of(query), rows)
    assert query.binary
    assert only(read(b"\x89PNG", {HEADER: "0"}, IMAGES)).data == [b"\x89PNG"]


def test_outputs_are_asked_for_by_name_and_form() -> None:
    """What an output says of its form wins over what the request says of all."""
    item = sent("rows", "FP64", [1], [1])
    wanted = [
        {"name": "score"},
        {"name": "p_value", "parameters": {"binary_data": False}},
        {"name": "x", "parameters": {"binary_data": True}},
    ]
    assert read(*request(item, outputs=wanted)).outputs == {"score": False, "p_value": False, "x": True}
    query = read(*request(item, outputs=wanted, parameters={"binary_data_output": True, "alpha": 0.1}, id="seven"))
    assert query.outputs == {"score": True, "p_value": False, "x": True}
    assert (query.id, query.parameters, query.binary) == ("seven", {"alpha": 0.1}, True)
    assert read(*request(item, outputs=[])).outputs is None


def test_answers_hold_every_bit() -> None:
    """JSON and binary outputs side by side, the binary ones behind the JSON in their order."""
    scores, shares, odd = (
        np.array([0.1, np.pi]),
        np.asfortranarray(np.random.default_rng(0).standard_normal((2, 3))),
        np.array([True, False]),
    )
    body, length = encode({"model_name": "m"}, [("score", scores, False), ("attribution", shares, True), ("is_outlier", odd, True)])
    document = json.loads(body[:length])
    assert document["model_name"] == "m"
    assert [output["name"] for output in document["outputs"]] == ["score", "attribution", "is_outlier"]
    assert document["outputs"][0] == {"name": "score", "shape": [2], "datatype": "FP64", "data": scores.tolist()}
    assert document["outputs"][1] == {"name": "attribution", "shape": [2, 3], "datatype": "FP64", "parameters": {"binary_data_size": 48}}
    assert body[length:] == shares.tobytes() + odd.tobytes()
    assert encode({}, [("is_outlier", odd, False)]) == (
        b'{"outputs":[{"name":"is_outlier","shape":[2],"datatype":"BOOL","data":[true,false]}]}',
        None,
    )


def test_json_holds_no_infinity() -> None:
    """An output that JSON cannot hold is refused as JSON and given as binary data."""
    with pytest.raises(InvalidInput, match="binary data"):
        encode({}, [("score", np.array([np.inf]), False)])
    assert encode({}, [("score", np.array([np.inf]), True)])[0].endswith(np.array([np.inf]).tobytes())


@pytest.mark.parametrize(("encoding", "unpack"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
def test_bodies_are_compressed_and_unpacked(encoding: str, unpack: Any) -> None:
    """As Python's own modules do it; a list of encodings that a client could read asks for none."""
    packed, name = compressed(b"text" * 100, encoding)
    assert name == encoding and unpack(packed) == b"text" * 100
    assert decompressed(packed, encoding.upper(), LIMIT) == b"text" * 100
    for nothing in ("", "gzip, deflate", "br", "identity", "*"):
        assert compressed(b"text", nothing) == (b"text", None)


def test_a_bomb_is_not_unpacked() -> None:
    """A gigabyte in a megabyte is refused at the limit, with memory of the order of the limit."""
    packer = zlib.compressobj(9)
    bomb = b"".join([*(packer.compress(bytes(2**20)) for _ in range(1024)), packer.flush()])
    tracemalloc.start()
    with pytest.raises(TooLarge, match=str(LIMIT)):
        decompressed(bomb, "deflate", LIMIT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * LIMIT
    assert decompressed(zlib.compress(bytes(LIMIT)), "deflate", LIMIT) == bytes(LIMIT)


@pytest.mark.parametrize(
    ("body", "encoding", "error", "says"),
    [
        (b"plain", "gzip", InvalidInput, "not gzip"),
        (b"plain", "deflate", InvalidInput, "not deflate"),
        (gzip.compress(b"text", mtime=0)[:-3], "gzip", InvalidInput, "cut off"),
        (gzip.compress(b"text", mtime=0) + b"more", "gzip", InvalidInput, "followed by other bytes"),
        (gzip.compress(b"text", mtime=0), "deflate", InvalidInput, "not deflate"),
        (b"text", "br", UnsupportedMedia, "'br'"),
        (b"text", "gzip, gzip", UnsupportedMedia, "one of gzip, deflate, zstd"),
    ],
)
def test_broken_compression(body: bytes, encoding: str, error: type[ServiceError], says: str) -> None:
    """What cannot be unpacked whole is refused."""
    with pytest.raises(error, match=says):
        decompressed(body, encoding, LIMIT)


def of(datatype: str, shape: Any, data: Any = None) -> tuple[bytes, dict[str, str]]:
    return request(sent("rows", datatype, shape, data))


def announcing(size: Any, behind: bytes = b"", **more: Any) -> tuple[bytes, dict[str, str]]:
    """A request that announces ``size`` bytes of binary data and brings ``behind``."""
    item = {"name": "rows", "datatype": "FP64", "shape": [1, 4], "parameters": {"binary_data_size": size}, **more}
    text = json.dumps({"inputs": [item]}).encode()
    return text + behind, {HEADER: str(len(text))}


ITEM = {"name": "rows", "datatype": "FP64", "shape": [1], "data": [1]}
GOOD = request((ITEM, b""))[0]
BAD = {
    "empty": (b"", {}, "not JSON"),
    "no JSON": (b"{inputs", {}, "not JSON"),
    "NaN": (GOOD.replace(b"[1]}", b"[NaN]}"), {}, "not JSON"),
    "deep": (b"[" * 100_000, {}, "not JSON"),
    "a list": (b"[]", {}, "must be a JSON object"),
    "no inputs": (b"{}", {}, "inputs"),
    "inputs of another kind": (b'{"inputs": {"rows": 1}}', {}, "a list with an object for each"),
    "an input of another kind": (b'{"inputs": [7]}', {}, "input 0 must be a JSON object"),
    "no name": (b'{"inputs": [{}]}', {}, "input 0 needs a name"),
    "twice": (*request((ITEM, b""), (ITEM, b"")), "given twice"),
    "id": (*request((ITEM, b""), id=7), "id must be a string"),
    "parameters": (*request((ITEM, b""), parameters=[1]), "parameters of the request must be a JSON object"),
    "a list as parameter": (*request((ITEM, b""), parameters={"alpha": [0.1]}), "'alpha' of the request must be a string, a number"),
    "binary_data_output": (*request((ITEM, b""), parameters={"binary_data_output": "yes"}), "binary_data_output must be true or false"),
    "outputs": (*request((ITEM, b""), outputs={"name": "score"}), "outputs must be a list"),
    "output without name": (*request((ITEM, b""), outputs=[{}]), "output 0 needs a name"),
    "binary_data": (*request((ITEM, b""), outputs=[{"name": "a", "parameters": {"binary_data": 1}}]), "binary_data must be"),
    "datatype": (*of("FP8", [1], [1]), "one of BOOL, .* not 'FP8'"),
    "negative size": (*of("FP64", [-1, 4], [1]), "whole numbers of at least 1, not \\[-1, 4\\]"),
    "two negative sizes": (*of("FP64", [-1, -4], bytes(32)), "at least 1"),
    "zero": (*of("FP64", [0, 4], []), "at least 1"),
    "half a size": (*of("FP64", [1.5], [1]), "whole numbers"),
    "boolean size": (*of("FP64", [True], [1]), "whole numbers"),
    "no shape": (*of("FP64", None, [1]), "shape must be a list"),
    "no dimension": (*of("FP64", [], [1]), "shape must be a list of 1 to 8"),
    "many dimensions": (*of("FP64", [1] * 9, [1]), "1 to 8"),
    "overflow": (*of("FP64", [2**32, 2**32], bytes(32)), "takes 147573952589676412928 bytes, and 32 came"),
    "overflow to zero": (*of("UINT8", [2**63, 2], bytes(4)), "takes 18446744073709551616 bytes, and 4 came"),
    "overflow in JSON": (*of("FP64", [2**62, 4], [1, 2]), "2 elements where the shape"),
    "overflow of BYTES": (*of("BYTES", [2**62], elements(b"a")), "do not fit into 5 bytes"),
    "short": (*of("FP64", [1, 4], bytes(31)), "FP64 \\[1, 4\\] takes 32 bytes, and 31 came"),
    "long": (*of("FP64", [1, 4], bytes(33)), "takes 32 bytes, and 33 came"),
    "more than announced": (*announcing(32, bytes(40)), "8 bytes of the body belong to no input"),
    "less than announced": (*announcing(32, bytes(31)), "announces 32 bytes of binary data; 31 are left"),
    "negative announcement": (*announcing(-1), "announces -1 bytes"),
    "announcement in words": (*announcing("32", bytes(32)), "announces '32' bytes"),
    "both": (*announcing(32, bytes(32), data=[1, 2, 3, 4]), "and has data"),
    "announced without header": (announcing(32)[0], {}, "0 are left in the body"),
    "header in words": (GOOD, {HEADER: "ten"}, "must be a number of bytes, not 'ten'"),
    "negative header": (GOOD, {HEADER: "-5"}, "not '-5'"),
    "long header": (GOOD, {HEADER: "9" * 5000}, "must be a number of bytes"),
    "header beyond the body": (GOOD, {HEADER: str(len(GOOD) + 1)}, f"is {len(GOOD) + 1}, and the body has {len(GOOD)}"),
    "header cuts the JSON": (GOOD, {HEADER: str(len(GOOD) - 1)}, "not JSON"),
    "raw, no whole row": (bytes(40), {HEADER: "0"}, "40 bytes holds no whole number of rows: one row of FP64 \\[4\\] takes 32"),
    "raw, nothing": (b"", {HEADER: "0"}, "no whole number of rows"),
    "FP16 as JSON": (*of("FP16", [1], [1]), "FP16 has no form in JSON"),
    "BF16 as JSON": (*of("BF16", [1], [1]), "BF16 has no form in JSON"),
    "BF16, half a number": (*of("BF16", [2], bytes(3)), "takes 4 bytes, and 3 came"),
    "no data": (*of("FP64", [1]), "data must be a list"),
    "fewer": (*of("FP64", [2, 2], [1, 2, 3]), "3 elements where the shape \\[2, 2\\] has 4"),
    "ragged": (*of("FP64", [2, 2], [[1, 2], [3]]), "list 1 of data does not have the 2 elements"),
    "half nested": (*of("FP64", [2, 2], [[1, 2], 3]), "list 1 of data"),
    "too deep": (*of("FP64", [2], [[1], [2]]), "element 0 of data is '\\[1\\]', which is no FP64"),
    "text": (*of("FP64", [2], [1, "2"]), "element 1 of data is '2', which is no FP64"),
    "null": (*of("FP32", [2], [None, 2]), "element 0 of data is 'None'"),
    "fraction": (*of("INT32", [2], [1, 2.5]), "element 1 of data is '2.5', which is no INT32"),
    "out of range": (*of("INT8", [2], [1, 128]), "element 1 of data is '128', which is no INT8"),
    "negative and unsigned": (*of("UINT64", [1], [-1]), "'-1', which is no UINT64"),
    "a 2 as BOOL": (*of("BOOL", [2], [True, 2]), "elements of BOOL are 0 or 1"),
    "a 2 as binary BOOL": (*of("BOOL", [2], b"\1\2"), "elements of BOOL are 0 or 1"),
    "no base64": (*of("BYTES", [1], ["a b"]), "element 0 of BYTES must be base64"),
    "a number as BYTES": (*of("BYTES", [1], [7]), "element 0 of BYTES must be base64"),
    "element too long": (*of("BYTES", [2], struct.pack("<I", 9) + bytes(8)), "element 0 announces 9 bytes, and 12 are left"),
    "length of 4 GiB": (*of("BYTES", [1], struct.pack("<I", 2**32 - 1)), "announces 4294967295 bytes"),
    "no room for a length": (*of("BYTES", [2], elements(b"12345")), "element 1 has no length"),
    "bytes behind the elements": (*of("BYTES", [1], elements(b"a") + b"b"), "1 bytes follow its 1 elements"),
}


@pytest.mark.parametrize(("body", "headers", "says"), BAD.values(), ids=BAD.keys())
def test_refusals(body: bytes, headers: dict[str, str], says: str) -> None:
    """Each lie about sizes, types or places is refused in words that name it."""
    with pytest.raises(InvalidInput, match=says) as refused:
        read(body, headers)
    assert len(str(refused.value)) < 500


def test_what_is_not_offered() -> None:
    """Shared memory and classification are other extensions."""
    memory = {"parameters": {"shared_memory_region": "a", "shared_memory_byte_size": 8}}
    with pytest.raises(Unsupported, match="shared memory"):
        read(*request(({"name": "rows", "datatype": "FP64", "shape": [1], **memory}, b"")))
    for parameters in ({"classification": 3}, memory["parameters"]):
        with pytest.raises(Unsupported, match="no classification"):
            read(*request((ITEM, b""), outputs=[{"name": "score", "parameters": parameters}]))


def test_much_json_is_refused_unread() -> None:
    """The limit of JSON bodies holds for the JSON part alone."""
    rows = np.zeros((LIMIT // 16, 4))
    assert array_of(read(*of("FP64", list(rows.shape), rows.tobytes()))).shape == rows.shape
    with pytest.raises(TooLarge, match="binary data"):
        read(b" " * (LIMIT + 1), {})


def refused_or_sound(body: bytes, length: str | None, expected: Slot) -> None:
    """Nothing but a query of tensors that are what they say, or a refusal, comes out."""
    with contextlib.suppress(InvalidInput, TooLarge, Unsupported):
        for tensor in decode(body, length, expected, LIMIT).inputs.values():
            if isinstance(tensor.data, list):
                assert len(tensor.data) == np.prod(tensor.shape) and all(type(element) is bytes for element in tensor.data)
            else:
                assert tensor.data.shape == tensor.shape and tensor.data.dtype.kind in "fiub"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)
odd_sizes = st.integers(-2, 9) | st.sampled_from([2**31, 2**62, 2**63, 2**64, -(2**63)])
inputs = st.fixed_dictionaries(
    {"name": st.just("rows") | st.text(max_size=3)},
    optional={
        "datatype": st.sampled_from([*FORMS, "BYTES", "FP8"]) | json_values,
        "shape": st.lists(odd_sizes, max_size=4) | json_values,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": odd_sizes | json_values}) | json_values,
        "data": st.lists(st.integers(-3, 300) | st.lists(st.floats(), max_size=3), max_size=9) | json_values,
    },
)
documents = st.fixed_dictionaries(
    {"inputs": st.lists(inputs, max_size=3) | json_values},
    optional={"id": json_values, "parameters": json_values, "outputs": st.lists(json_values, max_size=2) | json_values},
)


@given(documents, st.binary(max_size=80), st.none() | st.integers(-2, 60), st.sampled_from([ROWS, IMAGES]))
@settings(max_examples=300)
def test_made_up_requests_are_read_or_refused(document: Any, data: bytes, shift: int | None, expected: Slot) -> None:
    """Whatever a document says of itself, with data behind it and a header that may be wrong by a few bytes."""
    text = json.dumps(document).encode()
    refused_or_sound(text + data, None if shift is None else str(len(text) + min(shift, 2)), expected)


@given(st.data())
@settings(max_examples=300)
def test_damaged_requests_are_read_or_refused(data: st.DataObject) -> None:
    """Sound requests with bytes changed, cut off, or with another header length."""
    sound = st.sampled_from(
        [
            of("FP64", [2, 2], bytes(32)),
            of("BYTES", [2], elements(b"one", b"two")),
            of("INT16", [2, 2], [[1, 2], [3, 4]]),
            of("BYTES", [1], ["YQ=="]),
            of("BF16", [4], BFLOATS),
        ]
    )
    good, headers = data.draw(sound)
    body = bytearray(good)
    for place, byte in data.draw(st.lists(st.tuples(st.integers(0, len(body) - 1), st.integers(0, 255)), max_size=6)):
        body[place] = byte
    cut = data.draw(st.integers(0, len(body)))
    length = data.draw(st.sampled_from([headers.get(HEADER), None, "0", str(cut)]))
    refused_or_sound(bytes(body[: cut or None]), length, data.draw(st.sampled_from([ROWS, IMAGES])))


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]))
@settings(max_examples=100)
def test_any_bytes_are_unpacked_or_refused(body: bytes, encoding: str) -> None:
    """Nothing but bytes within the limit, or a refusal, comes out; also of what begins soundly."""
    for damaged in (body, compressed(body, encoding)[0][: len(body)], compressed(body, encoding)[0] + body):
        with contextlib.suppress(InvalidInput, TooLarge):
            assert len(decompressed(damaged, encoding, 100)) <= 100
