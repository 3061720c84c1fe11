"""Webhooks: what is sent, to whom it is never sent, and that each outlier arrives whatever breaks on the way."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from pydantic import ValidationError
from standardwebhooks import Webhook, WebhookVerificationError

from service.outliers.feed import Feed, Outlier
from service.outliers.targets import Target, Undelivered, public
from service.outliers.webhooks import AT_A_TIME, MOST_FAILING, MOST_TRIES, Webhooks, waiting
from service.settings import Settings
from service.store import Store
from tests.servers import Process, RedisServer, eventually
from tests.service.receiving import LOOPBACK, SECRET, Receiver, sending
from tests.service.samples import publish
from tests.service.stores import certificate

NAME = "pumps"
HOSTILE = '<script>alert("1")</script> \u202f'.strip()
Receivers = Callable[..., Receiver]


def outlier(key: str, **other: Any) -> Outlier:
    return Outlier(**{"id": f"id-{key}", "key": key, "version": 1, "score": 9.5, "p_value": 0.01, "alpha": 0.05, "time": 1e9, **other})


@pytest.fixture
def receivers() -> Iterator[Receivers]:
    """``receivers(500, 0)`` starts a receiver with these answers."""
    started: list[Receiver] = []

    def start(*answers: int, **how: Any) -> Receiver:
        started.append(Receiver(*answers, **how))
        return started[-1]

    yield start
    for receiver in started:
        receiver.close()


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    with Store.open(redis_url, timeout=2) as opened:
        publish(opened, NAME)
        yield opened


def fed(store: Store, *keys: str) -> None:
    Feed(store.connection, Settings()).add(NAME, [outlier(key) for key in keys])


def deliver(url: str, networks: list[str], ca: Path | None = None) -> None:
    async def once() -> None:
        async with Target(url, SECRET, networks, ca and str(ca)) as target:
            await target.deliver("a", b"{}")

    asyncio.run(once())


def counts(store: Store) -> dict[str, int]:
    return Feed(store.connection, Settings()).counts([NAME])[NAME]


def quick(store: Store, *receivers: Receiver, **settings: Any) -> Webhooks:
    """With pauses that tests can wait for."""
    return Webhooks(sending(*(receiver.url for receiver in receivers), **settings), store, first_pause=1.2, seconds=1.0, seed=1)


# What is sent


def test_a_webhook_is_a_signed_cloud_event(store: Store, receivers: Receivers) -> None:
    """As CloudEvents' own library and that of Standard Webhooks read it; a key may hold anything. A changed body fails the check."""
    receiver = receivers()
    Feed(store.connection, Settings()).add(NAME, [outlier(HOSTILE, attribution=[{"feature": "x", "share": 8.0}])])
    with quick(store, receiver):
        eventually(lambda: counts(store).get("delivered"), "delivered")
    path, headers, body = receiver.posted[0]
    event = from_structured(HTTPMessage(headers, body), JSONFormat(), CloudEvent)
    assert (event.get_id(), event.get_source(), event.get_subject()) == (f"id-{HOSTILE}", f"/v1/detectors/{NAME}", HOSTILE)
    assert (event.get_type(), event.get_specversion(), path) == ("farfield.outlier.detected.v1", "1.0", "/hook")
    data = event.get_data()
    assert isinstance(data, dict)
    assert data | {"detector": NAME, "score": 9.5, "p_value": 0.01, "version": 1, "attribution": [{"feature": "x", "share": 8.0}]} == data
    assert Webhook(SECRET).verify(body, headers) == json.loads(body)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(body.replace(b"9.5", b"0.5"), headers)


def test_inputs_are_never_sent(store: Store, receivers: Receivers) -> None:
    """They may be anybody's, and they are large."""
    receiver = receivers()
    Feed(store.connection, Settings()).add(NAME, [outlier("a", features=np.full(4, 1.25), thumbnail=b"PNG")])
    with quick(store, receiver):
        eventually(lambda: counts(store).get("delivered"), "delivered")
    assert {"features", "thumbnail"}.isdisjoint(json.loads(receiver.posted[0][2])["data"])


