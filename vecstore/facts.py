"""Editing the facts of one collection inside one write transaction.

Invariants
----------
* Id -> row is a bijection onto the live rows of a tenant.
* Metadata and documents stand under live rows only.
* Whatever dies or changes is told to readers by one change record per transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import lmdb
import numpy as np
from numpy.typing import NDArray

from vecstore import layout
from vecstore.config import CHANGES_KEPT
from vecstore.extent_set import ExtentSet, Identity
from vecstore.ids import Ids
from vecstore.layout import ChangeRecord, ExtentKind, ExtentRecord, Kind, StoreRecord
from vecstore.snapshot import find_rows, read_state, refuse_dropped


class Edit:
    """One transaction's changes to one collection; `finish` before the commit.

    Attributes
    ----------
    state : StateRecord
        As it will be after the transaction.
    """

    def __init__(self, transaction: lmdb.Transaction, identity: Identity) -> None:
        self.transaction = transaction
        self.collection = identity.record.number
        refuse_dropped(transaction, identity)
        self.state = read_state(transaction, self.collection)
        self._dead: list[int] = []
        self._extents_changed = False

    def rows_of(self, tenant: int, ids: Ids) -> Iterator[tuple[int, int]]:
        """Places of the ids that have a row, and the rows, in the order of keys."""
        for places, rows in find_rows(self.transaction, self.collection, tenant, ids):
            known = rows != np.uint32(layout.NO_ROW)
            yield from zip(places[known].tolist(), rows[known].tolist(), strict=True)

    def put_ids(self, tenant: int, ids: Ids, rows: NDArray[np.uint32]) -> None:
        """Point ids at rows; those that pointed elsewhere are redirected."""
        prefix = layout.id_prefix(self.collection, tenant)
        pack = layout.U32.pack
        cursor = self.transaction.cursor()
        for places, keys in ids.keys(prefix):
            cursor.putmulti(list(zip(keys, map(pack, rows[places].tolist()), strict=True)))
        self.state.live_rows += len(ids)

    def put_facts(
        self,
        rows: Sequence[int],
        metadata: Sequence[dict[str, Any] | None] | None,
        documents: Sequence[str | None] | None,
    ) -> None:
        """Store metadata and documents of new rows, in any order of rows."""
        facts: tuple[tuple[Kind, Any], ...] = (
            (Kind.METADATA, metadata),
            (Kind.DOCUMENT, documents),
        )
        for kind, values in facts:
            if values is None:
                continue
            pairs = [
                (
                    layout.key_u32(self.collection, kind, row),
                    layout.pack(value) if kind == Kind.METADATA else value.encode(),
                )
                for row, value in zip(rows, values, strict=True)
                if value is not None
            ]
            pairs.sort()
            self.transaction.cursor().putmulti(pairs)
            if kind == Kind.METADATA:
                self.state.metadata_rows += len(pairs)
            else:
                self.state.document_rows += len(pairs)

    def kill(self, rows: Iterable[int]) -> None:
        """End rows: they are found by no call that begins after the commit."""
        for row in rows:
            self._dead.append(row)
            self.state.live_rows -= 1
            if row >= self.state.log_first:
                self.transaction.delete(layout.key_u32(self.collection, Kind.LOG, row))
            if self.state.metadata_rows and self.transaction.delete(
                layout.key_u32(self.collection, Kind.METADATA, row)
            ):
                self.state.metadata_rows -= 1
            if self.state.document_rows and self.transaction.delete(
                layout.key_u32(self.collection, Kind.DOCUMENT, row)
            ):
                self.state.document_rows -= 1

    def delete_ids(self, tenant: int, ids: Ids) -> list[int]:
        """Forget ids; return the rows that they had."""
        prefix = layout.id_prefix(self.collection, tenant)
        rows = []
        for _, keys in ids.keys(prefix):
            for key in keys:
                raw = self.transaction.pop(key)
                if raw is not None:
                    rows.append(int(layout.U32.unpack(raw)[0]))
        return rows

    def add_extents(self, records: dict[int, ExtentRecord]) -> None:
        """Name extents that are whole and synced."""
        for number, record in records.items():
            key = layout.key_u64(self.collection, Kind.EXTENT, number)
            self.transaction.put(key, layout.pack(record))
        self._extents_changed = self._extents_changed or bool(records)

    def retire_extents(self, numbers: Iterable[int]) -> None:
        """Stop naming extents; their files go when no reader is older."""
        stamp = layout.U64.pack(self.transaction.id())
        for number in numbers:
            self.transaction.delete(layout.key_u64(self.collection, Kind.EXTENT, number))
            key = layout.key_u64(0, Kind.RETIRED, number)
            self.transaction.put(key, stamp)
            self._extents_changed = True

    def retire_index(self, extents: ExtentSet) -> None:
        """Retire all postings and the directory; what was measured with them counts no more."""
        self.retire_extents(
            extent.number
            for kind in (ExtentKind.POSTINGS, ExtentKind.DIRECTORY)
            for extent in extents.of_kind(kind)
        )
        self.state.calibration = []
        self.state.calibration_note = ""

    def clear_log(self) -> None:
        """Drop the row log, whose rows an extent holds by now."""
        prefix = layout.key(self.collection, Kind.LOG)
        delete_range(self.transaction, prefix)
        self._extents_changed = True

    def finish(self) -> None:
        """Write what was gathered."""
        self._write_dead()
        number = self.transaction.id()
        dead = np.array(self._dead, np.uint32).tobytes()
        record = ChangeRecord(dead=dead, extents=self._extents_changed)
        self.transaction.put(
            layout.key_u64(self.collection, Kind.CHANGE, number), layout.pack(record)
        )
        self._trim_changes(number)
        key = layout.key(self.collection, Kind.STATE)
        self.transaction.put(key, layout.pack(self.state))

    def _write_dead(self) -> None:
        rows = np.array(self._dead, np.uint32)
        pages: NDArray[np.uint32] = rows // np.uint32(layout.DEAD_PAGE_ROWS)
        for page in np.unique(pages):
            key = layout.key_u32(self.collection, Kind.DEAD, int(page))
            raw = self.transaction.get(key)
            bitmap = np.zeros(layout.DEAD_PAGE_ROWS // 64, np.uint64)
            if raw is not None:
                bitmap |= np.frombuffer(raw, np.uint64)
            inside = rows[pages == page] % np.uint32(layout.DEAD_PAGE_ROWS)
            layout.set_bits(bitmap, inside, True)
            self.transaction.put(key, bitmap.tobytes())

    def _trim_changes(self, number: int) -> None:
        """Keep the last change records only; readers further behind load everything."""
        oldest_kept = number - CHANGES_KEPT
        prefix = layout.key(self.collection, Kind.CHANGE)
        cursor = self.transaction.cursor()
        for _ in range(2):
            if not cursor.set_range(prefix) or not bytes(cursor.key()).startswith(prefix):
                return
            oldest = int(layout.U64.unpack(bytes(cursor.key())[len(prefix) :])[0])
            if oldest >= oldest_kept:
                return
            cursor.delete()
            self.state.changes_trimmed = oldest


def read_store(transaction: lmdb.Transaction) -> StoreRecord:
    """Read the store's counters."""
    raw = transaction.get(layout.key(0, Kind.STORE))
    return StoreRecord() if raw is None else layout.unpack(raw, type=StoreRecord)


def put_store(transaction: lmdb.Transaction, store: StoreRecord) -> None:
    """Write the store's counters."""
    transaction.put(layout.key(0, Kind.STORE), layout.pack(store))


def delete_range(transaction: lmdb.Transaction, prefix: bytes) -> None:
    """Delete every key with a prefix."""
    cursor = transaction.cursor()
    while cursor.set_range(prefix) and bytes(cursor.key()).startswith(prefix):
        if not cursor.delete():
            return
