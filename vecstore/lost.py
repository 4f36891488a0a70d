"""Rows whose vectors are damaged: which they are, and deleting them.

A vector follows from nothing else that is stored, so it can only be told, and deleted if the user
wants the rest whole again.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np

from vecstore import layout
from vecstore.check import Broken
from vecstore.config import CHUNK_ROWS
from vecstore.errors import CorruptionError
from vecstore.extent_set import Identity
from vecstore.extents import Extent
from vecstore.facts import Edit
from vecstore.layout import PAGE, TENANT_NONE, Kind, Section
from vecstore.lookups import dropped_tenants, read_state, read_tenant
from vecstore.membership import delete_keys
from vecstore.rawrows import RawRows
from vecstore.reclaim import remove_retired
from vecstore.soundness import damaged_pages
from vecstore.transaction import Transaction
from vecstore.writing import Writing

SHOWN = 100
"""Lost rows that a sentence names at most, unless they were deleted."""


@dataclass(frozen=True)
class LostRow:
    """A live row whose vector cannot be read.

    Attributes
    ----------
    row : int
    tenant : int
        The owner.
    key : bytes
        Of its id, in LMDB.
    told : str
        Its number, id and tenant, for people.
    """

    row: int
    tenant: int
    key: bytes
    told: str


@dataclass(frozen=True)
class Lost:
    """What a damaged raw extent has lost.

    Attributes
    ----------
    number : int
        Of the extent.
    rows : list of LostRow
        Ascending.
    readable : bool
        Only pages of vectors are damaged; otherwise none of its rows can be read.
    """

    number: int
    rows: list[LostRow]
    readable: bool


def find_lost(transaction: Transaction, identity: Identity, one: Broken) -> Lost:
    """Find the live rows that a damaged raw extent has lost."""
    first = one.record.first_row
    rows: Container[int] = range(first, first + one.record.count)
    readable = True
    try:
        rows = _rows_on_damaged_pages(identity, one)
    except (CorruptionError, FileNotFoundError):
        readable = False
    return Lost(one.number, _live_among(transaction, identity, rows), readable)


def tell_lost(identity: Identity, lost: Lost) -> str:
    """Say which rows cannot be read, and what to do."""
    shown = ", ".join(one.told for one in lost.rows[:SHOWN])
    more = f" and {len(lost.rows) - SHOWN} more" if len(lost.rows) > SHOWN else ""
    remedy = "store them again, restore a backup" if lost.readable else "restore a backup"
    return (
        f"Collection {identity.name!r}: extent {lost.number} has lost {len(lost.rows)} vectors, of "
        f"{shown}{more}. They were kept, and reading them raises CorruptionError; {remedy}, or "
        f"repair with drop_damaged, which deletes them."
    )


def drop_lost(writing: Writing, lost: Sequence[Lost]) -> list[str]:
    """Delete lost rows, for everybody, and extents of which nothing can be read.

    The write lock must be held.  All is one commit.

    Returns
    -------
    list of str
        What was deleted, every row by its id.
    """
    start = len(layout.id_prefix(writing.collection, TENANT_NONE))
    with writing.environment.write() as transaction:
        edit = Edit(transaction, writing.identity)
        owned: dict[int, dict[bytes, int]] = {}
        for one in (row for own in lost for row in own.rows):
            owned.setdefault(one.tenant, {})[one.key] = one.row
        for tenant, found in owned.items():
            delete_keys(edit, tenant, found, start)
        edit.retire_extents(own.number for own in lost if not own.readable)
        edit.finish()
    remove_retired(writing.environment)
    name = writing.identity.name
    return [
        f"Collection {name!r}: {len(own.rows)} rows were deleted whose vectors extent {own.number} "
        f"has lost: {', '.join(one.told for one in own.rows)}."
        for own in lost
        if own.rows
    ]


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


def _live_among(
    transaction: Transaction, identity: Identity, rows: Container[int]
) -> list[LostRow]:
    """Live rows among some, by their ids."""
    collection = identity.record.number
    is_int = bool(read_state(transaction, collection).int_ids)
    start = len(layout.id_prefix(collection, TENANT_NONE))
    dropped = dropped_tenants(transaction, collection)
    names: dict[int, str] = {}
    found = []
    for key, value in transaction.scan(layout.key(collection, Kind.ID)):
        tenant = int(layout.U32.unpack_from(key, start - 4)[0])
        row, owner = layout.unpack_id(value, tenant)
        if row not in rows or owner != tenant or tenant in dropped:
            continue
        whose = ""
        if tenant != TENANT_NONE:
            if tenant not in names:
                names[tenant] = read_tenant(transaction, collection, tenant).name
            whose = f" of tenant {names[tenant]!r}"
        public = layout.decode_id(key[start:], is_int)
        found.append(LostRow(row, tenant, key, f"row {row} (id {public!r}{whose})"))
    return sorted(found, key=lambda one: one.row)
