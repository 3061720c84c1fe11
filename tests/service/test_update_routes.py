"""Updates over HTTP by a real worker: what is taken, what is refused, what the job tells, and two at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import httpx2
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from service import engine
from service.errors import InvalidInput
from service.features import Batch
from service.manifest import Manifest
from service.recipe import Recipe
from service.settings import Settings
from service.sources import Data
from service.store import Store
from service.updates.successors import Order, update
from tests.service.samples import fitted, publish_fitted
from tests.service.served import rows
from tests.service.stores import versions_key
from tests.service.working import Shop, shop

NEW = rows(100, seed=2)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A service with one worker."""
    folder = tmp_path_factory.mktemp("updates")
    np.save(folder / "rows.npy", NEW)
    environment = {"FARFIELD_DATA_ROOTS": json.dumps([str(folder)]), "FARFIELD_MAX_INLINE_BYTES": "20000"}
    with shop(folder, f"embedded:{folder / 'data'}", **environment) as opened:
        opened.worker(data_roots=[str(folder)])
        yield opened


@pytest.fixture
def pumps(place: Shop, name: str) -> str:
    """A detector with one version, at which ``champion`` is."""
    place.store.move_alias(name, "champion", publish_fitted(place.store, name, fitted()))
    return name


def ask(place: Shop, name: str, body: dict[str, Any], **headers: str) -> httpx2.Response:
    return place.client.post(f"/v1/detectors/{name}:update", json=body, headers=headers)


