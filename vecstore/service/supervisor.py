"""Processes of a service: one that writes, some that read, and this one, which starts them again.

All are forked from here, after everything was imported and before any store is open, so a killed
process is back within a fraction of a second. Readers accept from one socket; what writes they
pass on to the writer, over a socket in a folder that only this user may enter. Without readers one
process does both, and is started again like any other. When this process ends, however it does, the
others notice and end as well.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import vecstore
from vecstore.errors import InvalidArgumentError
from vecstore.service.keys import KeyRing
from vecstore.service.limits import Limits
from vecstore.service.logs import log, log_failure
from vecstore.service.metrics import PROCESSES_MAX, Metrics
from vecstore.service.options import Options
from vecstore.service.run import Part, Process, Shared
from vecstore.service.sockets import listen, listen_at, url_of
from vecstore.service.transfer import remove_copies

_LOOK_S: Final = 0.02
_PAUSE_MAX_S: Final = 1.0
_STEADY_S: Final = 5.0
_GRACE_S: Final = 5.0
_SAY_S: Final = 0.5
_DESCRIPTORS_KEPT: Final = 256
"""For the store, its streams, and calls that are passed on."""


def serve(options: Options, say: Callable[[str], Any] = lambda url: None) -> None:
    """Serve a store until SIGTERM or SIGINT.

    Parameters
    ----------
    options : Options
    say : callable
        Called with the URL once connections are accepted.

    Raises
    ------
    InvalidArgumentError
        Others could reach the service without a key, or the address is taken.
    WriterLockedError, NotAStoreError, FormatVersionError
    """
    options.refuse_exposure()
    if options.workers >= PROCESSES_MAX:
        raise InvalidArgumentError(
            f"workers is {options.workers}; use at most {PROCESSES_MAX - 1}."
        )
    if options.backups is not None and not options.backups.is_dir():
        raise InvalidArgumentError(f"{options.backups} is no folder; make it for backups.")
    options = _within_descriptors(options)
    with vecstore.open(options.path, "w"):  # whatever is wrong is told here and now
        remove_copies(options)
    listening = listen(options)
    shared = Shared(Metrics(), Limits(), KeyRing(options.keys).needed)
    try:
        supervisor = _Supervisor(options, shared, listening)
        say(url_of(listening))
        log("listening", url=url_of(listening), store=f"{options.path}", workers=options.workers)
        supervisor.run()
    finally:
        listening.close()
        if options.socket is not None:
            options.socket.unlink(missing_ok=True)


@dataclass
class _Child:
    """A process, or the place of one that is to be started."""

    part: Part
    number: int
    pid: int = 0
    started_at: float = 0.0
    pause_s: float = 0.0
    start_at: float = 0.0


class _Supervisor:
    def __init__(self, options: Options, shared: Shared, listening: socket.socket) -> None:
        self._options = options
        self._shared = shared
        self._listening = listening
        self._folder = Path(tempfile.mkdtemp(prefix="vecstore-"))  # mode 0700
        self._to_writer = listen_at(self._folder / "writer")
        self._end, self._other_end = socket.socketpair()
        self._keys = KeyRing(options.keys, shared.needs_keys)
        self._stopping = False
        readers = [_Child(Part.READER, 1 + place) for place in range(options.workers)]
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self._children = [_Child(Part.WRITER if readers else Part.ALONE, 0), *readers]

    def run(self) -> None:
        """Start all processes, and again those that end, until told to stop."""
        try:
            while not self._stopping:
                self._look()
                time.sleep(_LOOK_S)
            # What was acknowledged is done; what readers passed on is finished first.
            for part in (Part.READER, Part.WRITER, Part.ALONE):
                self._end_all(part)
        finally:
            for child in self._children:
                if child.pid:
                    os.kill(child.pid, signal.SIGKILL)
                    os.waitpid(child.pid, 0)
            self._to_writer.close()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _stop(self, number: int, frame: object) -> None:
        self._stopping = True

    def _look(self) -> None:
        now = time.monotonic()
        self._keys.refresh()
        self._shared.needs_keys = self._keys.needed  # for those that are started from now on
        for child in self._children:
            if child.pid:
                pid, status = os.waitpid(child.pid, os.WNOHANG)
                if not pid:
                    continue
                log("process ended", part=child.part.value, ended=child.pid, status=status)
                self._shared.limits.ended(child.number)
                child.pid = 0
                steady = now - child.started_at > _STEADY_S
                child.pause_s = 0.0 if steady else min(_PAUSE_MAX_S, 2 * child.pause_s + 0.01)
                child.start_at = now + child.pause_s
            if now >= child.start_at:
                self._start(child)

    def _start(self, child: _Child) -> None:
        child.started_at = time.monotonic()
        child.pid = os.fork()
        if child.pid:
            return
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            self._end.close()
            self._run_child(child)
            status = 0
        except BaseException as error:  # noqa: BLE001 - a child never returns into its parent's code
            log_failure("process failed", error, part=child.part.value)
        finally:
            sys.stdout.flush()
            os._exit(status)

    def _run_child(self, child: _Child) -> None:
        writer = f"{self._folder / 'writer'}"
        process = Process(self._options, child.part, child.number, self._shared, writer)
        writes = child.part is Part.WRITER
        process.run(self._to_writer if writes else self._listening, self._other_end)

    def _end_all(self, part: Part) -> None:
        """Let processes finish what they have, up to the time that they are given."""
        running = [child for child in self._children if child.part is part and child.pid]
        until = time.monotonic() + self._options.shutdown_timeout_s + _GRACE_S
        say_at = 0.0
        while running and (now := time.monotonic()) < until:
            if now >= say_at:  # again and again: one that was just forked does not listen at once
                say_at = now + _SAY_S
                for child in running:
                    os.kill(child.pid, signal.SIGTERM)
            time.sleep(_LOOK_S)
            for child in list(running):
                if os.waitpid(child.pid, os.WNOHANG)[0]:
                    child.pid = 0
                    running.remove(child)


def _within_descriptors(options: Options) -> Options:
    """Have as many open files as the system allows, and no more connections than leave some."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        wanted = hard if hard != resource.RLIM_INFINITY else max(soft, 65_536)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    if soft == resource.RLIM_INFINITY:
        return options
    most = max(1, soft - min(_DESCRIPTORS_KEPT, soft // 2))
    return replace(options, connections_max=min(options.connections_max, most))
