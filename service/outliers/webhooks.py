"""Webhooks: workers post outliers of the feeds to each target of the settings, at least once.

Each target is a consumer group of each stream, so that one worker takes an outlier and no other. It is acknowledged when the target
has taken it. What failed, or was taken by a worker that died, stays pending in the store and is taken again, by whichever worker,
after a pause that doubles with each try. The id of an event stays the same, by which a receiver drops what comes twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import threading
import time
from collections.abc import Sequence
from typing import Any, Self

import orjson
from redis.exceptions import NoPermissionError

from service import errors
from service.connection import Connection, reached
from service.outliers.feed import Outlier, counts_key, stream_key, timestamp
from service.outliers.targets import SECONDS, Target, Undelivered
from service.settings import Settings
from service.store import Store

log = logging.getLogger(__name__)

EVENT_TYPE = "farfield.outlier.detected.v1"
AT_A_TIME = 10  # outliers of a detector posted to a target at the same time
POLL_SECONDS = 1.0
AWAY_SECONDS = 1.0  # between tries to reach a store that does not answer
FIRST_PAUSE, LONGEST_PAUSE = 15.0, 3600.0  # seconds between two tries; more than one try may take
JITTER = 0.5  # by which share a pause may be longer, by chance
MOST_TRIES = 12  # over some four hours
MOST_FAILING = 100  # outliers of a detector that wait for another try: no new one is taken then
NEW_TARGET_SECONDS = 3600  # a target that is new gets the outliers of so long ago and later
OLD_TARGET_SECONDS = 2 * LONGEST_PAUSE  # a target that no worker has looked after for so long is one of no worker's settings any more


class Webhooks:
    """A context in which a thread delivers outliers to the targets of the settings."""

    def __init__(
        self, settings: Settings, store: Store, *, first_pause: float = FIRST_PAUSE, seconds: float = SECONDS, seed: int | None = None
    ) -> None:
        self._store, self._rate, self._first_pause = store, settings.webhook_rate, first_pause
        self._targets = {
            hashlib.sha256(url.encode()).hexdigest()[:16]: Target(
                url, settings.webhook_secret or "", settings.webhook_networks, settings.webhook_ca, seconds=seconds
            )
            for url in settings.webhooks
        }
        self._chance = random.Random(seed)  # noqa: S311  # spreads tries, and keeps no secret
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="webhooks")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    async def _run(self) -> None:
        await asyncio.gather(*(self._serve(group, target) for group, target in self._targets.items()))

    async def _serve(self, group: str, target: Target) -> None:
        """Deliver to one target, whatever the others do, until told to stop."""
        async with target:
            await self._deliver(group, target)

    async def _deliver(self, group: str, target: Target) -> None:
        while not self._stopping.is_set():
            try:
                names = sorted(await asyncio.to_thread(self._store.known))
                delivered = [await self._some(name, group, target) for name in names]
            except errors.StoreUnavailable as error:
                log.warning("%s; outliers wait to be posted to %s", error, target.host)
                await asyncio.sleep(AWAY_SECONDS)
                continue
            except Exception:
                log.exception("outliers could not be posted to %s", target.host)
                delivered = []
            if not any(delivered):
                await asyncio.sleep(POLL_SECONDS)

    async def _some(self, name: str, group: str, target: Target) -> int:
        """Take some outliers of a detector and try to deliver each; how many were taken."""
        taken = await asyncio.to_thread(self._taken, name, group)
        await asyncio.gather(*(self._try(name, group, target, outlier, tries) for outlier, tries in taken))
        return len(taken)

    async def _try(self, name: str, group: str, target: Target, outlier: Outlier, tries: int) -> None:
        try:
            await target.deliver(outlier.id, event(name, outlier))
        except Undelivered as error:
            last = tries + 1 >= MOST_TRIES
            log.warning("outlier %s of %s, try %d%s: %s", outlier.id, name, tries + 1, ", given up" if last else "", error)
            outcome = "given_up" if last else "failed"
        else:
            outcome = "delivered"
        await asyncio.to_thread(self._ended, name, group, outlier, outcome)

    def _taken(self, name: str, group: str) -> list[tuple[Outlier, int]]:
        """Outliers that are this worker's to try for as long as the first pause, each with the number of tries before."""
        start = int(1000 * (time.time() - NEW_TARGET_SECONDS))
        pauses = [int(1000 * self._first_pause), int(1000 * LONGEST_PAUSE), 1 + self._chance.random() * JITTER]
        keys = [stream_key(name), f"{stream_key(name)}:rate:{group}"]
        found = self._store.connection.run("take_outliers.lua", keys, [group, AT_A_TIME, self._rate, *pauses, start, MOST_FAILING])
        return [(Outlier.read(place, dict(zip(parts[::2], parts[1::2], strict=True))), tries) for place, tries, parts in found]

    def _ended(self, name: str, group: str, outlier: Outlier, outcome: str) -> None:
        client = self._store.connection.client
        with reached():
            if outcome != "failed":
                client.xack(stream_key(name), group, outlier.place)
            client.hincrby(counts_key(name), outcome, 1)


def event(name: str, outlier: Outlier) -> bytes:
    """A CloudEvent in structured JSON."""
    told: dict[str, Any] = {
        "specversion": "1.0",
        "id": outlier.id,
        "source": f"/v1/detectors/{name}",
        "type": EVENT_TYPE,
        "subject": outlier.key,
        "time": timestamp(outlier.time),
        "datacontenttype": "application/json",
        "data": {"detector": name, **outlier.plain()},
    }
    return orjson.dumps(told)


def waiting(connection: Connection, names: Sequence[str]) -> dict[str, int]:
    """Deliveries that are still to be done of the outliers of each detector: those never tried, and those that wait for another try.

    At most: less where outliers left the feed before they were tried. Redis 6.2 does not tell of those never tried. A detector is
    left out where the user may not ask. Raises StoreUnavailable.
    """
    with reached():
        asked = connection.client.pipeline(transaction=False)
        for name in names:
            asked.xlen(stream_key(name)).xinfo_groups(stream_key(name))
        answers = asked.execute(raise_on_error=False)
        told = {
            name: found
            for name, *found in zip(names, answers[::2], answers[1::2], strict=True)
            if NoPermissionError not in map(type, found)
        }
        groups = [(name, length, group) for name, (length, found) in told.items() if length for group in found]
        for name, _, group in groups:
            asked.xinfo_consumers(stream_key(name), group["name"])
        consumers = asked.execute()
    counts = dict.fromkeys(told, 0)
    for (name, length, group), found in zip(groups, consumers, strict=True):
        if any(one["idle"] < 1000 * OLD_TARGET_SECONDS for one in found):
            counts[name] += group["pending"] + min(group.get("lag") or 0, length)
    return counts
