"""Verifying every invariant of a store, by name.

Read-only and independent of caches: extents are mapped anew and every checksum is looked at.
The walk holds one row-sized table per collection and never all vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lmdb
import numpy as np
import xxhash
from numpy.typing import NDArray

from vecstore import layout
from vecstore.codecs import Codec, find_codec
from vecstore.config import POSTING_ROWS_MAX
from vecstore.errors import CorruptionError, VecstoreError
from vecstore.extent_set import Identity
from vecstore.extents import Extent, extent_path
from vecstore.kernels.encode import gather_rows
from vecstore.layout import CollectionRecord, ExtentKind, Kind, Section
from vecstore.postings import PostingRuns
from vecstore.rawrows import page_sums
from vecstore.results import Violation
from vecstore.rowlog import read_log
from vecstore.snapshot import Snapshot, read_state, scan, take_snapshot
from vecstore.storage import Environment

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
        *_check_postings(snapshot),
        *_check_directory(snapshot),
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
    if extent.kind == ExtentKind.POSTINGS:
        runs = PostingRuns(extent, codec.run_block_bytes(identity.record.dim))
        for run in range(len(runs.runs)):
            if not runs.intact(run):
                yield Violation("checksums", where, str(runs.damage(run)))


def _check_ids(transaction: lmdb.Transaction, snapshot: Snapshot) -> Iterator[Violation]:
    """Id -> row and row -> id agree, and so do the counts (invariants 2 and 5)."""
    identity = snapshot.identity
    collection = identity.record.number
    where = identity.name
    is_int = bool(snapshot.state.int_ids)
    agreeing: list[int] = []
    count = 0
    prefix = layout.id_prefix(collection, layout.TENANT_NONE)
    for key, value in scan(transaction, layout.key(collection, Kind.ID)):
        count += 1
        if not key.startswith(prefix):
            yield Violation("ids-rows-agree", where, f"id key of an unknown tenant: {key!r}")
            continue
        row = int(layout.U32.unpack(value)[0])
        public = layout.decode_id(key[len(prefix) :], is_int)
        if not snapshot.is_live(row):
            yield Violation("ids-rows-agree", where, f"id {public!r} points to dead row {row}")
        elif snapshot.id_of(row) != public:
            yield Violation(
                "ids-rows-agree", where, f"row {row} has id {snapshot.id_of(row)!r}, not {public!r}"
            )
        else:
            agreeing.append(row)
    seen = np.zeros_like(snapshot.live)
    layout.set_bits(seen, np.array(agreeing, np.uint32), True)
    orphans = int(np.bitwise_count(snapshot.live & ~seen).sum())
    if orphans:
        yield Violation("ids-rows-agree", where, f"{orphans} live rows have no id")
    if count != snapshot.state.live_rows:
        yield Violation(
            "counts-agree", where, f"{count} ids, but {snapshot.state.live_rows} live rows counted"
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


def _check_postings(snapshot: Snapshot) -> Iterator[Violation]:
    """Live rows stand in the log or a posting; counts and limits hold (invariants 1, 2, 3)."""
    where = snapshot.identity.name
    extents = snapshot.extents
    block_bytes = extents.codec.block_bytes(snapshot.identity.record.dim)
    reached = np.zeros_like(snapshot.live)
    layout.set_bits(reached, snapshot.log.numbers[: snapshot.log_count], True)
    for place_of, postings in enumerate(extents.postings):
        for run in range(len(postings.runs)):
            rows = postings.entries(run, block_bytes)
            entry = postings.runs[run]
            place = f"{where}: posting {int(entry['posting'])}"
            if len(rows) != int(entry["rows"]):
                yield Violation(
                    "counts-agree", place, f"{len(rows)} entries, {int(entry['rows'])} counted"
                )
            inside = rows[rows < np.uint32(len(snapshot.live) * 64)]
            if len(inside) != len(rows):
                yield Violation("rows-known", place, "an entry names a row that never was")
            layout.set_bits(reached, inside, True)
            base = place_of == 0  # fragments wait for the next training, as stats tells
            if base and len(rows) > POSTING_ROWS_MAX and not _identical(snapshot, rows):
                yield Violation(
                    "posting-limit", place, f"{len(rows)} entries; the limit is {POSTING_ROWS_MAX}"
                )
    missing = int(np.bitwise_count(snapshot.live & ~reached).sum())
    if missing:
        yield Violation("rows-reachable", where, f"{missing} live rows are in no posting")


def _identical(snapshot: Snapshot, rows: U32) -> bool:
    """Tell whether rows that share an oversized run are equal vectors, up to copies."""
    identity = snapshot.identity
    vectors = np.empty((len(rows), identity.record.dim), np.float32)
    gather_rows(identity.form.number, snapshot.addresses(rows), vectors)
    sums = [xxhash.xxh3_64_intdigest(vector.data) for vector in vectors]
    return bool(np.bincount(np.unique(sums, return_inverse=True)[1]).max() > POSTING_ROWS_MAX // 2)


def _check_directory(snapshot: Snapshot) -> Iterator[Violation]:
    """Pages name exactly the postings that exist, each at least once (invariant 4)."""
    directory = snapshot.extents.directory
    where = snapshot.identity.name
    if directory is None:
        if snapshot.extents.postings:
            yield Violation("directory", where, "there are postings but no directory")
        return
    named = np.unique(directory.page_ordinals)
    if len(named) != len(directory.centroids) or len(directory.postings) != len(named):
        yield Violation(
            "directory",
            where,
            f"pages name {len(named)} centroids of {len(directory.centroids)}",
        )
