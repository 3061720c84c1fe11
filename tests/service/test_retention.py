"""What ``farfield gc`` finds and deletes, by which rules, and that a publish at the same time loses nothing."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from service import errors
from service.cli import app
from service.jobs.queue import Jobs
from service.jobs.schemas import FitOptions
from service.retention import rules as retention
from service.retention.orphans import orphans
from service.retention.rules import Item, Rules, unneeded
from service.settings import Settings
from service.store import Store
from service.updates.schemas import UpdateJob
from service.uploads import data_sets
from service.uploads.parts import Uploads
from tests.servers import RedisServer
from tests.service.parts import FILE
from tests.service.samples import manifest_of, publish, read_whole
from tests.service.stores import TIMEOUT, chunk_keys, flip_bit, versions_key

NOW = datetime(2026, 2, 1, tzinfo=UTC)
NEVER = timedelta(days=3650)
AT_ONCE = Rules(keep=1, newer_than=timedelta(0), rollbacks=0, jobs=NEVER, uploads=NEVER)


def manifest(age_days: float = 100, parent: int | None = None) -> Any:
    created = (NOW - timedelta(days=age_days)).isoformat(timespec="seconds")
    return manifest_of({}).model_copy(update={"created": created, "parent": parent})


# Of ten versions, numbered from 1, that are 10, 9 … 1 days old: what the rules let go.
RULES: list[tuple[dict[str, Any], set[int], list[int]]] = [
    ({"keep": 1}, set(), [*range(1, 10)]),
    ({"keep": 3}, set(), [*range(1, 8)]),
    ({"keep": 100}, set(), []),
    ({"keep": 1, "newer_than": timedelta(days=4.5)}, set(), [1, 2, 3, 4, 5, 6]),
    ({"keep": 6, "newer_than": timedelta(days=4.5)}, set(), [1, 2, 3, 4]),
    ({"keep": 1, "newer_than": timedelta(days=11)}, set(), []),
    ({"keep": 1}, {1, 5}, [2, 3, 4, 6, 7, 8, 9]),
]


@pytest.mark.parametrize(("given", "held", "going"), RULES)
def test_a_version_goes_only_if_every_rule_lets_it(given: dict[str, Any], held: set[int], going: list[int]) -> None:
    """The newest stay, the young ones, and those that an alias needs."""
    versions = {number: manifest(11 - number) for number in range(1, 11)}
    assert unneeded(versions, held, Rules(**{"newer_than": timedelta(0), **given}), NOW) == going


def test_the_parent_of_what_stays_stays() -> None:
    """And not the parent's parent; a parent that is gone by now is none."""
    versions = {number: manifest(parent=number - 1) for number in range(1, 7)}
    assert unneeded(versions, {3}, Rules(keep=1), NOW) == [1, 4]


def test_versions_are_judged_and_counted_as_they_lie_in_the_store(any_server: Any, raw: Any, name: str) -> None:
    """Bytes that a version shares with one that stays are not freed, those that two share that go are counted once."""
    blobs = [{"extractor": b"network" * 100, "state": bytes([number]) * 10 * number} for number in range(1, 6)]
    blobs[0]["state"] = blobs[1]["state"]
    with Store.open(any_server.url, timeout=TIMEOUT) as store:
        for one in blobs:
            publish(store, name, one, note=str(len(one["state"])) + str(blobs.index(one)))
        for number in (3, 5):
            store.move_alias(name, "champion", number)
        items = retention.versions(store, name, AT_ONCE, datetime.now(UTC))
        assert [(item.name, item.bytes) for item in items] == [(f"{name}:1", 20), (f"{name}:2", 0), (f"{name}:3", 30), (f"{name}:4", 40)]
        kept = Rules(keep=1, newer_than=timedelta(0), rollbacks=1)
        plan = retention.plan(store, [name], kept)
        assert [item.name for item in plan] == [f"{name}:1", f"{name}:2", f"{name}:4"]
        before = sum(raw.strlen(key) for key in chunk_keys(raw, name))
        assert list(retention.delete(store, plan, kept)) == plan
        assert before - sum(raw.strlen(key) for key in chunk_keys(raw, name)) == sum(item.bytes for item in plan) == 60
        assert store.numbers(name) == [3, 5]
        assert (read_whole(store, name, 3), read_whole(store, name, 5)) == (blobs[2], blobs[4])
        assert retention.plan(store, [name], kept) == []
        with pytest.raises(errors.UnknownDetector):
            retention.plan(store, [f"{name}x"], kept)


