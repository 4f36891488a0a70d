"""Verifying what follows from the rows of each tenant: postings, directories, metadata index."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from vecstore import layout
from vecstore.attributes import faults
from vecstore.config import POSTING_ROWS_MAX, RUN_ROWS_MAX
from vecstore.errors import CorruptionError
from vecstore.kernels.encode import gather_rows
from vecstore.layout import TENANT_NONE, Kind
from vecstore.results import Violation
from vecstore.snapshot import Snapshot
from vecstore.tenant_view import TenantView, open_tenant
from vecstore.transaction import Transaction

U32 = NDArray[np.uint32]


def check_tenants(
    transaction: Transaction, snapshot: Snapshot, *, metadata: bool = True
) -> Iterator[Violation]:
    """Every tenant's rows are where it looks for them (invariants 1 to 5).

    Parameters
    ----------
    metadata : bool
        The index of metadata is looked at, too.
    """
    collection, where = snapshot.identity.record.number, snapshot.identity.name
    numbers = [
        int(layout.U32.unpack(key[-4:])[0])
        for key, _ in transaction.scan(layout.key(collection, Kind.TENANT))
    ]
    for number in numbers:
        try:
            view = open_tenant(snapshot, transaction, number)
            yield from _check_directory(view)
            yield from _check_postings(transaction, view)
            if metadata:
                yield from _check_metadata(transaction, view)
        except CorruptionError as error:
            yield Violation("tenant-readable", f"{where}: tenant {number}", str(error))


def _check_postings(transaction: Transaction, view: TenantView) -> Iterator[Violation]:
    """A tenant's rows are fresh or in a posting; no other's is (invariants 1, 2, 3)."""
    snapshot = view.snapshot
    identity = snapshot.identity
    where = identity.name if view.number == TENANT_NONE else f"{identity.name}: {view.record.name}"
    block_bytes = snapshot.extents.codec.block_bytes(identity.record.dim)
    reached = np.zeros_like(snapshot.live)
    layout.set_bits(reached, view.fresh, True)
    index = view.index
    for place, rows, counted, base in index.runs(block_bytes):
        posting = f"{where}: posting {place}"
        if len(rows) != counted:
            yield Violation("counts-agree", posting, f"{len(rows)} entries, {counted} counted")
        inside = rows[rows < np.uint32(len(snapshot.live) * 64)]
        if len(inside) != len(rows):
            yield Violation("rows-known", posting, "an entry names a row that never was")
        layout.set_bits(reached, inside, True)
        limit = POSTING_ROWS_MAX if len(index.first_run) > 2 else RUN_ROWS_MAX
        # fragments wait for the next training, as stats tells
        if base and len(rows) > limit and not index.listed and not _identical(snapshot, rows):
            yield Violation("posting-limit", posting, f"{len(rows)} entries; the limit is {limit}")
    known = np.zeros_like(snapshot.live)
    prefix = layout.id_prefix(identity.record.number, view.number)
    ids = [value[:4] for _, value in transaction.scan(prefix)]
    layout.set_bits(known, layout.unpack_rows(ids), True)
    missing = int(np.bitwise_count(known & view.live & ~reached).sum())
    if missing:
        yield Violation("rows-reachable", where, f"{missing} live rows are in no posting")
    foreign = int(np.bitwise_count(reached & view.live & ~known).sum())
    if foreign:
        yield Violation("rows-own", where, f"{foreign} rows of others are in its postings")


def _check_metadata(transaction: Transaction, view: TenantView) -> Iterator[Violation]:
    """The metadata index of a tenant says of each row what its metadata says."""
    identity = view.snapshot.identity
    where = identity.name if view.number == TENANT_NONE else f"{identity.name}: {view.record.name}"

    def metadata(row: int) -> dict[str, Any] | None:
        return view.snapshot.metadata(transaction, [row])[0]

    indexed = np.setdiff1d(view.indexed, view.fresh)
    missing = indexed
    for source in view.snapshot.extents.attributes:
        named = [entry.rows for entry in source.entries(view.number)]
        present = np.intersect1d(np.concatenate([indexed[:0], *named]), indexed)
        missing = np.setdiff1d(missing, present)
        for fault in faults(source, view.number, present.astype(np.uint32), metadata):
            yield Violation("metadata-indexed", where, fault)
    lost = [row for row in missing.tolist() if metadata(row)]
    if lost:
        yield Violation("metadata-indexed", where, f"rows {lost[:5]} are in no metadata index")


def _identical(snapshot: Snapshot, rows: U32) -> bool:
    """Tell whether rows that share an oversized run are equal vectors, up to copies."""
    identity = snapshot.identity
    vectors = np.empty((len(rows), identity.record.dim), np.float32)
    gather_rows(identity.form.number, snapshot.addresses(rows), vectors)
    sums = [xxhash.xxh3_64_intdigest(vector.data) for vector in vectors]
    return bool(np.bincount(np.unique(sums, return_inverse=True)[1]).max() > POSTING_ROWS_MAX // 2)


def _check_directory(view: TenantView) -> Iterator[Violation]:
    """Pages name exactly the postings that exist, each at least once (invariant 4)."""
    directory = view.index.directory
    if directory is None or directory.listed:
        return
    named = np.unique(directory.page_ordinals())
    expected = np.arange(len(directory.centroids), dtype=np.uint32)
    if not np.array_equal(named, expected) or len(directory.postings) != len(expected):
        yield Violation(
            "directory",
            f"{view.snapshot.identity.name}: tenant {view.number}",
            f"pages name {len(named)} centroids of {len(directory.centroids)}",
        )
