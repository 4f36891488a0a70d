"""What a disk may hold after the power went: images made from the trace of a process.

Until a file is synced, each of its sectors is as some unsynced write left it, or as none did; until
a folder is synced, each creation, renaming and removal in it may have happened or not.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

OPEN, CLOSE, WRITE, SYNC, SYNC_RANGE, TRUNCATE, RENAME, UNLINK, MKDIR, MARK = range(1, 11)
HEAD = struct.Struct("<IIQII")
SECTOR = 512
POLICIES = ["lost", "kept", *["first ones", "torn", "some", "sectors"] * 2]


@dataclass
class Record:
    """One thing that a process did to the files."""

    op: int
    handle: int
    place: int
    path: str
    data: bytes


def read(path: Path) -> Iterator[Record]:
    """Read a trace."""
    raw = path.read_bytes() if path.exists() else b""
    at = 0
    while at < len(raw):
        op, handle, place, first, second = HEAD.unpack_from(raw, at)
        at += HEAD.size
        name = raw[at : at + first].decode()
        yield Record(op, handle, place, name, raw[at + first : at + first + second])
        at += first + second


@dataclass
class Inode:
    """A file: what is durable, and what was done to it since.

    Attributes
    ----------
    durable : bytearray
    later : list
        (place, bytes) of a write, or (size, None) of a truncation.
    at_least : dict
        How many of `later` a sector shows at least, where a range was synced.
    """

    folder: bool = False
    durable: bytearray = field(default_factory=bytearray)
    later: list[tuple[int, bytes | None]] = field(default_factory=list)
    at_least: dict[int, int] = field(default_factory=dict)

    def sync(self) -> None:
        """Make all of it durable."""
        self.durable = self.show(lambda sector: len(self.later))
        self.later.clear()
        self.at_least.clear()

    def sync_range(self, place: int, length: int) -> None:
        """Make some sectors durable."""
        for sector in range(place // SECTOR, -(-(place + length) // SECTOR)):
            self.at_least[sector] = len(self.later)

    def show(self, version: Callable[[int], int]) -> bytearray:
        """The file when each sector shows so many of the later changes."""
        data = bytearray(self.durable)
        for count, (place, written) in enumerate(self.later, 1):
            if written is None:
                if version(0) >= count:
                    del data[place:]
                    data.extend(bytes(place - len(data)))
                continue
            end = place + len(written)
            for sector in range(place // SECTOR, -(-end // SECTOR)):
                if max(version(sector), self.at_least.get(sector, 0)) < count:
                    continue
                start, stop = max(place, sector * SECTOR), min(end, (sector + 1) * SECTOR)
                if len(data) < stop:
                    data.extend(bytes(stop - len(data)))
                data[start:stop] = written[start - place : stop - place]
        return data

    def image(self, policy: str, rng: random.Random) -> bytearray:
        """The file as it may be found."""
        n = len(self.later)
        if policy == "lost" or not n:
            return self.show(lambda sector: 0)
        if policy == "kept":
            return self.show(lambda sector: n)
        if policy in ("first ones", "torn"):
            count = rng.randint(0, n)
            if policy == "first ones" or count == n or self.later[count][1] is None:
                return self.show(lambda sector: count)
            place, written = self.later[count]
            first = place // SECTOR
            last = first + rng.randint(0, len(written or b"") // SECTOR)
            return self.show(lambda sector: count + (first <= sector < last))
        if policy == "some":
            kept = [count for count in range(1, n + 1) if rng.random() < 0.5]
            newest: dict[int, int] = {}
            for count in kept:
                place, written = self.later[count - 1]
                for sector in range(place // SECTOR, -(-(place + len(written or b"")) // SECTOR)):
                    newest[sector] = count
            return self.show(lambda sector: newest.get(sector, 0))
        shown: dict[int, int] = {}
        return self.show(lambda sector: shown.setdefault(sector, rng.randint(0, n)))


class Disk:
    """Follows a trace and makes images of what may be on the disk."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.durable: dict[str, Inode] = {self.root: Inode(folder=True)}
        self.names = dict(self.durable)
        self.handles: dict[int, Inode] = {}
        self.later: list[tuple[str, str, str, Inode | None]] = []
        self.paths: dict[int, str] = {}

    def new_life(self) -> None:
        """A process ended, and another one began."""
        self.handles.clear()
        self.paths.clear()

    def follow(self, record: Record) -> None:
        """Do what the process did."""
        if record.op == OPEN:
            self._open(record)
        elif record.op == WRITE:
            self.handles[record.handle].later.append((record.place, record.data))
        elif record.op == TRUNCATE:
            self.handles[record.handle].later.append((record.place, None))
        elif record.op == SYNC:
            inode = self.handles[record.handle]
            if inode.folder:
                self._sync_folder(self.paths[record.handle])
            else:
                inode.sync()
        elif record.op == SYNC_RANGE:
            (length,) = struct.unpack("<I", record.data)
            self.handles[record.handle].sync_range(record.place, length)
        elif record.op == RENAME:
            to = record.data.decode()
            inode = self.names.pop(record.path)
            self.names[to] = inode
            self.later.append(("rename", record.path, to, inode))
        elif record.op == UNLINK:
            del self.names[record.path]
            self.later.append(("unlink", record.path, "", None))
        elif record.op == MKDIR:
            self._add(record.path, Inode(folder=True))

    def _add(self, path: str, inode: Inode) -> None:
        self.names[path] = inode
        self.later.append(("add", path, "", inode))

    def _open(self, record: Record) -> None:
        inode = self.names.get(record.path)
        if inode is None:
            inode = Inode()
            self._add(record.path, inode)
        elif record.place & os.O_TRUNC:
            inode.later.append((0, None))
        self.handles[record.handle] = inode
        self.paths[record.handle] = record.path

    def _sync_folder(self, folder: str) -> None:
        kept = []
        for change in self.later:
            if os.path.dirname(change[1]) == folder:
                self._change(self.durable, change)
            else:
                kept.append(change)
        self.later = kept

    @staticmethod
    def _change(names: dict[str, Inode], change: tuple[str, str, str, Inode | None]) -> None:
        verb, path, to, inode = change
        if verb == "unlink":
            names.pop(path, None)
        elif verb == "rename":
            names.pop(path, None)
            names[to] = inode  # type: ignore[assignment]
        else:
            names[path] = inode  # type: ignore[assignment]

    @property
    def unsynced(self) -> int:
        """Changes that may be lost."""
        return len(self.later) + sum(len(inode.later) for inode in self.names.values())

    def image(self, policy: str, rng: random.Random) -> dict[str, bytes | None]:
        """Files by path, None for folders."""
        names = dict(self.durable)
        for change in self.later:
            if policy == "kept" or (policy != "lost" and rng.random() < 0.5):
                self._change(names, change)
        return {
            path[len(self.root) :]: None if inode.folder else bytes(inode.image(policy, rng))
            for path, inode in sorted(names.items())
            if self._has_folders(path, names)
        }

    def _has_folders(self, path: str, names: dict[str, Inode]) -> bool:
        if path == self.root:
            return True
        above = os.path.dirname(path)
        return above in names and self._has_folders(above, names)


def lay_out(image: dict[str, bytes | None], folder: Path) -> None:
    """Write an image out."""
    for name, data in image.items():
        path = Path(f"{folder}{name}")
        if data is None:
            path.mkdir(exist_ok=True)
        else:
            path.write_bytes(data)
