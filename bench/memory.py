"""Memory and input/output of a process, read from /proc (Linux only).

Anonymous memory (``RssAnon``) is what a library costs; file-backed pages (``RssFile``) can be
dropped by the kernel at any time and are therefore kept apart.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FIELDS = {"RssAnon": "anon", "RssFile": "file", "VmRSS": "rss", "VmHWM": "peak_rss"}


@dataclass(frozen=True)
class Memory:
    """One reading of a process, in bytes."""

    anon_bytes: int
    file_bytes: int
    rss_bytes: int
    peak_rss_bytes: int


def read_memory(pid: int | str = "self") -> Memory:
    """Read a process's memory.

    Parameters
    ----------
    pid : int or str
        Process number, or ``"self"``.

    Raises
    ------
    OSError
        The process is gone.
    """
    found = dict.fromkeys(_FIELDS.values(), 0)
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
        for line in status:
            name, _, value = line.partition(":")
            if name in _FIELDS:
                found[_FIELDS[name]] = int(value.split()[0]) * 1024
    return Memory(found["anon"], found["file"], found["rss"], found["peak_rss"])


def read_anonymous(pid: int | str = "self") -> int:
    """Anonymous bytes of a process, counted page by page (``RssAnon`` is kept per thread)."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii", errors="replace") as rollup:
        for line in rollup:
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) * 1024
    return 0


def read_storage_bytes() -> int:
    """Bytes that this process made the kernel fetch from storage so far (0 where not told)."""
    try:
        for line in Path("/proc/self/io").read_text("ascii").splitlines():
            if line.startswith("read_bytes:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def _family(pid: int) -> Iterator[int]:
    """The process and all its descendants."""
    yield pid
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            children = Path(f"/proc/{pid}/task/{task}/children").read_text("ascii")
            for child in children.split():
                yield from _family(int(child))
    except OSError:
        return


class PeakSampler:
    """Highest anonymous memory of another process and its descendants, sampled from outside.

    Outside, because a library that keeps the GIL would starve a sampling thread of its own.
    """

    def __init__(self, pid: int, interval_s: float = 0.02) -> None:
        self._pid = pid
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.peak_anon_bytes = 0
        self.samples = 0

    def _run(self) -> None:
        while not self._stop.is_set():
            total = 0
            for pid in _family(self._pid):
                try:
                    total += read_memory(pid).anon_bytes
                except (OSError, ValueError, IndexError):
                    continue
            self.peak_anon_bytes = max(self.peak_anon_bytes, total)
            self.samples += 1
            time.sleep(self._interval_s)

    def __enter__(self) -> PeakSampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
