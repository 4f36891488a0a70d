"""What one tenant can find in one snapshot, as kernels and callers read it.

A view names the tenant's directory and postings, its fresh rows and those granted to it since,
and nothing of anybody else: what another tenant does changes neither its answers nor what is
read for them.  The only tenant of a collection without tenants is seen through the same view.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore import layout
from vecstore.errors import CorruptionError
from vecstore.kernels import view as v
from vecstore.layout import TENANT_NONE, Kind, TenantRecord
from vecstore.lookups import read_tenant
from vecstore.lru import LruBytes
from vecstore.rowsets import NO_ROWS, RowSet, distinct
from vecstore.snapshot import Snapshot
from vecstore.tenant_index import TenantIndex
from vecstore.transaction import Transaction

I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
MATCHES_BYTES = 8 << 20
"""Sets of rows that a view keeps as the answers of filters."""
_NO_ADDRESSES: I64 = np.zeros(0, np.int64)


class Plans(dict[Any, Any]):
    """Plans by what they were made for.

    Attributes
    ----------
    nbytes : int
        Bytes of memory that they take.
    """

    nbytes = 0

    def clear(self) -> None:
        """Forget all."""
        super().clear()
        self.nbytes = 0


@dataclass(frozen=True)
class TenantView:
    """One tenant in one snapshot.

    Attributes
    ----------
    snapshot : Snapshot
    number : int
        `TENANT_NONE` in a collection without tenants.
    record : TenantRecord
    index : TenantIndex
    fresh : uint32 (rows,)
        Rows that stand in no posting of the tenant yet.
    live : uint64 bitmap over rows
        Of the tenant's entries, those that count.
    rows : int
        Rows that can be found.
    view : int64 array
        What kernels take; valid as long as this object is referenced.
    arrays : tuple
        What the view points to beside the snapshot and the index.
    plans : Plans
        Of queries made so far, by filter, recall and k (see `vecstore.planning`).
    """

    snapshot: Snapshot
    number: int
    record: TenantRecord
    index: TenantIndex
    fresh: U32
    live: U64
    rows: int
    view: I64 = field(repr=False)
    arrays: tuple[NDArray[Any], ...] = field(repr=False)
    plans: Plans = field(repr=False, default_factory=Plans)

    @cached_property
    def matches(self) -> LruBytes[bytes, RowSet]:
        """Rows that filters match, by filter."""
        return LruBytes(MATCHES_BYTES)

    @cached_property
    def limited(self) -> bool:
        """Whether a quota says what may be asked."""
        return self.record.limits_queries

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the view takes, what it remembers counted, the snapshot's not."""
        matches: LruBytes[bytes, RowSet] | None = self.__dict__.get("matches")
        remembered = self.plans.nbytes + (0 if matches is None else matches.nbytes)
        return 3_072 + self.index.nbytes + sum(one.nbytes for one in self.arrays) + remembered

    @cached_property
    def indexed(self) -> U32:
        """Live rows that stand in postings, ascending, each once."""
        if self.number == TENANT_NONE:
            rows = self.snapshot.live_rows()
            return rows[~np.isin(rows, self.fresh, assume_unique=True)]
        codec = self.snapshot.extents.codec
        block_bytes = codec.block_bytes(self.snapshot.identity.record.dim)
        rows = distinct(self.index.entries(block_bytes)[1])
        rows = rows[rows < np.uint32(64 * len(self.live))]
        return rows[layout.get_bits(self.live, rows)]

    def row_numbers(self) -> U32:
        """Rows that can be found, ascending."""
        if self.number == TENANT_NONE:
            return self.snapshot.live_rows()
        return np.union1d(self.indexed, self.live_fresh())

    def live_fresh(self) -> U32:
        """Rows that can be found and stand in no posting of the tenant yet."""
        return self.fresh[layout.get_bits(self.live, self.fresh)]

    @cached_property
    def live_set(self) -> RowSet:
        """Rows of `live`."""
        return RowSet(len(self.live), bits=self.live)

    @cached_property
    def universe(self) -> RowSet:
        """Rows that can be found."""
        if self.number == TENANT_NONE:
            return self.live_set
        return RowSet.of(len(self.live), [self.indexed, self.live_fresh()])

    @property
    def listed(self) -> TenantView:
        """The same view with the list of rows that an exact scan goes through."""
        return self if self.view[v.LISTED] != v.NO_LIST else self._with_list

    @cached_property
    def _with_list(self) -> TenantView:
        view = self.view.copy()
        return self._part(view, self.rows, self.live, self.fresh, _list(view, self.indexed))

    def only(self, rows: RowSet) -> TenantView:
        """View some of the rows, to be gone through exactly."""
        view = self.view.copy()
        if not len(self.fresh):
            return self._part(view, len(rows), self.live, NO_ROWS, _list(view, rows.rows))
        new = RowSet.of(len(self.live), [self.fresh])
        fresh, listed = (rows & new).rows, _list(view, (rows - new).rows)
        addresses = self.snapshot.addresses(fresh)
        view[v.FRESH_CODES] = 0
        view[v.FRESH_ROWS] = len(fresh)
        view[v.FRESH_NUMBERS] = fresh.ctypes.data
        view[v.FRESH_ADDRESSES] = addresses.ctypes.data
        return self._part(view, len(rows), self.live, fresh, listed, addresses)

    def narrowed(self, rows: RowSet) -> TenantView:
        """View some of the rows, to be picked out of what is scanned."""
        live = rows.bits
        view = self.view.copy()
        view[v.LIVE] = live.ctypes.data
        return self._part(view, len(rows), live, self.fresh, live)

    def _part(
        self, view: I64, rows: int, live: U64, fresh: U32, *arrays: NDArray[Any]
    ) -> TenantView:
        """Look at a part of the rows through another kernel view, which points to `arrays`."""
        return TenantView(
            self.snapshot,
            self.number,
            self.record,
            self.index,
            fresh,
            live,
            rows,
            view,
            (*self.arrays, self.fresh, *arrays),
            self.plans,
        )

    def damage(self, thing: int) -> CorruptionError:
        """Build the error for a run, or a page of raw rows, that kernels found damaged."""
        if thing < v.PAGE_TAG:
            return self.index.damage(thing)
        return self.snapshot.extents.damage(thing)


