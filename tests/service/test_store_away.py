"""What the store promises when its server is dead, hung, replaced, or loses an answer."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from service import engine, errors, publication
from service.features import Batch
from service.manifest import Source
from service.recipe import Recipe
from service.store import Store
from tests.servers import LossyProxy, RedisServer, eventually, free_port
from tests.service.samples import publish, read_whole
from tests.service.served import rows
from tests.service.stores import TIMEOUT, versions_key

AWAY_SECONDS = 3.0  # within which a call to a store that is away gives up


@pytest.fixture
def store(any_server: Any) -> Iterator[Store]:
    with Store.open(any_server.url, timeout=TIMEOUT) as opened:
        yield opened


CALLS: list[Callable[[Store, str], object]] = [
    lambda store, name: store.numbers(name),
    lambda store, name: store.manifest(name, 1),
    lambda store, name: publish(store, name),
    lambda store, name: store.move_alias(name, "champion", 1),
    lambda store, name: store.names(),
]


def gives_up(call: Callable[[Store, str], object], store: Store, name: str) -> float:
    """Seconds until a call gives up on a store that is away."""
    start = time.monotonic()
    with pytest.raises(errors.StoreUnavailable, match="the store"):
        call(store, name)
    return time.monotonic() - start


def works(store: Store, name: str) -> bool:
    with suppress(errors.StoreUnavailable):
        return bool(publish(store, name, note=uuid.uuid4().hex))
    return False


def test_a_dead_store_is_noticed_soon_and_used_again(any_server: Any, store: Store, name: str) -> None:
    """While the server is dead each call gives up within three seconds; the same client works when it is back."""
    publish(store, name)
    any_server.kill()
    try:
        waited = [gives_up(call, store, name) for call in CALLS]
    finally:
        any_server.start()
    assert max(waited) < AWAY_SECONDS
    eventually(lambda: works(store, name), "the store works again")


def test_a_hung_store_is_noticed_soon_and_used_again(any_server: Any, store: Store, name: str) -> None:
    """A server that takes connections and answers nothing is given up within three seconds, and used when it answers again."""
    number = publish(store, name, {"state": b"kept"})
    any_server.freeze()
    try:
        waited = gives_up(publish, store, name)
    finally:
        any_server.thaw()
    assert waited < AWAY_SECONDS
    eventually(lambda: works(store, name), "the store works again")
    assert read_whole(store, name, number) == {"state": b"kept"}


def test_a_fit_that_is_done_waits_for_the_store(any_server: Any, store: Store, name: str) -> None:
    """It is published when the server answers again, once, and its alias is moved; nobody waits for a server that is his own."""
    fitted = engine.fit(Recipe(alpha=0.05), Batch(rows=rows(300)))
    told: list[str] = []

    def progress(phase: str, done: int, total: int) -> None:
        told.append(phase)
        if len(told) == 2:
            any_server.thaw()

    source = Source(name="rows", rows=300, sha256="0" * 64, of="rows")
    any_server.freeze()
    try:
        if store.connection.embedded:
            with pytest.raises(errors.StoreUnavailable):
                publication.publish(store, name, fitted, source, "champion", progress)
            return
        found = publication.publish(store, name, fitted, source, "champion", progress)
    finally:
        any_server.thaw()
    assert set(told) == {"wait for the store"}
    assert found == (1, None)
    assert (store.numbers(name), store.aliases(name)) == ([1], {"champion": 1})
    assert len(told) >= 2


@pytest.mark.parametrize("scheme", ["redis://127.0.0.1:{}", "redis+cluster://127.0.0.1:{}", "redis+sentinel://127.0.0.1:{}/mymaster"])
def test_a_store_that_never_was_there_is_refused(scheme: str, name: str) -> None:
    """An address where nothing listens gives StoreUnavailable within three seconds, at the first use at the latest."""
    start = time.monotonic()
    with pytest.raises(errors.StoreUnavailable), Store.open(scheme.format(free_port()), timeout=TIMEOUT) as store:
        store.numbers(name)
    assert time.monotonic() - start < AWAY_SECONDS


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql://host", "scheme must be"),
        ("redis+sentinel://host/mymaster", "must read"),
        ("redis+sentinel://host:1", "must read"),
        ("redis://user:secret@host:port", "Port"),
    ],
)
def test_an_address_of_no_store_is_refused_without_the_password(url: str, reason: str) -> None:
    """A setting that means no store is refused with the reason, and shows no password."""
    with pytest.raises(errors.StartupError, match=reason) as refused:
        Store.open(url)
    assert "secret" not in str(refused.value)


@dataclass(frozen=True)
class Write:
    """A write whose answer gets lost: a piece of its script to know it by, what it should return, and where the alias then is."""

    script: bytes
    call: Callable[[Store, str], object]
    returns: object
    champion: int | None = 3
    numbers: tuple[int, ...] = (1, 2, 3, 4)


WRITES = {
    "publish": Write(b"PERSIST", lambda store, name: publish(store, name, note="5"), 5, numbers=(1, 2, 3, 4, 5)),
    "move": Write(b"LPUSH", lambda store, name: store.move_alias(name, "champion", 4, expected=3), 3, 4),
    "rollback": Write(b"LPOP", lambda store, name: store.rollback(name, "champion"), (3, 2), 2),
    "remove": Write(b"'HDEL', KEYS[1], ARGV[1])\nredis", lambda store, name: store.delete_alias(name, "champion"), None, None),
    "delete": Write(b"string.find", lambda store, name: store.delete_version(name, 4), None, numbers=(1, 2, 3)),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_whose_answer_is_lost_is_done_once(redis_server: RedisServer, write: Write, name: str) -> None:
    """A connection that breaks between a write and its answer costs nothing: the write is retried, and yet done only once."""
    proxy = LossyProxy(redis_server.port)
    try:
        with Store.open(proxy.url, timeout=TIMEOUT) as store:
            for number in (1, 2, 3, 4):
                publish(store, name, note=str(number))
            for number in (1, 2, 3):
                store.move_alias(name, "champion", number)
            proxy.marker = write.script
            assert write.call(store, name) == write.returns
            assert proxy.marker is None, "no answer was lost"
            assert store.aliases(name).get("champion") == write.champion
            assert store.numbers(name) == list(write.numbers)
    finally:
        proxy.close()


def test_sentinel_leads_to_the_new_master_after_a_failover(tmp_path: Path, name: str) -> None:
    """Under Sentinel a store publishes and reads, loses its master, and goes on with the replica that took over."""
    with ExitStack() as stack:

        def start(server: RedisServer) -> RedisServer:
            stack.callback(server.start().kill)
            return server

        master = start(RedisServer(tmp_path / "master"))
        replica = start(RedisServer(tmp_path / "replica", "--replicaof", "127.0.0.1", str(master.port), "--repl-diskless-sync-delay", "0"))
        sentinel = start(sentinel_of(tmp_path / "sentinel", master.port))
        store = stack.enter_context(Store.open(f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster", timeout=TIMEOUT))
        number = publish(store, name, {"state": b"kept"})
        with replica.client() as client:
            eventually(lambda: client.hexists(versions_key(name), number), "the replica has the version")
        with sentinel.client() as client:
            eventually(lambda: client.sentinel_slaves("mymaster"), "the sentinel knows the replica")
        master.kill()
        eventually(lambda: works(store, name), "a replica takes over")
        assert read_whole(store, name, number) == {"state": b"kept"}
        assert store.ping().startswith("Redis 7")


def sentinel_of(folder: Path, port: int) -> RedisServer:
    folder.mkdir()
    settings = folder / "sentinel.conf"
    settings.write_text(
        f"sentinel monitor mymaster 127.0.0.1 {port} 1\n"
        "sentinel down-after-milliseconds mymaster 1000\n"
        "sentinel failover-timeout mymaster 3000\n"
    )
    return RedisServer(folder, str(settings), "--sentinel")
