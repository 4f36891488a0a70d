"""What a key may ask for at a time, counted over all processes of one service.

A key with limits has a line in memory that the processes share: a bucket of calls that fills with
time, and how many calls each process has running.  Lines are changed under a lock of the file
behind the memory, which the system takes back from a process that dies.
"""

from __future__ import annotations

import fcntl
import mmap
import tempfile
import time
import weakref
from typing import Final

import numpy as np

from vecstore.errors import RateLimitedError
from vecstore.service.keys import Key
from vecstore.service.metrics import PROCESSES_MAX

_KEYS_MAX: Final = 1_024
_LINE = np.dtype(
    [
        ("id", "S32"),
        ("calls", np.float64),
        ("filled_at", np.float64),
        ("used_at", np.float64),
        ("running", np.int32, PROCESSES_MAX),
    ]
)


class Limits:
    """Counts the calls of keys that have limits; made before processes are forked."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="vecstore-limits-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._file.truncate(_LINE.itemsize * _KEYS_MAX)
        self._lines = np.frombuffer(mmap.mmap(self._file.fileno(), 0), _LINE)
        self._known: dict[str, int] = {}
        self._process = 0

    def use(self, process: int) -> None:
        """Count as one process from now on."""
        self._process = process

    def ended(self, process: int) -> None:
        """Forget what a process that ended had running."""
        self._lines["running"][:, process] = 0

    def begin(self, key: Key) -> bool:
        """Count a call that begins; whether `end` is to be called.

        Raises
        ------
        RateLimitedError
            The key has used up its calls; the error says when to come again.
        """
        if key.calls_per_s is None and key.calls_at_once is None:
            return False
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            line = self._lines[self._find(key.id)]
            now = time.monotonic()
            line["used_at"] = now
            if key.calls_at_once is not None and line["running"].sum() >= key.calls_at_once:
                raise _limited(key, f"{key.calls_at_once} calls at the same time", 0.1)
            if key.calls_per_s is not None:
                burst = max(1.0, key.calls_per_s)
                gained = (now - line["filled_at"]) * key.calls_per_s
                calls = min(burst, float(line["calls"]) + gained)
                line["filled_at"] = now
                line["calls"] = calls
                if calls < 1:
                    raise _limited(
                        key, f"{key.calls_per_s:g} calls a second", (1 - calls) / key.calls_per_s
                    )
                line["calls"] = calls - 1
            line["running"][self._process] += 1
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)
        return True

    def end(self, key: Key) -> None:
        """Count a call that ended."""
        line = self._lines[self._find(key.id)]
        line["running"][self._process] = max(0, line["running"][self._process] - 1)

    def _find(self, identity: str) -> int:
        """Line of a key; a new one takes the place of the one used least recently."""
        wanted = identity.encode()
        place = self._known.get(identity)
        if place is not None and self._lines[place]["id"] == wanted:
            return place
        found = np.flatnonzero(self._lines["id"] == wanted)
        if len(found):
            place = int(found[0])
        else:
            place = int(self._lines["used_at"].argmin())
            self._lines[place] = np.zeros(1, _LINE)[0]
            self._lines[place]["id"] = wanted
            self._lines[place]["calls"] = np.inf  # a full bucket, whatever it holds
            self._lines[place]["filled_at"] = time.monotonic()
        self._known[identity] = place
        return place


def _limited(key: Key, what: str, retry_after_s: float) -> RateLimitedError:
    error = RateLimitedError(f"Key {key.id} may make {what}; wait and try again.")
    error.retry_after_s = retry_after_s
    return error
