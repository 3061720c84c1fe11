"""Detectors by name, all of them or a page."""

from __future__ import annotations

from service.store import Store
from service.versions import Routing, routes


def listed(store: Store, count: int | None = None, after: str = "", contains: str = "") -> tuple[dict[str, Routing], str | None]:
    """The first ``count`` detectors whose name comes after ``after`` and has ``contains`` in it, whatever its case.

    With the last name, if there are more: where to go on. Costs one look-up of all names, and one of versions and aliases
    for each detector that is returned.
    """
    wanted = contains.lower()
    names = sorted(name for name in store.known() if name > after and wanted in name.lower())
    size = len(names) if count is None else count
    found: dict[str, Routing] = {}
    for start in range(0, len(names), size + 1):
        for name, routing in routes(store, names[start : start + size + 1]).items():
            if not routing.numbers:
                continue  # its first version is only being published, or its last one was deleted
            if len(found) == size:
                return found, next(reversed(found))
            found[name] = routing
    return found, None
