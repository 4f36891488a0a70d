"""Bringing rows into the index: what a flush, a bulk load and a retraining do alike.

Each tenant that has something new is looked at by itself: rows that fit its present shape are
appended as fragments, a tenant that outgrew it is divided anew.  All of it becomes visible in
one commit.

Invariants
----------
* After a flush no row is fresh, and nothing granted is pending.
* A tenant divided anew gets new posting numbers; its old runs stay in their extents, unread,
  until these are rewritten.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore import layout, membership
from vecstore.balance import Tally
from vecstore.build import Builder, next_chunk
from vecstore.built import Built
from vecstore.checkpoint import Checkpoint, fingerprint
from vecstore.clustering import Progress, silent, worker_pool
from vecstore.division import Assignment, Divider
from vecstore.extent_set import ExtentSet
from vecstore.facts import Edit
from vecstore.layout import TENANT_NONE, ExtentKind, Kind
from vecstore.publish import ExtentNumbers, abandon, publishing, return_memory
from vecstore.recalibration import Recalibration
from vecstore.row_source import Rows
from vecstore.rowsets import distinct
from vecstore.shares import NewRows, Share, places_by_tenant, share_of
from vecstore.snapshot import Snapshot
from vecstore.tenant_view import TenantView, rows_under
from vecstore.upkeep import find_change
from vecstore.writing import Captured, Writing

I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
_NO_ROWS = np.zeros(0, np.uint32)


class Indexer:
    """Brings the rows of one collection into its index.

    Attributes
    ----------
    balance : bool
        Postings are divided, dissolved and renewed as rows come; off, they only grow.
    tally : Tally
        What keeping them in shape has done since the store was opened.
    """

    def __init__(self, writing: Writing) -> None:
        self._writing = writing
        self._environment = writing.environment
        self._identity = writing.identity
        self.recalibration = Recalibration(writing)
        self.tally = Tally()
        self.balance = True

    def run(
        self,
        new: NewRows | None = None,
        replaced: U32 = _NO_ROWS,
        put_facts: Callable[[Edit, U32], None] | None = None,
        *,
        anew: Collection[int] = (),
        lost: Collection[int] | None = None,
        progress: Progress = silent,
    ) -> None:
        """Bring fresh rows, pending grants and new rows into extents; the build lock must be held.

        Without new rows other calls may write meanwhile; with them, the write lock must be held
        too.

        Parameters
        ----------
        new : NewRows, optional
        replaced : uint32
            Rows that end with this call.
        put_facts : callable
            `put_facts(edit, row numbers)` writes ids and facts of the new rows, once they are
            numbered.
        anew : collection of int
            Tenants that are divided anew in any case.
        lost : collection of int, optional
            Extents that are left out of what is read here because they cannot be read; they are
            retired, and every tenant is divided anew.
        """
        with self._writing.captured(seal=new is None) as captured:
            snapshot = captured.snapshot
            everything = lost is not None
            touched = self._touched(captured, everything) | set(anew)
            shares = self._shares(captured, new, replaced, touched, touched if everything else anew)
        numbers = ExtentNumbers(self._environment)
        kept = Checkpoint(self._writing, numbers, fingerprint(self._writing, shares, new))
        pool = worker_pool(self._writing.workers)
        builder = Builder(self._identity, snapshot.extents.codec, numbers, pool, progress, kept)
        builts: list[Built] = []
        try:
            if snapshot.log_count:
                builts.append(builder.store_log(snapshot))
            assignments = self._write(
                snapshot, builder, pool, builts, shares, new, replaced, everything, kept
            )
            gone = self._replaced(snapshot.extents, assignments, builts, everything)
            if kept.keeps:
                return_memory()
            with publishing(self._writing, numbers) as edit:
                edit.report = partial(progress, "publish")
                self._publish(edit, shares, assignments, builts)
                if everything:
                    for tenant in touched - {one.leaves.tenant for one in assignments}:
                        edit.unindex_tenant(tenant)
                        membership.settle_grants(
                            edit, tenant, _NO_ROWS, _NO_ROWS, _NO_ROWS, anew=True
                        )
                edit.retire_extents(sorted(gone.union(lost or ())))
                kept.finish(edit, builts)
                end = next_chunk(snapshot.state.next_row)
                if new is not None and put_facts is not None:
                    edit.reserve(end, len(new.owners))
                    put_facts(edit, builts[-1].numbers)
                    end = next_chunk(edit.state.next_row)
                edit.state.next_row = max(edit.state.next_row, end)
                edit.clear_log(end)
        except BaseException:
            abandon(self._environment, self._identity, builts, kept.owns)
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        if kept.keeps:
            return_memory()

    # --- what belongs to whom --------------------------------------------------------------

    def _shares(
        self,
        captured: Captured,
        new: NewRows | None,
        replaced: U32,
        touched: Collection[int],
        anew: Collection[int],
    ) -> list[Share]:
        """Shares of all tenants that have something new, by number."""
        fresh = places_by_tenant(new)
        snapshot = captured.snapshot
        shares = []
        known = snapshot.state.next_tenant if self._identity.record.tenants else TENANT_NONE + 1
        for tenant in sorted({*fresh, *touched}):
            places = fresh.get(tenant, _NO_ROWS)
            if tenant >= known:
                shares.append(Share(tenant, None, _NO_ROWS, _NO_ROWS, places, True))
                continue
            view = captured.view(tenant)
            share = share_of(self._identity.row_bytes, view, places, replaced)
            if view.record.ever_granted:
                share.pending, share.revoked = self._grants(captured, view)
            share.train = share.train or tenant in anew
            if share.train:
                stored = np.setdiff1d(view.row_numbers(), replaced)
                share.stored = stored.astype(np.uint32)
            if len(share.stored) or len(share.places):
                shares.append(share)
        return shares

    def _grants(self, captured: Captured, view: TenantView) -> tuple[U32, U32]:
        """Rows granted to a tenant that are pending, and those revoked that stand in postings."""
        collection, record = self._writing.collection, view.record
        below = captured.transaction, collection
        return (
            rows_under(*below, Kind.PENDING, view.number, record.pending),
            rows_under(*below, Kind.REVOKED, view.number, record.revoked),
        )

    def _touched(self, captured: Captured, everything: bool) -> set[int]:
        """Tenants with fresh rows or pending grants, or all."""
        snapshot, transaction = captured.snapshot, captured.transaction
        if not self._identity.record.tenants:
            return {TENANT_NONE} if snapshot.log_count or everything else set()
        touched = {  # the row log may still hold rows of tenants that were dropped
            tenant
            for tenant in distinct(snapshot.log.owners[: snapshot.log_count]).tolist()
            if transaction.get(layout.key_u32(self._writing.collection, Kind.TENANT, tenant))
        }
        prefix = layout.key(self._writing.collection, Kind.TENANT if everything else Kind.PENDING)
        for key, _ in transaction.scan(prefix):
            touched.add(int(layout.U32.unpack_from(key, len(prefix))[0]))
        return touched

    # --- writing ---------------------------------------------------------------------------

    def _write(
        self,
        snapshot: Snapshot,
        builder: Builder,
        pool: ThreadPoolExecutor,
        builts: list[Built],
        shares: Sequence[Share],
        new: NewRows | None,
        replaced: U32,
        everything: bool,
        checkpoint: Checkpoint,
    ) -> list[Assignment]:
        """Give all rows of the shares their postings and write these; `builts` gets them."""
        stored = [share.stored for share in shares]
        kept = distinct(np.concatenate([_NO_ROWS, *stored])).astype(np.uint32)
        self._writing.searcher.check_rows(snapshot, kept)
        vectors = None if new is None else new.vectors
        rows = Rows(self._identity, snapshot.addresses(kept), vectors)
        if not rows.n:
            return []
        divider = Divider(self._identity, rows, pool, builder.progress, checkpoint.keeper)
        assignments = self._divide(snapshot, divider, shares, kept)
        rows, kept, assignments = self._balance(
            snapshot, rows, kept, shares, assignments, replaced, pool
        )
        models = [
            share.directory.model
            for share in shares
            if not share.train and share.directory is not None
        ]
        owners = np.zeros(0, np.uint32) if new is None else new.owners
        ids: Any = np.zeros(0, np.int64) if new is None else new.ids
        model = models[0] if models else None
        first_row = next_chunk(snapshot.state.next_row)
        builts.append(builder.write(rows, kept, first_row, owners, ids, assignments, model))
        self._put_attributes(snapshot, builder, builts[-1], new, shares, everything)
        self.tally += Tally(written=sum(int((one.homes >= 0).sum()) for one in assignments))
        return [one.without_rows() for one in assignments]

    def _divide(
        self, snapshot: Snapshot, divider: Divider, shares: Sequence[Share], kept: U32
    ) -> list[Assignment]:
        """Give the rows of every share their postings."""
        parts = []
        for share in shares:
            stored = np.searchsorted(kept, share.stored).astype(np.uint32)
            new = share.places + np.uint32(len(kept)) if len(kept) else share.places
            parts.append(np.concatenate([stored, new]) if len(stored) else new)
        trained = divider.train_all(
            [
                (share.tenant, part)
                for share, part in zip(shares, parts, strict=True)
                if share.train
            ],
            snapshot.state.next_posting,
        )
        assignments = []
        for share, part in zip(shares, parts, strict=True):
            if share.train or share.directory is None:
                assignments.append(next(trained))
            else:
                leaves = share.directory.leaves
                assignments.append(divider.append(leaves, part, share.copies))
        return assignments

    def _balance(
        self,
        snapshot: Snapshot,
        rows: Rows,
        kept: U32,
        shares: Sequence[Share],
        assignments: list[Assignment],
        replaced: U32,
        pool: ThreadPoolExecutor,
    ) -> tuple[Rows, U32, list[Assignment]]:
        """Divide and dissolve postings that are out of shape with the rows that come.

        Returns
        -------
        rows, row numbers of the stored ones, assignments: with the rows that move among them
        """
        if not self.balance:
            return rows, kept, assignments
        changes = [
            find_change(share.view, one, replaced)
            for share, one in zip(shares, assignments, strict=True)
        ]
        concerned = [change.rows for change in changes if change is not None]
        if not concerned:
            return rows, kept, assignments
        stored = distinct(np.concatenate([kept, *concerned])).astype(np.uint32)
        self._writing.searcher.check_rows(snapshot, stored)
        places = np.concatenate(
            [np.searchsorted(stored, kept), len(stored) + np.arange(rows.fresh_count)]
        ).astype(np.uint32)
        more = rows.with_stored(snapshot.addresses(stored))
        next_posting = snapshot.state.next_posting
        next_posting += sum(len(one.leaves.numbers) for one in assignments if one.trained)
        after = []
        for one, change in zip(assignments, changes, strict=True):
            one = replace(one, places=places[one.places])
            if change is not None:
                one, tally = pool.submit(
                    change.apply, one, stored, more.take, next_posting
                ).result()
                next_posting += one.new
                self.tally += tally
            after.append(one)
        return more, stored, after

    def _put_attributes(
        self,
        snapshot: Snapshot,
        builder: Builder,
        built: Built,
        new: NewRows | None,
        shares: Sequence[Share],
        everything: bool,
    ) -> None:
        """Index the metadata of rows that came into postings, or of all."""
        given = None if new is None else new.metadata
        if not snapshot.state.metadata_rows and given is None:
            return
        first = int(built.numbers.min()) if len(built.numbers) else 0
        place_of = np.empty(len(built.numbers), np.int64)
        place_of[built.numbers - np.uint32(first)] = np.arange(len(built.numbers))
        tenants = (
            (
                share.tenant,
                np.sort(
                    np.concatenate(
                        [share.stored if everything else share.fresh, built.numbers[share.places]]
                    )
                ),
            )
            for share in shares
        )

        def metadata(row: int) -> dict[str, Any] | None:
            place = row - first
            if 0 <= place < len(place_of):
                return None if given is None else given[int(place_of[place])]
            raw = transaction.get(layout.key_u32(self._writing.collection, Kind.METADATA, row))
            return None if raw is None else layout.unpack(raw)

        # a later transaction than that of the snapshot: rows that ended since may lack theirs
        transaction = self._environment.read_committed()
        try:
            builder.put_attributes(built, tenants, metadata)
        finally:
            transaction.abort()

    # --- publishing ------------------------------------------------------------------------

    def _publish(
        self,
        edit: Edit,
        shares: Sequence[Share],
        assignments: Sequence[Assignment],
        builts: Sequence[Built],
    ) -> None:
        """Name new extents and tell the tenants what they have in them."""
        directory = builts[-1].directory if builts else 0
        for share, one in zip(shares, assignments, strict=True):
            edit.state.next_posting += len(one.leaves.numbers) if one.trained else max(0, one.new)
            if share.view is not None and not edit.knows(share.tenant):
                continue  # dropped meanwhile
            edit.index_tenant(
                share.tenant,
                directory if one.needs_directory else 0,
                len(share.stored) + len(share.places),
                one.spread,
                anew=one.trained,
            )
            if share.view is not None and share.view.record.ever_granted:
                membership.settle_grants(
                    edit, share.tenant, share.stored, share.pending, share.revoked, anew=one.trained
                )
            if len(one.leaves.numbers) > 1:
                self.recalibration.consider(share.tenant)
        for built in builts:
            edit.add_extents(built.extents)

    def _replaced(
        self,
        extents: ExtentSet,
        assignments: Sequence[Assignment],
        builts: Sequence[Built],
        everything: bool,
    ) -> set[int]:
        """Extents that nobody reads any more once the new ones are named."""
        alone = not self._identity.record.tenants
        kinds: set[ExtentKind] = set()
        if everything:
            kinds |= {ExtentKind.POSTINGS, ExtentKind.DIRECTORY, ExtentKind.ATTRIBUTES}
        elif alone and any(one.trained for one in assignments):
            kinds |= {ExtentKind.POSTINGS, ExtentKind.DIRECTORY}
        elif alone and builts and builts[-1].directory:
            kinds.add(ExtentKind.DIRECTORY)
        return {extent.number for kind in kinds for extent in extents.of_kind(kind)}
