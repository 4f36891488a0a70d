"""The LMDB environment of a store: opening, locking, transactions, and what can go wrong.

Invariants
----------
* One environment per store and process, shared by all who open the store there: LMDB's locks
  are lost when a process opens the same file twice.
* At most one writer on a machine: an flock'ed file of our own, since a second LMDB writer
  would wait without end.
* Never used after a fork: the child's store objects are marked and refuse.
* Full durability: every write transaction is synced before `write` returns.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import lmdb

from vecstore import layout
from vecstore.config import MAP_BYTES, MAP_BYTES_MIN, READERS_MAX
from vecstore.errors import (
    CorruptionError,
    DiskFullError,
    ForkedStoreError,
    FormatVersionError,
    InvalidArgumentError,
    NotAStoreError,
    ReadOnlyError,
    StoreClosedError,
    StoreNotFoundError,
    VecstoreError,
    WriterLockedError,
)

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SPARE_TRANSACTIONS = 64


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn failures of LMDB and of the file system into typed errors that name `path`."""
    try:
        yield
    except lmdb.MapFullError as error:
        raise DiskFullError(
            f"The facts of {path} have outgrown their address range; reopen the store on a "
            f"system that grants a larger one (ulimit -v)."
        ) from error
    except (
        lmdb.CorruptedError,
        lmdb.PageNotFoundError,
        lmdb.InvalidError,
        lmdb.VersionMismatchError,
        lmdb.PanicError,
    ) as error:
        raise CorruptionError(
            f"The facts of {path} are damaged ({error}); restore a backup."
        ) from error
    except lmdb.ReadersFullError as error:
        raise VecstoreError(
            f"{path} has {READERS_MAX} readers already; close some processes or threads."
        ) from error
    except lmdb.Error as error:
        if isinstance(error, lmdb.DiskError) or "No space left" in str(error):
            raise DiskFullError(f"No room to write to {path}: {error}.") from error
        raise VecstoreError(f"LMDB failed on {path}: {error}.") from error
    except PermissionError as error:
        if isinstance(error, VecstoreError):
            raise
        raise NotAStoreError(
            f"{path} cannot be opened as a store ({error.strerror}: {error.filename}); "
            f"run as its owner, or change its mode."
        ) from error
    except OSError as error:
        if isinstance(error, VecstoreError) or error.errno not in _FULL:
            raise
        raise DiskFullError(
            f"No room to write to {path} ({os.strerror(error.errno or 0)}); free some space "
            f"and repeat the call: nothing of it was stored."
        ) from error


