"""Grouped commits: calls of the last moments share one synced transaction.

One LMDB transaction stays open while calls come; each call is a nested transaction of its own, so
it is whole or undone.  A thread begins and commits it, because LMDB's write lock belongs to the
thread that took it.  Until then this process reads through the open transaction, and others see
the last commit.

Invariants
----------
* A commit holds whole calls, in their order: a crash loses the last ones, never parts.
* Nothing is read through the open transaction while a call changes it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import Any

import lmdb

from vecstore.errors import VecstoreError

INTERVAL_S = 0.05
"""Calls of the last so many seconds are what a crash may lose."""


class OpenRead:
    """Reading through the open transaction; it holds the batch still until `abort`."""

    def __init__(self, transaction: lmdb.Transaction, lock: threading.RLock) -> None:
        self._transaction = transaction
        self._lock = lock
        self._open = True
        self.get = transaction.get
        self.cursor = transaction.cursor
        self.id = transaction.id

    def abort(self) -> None:
        """Let others go on; may be repeated."""
        if self._open:
            self._open = False
            self._lock.release()


class Batch:
    """The open transaction of an environment.

    Parameters
    ----------
    env : lmdb.Environment

    Attributes
    ----------
    calls : int
        Calls and commits so far, from 1 on; a reader that knows fewer is behind, even within one
        transaction.
    failure : lmdb.Error or None
        Why a commit failed; the calls in it are lost.
    """

    def __init__(self, env: Any) -> None:
        self._env = env
        self._lock = threading.RLock()
        self._open: Any = None
        self._tasks: SimpleQueue[str] = SimpleQueue()
        self._done = threading.Semaphore(0)
        self._timer: threading.Timer | None = None
        self.calls = 1
        self.failure: lmdb.Error | None = None
        self._thread = threading.Thread(target=self._work, name="vecstore-commit", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        """Begin and commit, as asked for by whoever holds the lock."""
        while True:
            task = self._tasks.get()
            try:
                if task == "begin":
                    self._open = self._env.begin(write=True)
                elif task == "commit" and self._open is not None:
                    self._open.commit()
            except lmdb.Error as error:
                self.failure = error
            finally:
                if task == "commit":
                    self._open = None
                self._done.release()
            if task == "stop":
                return

    def _ask(self, task: str) -> None:
        self._tasks.put(task)
        self._done.acquire()
        if self.failure is not None:
            raise self.failure

    @contextmanager
    def call(self) -> Iterator[lmdb.Transaction]:
        """Run one call inside the open transaction; undone on any error."""
        with self._lock:
            if self.failure is not None:
                raise VecstoreError(f"a grouped commit failed: {self.failure}")
            if self._open is None:
                self._ask("begin")
                self._timer = threading.Timer(INTERVAL_S, self._flush_quietly)
                self._timer.daemon = True
                self._timer.start()
            assert self._open is not None
            child = self._env.begin(write=True, parent=self._open)
            try:
                yield child
            except BaseException:
                child.abort()
                raise
            child.commit()
            self.calls += 1

    def read(self) -> OpenRead | None:
        """Begin to read what is not committed yet; None when there is nothing."""
        if self._open is None:
            return None
        self._lock.acquire()
        transaction = self._open
        if transaction is None:
            self._lock.release()
            return None
        return OpenRead(transaction, self._lock)

    def flush(self) -> None:
        """Commit and sync what is open; raises when that failed, now or when its time had come."""
        with self._lock:
            if self.failure is not None:
                raise self.failure
            if self._timer is not None:
                self._timer.cancel()
            if self._open is not None:
                self.calls += 1  # an empty transaction leaves its number to the next
                self._ask("commit")

    def _flush_quietly(self) -> None:
        """Commit when the time has come; a failure is told to the next call."""
        with suppress(lmdb.Error):
            self.flush()

    def close(self) -> None:
        """Commit what is open and stop."""
        try:
            if self.failure is None:
                self.flush()
        finally:
            self._tasks.put("stop")
            self._thread.join()
