"""Uploads over HTTP: parts arrive whole, once and in order, whatever happens in between; what is no data set is refused."""

from __future__ import annotations

import hashlib
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, feather, parquet
from tusclient.client import TusClient

from service import errors
from service.jobs import work
from service.jobs.schemas import FitOptions
from service.settings import Settings
from service.store import Store
from service.uploads import data_sets
from service.uploads.parts import MOST_PARTS, Uploads
from tests.servers import RedisServer, ServiceProcess, eventually
from tests.service.parts import FILE, MEDIA, PART, ROOT, about, begin, begun, check_sum, npz, send, sent
from tests.service.served import Served, npy, rows, served
from tests.service.stores import TIMEOUT

LIMITS = {"FARFIELD_MAX_PART_BYTES": "100000", "FARFIELD_MAX_UPLOAD_BYTES": "400000"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("uploads"), {}, **LIMITS) as running:
        yield running


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test no key of an upload is in the store once all uploads are deleted."""
    yield
    if "service" not in request.fixturenames:
        return
    running = request.getfixturevalue("service")
    uploads = Uploads(running.store.connection)
    for upload in uploads.all():
        uploads.delete(upload.id)
    keys = list(running.store.connection.client.scan_iter(match="farfield:{uploads}:*"))
    assert not [key for key in keys if not 0 < running.store.connection.client.ttl(key) <= 600]


def as_file(form: str, folder: Path, **beside: list[str]) -> bytes:
    """Twenty rows of two columns of numbers, or as many as there are texts ``beside`` them."""
    count = max(map(len, beside.values()), default=20)
    table = pa.table({"a": np.arange(count) % 7.0, "b": np.arange(count) ** 2.0, **beside})
    path = folder / f"rows.{form}"
    {
        "parquet": lambda: parquet.write_table(table, path),
        "arrow": lambda: feather.write_feather(table, path, compression="uncompressed"),
        "csv": lambda: csv.write_csv(table, path),
        "npy": lambda: path.write_bytes(npy(rows(20, width=2))),
        "npz": lambda: path.write_bytes(npz(X=rows(20, width=2))),
    }[form]()
    return path.read_bytes()


@pytest.mark.parametrize("form", ["npy", "npz", "parquet", "arrow", "csv"])
def test_a_file_sent_in_parts_is_a_data_set(service: Served, tmp_path: Path, form: str) -> None:
    """In every form that is taken; a worker gets the very bytes, and the service tells what it is."""
    data = as_file(form, tmp_path)
    upload = begun(service.client, len(data), f"rows.{form}")
    for start in range(0, len(data), 101):
        assert send(service.client, upload, start, data[start : start + 101]).status_code == 204
    told = about(service.client, upload)
    assert (told["state"], told["data"], told["rows"]) == ("complete", f"upload:{upload}", None if form == "csv" else 20)
    path = data_sets.fetched(service.store, data_sets.named(told["data"]) or "", tmp_path)
    assert (path.parent, path.suffix, path.read_bytes()) == (tmp_path, f".{form}", data)
    assert service.client.get(ROOT).json()["uploads"] == [told]


def test_tuspy_uploads_and_resumes(service: Served, tmp_path: Path) -> None:
    """The tus project's own Python client needs to know nothing but the address; after a stop it goes on where it was."""
    file = tmp_path / "rows.npy"
    file.write_bytes(FILE)
    client = TusClient(f"{service.process.url}{ROOT}")
    with file.open("rb") as stream:
        first = client.uploader(file_stream=stream, chunk_size=PART, metadata={"filename": "rows.npy"}, upload_checksum=True)
        first.upload_chunk()
        assert first.offset == PART
    with file.open("rb") as stream:
        second = client.uploader(file_stream=stream, chunk_size=PART, url=first.url)
        assert second.offset == PART
        second.upload()
    assert about(service.client, first.url.rpartition("/")[2])["state"] == "complete"