def test_what_is_needed_since_the_plan_stays(any_server: Any, name: str) -> None:
    """An alias that has come to a version, or left it, since the plan keeps it; what is gone by itself is passed over."""
    with Store.open(any_server.url, timeout=TIMEOUT) as store:
        for number in range(6):
            publish(store, name, note=str(number))
        rules = Rules(keep=1, newer_than=timedelta(0), rollbacks=1)
        plan = retention.plan(store, [name], rules)
        assert [item.name for item in plan] == [f"{name}:{number}" for number in range(1, 6)]
        store.move_alias(name, "champion", 1)
        store.move_alias(name, "champion", 2)
        store.delete_version(name, 3)
        gone = [*retention.delete(store, [*plan, Item("job", "0" * 32, 0, ""), Item("upload", "0" * 32, 0, "")], rules)]
        assert [item.name for item in gone] == [f"{name}:4", f"{name}:5"]
        assert store.numbers(name) == [1, 2, 6]


def test_what_a_job_starts_from_stays(any_server: Any, name: str) -> None:
    """While it waits and while it runs, and what it merges, also where it was asked for since the plan; it goes when the job is over."""
    other = f"{name}other"
    with Store.open(any_server.url, timeout=TIMEOUT) as store:
        for number in range(6):
            publish(store, name, note=str(number))
            publish(store, other, note=str(number))
        jobs = Jobs(store.connection)
        running = jobs.submit("update", name, UpdateJob(version=2, merge=[f"{other}:3"]).model_dump())
        claimed = jobs.claim("worker", 60)
        assert claimed
        assert claimed.id == running.id
        fit = jobs.submit("fit", name, FitOptions(data="/data/rows.npy").model_dump())
        plan = retention.plan(store, [name, other], AT_ONCE)
        assert [item.name for item in plan] == [*(f"{name}:{n}" for n in (1, 3, 4, 5)), *(f"{other}:{n}" for n in (1, 2, 4, 5))]
        waiting = jobs.submit("update", name, UpdateJob(version=5).model_dump())
        gone = [item.name for item in retention.delete(store, plan, AT_ONCE)]
        assert gone == [*(f"{name}:{n}" for n in (1, 3, 4)), *(f"{other}:{n}" for n in (1, 2, 4, 5))]
        assert jobs.finish(running.id, "worker", {})
        for one in (waiting, fit):
            jobs.cancel(one.id)
        assert jobs.unfinished() == []
        assert [item.name for item in retention.plan(store, [name, other], AT_ONCE)] == [f"{name}:2", f"{name}:5", f"{other}:3"]


def test_a_damaged_version_stays(any_server: Any, raw: Any, name: str) -> None:
    """It tells neither age nor parent: whoever wants it gone says so."""
    with Store.open(any_server.url, timeout=TIMEOUT) as store:
        for number in range(3):
            publish(store, name, note=str(number))
        raw.hset(versions_key(name), "1", flip_bit(raw.hget(versions_key(name), "1"), 100))
        plan = retention.plan(store, [name], AT_ONCE)
        assert [item.name for item in plan] == [f"{name}:2"]
        assert list(retention.delete(store, plan, AT_ONCE)) == plan
        assert store.numbers(name) == [1, 3]


