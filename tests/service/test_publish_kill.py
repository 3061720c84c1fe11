"""A publisher killed at any instant leaves the old state or the new one, whole, and in the end no rubbish."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import redis

from service.store import Store
from tests.servers import eventually
from tests.service.killed_publisher import BLOBS, CHUNK_BYTES, ORPHAN_SECONDS
from tests.service.samples import manifest_of, read_whole
from tests.service.stores import KINDS, chunk_keys

ROOT = Path(__file__).parents[2]
OLD = {"extractor": BLOBS["extractor"], "state": b"old" * 900}
COMMANDS = 5 + 2  # chunks, the name, and the step that publishes; and those that open the connection


class Publisher:
    """The process that publishes and is killed, again and again."""

    def __init__(self, url: str, name: str) -> None:
        command = [sys.executable, "-m", "tests.service.killed_publisher", url, name]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def publish(self, number: int, when: str) -> str:
        """Publish, and be killed at a command; ``killed``, or ``finished`` if there was no such command."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{number} {when}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        with self.process:
            self.process.kill()


@pytest.fixture(params=["embedded", "redis"])
def any_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A server of this test alone: it counts the connections."""
    started = KINDS[request.param](tmp_path / "server")
    yield started
    started.close()


@pytest.mark.parametrize("when", ["before", "half", "after"])
def test_a_killed_publisher_leaves_the_old_state_or_the_new_one(any_server: Any, raw: redis.Redis, name: str, when: str) -> None:
    """Killed around every single command, the publisher leaves a reader one version or two, each whole, and no chunk for ever."""
    publisher = Publisher(any_server.url, name)
    try:
        with Store.open(any_server.url) as store:
            store.publish(name, manifest_of(OLD, chunk_bytes=CHUNK_BYTES, note="old"), OLD)
            store.move_alias(name, "champion", 1)
            mine = len(raw.client_list())
            for number in count(1):
                end = publisher.publish(number, when)
                eventually(lambda: len(raw.client_list()) <= mine, "the server has done with the publisher")
                published = checked(store, raw, name)
                if end == "finished":
                    break
                assert end == "killed"
            assert published
            assert number > COMMANDS
            eventually(lambda: not orphans(store, raw, name), "what no version refers to is gone", ORPHAN_SECONDS + 3)
            assert read_whole(store, name, 1) == OLD
    finally:
        publisher.close()


def checked(store: Store, raw: redis.Redis, name: str) -> bool:
    """Whether the new version is there, which is then deleted; all that there is must be whole."""
    old, *new = store.numbers(name)
    assert old == 1
    assert len(new) <= 1
    assert read_whole(store, name, old) == OLD
    assert store.aliases(name) == {"champion": 1}
    for key in chunk_keys(raw, name):
        assert (raw.ttl(key) == -1) == (key.decode() not in orphans(store, raw, name)), "kept chunks stay, others expire"
    for number in new:
        assert read_whole(store, name, number) == BLOBS
        store.delete_version(name, number)
    return bool(new)


def orphans(store: Store, raw: redis.Redis, name: str) -> set[str]:
    """Keys of chunks to which no version refers."""
    referred = {reference.sha256 for number in store.numbers(name) for reference in store.manifest(name, number).blobs.values()}
    return {key.decode() for key in chunk_keys(raw, name) if key.decode().split(":")[-2] not in referred}
