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

import lmdb
import msgspec
import numpy as np
from numpy.typing import NDArray

from vecstore import layout
from vecstore.build import Builder, Built
from vecstore.check import (
    Broken,
    broken_extents,
    check_collection,
    check_rows,
    damaged_pages,
)
from vecstore.check_tenants import check_tenants
from vecstore.clustering import Progress, worker_pool
from vecstore.config import CHUNK_ROWS
from vecstore.errors import CorruptionError, DiskFullError, VecstoreError
from vecstore.extent_set import Identity
from vecstore.extents import Extent
from vecstore.indexing import Indexer
from vecstore.layout import PAGE, TENANT_NONE, ExtentKind, Kind, Section
from vecstore.publish import ExtentNumbers, abandon, clear_retired, publishing
from vecstore.rawrows import RawRows
from vecstore.recalibration import Recalibration
from vecstore.results import Violation
from vecstore.snapshot import Snapshot, extent_records, read_state, read_tenant, scan, take_snapshot
from vecstore.tenant_view import TenantView, make_view, open_tenant
from vecstore.writing import Captured, Writing

U32 = NDArray[np.uint32]
_NO_ROWS = np.zeros(0, np.uint32)
SHOWN = 100
"""Lost rows that a sentence names at most."""


def repair_collection(writing: Writing, progress: Progress) -> list[str]:
    """Repair a collection; the build lock and the write lock must be held.

    Returns
    -------
    list of str
        What was done and what could not be, in sentences.
    """
    identity = writing.identity
    with writing.reading() as transaction:
        broken = broken_extents(transaction, identity, {})
        lost = [one for one in broken if one.record.kind == ExtentKind.RAW]
        if lost:
            said = [_tell_lost(transaction, identity, one) for one in lost]
            others = [one for one in broken if one.record.kind != ExtentKind.RAW]
            return said + [_tell_left(identity, one.violations) for one in others]
        try:
            rows = take_snapshot(identity, transaction, None, [ExtentKind.RAW])
        except VecstoreError as error:
            return [f"Collection {identity.name!r} was left as it is: {error}"]
        wrong = list(check_rows(transaction, rows))
        if wrong:
            return [_tell_left(identity, wrong)]
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
    said = [f"Collection {identity.name!r}: {done}{_because(broken)}."]
    with writing.reading() as transaction:
        left = check_collection(transaction, identity, {})
    return said + ([_tell_left(identity, left)] if left else [])


def _answers(
    transaction: lmdb.Transaction, identity: Identity, kinds: Collection[ExtentKind]
) -> bool:
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
            values = [value[: layout.U32.size] for _, value in scan(transaction, prefix)]
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
        _FromRows(
            writing.environment,
            writing.identity,
            writing.newest,
            writing.lock,
            writing.build_lock,
            writing.searcher,
            rows,
        )
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
                raw = transaction.get(layout.key_u32(writing.collection, Kind.METADATA, row))
                return None if raw is None else layout.unpack(raw)

            tenants = [
                int(layout.U32.unpack(key[-4:])[0])
                for key, _ in scan(transaction, layout.key(writing.collection, Kind.TENANT))
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


def _tell_lost(transaction: lmdb.Transaction, identity: Identity, one: Broken) -> str:
    """Say which rows of a damaged raw extent cannot be read."""
    try:
        lost: Any = _rows_on_damaged_pages(identity, one)
        remedy = "store them again, or restore a backup"
    except (CorruptionError, FileNotFoundError):
        lost = range(one.record.first_row, one.record.first_row + one.record.count)
        remedy = "restore a backup"
    told = _ids_of(transaction, identity, lost)
    shown = ", ".join(told[:SHOWN])
    more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
    return (
        f"Collection {identity.name!r}: extent {one.number} has lost {len(told)} vectors, of "
        f"{shown}{more}. They were kept, and reading them raises CorruptionError; {remedy}."
        if told
        else f"Collection {identity.name!r}: extent {one.number} is damaged where no row lives; "
        f"compact the collection."
    )


def _rows_on_damaged_pages(identity: Identity, one: Broken) -> set[int]:
    """Rows that stand on damaged pages; raises when more than pages is damaged."""
    extent = Extent(identity.folder, one.number, one.record, identity.name)
    for section in Section:
        if extent.has(section) and section not in layout.BULK_SECTIONS:
            extent.array(section, np.uint8)
    raw = RawRows(extent, identity.row_bytes)
    words = layout.align(raw.end_row, CHUNK_ROWS) // 64
    present = np.zeros(words, np.uint64)
    raw.mark(present)
    rows = raw.rows(present)
    lost: set[int] = set()
    for page in damaged_pages(extent):
        first = page * PAGE // identity.row_bytes
        end = -(-(page + 1) * PAGE // identity.row_bytes)
        lost.update(rows[first:end].tolist())
    return lost


def _ids_of(transaction: lmdb.Transaction, identity: Identity, rows: Any) -> list[str]:
    """Live rows among some, each by number and id, and its tenant if there are any."""
    collection = identity.record.number
    is_int = bool(read_state(transaction, collection).int_ids)
    start = len(layout.id_prefix(collection, TENANT_NONE))
    names: dict[int, str] = {}
    told = []
    for key, value in scan(transaction, layout.key(collection, Kind.ID)):
        tenant = int(layout.U32.unpack_from(key, start - 4)[0])
        row, owner = layout.unpack_id(value, tenant)
        if row not in rows or owner != tenant:
            continue
        whose = ""
        if tenant != TENANT_NONE:
            if tenant not in names:
                names[tenant] = read_tenant(transaction, collection, tenant).name
            whose = f" of tenant {names[tenant]!r}"
        told.append((row, f"row {row} (id {layout.decode_id(key[start:], is_int)!r}{whose})"))
    return [text for _, text in sorted(told)]
