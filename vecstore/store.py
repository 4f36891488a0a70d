"""A store: a directory of collections, opened like a file."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from vecstore import layout
from vecstore.backup import back_up
from vecstore.catalogue import check_options, compare
from vecstore.check import check_store
from vecstore.clustering import Progress, silent
from vecstore.codecs import Codec, find_codec
from vecstore.collection import Collection
from vecstore.config import Metric
from vecstore.errors import (
    CollectionNotFoundError,
    CorruptionError,
    DiskFullError,
    InvalidArgumentError,
    ReadOnlyError,
)
from vecstore.extent_set import Identity
from vecstore.extents import folder_bytes
from vecstore.facts import Edit, put_store, read_store
from vecstore.inputs import parse_name, parse_path
from vecstore.layout import CollectionRecord, Kind, StateRecord
from vecstore.lookups import build_pieces, read_catalogue, read_state
from vecstore.maintenance import Maintenance, check_mode
from vecstore.raw_forms import DEFAULT, find_form
from vecstore.receipts import Receipts
from vecstore.reclaim import numbered, remove_leftovers, remove_retired
from vecstore.repair import repair_collection
from vecstore.results import Violation
from vecstore.session import Session
from vecstore.storage import Environment


def receipts_of(store: Store) -> Receipts:
    """Receipts of a store that is open for writing."""
    return store._session.receipts


def open_store(
    path: str | os.PathLike[str],
    mode: str = "w",
    durability: str = "commit",
    *,
    maintenance: str = "background",
) -> Store:
    """Open the store at `path`.

    Parameters
    ----------
    path : str or PathLike
        A directory.
    mode : {"w", "r"}
        "w" reads and writes, and creates an empty store when there is none; one writer at a time.
        "r" only reads, beside a writer in this or another process.
    durability : {"commit", "batch"}
        "commit": a write is on disk, synced, when the call returns. "batch": calls of up to 50 ms
        share a commit; this process sees them at once, others with the commit, and a crash loses
        whole calls of that time at most.
    maintenance : {"background", "inline", "off"}
        Rows of small calls stand in a log that every query goes through; when it is full they
        are brought into postings, which are kept in shape, merged and measured. "background": a
        thread does so beside the calls, each of which waits for it 0.25 seconds at most, when
        rows come faster than it can work. "inline": the call does it that makes it due. "off":
        only `Collection.compact` does it; queries get slower meanwhile.

    Raises
    ------
    StoreNotFoundError, NotAStoreError, FormatVersionError, WriterLockedError, CorruptionError
    """
    if not isinstance(durability, str) or durability not in ("commit", "batch"):
        raise InvalidArgumentError(f"durability is {durability!r}; use 'commit' or 'batch'.")
    check_mode(maintenance)
    environment = Environment.open(parse_path(path), mode)
    try:
        if durability == "batch" and mode == "w":
            environment.start_batches()
        return Store(environment, writable=mode == "w", maintenance=maintenance)
    except BaseException:
        environment.release(mode == "w")
        raise


class Store:
    """An open store; use it as a context manager, or call `close`."""

    def __init__(self, environment: Environment, *, writable: bool, maintenance: str) -> None:
        self._environment = environment
        self._session = Session(environment, writable)
        self._maintenance = Maintenance(self._session, maintenance)
        self._collections: dict[str, Collection] = {}
        self._lock = threading.Lock()
        if writable:
            remove_leftovers(environment, [r.number for r in self._catalogue().values()])

    @property
    def path(self) -> Path:
        """Directory of the store."""
        return self._environment.path

    def __repr__(self) -> str:
        """Show the path."""
        return f"Store({str(self.path)!r})"

    def __enter__(self) -> Store:
        """Return the store."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the store."""
        self.close()

    def close(self) -> None:
        """Wait for running calls and let go of files and locks; may be repeated."""
        if not self._session.close(self._maintenance.stop):
            return
        self._maintenance.join()
        for collection in self._collections.values():
            collection._close()
        self._environment.release(self._session.writable)

    def collections(self) -> list[str]:
        """Names of all collections, sorted."""
        return sorted(self._catalogue())

    def collection(
        self,
        name: str,
        dim: int | None = None,
        metric: str | None = None,
        tenants: bool | None = None,
        codec: str | None = None,
        raw: str | None = None,
    ) -> Collection:
        """Get a collection, or create it.

        Parameters
        ----------
        name : str
        dim : int
            Dimensions of a vector; needed to create.
        metric : {"l2", "cosine", "ip"}
            "l2" by default.
        tenants : bool
            The rows belong to tenants, kept strictly apart; see `Collection.tenant`.
        codec : str
            How postings hold rows: "auto", "rabitq1" to "rabitq8", "int8", "int4", "float32",
            "float16", or "pq" or "opq" and the number of bytes, as in "opq32". An existing
            collection is compared with what was asked for and with what `Collection.tune` chose.
        raw : {"float32", "float16", "int8"}
            How vectors are stored, once each: as given, rounded to half precision, or in 256
            steps from the least to the largest value of each vector.

        Raises
        ------
        CollectionNotFoundError
            It does not exist, and `dim` is missing or the store is open for reading.
        CollectionMismatchError
            It exists and differs from an argument given.
        """
        parse_name(name)
        check_options(dim, metric, tenants, codec, raw)
        with self._session:
            record = self._catalogue().get(name)
            if record is None:
                record = self._create(name, dim, metric, tenants, codec, raw)
            if codec is not None and self._codec_in_use(record) == find_codec(codec, record.dim):
                codec = record.codec
            compare(name, record, dim, metric, tenants, codec, raw)
            with self._lock:
                known = self._collections.get(name)
                if known is None or known._core.identity.record.number != record.number:
                    identity = Identity(name, record, self._environment.extents)
                    known = self._collections[name] = Collection(
                        self._session, identity, self._maintenance
                    )
                return known

    def drop(self, name: str) -> None:
        """Delete a collection and all it holds; its name may be used again at once."""
        parse_name(name)
        self._refuse_read_only("drop")
        with self._session, self._session.write_lock:
            record = self._catalogue().get(name)
            if record is None:
                raise CollectionNotFoundError(f"There is no collection {name!r} to drop.")
            with self._environment.write() as transaction:
                edit = Edit(transaction, Identity(name, record, self._environment.extents))
                edit.retire_extents(numbered(transaction, record.number, Kind.EXTENT))
                edit.retire_extents(one.number for one in build_pieces(transaction, record.number))
                transaction.delete(layout.key(0, Kind.CATALOGUE, name.encode()))
                for kind in Kind:
                    transaction.delete_range(layout.key(record.number, kind))
                self._session.receipts.put(transaction)
            with suppress(DiskFullError):  # the next writer removes them
                remove_retired(self._environment)

    def check(self) -> list[Violation]:
        """Verify every invariant and checksum; an empty list means the store is sound."""
        with self._session:
            idle = self._session.build_lock.acquire(blocking=False)
            try:
                quiet = idle and (self._session.writable or not self._environment.has_writer())
                return check_store(self._environment, quiet)
            finally:
                if idle:
                    self._session.build_lock.release()

    def repair(self, progress: Progress | None = None, *, drop_damaged: bool = False) -> list[str]:
        """Make anew what follows from rows and facts: postings, directories, the metadata index.

        Where these are damaged or missing, and all vectors, ids and facts of the collection are
        sound, they are written again in one commit.  A damaged vector cannot be made good: it
        stays, reads of it raise `CorruptionError`, and its id is told; or it is deleted.

        Parameters
        ----------
        progress : callable, optional
            Called as `progress(stage, done, total)`.
        drop_damaged : bool
            Delete the rows whose vectors are damaged, those and no others, for everybody who sees
            them, and make the rest of the collection whole.  Otherwise a collection that has such
            rows is left as it is.

        Returns
        -------
        list of str
            What was done and what could not be, in sentences; empty when nothing was wrong.
            Every row that was deleted is named by its id, and its tenant if there are any.

        Raises
        ------
        CorruptionError
            The facts themselves are damaged; nothing was changed.
        ReadOnlyError, DiskFullError
        """
        self._refuse_read_only("repair")
        with self._session as environment, self._session.build_lock, self._session.write_lock:
            wrong = environment.walk_facts()
            if wrong:
                raise CorruptionError(
                    f"The facts of {self.path} are damaged ({wrong}); restore a backup. Nothing "
                    f"was changed."
                )
            said = []
            for name in self.collections():
                writing = self.collection(name)._core.writing
                said += repair_collection(writing, progress or silent, drop_damaged=drop_damaged)
            return said

    def backup(self, dest: str | os.PathLike[str], progress: Progress | None = None) -> None:
        """Copy the store, as one commit left it, while this and other processes go on with it.

        The copy is a store like any other.  It appears under its name when it is whole and on
        disk; meanwhile it grows beside it, in a folder called `dest` and ".part".

        Parameters
        ----------
        dest : str or PathLike
            A folder outside the store that does not exist, or is empty.
        progress : callable, optional
            Called as `progress(stage, done, total)`.

        Raises
        ------
        InvalidArgumentError
            There is something at `dest`, or it lies within the store.
        DiskFullError
            The copy does not fit.
        CorruptionError
            A file of the store is missing or cut short.  In all cases nothing was changed.
        """
        target = parse_path(dest, "dest")
        with self._session as environment:
            back_up(environment, target, progress or silent)

    def stats(self) -> dict[str, Any]:
        """Describe the store: format, collections, bytes on disk, and how old readers are.

        "transactions_behind" counts the commits since the oldest snapshot that any process reads:
        what they freed stays on disk until that reader is done.
        """
        with self._session as environment:
            transaction = environment.read_committed()
            newest = transaction.id()
            transaction.abort()
            oldest = environment.oldest_reader()
            extents = folder_bytes(self._environment.extents)
            facts = self._environment.facts_bytes()
            return {
                "path": str(self.path),
                "format_version": layout.FORMAT_VERSION,
                "collections": self.collections(),
                "facts_bytes": facts,
                "extents": len(extents),
                "disk_bytes": facts + sum(extents),
                "transactions_behind": 0 if oldest is None else max(0, newest - oldest),
            }

    def _refuse_read_only(self, verb: str) -> None:
        if not self._session.writable:
            raise ReadOnlyError(
                f"The store {self.path} is open for reading; open it with mode='w' to {verb}."
            )

    def _catalogue(self) -> dict[str, CollectionRecord]:
        with self._session as environment:
            transaction = environment.read()
            try:
                return read_catalogue(transaction)
            finally:
                transaction.abort()

    def _codec_in_use(self, record: CollectionRecord) -> Codec:
        """Codec of the postings: what was asked for, or what `tune` chose since."""
        with self._session as environment:
            transaction = environment.read()
            try:
                state = read_state(transaction, record.number)
            finally:
                transaction.abort()
        return find_codec(state.codec, record.dim)

    def _create(
        self,
        name: str,
        dim: int | None,
        metric: str | None,
        tenants: bool | None,
        codec: str | None,
        raw: str | None,
    ) -> CollectionRecord:
        if not self._session.writable:
            raise CollectionNotFoundError(
                f"There is no collection {name!r}, and the store is open for reading."
            )
        if dim is None:
            raise CollectionNotFoundError(
                f"There is no collection {name!r}; pass dim= to create it."
            )
        with self._session.write_lock, self._environment.write() as transaction:
            if tenants and find_codec(codec or "auto", int(dim)).parts:
                raise InvalidArgumentError(
                    f"codec is {codec!r}, which learns from the rows of all tenants; choose one "
                    f"that learns from none, such as 'auto' or 'rabitq4'."
                )
            name_key = layout.key(0, Kind.CATALOGUE, name.encode())
            existing = transaction.get(name_key, b"")
            if existing is not None:
                known: CollectionRecord = layout.unpack(existing, type=CollectionRecord)
                return known
            store = read_store(transaction)
            record = CollectionRecord(
                number=store.next_collection,
                dim=int(dim),
                metric=Metric.parse(metric or "l2"),
                tenants=bool(tenants),
                codec=codec or "auto",
                raw=find_form(raw or DEFAULT).name,
                seed=store.next_collection,
            )
            store.next_collection += 1
            put_store(transaction, store)
            transaction.put(name_key, layout.pack(record))
            state = StateRecord(codec=find_codec(record.codec, record.dim).name)
            transaction.put(layout.key(record.number, Kind.STATE), layout.pack(state))
            self._session.receipts.put(transaction)
            return record