def test_curl_uploads(service: Served, tmp_path: Path) -> None:
    """As the documentation has it."""
    curl = shutil.which("curl")
    assert curl, "the tests need curl on the PATH"
    upload = begun(service.client)
    (tmp_path / "rows.npy").write_bytes(FILE)
    headers = [word for header in (f"Content-Type: {MEDIA}", "Upload-Offset: 0") for word in ("-H", header)]
    words = [
        curl,
        "-s",
        "-i",
        "-X",
        "PATCH",
        "--data-binary",
        f"@{tmp_path / 'rows.npy'}",
        *headers,
        f"{service.process.url}{ROOT}/{upload}",
    ]
    answer = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert "204" in answer.splitlines()[0]
    assert f"upload-offset: {len(FILE)}" in answer
    assert about(service.client, upload)["state"] == "complete"


def test_what_the_server_can_do_is_told(service: Served) -> None:
    """As tus asks; every answer names the version, refusals too."""
    answer = service.client.options(ROOT)
    assert answer.status_code == 204
    assert answer.headers["tus-extension"] == "creation,checksum,expiration,termination"
    assert answer.headers["tus-checksum-algorithm"] == "sha256,sha1"
    assert answer.headers["tus-max-size"] == "400000"
    for other in (answer, service.client.get(ROOT), service.client.head(f"{ROOT}/{'0' * 32}")):
        assert other.headers["tus-resumable"] == "1.0.0"
    assert "tus-resumable" not in service.client.get("/v1/detectors").headers
    other = service.client.head(f"{ROOT}/{'0' * 32}", headers={"Tus-Resumable": "0.2.2"})
    assert (other.status_code, other.headers["tus-version"]) == (412, "1.0.0")


def test_a_part_again_is_acknowledged_and_another_is_refused(service: Served) -> None:
    """The same bytes at their offset change nothing, also after the end; other bytes, a gap and an overlap get 409 with the place."""
    upload = begun(service.client)
    part = FILE[:PART]
    for _ in range(2):
        assert send(service.client, upload, 0, part).headers["upload-offset"] == str(PART)
    for offset, other in ((0, FILE[1 : PART + 1]), (0, FILE[: PART - 1]), (PART - 1, part), (PART + 1, part)):
        answer = send(service.client, upload, offset, other)
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:farfield:problem:offset-moved")
        assert f"goes on at offset {PART}, not at {offset}" in answer.json()["detail"]
    assert send(service.client, upload, PART, b"").status_code == 204
    assert send(service.client, upload, 0, b"").status_code == 409
    for start in range(PART, len(FILE), PART):
        assert send(service.client, upload, start, FILE[start : start + PART]).status_code == 204
    assert send(service.client, upload, start, FILE[start:]).headers["upload-offset"] == str(len(FILE))
    assert about(service.client, upload)["state"] == "complete"
    assert b"".join(Uploads(service.store.connection).chunks(Uploads(service.store.connection).get(upload))) == FILE


@pytest.mark.parametrize("same", [True, False])
def test_of_parts_at_once_one_is_added(service: Served, same: bool) -> None:
    """Sixty-four at one offset: the same bytes are acknowledged to all, of different ones one is added and nothing else stays."""
    upload = begun(service.client)
    variants = [FILE[:PART] if same else bytes([index]) + FILE[1:PART] for index in range(64)]
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda part: send(service.client, upload, 0, part), variants))
    added = [answer for answer in answers if answer.status_code == 204]
    assert {answer.status_code for answer in answers} == ({204} if same else {204, 409})
    assert len(added) == (64 if same else 1)
    assert about(service.client, upload)["offset"] == PART
    parts = list(service.store.connection.client.scan_iter(match=f"farfield:{{uploads}}:part:{upload}:*"))
    assert len(parts) == 1


