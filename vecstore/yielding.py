"""Letting other threads have the interpreter beside maintenance and writes.

A thread that wants the interpreter is given it after 5 ms (`sys.getswitchinterval`), however often
the other lets go of it for a look into LMDB: it has it back before anybody wakes up.  And a query
wants it some ten times.  So whatever takes long lets go of it every millisecond, in threads that
said that they run beside calls, and goes on when no call runs, or after a while; in other threads
it goes on at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
Running = Callable[[], bool]
"""Tells whether calls run that other threads should let pass."""
EVERY_S = 0.001
PAUSE_S = 0.00005
"""Enough for a thread that waits to wake up; a shorter pause is over before it does."""
PAUSES = 4
"""At most, one after the other: a query ends within them if nobody else holds it up."""
_thread = threading.local()


def begin(running: Running, due: float = 0.0) -> None:
    """Tell that this thread runs beside calls; it lets go for the first time when that is due."""
    _thread.running = running
    _thread.due = due


def beside() -> Running | None:
    """What this thread was told to look at if it runs beside calls."""
    return getattr(_thread, "running", None)


@contextmanager
def sharing(running: Running) -> Iterator[None]:
    """Run a block beside calls if there are other threads that may make some."""
    if beside() is not None or threading.active_count() == 1:
        yield
        return
    begin(running, time.perf_counter() + EVERY_S)
    try:
        yield
    finally:
        del _thread.running


def yielding(items: Iterable[T]) -> Iterator[T]:
    """Go through items, letting go of the interpreter every millisecond."""
    running = beside()
    if running is None:
        yield from items
        return
    for item in items:
        if time.perf_counter() >= _thread.due:
            time.sleep(PAUSE_S)
            for _ in range(PAUSES - 1):
                if not running():
                    break
                time.sleep(PAUSE_S)
            _thread.due = time.perf_counter() + EVERY_S
        yield item