def done(place: Shop, name: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = ask(place, name, body)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    return place.until(answer.json()["id"], "done", "failed")


def test_rows_are_added_and_forgotten_and_the_alias_moves(place: Shop, pumps: str) -> None:
    """The job tells the number, the parent and the difference; the new version serves."""
    body = {"add": {"rows": NEW.tolist()}, "forget": {"rows": fitted_rows()[:10].tolist()}, "half_life": 200, "alias": "champion"}
    job = done(place, pumps, body)
    assert job["kind"] == "update"
    assert "rows" not in job["request"]["add"]
    result = job["result"]
    assert (result["version"], result["parent"], result["alias"]) == (2, 1, "champion")
    assert result["update"]["forgotten"] + result["update"]["forgotten_calibration"] == 10
    assert (result["update"]["added"], result["update"]["added_calibration"]) == (80, 20)
    assert len(result["difference"]["golden_p_values"]) == 8
    manifest = place.store.manifest(pumps, 2)
    assert (manifest.parent, manifest.n_fit) == (1, result["n_fit"])
    answer = place.client.post(f"/v1/detectors/{pumps}@champion:score", json={"rows": NEW[:1].tolist()})
    assert (answer.status_code, answer.json()["version"]) == (200, 2)
    found = place.client.get(f"/v1/detectors/{pumps}/versions/1/difference/2")
    assert found.status_code == 200
    assert found.json() == result["difference"]


def fitted_rows() -> Any:
    """What ``samples.fitted`` fits on."""
    return np.random.default_rng(0).standard_normal((300, 4))


def test_rows_from_a_place_and_a_version_of_another_detector(place: Shop, pumps: str) -> None:
    """Data are read by the worker; another detector's version is named by name and number."""
    other = engine.fit(Recipe(alpha=0.05), Batch(rows=rows(200, seed=3)))
    publish_fitted(place.store, f"{pumps}x", other)
    body = {"add": {"data": str(place.folder / "rows.npy")}, "merge": [f"{pumps}x:1"], "version": 1}
    result = done(place, pumps, body)["result"]
    assert result["n_fit"] == 240 + 160 + 80
    assert place.store.manifest(pumps, result["version"]).source.name == "rows.npy"


def test_more_rows_than_memory_is_to_hold_are_refused(place: Shop, pumps: str) -> None:
    """Before they are read: with how many there are and what to do."""
    np.lib.format.open_memmap(place.folder / "many.npy", "w+", np.float64, (9_000_000, 4)).flush()  # a hole
    job = done(place, pumps, {"add": {"data": str(place.folder / "many.npy")}})
    assert job["state"] == "failed"
    assert "many.npy has 274 MiB of rows, and an update holds its rows in memory, up to 256 MiB" in job["error"]
    assert place.store.numbers(pumps) == [1]


def test_a_table_with_other_columns(place: Shop, name: str) -> None:
    """Those that the version was fitted on are taken by their names, of rows to add and to forget; a key stays where it is."""
    names = [f"x{i}" for i in range(4)]
    data = fitted_rows()
    publish_fitted(place.store, name, engine.fit(Recipe(alpha=0.1), Batch(rows=data), feature_names=names))
    for file, some in (("add", NEW), ("forget", data[:30])):
        columns = {names[i]: some[:, i] for i in (2, 0, 3, 1)}
        parquet.write_table(pa.table({"id": [f"row {i}" for i in range(len(some))], **columns}), place.folder / f"{file}.parquet")
    by_table = done(place, name, {part: {"data": str(place.folder / f"{part}.parquet")} for part in ("add", "forget")})
    by_rows = done(place, name, {"version": 1, "add": {"rows": NEW.tolist()}, "forget": {"rows": data[:30].tolist()}})
    assert by_table["result"]["update"] == by_rows["result"]["update"]
    assert by_table["result"]["update"]["forgotten_calibration"] > 0
    assert place.store.manifest(name, 2).blobs == place.store.manifest(name, 3).blobs


def test_the_same_key_gives_the_same_job(place: Shop, pumps: str) -> None:
    """And another request with it is refused."""
    body = {"add": {"rows": NEW.tolist()}}
    first, second = (ask(place, pumps, body, **{"Idempotency-Key": pumps}) for _ in range(2))
    assert first.json()["id"] == second.json()["id"]
    assert ask(place, pumps, {"add": {"rows": NEW[1:].tolist()}}, **{"Idempotency-Key": pumps}).status_code == 409
    place.until(first.json()["id"], "done")
    assert place.store.numbers(pumps) == [1, 2]


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({}, "#/add", "adds rows, forgets rows or merges versions"),
    ({"half_life": 5, "merge": ["a:1"]}, "#/half_life", "counted in rows added"),
    ({"half_life": 0, "add": {"rows": [[1, 2, 3, 4]]}}, "#/half_life", "greater than 0"),
    ({"add": {}}, "#/add/rows", 'either as "rows" or'),
    ({"add": {"rows": [[1, 2, 3, 4]], "data": "/x"}}, "#/add/data", 'either as "rows" or'),
    ({"add": {"rows": [[1, 2], [3]]}}, "#/add/rows/1", "row 1 has 1 numbers where row 0 has 2"),
    ({"add": {"rows": []}}, "#/add/rows", "rows is empty"),
    ({"forget": {"rows": [[1, "a"]]}}, "#/forget/rows/0/1", "a string; a number is needed"),
    ({"forget": {"rows": [[1, 2]]}, "add": {"rows": [[1, 2, 3]]}}, "#/forget/rows", "one detector takes one number"),
    ({"add": {"rows": [[1, 2]], "classes": [1, 2]}}, "#/add/classes", "2 classes for 1 rows"),
    ({"add": {"data": "/etc/rows.npy"}}, "#/add/data", "not under any of the places"),
    ({"add": 5}, "#/add", "5"),
    ({"add": {"rows": [[1]], "shape": 5}}, "#/add/shape", "no such parameter or member"),
    ({"merge": ["a"]}, "#/merge/0", "names no version to merge"),
    ({"merge": ["../b:1"]}, "#/merge/0", "cannot name a detector"),
    ({"merge": ["a:1", "a:1"]}, "#/merge", "merged once"),
    ({"merge": ["a:1"], "alias": "latest"}, "#/alias", "cannot be an alias"),
    ({"merge": ["a:1"] * 21}, "#/merge", "at most 20"),
    ([], "#", "must be an object"),  # type: ignore[list-item]
]


@pytest.mark.parametrize(("body", "pointer", "reason"), BAD)
def test_bad_requests_are_refused_at_once(place: Shop, pumps: str, body: dict[str, Any], pointer: str, reason: str) -> None:
    """With a problem that names the place."""
    answer = ask(place, pumps, body)
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert error["pointer"] == pointer
    assert reason in error["detail"]


def test_too_many_rows_are_refused(place: Shop, pumps: str) -> None:
    """Those to add and to forget together, since the store keeps both."""
    answer = ask(place, pumps, {"add": {"rows": rows(400).tolist()}, "forget": {"rows": rows(400).tolist()}})
    assert (answer.status_code, answer.json()["type"]) == (413, "urn:farfield:problem:too-large")


