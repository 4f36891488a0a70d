"""The LMDB environment of a store: opening, locking, transactions, and what can go wrong.

Invariants
----------
* One environment per store and process, shared by all who open the store there: LMDB's locks
  are lost when a process opens the same file twice.
* At most one writer on a machine: an flock'ed file of our own, since a second LMDB writer
  would wait without end.
* Never used after a fork: the child's store objects are marked and refuse.
* Full durability: every write transaction is synced before `write` returns, and so is what a batch
  had open before it; only calls that go through `write_soon` wait for each other's commit.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import lmdb

from vecstore import layout
from vecstore.batching import Batch
from vecstore.config import MAP_BYTES, MAP_BYTES_MIN, READERS_MAX
from vecstore.creation import create, make_folder, read_marker, sync_folder
from vecstore.disk_errors import disk_errors, explain, lacks_room
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
from vecstore.transaction import Transaction
from vecstore.walk import walk_facts

_LOOK_S = 0.005
_SAY_ENOUGH = (
    DiskFullError,
    FormatVersionError,
    NotAStoreError,
    ReadOnlyError,
    StoreNotFoundError,
    WriterLockedError,
)


class Environment:
    """The facts of one store, shared by every store object of this process that opened it."""

    _shared: ClassVar[weakref.WeakValueDictionary[tuple[int, int], Environment]] = (
        weakref.WeakValueDictionary()
    )
    _shared_lock = threading.Lock()
    _was_forked: ClassVar[bool] = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.extents = path / layout.EXTENTS_NAME
        self.forked = False
        self.refuses_writes = ""
        self._users = 0
        self._lock_descriptor: int | None = None
        self._unlock: Callable[[], Any] = lambda: None
        self._batch: Batch | None = None
        self._past_calls = self._past_losses = 0
        self._refuse_lost_parts()
        self._env: Any = self._open_lmdb()
        self._env.reader_check()
        self._refuse_cut_facts()

    def _refuse_lost_parts(self) -> None:
        for part in (self.path / layout.FACTS_NAME / layout.FACTS_FILE, self.extents):
            if not part.exists() or (part.is_file() and part.stat().st_size == 0):
                raise CorruptionError(
                    f"The store {self.path} has lost its {part.relative_to(self.path)}; "
                    f"restore a backup of its facts and extents."
                )

    def _refuse_cut_facts(self) -> None:
        """Notice a facts file that was cut short, before a page beyond its end is touched.

        LMDB need not write the last pages it allocated, so a short file alone proves nothing:
        another process walks all pages, and may die of it.
        """
        size = (self.path / layout.FACTS_NAME / layout.FACTS_FILE).stat().st_size
        expected = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
        if size >= expected:
            return
        if self.walk_facts():
            self._env.close()
            raise CorruptionError(
                f"The facts of {self.path} are cut short ({size} bytes of {expected}); "
                f"restore a backup."
            )

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
                        max_spare_txns=0,  # a forked child would free the parent's slots
                        readonly=not writable,
                        create=writable,
                        lock=writable,
                        lib_version=0,
                        readahead=False,
                    )
                except (lmdb.MemoryError, lmdb.Error) as error:
                    # A process limit on addresses refuses the full range; take what it grants.
                    if Environment._was_forked and "already open in this process" in str(error):
                        raise ForkedStoreError(
                            f"When this process was forked, another thread was using the store "
                            f"{self.path}, which therefore cannot be opened here; fork at another "
                            f"time, or start a process anew (spawn)."
                        ) from error
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
            lock: int | None = None
            try:
                try:
                    with disk_errors(path):
                        if mode == "w":
                            make_folder(path)
                            lock = cls._lock_writer(path)
                            create(path)
                        read_marker(path)
                except _SAY_ENOUGH:
                    raise
                except (OSError, VecstoreError, ValueError) as error:
                    raise NotAStoreError(
                        f"{path} cannot be opened as a store ({error}); give the path of a "
                        f"directory that this user may read."
                    ) from error
                with disk_errors(path):
                    stat = os.stat(path)
                    identity = (stat.st_dev, stat.st_ino)
                    shared = cls._shared.get(identity)
                    if shared is None or shared.forked:
                        shared = cls(path)
                        cls._shared[identity] = shared
                    if lock is not None:
                        shared._notice_commit()
            except BaseException:
                if lock is not None:
                    os.close(lock)
                raise
            shared._users += 1
            if lock is not None:
                shared._lock_descriptor = lock
                shared._unlock = weakref.finalize(shared, _unlock, lock)
                shared.refuses_writes = ""
            return shared

    def _notice_commit(self) -> None:
        """See a commit whose process was killed before LMDB's table of readers told of it."""
        self._env.begin(write=True).abort()

    @staticmethod
    def _lock_writer(path: Path) -> int:
        try:
            descriptor = os.open(path / layout.LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        except PermissionError as error:
            raise ReadOnlyError(f"{path} cannot be written; open it with mode='r'.") from error
        for last in (False, False, True):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            except OSError as error:
                if last:
                    os.close(descriptor)
                    raise WriterLockedError(
                        f"Another writer has {path} open; close it, or open with mode='r'."
                    ) from error
                time.sleep(_LOOK_S)  # `has_writer` of another process may hold it for a moment
        raise AssertionError("the last try returns or raises")

    def has_writer(self) -> bool:
        """Tell whether some process has the store open for writing."""
        if self._lock_descriptor is not None:
            return True
        try:
            os.close(self._lock_writer(self.path))
        except (WriterLockedError, ReadOnlyError):
            return True
        return False

    def release(self, writer: bool) -> None:
        """Give the environment back; the last user closes it."""
        with self._shared_lock:
            try:
                if writer and self._batch is not None and not self.forked:
                    self._end_batches(self._batch)
            finally:
                if writer and self._lock_descriptor is not None:
                    self._unlock()
                    self._lock_descriptor = None
                self._users -= 1
                if self._users == 0 and not self.forked:
                    self._env.close()
                    for identity, shared in list(self._shared.items()):
                        if shared is self:
                            del self._shared[identity]

    def _end_batches(self, batch: Batch) -> None:
        """Commit what is open; from now on every call has its own commit."""
        try:
            with disk_errors(self.path):
                batch.close()
        finally:
            self._batch = None
            self._past_calls += batch.calls
            self._past_losses += batch.failure is not None

    def refuse_fork(self) -> None:
        """Raise when this process inherited the store from its parent."""
        if self.forked:
            raise ForkedStoreError(
                f"The store {self.path} was opened before this process was forked; "
                f"open it again in the child."
            )

    def read(self) -> Transaction:
        """Begin to read, what this process wrote included; the caller aborts the transaction.

        Values are few bytes mostly, and copied at half the cost of a buffer over them.
        """
        if self._batch is not None:
            if self._batch.failure is not None:  # what this process has seen is lost
                self._refuse_after_failure()
            self.refuse_fork()
            uncommitted = self._batch.read()
            if uncommitted is not None:
                return Transaction(uncommitted, self.path)
        return self.read_committed()

    def read_committed(self) -> Transaction:
        """Begin to read what is committed and synced; the caller aborts the transaction."""
        self.refuse_fork()
        try:
            transaction = self._env.begin()
        except lmdb.Error as error:
            if self._users == 0:
                raise StoreClosedError(f"The store {self.path} is closed.") from error
            raise explain(error, self.path) from error
        return Transaction(transaction, self.path)

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """Run a write transaction: committed and synced at the end, undone on any error."""
        self._refuse_after_failure()
        with disk_errors(self.path):
            if self._batch is not None:
                self._batch.flush()
            transaction = self._env.begin(write=True)
            try:
                yield Transaction(transaction, self.path)
            except BaseException:
                transaction.abort()
                raise
            try:
                transaction.commit()
            except lmdb.Error as error:
                self.refuses_writes = str(error)
                raise

    def flush(self) -> None:
        """Commit and sync what a batch has open; the caller holds the store's write lock."""
        if self._batch is not None:
            self._refuse_after_failure()
            with disk_errors(self.path):
                self._batch.flush()

    def sync(self) -> None:
        """Make durable what is visible.

        A writer that was killed may have left a commit written and not synced, a failed commit may
        have been taken back without that being on disk.  Before this nothing may be unlinked.
        """
        with disk_errors(self.path):
            self._env.sync(True)

    @contextmanager
    def write_soon(self) -> Iterator[Transaction]:
        """Run a write transaction; with batches it is committed with others, a moment later."""
        if self._batch is None:
            with self.write() as transaction:
                yield transaction
            return
        self._refuse_after_failure()
        with disk_errors(self.path), self._batch.call() as transaction:
            yield Transaction(transaction, self.path)

    def _refuse_after_failure(self) -> None:
        """Raise when a commit failed: what the file holds is uncertain until it is reopened."""
        self.refuse_fork()
        if self._batch is not None and self._batch.failure is not None:
            self.refuses_writes = str(self._batch.failure)
        if self.refuses_writes:
            raise (DiskFullError if lacks_room(self.refuses_writes) else VecstoreError)(
                f"{self.path} refuses writes since a commit failed ({self.refuses_writes}); "
                f"close and reopen the store."
            )

    def start_batches(self) -> None:
        """Group the commits of calls from now on; the process must hold the writer lock."""
        self._batch = Batch(self._env)

    @property
    def calls(self) -> int:
        """Calls in batches so far; see `Batch.calls`."""
        return self._past_calls + (0 if self._batch is None else self._batch.calls)

    @property
    def losses(self) -> int:
        """Batches whose commit failed: whoever had read what was in them must forget it."""
        return self._past_losses + (self._batch is not None and self._batch.failure is not None)

    def oldest_reader(self) -> int | None:
        """Oldest transaction number that a reader anywhere still uses, if any."""
        self._env.reader_check()
        oldest: int | None = None
        for line in self._env.readers().splitlines()[1:]:
            number = line.split()[-1]
            if number.isdigit():
                oldest = int(number) if oldest is None else min(oldest, int(number))
        return oldest

    def walk_facts(self) -> str:
        """Say what is wrong with the facts as `walk_facts` found it; empty when all is sound."""
        return walk_facts(self.path / layout.FACTS_NAME)

    def copy_facts(self, folder: Path) -> None:
        """Copy the facts, as some commit left them, into an empty folder, and sync them."""
        self.refuse_fork()
        with disk_errors(folder):
            self._env.copy(str(folder))
            with open(folder / layout.FACTS_FILE, "rb") as file:
                os.fsync(file.fileno())
            sync_folder(folder)

    def facts_bytes(self) -> int:
        """Bytes of the LMDB files."""
        folder = self.path / layout.FACTS_NAME
        return sum(entry.stat().st_size for entry in folder.iterdir())


def _unlock(descriptor: int) -> None:
    """Give the writer lock back, also from children forked meanwhile: they share it."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _mark_forked() -> None:
    """Let go of every environment in a forked child, so that it may open the stores anew."""
    for shared in list(Environment._shared.values()):
        shared.forked = Environment._was_forked = True
        shared._batch = None
        shared._env = None
        if shared._lock_descriptor is not None:
            shared._unlock.detach()  # type: ignore[attr-defined]
            shared._unlock = lambda: None
            os.close(shared._lock_descriptor)
            shared._lock_descriptor = None
    Environment._shared.clear()
    Environment._shared_lock = threading.Lock()  # another thread may have held it


os.register_at_fork(after_in_child=_mark_forked)
