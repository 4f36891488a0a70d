"""One opening of a store: counting running calls, so that closing is safe at any time."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from vecstore.errors import InvalidArgumentError, StoreClosedError
from vecstore.receipts import Receipts
from vecstore.storage import Environment


class _Lock(ABC):
    """A lock that knows its thread, and refuses to be taken by it twice."""

    _owner: int | None = None

    @property
    def held(self) -> bool:
        """Whether this thread has the lock."""
        return self._owner == threading.get_ident()

    def acquire(self, blocking: bool = True) -> bool:
        """Take the lock; False when it is taken and `blocking` is not asked for."""
        if self.held:
            raise InvalidArgumentError(
                "A write was called from within a write of the same store (a progress callback?)."
            )
        return self._acquire(blocking)

    @abstractmethod
    def _acquire(self, blocking: bool) -> bool:
        """Take the lock, which this thread does not have."""

    @abstractmethod
    def release(self) -> None:
        """Give the lock back."""

    def __enter__(self) -> None:
        """Take the lock."""
        self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the lock back."""
        self.release()


class WriteLock(_Lock):
    """One write at a time, and none from within another (a progress callback might try)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def _acquire(self, blocking: bool) -> bool:
        taken = self._lock.acquire(blocking)
        if taken:
            self._owner = threading.get_ident()
        return taken

    def release(self) -> None:
        """Give the lock back."""
        self._owner = None
        self._lock.release()


class BuildLock(_Lock):
    """One builder at a time; what works in the background steps back for who is waited for.

    A builder makes or replaces extents, which takes its time: a bulk load, a flush of the row
    log, a merge.  It takes this lock before the write lock.

    Attributes
    ----------
    in_background : bool
        Who has it is not a call.
    """

    def __init__(self) -> None:
        self._state = threading.Condition()
        self._waiting = 0
        self.in_background = False

    @property
    def wanted(self) -> bool:
        """Whether a call waits for the lock."""
        return self._waiting > 0

    def _acquire(self, blocking: bool) -> bool:
        with self._state:
            if self._owner is not None and not blocking:
                return False
            self._waiting += 1
            try:
                while self._owner is not None:
                    self._state.wait()
            finally:
                self._waiting -= 1
            self._owner = threading.get_ident()
        return True

    def acquire_after_others(self) -> None:
        """Take the lock when no call has it or waits for it."""
        with self._state:
            while self._owner is not None or self._waiting:
                self._state.wait()
            self._owner = threading.get_ident()
            self.in_background = True

    def release(self) -> None:
        """Give the lock back."""
        with self._state:
            self._owner = None
            self.in_background = False
            self._state.notify_all()


class Session:
    """What a store object and its collections share.

    Used as ``with session as environment`` around every call; may be nested.
    """

    def __init__(self, environment: Environment, writable: bool) -> None:
        self.environment = environment
        self.writable = writable
        self.write_lock = WriteLock()
        self.build_lock = BuildLock()
        self.receipts = Receipts(environment)
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._calls = 0
        self._background: int | None = None
        self._closing = False
        self._own = threading.local()

    def __enter__(self) -> Environment:
        """Begin a call."""
        if self.environment.forked:
            self.environment.refuse_fork()
        with self._lock:
            if self._closing and not getattr(self._own, "depth", 0):
                raise StoreClosedError(f"The store {self.environment.path} is closed.")
            self._calls += 1
        self._own.depth = getattr(self._own, "depth", 0) + 1
        return self.environment

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End a call."""
        self._own.depth -= 1
        with self._lock:
            self._calls -= 1
            if self._closing and not self._calls:
                self._idle.notify_all()

    @contextmanager
    def in_background(self) -> Iterator[None]:
        """Run a block as a call that others need not let pass; one at a time."""
        with self:
            self._background = threading.get_ident()
            try:
                yield
            finally:
                self._background = None

    def others_run(self) -> bool:
        """Whether other threads are within calls, but for what is done in the background."""
        background = self._background not in (None, threading.get_ident())
        return self._calls - getattr(self._own, "depth", 0) - background > 0

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closing

    def close(self, closing: Callable[[], None] = lambda: None) -> bool:
        """Refuse new calls and wait for running ones; False when it was closed already.

        Parameters
        ----------
        closing : callable
            Called before the waiting.
        """
        if self.environment.forked:  # a thread that the child lacks may hold every lock
            self._closing = True
            return False
        if getattr(self._own, "depth", 0):
            raise InvalidArgumentError(
                "close was called from within a call of the same store (a progress callback?)."
            )
        with self._lock:
            if self._closing:
                return False
            self._closing = True
        closing()
        with self._lock:
            while self._calls:
                self._idle.wait()
            return True
