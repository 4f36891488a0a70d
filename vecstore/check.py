"""Verifying every invariant of a store, by name.

Read-only and independent of caches: extents are mapped anew and every checksum is looked at.
The walk holds one row-sized table per collection and never all vectors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vecstore import layout
from vecstore.check_tenants import check_tenants
from vecstore.codecs import Codec, find_codec
from vecstore.errors import CorruptionError, VecstoreError
from vecstore.extent_set import Identity
from vecstore.extents import Extent, extent_path
from vecstore.layout import TENANT_NONE, ExtentRecord, Kind, TenantRecord
from vecstore.lookups import (
    build_pieces,
    dropped_tenants,
    extent_records,
    read_catalogue,
    read_state,
)
from vecstore.receipts import wrong_receipts
from vecstore.results import Violation
from vecstore.rowlog import read_log
from vecstore.snapshot import Snapshot, take_snapshot
from vecstore.soundness import flaws
from vecstore.storage import Environment
from vecstore.transaction import Transaction, describe

U32 = NDArray[np.uint32]


def check_store(environment: Environment, quiet: bool) -> list[Violation]:
    """Verify the facts as such, then all collections and the extents folder.

    Before anything is read from LMDB here, another process walks its pages, since a broken one
    may crash an interpreter; when that finds something, nothing else is looked at.  It costs some
    25 ms for a small store (see `vecstore.walk`).

    Parameters
    ----------
    environment : Environment
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
        wrong = environment.walk_facts()
        if wrong:
            return [Violation("facts-walk", str(environment.path / layout.FACTS_NAME), wrong)]
        found += damaged_entries(transaction, 0, str(environment.path))
        if found:
            return found
        where = str(environment.path)
        found += [Violation("receipts", where, wrong) for wrong in wrong_receipts(transaction)]
        for name, record in read_catalogue(transaction).items():
            identity = Identity(name, record, environment.extents)
            found += check_collection(transaction, identity, named)
        for key, _ in transaction.scan(layout.key(0, Kind.RETIRED)):
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
            detail = "no transaction names this extent; the next writer removes it"
            yield Violation("extents-named", str(entry), detail)


@dataclass(frozen=True)
class Broken:
    """An extent that is not what was written.

    Attributes
    ----------
    number : int
    record : ExtentRecord
    violations : list of Violation
    """

    number: int
    record: ExtentRecord
    violations: list[Violation]


def broken_extents(
    transaction: Transaction, identity: Identity, named: dict[int, int]
) -> list[Broken]:
    """Look at every checksum of a collection's extents; `named` gets the bytes of each."""
    return _broken(
        transaction, identity, extent_records(transaction, identity.record.number), named
    )


def _broken(
    transaction: Transaction,
    identity: Identity,
    records: dict[int, ExtentRecord],
    named: dict[int, int],
) -> list[Broken]:
    """Those of some extents that are broken."""
    codec = find_codec(read_state(transaction, identity.record.number).codec, identity.record.dim)
    found = []
    for number, record in records.items():
        named[number] = record.bytes
        violations = list(_check_extent(identity, codec, number, record))
        if violations:
            found.append(Broken(number, record, violations))
    return found


def _check_extent(
    identity: Identity, codec: Codec, number: int, record: ExtentRecord
) -> Iterator[Violation]:
    """An extent is there, with its length, and every checksum in it holds."""
    try:
        where = f"{identity.name}: extent {number}"
        extent = Extent(identity.folder, number, record, identity.name)
        for flaw in flaws(identity, codec, extent):
            yield Violation("checksums", where, flaw)
    except FileNotFoundError:
        path = extent_path(identity.folder, number)
        yield Violation("extents-present", f"{identity.name}: {path}", "the file is missing")
    except CorruptionError as error:
        yield Violation("checksums", f"{identity.name}: extent {number}", str(error))


def broken_pieces(
    transaction: Transaction, identity: Identity, named: dict[int, int]
) -> list[Broken]:
    """Look at every checksum of what a build that is not done has kept; as `broken_extents`."""
    pieces = build_pieces(transaction, identity.record.number)
    return _broken(transaction, identity, {one.number: one.extent for one in pieces}, named)


def check_collection(
    transaction: Transaction, identity: Identity, named: dict[int, int]
) -> list[Violation]:
    """Verify a collection; `named` gets the bytes of each of its extents."""
    damaged = damaged_entries(transaction, identity.record.number, identity.name)
    if damaged:
        return damaged
    broken = broken_extents(transaction, identity, named)
    broken += broken_pieces(transaction, identity, named)
    if broken:
        return [violation for one in broken for violation in one.violations]
    try:
        snapshot = take_snapshot(identity, transaction, None)
    except VecstoreError as error:
        return [Violation("snapshot", identity.name, str(error))]
    return [*check_rows(transaction, snapshot), *check_tenants(transaction, snapshot)]


