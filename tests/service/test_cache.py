"""Values bounded in number and bytes."""

from __future__ import annotations

import pytest

from service.cache import Cache


def cache_of(sizes: dict[str, int], most: int = 10, most_bytes: int = 100) -> Cache[str, str]:
    cache: Cache[str, str] = Cache(most, most_bytes)
    for key, size in sizes.items():
        cache.put(key, key.upper(), size)
    return cache


def test_nothing_is_surplus_within_the_bounds() -> None:
    """Bounds may be reached."""
    assert cache_of({"a": 40, "b": 60}, most=2).surplus(set()) == []


@pytest.mark.parametrize(("most", "most_bytes"), [(2, 100), (10, 60)])
def test_the_least_recently_used_go_first(most: int, most_bytes: int) -> None:
    """Whether number or bytes are over the bound; what was asked for since counts as used."""
    cache = cache_of({"a": 30, "b": 30, "c": 30}, most, most_bytes)
    assert cache.get("a") == "A"
    assert cache.surplus(set()) == ["b"]


def test_as_many_go_as_are_over_the_bound() -> None:
    """And no more."""
    assert cache_of({"a": 10, "b": 10, "c": 10, "d": 95}).surplus(set()) == ["a", "b", "c"]


def test_what_is_kept_never_goes() -> None:
    """Others go in its place, and where there are none the bound is exceeded."""
    cache = cache_of({"a": 50, "b": 50, "c": 50})
    assert cache.surplus({"a"}) == ["b"]
    assert cache.surplus({"a", "b"}) == []


def test_what_is_larger_than_the_bound_stays_until_another_comes() -> None:
    """It is in use: it was loaded last."""
    cache = cache_of({"a": 500})
    assert cache.surplus(set()) == [] and not cache.has_room()
    cache.put("b", "B", 1)
    assert cache.surplus(set()) == ["a"]


def test_bytes_follow_what_is_there() -> None:
    """Put again, dropped, dropped again."""
    cache = cache_of({"a": 10, "b": 20})
    cache.put("a", "A2", 15)
    assert (cache.bytes, cache.get("a"), list(cache)) == (35, "A2", ["b", "a"])
    assert (cache.pop("b"), cache.pop("b"), cache.bytes, cache.values()) == ("B", None, 15, ["A2"])
    assert cache.get("b") is None and "b" not in cache
