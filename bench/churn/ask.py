"""Queries at a steady pace while something else goes on, in a thread or in a process of its own.

A query that had to wait for the one before it is timed from when it was due, so one long stop is
not told as one slow query.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import vecstore

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
PACE = 500
"""Queries a second."""
IDLE_S = 0.05
"""Seconds between the queries of a process while others ask beside the writes."""
NAME = "docs"


def ask(docs: Any, queries: F32, k: int, stop: Callable[[], bool]) -> I64:
    """Ask until told to stop; nanoseconds of each query, int64 (asked,)."""
    clock, gap = time.perf_counter_ns, 10**9 // PACE
    found: list[int] = []
    due = clock()
    while not stop():
        now = clock()
        if now < due:
            time.sleep((due - now) / 1e9)
            began = clock()
        else:
            began = due
        docs.query(queries[len(found) % len(queries)], k=k)
        found.append(clock() - began)
        due += gap
    return np.array(found, np.int64)


def ask_for(docs: Any, queries: F32, k: int, seconds: float) -> I64:
    """Ask for some time."""
    ends = time.perf_counter() + seconds
    return ask(docs, queries, k, lambda: time.perf_counter() > ends)


class Asker(Protocol):
    """Asks beside a writer."""

    def quiet(self, seconds: float) -> I64:
        """Ask while nothing is written."""

    def start(self) -> None:
        """Begin to ask."""

    def stop(self) -> I64:
        """End; nanoseconds of each query."""


class ThreadAsker:
    """Asks in a thread of the writing process."""

    def __init__(self, docs: Any, queries: F32, k: int) -> None:
        self._docs, self._queries, self._k = docs, queries, k
        self._ended = threading.Event()
        self._found: list[I64] = []
        self._thread: threading.Thread | None = None

    def quiet(self, seconds: float) -> I64:
        """Ask while nothing is written."""
        return ask_for(self._docs, self._queries, self._k, seconds)

    def start(self) -> None:
        """Begin to ask."""

        def work() -> None:
            self._found.append(ask(self._docs, self._queries, self._k, self._ended.is_set))

        self._ended.clear()
        self._found = []
        self._thread = threading.Thread(target=work)
        self._thread.start()

    def stop(self) -> I64:
        """End; nanoseconds of each query."""
        assert self._thread is not None
        self._ended.set()
        self._thread.join()
        return self._found[0]


class ProcessAsker:
    """Asks in another process, which has the store open for reading."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, str(folder)), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid is not None
        return self._process.pid

    def prepare(self, queries: F32, k: int) -> None:
        """Tell what is to be asked."""
        self._connection.send((queries, k))

    def quiet(self, seconds: float) -> I64:
        """Ask while nothing is written."""
        self._connection.send(seconds)
        found: I64 = self._connection.recv()
        return found

    def start(self) -> None:
        """Begin to ask."""
        self._connection.send("start")
        self._connection.recv()

    def stop(self) -> I64:
        """End; nanoseconds of each query."""
        self._connection.send("stop")
        found: I64 = self._connection.recv()
        return found

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join()


def _serve(connection: Connection, folder: str) -> None:
    queries, k = np.zeros((0, 0), np.float32), 0
    with vecstore.open(folder, mode="r") as store:
        docs = store.collection(NAME)
        while True:
            # a reader that never asks would keep the files of its last query, and their space
            while len(queries) and not connection.poll(IDLE_S):
                docs.query(queries[0], k=k)
            try:
                message = connection.recv()
            except EOFError:
                return
            if isinstance(message, float):
                connection.send(ask_for(docs, queries, k, message))
            elif message == "start":
                connection.send("asking")
                found = ask(docs, queries, k, connection.poll)
                connection.recv()
                connection.send(found)
            else:
                queries, k = message
