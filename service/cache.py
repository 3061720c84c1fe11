"""Values by key, bounded in number and in bytes, in the order of their last use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cache(Generic[K, V]):
    """Drops nothing by itself: ``surplus`` says what has to go, so that the owner can let go of it in order.

    Not safe to call from several threads at once; its owner has a lock.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.bytes = 0

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def get(self, key: K) -> V | None:
        """The value, which is now the one used last."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key][0]

    def put(self, key: K, value: V, size: int) -> None:
        """Add a value of so many bytes, or replace the one there is."""
        self.pop(key)
        self._entries[key] = (value, size)
        self.bytes += size

    def pop(self, key: K) -> V | None:
        value, size = self._entries.pop(key, (None, 0))
        self.bytes -= size
        return value

    def __iter__(self) -> Iterator[K]:
        return iter(list(self._entries))

    def values(self) -> list[V]:
        return [value for value, _ in self._entries.values()]

    def has_room(self) -> bool:
        """Whether one more value of no size fits."""
        return len(self._entries) < self._most and self.bytes < self._most_bytes

    def surplus(self, kept: Container[K]) -> list[K]:
        """Keys to drop to be within the bounds, those used least recently first.

        None of ``kept`` is among them, nor the one used last: what is larger than the bounds alone stays until another comes.
        """
        number, size, dropped = len(self._entries), self.bytes, []
        for key in list(self._entries)[:-1]:
            if number <= self._most and size <= self._most_bytes:
                break
            if key not in kept:
                dropped.append(key)
                number -= 1
                size -= self._entries[key][1]
        return dropped
