"""When maintenance is done: beside the calls that write, within them, or only when asked for.

In the background a thread lives as long as something is due.  It works on captured states, so
calls that write a few rows wait for its commits alone.  Nor does it keep a call waiting that makes
extents itself (a bulk load, `compact`, `tune`): at its next report of progress it gives up what
it was making and lets the call go first; not twice in a row, so that it gets on.  Rows may come
faster than they can be indexed: then each call waits a little for the thread.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from typing import Protocol

from vecstore.clustering import Progress, silent
from vecstore.errors import InvalidArgumentError, StoreClosedError
from vecstore.session import Session
from vecstore.yielding import begin

MODES = ("background", "inline", "off")
FULL_MAX = 2.0
"""How often the row log may hold what it should before calls wait for maintenance ..."""
WAIT_S = 0.25
"""... and how long each of them waits at most."""
NICE = 5
"""How much less than calls the thread asks of the processor."""


class Maintained(Protocol):
    """What is kept in shape: the writer of a collection."""

    def is_due(self) -> bool:
        """Whether there may be something to do."""

    def full_logs(self) -> float:
        """How full the row log is: above 1 it is to be brought into the index."""

    def maintain(self, progress: Progress) -> bool:
        """Do the next thing; False when there is none."""


class _SteppedBackError(Exception):
    """Ends a step that a call, or the end of the process, should not wait for."""


class Maintenance:
    """Maintenance of one open store.

    Parameters
    ----------
    session : Session
    mode : {"background", "inline", "off"}
    """

    def __init__(self, session: Session, mode: str) -> None:
        self._session = session
        self._mode = mode
        self._state = threading.Condition()
        self._due: list[Maintained] = []
        self._thread: threading.Thread | None = None
        self._steps = 0
        self._stopping = False
        self._stepped_back = False

    def after_write(
        self, writer: Maintained, progress: Progress = silent, *, adds: bool = True
    ) -> None:
        """See to a collection that was just written to; no lock may be held.

        Parameters
        ----------
        adds : bool
            The row log has grown: who adds to a full one waits a little, who only ends rows never.
        """
        if self._mode == "off" or not writer.is_due():
            return
        if self._mode == "inline":
            with self._session.build_lock:
                while writer.maintain(progress):
                    pass
            return
        self._schedule(writer)
        if adds and writer.full_logs() > FULL_MAX:
            with self._state:
                steps = self._steps
                self._state.wait_for(
                    lambda: self._steps != steps or self._thread is None, timeout=WAIT_S
                )

    def _schedule(self, writer: Maintained) -> None:
        with self._state:
            if self._stopping:
                return
            if writer not in self._due:
                self._due.append(writer)
            if self._thread is None:
                # not a daemon: what faiss does must not be cut off when the interpreter ends
                self._thread = threading.Thread(target=self._work, name="vecstore-maintenance")
                self._thread.start()

    def _work(self) -> None:
        """Do what is due until nothing is."""
        _be_nice()
        begin(self._session.others_run)
        try:
            while (writer := self._next()) is not None:
                again = self._step(writer)
                with self._state:
                    self._steps += 1
                    if again and writer not in self._due:
                        self._due.append(writer)
                    self._state.notify_all()
        finally:
            with self._state:
                self._thread = None
                self._state.notify_all()

    def _next(self) -> Maintained | None:
        """Next collection to see to; without one, the thread ends."""
        with self._state:
            if self._stopping or not self._due or _is_ending():
                self._thread = None
                return None
            return self._due.pop(0)

    def _step(self, writer: Maintained) -> bool:
        """Do one thing for a collection; tell whether there may be more."""
        lock = self._session.build_lock
        lock.acquire_after_others()
        try:
            with self._session.in_background():
                again = writer.maintain(self._progress_of(writer))
            self._stepped_back = False
            return again
        except _SteppedBackError:
            self._stepped_back = True
            return True
        except StoreClosedError:
            return False
        except RuntimeError:
            if not _is_ending():
                raise
            return False  # no thread is started any more
        finally:
            lock.release()

    def _progress_of(self, writer: Maintained) -> Progress:
        """Step back when somebody waits or rows pile up; closing waits for a flush alone."""
        is_flush = writer.full_logs() > 1

        def progress(stage: str, done: int, total: int) -> None:
            if not self._stepped_back and (
                self._session.build_lock.wanted or (not is_flush and writer.full_logs() > FULL_MAX)
            ):
                raise _SteppedBackError
            if (self._stopping and not is_flush) or _is_ending():
                raise _SteppedBackError

        return progress

    def stop(self) -> None:
        """Begin nothing more, and give up what is being done."""
        with self._state:
            self._stopping = True

    def join(self) -> None:
        """Wait for the thread to end, after `stop`."""
        thread = self._thread
        if thread is not None:
            thread.join()


def check_mode(mode: object) -> str:
    """Check the name of a mode."""
    if not isinstance(mode, str) or mode not in MODES:
        raise InvalidArgumentError(f"maintenance is {mode!r}; use 'background', 'inline' or 'off'.")
    return mode


def _is_ending() -> bool:
    """Whether the interpreter waits for its last threads."""
    return not threading.main_thread().is_alive()


def _be_nice() -> None:
    """Let calls have the processor first, where threads have priorities of their own."""
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
