"""Verifying every invariant of a store, by name.

Read-only and independent of caches: extents are mapped anew and every checksum is looked at.
The walk holds one row-sized table per collection and never all vectors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import xxhash
from numpy.typing import NDArray

from vecstore import layout
from vecstore.attributes import Attributes, faults
from vecstore.codecs import Codec, find_codec
from vecstore.config import POSTING_ROWS_MAX, RUN_ROWS_MAX
from vecstore.directory import Directories
from vecstore.errors import CorruptionError, VecstoreError
from vecstore.extent_set import Identity
from vecstore.extents import Extent, extent_path
from vecstore.kernels.encode import gather_rows
from vecstore.layout import (
    TENANT_NONE,
    CollectionRecord,
    ExtentKind,
    Kind,
    Section,
    TenantRecord,
)
from vecstore.postings import PostingRuns
from vecstore.rawrows import page_sums
from vecstore.results import Violation
from vecstore.rowlog import read_log
from vecstore.snapshot import Snapshot, read_state, scan, take_snapshot
from vecstore.storage import Environment
from vecstore.tenant_view import TenantView, open_tenant

U32 = NDArray[np.uint32]


def check_store(
    environment: Environment, catalogue: dict[str, CollectionRecord], quiet: bool
) -> list[Violation]:
    """Verify all collections and the extents folder.

    Parameters
    ----------
    environment : Environment
    catalogue : dict
        Records of the collections by name.
    quiet : bool
        Nobody writes: a file that no transaction names is left over, not on its way.

    Returns
    -------
    list of Violation
        Empty when the store is sound.
    """
    found: list[Violation] = []
    named: dict[int, int] = {}
    transaction = environment.read()
    try:
        for name, record in catalogue.items():
            identity = Identity(name, record, environment.extents)
            found += _check_collection(transaction, identity, named)
        for key, _ in scan(transaction, layout.key(0, Kind.RETIRED)):
            named[int(layout.U64.unpack(key[-8:])[0])] = -1
    finally:
        transaction.abort()
    found += _check_folder(environment.extents, named if quiet else None)
    return found


def _check_folder(folder: Path, named: dict[int, int] | None) -> Iterator[Violation]:
    """Every extent is named by LMDB (invariant 6; presence is seen when mapping)."""
    for entry in sorted(folder.iterdir()):
        number = entry.stem
        if entry.suffix != ".ext" or not number.isdigit():
            yield Violation("extents-named", str(entry), "a file that is no extent")
        elif named is not None and int(number) not in named:
            yield Violation("extents-named", str(entry), "no transaction names this extent")


def _check_collection(
    transaction: lmdb.Transaction, identity: Identity, named: dict[int, int]
) -> list[Violation]:
    name = identity.name
    prefix = layout.key(identity.record.number, Kind.EXTENT)
    broken: list[Violation] = []
    state = read_state(transaction, identity.record.number)
    codec = find_codec(state.codec, identity.record.dim)
    for key, value in scan(transaction, prefix):
        number = int(layout.U64.unpack(key[len(prefix) :])[0])
        record = layout.unpack(value, type=layout.ExtentRecord)
        named[number] = record.bytes
        try:
            extent = Extent(identity.folder, number, record, name)
            broken += _check_sums(identity, codec, extent)
        except FileNotFoundError:
            path = extent_path(identity.folder, number)
            broken.append(Violation("extents-present", f"{name}: {path}", "the file is missing"))
        except CorruptionError as error:
            broken.append(Violation("checksums", f"{name}: extent {number}", str(error)))
    if broken:
        return broken
    try:
        snapshot = take_snapshot(identity, transaction, None)
    except VecstoreError as error:
        return [Violation("snapshot", name, str(error))]
    return [
        *_check_ids(transaction, snapshot),
        *_check_facts(transaction, snapshot),
        *_check_tenants(transaction, snapshot),
    ]


def _check_sums(identity: Identity, codec: Codec, extent: Extent) -> Iterator[Violation]:
    """Every checksum holds (invariant 2)."""
    where = f"{identity.name}: extent {extent.number}"
    for section in Section:
        if extent.has(section) and section not in layout.BULK_SECTIONS:
            extent.array(section, np.uint8)
    if extent.kind == ExtentKind.RAW:
        rows = extent.array(Section.ROWS, np.uint8).data
        sums = extent.array(Section.ROW_SUMS, np.uint64).tolist()
        for page, found in enumerate(page_sums(rows)):
            if page >= len(sums) or found != sums[page]:
                yield Violation("checksums", where, f"page {page} of raw rows")
    if extent.kind == ExtentKind.DIRECTORY:
        directories = Directories(extent, codec, identity.record.metric)
        for tenant in directories.tenants.tolist():
            directories.find(tenant)
    if extent.kind == ExtentKind.POSTINGS:
        runs = PostingRuns(extent, codec.run_block_bytes(identity.record.dim))
        for run in range(len(runs.runs)):
            if not runs.intact(run):
                yield Violation("checksums", where, str(runs.damage(run)))
    if extent.kind == ExtentKind.ATTRIBUTES:
        index = Attributes(extent)
        for tenant in index.tenants.tolist():
            if not index.intact(tenant):
                yield Violation(
                    "checksums", where, f"the metadata index of tenant {tenant} is damaged"
                )


def _check_ids(transaction: lmdb.Transaction, snapshot: Snapshot) -> Iterator[Violation]:
    """Id -> row and row -> id agree, and so do grants and counts (invariants 2 and 5)."""
    identity = snapshot.identity
    collection = identity.record.number
    where = identity.name
    is_int = bool(snapshot.state.int_ids)
    owned: dict[int, int] = {}
    granted: list[tuple[int, int, int]] = []
    start = len(layout.id_prefix(collection, TENANT_NONE))
    for key, value in scan(transaction, layout.key(collection, Kind.ID)):
        tenant = int(layout.U32.unpack_from(key, start - 4)[0])
        row, owner = layout.unpack_id(value, tenant)
        public = layout.decode_id(key[start:], is_int)
        if not snapshot.is_live(row):
            yield Violation("ids-rows-agree", where, f"id {public!r} points to dead row {row}")
        elif snapshot.id_of(row) != public:
            yield Violation(
                "ids-rows-agree", where, f"row {row} has id {snapshot.id_of(row)!r}, not {public!r}"
            )
        elif owner != tenant:
            granted.append((row, owner, tenant))
        elif row in owned:
            yield Violation("ids-rows-agree", where, f"row {row} has two owners")
        elif snapshot.owner_of(row) != tenant:
            yield Violation(
                "ids-rows-agree", where, f"row {row} is not stored as tenant {tenant}'s"
            )
        else:
            owned[row] = tenant
    seen = np.zeros_like(snapshot.live)
    layout.set_bits(seen, np.array(list(owned), np.uint32), True)
    orphans = int(np.bitwise_count(snapshot.live & ~seen).sum())
    if orphans:
        yield Violation("ids-rows-agree", where, f"{orphans} live rows have no id")
    if len(owned) != snapshot.state.live_rows:
        yield Violation(
            "counts-agree",
            where,
            f"{len(owned)} ids, but {snapshot.state.live_rows} live rows counted",
        )
    yield from _check_grants(transaction, snapshot, owned, granted)


def _check_grants(
    transaction: lmdb.Transaction,
    snapshot: Snapshot,
    owned: dict[int, int],
    granted: list[tuple[int, int, int]],
) -> Iterator[Violation]:
    """What grantees see and what rows list agree; tenants count their rows (invariant 2)."""
    collection, where = snapshot.identity.record.number, snapshot.identity.name
    for row, owner, _ in granted:
        if owned.get(row) != owner:
            yield Violation("grants-agree", where, f"row {row} is not owner {owner}'s to grant")
    listed: set[tuple[int, int]] = set()
    shared = 0
    for key, value in scan(transaction, layout.key(collection, Kind.GRANTEES)):
        row = int(layout.U32.unpack(key[-4:])[0])
        listed |= {(row, tenant) for tenant in layout.unpack_numbers(value)}
        shared += 1
    seen = {(row, tenant) for row, _, tenant in granted}
    for row, tenant in sorted(listed ^ seen):
        yield Violation("grants-agree", where, f"row {row} and tenant {tenant} disagree")
    if shared != snapshot.state.shared_rows:
        yield Violation(
            "counts-agree", where, f"{shared} shared rows, {snapshot.state.shared_rows} counted"
        )
    noted = {}
    for kind in (Kind.PENDING, Kind.REVOKED):
        prefix = layout.key(collection, kind)
        keys = [key[len(prefix) :] for key, _ in scan(transaction, prefix)]
        noted[kind] = {(int(row), int(own)) for own, row in map(layout.unpack_numbers, keys)}
        for row, tenant in sorted(
            noted[kind] - seen if kind == Kind.PENDING else noted[kind] & seen
        ):
            yield Violation(
                "grants-agree", where, f"row {row} is {kind.name.lower()} for tenant {tenant}"
            )
    note_counts = [Counter(tenant for _, tenant in rows) for rows in noted.values()]
    own_counts, granted_counts = Counter(owned.values()), Counter(t for _, _, t in granted)
    pending = 0
    for key, value in scan(transaction, layout.key(collection, Kind.TENANT)):
        tenant = int(layout.U32.unpack(key[-4:])[0])
        record = layout.unpack(value, type=TenantRecord)
        pending += record.pending
        counted = (record.rows, record.granted, record.pending, record.revoked)
        notes = [counts.pop(tenant, 0) for counts in note_counts]
        if counted != (own_counts.pop(tenant, 0), granted_counts.pop(tenant, 0), *notes):
            yield Violation("counts-agree", where, f"tenant {tenant} counts its rows wrongly")
        name = layout.key(collection, Kind.TENANT_NAME, record.name.encode())
        if tenant != TENANT_NONE and transaction.get(name) != layout.U32.pack(tenant):
            yield Violation("tenants-named", where, f"tenant {tenant} is not {record.name!r}")
    if own_counts or granted_counts or any(note_counts):
        yield Violation("tenants-named", where, "rows belong to tenants that do not exist")
    if pending != snapshot.state.pending:
        yield Violation(
            "counts-agree", where, f"{pending} pending grants, {snapshot.state.pending} counted"
        )


def _check_facts(transaction: lmdb.Transaction, snapshot: Snapshot) -> Iterator[Violation]:
    """Metadata and documents stand under live rows and are counted (invariant 2)."""
    identity = snapshot.identity
    collection = identity.record.number
    for kind, counted in (
        (Kind.METADATA, snapshot.state.metadata_rows),
        (Kind.DOCUMENT, snapshot.state.document_rows),
    ):
        prefix = layout.key(collection, kind)
        count = 0
        for key, _ in scan(transaction, prefix):
            count += 1
            row = int(layout.U32.unpack(key[len(prefix) :])[0])
            if not snapshot.is_live(row):
                yield Violation("facts-live", identity.name, f"{kind.name} of dead row {row}")
        if count != counted:
            yield Violation(
                "counts-agree", identity.name, f"{count} {kind.name} records, {counted} counted"
            )
    for row, tenant, raw_id, vector in read_log(transaction, collection, 0):
        if row < snapshot.state.log_first or len(vector) != identity.row_bytes:
            yield Violation("row-log", identity.name, f"row {row} of {tenant} ({raw_id!r})")


def _check_tenants(transaction: lmdb.Transaction, snapshot: Snapshot) -> Iterator[Violation]:
    """Every tenant's rows are where it looks for them (invariants 1 to 4)."""
    collection, where = snapshot.identity.record.number, snapshot.identity.name
    numbers = [
        int(layout.U32.unpack(key[-4:])[0])
        for key, _ in scan(transaction, layout.key(collection, Kind.TENANT))
    ]
    for number in numbers:
        try:
            view = open_tenant(snapshot, transaction, number)
            yield from _check_directory(view)
            yield from _check_postings(transaction, view)
            yield from _check_metadata(transaction, view)
        except CorruptionError as error:
            yield Violation("tenant-readable", f"{where}: tenant {number}", str(error))


def _check_postings(transaction: lmdb.Transaction, view: TenantView) -> Iterator[Violation]:
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
    ids = [value[:4] for _, value in scan(transaction, prefix)]
    layout.set_bits(known, layout.unpack_rows(ids), True)
    missing = int(np.bitwise_count(known & view.live & ~reached).sum())
    if missing:
        yield Violation("rows-reachable", where, f"{missing} live rows are in no posting")
    foreign = int(np.bitwise_count(reached & view.live & ~known).sum())
    if foreign:
        yield Violation("rows-own", where, f"{foreign} rows of others are in its postings")


def _check_metadata(transaction: lmdb.Transaction, view: TenantView) -> Iterator[Violation]:
    """The metadata index of a tenant says of each row what its metadata says."""
    identity = view.snapshot.identity
    where = identity.name if view.number == TENANT_NONE else f"{identity.name}: {view.record.name}"

    def metadata(row: int) -> dict[str, Any] | None:
        raw = transaction.get(layout.key_u32(identity.record.number, Kind.METADATA, row))
        return None if raw is None else layout.unpack(raw)

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