@pytest.mark.parametrize("algorithm", ["sha256", "sha1"])
def test_a_part_that_arrives_damaged_is_not_added(service: Served, algorithm: str) -> None:
    """With 460, and can be sent again."""
    upload = begun(service.client)
    answer = send(service.client, upload, 0, FILE[:PART], **{"Upload-Checksum": check_sum(FILE[1 : PART + 1], algorithm)})
    assert (answer.status_code, answer.json()["type"]) == (460, "urn:farfield:problem:checksum-mismatch")
    assert about(service.client, upload)["offset"] == 0
    assert send(service.client, upload, 0, FILE[:PART], **{"Upload-Checksum": check_sum(FILE[:PART], algorithm)}).status_code == 204


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ({"Upload-Offset": "-1"}, 422, "Upload-Offset"),
        ({"Upload-Offset": "x"}, 422, "Upload-Offset"),
        ({"Upload-Offset": "9" * 30}, 409, "goes on at offset 0"),
        ({"Upload-Checksum": "md5 AAAA"}, 422, "checksums are by sha256 or sha1, not 'md5'"),
        ({"Upload-Checksum": "sha256 !"}, 422, "must be in Base64"),
        ({"Content-Type": "application/json"}, 415, "application/offset+octet-stream"),
        ({"Content-Encoding": "gzip"}, 415, "as it is"),
        ({"Tus-Resumable": "0.9"}, 412, "speaks 1.0.0"),
    ],
)
def test_broken_parts_are_refused(service: Served, headers: dict[str, str], status: int, reason: str) -> None:
    """As a problem that says what was expected."""
    upload = begun(service.client)
    answer = send(service.client, upload, 0, FILE[:10], **headers)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    assert reason in answer.text
    assert about(service.client, upload)["offset"] == 0


def test_what_is_larger_than_it_may_be_is_refused(service: Served) -> None:
    """A part over the limit, announced or not; a part beyond the end; an upload over the limit."""
    upload = begun(service.client, 200_000)
    announced = send(service.client, upload, 0, bytes(100_001))
    pieces: Any = (bytes(1000) for _ in range(101))
    headers = {"Content-Type": MEDIA, "Upload-Offset": "0"}
    streamed = service.client.patch(f"{ROOT}/{upload}", content=pieces, headers=headers)
    beyond = send(service.client, begun(service.client, 10), 0, bytes(11))
    for answer in (announced, streamed, beyond, begin(service.client, 400_001)):
        assert (answer.status_code, answer.json()["type"]) == (413, "urn:farfield:problem:too-large"), answer.text
    assert about(service.client, upload)["offset"] == 0


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd.npy",
        "/etc/passwd.npy",
        "a\\b.npy",
        "x\n.npy",
        "rows.exe",
        "rows",
        ".npy.tar.gz",
        "a" * 252 + ".npy",
        "\u202enpy.npy",
    ],
)
def test_hostile_names_are_refused(service: Served, name: str) -> None:
    """Nothing is a name that is a path, or holds what cannot be shown, or has no form."""
    answer = begin(service.client, name=name)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "Upload-Metadata"), answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Upload-Metadata": "filename cm93cy5ucHk="},
        {"Upload-Length": "0", "Upload-Metadata": "filename cm93cy5ucHk="},
        {"Upload-Length": "ten", "Upload-Metadata": "filename cm93cy5ucHk="},
        {"Upload-Length": "10"},
        {"Upload-Length": "10", "Upload-Metadata": ""},
        {"Upload-Length": "10", "Upload-Metadata": "filename"},
        {"Upload-Length": "10", "Upload-Metadata": "filename !!!"},
        {"Upload-Length": "10", "Upload-Metadata": "filename /w=="},
        {"Upload-Length": "10", "Upload-Metadata": "filename cm93cy5ucHk=,sha256 MTIz"},
        {"Upload-Length": "10", "Upload-Metadata": f"filename {'A' * 5000}"},
    ],
)
def test_broken_beginnings_are_refused(service: Served, headers: dict[str, str]) -> None:
    """With the name of the header."""
    answer = service.client.post(ROOT, headers=headers)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"] in ("Upload-Length", "Upload-Metadata")) == (422, True), answer.text


@pytest.mark.parametrize("path", ["0" * 32, "nonsense", "..%2f..%2fjobs"])
def test_unknown_uploads(service: Served, path: str) -> None:
    """For every method; an id that none can have is bad input, and a path that is none is nothing."""
    for method in ("GET", "HEAD", "PATCH", "DELETE"):
        headers = {"Upload-Offset": "0", "Content-Type": MEDIA} if method == "PATCH" else {}
        answer = service.client.request(method, f"{ROOT}/{path}", headers=headers)
        assert answer.status_code == {"0": 404, "n": 422, ".": 404}[path[0]]


