"""A cache of what was used last, bounded by bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class LruBytes(Generic[Key, Value]):
    """Keeps values up to a budget of bytes, and at least the one used last; safe for threads.

    Parameters
    ----------
    budget : int
        Bytes.
    let_go : callable, optional
        Told of each value that is not kept any more.
    """

    def __init__(self, budget: int, let_go: Callable[[Value], None] | None = None) -> None:
        self._budget = budget
        self._let_go = let_go
        self._kept: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._last: tuple[Key, Value] | None = None
        self.nbytes = 0

    def get(self, key: Key) -> Value | None:
        """Return a value and mark it as used."""
        last = self._last
        if last is not None and last[0] == key:
            return last[1]
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return None
            self._kept.move_to_end(key)
            self._last = (key, found[0])
            return found[0]

    def put(self, key: Key, value: Value, nbytes: int) -> Value:
        """Keep a value, unless another thread was faster; return the one that is kept."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                return found[0]
            self._kept[key] = (value, nbytes)
            self._last = (key, value)
            self.nbytes += nbytes
            dropped = self._shrink()
        self._drop(dropped)
        return value

    def recount(self, key: Key, nbytes: int) -> None:
        """Note that a value, if it is kept, takes other bytes now; it counts as used."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                return
            self._kept[key] = (found[0], nbytes)
            self._kept.move_to_end(key)
            self.nbytes += nbytes - found[1]
            dropped = self._shrink()
        self._drop(dropped)

    def _shrink(self) -> list[Value]:
        """Take out what was used least recently, down to the budget."""
        dropped = []
        while self.nbytes > self._budget and len(self._kept) > 1:
            _, (last, size) = self._kept.popitem(last=False)
            self.nbytes -= size
            dropped.append(last)
        return dropped

    def _drop(self, values: list[Value]) -> None:
        if self._let_go is not None:
            for value in values:
                self._let_go(value)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            dropped = [value for value, _ in self._kept.values()]
            self._kept.clear()
            self._last = None
            self.nbytes = 0
        self._drop(dropped)

    def values(self) -> Iterator[Value]:
        """Values at this moment."""
        with self._lock:
            kept = list(self._kept.values())
        return (value for value, _ in kept)
