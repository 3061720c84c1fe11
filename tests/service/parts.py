"""What a client of uploads sends: files in parts, by curl's and tus clients' own headers."""

from __future__ import annotations

import base64
import hashlib
import io
from typing import Any

import httpx2
import numpy as np

from tests.service.served import npy, rows

ROOT = "/v1/uploads"
MEDIA = "application/offset+octet-stream"
FILE = npy(rows(3000))  # some 96 kB
PART = 40_000


def text(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


def check_sum(part: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm} {base64.b64encode(hashlib.new(algorithm, part).digest()).decode()}"


def begin(client: httpx2.Client, size: int = len(FILE), name: str = "rows.npy", **metadata: str) -> httpx2.Response:
    about = ",".join(f"{key} {text(value)}" for key, value in {"filename": name, **metadata}.items())
    return client.post(ROOT, headers={"Upload-Length": str(size), "Upload-Metadata": about, "Tus-Resumable": "1.0.0"})


def begun(client: httpx2.Client, size: int = len(FILE), name: str = "rows.npy", **metadata: str) -> str:
    """The id of a new upload."""
    answer = begin(client, size, name, **metadata)
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"{ROOT}/{answer.json()['id']}"
    return str(answer.json()["id"])


def send(client: httpx2.Client, upload: str, offset: int, part: bytes, **headers: str) -> httpx2.Response:
    own = {"Content-Type": MEDIA, "Upload-Offset": str(offset), "Tus-Resumable": "1.0.0", "Upload-Checksum": check_sum(part)}
    return client.patch(f"{ROOT}/{upload}", content=part, headers={**own, **headers})


def sent(client: httpx2.Client, data: bytes = FILE, name: str = "rows.npy", **metadata: str) -> str:
    """The id of an upload of all of ``data``, in parts."""
    upload = begun(client, len(data), name, **metadata)
    for start in range(0, len(data), PART):
        answer = send(client, upload, start, data[start : start + PART])
        assert (answer.status_code, answer.headers.get("upload-offset")) == (204, str(min(start + PART, len(data)))), answer.text
    return upload


def about(client: httpx2.Client, upload: str) -> dict[str, Any]:
    answer = client.get(f"{ROOT}/{upload}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()
