"""One opening of a store: counting running calls, so that closing is safe at any time."""

from __future__ import annotations

import threading
from types import TracebackType

from vecstore.errors import StoreClosedError
from vecstore.storage import Environment


class Session:
    """What a store object and its collections share.

    Used as ``with session as environment`` around every call; may be nested.
    """

    def __init__(self, environment: Environment, writable: bool) -> None:
        self.environment = environment
        self.writable = writable
        self.write_lock = threading.RLock()
        self._state = threading.Condition()
        self._calls = 0
        self._closing = False
        self._own = threading.local()

    def __enter__(self) -> Environment:
        """Begin a call."""
        if self.environment.forked:
            self.environment.refuse_fork()
        with self._state:
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
        with self._state:
            self._calls -= 1
            if self._closing and not self._calls:
                self._state.notify_all()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closing

    def close(self) -> bool:
        """Refuse new calls and wait for running ones; False when it was closed already."""
        with self._state:
            if self._closing:
                return False
            self._closing = True
            while self._calls and not self.environment.forked:
                self._state.wait()
            return True