def sync_folder(path: Path) -> None:
    """Make renames, creations and removals in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_marker(path: Path) -> None:
    """Refuse what is not a store, or one of another format."""
    if not path.exists():
        raise StoreNotFoundError(
            f"There is no store at {path}; open it with mode='w' to create one."
        )
    marker = path / layout.MARKER_NAME
    if not path.is_dir() or not marker.is_file():
        raise NotAStoreError(f"{path} is not a vecstore; give the path of a store's directory.")
    raw = marker.read_bytes()
    if len(raw) != layout.MARKER.size or not raw.startswith(layout.MAGIC):
        raise NotAStoreError(f"{path} is not a vecstore: its marker file is damaged or foreign.")
    version = layout.MARKER.unpack(raw)[1]
    if version != layout.FORMAT_VERSION:
        raise FormatVersionError(
            f"{path} has format version {version}; this vecstore reads version "
            f"{layout.FORMAT_VERSION}. Install the vecstore that wrote it."
        )


def _create(path: Path) -> None:
    """Lay out an empty store; the marker comes last, so that half a store is none."""
    if path.exists() and (not path.is_dir() or any(_foreign(path))):
        _read_marker(path)
        return
    (path / layout.EXTENTS_NAME).mkdir(parents=True, exist_ok=True)
    (path / layout.FACTS_NAME).mkdir(exist_ok=True)
    if not (path / layout.MARKER_NAME).exists():
        part = path / f"{layout.MARKER_NAME}.part"
        with open(part, "wb") as file:
            file.write(layout.MARKER.pack(layout.MAGIC, layout.FORMAT_VERSION))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path / layout.MARKER_NAME)
        sync_folder(path)
        sync_folder(path.absolute().parent)


def _foreign(path: Path) -> Iterator[Path]:
    """Entries of a folder that an interrupted creation cannot have left."""
    ours = {layout.EXTENTS_NAME, layout.FACTS_NAME, f"{layout.MARKER_NAME}.part", layout.LOCK_NAME}
    return (entry for entry in path.iterdir() if entry.name not in ours)


class Environment:
    """The facts of one store, shared by every store object of this process that opened it."""

    _shared: ClassVar[weakref.WeakValueDictionary[tuple[int, int], Environment]] = (
        weakref.WeakValueDictionary()
    )
    _shared_lock = threading.Lock()

    def __init__(self, path: Path) -> None:
        self.path = path
        self.extents = path / layout.EXTENTS_NAME
        self.forked = False
        self.refuses_writes = ""
        self._users = 0
        self._lock_descriptor: int | None = None
        self._env = self._open_lmdb()
        self._env.reader_check()

    def _open_lmdb(self) -> lmdb.Environment:
        folder = self.path / layout.FACTS_NAME
        writable = os.access(folder, os.W_OK)
        size = MAP_BYTES
        with disk_errors(self.path):
            while True:
                try:
                    return lmdb.open(
                        str(folder),
                        map_size=size,
                        max_readers=READERS_MAX,
                        max_spare_txns=_SPARE_TRANSACTIONS,
                        readonly=not writable,
                        create=writable,
                        lock=writable,
                        lib_version=0,
                        readahead=False,
                    )
                except (lmdb.MemoryError, lmdb.Error) as error:
                    # A process limit on addresses refuses the full range; take what it grants.
                    refused = isinstance(error, lmdb.MemoryError) or "allocate" in str(error)
                    if not refused or size <= MAP_BYTES_MIN:
                        raise
                    size //= 4

    @classmethod
    def open(cls, path: Path, mode: str) -> Environment:
        """Open (mode "w": create if absent) the store at `path`, or share it if open here."""
        if mode not in ("r", "w"):
            raise InvalidArgumentError(f"mode is {mode!r}; use 'r' or 'w'.")
        with cls._shared_lock:
            with disk_errors(path):
                if mode == "w":
                    _create(path)
                _read_marker(path)
            lock = cls._lock_writer(path) if mode == "w" else None
            try:
                stat = os.stat(path)
                identity = (stat.st_dev, stat.st_ino)
                shared = cls._shared.get(identity)
                if shared is None or shared.forked:
                    shared = cls(path)
                    cls._shared[identity] = shared
            except BaseException:
                if lock is not None:
                    os.close(lock)
                raise
            shared._users += 1
            if lock is not None:
                shared._lock_descriptor = lock
                shared.refuses_writes = ""
            return shared

    @staticmethod
    def _lock_writer(path: Path) -> int:
        try:
            descriptor = os.open(path / layout.LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        except PermissionError as error:
            raise ReadOnlyError(f"{path} cannot be written; open it with mode='r'.") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise WriterLockedError(
                f"Another writer has {path} open; close it, or open with mode='r'."
            ) from error
        return descriptor

    def release(self, writer: bool) -> None:
        """Give the environment back; the last user closes it."""
        with self._shared_lock:
            if writer and self._lock_descriptor is not None:
                os.close(self._lock_descriptor)
                self._lock_descriptor = None
            self._users -= 1
            if self._users == 0 and not self.forked:
                self._env.close()
                for identity, shared in list(self._shared.items()):
                    if shared is self:
                        del self._shared[identity]

    def refuse_fork(self) -> None:
        """Raise when this process inherited the store from its parent."""
        if self.forked:
            raise ForkedStoreError(
                f"The store {self.path} was opened before this process was forked; "
                f"open it again in the child."
            )

    def read(self) -> lmdb.Transaction:
        """Begin a read transaction (buffers, not bytes); the caller aborts it."""
        try:
            return self._env.begin(buffers=True)
        except lmdb.Error as error:
            self.refuse_fork()
            with disk_errors(self.path):
                if self._users == 0:
                    raise StoreClosedError(f"The store {self.path} is closed.") from error
                raise
            raise AssertionError("disk_errors re-raises") from error

    @contextmanager
    def write(self) -> Iterator[lmdb.Transaction]:
        """Run a write transaction: committed and synced at the end, undone on any error."""
        self.refuse_fork()
        if self.refuses_writes:
            raise VecstoreError(
                f"{self.path} refuses writes since a commit failed ({self.refuses_writes}); "
                f"close and reopen the store."
            )
        with disk_errors(self.path):
            transaction = self._env.begin(write=True)
            try:
                yield transaction
            except BaseException:
                transaction.abort()
                raise
            try:
                transaction.commit()
            except lmdb.Error as error:
                self.refuses_writes = str(error)
                raise

    def oldest_reader(self) -> int | None:
        """Oldest transaction number that a reader anywhere still uses, if any."""
        self._env.reader_check()
        oldest: int | None = None
        for line in self._env.readers().splitlines()[1:]:
            number = line.split()[-1]
            if number.isdigit():
                oldest = int(number) if oldest is None else min(oldest, int(number))
        return oldest

    def facts_bytes(self) -> int:
        """Bytes of the LMDB files."""
        folder = self.path / layout.FACTS_NAME
        return sum(entry.stat().st_size for entry in folder.iterdir())


def _mark_forked() -> None:
    for shared in list(Environment._shared.values()):
        shared.forked = True


os.register_at_fork(after_in_child=_mark_forked)
