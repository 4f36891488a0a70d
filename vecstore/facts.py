"""Editing the facts of one collection inside one write transaction.

Invariants
----------
* Id -> row is a bijection onto the live rows of a tenant.
* Metadata and documents stand under live rows, and under those of tenants in `dropping`.
* Whatever dies or changes is told to readers by one change record per transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore import layout
from vecstore.config import CHANGES_KEPT, ROWS_MAX
from vecstore.errors import InvalidArgumentError
from vecstore.extent_set import ExtentSet, Identity
from vecstore.ids import Ids
from vecstore.layout import (
    ChangeRecord,
    ExtentKind,
    ExtentRecord,
    Kind,
    StoreRecord,
    TenantRecord,
)
from vecstore.lookups import (
    ABSENT,
    dropped_tenants,
    known_tenant,
    read_state,
    read_tenant,
    refuse_dropped,
)
from vecstore.transaction import Transaction
from vecstore.yielding import yielding


class Edit:
    """One transaction's changes to one collection; `finish` before the commit.

    Attributes
    ----------
    state : StateRecord
        As it will be after the transaction.
    result : int
        What the verb returns that this is the transaction of.
    report : callable
        Told how many of how many ids of a tenant have been put.
    """

    def __init__(self, transaction: Transaction, identity: Identity) -> None:
        self.transaction = transaction
        self.name = identity.name
        self.has_tenants = identity.record.tenants
        self.collection = identity.record.number
        refuse_dropped(transaction, identity)
        self.state = read_state(transaction, self.collection)
        self.result = 0
        self.report: Callable[[int, int], None] = lambda done, total: None
        self._dead: list[int] = []
        self._tenants: dict[int, TenantRecord] = {}
        self._created: dict[str, int] = {}
        self._extents_changed = False

    def tenant(self, number: int) -> TenantRecord:
        """Record of a tenant, to be changed; `finish` writes it."""
        known = self._tenants.get(number)
        if known is None:
            known = read_tenant(self.transaction, self.collection, number)
            self._tenants[number] = known
        return known

    def knows(self, tenant: int) -> bool:
        """Tell whether there is a tenant of this number; it may have been dropped meanwhile."""
        key = layout.key_u32(self.collection, Kind.TENANT, tenant)
        return not self.has_tenants or self.transaction.get(key) is not None

    @cached_property
    def dropped(self) -> frozenset[int]:
        """Numbers of tenants that were dropped before and left entries."""
        return dropped_tenants(self.transaction, self.collection)

    def is_dead(self, row: int) -> bool:
        """Tell whether a row ended in an earlier transaction."""
        page, place = divmod(row, layout.DEAD_PAGE_ROWS)
        raw = self.transaction.get(layout.key_u32(self.collection, Kind.DEAD, page))
        return raw is not None and bool(raw[place >> 3] >> (place & 7) & 1)

    def tenant_number(self, name: str) -> int:
        """Number of a tenant; one that is not there yet is created."""
        number = known_tenant(self.transaction, self.collection, name)
        if number is None:
            number = self._created.get(name)
        if number is None:
            number = self._created[name] = self.state.next_tenant
            self.state.next_tenant += 1
            self.state.tenants += 1
            self.tenant(number).name = name
        return number

    def forget_tenant(self, number: int) -> None:
        """Drop what was gathered for a tenant."""
        self._tenants.pop(number, None)

    def reserve(self, first: int, count: int) -> None:
        """Give out row numbers from `first` on."""
        if first + count > ROWS_MAX:
            raise InvalidArgumentError(
                f"Collection {self.name!r} has used {first} row numbers and can give no {count} "
                f"more (at most {ROWS_MAX}); copy it into a new collection."
            )
        self.state.next_row = first + count

    def find(self, tenant: int, ids: Ids) -> Iterator[tuple[NDArray[np.int64], list[bytes], Any]]:
        """Look ids up: places, keys and values, some at a time, in the order of keys."""
        for places, keys in ids.keys(layout.id_prefix(self.collection, tenant)):
            yield places, keys, [self.transaction.get(key) or ABSENT for key in yielding(keys)]

    def skip_to(self, row: int) -> None:
        """Never give out the row numbers before `row`."""
        self._dead += range(self.state.next_row, row)
        self.state.next_row = row

    def put_ids(self, tenant: int, ids: Ids, rows: NDArray[np.uint32]) -> None:
        """Point ids at rows of their own tenant; those that pointed elsewhere are redirected."""
        prefix = layout.id_prefix(self.collection, tenant)
        done = 0
        for places, keys in ids.keys(prefix):
            self.transaction.put_rows(keys, rows[places])
            done += len(keys)
            self.report(done, len(ids))
        self.state.live_rows += len(ids)
        self.tenant(tenant).rows += len(ids)

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
            self.transaction.put_many(pairs)
            if kind == Kind.METADATA:
                self.state.metadata_rows += len(pairs)
            else:
                self.state.document_rows += len(pairs)

    def kill(self, tenant: int, rows: Iterable[int]) -> None:
        """End rows of a tenant: they are found by no call that begins after the commit."""
        ended = list(rows)
        self.end(ended)
        self.tenant(tenant).rows -= len(ended)
        for row in yielding(ended):
            self.drop_facts(row)

    def end(self, rows: Collection[int]) -> None:
        """End rows, and leave their metadata and documents to be dropped."""
        self._dead += rows
        self.state.live_rows -= len(rows)

    def drop_facts(self, row: int) -> None:
        """Drop metadata and document of a row that ended."""
        if self.state.metadata_rows and self.transaction.delete(
            layout.key_u32(self.collection, Kind.METADATA, row)
        ):
            self.state.metadata_rows -= 1
        if self.state.document_rows and self.transaction.delete(
            layout.key_u32(self.collection, Kind.DOCUMENT, row)
        ):
            self.state.document_rows -= 1

    def add_extents(self, records: dict[int, ExtentRecord]) -> None:
        """Name extents that are whole and synced."""
        for number, record in records.items():
            key = layout.key_u64(self.collection, Kind.EXTENT, number)
            self.transaction.put(key, layout.pack(record))
        self._extents_changed = self._extents_changed or bool(records)

    def retire_extents(self, numbers: Iterable[int]) -> None:
        """Stop naming extents; their files go when no reader is older."""
        for number in numbers:
            self.transaction.delete(layout.key_u64(self.collection, Kind.EXTENT, number))
            mark_retired(self.transaction, number)
            self._extents_changed = True

    def retire(self, extents: ExtentSet, *kinds: ExtentKind) -> None:
        """Retire all extents of some kinds."""
        self.retire_extents(extent.number for kind in kinds for extent in extents.of_kind(kind))

    def unindex_tenant(self, tenant: int) -> None:
        """Tell that a tenant has no rows in postings any more, and so no directory."""
        record = self.tenant(tenant)
        record.directory = record.indexed_rows = record.trained_rows = 0
        record.calibration, record.calibration_note = [], ""

    def index_tenant(
        self, tenant: int, directory: int, rows: int, spread: float, *, anew: bool
    ) -> None:
        """Tell that rows of a tenant came into postings.

        Parameters
        ----------
        directory : int
            Extent of a new directory; 0 when the present one stays.
        rows : int
        spread : float
            Mean squared distance of these rows to their centroids.
        anew : bool
            All postings are new, and hold all that the tenant has indexed.
        """
        record = self.tenant(tenant)
        if directory:
            record.directory = directory
        if anew:
            record.indexed_rows = record.trained_rows = rows
            record.calibrated_rows = 0
            record.trained_spread, record.later_spread, record.later_rows = spread, 0.0, 0
            record.calibration, record.calibration_note = [], ""
        elif rows:
            record.indexed_rows += rows
            total = record.later_spread * record.later_rows + spread * rows
            record.later_rows += rows
            record.later_spread = total / record.later_rows

    def clear_log(self, end: int) -> None:
        """Drop the rows of the row log below `end`, which an extent holds by now."""
        prefix = layout.key(self.collection, Kind.LOG)
        self.transaction.delete_range(prefix, layout.key_u32(self.collection, Kind.LOG, end))
        self.state.log_first = end
        self._extents_changed = True

    def finish(self) -> None:
        """Write what was gathered."""
        self._write_dead()
        number = self.transaction.id()
        dead = np.array(self._dead, np.uint32).tobytes()
        key = layout.key_u64(self.collection, Kind.CHANGE, number)
        raw = self.transaction.get(key)
        if raw is not None:  # of an earlier call in the same batch
            before = layout.unpack(raw, type=ChangeRecord)
            dead, self._extents_changed = (
                before.dead + dead,
                self._extents_changed or before.extents,
            )
        record = ChangeRecord(dead=dead, extents=self._extents_changed)
        self.transaction.put(key, layout.pack(record))
        self._trim_changes(number)
        for name, tenant in self._created.items():
            key = layout.key(self.collection, Kind.TENANT_NAME, name.encode())
            self.transaction.put(key, layout.U32.pack(tenant))
        for tenant, own in self._tenants.items():
            key = layout.key_u32(self.collection, Kind.TENANT, tenant)
            self.transaction.put(key, layout.pack(own))
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
        for key in [key for key, _ in islice(self.transaction.scan(prefix), 2)]:
            oldest = int(layout.U64.unpack(key[len(prefix) :])[0])
            if oldest >= oldest_kept:
                return
            self.transaction.delete(key)
            self.state.changes_trimmed = oldest


def mark_retired(transaction: Transaction, number: int) -> None:
    """Let an extent's file go when no reader is older than this transaction."""
    key = layout.key_u64(0, Kind.RETIRED, number)
    transaction.put(key, layout.U64.pack(transaction.id()))


def read_store(transaction: Transaction) -> StoreRecord:
    """Read the store's counters."""
    raw = transaction.get(layout.key(0, Kind.STORE))
    if raw is None:
        raise transaction.lack(layout.key(0, Kind.STORE))
    record: StoreRecord = layout.unpack(raw, type=StoreRecord)
    return record


def put_store(transaction: Transaction, store: StoreRecord) -> None:
    """Write the store's counters."""
    transaction.put(layout.key(0, Kind.STORE), layout.pack(store))