# To whom


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "::",
        "fe80::1",
        "fd00::1",
        "ff02::1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::a00:1",
        "2002:a00:1::",
        "2001:0:a00:1::",
    ],
)
def test_inner_addresses_are_not_public(address: str) -> None:
    assert not public(ipaddress.ip_address(address))


def test_addresses_of_the_internet_are_public() -> None:
    for address in ("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "::ffff:93.184.215.14"):
        assert public(ipaddress.ip_address(address))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1"])
def test_a_target_inside_is_refused_unless_it_is_allowed(receivers: Receivers, host: str) -> None:
    """Nothing is sent, however the address is written; the refusal names the setting."""
    receiver = receivers()
    url = f"http://{host}:{receiver.port}/hook"
    with pytest.raises(Undelivered, match="FARFIELD_WEBHOOK_NETWORKS"):
        deliver(url, [])
    with pytest.raises(Undelivered, match="FARFIELD_WEBHOOK_NETWORKS"):
        deliver(url, ["10.0.0.0/8"])
    assert receiver.posted == []
    deliver(url, [*LOOPBACK, "::1/128"])
    assert receiver.posted[0][1]["host"] == f"{host}:{receiver.port}"


@pytest.mark.parametrize("answer", [204, 307])
def test_the_path_of_a_target_is_not_logged(store: Store, receivers: Receivers, caplog: pytest.LogCaptureFixture, answer: int) -> None:
    """Whoever knows it may post there, as with those of chats: a log tells of the host alone."""
    receiver = receivers(answer)
    fed(store, "a")
    with caplog.at_level("INFO"), quick(store, receiver):
        eventually(lambda: receiver.posted and counts(store), "a try")
    assert "/hook" not in caplog.text
    assert ("127.0.0.1" in caplog.text) == (answer == 307)


def test_a_redirect_is_not_followed(store: Store, receivers: Receivers) -> None:
    """Not even to where webhooks may go: it counts as a failure, and is tried again."""
    receiver = receivers(307)
    fed(store, "a")
    with quick(store, receiver):
        eventually(lambda: counts(store).get("delivered"), "delivered")
    assert [path for path, _, _ in receiver.posted] == ["/hook"] * 2
    assert counts(store) == {"failed": 1, "delivered": 1}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"webhooks": ["ftp://example.org/"]}, "http:// or https://"),
        ({"webhooks": ["https:///path"]}, "a host"),
        ({"webhooks": ["https://user:pass@example.org/"]}, "without user"),
        ({"webhooks": ["https://example.org/"], "webhook_secret": None}, "FARFIELD_WEBHOOK_SECRET"),
        ({"webhooks": ["https://example.org/"], "webhook_secret": "whsec_c2hvcnQ="}, "at least 24 bytes"),
        ({"webhooks": ["https://example.org/"], "webhook_secret": "no base64!"}, "not base64"),
        ({"webhook_networks": ["10.0.0.1/8"]}, "host bits"),
        ({"webhook_ca": "/no/such.pem"}, "'/no/such.pem' is no file of certificates in PEM: .*No such file"),
        ({"webhook_ca": __file__}, "no file of certificates in PEM: .*no certificate"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], why: str) -> None:
    """When they are read, and not when the first outlier comes."""
    with pytest.raises(ValidationError, match=why):
        Settings(**{"webhook_secret": SECRET, **settings})


# By TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority that no system knows, and a certificate that it has signed for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("certificates")
    certificate(folder)
    return folder


def test_an_authority_that_is_named_is_trusted(store: Store, receivers: Receivers, certificates: Path) -> None:
    """Outliers come by TLS, signed as ever."""
    receiver = receivers(certificates=certificates)
    fed(store, "a")
    with quick(store, receiver, webhook_ca=str(certificates / "ca.pem")):
        eventually(lambda: counts(store).get("delivered"), "delivered")
    _, headers, body = receiver.posted[0]
    assert Webhook(SECRET).verify(body, headers) == json.loads(body)
    assert counts(store) == {"delivered": 1}