def damaged_entries(transaction: Transaction, collection: int, where: str) -> list[Violation]:
    """Entries of LMDB that do not match their checksums; those of collection 0 are the store's."""
    return [
        Violation("facts-entries", where, f"the {describe(key)} does not match its checksum")
        for key in transaction.damaged(layout.U32.pack(collection))
    ]


def check_rows(transaction: Transaction, snapshot: Snapshot) -> Iterator[Violation]:
    """Ids, rows, grants, counts, metadata, documents and the row log agree."""
    dropped = dropped_tenants(transaction, snapshot.identity.record.number)
    left: set[int] = set()
    yield from _check_ids(transaction, snapshot, dropped, left)
    yield from _check_facts(transaction, snapshot, left)


def _check_ids(
    transaction: Transaction, snapshot: Snapshot, dropped: frozenset[int], left: set[int]
) -> Iterator[Violation]:
    """Id -> row and row -> id agree, and so do grants and counts (invariants 2 and 5).

    Parameters
    ----------
    transaction : Transaction
    snapshot : Snapshot
    dropped : frozenset of int
        Tenants that were dropped and left entries.
    left : set of int
        Gets their rows.
    """
    identity = snapshot.identity
    collection = identity.record.number
    where = identity.name
    is_int = bool(snapshot.state.int_ids)
    owned: dict[int, int] = {}
    granted: list[tuple[int, int, int]] = []
    start = len(layout.id_prefix(collection, TENANT_NONE))
    for key, value in transaction.scan(layout.key(collection, Kind.ID)):
        tenant = int(layout.U32.unpack_from(key, start - 4)[0])
        row, owner = layout.unpack_id(value, tenant)
        if tenant in dropped:
            if owner == tenant:
                left.add(row)
                if snapshot.is_live(row):
                    yield Violation("tenants-dropped", where, f"row {row} of tenant {tenant} lives")
            continue
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
    yield from _check_grants(transaction, snapshot, dropped, owned, granted)


def _check_grants(
    transaction: Transaction,
    snapshot: Snapshot,
    dropped: frozenset[int],
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
    for key, value in transaction.scan(layout.key(collection, Kind.GRANTEES)):
        row = int(layout.U32.unpack(key[-4:])[0])
        listed |= {
            (row, tenant) for tenant in layout.unpack_numbers(value) if tenant not in dropped
        }
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
        keys = [key[len(prefix) :] for key, _ in transaction.scan(prefix)]
        noted[kind] = {
            (int(row), int(own))
            for own, row in map(layout.unpack_numbers, keys)
            if kind == Kind.PENDING or own not in dropped
        }
        for row, tenant in sorted(
            noted[kind] - seen if kind == Kind.PENDING else noted[kind] & seen
        ):
            yield Violation(
                "grants-agree", where, f"row {row} is {kind.name.lower()} for tenant {tenant}"
            )
    note_counts = [Counter(tenant for _, tenant in rows) for rows in noted.values()]
    own_counts, granted_counts = Counter(owned.values()), Counter(t for _, _, t in granted)
    pending = 0
    for key, value in transaction.scan(layout.key(collection, Kind.TENANT)):
        tenant = int(layout.U32.unpack(key[-4:])[0])
        record = layout.unpack(value, type=TenantRecord)
        if tenant in dropped:
            yield Violation("tenants-dropped", where, f"tenant {tenant} was dropped and is there")
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


def _check_facts(
    transaction: Transaction, snapshot: Snapshot, left: set[int]
) -> Iterator[Violation]:
    """Metadata and documents stand under live rows and are counted (invariant 2).

    Rows that dropped tenants `left` may have some still.
    """
    identity = snapshot.identity
    collection = identity.record.number
    for kind, counted in (
        (Kind.METADATA, snapshot.state.metadata_rows),
        (Kind.DOCUMENT, snapshot.state.document_rows),
    ):
        prefix = layout.key(collection, kind)
        count = 0
        for key, _ in transaction.scan(prefix):
            count += 1
            row = int(layout.U32.unpack(key[len(prefix) :])[0])
            if not snapshot.is_live(row) and row not in left:
                yield Violation("facts-live", identity.name, f"{kind.name} of dead row {row}")
        if count != counted:
            yield Violation(
                "counts-agree", identity.name, f"{count} {kind.name} records, {counted} counted"
            )
    for entry in read_log(transaction, identity, bool(snapshot.state.int_ids)):
        if entry.first < snapshot.state.log_first:
            yield Violation("row-log", identity.name, f"row {entry.first} was flushed")
