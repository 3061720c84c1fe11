"""Loaded versions: which number a name means now, and the fitted detector behind it, checked and ready.

Requests are answered from memory. ``refresh`` looks up moved aliases and new versions, loads what
they point at *first* and lets requests see it *then*, so that a promote costs no request any time.
While the store is away everything loaded goes on serving.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from service import errors
from service.archive import ArchiveError, unpack
from service.cache import Cache
from service.engine import Fitted
from service.manifest import Manifest
from service.metrics import Metrics
from service.publication import promote, rollback
from service.settings import Settings
from service.store import Store

log = logging.getLogger(__name__)

LATEST, DEFAULT_ALIAS = "latest", "champion"
NOT_ASKED = "not asked yet"
REFUSED_SECONDS = 30.0  # after which a refused version is tried again
MET_AT_ONCE = 8  # detectors nobody has asked for yet that are loaded at each look, between which moved aliases are followed

Reference = str | int | None  # alias, version number, or the default


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version in memory whose golden rows came out as when it was fitted."""

    name: str
    number: int
    manifest: Manifest
    fitted: Fitted

    @property
    def bytes(self) -> int:
        """What it is counted as in memory: its blobs, of which the most is its network and its state."""
        return sum(blob.size for blob in self.manifest.blobs.values())


@dataclass(frozen=True, slots=True)
class Refusal:
    reason: str
    since: float


@dataclass(slots=True)
class Routing:
    """What the references of one detector mean."""

    aliases: dict[str, int] = field(default_factory=dict)
    numbers: list[int] = field(default_factory=list)

    def number(self, name: str, reference: Reference) -> int:
        """The version that ``reference`` means: the default is ``champion`` if that is set, else the latest."""
        if not self.numbers:
            raise errors.UnknownDetector(name)
        if isinstance(reference, int):
            if reference not in self.numbers:
                raise errors.UnknownVersion(name, reference)
            return reference
        if reference is None:
            reference = DEFAULT_ALIAS if DEFAULT_ALIAS in self.aliases else LATEST
        if reference == LATEST:
            return self.numbers[-1]
        if reference not in self.aliases:
            raise errors.UnknownAlias(name, reference)
        return self.aliases[reference]