@pytest.mark.parametrize(
    ("host", "ca", "why"),
    [("127.0.0.1", None, "unable to get local issuer"), ("localhost", "ca.pem", "not valid for 'localhost'")],
    ids=["authority", "name"],
)
def test_a_certificate_that_proves_nothing_is_refused(
    receivers: Receivers, certificates: Path, host: str, ca: str | None, why: str
) -> None:
    """Of an authority that nobody has named, or for another name, though the address is the same: nothing is sent."""
    receiver = receivers(certificates=certificates)
    url = f"https://{host}:{receiver.port}/hook"
    with pytest.raises(Undelivered, match=f"the certificate of {host} is not trusted, .* FARFIELD_WEBHOOK_CA: .*{why}"):
        deliver(url, [*LOOPBACK, "::1/128"], ca and certificates / ca)
    assert receiver.posted == []


def test_a_refused_certificate_counts_as_a_failure(
    store: Store, receivers: Receivers, certificates: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And stands in the log, with the outlier, the try and the reason; the outlier waits for another try."""
    receiver = receivers(certificates=certificates)
    fed(store, "a")
    with quick(store, receiver):
        eventually(lambda: counts(store).get("failed"), "failed")
    assert "outlier id-a of pumps, try 1: the certificate of 127.0.0.1 is not trusted" in caplog.text
    assert receiver.posted == []
    assert "delivered" not in counts(store)


# Whatever breaks


def test_a_target_that_fails_is_tried_again_with_the_same_id(store: Store, receivers: Receivers) -> None:
    """Twice an error, then it takes the event: each try is signed anew, under one id."""
    receiver = receivers(500, 503)
    fed(store, "a")
    with quick(store, receiver):
        eventually(lambda: counts(store).get("delivered"), "delivered")
    assert receiver.ids() == ["id-a"] * 3
    assert counts(store) == {"failed": 2, "delivered": 1}


def test_a_target_that_hangs_keeps_no_other_waiting(store: Store, receivers: Receivers) -> None:
    """The one that answers has everything, while the other is cut off each time."""
    hanging, answering = receivers(*[0] * 100), receivers()
    keys = [f"k{i}" for i in range(30)]
    fed(store, *keys)
    with quick(store, hanging, answering):
        eventually(lambda: counts(store).get("delivered") == 30 and counts(store).get("failed"), "delivered to one")
    assert sorted(answering.ids()) == sorted(f"id-{key}" for key in keys)


def test_an_event_that_is_never_taken_is_given_up(store: Store, receivers: Receivers) -> None:
    """After so many tries, and counted; what comes later is delivered."""
    receiver = receivers(*[500] * MOST_TRIES)
    fed(store, "a")
    with Webhooks(sending(receiver.url), store, first_pause=0.001, seed=1):
        eventually(lambda: counts(store).get("given_up"), "given up")
        fed(store, "b")
        eventually(lambda: counts(store).get("delivered"), "the next one")
    assert receiver.ids()[:MOST_TRIES] == ["id-a"] * MOST_TRIES
    assert receiver.ids()[MOST_TRIES:] == ["id-b"]
    assert counts(store) == {"failed": MOST_TRIES - 1, "given_up": 1, "delivered": 1}


def test_what_a_killed_worker_had_in_hand_is_delivered_by_another(
    store: Store, redis_url: str, receivers: Receivers, tmp_path: Path
) -> None:
    """kill -9 while the target holds its answer back: the event comes again, under the same id."""
    receiver = receivers(0)
    fed(store, "a")
    worker = Process([sys.executable, "-m", "tests.service.receiving", redis_url, receiver.url], Path(__file__).parents[2])
    worker.log_file = tmp_path / "log"
    worker.spawn()
    try:
        eventually(lambda: receiver.posted, "the first try")
    finally:
        worker.kill()
    assert counts(store) == {}
    with quick(store, receiver):
        eventually(lambda: counts(store).get("delivered"), "delivered by the other")
    assert receiver.ids() == ["id-a"] * 2


def test_workers_share_the_outliers(store: Store, redis_url: str, receivers: Receivers) -> None:
    """Three deliver what is added meanwhile; each comes once while nothing fails."""
    receiver = receivers()
    keys = [f"k{i}" for i in range(60)]
    with Store.open(redis_url) as second, Store.open(redis_url) as third:
        one, two, three = (Webhooks(sending(receiver.url), opened) for opened in (store, second, third))
        with one, two, three:
            for start in range(0, 60, 6):
                fed(store, *keys[start : start + 6])
            eventually(lambda: counts(store).get("delivered") == 60, "all of them")
    assert sorted(receiver.ids()) == sorted(f"id-{key}" for key in keys)


def test_the_rate_is_kept_by_all_workers_together(store: Store, redis_url: str, receivers: Receivers) -> None:
    """Four in a minute, by two workers; the others wait in the feed, and are not lost."""
    receiver = receivers()
    fed(store, *(f"k{i}" for i in range(2 * AT_A_TIME)))
    with Store.open(redis_url) as second, store.connection.client as client:
        one, two = (quick(opened, receiver, webhook_rate=4) for opened in (store, second))
        with one, two:
            eventually(lambda: len(receiver.posted) == 4, "the first four")
            group = client.xinfo_groups(f"farfield:{{{NAME}}}:outliers")[0]
            assert (group["lag"], len(receiver.posted)) == (2 * AT_A_TIME - 4, 4)
            (rate,) = client.keys("*:rate:*")
            assert 0 < client.ttl(rate) <= 60
            client.delete(rate)  # as when the minute is over
            eventually(lambda: len(receiver.posted) == 8, "four more")


def test_what_waits_is_counted(store: Store, receivers: Receivers) -> None:
    """New ones, and those that failed, of targets that somebody looks after; also where the feed has dropped some of the oldest."""
    names = [NAME, "never-fed"]
    assert waiting(store.connection, names) == {NAME: 0, "never-fed": 0}
    receiver = receivers(500)
    client, stream = store.connection.client, f"farfield:{{{NAME}}}:outliers"
    fed(store, *(f"k{i}" for i in range(9)))
    assert waiting(store.connection, names)[NAME] == 0  # there is no target
    with quick(store, receiver, webhook_rate=2):
        eventually(lambda: counts(store) == {"failed": 1, "delivered": 1}, "the first two")
    assert waiting(store.connection, names) == {NAME: 8, "never-fed": 0}
    client.xgroup_create(stream, "another", id="0")  # a target that no worker looks after
    assert waiting(store.connection, names)[NAME] == 8
    client.xtrim(stream, maxlen=4, approximate=False)
    assert 4 <= waiting(store.connection, names)[NAME] <= 5  # one of which is known to be gone when it is tried again
    with quick(store, receiver):
        eventually(lambda: waiting(store.connection, names)[NAME] == 0, "none")
    assert sorted(receiver.ids()[-4:]) == [f"id-k{i}" for i in range(5, 9)]  # those taken together are delivered beside each other


def test_a_dead_target_holds_a_bounded_number(store: Store, receivers: Receivers) -> None:
    """While so many wait for another try no new one is taken; all arrive when it is back."""
    receiver = receivers(*[500] * (MOST_FAILING + AT_A_TIME))
    fed(store, *(f"k{i}" for i in range(MOST_FAILING + 50)))
    with Webhooks(sending(receiver.url), store, first_pause=1.0, seed=1):
        group = f"farfield:{{{NAME}}}:outliers"
        eventually(lambda: counts(store).get("failed", 0) >= MOST_FAILING, "all places are taken")
        assert store.connection.client.xinfo_groups(group)[0]["pending"] <= MOST_FAILING + AT_A_TIME
        eventually(lambda: counts(store).get("delivered") == MOST_FAILING + 50, "all of them")


def test_outliers_wait_while_the_store_is_away(redis_server: RedisServer, redis_url: str, receivers: Receivers) -> None:
    """The thread lives on and delivers when it is back."""
    receiver = receivers()
    with Store.open(redis_url, timeout=0.05) as store:
        publish(store, NAME)
        with quick(store, receiver):
            fed(store, "a")
            eventually(lambda: receiver.ids() == ["id-a"], "before")
            redis_server.freeze()
            with pytest.raises(Exception, match="did not answer"):
                store.known()
            redis_server.thaw()
            fed(store, "b")
            eventually(lambda: receiver.ids() == ["id-a", "id-b"], "after")