def test_orphans_are_found_and_collected(any_server: Any, raw: Any, name: str) -> None:
    """Chunks kept for good to which no version refers, and no others: not those of a publisher at work, nor of another detector."""
    other = f"{name}other"
    with Store.open(any_server.url, timeout=TIMEOUT) as store:
        for one in (name, other):
            publish(store, one)
            publish(store, one, {"state": b"lost" * 10}, note="lost")
            raw.hdel(versions_key(one), "2")

        def stop(_: int) -> None:
            raise InterruptedError

        with pytest.raises(InterruptedError):
            store.publish(name, manifest_of({"state": b"new"}), {"state": b"new"}, written=stop)
        found = orphans(store, {name})
        assert [len(keys) for keys in found.values()] == [1]
        assert {name, other} <= orphans(store).keys()
        plan = retention.plan(store, [name], AT_ONCE)
        assert [(item.kind, item.name, item.bytes) for item in plan] == [("orphan chunks", name, 40)]
        assert list(retention.delete(store, plan, AT_ONCE)) == plan
        assert orphans(store, {name}) == {}
        assert len(chunk_keys(raw, name)) == 2
        assert len(chunk_keys(raw, other)) == 2
        publish(store, name, {"state": b"lost" * 10}, note="found")
        assert list(retention.delete(store, plan, AT_ONCE)) == [], "what is referred to again stays"
        assert read_whole(store, name, 3) == {"state": b"lost" * 10}


def test_a_publish_at_the_same_time_loses_nothing(any_server: Any, name: str) -> None:
    """Two publish in a loop, on blobs that all share, while all but the newest is deleted in another: what is left is whole."""
    rounds = 25
    failures: list[BaseException] = []
    working = threading.Semaphore(0)

    def publishing(writer: int) -> None:
        try:
            with Store.open(any_server.url, timeout=5) as store:
                for turn in range(rounds):
                    blobs = {"extractor": b"shared" * 200, "state": f"{turn % 3}".encode() * 50}
                    published.append(publish(store, name, blobs, note=f"{writer} {turn}"))
        except BaseException as error:
            failures.append(error)
        finally:
            working.release()

    published: list[int] = []
    threads = [threading.Thread(target=publishing, args=(writer,)) for writer in range(2)]
    with Store.open(any_server.url, timeout=5) as store:
        publish(store, name)
        for thread in threads:
            thread.start()
        collected = 0
        while any(thread.is_alive() for thread in threads):
            collected += len(list(retention.delete(store, retention.plan(store, [name], AT_ONCE), AT_ONCE)))
        for thread in threads:
            thread.join()
        assert not failures
        assert sorted(published) == list(range(2, 2 * rounds + 2))
        assert collected > 0
        assert store.numbers(name)[-1] == max(published)
        for number in store.numbers(name):
            assert set(read_whole(store, name, number)) == {"extractor", "state"} or number == 1
        list(retention.delete(store, retention.plan(store, [name], AT_ONCE), AT_ONCE))
        assert store.numbers(name) == [max(published)]
        assert set(read_whole(store, name, max(published))) == {"extractor", "state"}
        assert orphans(store, {name}) == {}


def test_jobs_and_uploads_go_when_they_are_old(embedded_store: Store) -> None:
    """Jobs by the time since they ended, uploads by the time since they began; neither where a detector is named."""
    jobs, uploads = Jobs(embedded_store.connection), Uploads(embedded_store.connection)
    ended, waiting = jobs.submit("fit", "screws", {}), jobs.submit("fit", "screws", {})
    jobs.cancel(ended.id)
    jobs.write_log(ended.id, ["a line"])
    upload = uploads.create("rows.npy", len(FILE), Settings())
    uploads.append(upload.id, 0, FILE)
    publish(embedded_store, "screws")
    assert retention.plan(embedded_store, [], Rules()) == []
    rules = Rules(jobs=timedelta(0), uploads=timedelta(0))
    assert retention.plan(embedded_store, ["screws"], rules) == []
    plan = retention.plan(embedded_store, [], rules)
    assert [(item.kind, item.name) for item in plan] == [("job", ended.id), ("upload", upload.id)]
    assert plan[0].bytes > len("a line")
    assert plan[1].bytes == len(FILE)
    assert list(retention.delete(embedded_store, plan, rules)) == plan
    assert (jobs.newest(), jobs.log(ended.id)) == ([jobs.get(waiting.id)], [])
    assert uploads.all() == []
    assert not jobs.forget(waiting.id)
    assert not jobs.forget(ended.id)