class Versions:
    """All loaded versions of a process. Methods are safe to call from any thread."""

    def __init__(self, store: Store, settings: Settings, metrics: Metrics) -> None:
        self._store = store
        self._settings = settings
        self._metrics = metrics
        self._serving: dict[tuple[str, Reference], int] = {}  # what each reference in use was last answered by
        self._loaded: Cache[tuple[str, int], Loaded] = Cache(settings.max_loaded_versions, settings.max_loaded_bytes)
        self._refused: dict[tuple[str, int], Refusal] = {}
        self._lock = threading.RLock()  # guards the fields above; never held while the store is asked
        self._loading = threading.Lock()  # one load at a time
        self._met: set[str] = set()  # names whose default version has been loaded, or tried, before any request
        self._refreshing = threading.Lock()  # so that no refresh undoes what a later one has seen
        self.ready = False
        self.store_state = NOT_ASKED  # name and version of the server, or why it does not answer

    def cached(self, name: str, reference: Reference) -> Loaded | None:
        """The version that ``reference`` means, if it can be answered from memory. Never waits for the store."""
        with self._lock:
            number = self._serving.get((name, reference))
            return self._loaded.get((name, number)) if number is not None else None

    def get(self, name: str, reference: Reference) -> Loaded:
        """The version that ``reference`` means, loaded now if need be.

        Raises UnknownDetector, UnknownVersion, UnknownAlias, VersionRefused or StoreUnavailable.
        """
        if loaded := self.cached(name, reference):
            return loaded
        number = self._routes([name])[name].number(name, reference)
        loaded = self._load(name, number)
        self._serve(name, reference, number)
        return loaded

    def start(self) -> None:
        """Load the default versions of what is pinned, or of the first few detectors: ``refresh`` loads the others by and by.

        A refused one does not keep the others from serving.
        """
        known = self._store.known()
        if missing := set(self._settings.pinned) - known:
            log.warning("pinned, but not in the store yet: %s", ", ".join(sorted(missing)))
        self._meet_some(known & set(self._settings.pinned) or known)
        self.ready = True

    def _meet_some(self, names: set[str]) -> None:
        """Load some detectors not seen before while there is room, and all of them that are pinned."""
        pinned = names & set(self._settings.pinned)
        for name in sorted(pinned):
            self._meet(name)
        met = 0
        for name in sorted(names - pinned):
            if met == MET_AT_ONCE or not self._loaded.has_room():
                break
            met += self._meet(name)

    def _meet(self, name: str) -> bool:
        """Load the default version of a detector not seen before, if it is whole; return whether it has one."""
        self._met.add(name)
        try:
            self.get(name, None)
        except (errors.VersionRefused, errors.StoreUnavailable, errors.InvalidInput) as error:
            log.error("%s", error)  # noqa: TRY400  # the sentence says it all
        except errors.NotFound:
            self._met.discard(name)  # its first version is still being published
        return name in self._met

    def promote(self, name: str, alias: str, number: int, *, expected: int | None = None) -> int | None:
        """As ``promote``; the version that was loaded for the check serves at once."""
        previous = promote(self._store, name, alias, number, self._load_anew, expected=expected)
        self.refresh(name)
        return previous

    def rollback(self, name: str, alias: str) -> tuple[int, int]:
        """As ``rollback``; the version that was loaded for the check serves at once."""
        moved = rollback(self._store, name, alias, self._load_anew)
        self.refresh(name)
        return moved

    def refresh(self, only: str | None = None) -> None:
        """Look up what every reference in use means now, and swap to it once it is loaded.

        A detector whose version was refused counts as in use, so that it serves as soon as it has a whole one.
        """
        with self._refreshing:
            new = self._store.known() - self._met if only is None else set()
            self._meet_some(new)
            with self._lock:
                keys = self._serving.keys() | {(name, None) for name, _ in self._refused}
                in_use = [key for key in keys if only in {None, key[0]}]
            routings = self._routes({name for name, _ in in_use})
            for name, reference in in_use:
                self._swap(name, reference, routings[name])
            with self._lock:
                self._forget_deleted(routings)
                self._evict()

    def refused(self) -> list[dict[str, str | int]]:
        """Versions that were asked for and refused, with the reason."""
        with self._lock:
            return [{"detector": n, "version": v, "reason": r.reason} for (n, v), r in sorted(self._refused.items())]

    def loaded(self) -> list[Loaded]:
        with self._lock:
            return self._loaded.values()

    def loaded_bytes(self) -> int:
        return self._loaded.bytes

    def unload(self, name: str) -> None:
        """Drop what is loaded of ``name``; no refresh that runs at the same time brings it back."""
        with self._refreshing, self._lock:
            for number in [key[1] for key in self._loaded if key[0] == name]:
                self._unload(name, number)

    def _swap(self, name: str, reference: Reference, routing: Routing) -> None:
        try:
            number = routing.number(name, reference)
            with self._lock:
                unchanged = self._serving.get((name, reference)) == number and (name, number) in self._loaded
            if not unchanged:
                self._load(name, number)
        except errors.NotFound:
            with self._lock:
                self._serving.pop((name, reference), None)
        except errors.VersionRefused:
            pass  # what served before goes on serving; `refused` and the metrics tell of it
        else:
            self._serve(name, reference, number)

    def _routes(self, names: Iterable[str]) -> dict[str, Routing]:
        routings = routes(self._store, names)
        for name, routing in routings.items():
            self._metrics.set_aliases(name, routing.aliases)
        return routings

    def _load(self, name: str, number: int) -> Loaded:
        key = (name, number)
        with self._loading:
            with self._lock:
                if loaded := self._loaded.get(key):
                    return loaded
                refusal = self._refused.get(key)
            if refusal and time.monotonic() - refusal.since < REFUSED_SECONDS:
                raise errors.VersionRefused(name, number, refusal.reason)
            return self._loaded_now(name, number)

    def _load_anew(self, name: str, number: int) -> Loaded:
        """The version from the store, even where it is in memory: what is promoted must be whole for the other replicas too."""
        with self._loading:
            return self._loaded_now(name, number)

    def _loaded_now(self, name: str, number: int) -> Loaded:
        key = (name, number)
        try:
            loaded = load(self._store, self._settings, name, number)
            if loaded.fitted.extractor:
                loaded.fitted.extractor.measure(self._settings.batch_seconds)
        except errors.VersionRefused as refused:
            with self._lock:
                self._refused[key] = Refusal(refused.reason, time.monotonic())
            self._metrics.version_refused(name, number)
            raise
        with self._lock:
            self._refused.pop(key, None)
            if key not in self._loaded:
                self._metrics.version_loaded(name, number, loaded.manifest, loaded.fitted)
            self._loaded.put(key, loaded, loaded.bytes)
        return loaded

    def _serve(self, name: str, reference: Reference, number: int) -> None:
        """Point the reference at a version that was loaded for it, which counts as used last, whatever was used since it was loaded."""
        with self._lock:
            self._serving[name, reference] = number
            self._loaded.get((name, number))
            self._evict()

    def _evict(self) -> None:
        """Drop the versions used least recently, down to the bounds, but none that a pinned name means."""
        pinned = {(name, self._serving[name, None]) for name in self._settings.pinned if (name, None) in self._serving}
        for key in self._loaded.surplus(pinned):
            self._unload(*key)

    def _forget_deleted(self, routings: dict[str, Routing]) -> None:
        """Drop loaded and refused versions that the store has no longer."""
        for key in [k for k in (*self._refused, *self._loaded) if k[0] in routings and k[1] not in routings[k[0]].numbers]:
            self._refused.pop(key, None)
            self._unload(*key)

    def _unload(self, name: str, number: int) -> None:
        if self._loaded.pop((name, number)) is None:
            return
        for key in [key for key, served in self._serving.items() if key[0] == name and served == number]:
            del self._serving[key]
        self._metrics.version_unloaded(name, number)


def routes(store: Store, names: Iterable[str]) -> dict[str, Routing]:
    """What the references of each of ``names`` mean now, asked in one round trip."""
    return {name: Routing(*found) for name, found in store.routings(names).items()}


def load(store: Store, settings: Settings, name: str, number: int) -> Loaded:
    """A version from the store, checked bit by bit and by its golden rows. Raises VersionRefused."""
    manifest = store.manifest(name, number)
    try:
        fitted = unpack(
            manifest,
            lambda blob: store.blob(name, number, manifest.blobs[blob]),
            device=settings.device,
            require_device=settings.require_device,
            threads=settings.extractor_threads,
        )
    except ArchiveError as error:
        raise errors.VersionRefused(name, number, str(error)) from None
    fitted.check(name, number)
    return Loaded(name, number, manifest, fitted)
