"""Making damage good where what is damaged follows from rows, ids and facts.

Postings and directories are made anew from the vectors, the index of metadata from the metadata.
To get that far without them, a snapshot is made of the raw extents alone, in which no row stands in
a posting; the indexer then brings all rows into new ones, and the same commit stops naming the
old.  A damaged vector has no second copy: its rows are named, and stay as they are.

Invariants
----------
* Nothing is made from rows or facts that are not sound themselves.
* A repair is one commit per collection: until then, and if it fails, all is as it was.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from vecstore import layout
from vecstore.build import Builder
from vecstore.built import Built
from vecstore.check import (
    Broken,
    broken_extents,
    broken_pieces,
    check_collection,
    check_rows,
    damaged_entries,
)
from vecstore.check_tenants import check_tenants
from vecstore.checkpoint import give_up
from vecstore.clustering import Progress, worker_pool
from vecstore.compaction import Compactor
from vecstore.errors import DiskFullError, VecstoreError
from vecstore.extent_set import Identity
from vecstore.indexing import Indexer
from vecstore.layout import TENANT_NONE, ExtentKind, Kind
from vecstore.lookups import extent_records, read_tenant
from vecstore.lost import drop_lost, find_lost, tell_lost
from vecstore.publish import ExtentNumbers, abandon, clear_retired, publishing
from vecstore.recalibration import Recalibration
from vecstore.results import Violation
from vecstore.snapshot import Snapshot, take_snapshot
from vecstore.tenant_view import TenantView, make_view, open_tenant
from vecstore.transaction import Transaction
from vecstore.writing import Captured, Writing

U32 = NDArray[np.uint32]
_NO_ROWS = np.zeros(0, np.uint32)


def repair_collection(
    writing: Writing, progress: Progress, *, drop_damaged: bool = False
) -> list[str]:
    """Repair a collection; the build lock and the write lock must be held.

    Parameters
    ----------
    writing : Writing
    progress : callable
    drop_damaged : bool
        Delete the rows whose vectors are damaged; otherwise they are told, and nothing is done.

    Returns
    -------
    list of str
        What was done and what could not be, in sentences.
    """
    identity = writing.identity
    with writing.reading() as transaction:
        damaged = damaged_entries(transaction, identity.record.number, identity.name)
        if damaged:
            return [_tell_left(identity, damaged)]
        unfinished = broken_pieces(transaction, identity, {})
        broken = broken_extents(transaction, identity, {})
        raws = [one for one in broken if one.record.kind == ExtentKind.RAW]
        broken = [one for one in broken if one.record.kind != ExtentKind.RAW]
        lost = [find_lost(transaction, identity, one) for one in raws]
    if any(one.rows for one in lost) and not drop_damaged:
        said = [tell_lost(identity, one) for one in lost if one.rows]
        return said + [_tell_left(identity, one.violations) for one in broken]
    said = drop_lost(writing, lost) if lost else []
    if unfinished and give_up(writing):
        said.append(f"Collection {identity.name!r}: what a load had left unfinished was dropped.")
    try:
        said += _make_anew(writing, broken, progress)
    except CannotRepairError as error:
        return [*said, str(error)]
    if any(one.readable for one in lost):
        Compactor(writing).compact(progress)
        said.append(f"Collection {identity.name!r}: its vectors were written anew.")
    if not said:
        return []
    with writing.reading() as transaction:
        left = check_collection(transaction, identity, {})
    return said + ([_tell_left(identity, left)] if left else [])


class CannotRepairError(Exception):
    """What a collection is to be made anew from does not agree; its text says so to the user."""


def _make_anew(writing: Writing, broken: Sequence[Broken], progress: Progress) -> list[str]:
    """Make postings, directories and metadata index anew, if they are not as they should be."""
    identity = writing.identity
    with writing.reading() as transaction:
        try:
            rows = take_snapshot(identity, transaction, None, [ExtentKind.RAW])
        except VecstoreError as error:
            text = f"Collection {identity.name!r} was left as it is: {error}"
            raise CannotRepairError(text) from error
        wrong = list(check_rows(transaction, rows))
        if wrong:
            raise CannotRepairError(_tell_left(identity, wrong))
        names = extent_records(transaction, identity.record.number)
        indexes = [n for n, record in names.items() if record.kind == ExtentKind.ATTRIBUTES]
        searched = [kind for kind in ExtentKind if kind != ExtentKind.ATTRIBUTES]
        only_metadata = all(one.number in indexes for one in broken)
        if only_metadata and _answers(transaction, identity, searched):
            if not broken and _answers(transaction, identity, list(ExtentKind)):
                return []
            rows = take_snapshot(identity, transaction, None, searched)
        else:
            indexes = []
    if indexes:
        _rewrite_attributes(writing, rows, indexes, progress)
        done = "its index of metadata was made anew"
    else:
        _rebuild(writing, rows, names, progress)
        done = f"postings were made anew from its {rows.state.live_rows} rows"
    return [f"Collection {identity.name!r}: {done}{_because(broken)}."]


def _answers(transaction: Transaction, identity: Identity, kinds: Collection[ExtentKind]) -> bool:
    """Tell whether extents of these kinds can be used, and lead every tenant to its rows."""
    try:
        snapshot = take_snapshot(identity, transaction, None, kinds)
        metadata = ExtentKind.ATTRIBUTES in kinds
        return not list(check_tenants(transaction, snapshot, metadata=metadata))
    except VecstoreError:
        return False


# --- making anew -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _FromRows(Writing):
    """Shows tenants of one snapshot as if none of their rows were in a posting.

    Attributes
    ----------
    rows : Snapshot
        Of raw extents alone.
    """

    rows: Snapshot

    @contextmanager
    def captured(self, *, seal: bool = False) -> Iterator[Captured]:
        """Capture the snapshot of the rows; the write lock keeps it the newest."""
        with self.reading() as transaction:
            yield _Unindexed(self.rows, transaction)


class _Unindexed(Captured):
    """A state in which no row stands in a posting."""

    def view(self, tenant: int = TENANT_NONE) -> TenantView:
        """View a tenant: by its ids, not by its directory."""
        snapshot, transaction = self.snapshot, self.transaction
        collection = snapshot.identity.record.number
        record = read_tenant(transaction, collection, tenant)
        known = _NO_ROWS
        if tenant != TENANT_NONE:
            prefix = layout.id_prefix(collection, tenant)
            values = [value[: layout.U32.size] for _, value in transaction.scan(prefix)]
            known = layout.unpack_rows(values)
        places = snapshot.log.places(tenant, snapshot.log_count)
        stored = np.setdiff1d(known, snapshot.log.numbers[places]).astype(np.uint32)
        unindexed = msgspec.structs.replace(record, directory=0)
        return make_view(snapshot, tenant, unindexed, stored, _NO_ROWS)


def _rebuild(
    writing: Writing,
    rows: Snapshot,
    names: dict[int, layout.ExtentRecord],
    progress: Progress,
) -> None:
    """Divide the rows of every tenant anew and write all that is found by them."""
    old = [number for number, record in names.items() if record.kind != ExtentKind.RAW]
    indexer = Indexer(
        _FromRows(writing.session, writing.identity, writing.newest, writing.searcher, rows)
    )
    indexer.run(lost=old, progress=progress)
    with suppress(DiskFullError):  # the repair is done; the rest is done by maintenance
        Recalibration(writing).run(progress)
        clear_retired(writing)


def _rewrite_attributes(
    writing: Writing, snapshot: Snapshot, old: Sequence[int], progress: Progress
) -> None:
    """Write the index of metadata anew, from the metadata of the rows in postings."""
    environment, identity = writing.environment, writing.identity
    numbers = ExtentNumbers(environment)
    pool = worker_pool(1)
    built = Built(identity)
    try:
        builder = Builder(identity, snapshot.extents.codec, numbers, pool, progress)
        with writing.reading() as transaction:

            def metadata(row: int) -> dict[str, Any] | None:
                return snapshot.metadata(transaction, [row])[0]

            tenants = [
                int(layout.U32.unpack(key[-4:])[0])
                for key, _ in transaction.scan(layout.key(writing.collection, Kind.TENANT))
            ]
            entries = ((one, _entries(open_tenant(snapshot, transaction, one))) for one in tenants)
            builder.put_attributes(built, entries, metadata)
        with publishing(writing, numbers) as edit:
            edit.retire_extents(old)
            edit.add_extents(built.extents)
    except BaseException:
        abandon(environment, identity, [built])
        raise
    finally:
        pool.shutdown()
    with suppress(DiskFullError):  # the next writer removes them
        clear_retired(writing)


def _entries(view: TenantView) -> U32:
    """Live rows in a tenant's postings, revoked ones too: granted again, they are found at once."""
    if view.number == TENANT_NONE:
        return view.indexed
    snapshot = view.snapshot
    block_bytes = snapshot.extents.codec.block_bytes(snapshot.identity.record.dim)
    rows: U32 = np.unique(view.index.entries(block_bytes)[1])
    return rows[layout.get_bits(snapshot.live, rows)]


# --- sentences ---------------------------------------------------------------------------------


def _because(broken: Iterable[Broken]) -> str:
    """Say which extents were damaged."""
    told = [f"{ExtentKind(one.record.kind).name.lower()} {one.number}" for one in broken]
    return f" (damaged: {', '.join(told)})" if told else ""


def _tell_left(identity: Identity, violations: Sequence[Violation]) -> str:
    """Say what is wrong and was not touched."""
    first = violations[0]
    more = f", and {len(violations) - 1} more" if len(violations) > 1 else ""
    return (
        f"Collection {identity.name!r} was left as it is: {first.invariant}: {first.where}: "
        f"{first.detail}{more}. Restore a backup."
    )
