"""How little the user of farfield may be allowed on a Redis server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import redis

from service.jobs.queue import Jobs, Progress
from service.outliers.feed import Feed, Outlier
from service.outliers.feedback import Feedback
from service.outliers.webhooks import Webhooks, waiting
from service.retention.orphans import orphans
from service.settings import Settings
from service.store import Store
from service.uploads import data_sets
from service.uploads.parts import Uploads
from tests.servers import eventually
from tests.service.receiving import sending
from tests.service.samples import publish, read_whole
from tests.service.served import npy, rows
from tests.service.stores import ACL_RULE, Tls


def test_the_documented_rule_allows_no_command_too_many(tmp_path: Path, name: str) -> None:
    """Every command that ``ACL_RULE`` allows is one that the store uses; the contract above shows that they suffice."""
    server = Tls(tmp_path / "tls")
    try:
        with Store.open(server.url) as store, server.client() as raw:
            raw.config_resetstat()
            exercise(store, name)
            exercise_jobs(Jobs(store.connection))
            exercise_uploads(store)
            exercise_outliers(store, name)
            orphans(store)
            used = {command.removeprefix("cmdstat_") for command in raw.info("commandstats")}
        assert set(re.findall(r"\+([\w|]+)", ACL_RULE)) <= used
    finally:
        server.close()


def exercise(store: Store, name: str) -> None:
    """Every method of the store once."""
    store.ping()
    publish(store, name, note="1")
    publish(store, name, note="2")
    publish(store, name, note="2")
    store.names()
    store.numbers(name)
    store.aliases(name)
    read_whole(store, name, 1)
    store.move_alias(name, "champion", 1)
    store.move_alias(name, "champion", 2)
    store.history(name, "champion")
    store.rollback(name, "champion")
    store.delete_alias(name, "champion")
    store.delete_version(name, 1)


def exercise_jobs(jobs: Jobs) -> None:
    """Every method of the queue once."""
    job = jobs.submit("fit", "screws", {}, rows=b"rows", idempotency_key="once").id
    jobs.rows(job)
    jobs.claim("worker", 1.0)
    jobs.beat(job, "worker", 1.0, Progress("fit", 1, 2, 1.0))
    jobs.write_log(job, ["line"])
    jobs.log(job)
    jobs.fail(job, "worker", "again", again=True)
    jobs.claim("worker", 1.0)
    jobs.finish(job, "worker", {})
    jobs.cancel(job)
    jobs.forget(job)
    jobs.newest()
    jobs.tallies()


def exercise_uploads(store: Store) -> None:
    """Every method of the uploads once."""
    uploads = Uploads(store.connection)
    data = npy(rows(20))
    upload = uploads.create("rows.npy", len(data), Settings())
    uploads.append(upload.id, 0, data)
    data_sets.complete(store, upload.id)
    uploads.all()
    uploads.delete(upload.id)


def exercise_outliers(store: Store, name: str) -> None:
    """Every method of the feed and of feedback once, and of webhooks what asks the store."""
    settings = sending("http://127.0.0.1:1/")
    feed = Feed(store.connection, settings)
    feed.add(name, [Outlier("id", "key", 1, 9.5, 0.01, 0.05, 1e9)])
    feed.newest(name, 1)
    feed.trim([name])
    feedback = Feedback(store.connection, feed, settings)
    feedback.mark(name, ["key"], "confirmed")
    feedback.mark(name, ["key"], None)
    feedback.all(name)
    feed.counts([name])
    webhooks = Webhooks(settings, store, first_pause=0.0)
    webhooks._taken(name, "group")
    ((outlier, _),) = eventually(lambda: webhooks._taken(name, "group"), "taken again")
    webhooks._ended(name, "group", outlier, "delivered")
    waiting(store.connection, [name])


@pytest.mark.parametrize("key", ["other", "farfiel:{x}:versions"])
def test_the_documented_rule_keeps_to_the_keys_of_farfield(tmp_path: Path, key: str) -> None:
    """The user of farfield can neither read nor write what belongs to others, nor administer the server."""
    server = Tls(tmp_path / "tls")
    try:
        with redis.Redis.from_url(server.url) as client:
            for command in (
                ("GET", key),
                ("SET", key, "1"),
                ("EVAL", "return redis.call('GET', KEYS[1])", 1, key),
                ("FLUSHALL",),
                ("KEYS", "*"),
            ):
                with pytest.raises(redis.ResponseError, match=r"permission|ACL"):
                    client.execute_command(*command)
    finally:
        server.close()
