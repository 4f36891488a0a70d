"""One committed state of a collection, whole: what a call reads.

A snapshot is made inside an LMDB read transaction and never changes; the next one shares all
that stayed the same.  It knows the address of every posting and raw row without touching their
pages.  Bytes are held against their checksums on their first use: kernels report what they used
unchecked, `verify` looks at it before anything is returned.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore import layout
from vecstore.codecs import Codec, find_codec
from vecstore.config import CHUNK_ROWS, INDEX_CACHE_BYTES
from vecstore.errors import CorruptionError
from vecstore.extent_set import ExtentSet, Identity
from vecstore.kernels import view as v
from vecstore.kernels.chunks import int_ids
from vecstore.kernels.rowsets import count
from vecstore.layout import (
    ChangeRecord,
    ExtentKind,
    Kind,
    StateRecord,
)
from vecstore.lookups import dropped_tenants, extent_records, read_state
from vecstore.lru import LruBytes
from vecstore.rawrows import RawRows
from vecstore.rowlog import RowLog
from vecstore.rowsets import numbers
from vecstore.transaction import Transaction

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]


def _forget_plans(view: Any) -> None:
    """Let go of the plans of a tenant's view: each refers to the view, and so to mapped files."""
    view.plans.clear()


@dataclass(frozen=True)
class Snapshot:
    """One committed state of a collection.

    Attributes
    ----------
    transaction : int
        LMDB's number of the transaction that made it.
    calls : int
        Calls of this process in batches, when it was taken: a transaction that is not committed
        yet changes under its number.
    log_vectors : uint8 (capacity, row bytes), log_codes : uint8 (capacity, code bytes)
        The log's buffers as they were; the first `log_count` rows count.
    chunk_table : int64 (chunks, CHUNK_FIELDS)
        Where raw rows are, for as many as have numbers.
    view : int64 array
        What kernels take but for the tenant's part; valid as long as the snapshot is referenced.
    arrays : tuple
        What the view points to beside the rest.
    tenants : LruBytes
        Views of tenants made so far, by number (see `vecstore.tenant_view`).
    """

    identity: Identity
    transaction: int
    calls: int
    state: StateRecord
    extents: ExtentSet
    log: RowLog
    log_count: int
    live: U64
    log_vectors: NDArray[np.uint8]
    log_codes: NDArray[np.uint8]
    chunk_table: I64
    view: I64
    arrays: tuple[NDArray[Any], ...] = field(repr=False)
    tenants: LruBytes[int, Any] = field(
        repr=False, default_factory=lambda: LruBytes(INDEX_CACHE_BYTES, _forget_plans)
    )

    def id_of(self, row: int) -> int | str:
        """Id of a live row."""
        place = self._place_in_log(row)
        return self.extents.raw_rows(row).one(row) if place is None else self.log.id_at(place)

    def owner_of(self, row: int) -> int:
        """Tenant of a live row."""
        place = self._place_in_log(row)
        return (
            self.extents.raw_rows(row).owner(row) if place is None else int(self.log.owners[place])
        )

    def _place_in_log(self, row: int) -> int | None:
        """Where a row stands in the log, if it does."""
        if row >= self.state.log_first and self.log_count:
            place = int(np.searchsorted(self.log.numbers[: self.log_count], row))
            if place < self.log_count and self.log.numbers[place] == row:
                return place
        return None

    def owner_list(self, rows: list[int]) -> list[int]:
        """Tenants of live rows, at least one."""
        raw = self._extent_of_all(rows)
        return [self.owner_of(row) for row in rows] if raw is None else raw.several_owners(rows)

    def _extent_of_all(self, rows: list[int]) -> RawRows | None:
        """The one extent in which all of some rows stand, if there is one."""
        highest = max(rows)
        if highest >= self.state.log_first:
            return None
        raw = self.extents.raw_rows(min(rows))
        return raw if highest < raw.end_row else None

    def ids_of(self, rows: NDArray[np.uint32]) -> NDArray[Any]:
        """Ids of rows: int64 with -1 for NO_ROW, or object with None."""
        if self.state.int_ids is False:
            numbers = rows.tolist()
            texts = [None if row == layout.NO_ROW else self.id_of(row) for row in numbers]
            found: NDArray[Any] = np.array(texts, object)
            return found
        ids: I64 = np.empty(len(rows), np.int64)
        if int_ids(self.view, rows, ids):
            for place in np.flatnonzero(ids == v.OTHER_ID).tolist():
                if ids[place] == v.OTHER_ID:
                    row = int(rows[place])
                    ids[place] = self.id_of(row)
                    if row < self.state.log_first:  # the ids of its extent are checked now
                        int_ids(self.view, rows[place + 1 :], ids[place + 1 :])
        return ids

    def owners_of(self, rows: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Tenants of live rows."""
        owners: NDArray[np.uint32] = np.full(len(rows), layout.TENANT_NONE, np.uint32)
        fresh = rows >= np.uint32(self.state.log_first)
        for place in np.flatnonzero(fresh):
            owners[place] = self.owner_of(int(rows[place]))
        for raw in self.extents.raws:
            inside = ~fresh & (rows >= np.uint32(raw.first_row)) & (rows < np.uint32(raw.end_row))
            if inside.any():
                owners[inside] = raw.owners(rows[inside])
        return owners

    def places_of(self, rows: NDArray[np.uint32]) -> I64:
        """Places of rows in order of insertion, by which ties are broken."""
        places = rows.astype(np.int64)
        for raw in self.extents.raws:
            inside = (rows >= np.uint32(raw.first_row)) & (rows < np.uint32(raw.end_row))
            if inside.any():
                places[inside] = raw.inserted(rows[inside])
        return places

    def is_live(self, row: int) -> bool:
        """Tell whether a row number is a live row."""
        word = row >> 6
        return word < len(self.live) and bool((int(self.live[word]) >> (row & 63)) & 1)

    def live_rows(self) -> NDArray[np.uint32]:
        """All live row numbers, ascending."""
        return numbers(self.live)

    def metadata(
        self, transaction: Transaction, rows: Sequence[int]
    ) -> list[dict[str, Any] | None]:
        """Metadata of live rows; `transaction` is the one that the snapshot belongs to."""
        values = self._of_rows(transaction, Kind.METADATA, rows, self.state.metadata_rows)
        return [None if value is None else layout.unpack(value) for value in values]

    def documents(self, transaction: Transaction, rows: Sequence[int]) -> list[str | None]:
        """Documents of live rows; `transaction` is the one that the snapshot belongs to."""
        values = self._of_rows(transaction, Kind.DOCUMENT, rows, self.state.document_rows)
        return [None if value is None else value.decode() for value in values]

    def _of_rows(
        self, transaction: Transaction, kind: Kind, rows: Sequence[int], count: int
    ) -> list[bytes | None]:
        if not count:
            return [None] * len(rows)
        prefix, pack = layout.key(self.identity.record.number, kind), layout.U32.pack
        keys = [prefix + pack(row) for row in rows]
        values = [transaction.get(key, key) for key in keys]
        if (
            count == self.state.live_rows
            and None in values
            # some of those counted may be of rows that a dropped tenant left
            and not dropped_tenants(transaction, self.identity.record.number)
        ):
            raise transaction.lack(keys[values.index(None)])
        return values

    def addresses(self, rows: NDArray[np.uint32]) -> I64:
        """Addresses of raw rows, in extents or in the log's buffer."""
        row_bytes = self.identity.row_bytes
        table = self.extents.chunk_table
        chunk = rows // np.uint32(CHUNK_ROWS)
        inside = chunk < len(table)
        base = np.zeros(len(rows), np.int64)
        base[inside] = table[chunk[inside], v.CHUNK_ADDRESS]
        address: I64 = base + (rows % np.uint32(CHUNK_ROWS)).astype(np.int64) * row_bytes
        fresh = base == 0
        if fresh.any():
            place = np.searchsorted(self.log.numbers[: self.log_count], rows[fresh])
            address[fresh] = self.log_vectors.ctypes.data + place.astype(np.int64) * row_bytes
        for raw in self.extents.sparse:
            within = (rows >= np.uint32(raw.first_row)) & (rows < np.uint32(raw.end_row))
            if within.any():
                address[within] = raw.addresses(rows[within])
        return address


def tenant_names(transaction: Transaction, snapshot: Snapshot) -> list[str]:
    """Names of all tenants of a collection, in no order that means anything."""
    prefix = layout.key(snapshot.identity.record.number, Kind.TENANT_NAME)
    names = [key[len(prefix) :].decode() for key, _ in transaction.scan(prefix)]
    if len(names) != snapshot.state.tenants:
        name = snapshot.identity.name
        raise CorruptionError(
            f"Collection {name!r} counts {snapshot.state.tenants} tenants, and its facts name "
            f"{len(names)}; restore a backup.",
            collection=name,
        )
    return names


def _live_bitmap(
    transaction: Transaction, collection: int, extents: ExtentSet, log: RowLog, words: int
) -> U64:
    live = np.zeros(words, np.uint64)
    for raw in extents.raws:
        raw.mark(live)
    layout.set_bits(live, log.numbers[: log.count], True)
    page_words = layout.DEAD_PAGE_ROWS // 64
    prefix = layout.key(collection, Kind.DEAD)
    for key, value in transaction.scan(prefix):
        start = int(layout.U32.unpack(key[len(prefix) :])[0]) * page_words
        part = live[start : start + page_words]
        part &= ~np.frombuffer(value, np.uint64)[: len(part)]
    return live


def _changes(transaction: Transaction, collection: int, since: int) -> list[ChangeRecord]:
    """Change records after transaction `since`."""
    prefix = layout.key(collection, Kind.CHANGE)
    start = layout.key_u64(collection, Kind.CHANGE, since + 1)
    return [layout.unpack(value, type=ChangeRecord) for _, value in transaction.scan(prefix, start)]


def take_snapshot(
    identity: Identity,
    transaction: Transaction,
    old: Snapshot | None,
    kinds: Collection[int] = tuple(ExtentKind),
    calls: int = 0,
) -> Snapshot:
    """Make the snapshot of a read transaction, from an older one where there is one.

    Only a repair leaves out extents of some kinds; others have to be among `kinds`.
    """
    collection = identity.record.number
    number = transaction.id()
    state = read_state(transaction, collection)
    changes: list[ChangeRecord] | None = None
    if old is not None:
        # Within a batch a snapshot may lack what its own transaction did later; and when that was
        # empty, the next one has the same number.
        since = old.transaction - (old.calls > 0)
        if state.changes_trimmed <= since:
            changes = _changes(transaction, collection, since)
    if old is not None and changes == []:
        return replace(old, transaction=number, calls=calls)  # shares the views of tenants
    same_extents = changes is not None and not any(change.extents for change in changes)
    if old is not None and same_extents:
        extents, log = old.extents, old.log
    else:
        codec = find_codec(state.codec, identity.record.dim)
        records = {
            number: record
            for number, record in extent_records(transaction, collection).items()
            if record.kind in kinds
        }
        extents = ExtentSet(identity, codec, records, old.extents if old else None)
        if old is not None and changes is not None:
            log = old.log.since(state.log_first)
        else:
            log = RowLog(identity)
    if old is None or changes is None or state.next_row != old.state.next_row:
        log.catch_up(transaction, state)
    end = max(state.next_row, len(extents.chunk_table) * CHUNK_ROWS)
    words = -(-end // CHUNK_ROWS) * (CHUNK_ROWS // 64)
    if old is not None and same_extents and changes is not None:
        live = np.empty(words, np.uint64)
        live[: len(old.live)] = old.live
        live[len(old.live) :] = 0
        if log.count > old.log_count:
            layout.set_bits(live, log.numbers[old.log_count : log.count], True)
        for change in changes:
            layout.set_bits(live, np.frombuffer(change.dead, np.uint32), False)
    else:
        live = _live_bitmap(transaction, collection, extents, log, words)
    found = count(live)
    if found != state.live_rows:
        raise CorruptionError(
            f"Collection {identity.name!r} counts {state.live_rows} rows, and its facts lead to "
            f"{found}; restore a backup.",
            collection=identity.name,
        )
    table = old.chunk_table if old is not None and same_extents else None
    return _assemble(identity, number, calls, state, extents, log, live, table)


def with_index(
    snapshot: Snapshot, codec: Codec, records: dict[int, layout.ExtentRecord]
) -> Snapshot:
    """Make the snapshot that other postings and another directory would give.

    Parameters
    ----------
    codec : Codec
        Of the postings.
    records : dict
        Extents of postings and of the directory, by number.
    """
    raws = {extent.number: extent.record for extent in snapshot.extents.of_kind(ExtentKind.RAW)}
    extents = ExtentSet(snapshot.identity, codec, {**raws, **records}, snapshot.extents)
    state, log = snapshot.state, snapshot.log
    return _assemble(
        snapshot.identity, snapshot.transaction, snapshot.calls, state, extents, log, snapshot.live
    )


def _assemble(
    identity: Identity,
    number: int,
    calls: int,
    state: StateRecord,
    extents: ExtentSet,
    log: RowLog,
    live: U64,
    table: I64 | None = None,
) -> Snapshot:
    """Lay out the kernel view of a state; `table` is that of a state with the same extents."""
    chunks = len(live) * 64 // CHUNK_ROWS
    if table is None or len(table) != chunks:
        table = np.zeros((chunks, v.CHUNK_FIELDS), np.int64)
        table[: len(extents.chunk_table)] = extents.chunk_table
    view = np.zeros(v.VIEW_FIELDS, np.int64)
    record = identity.record
    view[v.DIM] = record.dim
    view[v.PADDED] = layout.padded_dim(record.dim)
    view[v.METRIC] = record.metric
    view[v.CHUNKS] = chunks
    view[v.CHUNK_TABLE] = table.ctypes.data
    view[v.LIVE] = live.ctypes.data
    view[v.RAW_FORM] = identity.form.number
    view[v.ROW_BYTES] = identity.row_bytes
    view[v.FRESH_VECTORS], view[v.FRESH_CODES], ids, view[v.LOG_NUMBERS] = log.addresses
    view[v.LOG_ROWS] = log.count
    view[v.LOG_IDS] = ids if state.int_ids else 0
    arrays = (log.numbers, log.ints)
    return Snapshot(
        identity,
        number,
        calls,
        state,
        extents,
        log,
        log.count,
        live,
        log.vectors,
        log.codes,
        table,
        view,
        arrays,
    )
