"""Requests of the Open Inference Protocol, made the obvious way, and its binary answers taken apart."""

from __future__ import annotations

import json
import struct
from typing import Any

import httpx2
import numpy as np
from numpy.typing import NDArray

HEADER = "Inference-Header-Content-Length"
FORMS = {"FP64": "<f8", "FP32": "<f4", "BOOL": "?"}


def sent(name: str, datatype: str, shape: Any, data: Any) -> tuple[dict[str, Any], bytes]:
    """An input for ``request``: bytes go as binary data, everything else as JSON."""
    item = {"name": name, "datatype": datatype, "shape": shape}
    if isinstance(data, bytes):
        return {**item, "parameters": {"binary_data_size": len(data)}}, data
    return {**item, "data": data}, b""


def request(*inputs: tuple[dict[str, Any], bytes], **more: Any) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request with these inputs."""
    text = json.dumps({"inputs": [item for item, _ in inputs], **more}).encode()
    data = b"".join(data for _, data in inputs)
    return text + data, {HEADER: str(len(text))} if data else {}


def of_rows(rows: NDArray[np.float64] | NDArray[np.float32], **more: Any) -> tuple[bytes, dict[str, str]]:
    datatype = {"float64": "FP64", "float32": "FP32"}[rows.dtype.name]
    return request(sent("rows", datatype, list(rows.shape), rows.tobytes()), **more)


def elements(*values: bytes) -> bytes:
    """Elements of BYTES as binary data."""
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def outputs(answer: httpx2.Response) -> dict[str, NDArray[Any]]:
    """The outputs of an answer, binary or not, by name."""
    assert answer.status_code == 200, answer.text
    length = int(answer.headers.get(HEADER, len(answer.content)))
    document, data = json.loads(answer.content[:length]), answer.content[length:]
    found: dict[str, NDArray[Any]] = {}
    for output in document["outputs"]:
        form = FORMS[output["datatype"]]
        if "data" in output:
            values = np.array(output["data"], form)
        else:
            size = output["parameters"]["binary_data_size"]
            values, data = np.frombuffer(data[:size], form), data[size:]
        found[output["name"]] = values.reshape(output["shape"])
    assert data == b""
    return found
