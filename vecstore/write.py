"""Writing rows: one transaction per call, small calls to the row log, large ones to extents.

Invariants
----------
* A call is atomic: its rows, the end of the rows they replace, and the extents they stand in
  become visible in one commit, or not at all.
* One transaction at a time: the store's write lock is held for it, by a bulk load throughout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore import membership
from vecstore.checkpoint import give_up
from vecstore.clustering import Progress, silent
from vecstore.compaction import Compactor
from vecstore.config import (
    BULK_ROWS_MIN,
    CHUNK_ROWS,
    LOG_BYTES_MAX,
    LOG_INDEXED_FRACTION,
    LOG_ROWS_MAX,
)
from vecstore.dropping import Leftovers, drop_tenant
from vecstore.errors import InvalidArgumentError, VecstoreError
from vecstore.facts import Edit
from vecstore.filters import Filter
from vecstore.ids import Ids, check_id_kind
from vecstore.indexing import Indexer
from vecstore.layout import TENANT_NONE
from vecstore.lookups import known_tenant
from vecstore.maintenance import Maintenance
from vecstore.planning import check_where_quota, matching_rows
from vecstore.publish import clear_retired
from vecstore.rowlog import log_entries
from vecstore.scopes import find_ids
from vecstore.shares import NewRows
from vecstore.tenancy import Tenancy
from vecstore.tenant_view import open_tenant
from vecstore.transaction import Transaction
from vecstore.writing import Writing
from vecstore.yielding import sharing

F32 = NDArray[np.float32]
U32 = NDArray[np.uint32]
REVOKED_MAX = 4
"""A tenant is divided anew when more than one in this many of its entries is revoked."""
REMOVED_MIN = 1_024
"""Rows that calls of this process removed before maintenance looks whether extents are worn."""


@dataclass(frozen=True)
class Batch:
    """Checked input of one call.

    Attributes
    ----------
    ids : Ids
    vectors : array-like (n, dim) of any real dtype
    metadata, documents : sequence, optional
    tenancy : Tenancy, optional
        None in a collection without tenants.
    """

    ids: Ids
    vectors: Any
    metadata: Sequence[dict[str, Any] | None] | None
    documents: Sequence[str | None] | None
    tenancy: Tenancy | None = None


class Writer:
    """Writes to one collection.

    Attributes
    ----------
    behind : str
        Why maintenance was put off; empty when it was done.
    """

    def __init__(self, writing: Writing, maintenance: Maintenance) -> None:
        self._writing = writing
        self._environment = writing.environment
        self._identity = writing.identity
        self._snapshot = writing.newest
        self._lock = writing.lock
        self._build_lock = writing.build_lock
        self._maintenance = maintenance
        self._indexer = Indexer(writing)
        self._compactor = Compactor(writing)
        self._worn: set[int] = set()
        self._removed = 0
        self._look = False
        self._leftovers = Leftovers(writing)
        self.behind = ""

    def put(self, batch: Batch, *, add: bool, progress: Progress = silent) -> None:
        """Insert rows, replacing those with the same ids unless `add`."""
        if len(batch.ids) >= self._bulk_rows_min():
            with self._build_lock:
                with self._lock:
                    self._put_bulk(batch, add, progress)
                self._look = True
                with self._put_off():
                    self._indexer.recalibration.run(progress)
                    clear_retired(self._writing)
        else:
            with self._lock:
                self._put_log(batch, add)
        self._maintenance.after_write(self, progress)

    def _bulk_rows_min(self) -> int:
        """Rows from which on a call is written as extents rather than to the row log."""
        rows = self._snapshot().state.live_rows
        return max(BULK_ROWS_MIN, int(rows * LOG_INDEXED_FRACTION))

    # --- maintenance -----------------------------------------------------------------------

    def full_logs(self) -> float:
        """How full the row log is: above 1 it is to be brought into the index."""
        try:
            snapshot = self._snapshot()
        except VecstoreError:  # damaged, or dropped: whoever asks for rows is told
            return 0.0
        rows = max(LOG_ROWS_MAX, int(snapshot.state.live_rows * LOG_INDEXED_FRACTION))
        rows = min(rows, max(CHUNK_ROWS, LOG_BYTES_MAX // self._identity.row_bytes))
        return (snapshot.log_count + snapshot.state.pending) / rows

    def is_due(self) -> bool:
        """Whether there may be something to maintain."""
        return bool(self._worn or self.behind) or self._look or self.full_logs() > 1

    def maintain(self, progress: Progress) -> bool:
        """Do the next thing that is due; False when nothing is, or it had to be put off.

        The build lock must be held.  The calls that made it due have succeeded whatever becomes of
        this: a full or failing disk puts it off, and so does damage, perhaps of another tenant.
        """
        done = False
        with self._put_off():
            worn = frozenset(self._worn)
            if worn or self.full_logs() > 1:
                self._indexer.run(anew=worn, progress=progress)
                self._worn -= worn
                self._look = done = True
            else:
                self._look = False
                done = self._leftovers.remove_some()
                done = done or self._indexer.recalibration.run_one(self._flushing_between(progress))
                done = done or self._compactor.tend(progress)
        return done

    def _flushing_between(self, progress: Progress) -> Progress:
        """Bring a full row log into the index at each report of something that takes long."""

        def report(stage: str, done: int, total: int) -> None:
            progress(stage, done, total)
            if self.full_logs() > 1:
                self._indexer.run(progress=progress)

        return report

    @contextmanager
    def _put_off(self) -> Iterator[None]:
        """Note why maintenance cannot be done now."""
        try:
            yield
            self.behind = ""
        except InvalidArgumentError:  # of a progress callback
            raise
        except VecstoreError as error:
            self.behind = str(error)

    def compact(self, progress: Progress = silent) -> None:
        """Bring fresh rows into the index and merge all extents, without what is dead."""
        with self._build_lock:
            give_up(self._writing)
            self._leftovers.remove()
            snapshot = self._snapshot()
            if snapshot.log_count or snapshot.state.pending:
                self._indexer.run(progress=progress)
            self._compactor.compact(progress)
            self._indexer.recalibration.run(progress)
            self.behind = ""

    # --- rows ------------------------------------------------------------------------------

    def _put_log(self, batch: Batch, add: bool) -> None:
        raw_rows = self._identity.form.encode(np.asarray(batch.vectors, np.float32))
        with self._editing() as edit:
            first = edit.state.next_row
            rows = np.arange(first, first + len(batch.ids), dtype=np.uint32)
            edit.reserve(first, len(rows))
            tenants = self._tenants(edit, batch)
            owners = self._put_facts(edit, batch, tenants, rows, add, indexed=False)
            entries = log_entries(edit.collection, first, owners, batch.ids, raw_rows)
            edit.transaction.put_many(entries)

    def _put_bulk(self, batch: Batch, add: bool, progress: Progress) -> None:
        with self._writing.reading() as transaction:
            edit = Edit(transaction, self._identity)
            self._check_kind(edit, batch.ids)
            tenants = self._tenants(edit, batch)
            owners = _owners(batch, tenants)
            replaced = []
            for tenant, places in by_tenant(owners):
                own = batch.ids if places is None else batch.ids.part(places)
                known = membership.known_rows(edit, tenant, own, add=add)
                membership.check_row_quota(edit, tenant, coming=len(own) - len(known))
                replaced += known
        tenancy = batch.tenancy
        granted = {}
        if tenancy is not None and len(tenancy.granted_to):
            to = tenants[tenancy.granted_to]
            granted = {
                tenant: tenancy.granted_rows if places is None else tenancy.granted_rows[places]
                for tenant, places in by_tenant(to)
            }
        new = NewRows(batch.vectors, batch.ids.values, owners, granted, batch.metadata)

        def put_facts(edit: Edit, rows: U32) -> None:
            self._put_facts(edit, batch, self._tenants(edit, batch), rows, add, indexed=True)
            self._writing.receipts.put(edit.transaction)

        self._indexer.run(new, np.array(replaced, np.uint32), put_facts, progress=progress)

    def _put_facts(
        self, edit: Edit, batch: Batch, tenants: U32, rows: U32, add: bool, *, indexed: bool
    ) -> U32:
        """Write ids, grants, metadata and documents of new rows; returns their owners."""
        self._check_kind(edit, batch.ids)
        owners = _owners(batch, tenants)
        for tenant, places in by_tenant(owners):
            own = (batch.ids, rows) if places is None else (batch.ids.part(places), rows[places])
            membership.put_rows(edit, tenant, *own, add=add)
            membership.check_row_quota(edit, tenant)
        tenancy = batch.tenancy
        if tenancy is not None and len(tenancy.granted_to):
            self._put_grants(edit, batch, tenancy, tenants, owners, rows, indexed)
        edit.put_facts(rows.tolist(), batch.metadata, batch.documents)
        return owners

    def _put_grants(
        self,
        edit: Edit,
        batch: Batch,
        tenancy: Tenancy,
        tenants: U32,
        owners: U32,
        rows: U32,
        indexed: bool,
    ) -> None:
        """Grant new rows as the call says."""
        to = tenants[tenancy.granted_to]
        for tenant, places in by_tenant(to):
            own = tenancy.granted_rows if places is None else tenancy.granted_rows[places]
            ids = batch.ids.part(own)
            membership.grant_new(edit, tenant, ids, rows[own], owners[own], pending=not indexed)
        membership.put_grantees(edit, rows[tenancy.granted_rows], to)

    def _check_kind(self, edit: Edit, ids: Ids) -> None:
        """Fix the kind of ids at the first write, and hold others to it."""
        if edit.state.int_ids is None:
            edit.state.int_ids = ids.is_int
        check_id_kind(ids, edit.state.int_ids, self._identity.name)

    def _tenants(self, edit: Edit, batch: Batch) -> U32:
        """Numbers of the tenants that a call names; new ones are created."""
        if batch.tenancy is None:
            return np.zeros(1, np.uint32)
        numbers = [edit.tenant_number(name) for name in batch.tenancy.names]
        return np.array(numbers, np.uint32)

    def delete(self, ids: Ids | None, where: Filter | None, tenant: str | None = None) -> int:
        """Delete rows by id, by filter, or those that both name. Returns rows removed."""
        with self._lock:
            if where is not None:
                ids = self._matching_ids(tenant, ids, where)
            assert ids is not None, "the caller refuses to delete without ids and without a filter"
            with self._editing() as edit:
                number = self._number(edit.transaction, tenant)
                if number is not None:
                    edit.result = membership.delete_rows(edit, number, ids)
        self._count_removed(edit.result)
        return edit.result

    def _count_removed(self, rows: int) -> None:
        """Let maintenance give space back once many rows have ended."""
        self._removed += rows
        if self._removed >= REMOVED_MIN:
            self._removed, self._look = 0, True
        if self._look:
            self._maintenance.after_write(self, adds=False)

    def _matching_ids(self, tenant: str | None, ids: Ids | None, where: Filter) -> Ids:
        """Ids of the rows that a filter matches, among the given ones."""
        snapshot = self._snapshot()
        rows = np.zeros(0, np.uint32)
        with self._writing.reading() as transaction:
            number = self._number(transaction, tenant)
            if number is not None:
                view = open_tenant(snapshot, transaction, number)
                check_where_quota(view, where)
                rows = matching_rows(transaction, view, where)
                if ids is not None:
                    named, _ = find_ids(transaction, self._writing.collection, [number], ids)
                    rows = np.intersect1d(rows, named)
        found = snapshot.ids_of(rows)
        is_int = found.dtype == np.int64
        return Ids(found if is_int else found.tolist(), False, is_int)

    # --- tenants ---------------------------------------------------------------------------

    def grant(self, ids: Ids, owner: str, grantee: str) -> int:
        """Let another tenant see rows of the owner; returns how many it did not see before."""
        with self._lock, self._editing() as edit:
            number = self._number(edit.transaction, owner)
            if number is None:
                return 0
            edit.result = membership.grant(edit, number, edit.tenant_number(grantee), ids)
        self._maintenance.after_write(self)
        return edit.result

    def revoke(self, ids: Ids, owner: str, grantee: str) -> int:
        """End grants; returns how many there were."""
        with self._lock, self._editing() as edit:
            number, other = (
                self._number(edit.transaction, owner),
                self._number(edit.transaction, grantee),
            )
            if number is None or other is None:
                return 0
            edit.result = membership.revoke(edit, number, other, ids)
            record = edit.tenant(other)
            if record.revoked * REVOKED_MAX > record.indexed_rows + LOG_ROWS_MAX:
                self._worn.add(other)
        self._maintenance.after_write(self, adds=False)
        return edit.result

    def drop_tenant(self, name: str) -> None:
        """Delete a tenant and its rows; unknown ones are skipped."""
        with self._lock, self._editing() as edit:
            number = self._number(edit.transaction, name)
            if number is None:
                return
            rows = edit.tenant(number).rows
            if drop_tenant(edit, number):
                self._leftovers.due = self._look = True
        self._count_removed(rows)

    def set_quota(self, name: str, quota: dict[str, int | None]) -> None:
        """Set what a tenant may have and ask for; None lifts a limit."""
        with self._lock, self._editing() as edit:
            record = edit.tenant(edit.tenant_number(name))
            for limit, value in quota.items():
                setattr(record, f"quota_{limit}", value)

    def _number(self, transaction: Transaction, tenant: str | None) -> int | None:
        if tenant is None:
            return TENANT_NONE
        return known_tenant(transaction, self._writing.collection, tenant)

    @contextmanager
    def _editing(self) -> Iterator[Edit]:
        """One transaction's changes; what raises undoes them all."""
        with (
            sharing(self._writing.session.others_run),
            self._environment.write_soon() as transaction,
        ):
            edit = Edit(transaction, self._identity)
            yield edit
            edit.finish()
            self._writing.receipts.put(transaction, edit.result)


def _owners(batch: Batch, tenants: U32) -> U32:
    """Tenant of each row of a call."""
    if batch.tenancy is None:
        return np.zeros(len(batch.ids), np.uint32)
    return tenants[batch.tenancy.owners]


def by_tenant(owners: U32) -> list[tuple[int, NDArray[np.int64] | None]]:
    """Tenants and places of their rows; None for the places when all are of one tenant."""
    if not len(owners):
        return []
    if (owners == owners[0]).all():
        return [(int(owners[0]), None)]
    order = np.argsort(owners, kind="stable")
    tenants, first = np.unique(owners[order], return_index=True)
    return list(zip(tenants.tolist(), np.split(order, first[1:]), strict=True))
