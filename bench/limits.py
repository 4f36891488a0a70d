"""Memory limits and counts of reads by control group; files put out of the page cache.

Needs root and Linux with cgroups, version 1 or 2. Without them `control_group` says so with a
``BenchError``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.channel import BenchError

_ROOT = Path("/sys/fs/cgroup")
#: Under this rule version 1 counts what passes, and nothing waits.
_READS_PER_S_MAX = 4_000_000_000


@dataclass(frozen=True)
class Reads:
    """Requests sent to the device, and their bytes, since a group was made."""

    count: int
    bytes: int


def parse_io_stat(text: str) -> Reads:
    """Sums over the devices of cgroup v2's ``io.stat``."""
    words = [word.partition("=") for line in text.splitlines() for word in line.split()[1:]]
    sums = {"rios": 0, "rbytes": 0}
    for name, _, value in words:
        if name in sums:
            sums[name] += int(value)
    return Reads(sums["rios"], sums["rbytes"])


def parse_throttle(text: str) -> int:
    """Sum of the lines ``<device> Read <n>`` of a file of cgroup v1's blkio controller."""
    lines = (line.split() for line in text.splitlines())
    return sum(int(words[2]) for words in lines if len(words) == 3 and words[1] == "Read")


def disk_of(path: Path) -> str:
    """Number ``<major>:<minor>`` of the whole disk that holds a file."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    entry = Path("/sys/dev/block") / number
    if (entry / "partition").exists():
        number = (entry.resolve().parent / "dev").read_text("ascii").strip()
    return number


def _read_ahead_file(path: Path) -> Path:
    return Path("/sys/dev/block") / disk_of(path) / "queue" / "read_ahead_kb"


def read_ahead_kb(path: Path) -> int | None:
    """What the kernel reads around a page fault in a plain map of a file on this disk."""
    try:
        return int(_read_ahead_file(path).read_text("ascii"))
    except (OSError, ValueError):
        return None


@contextmanager
def read_ahead(path: Path, kb: int | None) -> Iterator[None]:
    """Let the kernel read so much around a fault, on the disk of a path; None changes nothing.

    Files that are opened within the block follow it. Afterwards all is as before.

    Raises
    ------
    BenchError
        The rights do not allow it.
    """
    before = read_ahead_kb(path)
    if kb is None or kb == before:
        yield
        return
    try:
        _read_ahead_file(path).write_text(str(kb))
    except OSError as error:
        raise BenchError(f"Cannot set the read-ahead of the disk ({error}); be root.") from error
    try:
        yield
    finally:
        _read_ahead_file(path).write_text(str(before))


class Group:
    """A control group with a memory limit, or one of each controller under version 1.

    Attributes
    ----------
    folders : tuple of Path
        Into whose ``cgroup.procs`` a process writes itself.
    """

    def __init__(self, name: str, limit_bytes: int, place: Path, root: Path = _ROOT) -> None:
        self._v2 = (root / "cgroup.controllers").exists()
        self._limit_bytes = limit_bytes
        self.folders: tuple[Path, ...] = ()
        try:
            self._make(name, place, root)
        except OSError:
            self.remove()
            raise

    def _make(self, name: str, place: Path, root: Path) -> None:
        if self._v2:
            with suppress(OSError):  # already so, or what misses will tell
                (root / "cgroup.subtree_control").write_text("+memory +io")
        for parent in (root,) if self._v2 else (root / "memory", root / "blkio"):
            (parent / name).mkdir()
            self.folders += (parent / name,)
        limit = str(self._limit_bytes)
        if self._v2:
            (self.folders[0] / "memory.max").write_text(limit)
            with suppress(OSError):  # the file is there only with swap
                (self.folders[0] / "memory.swap.max").write_text("0")
            return
        memory, blkio = self.folders
        (memory / "memory.limit_in_bytes").write_text(limit)
        with suppress(OSError):
            (memory / "memory.memsw.limit_in_bytes").write_text(limit)
        rule = f"{disk_of(place)} {_READS_PER_S_MAX}"
        (blkio / "blkio.throttle.read_iops_device").write_text(rule)

    def reads(self) -> Reads:
        """What processes of the group have read from disks so far."""
        if self._v2:
            return parse_io_stat((self.folders[0] / "io.stat").read_text("ascii"))
        texts = [
            (self.folders[1] / f"blkio.throttle.{name}").read_text("ascii")
            for name in ("io_serviced", "io_service_bytes")
        ]
        return Reads(*map(parse_throttle, texts))

    def empty_cache(self) -> None:
        """Take from the group all pages that can be read again, mapped ones too."""
        with suppress(OSError):  # what it says when some pages had to stay
            if self._v2:
                (self.folders[0] / "memory.reclaim").write_text(str(self._limit_bytes))
            else:
                (self.folders[0] / "memory.force_empty").write_text("0")

    def remove(self) -> None:
        """Remove the group, which no process may be in any more."""
        for folder in self.folders:
            folder.rmdir()
        self.folders = ()


@contextmanager
def control_group(name: str, limit_bytes: int | None, place: Path) -> Iterator[Group | None]:
    """A group that lives as long as the block; None without a limit.

    Parameters
    ----------
    name : str
        Name of the group, unique among running benchmarks.
    limit_bytes : int or None
        Limit on anonymous memory and page cache together.
    place : Path
        A file or folder on the disk whose reads are counted.

    Raises
    ------
    BenchError
        The kernel or the rights do not allow it.
    """
    if limit_bytes is None:
        yield None
        return
    try:
        group = Group(name, limit_bytes, place)
    except OSError as error:
        raise BenchError(
            f"Cannot make a control group of {limit_bytes} bytes ({error}); cold measurements need "
            "root, and Linux with the controllers for memory and block devices."
        ) from error
    try:
        yield group
    finally:
        group.remove()


def drop_cache(folder: Path) -> None:
    """Ask the kernel to forget all cached pages of the files below ``folder``.

    Pages that a living process has mapped stay, so call this before the index is opened.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
