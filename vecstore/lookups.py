"""Looking up what the facts name: collections, their states, extents, tenants, ids."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vecstore import layout
from vecstore.errors import CollectionNotFoundError
from vecstore.extent_set import Identity
from vecstore.ids import Ids
from vecstore.layout import CollectionRecord, Kind, StateRecord, TenantRecord
from vecstore.transaction import Transaction

I64 = NDArray[np.int64]
ABSENT = layout.U32.pack(layout.NO_ROW)


def extent_records(transaction: Transaction, collection: int) -> dict[int, layout.ExtentRecord]:
    """Records of a collection's extents by number."""
    prefix = layout.key(collection, Kind.EXTENT)
    found = {}
    for key, value in transaction.scan(prefix):
        number = int(layout.U64.unpack(key[len(prefix) :])[0])
        found[number] = layout.unpack(value, type=layout.ExtentRecord)
    return found


def build_record(transaction: Transaction, collection: int) -> layout.BuildRecord | None:
    """What a build of a collection has kept; None when none is under way or was cut short."""
    raw = transaction.get(layout.key(collection, Kind.BUILD))
    if raw is None:
        return None
    record: layout.BuildRecord = layout.unpack(raw, type=layout.BuildRecord)
    return record


def build_pieces(transaction: Transaction, collection: int) -> list[layout.PieceRecord]:
    """Extents that a build of a collection has kept; see `build_record`."""
    record = build_record(transaction, collection)
    return [] if record is None else record.pieces


def find_rows(
    transaction: Transaction, collection: int, tenant: int, ids: Ids
) -> Iterator[tuple[I64, NDArray[np.uint32]]]:
    """Look ids up: their places in the call and their rows, NO_ROW for unknown ids.

    They come in the order of keys, some at a time: neighbours in LMDB share pages.
    """
    prefix = layout.id_prefix(collection, tenant)
    for places, keys in ids.keys(prefix):
        yield places, transaction.rows(keys, prefix, alike=ids.is_int)


def read_catalogue(transaction: Transaction) -> dict[str, CollectionRecord]:
    """Records of all collections by name."""
    prefix = layout.key(0, Kind.CATALOGUE)
    for edge in (prefix, prefix + b"\xff"):  # no name begins with that byte
        transaction.confirm_missing(edge, b"")
    return {
        key[len(prefix) :].decode(): layout.unpack(value, type=CollectionRecord)
        for key, value in transaction.scan(prefix)
    }


def refuse_dropped(transaction: Transaction, identity: Identity) -> None:
    """Raise when the collection was dropped, or another has its name by now."""
    raw = transaction.get(layout.key(0, Kind.CATALOGUE, identity.name.encode()), b"")
    if raw == identity.packed:
        return
    record = None if raw is None else layout.unpack(raw, type=CollectionRecord)
    if record is None or record.number != identity.record.number:
        raise CollectionNotFoundError(
            f"Collection {identity.name!r} was dropped; get it anew from the store."
        )


def read_state(transaction: Transaction, collection: int) -> StateRecord:
    """Read a collection's state record."""
    key = layout.key(collection, Kind.STATE)
    raw = transaction.get(key)
    if raw is None:
        raise transaction.lack(key)
    state: StateRecord = layout.unpack(raw, type=StateRecord)
    return state


def find_tenant(transaction: Transaction, collection: int, name: str) -> int | None:
    """Number of a tenant; None when there is none of this name."""
    prefix = layout.key(collection, Kind.TENANT_NAME)
    raw = transaction.get(prefix + name.encode(), prefix)
    return None if raw is None else int(layout.U32.unpack(raw)[0])


def known_tenant(transaction: Transaction, collection: int, name: str) -> int | None:
    """Find the number of a tenant like `find_tenant`, and make sure that it is the tenant's.

    Raises
    ------
    CorruptionError
        The name leads to another tenant, or to one that is no more.
    """
    number = find_tenant(transaction, collection, name)
    if number is not None and read_tenant(transaction, collection, number).name != name:
        raise transaction.lack(layout.key_u32(collection, Kind.TENANT, number))
    return number


def dropped_tenants(transaction: Transaction, collection: int) -> frozenset[int]:
    """Numbers of tenants that were dropped and left entries; see `vecstore.dropping`."""
    prefix = layout.key(collection, Kind.DROPPED)
    keys = [key[len(prefix) :] for key, _ in transaction.scan(prefix)]
    return frozenset(int(layout.U32.unpack(key)[0]) for key in keys)


def read_tenant(transaction: Transaction, collection: int, tenant: int) -> TenantRecord:
    """Read a tenant's record; that of one who has written nothing, or was dropped, is all zeros."""
    key = layout.key_u32(collection, Kind.TENANT, tenant)
    raw = transaction.get(key, key)
    if raw is None:
        return TenantRecord()
    record: TenantRecord = layout.unpack(raw, type=TenantRecord)
    return record
