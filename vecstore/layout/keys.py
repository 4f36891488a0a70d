"""LMDB keys, and values that are no records."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray


class Kind(IntEnum):
    """Second field of every LMDB key."""

    STORE = 1  # 0, STORE                         -> StoreRecord
    CATALOGUE = 2  # 0, CATALOGUE, name utf8      -> CollectionRecord
    STATE = 3  # c, STATE                         -> StateRecord
    ID = 4  # c, ID, tenant u32, id bytes         -> row u32; and owner u32 if not the tenant
    METADATA = 5  # c, METADATA, row u32          -> msgpack of the user's dict
    DOCUMENT = 6  # c, DOCUMENT, row u32          -> utf8
    DEAD = 7  # c, DEAD, page u32                 -> bitmap of DEAD_PAGE_ROWS rows
    LOG = 8  # c, LOG, first row u32              -> LOG_HEAD, tenants u32, ends u32, ids, raw rows
    EXTENT = 9  # c, EXTENT, extent u64           -> ExtentRecord
    RETIRED = 10  # 0, RETIRED, extent u64        -> transaction u64
    CHANGE = 11  # c, CHANGE, transaction u64     -> ChangeRecord
    TUNING = 12  # c, TUNING                      -> results.Tuning
    TENANT = 13  # c, TENANT, tenant u32          -> TenantRecord
    TENANT_NAME = 14  # c, TENANT_NAME, name utf8 -> tenant u32
    GRANTEES = 15  # c, GRANTEES, row u32         -> tenants u32 to whom the row is granted
    PENDING = 16  # c, PENDING, tenant u32, row u32  -> granted, in no posting of the tenant yet
    REVOKED = 17  # c, REVOKED, tenant u32, row u32  -> in a posting of the tenant, not its any more
    RECEIPT = 18  # 0, RECEIPT, place u32         -> ReceiptRecord; below RECEIPTS_MAX
    DROPPED = 19  # c, DROPPED, tenant u32        -> left entries behind
    BUILD = 20  # c, BUILD                        -> BuildRecord; absent when none was cut short


_PREFIX: Final = struct.Struct(">IB")
_KEY_U32: Final = struct.Struct(">IBI")
_KEY_U64: Final = struct.Struct(">IBQ")
_KEY_PAIR: Final = struct.Struct(">IBII")
U32: Final = struct.Struct(">I")
U64: Final = struct.Struct(">Q")
_PAIR: Final = struct.Struct(">II")
LOG_HEAD: Final = struct.Struct("<II")  # rows, bytes of all ids
assert LOG_HEAD.size == 8

DEAD_PAGE_ROWS: Final = 32_768
"""Rows of one stored page of the dead-row bitmap (4 KB)."""

RECEIPTS_MAX: Final = 10_000
"""Receipts that a store keeps."""

TENANT_NONE: Final = 0
"""The one tenant of a collection without tenants; others are numbered from 1."""


def key(collection: int, kind: Kind, rest: bytes = b"") -> bytes:
    """Build an LMDB key with `rest` as it is."""
    return _PREFIX.pack(collection, kind) + rest


def key_u32(collection: int, kind: Kind, number: int) -> bytes:
    """Build an LMDB key that ends in a 32-bit number."""
    return _KEY_U32.pack(collection, kind, number)


def key_u64(collection: int, kind: Kind, number: int) -> bytes:
    """Build an LMDB key that ends in a 64-bit number."""
    return _KEY_U64.pack(collection, kind, number)


def key_pair(collection: int, kind: Kind, first: int, second: int) -> bytes:
    """Build an LMDB key that ends in two 32-bit numbers."""
    return _KEY_PAIR.pack(collection, kind, first, second)


def id_prefix(collection: int, tenant: int) -> bytes:
    """Build what all id keys of one tenant begin with."""
    return _KEY_U32.pack(collection, Kind.ID, tenant)


def encode_id(value: int | str) -> bytes:
    """Encode a valid id; byte order of int ids is their numeric order."""
    return U64.pack(value) if isinstance(value, int) else value.encode()


def decode_id(raw: bytes, is_int: bool) -> int | str:
    """Invert `encode_id`."""
    return int(U64.unpack(raw)[0]) if is_int else raw.decode()


def int_id_keys(prefix: bytes, ids: NDArray[np.int64]) -> list[bytes]:
    """Build the keys of int ids; numpy pays for itself from some 16 on."""
    if len(ids) < 16:
        return [prefix + U64.pack(value) for value in ids.tolist()]
    keys = np.empty((len(ids), len(prefix) + U64.size), np.uint8)
    keys[:, : len(prefix)] = np.frombuffer(prefix, np.uint8)
    keys[:, len(prefix) :] = ids.astype(">u8")[:, None].view(np.uint8)
    return keys.view(f"V{keys.shape[1]}").ravel().tolist()


def unpack_rows(values: list[bytes]) -> NDArray[np.uint32]:
    """Row numbers out of the values of id keys."""
    joined = b"".join(values)
    if len(joined) != U32.size * len(values):
        joined = b"".join(value[: U32.size] for value in values if len(value) in (4, 8))
        if len(joined) != U32.size * len(values):
            raise struct.error(f"{len(values)} row numbers in {len(joined)} bytes")
    return np.frombuffer(joined, ">u4").astype(np.uint32)


def unpack_id(value: bytes, tenant: int) -> tuple[int, int]:
    """Row and owner out of the value of an id key of a tenant."""
    if len(value) == U32.size:
        return int(U32.unpack(value)[0]), tenant
    row, owner = _PAIR.unpack(value)
    return row, owner


def pack_numbers(numbers: Iterable[int]) -> bytes:
    """Encode 32-bit numbers."""
    return b"".join(map(U32.pack, numbers))


def unpack_numbers(raw: bytes) -> list[int]:
    """Invert `pack_numbers`."""
    return [number for (number,) in U32.iter_unpack(raw)]


def pack_granted(row: int, owner: int) -> bytes:
    """Encode the value of an id key whose row is another tenant's."""
    return _PAIR.pack(row, owner)
