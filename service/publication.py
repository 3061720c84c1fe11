"""Publishing versions, and moving the aliases that name them."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

from service.archive import pack
from service.connection import PATIENCE_SECONDS, patiently
from service.engine import Fitted
from service.features import Progress
from service.manifest import Source
from service.store import Store


def publish(
    store: Store, name: str, fitted: Fitted, source: Source, alias: str | None, progress: Progress = lambda *_: None
) -> tuple[int, int | None]:
    """Publish a fitted detector, and point ``alias`` at it if given; return its number and where the alias was.

    A store that is away is waited for, since the fit is done; but not the embedded one, which nobody else would start again.
    What the store has done already, though its answer was lost, it does not do twice.
    """
    manifest, blobs = pack(fitted, name, source)
    token, seconds = uuid4().hex, 0.0 if store.connection.embedded else PATIENCE_SECONDS
    number = patiently(lambda: store.publish(name, manifest, blobs, token=token), progress, seconds)
    if not alias:
        return number, None
    return number, patiently(lambda: store.move_alias(name, alias, number, token=f"{token}:alias"), progress, seconds)


def promote(
    store: Store, name: str, alias: str, number: int, check: Callable[[str, int], object], *, expected: int | None = None
) -> int | None:
    """Point ``alias`` at version ``number`` after ``check`` of name and number, which loads it; return where the alias was.

    Raises UnknownDetector, UnknownVersion, VersionRefused, or AliasMoved if the alias is not at ``expected``.
    """
    check(name, number)
    return store.move_alias(name, alias, number, expected=expected)


def rollback(store: Store, name: str, alias: str, check: Callable[[str, int], object]) -> tuple[int, int]:
    """Point ``alias`` back at where it was before its last move, after ``check`` of that version; return both versions.

    Raises UnknownAlias, NothingToRollBack or VersionRefused.
    """
    numbers, current = store.numbers(name), store.aliases(name).get(alias)
    for entry in store.history(name, alias):
        if entry["version"] != current and entry["version"] in numbers:
            check(name, entry["version"])
            break
    return store.rollback(name, alias)
