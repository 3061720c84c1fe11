"""Successors of versions: what was asked for read and loaded, the update done, and the new version published beside its parent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Any, Protocol, TypeVar

from service import errors
from service.archive import ArchiveError, pack, reserve, unpack
from service.engine import Fitted
from service.features import Progress, fingerprint
from service.manifest import Manifest, Source
from service.names import checked_alias, parsed_reference
from service.settings import Settings
from service.sources import Data
from service.store import Store
from service.updates.comparison import Difference, compare
from service.updates.updating import Change, updated
from service.versions import Reference, routes

T = TypeVar("T")
Reader = Callable[[Sequence[str] | None], Data]  # of rows, given the names of the features of the version that they are for


class Call(Protocol):
    """How the store is asked."""

    def __call__(self, call: Callable[[], T], /) -> T: ...


@dataclass(frozen=True, slots=True)
class Order:
    """An update as it is asked for; ``add`` and ``forget`` read the rows, when it is known that they are needed."""

    start: Reference = None
    forget: Reader | None = None
    merge: tuple[str, ...] = ()
    half_life: float | None = None
    add: Reader | None = None
    alias: str | None = None

    def check(self) -> None:
        """Raises InvalidInput for an update that does nothing, and for what can be known to be wrong before any row is read."""
        if not (self.add or self.forget or self.merge):
            raise errors.InvalidInput("an update adds rows, forgets rows or merges versions: ask for one of these at least", "#/add")
        if self.half_life is not None and not (0 < self.half_life < inf):
            raise errors.InvalidInput(f"half_life={self.half_life:g} must be a positive number of rows", "#/half_life")
        if self.half_life is not None and not self.add:
            raise errors.InvalidInput("half_life is counted in rows added: give rows to add with it", "#/half_life")
        for index, reference in enumerate(self.merge):
            _named(reference, f"#/merge/{index}")
        if len(set(self.merge)) < len(self.merge):
            raise errors.InvalidInput("a version is merged once: its rows would count twice", "#/merge")
        if self.alias is not None:
            _placed(lambda: checked_alias(self.alias or ""), "#/alias")


def update(
    store: Store,
    settings: Settings,
    name: str,
    order: Order,
    *,
    progress: Progress = lambda phase, done, total: None,
    token: str | None = None,
    asked: Call = lambda call: call(),
) -> dict[str, Any]:
    """Make and publish a version as ``order`` says, unless one was published with ``token`` before; what came of it, as JSON.

    The alias moves if it is where it was when the update began, or after an earlier attempt had published at the parent. Where it
    is not the version is there nevertheless, and ``alias_refused`` says why. ``asked`` makes each call of the store.
    """
    order.check()
    before = asked(lambda: store.aliases(name)).get(order.alias or "", 0)
    earlier = asked(lambda: store.published(name, token)) if token else None
    if earlier is None:
        result = _published(store, settings, name, order, progress, token, asked)
    else:
        manifest = asked(lambda: store.manifest(name, earlier))
        result = {"detector": name, "version": earlier, "parent": manifest.parent}
        before = manifest.parent or 0
    if order.alias is None:
        return result
    alias, number, moved = order.alias, result["version"], f"{token}:alias" if token else None
    try:
        asked(lambda: store.move_alias(name, alias, number, expected=before, token=moved))
    except errors.AliasMoved as refused:
        return {**result, "alias_refused": str(refused)}
    return {**result, "alias": alias}


def difference(store: Store, settings: Settings, name: str, older: int, newer: int) -> Difference:
    """The difference of two versions of a detector. Raises UnknownDetector, UnknownVersion or VersionRefused."""
    return compare(whole(store, settings, name, older), whole(store, settings, name, newer))


def whole(store: Store, settings: Settings, name: str, number: int) -> Fitted:
    """A version with what it has learned, checked bit by bit and by its golden rows. Raises VersionRefused."""
    manifest = store.manifest(name, number)
    try:
        fitted = unpack(
            manifest,
            _blobs(store, name, number, manifest),
            device=settings.device,
            require_device=settings.require_device,
            threads=settings.extractor_threads,
            statistics=True,
        )
    except ArchiveError as error:
        raise errors.VersionRefused(name, number, str(error)) from None
    fitted.check(name, number)
    return fitted


def _published(
    store: Store, settings: Settings, name: str, order: Order, progress: Progress, token: str | None, asked: Call
) -> dict[str, Any]:
    parent = asked(lambda: routes(store, [name])[name].number(name, order.start))
    asked(lambda: _check_lines(store, name, parent, order.merge))
    old = asked(lambda: alive(store, settings, name, parent))
    others = {reference: asked(partial(alive, store, settings, *_named(reference))) for reference in order.merge}
    forget, add = (read(old.feature_names) if read else None for read in (order.forget, order.add))
    change = Change(forget, others, order.half_life, add)
    fitted, record = updated(old, change, max_pixels=settings.max_pixels, progress=progress)
    source = asked(lambda: store.manifest(name, parent)).source
    if add:
        source = Source(name=add.name, rows=len(add.batch), sha256=fingerprint(add.batch))
    manifest, blobs = pack(fitted, name, source, parent=parent, update=record)
    size = sum(map(len, blobs.values()))
    number = asked(lambda: store.publish(name, manifest, blobs, written=lambda done: progress("publish", done, size), token=token))
    return {
        "detector": name,
        "version": number,
        "parent": parent,
        "n_fit": fitted.n_fit,
        "n_calibration": fitted.n_calibration,
        "features": fitted.width,
        "update": record.model_dump(),
        "difference": compare(old, fitted).to_json(),
    }


def alive(store: Store, settings: Settings, name: str, number: int) -> Fitted:
    """A version with what it has learned and the rows that it holds out."""
    fitted, manifest = whole(store, settings, name, number), store.manifest(name, number)
    try:
        return replace(fitted, reserve=reserve(manifest, _blobs(store, name, number, manifest)))
    except ArchiveError as error:
        raise errors.VersionRefused(name, number, str(error)) from None


def _check_lines(store: Store, name: str, number: int, merge: tuple[str, ...]) -> None:
    """Raises InvalidInput where versions that are to be merged were made of one and the same, whose rows would count twice."""
    line = _line(store, name, number)
    for index, reference in enumerate(merge):
        other = _line(store, *_named(reference))
        if common := line & other:
            shared = ":".join(map(str, max(common)))
            raise errors.InvalidInput(
                f"version {reference} cannot be merged: it and what it is merged with have the rows of {shared}, which would count twice",
                f"#/merge/{index}",
            )
        line |= other


def _line(store: Store, name: str, number: int) -> set[tuple[str, int]]:
    """A version with all that it was made of, so far as the store still has them."""
    line: set[tuple[str, int]] = set()
    waiting = [(name, number)]
    while waiting:
        one = waiting.pop()
        if one in line:
            continue
        line.add(one)
        with suppress(errors.NotFound, errors.VersionRefused):
            manifest = store.manifest(*one)
            waiting += [(one[0], manifest.parent)] if manifest.parent else []
            waiting += [_named(reference) for reference in (manifest.update.merged if manifest.update else ())]
    return line


def _blobs(store: Store, name: str, number: int, manifest: Manifest) -> Callable[[str], bytes]:
    return lambda blob: store.blob(name, number, manifest.blobs[blob])


def _named(reference: str, pointer: str = "#/merge") -> tuple[str, int]:
    """Name and number of the version that ``reference`` names."""
    name, number = _placed(lambda: parsed_reference(reference), pointer)
    if not isinstance(number, int):
        raise errors.InvalidInput(f"{reference!r} names no version to merge: write NAME:NUMBER", pointer)
    return name, number


def _placed(check: Callable[[], T], pointer: str) -> T:
    """What ``check`` gives; what it refuses is at ``pointer``."""
    try:
        return check()
    except errors.InvalidInput as error:
        raise errors.InvalidInput(str(error), pointer) from None
