"""What the store promises, on every kind of server that it runs on."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from service import errors
from service.store import Store
from tests.servers import eventually
from tests.service.samples import manifest_of, publish, read_whole
from tests.service.stores import TIMEOUT, chunk_keys, flip_bit, versions_key


@pytest.fixture
def store(any_server: Any) -> Iterator[Store]:
    with Store.open(any_server.url, timeout=TIMEOUT) as opened:
        yield opened


# Publishing and reading


def test_versions_are_numbered_one_two_three(store: Store, name: str) -> None:
    """Each publish gets the next number of its detector, whatever others do to other detectors."""
    assert [publish(store, name, note=str(i)) for i in range(3)] == [1, 2, 3]
    assert publish(store, f"{name}-other") == 1
    assert store.numbers(name) == [1, 2, 3]
    assert {name, f"{name}-other"} <= set(store.names())


def test_what_was_published_is_read_back_byte_for_byte(store: Store, name: str, raw: Any) -> None:
    """Manifest and blobs come back as they went in: empty ones, ones of several chunks, and with any bytes."""
    blobs = {"empty": b"", "all": bytes(range(256)), "large": os.urandom(2**21 + 2**19 + 1)}
    told: list[int] = []
    manifest = manifest_of(blobs, note="Prüfung 1")
    number = store.publish(name, manifest, blobs, written=told.append)
    assert store.manifest(name, number) == manifest
    assert store.manifest(name, number).canonical() == manifest.canonical()
    assert read_whole(store, name, number) == blobs
    assert len(chunk_keys(raw, name)) == 0 + 1 + 3
    assert told == sorted(told)
    assert told[-1] == sum(map(len, blobs.values()))


def test_unknown_versions_are_named(store: Store, name: str) -> None:
    """A detector or version that does not exist is a refusal, not an empty answer."""
    assert store.numbers(name) == []
    assert store.aliases(name) == {}
    with pytest.raises(errors.UnknownDetector, match=f"no detector named '{name}'"):
        store.manifest(name, 7)
    publish(store, name, {"state": b"made up"}, note="")
    with pytest.raises(errors.UnknownVersion, match=f"'{name}' has no version 7"):
        store.manifest(name, 7)


def test_publishes_at_the_same_time_get_numbers_of_their_own(store: Store, name: str) -> None:
    """Eight threads that publish at once get eight consecutive numbers, and each version holds its own content."""

    def publish_one(index: int) -> tuple[int, int]:
        return publish(store, name, {"state": bytes([index]) * 1000}, note=str(index)), index

    with ThreadPoolExecutor(8) as pool:
        published = dict(pool.map(publish_one, range(8)))
    assert sorted(published) == list(range(1, 9))
    for number, index in published.items():
        assert store.manifest(name, number).source.name == str(index)
        assert read_whole(store, name, number) == {"state": bytes([index]) * 1000}


def test_chunks_that_no_version_refers_to_expire(any_server: Any, raw: Any, name: str) -> None:
    """A publish that ends before its last step leaves no version, and chunks that go by themselves unless a version has them too."""

    def stop(_: int) -> None:
        raise InterruptedError

    with Store.open(any_server.url, timeout=TIMEOUT, orphan_seconds=1) as store:
        for blobs in ({"state": b"never finished"}, {"state": b"kept"}):
            with pytest.raises(InterruptedError):
                store.publish(name, manifest_of(blobs), blobs, written=stop)
            assert store.numbers(name) == []
            assert name not in store.names()
        kept = publish(store, name, blobs)
        with pytest.raises(InterruptedError):
            store.publish(name, manifest_of(blobs), blobs, written=stop)
        eventually(lambda: len(chunk_keys(raw, name)) == 1, "orphaned chunks expire", 5)
        assert [raw.ttl(key) for key in chunk_keys(raw, name)] == [-1]
        assert read_whole(store, name, kept) == blobs


def test_a_publish_writes_chunks_again_that_were_deleted_with_a_version(any_server: Any, raw: Any, name: str) -> None:
    """A version that is deleted during a publish takes no chunk along that both share; where they keep going, that is said."""
    blobs = {"state": b"shared"}

    def delete(_: int) -> None:
        if 1 in store.numbers(name):
            store.delete_version(name, 1)

    with Store.open(any_server.url, timeout=TIMEOUT) as store:
        publish(store, name, blobs)
        assert store.publish(name, manifest_of(blobs), blobs, written=delete) == 2
        assert (store.numbers(name), read_whole(store, name, 2)) == ([2], blobs)
        with pytest.raises(errors.StoreUnavailable, match=r"is gone again.*try again"):
            store.publish(name, manifest_of(blobs), blobs, written=lambda _: raw.delete(*chunk_keys(raw, name)))
        assert store.numbers(name) == [2]


# Aliases


def test_aliases_move_and_tell_where_they_were(store: Store, name: str) -> None:
    """An alias moves to any version that exists; its history tells the earlier places, newest first."""
    for i in range(3):
        publish(store, name, note=str(i))
    assert store.move_alias(name, "champion", 1) is None
    assert store.move_alias(name, "champion", 3) == 1
    assert store.move_alias(name, "champion", 2) == 3
    assert store.move_alias(name, "champion", 2) == 2
    store.move_alias(name, "shadow", 3)
    assert store.aliases(name) == {"champion": 2, "shadow": 3}
    assert [entry["version"] for entry in store.history(name, "champion")] == [3, 1]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", entry["until"]) for entry in store.history(name, "champion"))
    with pytest.raises(errors.UnknownVersion, match="no version 9"):
        store.move_alias(name, "champion", 9)
    assert store.aliases(name)["champion"] == 2


def test_an_alias_moves_only_from_where_it_is_expected(store: Store, name: str) -> None:
    """Compare-and-set: an alias that somebody else has moved stays there, and the refusal says where it is."""
    for i in range(3):
        publish(store, name, note=str(i))
    assert store.move_alias(name, "champion", 1, expected=0) is None
    with pytest.raises(errors.AliasMoved, match="is at version 1, not at version 3 as expected"):
        store.move_alias(name, "champion", 2, expected=3)
    with pytest.raises(errors.AliasMoved, match="is at version 1"):
        store.move_alias(name, "champion", 2, expected=0)
    with pytest.raises(errors.AliasMoved, match="not set"):
        store.move_alias(name, "shadow", 2, expected=1)
    assert store.move_alias(name, "champion", 2, expected=1) == 1
    assert store.aliases(name) == {"champion": 2}


def test_of_compare_and_sets_at_the_same_time_one_wins(store: Store, name: str) -> None:
    """Eight threads that all expect version 1 and want different ones: one succeeds, seven are told that it has moved."""
    for i in range(9):
        publish(store, name, note=str(i))
    store.move_alias(name, "champion", 1)

    def move(number: int) -> int | None:
        try:
            store.move_alias(name, "champion", number, expected=1)
        except errors.AliasMoved:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(move, range(2, 10)) if number]
    assert store.aliases(name) == {"champion": winners[0]}
    assert len(winners) == 1
    assert [entry["version"] for entry in store.history(name, "champion")] == [1]


def test_rollback_goes_back_step_by_step(store: Store, name: str) -> None:
    """Each rollback undoes one move, until there is none left; versions deleted since are passed over."""
    for i in range(4):
        publish(store, name, note=str(i))
    with pytest.raises(errors.UnknownAlias, match="champion"):
        store.rollback(name, "champion")
    for number in (1, 2, 3, 4):
        store.move_alias(name, "champion", number)
    store.delete_version(name, 2)
    assert store.rollback(name, "champion") == (4, 3)
    assert store.rollback(name, "champion") == (3, 1)
    assert store.aliases(name) == {"champion": 1}
    with pytest.raises(errors.NothingToRollBack, match="no earlier version"):
        store.rollback(name, "champion")
    assert store.aliases(name) == {"champion": 1}


def test_a_removed_alias_is_gone_with_its_history(store: Store, name: str) -> None:
    """Removing an alias frees its version; one set anew under the same name has no past to roll back to."""
    for i in range(3):
        publish(store, name, note=str(i))
    store.move_alias(name, "champion", 1)
    store.move_alias(name, "champion", 2)
    store.delete_alias(name, "champion")
    assert store.aliases(name) == {}
    with pytest.raises(errors.UnknownAlias):
        store.delete_alias(name, "champion")
    store.delete_version(name, 2)
    store.move_alias(name, "champion", 3)
    with pytest.raises(errors.NothingToRollBack):
        store.rollback(name, "champion")


# Deleting


def test_a_version_in_use_is_not_deleted(store: Store, name: str) -> None:
    """Deleting is refused while an alias points at the version, naming the alias, and possible afterwards."""
    publish(store, name, note="1")
    publish(store, name, note="2")
    store.move_alias(name, "champion", 1)
    with pytest.raises(errors.VersionInUse, match="in use by alias champion"):
        store.delete_version(name, 1)
    assert read_whole(store, name, 1) == {"state": b"state of 1"}
    store.move_alias(name, "champion", 2)
    store.delete_version(name, 1)
    assert store.numbers(name) == [2]
    with pytest.raises(errors.UnknownVersion):
        store.delete_version(name, 1)


def test_deleting_keeps_what_other_versions_share(store: Store, name: str, raw: Any) -> None:
    """A version takes its own chunks with it and leaves those that another one refers to."""
    shared = os.urandom(2**20 + 1)
    publish(store, name, {"extractor": shared, "state": b"one" * 400_000})
    publish(store, name, {"extractor": shared, "state": b"two"})
    assert len(chunk_keys(raw, name)) == 2 + 2 + 1
    store.delete_version(name, 1)
    assert len(chunk_keys(raw, name)) == 2 + 1
    assert read_whole(store, name, 2) == {"extractor": shared, "state": b"two"}
    store.delete_version(name, 2)
    assert chunk_keys(raw, name) == []
    assert name not in store.names()


def test_numbers_are_never_given_twice(store: Store, name: str) -> None:
    """A number once given means that version for ever, also after it and all others are deleted."""
    publish(store, name, note="1")
    publish(store, name, note="2")
    store.delete_version(name, 2)
    assert publish(store, name, note="3") == 3
    store.delete_version(name, 1)
    store.delete_version(name, 3)
    assert publish(store, name, note="4") == 4


# Damage


def test_a_flipped_bit_in_a_chunk_is_refused(store: Store, name: str, raw: Any) -> None:
    """One bit in one chunk of one blob is found, and the refusal names the blob."""
    data = os.urandom(2**20 + 500)
    number = publish(store, name, {"state": data, "other": b"whole"})
    sha256 = hashlib.sha256(data).hexdigest()
    last = next(key for key in chunk_keys(raw, name) if key.decode().endswith(f"{sha256}:1"))
    raw.set(last, flip_bit(raw.get(last), 7))
    references = store.manifest(name, number).blobs
    with pytest.raises(errors.VersionRefused, match=f"blob {sha256[:12]} does not match its sha256"):
        store.blob(name, number, references["state"])
    assert store.blob(name, number, references["other"]) == b"whole"


def test_a_missing_chunk_is_refused(store: Store, name: str, raw: Any) -> None:
    """A chunk that is gone is found, and the refusal says so."""
    number = publish(store, name, {"state": os.urandom(2**20 + 500)})
    raw.delete(chunk_keys(raw, name)[0])
    with pytest.raises(errors.VersionRefused, match=r"a chunk of blob [0-9a-f]{12} is missing"):
        read_whole(store, name, number)


@pytest.mark.parametrize("place", [0, 10, 70, -1])
def test_a_flipped_bit_in_the_manifest_is_refused(store: Store, name: str, raw: Any, place: int) -> None:
    """One bit anywhere in the stored manifest, its own digest included, is found."""
    number = publish(store, name)
    stored = raw.hget(versions_key(name), number)
    raw.hset(versions_key(name), number, flip_bit(stored, place % len(stored)))
    with pytest.raises(errors.VersionRefused, match="manifest does not match its sha256"):
        store.manifest(name, number)


def test_publishing_again_mends_a_damaged_chunk(store: Store, name: str, raw: Any) -> None:
    """The same content, published again, makes the damaged version whole, and its chunks stay for good."""
    blobs = {"state": os.urandom(2**20 + 500)}
    publish(store, name, blobs, note="first")
    damaged, missing = chunk_keys(raw, name)
    raw.set(damaged, flip_bit(raw.get(damaged), 0))
    raw.delete(missing)
    assert publish(store, name, blobs, note="second") == 2
    assert read_whole(store, name, 1) == read_whole(store, name, 2) == blobs
    assert [raw.ttl(key) for key in chunk_keys(raw, name)] == [-1, -1]


def test_an_unknown_schema_is_refused_in_words(store: Store, name: str, raw: Any) -> None:
    """A manifest of a later farfield is refused with a message that says which schema there is and which is read."""
    number = publish(store, name)
    text = json.dumps({**json.loads(store.manifest(name, number).canonical()), "schema": 99}).encode()
    raw.hset(versions_key(name), number, hashlib.sha256(text).hexdigest().encode() + b" " + text)
    with pytest.raises(errors.VersionRefused, match=r"was written by a newer farfield \(schema 99; this one reads up to 1\)"):
        store.manifest(name, number)


@pytest.mark.parametrize("text", [b"no json", b"[1]", b'{"schema":1,"writer":"somebody"}'])
def test_a_manifest_that_is_none_is_refused(store: Store, name: str, raw: Any, text: bytes) -> None:
    """What is no manifest, though its digest is right, is refused like any other damage."""
    number = publish(store, name)
    raw.hset(versions_key(name), number, hashlib.sha256(text).hexdigest().encode() + b" " + text)
    with pytest.raises(errors.VersionRefused, match="its manifest"):
        store.manifest(name, number)


@pytest.mark.parametrize("damage", [lambda text: flip_bit(text, 0), lambda text: flip_bit(text, 70), lambda text: b"rubbish"])
def test_a_version_with_a_damaged_manifest_can_be_deleted(store: Store, name: str, raw: Any, damage: Callable[[bytes], bytes]) -> None:
    """Damage does not make a version immortal; what the manifest still names is deleted, unless others refer to it."""
    shared = {"extractor": b"shared"}
    number = publish(store, name, {**shared, "state": b"one"})
    publish(store, name, {**shared, "state": b"two"})
    damaged = damage(raw.hget(versions_key(name), number))
    raw.hset(versions_key(name), number, damaged)
    store.delete_version(name, number)
    assert store.numbers(name) == [2]
    assert read_whole(store, name, 2) == {**shared, "state": b"two"}
    assert len(chunk_keys(raw, name)) == (3 if damaged == b"rubbish" else 2)