@pytest.mark.parametrize("form", ["parquet", "arrow", "csv"])
def test_a_table_with_text_is_a_data_set(service: Served, tmp_path: Path, name: str, form: str) -> None:
    """A fit picks the columns, and may take the text for keys or classes; one that asks for text among the numbers is refused by name."""
    data = as_file(form, tmp_path, kind=["bolt", "nut"] * 30, id=[f"row {i}" for i in range(60)])
    upload = sent(service.client, data, f"rows.{form}")
    assert (about(service.client, upload)["state"], about(service.client, upload)["rows"]) == ("complete", None if form == "csv" else 60)

    def fitted(**options: Any) -> dict[str, Any]:
        order = FitOptions(data=f"upload:{upload}", alpha=0.2, **options)
        return work.fit(service.store, Settings(), uuid.uuid4().hex, name, order, lambda phase, done, total: None)

    assert fitted(columns=["a", "b"])["features"] == 2
    assert fitted(columns=["b"], key="id", type="class_gaussian", classes="kind")["features"] == 1
    for asked in (None, ["a", "kind"]):
        with pytest.raises(errors.InvalidInput, match=rf"^column 'kind' of rows\.{form} holds string; numbers are needed$"):
            fitted(columns=asked)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("rows.npy", b"garbage" * 100, "rows.npy"),
        ("rows.npy", npy(np.array([{"a": 1}], dtype=object)), "rows.npy"),
        ("rows.npy", npy(rows(0)), "holds no rows"),
        ("rows.npy", FILE[:-1], "rows.npy"),
        ("rows.npz", b"PK\x03\x04 but no archive", "rows.npz"),
        ("rows.parquet", b"PAR1" + bytes(100) + b"PAR1", "rows.parquet"),
        ("rows.arrow", FILE[:500], "rows.arrow"),
        ("rows.csv", b"\xff\xfe\x00", "rows.csv"),
        ("rows.csv", b"a,b\nx,y\n", "rows.csv has no column of numbers"),
    ],
)
def test_what_is_not_in_its_form_is_refused(service: Served, name: str, data: bytes, reason: str) -> None:
    """With the reason and no place of this machine; its bytes are gone, and a fit cannot name it."""
    upload = begun(service.client, len(data), name)
    answer = send(service.client, upload, 0, data)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:farfield:problem:invalid-input"), answer.text
    told = about(service.client, upload)
    assert (told["state"], told["reason"] in answer.json()["detail"]) == ("refused", True)
    assert reason in told["reason"]
    assert "/" not in told["reason"].replace("https://", "")
    assert not list(service.store.connection.client.scan_iter(match=f"farfield:{{uploads}}:part*:{upload}*"))
    assert send(service.client, upload, 0, data).status_code == 422
    with pytest.raises(errors.InvalidInput, match="is refused, not complete"):
        data_sets.complete(service.store, upload)


def test_the_whole_is_compared_with_its_sha256(service: Served) -> None:
    """Where it was announced: parts that each came as sent may still not be the file."""
    good = sent(service.client, sha256=hashlib.sha256(FILE).hexdigest())
    assert about(service.client, good)["state"] == "complete"
    upload = begun(service.client, sha256=hashlib.sha256(FILE).hexdigest())
    swapped = FILE[: len(FILE) - 8] + bytes(8)
    answers = [send(service.client, upload, start, swapped[start : start + PART]) for start in range(0, len(FILE), PART)]
    assert [answer.status_code for answer in answers] == [204, 204, 422]
    assert "as announced" in answers[-1].json()["detail"]


def test_an_upload_that_is_not_complete_is_no_data_set(service: Served, tmp_path: Path) -> None:
    """Nor is one that is deleted; both are said."""
    upload = begun(service.client)
    send(service.client, upload, 0, FILE[:PART])
    with pytest.raises(errors.InvalidInput, match=f"is open, not complete: {PART} of {len(FILE)} bytes"):
        data_sets.fetched(service.store, upload, tmp_path)
    assert service.client.delete(f"{ROOT}/{upload}").status_code == 204
    assert service.client.delete(f"{ROOT}/{upload}").status_code == 404
    with pytest.raises(errors.UnknownUpload):
        data_sets.fetched(service.store, upload, tmp_path)
    answer = send(service.client, upload, PART, FILE[PART:])
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:farfield:problem:unknown-upload")


@pytest.mark.parametrize("upload", ["", "x", "../../etc/passwd", "0" * 33, "\ud800", "*"])
def test_an_id_that_none_can_have_is_unknown(service: Served, tmp_path: Path, upload: str) -> None:
    """Whatever a request to fit names."""
    with pytest.raises(errors.UnknownUpload):
        data_sets.fetched(service.store, data_sets.named(f"upload:{upload}") or "", tmp_path)


