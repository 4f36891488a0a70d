"""Writing rows: one transaction per call, small calls to the row log, large ones to extents.

Invariants
----------
* A call is atomic: its rows, the end of the rows they replace, and the extents they stand in
  become visible in one commit, or not at all.
* One writer at a time: the store's write lock is held throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore import layout
from vecstore.build import Builder, Built, next_chunk
from vecstore.calibrate import calibrate
from vecstore.clustering import Progress, worker_pool
from vecstore.config import (
    BULK_ROWS_MIN,
    CHUNK_ROWS,
    FRAGMENTS_MAX,
    GROWTH_MAX,
    LOG_BYTES_MAX,
    LOG_INDEXED_FRACTION,
    LOG_ROWS_MAX,
    ROWS_MAX,
)
from vecstore.errors import DiskFullError, DuplicateIdError, InvalidArgumentError
from vecstore.extent_set import Identity
from vecstore.facts import Edit, put_store, read_store
from vecstore.ids import Ids, check_id_kind
from vecstore.layout import TENANT_NONE, Kind
from vecstore.publish import ExtentNumbers, abandon
from vecstore.reclaim import remove_retired
from vecstore.row_source import Rows
from vecstore.rowlog import log_value
from vecstore.search import Searcher
from vecstore.session import WriteLock
from vecstore.snapshot import Snapshot
from vecstore.storage import Environment

F32 = NDArray[np.float32]
U32 = NDArray[np.uint32]


@dataclass(frozen=True)
class Batch:
    """Checked input of one call.

    Attributes
    ----------
    vectors : array-like (n, dim) of any real dtype
    """

    ids: Ids
    vectors: Any
    metadata: Sequence[dict[str, Any] | None] | None
    documents: Sequence[str | None] | None


def silent(stage: str, done: int, total: int) -> None:
    """Report no progress."""


class Writer:
    """Writes to one collection.

    Parameters
    ----------
    environment : Environment
    identity : Identity
    snapshot : callable
        Gives the newest committed snapshot.
    lock : WriteLock
        The store's write lock.
    searcher : Searcher
        Used to calibrate a trained index.

    Attributes
    ----------
    behind : str
        Why the last maintenance was put off; empty when it was done.
    """

    def __init__(
        self,
        environment: Environment,
        identity: Identity,
        snapshot: Callable[[], Snapshot],
        lock: WriteLock,
        searcher: Searcher,
    ) -> None:
        self._environment = environment
        self._identity = identity
        self._snapshot = snapshot
        self._lock = lock
        self._searcher = searcher
        self.behind = ""

    def put(self, batch: Batch, *, add: bool, progress: Progress = silent) -> None:
        """Insert rows, replacing those with the same ids unless `add`."""
        with self._lock:
            if len(batch.ids) >= self._bulk_rows_min():
                self._put_bulk(batch, add, progress)
            else:
                self._put_log(batch, add)
            with self._maintenance():
                self._flush_if_due(progress)
                self._settle(progress)

    def _bulk_rows_min(self) -> int:
        """Rows from which on a call is written as extents rather than to the row log."""
        snapshot = self._snapshot()
        return max(BULK_ROWS_MIN, int(snapshot.state.indexed_rows * LOG_INDEXED_FRACTION))

    @contextmanager
    def _maintenance(self) -> Iterator[None]:
        """Work after the call's own commit: a full disk puts it off, the call has succeeded."""
        try:
            yield
            self.behind = ""
        except DiskFullError as error:
            self.behind = str(error)

    def delete(self, ids: Ids) -> int:
        """Delete rows by id; unknown ids are skipped. Returns rows removed."""
        with self._lock, self._environment.write() as transaction:
            edit = Edit(transaction, self._identity)
            rows = edit.delete_ids(TENANT_NONE, ids)
            if rows:
                edit.kill(rows)
                edit.finish()
            return len(rows)

    # --- small calls -----------------------------------------------------------------------

    def _put_log(self, batch: Batch, add: bool) -> None:
        raw_rows = self._identity.form.encode(np.asarray(batch.vectors, np.float32))
        with self._environment.write() as transaction:
            edit = Edit(transaction, self._identity)
            self._replace(edit, batch.ids, add)
            first = edit.state.next_row
            rows = range(first, first + len(batch.ids))
            self._reserve(edit, first, len(rows))
            edit.put_ids(TENANT_NONE, batch.ids, np.array(rows, np.uint32))
            collection = self._identity.record.number
            for row, raw_id, raw_row in zip(rows, batch.ids.encoded(), raw_rows, strict=True):
                transaction.put(
                    layout.key_u32(collection, Kind.LOG, row),
                    log_value(TENANT_NONE, raw_id, raw_row),
                )
            edit.put_facts(rows, batch.metadata, batch.documents)
            edit.finish()

    def _replace(self, edit: Edit, ids: Ids, add: bool) -> None:
        """End the rows that the ids pointed to so far; fix the kind of ids at the first write."""
        if edit.state.int_ids is None:
            edit.state.int_ids = ids.is_int
        check_id_kind(ids, edit.state.int_ids, self._identity.name)
        edit.kill(self._known_rows(edit, ids, add))

    def _known_rows(self, edit: Edit, ids: Ids, add: bool) -> list[int]:
        """Rows that the ids have; raises when there are any and `add` refuses them."""
        if not edit.state.live_rows:
            return []
        rows = []
        for place, row in edit.rows_of(TENANT_NONE, ids):
            if add:
                raise DuplicateIdError(
                    f"Id {ids.one(place)!r} exists already in collection "
                    f"{self._identity.name!r}; use upsert to replace it. Nothing was written."
                )
            rows.append(row)
        return rows

    def _reserve(self, edit: Edit, first: int, count: int) -> None:
        if first + count > ROWS_MAX:
            raise InvalidArgumentError(
                f"Collection {self._identity.name!r} has used {first} row numbers and can give "
                f"no {count} more (at most {ROWS_MAX}); copy it into a new collection."
            )
        edit.state.next_row = first + count

    # --- large calls -----------------------------------------------------------------------

    def _put_bulk(self, batch: Batch, add: bool, progress: Progress) -> None:
        snapshot = self._snapshot()
        transaction = self._environment.read()
        try:
            replaced = self._known_rows(Edit(transaction, self._identity), batch.ids, add)
        finally:
            transaction.abort()
        self._write_index(snapshot, batch, np.array(replaced, np.uint32), progress)

    def _flush_if_due(self, progress: Progress) -> None:
        snapshot = self._snapshot()
        if snapshot.log_count > self._log_rows_max(snapshot):
            self._write_index(snapshot, None, np.empty(0, np.uint32), progress)

    def _settle(self, progress: Progress) -> None:
        """Remove what new extents replaced; calibrate an index that is not, or was put off."""
        remove_retired(self._environment)
        snapshot = self._snapshot()
        if snapshot.extents.directory is not None and not snapshot.state.calibration_note:
            calibrate(self._environment, self._identity, snapshot, self._searcher, progress)

    def _log_rows_max(self, snapshot: Snapshot) -> int:
        """Fresh rows that the row log may hold."""
        rows = max(LOG_ROWS_MAX, int(snapshot.state.indexed_rows * LOG_INDEXED_FRACTION))
        return min(rows, max(CHUNK_ROWS, LOG_BYTES_MAX // self._identity.row_bytes))

    def _write_index(
        self, snapshot: Snapshot, batch: Batch | None, replaced: U32, progress: Progress
    ) -> None:
        """Bring the row log and a batch into extents; train anew when the index outgrew itself."""
        state = snapshot.state
        numbers = ExtentNumbers(self._environment)
        pool = worker_pool(self._searcher.workers)
        builder = Builder(self._identity, snapshot.extents.codec, numbers, pool, progress)
        directory = snapshot.extents.directory
        fresh = 0 if batch is None else len(batch.ids)
        log_rows = snapshot.log.numbers[: snapshot.log_count]
        live_log = log_rows[layout.get_bits(snapshot.live, log_rows)]
        grown = state.indexed_rows + len(live_log) + fresh
        train = (
            directory is None
            or grown > GROWTH_MAX * state.trained_rows
            or len(snapshot.extents.postings) >= FRAGMENTS_MAX
        )
        kept = snapshot.live_rows() if train else live_log
        kept = np.setdiff1d(kept, replaced).astype(np.uint32)
        self._searcher.check_rows(snapshot, kept)
        vectors = None if batch is None else batch.vectors
        rows = Rows(self._identity, snapshot.addresses(kept), vectors)
        first_row = next_chunk(state.next_row)
        ids: Any = np.empty(0, np.int64) if batch is None else batch.ids.values
        builts: list[Built] = []
        try:
            if snapshot.log_count:
                builts.append(builder.store_log(snapshot))
            if rows.n == 0:
                train = False
            elif train or directory is None:
                builts.append(builder.train(rows, kept, first_row, state.next_posting, ids))
            else:
                builts.append(builder.append(rows, kept, first_row, directory, ids))
            progress("publish", 0, 1)
            self._publish(snapshot, builts, batch, train, rows.n, first_row, numbers)
        except BaseException:
            abandon(self._environment, self._identity, builts)
            raise
        finally:
            pool.shutdown()

    def _publish(
        self,
        snapshot: Snapshot,
        builts: list[Built],
        batch: Batch | None,
        train: bool,
        indexed: int,
        first_row: int,
        numbers: ExtentNumbers,
    ) -> None:
        """Name new extents, retire old ones and point ids at rows, in one transaction."""
        with self._environment.write() as transaction:
            store = read_store(transaction)
            store.next_extent = numbers.value
            put_store(transaction, store)
            edit = Edit(transaction, self._identity)
            state = edit.state
            if batch is not None:
                self._replace(edit, batch.ids, False)
                self._reserve(edit, first_row, len(batch.ids))
                rows = builts[-1].numbers
                edit.put_ids(TENANT_NONE, batch.ids, rows)
                edit.put_facts(rows.tolist(), batch.metadata, batch.documents)
            state.next_row = next_chunk(state.next_row)
            state.log_first = state.next_row
            if snapshot.log_count:
                edit.clear_log()
            if train:
                edit.retire_index(snapshot.extents)
                state.next_posting += builts[-1].postings
                state.trained_rows = indexed
                state.indexed_rows = indexed
                state.trained_spread = builts[-1].spread
                state.later_rows = 0
                state.later_spread = 0.0
            elif indexed:
                state.indexed_rows += indexed
                total = state.later_spread * state.later_rows + builts[-1].spread * indexed
                state.later_rows += indexed
                state.later_spread = total / state.later_rows
            for built in builts:
                edit.add_extents(built.extents)
            edit.finish()
