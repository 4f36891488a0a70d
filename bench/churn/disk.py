"""What a store takes on disk, by kind of file, and at most while it is written to.

A process of its own looks every few milliseconds.  Files that are being written count with what
they have; so do files that were removed and are still mapped by the processes it watches, since
their space is not free yet.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import time
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

import numpy as np

from vecstore.layout import HEADER_DTYPE, ExtentKind

EVERY_S = 0.01
UNFINISHED = "being written"
FACTS = "facts"
GONE = ("removed, mapped by the writer", "removed, mapped by a reader")
"""Files that have no name any more: those that the writer maps, those that only readers do."""
Sizes = dict[str, int]
_MAPPED = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) \S+ (\d+) +(.*) \(deleted\)$")


class Looker:
    """Looks at the files of one store again and again.

    Parameters
    ----------
    pids : list of int
        Processes that have the store open, the writer first.
    """

    def __init__(self, folder: Path, pids: list[int]) -> None:
        self._folder = folder
        self._pids = pids
        self._kinds: dict[str, str] = {}

    def look(self) -> Sizes:
        """Bytes allocated, by kind of file."""
        found: Sizes = {}
        for path, size in _files(self._folder):
            kind = self._kind(path)
            found[kind] = found.get(kind, 0) + size
        return found | _gone(self._pids, str(self._folder))

    def _kind(self, path: str) -> str:
        if not path.endswith(".ext"):
            return FACTS
        known = self._kinds.get(path)
        if known is None:
            try:
                with open(path, "rb") as file:
                    raw = file.read(HEADER_DTYPE.itemsize)
            except OSError:
                return UNFINISHED
            number = int(np.frombuffer(raw, HEADER_DTYPE)[0]["kind"]) if len(raw) else 0
            if not number:  # the header comes last
                return UNFINISHED
            known = self._kinds[path] = ExtentKind(number).name.lower()
        return known


def _files(folder: Path) -> list[tuple[str, int]]:
    """Paths and allocated bytes of all files below a folder that stay there long enough."""
    found = []
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            try:
                found.append((path, os.stat(path).st_blocks * 512))
            except FileNotFoundError:
                continue
    return found


def _gone(pids: list[int], folder: str) -> Sizes:
    """Bytes of files that processes, the writer first, map and nobody can open any more."""
    found: Sizes = {}
    seen: set[str] = set()
    for place, pid in enumerate(pids):
        ends: dict[str, int] = {}
        try:
            lines = Path(f"/proc/{pid}/maps").read_text("utf-8", "replace").splitlines()
        except OSError:
            continue
        for line in lines:
            match = _MAPPED.match(line) if folder in line else None
            if match:
                low, high, offset = (int(match[i], 16) for i in (1, 2, 3))
                ends[match[4]] = max(ends.get(match[4], 0), offset + high - low)
        size = sum(end for inode, end in ends.items() if inode not in seen)
        seen |= set(ends)
        if size:
            kind = GONE[min(place, 1)]
            found[kind] = found.get(kind, 0) + size
    return found


def sizes(folder: Path) -> Sizes:
    """Bytes of a store now, by kind of file."""
    return Looker(folder, []).look()


class Watch:
    """Watches a store from another process; a context manager."""

    def __init__(self, folder: Path, pids: list[int]) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_watch, args=(theirs, str(folder), pids), daemon=True
        )
        self._process.start()
        theirs.close()

    def peak(self) -> Sizes:
        """Sizes at the moment since the last call when they were largest in all."""
        self._connection.send("peak")
        found: Sizes = self._connection.recv()
        return found

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()
        self._process.join()


def _watch(connection: Connection, folder: str, pids: list[int]) -> None:
    looker = Looker(Path(folder), pids)
    most: Sizes = {}
    try:
        while True:
            now = looker.look()
            if sum(now.values()) > sum(most.values()):
                most = now
            if connection.poll():
                connection.recv()
                connection.send(most)
                most = {}
            time.sleep(EVERY_S)
    except (EOFError, OSError):  # the other end is closed
        return
