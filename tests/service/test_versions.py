"""What is loaded when, and what goes to make room."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from service.metrics import Metrics
from service.settings import Settings
from service.store import Store
from service.versions import MET_AT_ONCE, Versions
from tests.service.samples import fitted, publish_fitted

FITTED = [fitted(), fitted(10.0)]
Made = Callable[..., Versions]


@pytest.fixture
def versions(embedded_store: Store) -> Made:
    """``versions(max_loaded_bytes=..., ...)`` on a store of its own."""
    return lambda **settings: Versions(embedded_store, Settings(**settings), Metrics())


def publish(store: Store, name: str, *numbers: int) -> None:
    for number in numbers:
        assert publish_fitted(store, name, FITTED[number - 1]) == number


def in_memory(versions: Versions) -> list[tuple[str, int]]:
    return sorted((loaded.name, loaded.number) for loaded in versions.loaded())


def size_of_one(store: Store, versions: Made) -> int:
    return versions().get("a", None).bytes


def test_bytes_of_loaded_versions_are_bounded(embedded_store: Store, versions: Made) -> None:
    """The one used least recently goes; it is loaded again when it is asked for."""
    for name in "abc":
        publish(embedded_store, name, 1)
    made = versions(max_loaded_bytes=2 * size_of_one(embedded_store, versions) + 1000)
    for name in "abac":
        assert made.get(name, None).name == name
    assert in_memory(made) == [("a", 1), ("c", 1)]
    assert made.loaded_bytes() == sum(loaded.bytes for loaded in made.loaded()) > 0
    assert made.cached("b", None) is None and made.get("b", None).name == "b"
    assert in_memory(made) == [("b", 1), ("c", 1)]


def test_what_a_pinned_name_means_is_never_dropped(embedded_store: Store, versions: Made) -> None:
    """However many others are asked for; after a promote it is the version promoted that stays."""
    publish(embedded_store, "a", 1)
    publish(embedded_store, "b", 1)
    publish(embedded_store, "kept", 1, 2)
    made = versions(max_loaded_versions=2, pinned=["kept"])
    made.get("kept", None)
    for name in "abab":
        made.get(name, None)
        assert ("kept", 2) in in_memory(made) and len(made.loaded()) == 2
    made.promote("kept", "champion", 1)
    for name in "abab":
        made.get(name, None)
    assert in_memory(made) == [("b", 1), ("kept", 1)]


def test_pinned_detectors_alone_are_loaded_before_the_service_is_ready(embedded_store: Store, versions: Made) -> None:
    """The others follow at the next looks, or when they are asked for; one that is pinned and does not exist keeps nobody waiting."""
    for name in "abc":
        publish(embedded_store, name, 1)
    made = versions(pinned=["b", "nowhere"])
    made.start()
    assert made.ready and in_memory(made) == [("b", 1)]
    assert made.get("c", None).name == "c"
    made.refresh()
    assert in_memory(made) == [("a", 1), ("b", 1), ("c", 1)]


def test_a_pinned_detector_that_comes_later_is_loaded_though_there_is_no_room(embedded_store: Store, versions: Made) -> None:
    """Another makes room for it."""
    publish(embedded_store, "a", 1)
    made = versions(pinned=["late"], max_loaded_versions=1)
    made.get("a", None)
    publish(embedded_store, "late", 1)
    publish(embedded_store, "never", 1)
    made.refresh()
    assert in_memory(made) == [("late", 1)]


def test_detectors_are_loaded_a_few_at_a_time(embedded_store: Store, versions: Made) -> None:
    """So that a service with many is ready soon, and looks at its aliases between; names without a version keep nobody waiting."""
    names = [f"d{index:02}" for index in range(2 * MET_AT_ONCE + 1)]
    for name in names:
        publish(embedded_store, name, 1)
    made = versions()
    made.start()
    assert made.ready
    for count in (MET_AT_ONCE, 2 * MET_AT_ONCE, len(names), len(names)):
        assert in_memory(made) == [(name, 1) for name in names[:count]]
        made.refresh()


def test_detectors_that_nobody_asks_for_are_loaded_while_there_is_room(embedded_store: Store, versions: Made) -> None:
    """They drop nothing that is in memory."""
    for name in "abc":
        publish(embedded_store, name, 1)
    made = versions(max_loaded_versions=1)
    made.get("b", None)
    made.start()
    made.refresh()
    assert in_memory(made) == [("b", 1)]


def test_a_version_is_loaded_and_checked_before_it_serves(embedded_store: Store, versions: Made) -> None:
    """While promotes go to and fro, a detector is answered from memory at every instant, though memory has room for one version."""
    publish(embedded_store, "a", 1, 2)
    made = versions(max_loaded_versions=1)
    made.get("a", None)
    seen: list[Any] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            seen.append(made.cached("a", None))

    asking = threading.Thread(target=ask)
    asking.start()
    for number in (1, 2, 1, 2):
        embedded_store.move_alias("a", "champion", number)
        made.refresh()
        assert made.cached("a", None).number == number
        assert in_memory(made) == [("a", number)]
    over.set()
    asking.join()
    assert None not in seen and {loaded.number for loaded in seen} == {1, 2}


def test_a_version_just_loaded_stays_whatever_is_used_before_it_serves(
    monkeypatch: pytest.MonkeyPatch, embedded_store: Store, versions: Made
) -> None:
    """Requests for the version that still serves do not make the new one the one used least recently."""
    publish(embedded_store, "a", 1, 2)
    made = versions(max_loaded_versions=1)
    made.get("a", None)
    load = made._load

    def loaded_and_the_other_used(name: str, number: int) -> Any:
        found = load(name, number)
        made.cached("a", None)
        return found

    monkeypatch.setattr(made, "_load", loaded_and_the_other_used)
    for number in (1, 2, 1):
        embedded_store.move_alias("a", "champion", number)
        made.refresh()
        assert made.cached("a", None).number == number


def test_a_pinned_name_that_none_can_have_is_refused() -> None:
    """With the name."""
    with pytest.raises(ValidationError, match="'a b' cannot name a detector"):
        Settings(pinned=["a b"])
