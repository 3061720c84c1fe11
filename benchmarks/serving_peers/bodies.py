"""Forms of bodies: what is sent for rows or images, and how the scores are read from what comes back."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2
import numpy as np
import orjson
import tritonclient.http as triton

BOUNDARY = "what-no-picture-holds"
LENGTH = "Inference-Header-Content-Length"

Headers = dict[str, str]
Made = tuple[Headers, bytes]


@dataclass(frozen=True, slots=True)
class Form:
    """``make`` gives headers and body of rows (n, d) in float32, or of the bytes of n images; ``read`` the scores (n,) in an answer."""

    make: Callable[[Any], Made]
    read: Callable[[httpx2.Response], Any]


def _json(rows) -> Made:
    return {"Content-Type": "application/json"}, orjson.dumps({"rows": rows}, option=orjson.OPT_SERIALIZE_NUMPY)


def _of_json(answer):
    """Ours has an object for each row, the others one list."""
    found = orjson.loads(answer.content)
    return [row["score"] for row in found["results"]] if "results" in found else found["scores"]


def _v2_json(rows) -> Made:
    tensor = {"name": "rows", "shape": rows.shape, "datatype": "FP32", "data": rows.ravel()}
    return {"Content-Type": "application/json"}, orjson.dumps({"inputs": [tensor]}, option=orjson.OPT_SERIALIZE_NUMPY)


def _v2_binary(rows) -> Made:
    tensor = triton.InferInput("rows", rows.shape, "FP32")
    tensor.set_data_from_numpy(rows)
    body, length = triton.InferenceServerClient.generate_request_body([tensor], outputs=[triton.InferRequestedOutput("score")])
    return {"Content-Type": "application/octet-stream", LENGTH: str(length)}, body


def _of_v2(answer):
    length = answer.headers.get(LENGTH)
    found = triton.InferenceServerClient.parse_response_body(answer.content, header_length=length and int(length))
    return found.as_numpy("score").ravel()


def _npy(rows) -> Made:
    stream = io.BytesIO()
    np.save(stream, rows)
    return {"Content-Type": "application/x-npy", "Accept": "application/x-npy"}, stream.getvalue()


def _raw(rows) -> Made:
    return {"Content-Type": "application/octet-stream"}, rows.tobytes()


def _images(images) -> Made:
    files = [("images", (f"{index}.jpg", image, "image/jpeg")) for index, image in enumerate(images)]
    media = f"multipart/form-data; boundary={BOUNDARY}"
    request = httpx2.Request("POST", "http://localhost", files=files, headers={"Content-Type": media})
    return {"Content-Type": media}, request.read()


FORMS = {
    "JSON": Form(_json, _of_json),
    "npy": Form(_npy, lambda answer: np.load(io.BytesIO(answer.content))["score"]),
    "raw": Form(_raw, lambda answer: np.frombuffer(answer.content, np.float32)),
    "v2 JSON": Form(_v2_json, _of_v2),
    "v2 binary": Form(_v2_binary, _of_v2),
    "images": Form(_images, _of_json),
}
