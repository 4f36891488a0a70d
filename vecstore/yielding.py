"""Letting other threads have the interpreter where maintenance runs beside calls.

A thread that wants the interpreter is given it after 5 ms (`sys.getswitchinterval`), and a query
wants it some ten times: after each look into LMDB and after its kernel.  So whatever takes long and
is written in Python lets go of it every millisecond, in threads that said that they run beside
calls; in others it goes on at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
EVERY_S = 0.001
PAUSE_S = 0.00005
"""Enough for a thread that waits to wake up; a shorter pause is over before it does."""
_thread = threading.local()


def begin() -> None:
    """Tell that this thread runs beside calls."""
    _thread.due = 0.0


def is_beside() -> bool:
    """Whether this thread runs beside calls."""
    return hasattr(_thread, "due")


def yielding(items: Iterable[T]) -> Iterator[T]:
    """Go through items, letting go of the interpreter every millisecond."""
    if not is_beside():
        yield from items
        return
    for item in items:
        if time.perf_counter() >= _thread.due:
            time.sleep(PAUSE_S)
            _thread.due = time.perf_counter() + EVERY_S
        yield item