def _list(view: I64, rows: U32) -> U32:
    """Let an exact scan go through these rows in extents, which must outlive the view."""
    rows = np.ascontiguousarray(rows)
    view[v.LISTED] = len(rows)
    view[v.LISTED_ROWS] = rows.ctypes.data
    return rows


def open_tenant(
    snapshot: Snapshot, transaction: Transaction, number: int = TENANT_NONE
) -> TenantView:
    """View a tenant; `transaction` is the one that the snapshot belongs to."""
    known = snapshot.tenants.get(number)
    if known is not None:
        found: TenantView = known
        return found
    collection = snapshot.identity.record.number
    record = read_tenant(transaction, collection, number)
    if not snapshot.identity.record.tenants and record.rows != snapshot.state.live_rows:
        raise transaction.lack(layout.key_u32(collection, Kind.TENANT, number))
    granted = rows_under(transaction, collection, Kind.PENDING, number, record.pending)
    revoked = rows_under(transaction, collection, Kind.REVOKED, number, record.revoked)
    made = make_view(snapshot, number, record, granted, revoked)
    kept: TenantView = snapshot.tenants.put(number, made, made.nbytes)
    return kept


def make_view(
    snapshot: Snapshot, number: int, record: TenantRecord, granted: U32, revoked: U32
) -> TenantView:
    """View a tenant from its record, rows granted but in no posting, and rows revoked."""
    index = snapshot.extents.index(number, record.directory)
    view = snapshot.view.copy()
    index.fill(view)
    arrays: list[NDArray[Any]] = []
    log = snapshot.log
    if number == TENANT_NONE:
        fresh = log.numbers[: snapshot.log_count]
        view[v.LISTED] = v.ALL_ROWS
    else:
        fresh, addresses, codes = _own_fresh(snapshot, number, granted)
        if len(fresh):
            view[v.FRESH_ADDRESSES] = addresses.ctypes.data
            view[v.FRESH_CODES] = codes.ctypes.data
            arrays += [addresses, codes]
        view[v.LISTED] = v.NO_LIST if index.run_count() else 0
    if len(fresh):
        view[v.FRESH_ROWS] = len(fresh)
        view[v.FRESH_NUMBERS] = fresh.ctypes.data
    live = snapshot.live
    if len(revoked):
        live = live.copy()
        layout.set_bits(live, revoked, False)
        view[v.LIVE] = live.ctypes.data
        arrays.append(live)
    if index.listed:
        arrays.append(_list(view, index.list()))
    rows = record.rows + record.granted
    return TenantView(snapshot, number, record, index, fresh, live, rows, view, tuple(arrays))


def _own_fresh(snapshot: Snapshot, number: int, granted: U32) -> tuple[U32, I64, I64]:
    """Rows of a tenant that stand in no posting of it yet, their addresses, those of their codes.

    Rows granted to it have no codes.
    """
    places = snapshot.log.places(number, snapshot.log_count)
    if not len(places) and not len(granted):
        return NO_ROWS, _NO_ADDRESSES, _NO_ADDRESSES
    rows, codes = snapshot.log_vectors, snapshot.log_codes
    fresh = snapshot.log.numbers[places]
    steps = places.astype(np.int64)
    addresses = rows.ctypes.data + steps * rows.strides[0]
    code_addresses = codes.ctypes.data + steps * codes.strides[0]
    if len(granted):
        fresh = np.concatenate([fresh, granted])
        addresses = np.concatenate([addresses, snapshot.addresses(granted)])
        code_addresses = np.append(code_addresses, np.zeros(len(granted), np.int64))
    return fresh, addresses, code_addresses


def rows_under(
    transaction: Transaction, collection: int, kind: Kind, tenant: int, count: int
) -> U32:
    """Rows that stand under a tenant's keys of one kind."""
    if not count:
        return NO_ROWS
    prefix = layout.key_u32(collection, kind, tenant)
    keys = [key[len(prefix) :] for key, _ in transaction.scan(prefix)]
    if len(keys) != count:
        raise CorruptionError(
            f"The facts list {len(keys)} rows as {kind.name.lower()} for tenant number {tenant}, "
            f"which counts {count}; restore a backup."
        )
    return layout.unpack_rows(keys)