def test_versions_that_are_not_there(place: Shop, pumps: str) -> None:
    """Detector, version and alias are looked up before the job is taken; what is to be merged, by the job."""
    body = {"add": {"rows": NEW.tolist()}}
    assert ask(place, f"{pumps}x", body).json()["type"] == "urn:farfield:problem:unknown-detector"
    assert ask(place, pumps, {**body, "version": 9}).json()["type"] == "urn:farfield:problem:unknown-version"
    assert ask(place, pumps, {**body, "version": "nobody"}).json()["type"] == "urn:farfield:problem:unknown-alias"
    assert place.client.get(f"/v1/detectors/{pumps}/versions/1/difference/9").status_code == 404
    assert "no version 9" in done(place, pumps, {"merge": [f"{pumps}:9"]})["error"]


def test_what_only_the_rows_tell_fails_the_job(place: Shop, pumps: str) -> None:
    """With its sentence; nothing is published."""
    job = done(place, pumps, {"add": {"rows": rows(20, width=5).tolist()}})
    assert (job["state"], job["error"]) == ("failed", "rows have 5 features; this detector takes 4")
    assert place.store.numbers(pumps) == [1]


def test_a_worker_older_than_the_manifest(place: Shop, pumps: str) -> None:
    """A version in a schema that the worker does not know is refused with a sentence that says so."""
    newer = Manifest.model_construct(**{**dict(place.store.manifest(pumps, 1)), "schema_": 2}).canonical()
    stored = hashlib.sha256(newer).hexdigest().encode() + b" " + newer
    place.store.connection.client.hset(versions_key(pumps), "1", stored)
    job = done(place, pumps, {"add": {"rows": NEW.tolist()}})
    assert job["state"] == "failed"
    assert "it was written by a newer farfield (schema 2; this one reads up to 1)" in job["error"]


def test_versions_of_one_line_are_not_merged(embedded_store: Store, name: str) -> None:
    """However little of it the rows held out still show; nor where a third version brings both."""
    publish_fitted(embedded_store, name, fitted())
    grown = [Data(Batch(rows=rows(4000, seed=seed)), "rows") for seed in (3, 4)]
    for data in grown:
        update(embedded_store, Settings(), name, Order(1, add=lambda names, data=data: data, half_life=500))  # type: ignore[misc]
    other = publish_fitted(embedded_store, f"{name}-other", engine.fit(Recipe(alpha=0.1), Batch(rows=rows(200, seed=9))))
    whose = f"with have the rows of {name}:1, which would count twice"
    for start, merge in ((2, (f"{name}:3",)), (3, (f"{name}:1",)), (1, (f"{name}-other:{other}", f"{name}:2"))):
        with pytest.raises(InvalidInput, match=whose) as refused:
            update(embedded_store, Settings(), name, Order(start, merge=merge))
        assert refused.value.pointer == f"#/merge/{len(merge) - 1}"
    assert embedded_store.numbers(name) == [1, 2, 3]


def test_two_updates_at_once(embedded_store: Store, name: str) -> None:
    """Both are published under numbers of their own; the alias is moved by the first, and the other is told where it is."""
    embedded_store.move_alias(name, "champion", publish_fitted(embedded_store, name, fitted()))
    both = Barrier(2)

    def read(names: Sequence[str] | None) -> Data:
        both.wait(30)
        return Data(Batch(rows=NEW), "rows")

    order = Order("champion", add=read, alias="champion")
    with ThreadPoolExecutor(2) as pool:
        results = [task.result() for task in [pool.submit(update, embedded_store, Settings(), name, order) for _ in range(2)]]
    assert sorted(result["version"] for result in results) == [2, 3]
    assert {result["parent"] for result in results} == {1}
    (moved,) = [result["version"] for result in results if "alias" in result]
    (told,) = [result["alias_refused"] for result in results if "alias_refused" in result]
    assert embedded_store.aliases(name) == {"champion": moved}
    assert told == f"alias 'champion' of detector '{name}' is at version {moved}, not at version 1 as expected"


def test_an_update_begun_again_is_published_once(embedded_store: Store, name: str) -> None:
    """By its token; the alias then moves from the parent, and from nowhere else."""
    embedded_store.move_alias(name, "champion", publish_fitted(embedded_store, name, fitted()))
    read: list[int] = []

    def rows_once(names: Sequence[str] | None) -> Data:
        read.append(1)
        return Data(Batch(rows=NEW), "rows")

    first = update(embedded_store, Settings(), name, Order(add=rows_once), token="once")
    again = update(embedded_store, Settings(), name, Order(add=rows_once, alias="champion"), token="once")
    assert (first["version"], again["version"], again["alias"], len(read)) == (2, 2, "champion", 1)
    assert embedded_store.numbers(name) == [1, 2]
    assert embedded_store.aliases(name) == {"champion": 2}