def test_a_data_set_that_was_damaged_in_the_store_is_not_used(service: Served, tmp_path: Path) -> None:
    """A bit, a chunk or a part that is not what came is found before the worker has the file."""
    raw = service.store.connection.client
    for damage in ("bit", "chunk", "part"):
        upload = sent(service.client)
        key = min(raw.scan_iter(match=f"farfield:{{uploads}}:part:{upload}:*"))
        if damage == "bit":
            raw.hset(key, "0", bytes([raw.hget(key, "0")[0] ^ 1]) + raw.hget(key, "0")[1:])
        elif damage == "chunk":
            raw.hdel(key, "0")
        else:
            raw.hdel(f"farfield:{{uploads}}:parts:{upload}", "0")
            raw.delete(key)
        with pytest.raises(errors.InvalidInput, match="damaged in the store"):
            data_sets.fetched(service.store, upload, tmp_path)


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServiceProcess, RedisServer]]:
    """A service on a server of its own, both of which may be hurt."""
    folder = tmp_path_factory.mktemp("apart")
    server = RedisServer(folder / "redis").start()
    process = ServiceProcess(folder / "service", server.url, {"FARFIELD_STORE_TIMEOUT": "0.2"})
    try:
        process.start(ready=False)
        yield process, server
    finally:
        process.kill()
        server.kill()


@pytest.fixture
def client(apart: tuple[ServiceProcess, RedisServer]) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=apart[0].url, timeout=60) as opened:
        yield opened


def test_a_store_that_is_lost_in_the_middle_costs_no_part(apart: tuple[ServiceProcess, RedisServer], client: httpx2.Client) -> None:
    """While it hangs a part is answered 503; afterwards the same part is taken."""
    upload = begun(client)
    assert send(client, upload, 0, FILE[:PART]).status_code == 204
    apart[1].freeze()
    answer = send(client, upload, PART, FILE[PART:])
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:farfield:problem:store-unavailable")
    assert answer.headers["retry-after"]
    apart[1].thaw()
    assert send(client, upload, PART, FILE[PART:]).status_code == 204
    assert about(client, upload)["state"] == "complete"


def test_a_store_without_memory_says_so(apart: tuple[ServiceProcess, RedisServer], client: httpx2.Client) -> None:
    """A part is answered 507 and can be sent again when there is room; what was acknowledged before is there."""
    upload = begun(client)
    assert send(client, upload, 0, FILE[:PART]).status_code == 204
    with apart[1].client() as raw:
        raw.config_set("maxmemory", "1")
        answer = send(client, upload, PART, FILE[PART:])
        assert (answer.status_code, answer.json()["type"]) == (507, "urn:farfield:problem:store-full")
        assert "farfield gc" in answer.json()["detail"]
        raw.config_set("maxmemory", "0")
    assert send(client, upload, PART, FILE[PART:]).status_code == 204
    assert about(client, upload)["state"] == "complete"


def test_a_service_killed_in_the_middle_loses_nothing_acknowledged(
    apart: tuple[ServiceProcess, RedisServer], client: httpx2.Client
) -> None:
    """Killed while a part arrives, the upload goes on from the last acknowledged one; one that nobody has looked at yet is looked at."""
    process, server = apart
    upload, unseen = begun(client), begun(client)
    assert send(client, upload, 0, FILE[:PART]).status_code == 204
    half = f"PATCH {ROOT}/{upload} HTTP/1.1\r\nHost: x\r\nContent-Type: {MEDIA}\r\nUpload-Offset: {PART}\r\nContent-Length: {PART}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", urlsplit(process.url).port)) as caller:
        caller.sendall(half.encode() + FILE[PART : PART + 1000])
        process.kill()
        with suppress(ConnectionError):
            assert caller.recv(1000) == b""
    with Store.open(server.url) as store:
        Uploads(store.connection).append(unseen, 0, FILE)  # as a service that dies before it has looked
    process.log_file.unlink()
    process.start(ready=False)
    with httpx2.Client(base_url=process.url, timeout=60) as again:
        assert again.head(f"{ROOT}/{upload}").headers["upload-offset"] == str(PART)
        assert send(again, upload, PART, FILE[PART:]).status_code == 204
        assert about(again, upload)["state"] == "complete"
        assert about(again, unseen)["state"] == "open"
        assert again.head(f"{ROOT}/{unseen}").headers["upload-offset"] == str(len(FILE))
        assert about(again, unseen)["state"] == "complete"