# The commands


def command(url: str, line: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, [*line.split(), "--store", url])
    assert done.exit_code == code, done.output
    return done.output if code else done.stdout


def test_farfield_gc(redis_server: RedisServer) -> None:
    """Prints what would go, and what for; deletes only when told so; refuses what is no rule."""
    url = redis_server.url
    with Store.open(url) as store:
        for number in range(12):
            publish(store, "screws", {"state": b"x" * 1000 + bytes([number])}, note=str(number))
        store.move_alias("screws", "champion", 1)
        assert "0 things of 0 bytes would be deleted" in command(url, "gc --keep 1 --newer-than 5000w")
        shown = command(url, "gc screws --newer-than 0d")
        assert "screws:1 " not in shown
        assert "screws:2 " in shown
        assert "1 things of 1001 bytes would be deleted; --delete deletes them" in shown
        planned = json.loads(command(url, "gc --keep 10 --newer-than 0s --json"))
        assert planned == {
            "deleted": False,
            "bytes": 1001,
            "items": [{"kind": "version", "name": "screws:2", "bytes": 1001, "reason": "of 2026-01-02, and no rule keeps it"}],
        }
        assert len(store.numbers("screws")) == 12
        assert json.loads(command(url, "gc --delete --newer-than 0m --json")) == {**planned, "deleted": True}
        assert "9 things of 9009 bytes deleted" in command(url, "gc --keep 1 --rollbacks 0 --newer-than 0h --delete")
        assert store.numbers("screws") == [1, 12]
        for line, reason in (
            ("gc --newer-than soon", "--newer-than 'soon' is no age"),
            ("gc --jobs -1d", "--jobs '-1d' is no age"),
            ("gc --keep 0", "setting keep_versions: Input should be greater than or equal to 1"),
            ("gc nobody", "there is no detector named 'nobody'"),
            ("gc ../x", "cannot name a detector"),
        ):
            assert reason in command(url, line, code=1)


def test_farfield_upload_and_uploads(redis_server: RedisServer, tmp_path: Any) -> None:
    """A file is a data set after one command; the command again finds it, and goes on with one that was begun."""
    url, file = redis_server.url, tmp_path / "rows.npy"
    np.save(file, np.ones((50, 2)))
    data = file.read_bytes()
    first = json.loads(command(url, f"upload {file} --json"))
    assert (first["state"], first["rows"], first["size"]) == ("complete", 50, len(data))
    assert f"upload:{first['id']}" in command(url, f"upload {file}")
    assert json.loads(command(url, "uploads --json")) == [first]
    assert "deleted" in command(url, f"uploads upload:{first['id']} --delete")
    assert "no uploads yet" in command(url, "uploads")
    with Store.open(url) as store:
        uploads = Uploads(store.connection)
        begun = uploads.create("rows.npy", len(data), Settings(), first["sha256"])
        uploads.append(begun.id, 0, data[:100])
        assert f"100 of {len(data)}" in command(url, "uploads")
        assert json.loads(command(url, f"upload {file} --json"))["id"] == begun.id
        assert data_sets.fetched(store, begun.id, tmp_path).read_bytes() == data
    file.write_bytes(b"garbage")
    assert "rows.npy cannot be read" in command(url, f"upload {file}", code=1)
    assert "refused" in command(url, "uploads")
    (tmp_path / "rows.txt").write_bytes(b"1")
    assert "has none of the forms" in command(url, f"upload {tmp_path / 'rows.txt'}", code=1)
    (tmp_path / "empty.npy").write_bytes(b"")
    assert "has 0 bytes" in command(url, f"upload {tmp_path / 'empty.npy'}", code=1)
    assert "name it by its id" in command(url, "uploads --delete", code=1)
    assert "there is no upload" in command(url, f"uploads {'0' * 32}", code=1)
