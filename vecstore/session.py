"""One opening of a store: counting running calls, so that closing is safe at any time."""

from __future__ import annotations

import threading
from types import TracebackType

from vecstore.errors import InvalidArgumentError, StoreClosedError
from vecstore.storage import Environment


class WriteLock:
    """One write at a time, and none from within another (a progress callback might try)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None

    def acquire(self, blocking: bool = True) -> bool:
        """Take the lock; False when it is taken and `blocking` is not asked for."""
        if self._owner == threading.get_ident():
            raise InvalidArgumentError(
                "A write was called from within a write of the same store (a progress callback?)."
            )
        taken = self._lock.acquire(blocking)
        if taken:
            self._owner = threading.get_ident()
        return taken

    def release(self) -> None:
        """Give the lock back."""
        self._owner = None
        self._lock.release()

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


class Session:
    """What a store object and its collections share.

    Used as ``with session as environment`` around every call; may be nested.
    """

    def __init__(self, environment: Environment, writable: bool) -> None:
        self.environment = environment
        self.writable = writable
        self.write_lock = WriteLock()
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._calls = 0
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

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closing

    def close(self) -> bool:
        """Refuse new calls and wait for running ones; False when it was closed already."""
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
            while self._calls:
                self._idle.wait()
            return True