# The store side, on every kind of server


def limits(**given: Any) -> Settings:
    return Settings(**given)


def test_uploads_are_bounded_in_number_and_bytes_and_expire(any_server: Any, raw: Any) -> None:
    """What is over the bounds is refused until another has expired; then all its keys are gone too."""
    with Store.open(any_server.url, timeout=TIMEOUT) as store:
        uploads = Uploads(store.connection)
        begun = [uploads.create("rows.npy", 600, limits(upload_open_seconds=1)) for _ in range(2)]
        uploads.append(begun[0].id, 0, bytes(100))
        with pytest.raises(errors.UploadsFull, match="there are 2 uploads"):
            uploads.create("rows.npy", 1, limits(max_uploads=2))
        with pytest.raises(errors.UploadsFull, match=r"take 1200 bytes of 1500.*no room for 301"):
            uploads.create("rows.npy", 301, limits(max_uploads_bytes=1500))
        third = uploads.create("rows.npy", 300, limits(max_uploads_bytes=1500))
        eventually(lambda: [upload.id for upload in uploads.all()] == [third.id], "two have expired")
        with pytest.raises(errors.UnknownUpload):
            uploads.append(begun[0].id, 100, bytes(100))
        later = uploads.create("rows.npy", 1200, limits(max_uploads=2, max_uploads_bytes=1500))
        for upload in (third, later):
            uploads.delete(upload.id)
        eventually(lambda: not list(raw.scan_iter(match="farfield:{uploads}:*")), "no key is left")


def test_a_data_set_outlives_its_upload(any_server: Any, raw: Any, tmp_path: Path) -> None:
    """Complete, it and all its parts are kept for a time of their own; a refused one gives its bytes back."""
    with Store.open(any_server.url, timeout=TIMEOUT) as store:
        uploads = Uploads(store.connection)
        given = limits(upload_open_seconds=50, upload_kept_seconds=5000, max_uploads_bytes=len(FILE))
        refused = uploads.create("rows.npy", 100, given)
        uploads.append(refused.id, 0, bytes(100))
        assert data_sets.settled(uploads, refused.id).state == "refused"
        upload = uploads.create("rows.npy", len(FILE), given)
        for start in range(0, len(FILE), PART):
            uploads.append(upload.id, start, FILE[start : start + PART])
        keys = list(raw.scan_iter(match=f"farfield:{{uploads}}:*{upload.id}*"))
        assert len(keys) == 2 + 3
        assert all(0 < raw.ttl(key) <= 51 for key in keys)
        done = data_sets.complete(store, upload.id)
        assert done == data_sets.complete(store, upload.id)
        assert all(4900 < raw.ttl(key) <= 5000 for key in keys)
        assert data_sets.fetched(store, upload.id, tmp_path).read_bytes() == FILE
        uploads.append(upload.id, 0, FILE[:PART])
        assert all(4900 < raw.ttl(key) <= 5000 for key in keys), "a part sent again shortens nothing"
        for one in (upload, refused):
            uploads.delete(one.id)


def test_parts_are_bounded_in_number(any_server: Any, raw: Any) -> None:
    """So that an upload of single bytes does not take a key for each."""
    with Store.open(any_server.url, timeout=TIMEOUT) as store:
        uploads = Uploads(store.connection)
        upload = uploads.create("rows.npy", 10, limits())
        uploads.append(upload.id, 0, b"a")
        raw.hset(f"farfield:{{uploads}}:parts:{upload.id}", mapping={f"other {index}": "" for index in range(MOST_PARTS - 1)})
        with pytest.raises(errors.TooLarge, match=f"has {MOST_PARTS} parts already"):
            uploads.append(upload.id, 1, b"b")
        assert uploads.append(upload.id, 0, b"a") == 1
        raw.unlink(f"farfield:{{uploads}}:parts:{upload.id}")
        uploads.delete(upload.id)
