"""Several services on one store: promotes without a gap, and what happens when the store or a version in it is broken."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from service import engine
from service.features import Batch
from service.store import Store
from tests.servers import RedisServer, ServiceProcess, eventually
from tests.service.samples import fitted, publish_fitted
from tests.service.stores import chunk_keys, flip_bit

SWAP_SECONDS = 1.0  # after the answer to a promote within which every replica serves the new version
ROUNDS = 4

ROWS = np.random.default_rng(1).standard_normal((5, 4))
DETECTORS = [fitted(1.0), fitted(10.0)]
SCORES = {number: engine.score(detector, Batch(rows=ROWS)).scores for number, detector in enumerate(DETECTORS, 1)}


@pytest.fixture(scope="module")
def persistent_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A redis-server that keeps its data when it is killed."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), "--appendonly", "yes", "--appendfsync", "always").start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def replicas(persistent_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ServiceProcess]]:
    """Two services on one store, each a process of its own."""
    services = [ServiceProcess(tmp_path_factory.mktemp("service"), persistent_redis.url, {}) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(ServiceProcess.start, services))
    yield services
    for service in services:
        service.kill()


@pytest.fixture
def store(persistent_redis: RedisServer) -> Iterator[Store]:
    with Store.open(persistent_redis.url) as opened:
        yield opened


@pytest.fixture
def detector(store: Store, name: str) -> str:
    """A detector with versions 1 and 2 whose scores differ, and alias champion at 1."""
    for each in DETECTORS:
        publish_fitted(store, name, each)
    store.move_alias(name, "champion", 1)
    return name


def score(service: ServiceProcess, name: str) -> httpx2.Response:
    return httpx2.post(f"{service.url}/v1/detectors/{name}:score", json={"rows": ROWS.tolist()}, timeout=30)


def promote(service: ServiceProcess, name: str, number: int) -> httpx2.Response:
    return httpx2.put(f"{service.url}/v1/detectors/{name}/aliases/champion", json={"version": number}, timeout=30)


def rollback(service: ServiceProcess, name: str) -> httpx2.Response:
    return httpx2.post(f"{service.url}/v1/detectors/{name}/aliases/champion:rollback", timeout=30)


def readiness(service: ServiceProcess) -> tuple[int, dict[str, Any]]:
    answer = httpx2.get(f"{service.url}/readyz", timeout=30)
    return answer.status_code, answer.json()


def served(service: ServiceProcess, name: str) -> int:
    """The version that answers, after a check that its scores are those of that version and of no other."""
    answer = score(service, name)
    assert answer.status_code == 200, answer.text
    return checked(answer.json())


def checked(body: dict[str, Any]) -> int:
    scores = [result["score"] for result in body["results"]]
    assert np.allclose(scores, SCORES[body["version"]], rtol=1e-9, atol=0), f"not all scores are those of version {body['version']}"
    return int(body["version"])


def damage(store: Store, server: RedisServer, name: str, number: int) -> None:
    """Flip one bit of the state of a version."""
    sha256 = store.manifest(name, number).blobs["state"].sha256
    with server.client() as client:
        key = next(key for key in chunk_keys(client, name) if sha256 in key.decode())
        client.set(key, flip_bit(client.get(key), 100))


@contextmanager
def load(services: list[ServiceProcess], name: str) -> Iterator[list[httpx2.Response]]:
    """Score on every service without a pause during the block; gives all answers."""
    answers: list[httpx2.Response] = []
    stop = threading.Event()

    def work(service: ServiceProcess) -> None:
        with httpx2.Client(timeout=30) as client:
            while not stop.is_set():
                answers.append(client.post(f"{service.url}/v1/detectors/{name}:score", json={"rows": ROWS.tolist()}))

    with ThreadPoolExecutor(len(services)) as pool:
        working = [pool.submit(work, service) for service in services]
        try:
            yield answers
        finally:
            stop.set()
        for each in working:
            each.result()


def test_promotes_and_rollbacks_under_load_cost_no_answer(replicas: list[ServiceProcess], detector: str) -> None:
    """Under load on both replicas every answer is 200 and of one version; within a second both serve what one was told."""
    with load(replicas, detector) as answers:
        for i in range(ROUNDS):
            told, other = replicas[i % 2], replicas[1 - i % 2]
            assert promote(told, detector, 2).status_code == 200
            check_followed(told, other, detector, 2)
            assert rollback(told, detector).status_code == 200
            check_followed(told, other, detector, 1)
    assert {answer.status_code for answer in answers} == {200}
    assert {checked(answer.json()) for answer in answers} == {1, 2}


def check_followed(told: ServiceProcess, other: ServiceProcess, name: str, number: int) -> None:
    """Just told, one replica must serve version ``number`` at once, and the other soon."""
    assert served(told, name) == number
    eventually(lambda: served(other, name) == number, f"the other replica serves version {number}", SWAP_SECONDS)


def test_scoring_goes_on_without_the_store(replicas: list[ServiceProcess], persistent_redis: RedisServer, detector: str, name: str) -> None:
    """Without its store a service scores by what it has loaded, stays ready, says what is away; afterwards it promotes again."""
    assert [served(service, detector) for service in replicas] == [1, 1]
    persistent_redis.kill()
    try:
        for service in replicas:
            assert served(service, detector) == 1
            eventually(lambda service=service: "the store did not answer" in readiness(service)[1]["store"], "readyz says so")
            assert readiness(service)[0] == 200
        refusal = score(replicas[0], f"{name}-unseen")
        assert (refusal.status_code, refusal.json()["type"]) == (503, "urn:farfield:problem:store-unavailable")
        assert int(refusal.headers["retry-after"]) >= 1
        assert promote(replicas[0], detector, 2).status_code == 503
        assert served(replicas[0], detector) == 1
    finally:
        persistent_redis.start()
    eventually(lambda: promote(replicas[0], detector, 2).status_code == 200, "a promote works again")
    for service in replicas:
        eventually(lambda service=service: served(service, detector) == 2, "the promoted version is served")
        eventually(lambda service=service: readiness(service)[1]["store"].startswith("Redis"), "readyz names the store again")


def test_a_promote_to_a_damaged_version_changes_nothing(
    replicas: list[ServiceProcess], persistent_redis: RedisServer, detector: str, store: Store
) -> None:
    """A damaged version is not promoted; where another writer moves the alias to it, the version before goes on serving."""
    assert [served(service, detector) for service in replicas] == [1, 1]
    damage(store, persistent_redis, detector, 2)
    refusal = promote(replicas[0], detector, 2)
    assert (refusal.status_code, refusal.json()["type"]) == (503, "urn:farfield:problem:version-refused")
    assert store.aliases(detector) == {"champion": 1}
    store.move_alias(detector, "champion", 2)
    for service in replicas:
        eventually(lambda service=service: (detector, 2) in refused(service), "the damaged version is listed")
        assert "does not match its sha256" in refused(service)[detector, 2]
        assert served(service, detector) == 1
    assert rollback(replicas[0], detector).json()["version"] == 1


def refused(service: ServiceProcess) -> dict[tuple[str, int], str]:
    status, body = readiness(service)
    assert status == 200
    return {(item["detector"], item["version"]): item["reason"] for item in body["refused"]}


def test_a_damaged_version_keeps_no_other_detector_from_serving(
    redis_server: RedisServer, service_process: Callable[..., ServiceProcess], tmp_path: Path
) -> None:
    """With a damaged version in the store the service starts, lists it with the reason, refuses it and serves the others."""
    with Store.open(redis_server.url) as store:
        for name in ("bad", "good"):
            publish_fitted(store, name, DETECTORS[0])
        damage(store, redis_server, "bad", 1)
        service = service_process(redis_server.url)
        assert list(refused(service)) == [("bad", 1)]
        assert "does not match its sha256" in refused(service)["bad", 1]
        assert served(service, "good") == 1
        answer = score(service, "bad")
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:farfield:problem:version-refused")
        assert "version 1 of detector 'bad' was refused" in answer.json()["detail"]
        publish_fitted(store, "bad", DETECTORS[1])
        assert served(service, "bad") == 2
        assert service.process.poll() is None


def test_a_service_with_nothing_but_a_damaged_version_is_ready_again_with_a_whole_one(
    redis_server: RedisServer, service_process: Callable[..., ServiceProcess]
) -> None:
    """Nothing that serves: not ready. A whole version published: ready, without a request; the damaged one deleted: not listed."""
    with Store.open(redis_server.url) as store:
        publish_fitted(store, "only", DETECTORS[0])
        damage(store, redis_server, "only", 1)
        service = service_process(redis_server.url, ready=False)
        eventually(lambda: [item["version"] for item in readiness(service)[1]["refused"]] == [1], "the damaged version is listed")
        assert readiness(service)[0] == 503
        publish_fitted(store, "only", DETECTORS[1])
        eventually(lambda: readiness(service)[0] == 200, "the service is ready")
        store.delete_version("only", 1)
        eventually(lambda: readiness(service)[1]["refused"] == [], "the deleted version is listed no more")
        assert served(service, "only") == 2


def test_a_store_that_hangs_takes_nothing_from_what_is_loaded(
    redis_server: RedisServer, service_process: Callable[..., ServiceProcess]
) -> None:
    """While the store hangs and clients ask for detectors that nobody knows, loaded versions score and readyz answers at once."""
    with Store.open(redis_server.url) as store:
        publish_fitted(store, "known", DETECTORS[0])
    service = service_process(redis_server.url, FARFIELD_THREADS="1")
    assert served(service, "known") == 1
    redis_server.process.send_signal(signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(40) as clients:
            unknown = [clients.submit(score, service, f"unknown{i}") for i in range(40)]
            for _ in range(20):
                assert served(service, "known") == 1
                assert readiness(service)[0] == 200
            assert not all(answer.done() for answer in unknown)  # the store kept them waiting meanwhile
            assert {answer.result().status_code for answer in unknown} == {503}
    finally:
        redis_server.process.send_signal(signal.SIGCONT)


def test_a_new_detector_is_loaded_before_anybody_asks(redis_server: RedisServer, service_process: Callable[..., ServiceProcess]) -> None:
    """A detector published while the service runs is loaded by itself, so that its first request does not wait."""
    service = service_process(redis_server.url)
    assert readiness(service)[1]["loaded"] == 0
    with Store.open(redis_server.url) as store:
        publish_fitted(store, "new", DETECTORS[0])
    eventually(lambda: readiness(service)[1]["loaded"] == 1, "the new detector is loaded")


def test_a_rollback_to_a_damaged_version_changes_nothing(
    replicas: list[ServiceProcess], persistent_redis: RedisServer, detector: str, store: Store
) -> None:
    """The alias goes back to nothing that could not serve."""
    assert promote(replicas[0], detector, 2).status_code == 200
    damage(store, persistent_redis, detector, 1)
    refusal = rollback(replicas[0], detector)
    assert (refusal.status_code, refusal.json()["type"]) == (503, "urn:farfield:problem:version-refused")
    assert store.aliases(detector)["champion"] == 2
    assert served(replicas[0], detector) == 2
