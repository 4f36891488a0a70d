"""In which thread a verb runs, and how many may wait.

A query that takes 0.1 ms is answered in the event loop itself: handing it to a thread and back
costs as much again and gains nothing, since a process answers one after the other anyway. A verb
is taken to be quick when calls of its kind (verb, collection, filtered or not, exact or not)
were, on average; all others go to threads, where they hold up nobody. Writes have one thread,
because the engine takes one at a time; what may take minutes has its own, and so have streams,
which take as long as their callers do: they must not hold up maintenance.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from vecstore.errors import ServiceTimeoutError
from vecstore.service.options import Options
from vecstore.wire.faults import unavailable
from vecstore.wire.verbs import Verb, Where

QUICK_S: Final = 0.002
"""Calls that take longer on average go to a thread."""

_WEIGHT: Final = 0.2
_KINDS_MAX: Final = 4_096
_READ_THREADS: Final = 4
_SLOW_THREADS: Final = 2
_STREAM_THREADS: Final = 8
_MAY_BE_QUICK: Final = frozenset({"query", "count", "get", "vectors", "collection", "open"})


class Runner:
    """Runs verbs of one process.

    Parameters
    ----------
    options : Options
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._average_s: dict[Any, float] = {}
        self._reads = ThreadPoolExecutor(_READ_THREADS, "vecstore-read")
        self._writes = ThreadPoolExecutor(1, "vecstore-write")
        self._slow = ThreadPoolExecutor(_SLOW_THREADS, "vecstore-slow")
        self._streams = ThreadPoolExecutor(_STREAM_THREADS, "vecstore-stream")
        self._waiting = 0

    async def run(self, verb: Verb, kind: Any, work: Callable[[], Any]) -> Any:
        """Carry out the work of one call.

        Parameters
        ----------
        verb : Verb
        kind : hashable
            Calls of one kind take alike.
        work : callable

        Raises
        ------
        UnavailableError
            Too many calls wait already; nothing was done.
        ServiceTimeoutError
            A call that reads took too long; it goes on, but nobody waits for it.
        """
        if verb.name in _MAY_BE_QUICK and self._average_s.get(kind, 1.0) < QUICK_S:
            return self._timed(kind, work)
        if self._waiting >= self._options.waiting_max:
            raise unavailable(f"{self._waiting} calls wait already; try again.")
        pool = self._reads
        if verb.streams:
            pool = self._streams
        elif verb.slow:
            pool = self._slow
        elif verb.where is Where.WRITER:
            pool = self._writes
        loop = asyncio.get_running_loop()
        self._waiting += 1
        future = loop.run_in_executor(pool, self._timed, kind, work)
        future.add_done_callback(self._ended)
        if verb.slow or verb.where is Where.WRITER:  # once begun, its outcome is told
            return await asyncio.shield(future)
        try:
            return await asyncio.wait_for(asyncio.shield(future), self._options.call_timeout_s)
        except TimeoutError:
            if future.done():
                return future.result()
            raise ServiceTimeoutError(
                f"{verb.name} took longer than {self._options.call_timeout_s:g} s; ask for less, "
                f"or divide the call."
            ) from None

    def _ended(self, future: asyncio.Future[Any]) -> None:
        self._waiting -= 1
        if not future.cancelled():
            future.exception()  # a call that nobody waits for may fail unheard

    def _timed(self, kind: Any, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        answer = work()
        took = time.perf_counter() - started
        before = self._average_s.get(kind)
        if before is None and len(self._average_s) >= _KINDS_MAX:
            self._average_s.clear()
        self._average_s[kind] = took if before is None else before + _WEIGHT * (took - before)
        return answer

    @property
    def waiting(self) -> int:
        """Calls in threads, or waiting for one."""
        return self._waiting

    def close(self) -> None:
        """Wait for what runs, and stop the threads."""
        for pool in (self._reads, self._writes, self._slow, self._streams):
            pool.shutdown()
