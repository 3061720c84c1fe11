"""Retention: which versions, chunks, jobs and uploads nobody needs any more, and deleting them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from service import errors
from service.jobs.queue import KEPT_SECONDS, Job, Jobs
from service.manifest import Manifest
from service.names import parsed_reference
from service.retention import orphans
from service.store import Store
from service.uploads.parts import Uploads
from service.versions import Routing, routes

MOST_JOBS = 100_000  # that are looked at, the newest first


@dataclass(frozen=True, slots=True)
class Rules:
    """What stays. A version goes only if every rule lets it go; one that an alias points at never does."""

    keep: int = 10  # newest versions of each detector
    newer_than: timedelta = timedelta(days=30)  # versions
    rollbacks: int = 10  # earlier places of each alias, newest first
    jobs: timedelta = timedelta(seconds=KEPT_SECONDS)  # since they ended
    uploads: timedelta = timedelta(days=7)  # since they began


@dataclass(frozen=True, slots=True)
class Item:
    """Something that goes, and the bytes that the store has free without it."""

    kind: Literal["version", "orphan chunks", "job", "upload"]
    name: str  # of a version NAME:NUMBER, of chunks the detector, else an id
    bytes: int
    reason: str


def unneeded(manifests: Mapping[int, Manifest], held: set[int], rules: Rules, now: datetime) -> list[int]:
    """Numbers of the versions of a detector that the rules let go, ascending; ``held`` are those that aliases and jobs need.

    The parent of a version that stays by a rule stays too, and the parent's parent does not for that reason.
    """
    by_rule = set(sorted(manifests)[-rules.keep :]) | held
    by_rule |= {number for number, manifest in manifests.items() if now - datetime.fromisoformat(manifest.created) < rules.newer_than}
    parents = {manifests[number].parent for number in by_rule if number in manifests}
    return sorted(manifests.keys() - by_rule - parents)


def versions(store: Store, name: str, rules: Rules, now: datetime) -> list[Item]:
    """The versions of a detector that go, oldest first. Damaged ones tell neither age nor parent, and stay. Raises UnknownDetector."""
    manifests, _ = store.manifests(name)
    going = unneeded(manifests, _held(store, name, rules), rules, now)
    left = {blob.sha256 for number in manifests.keys() - set(going) for blob in manifests[number].blobs.values()}
    items = []
    for number in going:
        freed = {blob.sha256: blob.size for blob in manifests[number].blobs.values() if blob.sha256 not in left}
        left |= freed.keys()  # counted once
        items.append(Item("version", f"{name}:{number}", sum(freed.values()), f"of {manifests[number].created[:10]}, and no rule keeps it"))
    return items


def plan(store: Store, names: list[str], rules: Rules) -> list[Item]:
    """All that goes: of ``names``, or of every detector with jobs and uploads where none is given. Raises UnknownDetector."""
    now = datetime.now(UTC)
    items = [item for name in names or store.names() for item in versions(store, name, rules, now)]
    for name, chunks in orphans.orphans(store, names or None).items():
        items.append(Item("orphan chunks", name, sum(chunks.values()), f"{len(chunks)} chunks, to which no version refers"))
    return items if names else [*items, *_jobs(store, rules, now), *_uploads(store, rules, now)]


def delete(store: Store, items: Iterable[Item], rules: Rules) -> Iterator[Item]:
    """Delete what of ``items`` still may go, and give each that did.

    Whether an alias or a job needs a version is asked again right before, and the store itself refuses one that an alias points at.
    """
    for item in items:
        try:
            if _deleted(store, item, rules):
                yield item
        except (errors.NotFound, errors.VersionInUse):
            continue  # gone by itself, or in use by now


def _deleted(store: Store, item: Item, rules: Rules) -> bool:
    match item.kind:
        case "version":
            name, _, number = item.name.rpartition(":")
            if int(number) in _held(store, name, rules):
                return False
            store.delete_version(name, int(number))
        case "orphan chunks":
            found = orphans.orphans(store, {item.name}).get(item.name, {})
            return orphans.collect(store, item.name, list(found)) > 0
        case "job":
            return Jobs(store.connection).forget(item.name)
        case "upload":
            Uploads(store.connection).delete(item.name)
    return True


def _held(store: Store, name: str, rules: Rules) -> set[int]:
    """Versions at which an alias points, to which as many rollbacks as the rules say could lead, or of which a job is to make another."""
    updates = [job for job in Jobs(store.connection).unfinished() if "merge" in job.spec]
    routing = routes(store, [name])[name]
    earlier = {entry["version"] for alias in routing.aliases for entry in store.history(name, alias)[: rules.rollbacks]}
    return {*routing.aliases.values(), *earlier, *_begun_with(updates, name, routing)}


def _begun_with(updates: Iterable[Job], name: str, routing: Routing) -> Iterator[int]:
    """Numbers of the versions of a detector that ``updates`` start from or merge."""
    for job in updates:
        if job.detector == name:
            with suppress(errors.NotFound):
                yield routing.number(name, job.spec["version"])
        for other, number in map(parsed_reference, job.spec["merge"]):
            if other == name and isinstance(number, int):
                yield number


def _jobs(store: Store, rules: Rules, now: datetime) -> Iterator[Item]:
    queue = Jobs(store.connection)
    for job in queue.newest(MOST_JOBS):
        if job.ended is not None and now.timestamp() - job.ended > rules.jobs.total_seconds():
            size = len(json.dumps([job.spec, job.result, job.error, job.traceback])) + sum(map(len, queue.log(job.id)))
            yield Item("job", job.id, size, f"{job.state} since {_day(job.ended)}")


def _uploads(store: Store, rules: Rules, now: datetime) -> Iterator[Item]:
    for upload in Uploads(store.connection).all():
        if now.timestamp() - upload.created > rules.uploads.total_seconds():
            size = 0 if upload.state == "refused" else upload.offset
            yield Item("upload", upload.id, size, f"{upload.name}, {upload.state}, of {_day(upload.created)}")


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()
