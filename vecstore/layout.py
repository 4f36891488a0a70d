"""The on-disk format, and the only place that knows bytes.

A store is a directory::

    VECSTORE        marker: magic and format version, written once
    writer.lock     flock'ed by the one writer
    facts/          the LMDB environment (0.9 file format)
    extents/        immutable files, one per extent number

LMDB keys are big-endian, so that byte order is number order: collection (u32), kind (u8),
then what the kind needs.  Collection 0 is the store itself.

An extent is one header page and a list of sections.  Sections start at multiples of 64 bytes
(bulk sections at 4,096).  A header names each section's place, length and xxh3-64; bulk
sections have finer checksums in a section of their own and a zero here.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from vecstore.config import BLOCK_ROWS

FORMAT_VERSION: Final = 1
MAGIC: Final = b"VECSTORE"
MARKER: Final = struct.Struct("<8sI")
MARKER_NAME: Final = "VECSTORE"
LOCK_NAME: Final = "writer.lock"
FACTS_NAME: Final = "facts"
EXTENTS_NAME: Final = "extents"
PAGE: Final = 4096
SECTION_ALIGN: Final = 64

NO_ROW: Final = 0xFFFF_FFFF
"""Marks an empty place in a block."""


class Kind(IntEnum):
    """Second field of every LMDB key."""

    STORE = 1  # 0, STORE                         -> StoreRecord
    CATALOGUE = 2  # 0, CATALOGUE, name utf8      -> CollectionRecord
    STATE = 3  # c, STATE                         -> StateRecord
    ID = 4  # c, ID, tenant u32, id bytes         -> row u32
    METADATA = 5  # c, METADATA, row u32          -> msgpack of the user's dict
    DOCUMENT = 6  # c, DOCUMENT, row u32          -> utf8
    DEAD = 7  # c, DEAD, page u32                 -> bitmap of DEAD_PAGE_ROWS rows
    LOG = 8  # c, LOG, row u32                    -> LOG_HEAD, id bytes, raw row
    EXTENT = 9  # c, EXTENT, extent u64           -> ExtentRecord
    RETIRED = 10  # 0, RETIRED, extent u64        -> transaction u64
    CHANGE = 11  # c, CHANGE, transaction u64     -> ChangeRecord
    TUNING = 12  # c, TUNING                      -> TuningRecord


_PREFIX: Final = struct.Struct(">IB")
_KEY_U32: Final = struct.Struct(">IBI")
_KEY_U64: Final = struct.Struct(">IBQ")
U32: Final = struct.Struct(">I")
U64: Final = struct.Struct(">Q")
LOG_HEAD: Final = struct.Struct("<IH2x")  # tenant, bytes of the id
assert LOG_HEAD.size == 8

DEAD_PAGE_ROWS: Final = 32_768
"""Rows of one stored page of the dead-row bitmap (4 KB)."""

TENANT_NONE: Final = 0
"""The one tenant of a collection without tenants."""


def key(collection: int, kind: Kind, rest: bytes = b"") -> bytes:
    """Build an LMDB key with `rest` as it is."""
    return _PREFIX.pack(collection, kind) + rest


def key_u32(collection: int, kind: Kind, number: int) -> bytes:
    """Build an LMDB key that ends in a 32-bit number."""
    return _KEY_U32.pack(collection, kind, number)


def key_u64(collection: int, kind: Kind, number: int) -> bytes:
    """Build an LMDB key that ends in a 64-bit number."""
    return _KEY_U64.pack(collection, kind, number)


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
        raise struct.error(f"{len(values)} row numbers in {len(joined)} bytes")
    return np.frombuffer(joined, ">u4").astype(np.uint32)


# --- records in LMDB -----------------------------------------------------------------------


class StoreRecord(msgspec.Struct):
    """Counters of the store; numbers are never reused."""

    next_collection: int = 1
    next_extent: int = 1


class CollectionRecord(msgspec.Struct, frozen=True):
    """What a collection is, fixed at its creation."""

    number: int
    dim: int
    metric: int
    tenants: bool
    codec: str
    raw: str
    seed: int


class EffortRecord(msgspec.Struct, frozen=True, array_like=True):
    """One calibrated setting and the recall@10 measured with it."""

    recall: float
    probes: int
    bound: float
    spread: float


class StateRecord(msgspec.Struct):
    """What changes with writes; one per collection."""

    next_row: int = 0
    live_rows: int = 0
    int_ids: bool | None = None
    metadata_rows: int = 0
    document_rows: int = 0
    log_first: int = 0
    trained_rows: int = 0
    indexed_rows: int = 0
    next_posting: int = 0
    changes_trimmed: int = 0
    calibration: list[EffortRecord] = msgspec.field(default_factory=list)
    calibration_note: str = ""
    calibration_k: int = 10
    codec: str = ""  # of the postings: what was asked for, or what tuning chose
    tuned_recall: float | None = None
    tuned_rows: int = 0
    trained_spread: float = 0.0  # mean squared distance of rows to their centroids
    later_spread: float = 0.0  # the same of rows that came after training
    later_rows: int = 0


class ExtentRecord(msgspec.Struct, frozen=True):
    """One extent that the collection consists of."""

    kind: int
    bytes: int
    first_row: int
    count: int


class ChangeRecord(msgspec.Struct, frozen=True):
    """What one transaction did to a collection, for readers that catch up.

    `dead` is the packed u32 little-endian array of rows that died; `extents` says that the
    list of extents changed.
    """

    dead: bytes = b""
    extents: bool = False


_packer = msgspec.msgpack.Encoder()


def pack(record: Any) -> bytes:
    """Encode a record or a user's metadata as msgpack."""
    return _packer.encode(record)


unpack = msgspec.msgpack.decode


# --- extents -------------------------------------------------------------------------------


class ExtentKind(IntEnum):
    """What an extent holds."""

    RAW = 1
    POSTINGS = 2
    DIRECTORY = 3
    ATTRIBUTES = 4


class Section(IntEnum):
    """Parts of an extent; the type is that of one element."""

    ROWS = 1  # raw rows (count, row bytes); checked by ROW_SUMS
    ROW_SUMS = 2  # u64, xxh3 of each 4,096-byte page of ROWS
    ORDER = 3  # u32, place of the row in order of insertion
    IDS = 4  # u64 ids, or utf8 of all ids
    ID_ENDS = 5  # u64, end of each utf8 id in IDS; absent for int ids
    BLOCKS = 6  # code blocks; checked by the sums in RUNS
    RUNS = 7  # RUN_DTYPE, sorted by tenant and posting
    CENTRE = 8  # f32 (dim,), subtracted before rotation
    SIGNS = 9  # f32 (rounds, padded dim), of the rotation
    SUPERS = 10  # f32 (pages, dim), super-centroids
    PAGES = 11  # PAGE_DTYPE, one per super-centroid
    PAGE_BLOCKS = 12  # code blocks of centroids
    CENTROIDS = 13  # f32 (postings, dim)
    POSTINGS = 14  # u32, posting number of each centroid
    TENANTS = 15  # u32, tenant of the directory
    CODEBOOK = 16  # f32 (parts, part dim, 256), of product quantisation
    MATRIX = 17  # f32 (parts * part dim, dim), its learned rotation
    ATTRIBUTES = 32  # columns of tenants; checked by the sums in ATTRIBUTE_TENANTS
    ATTRIBUTE_TENANTS = 33  # attributes.TENANT_DTYPE, sorted by tenant


SECTIONS_MAX: Final = 16
BULK_SECTIONS: Final = frozenset({Section.ROWS, Section.BLOCKS, Section.ATTRIBUTES})

SECTION_DTYPE: Final = np.dtype(
    [("section", "<u4"), ("pad", "<u4"), ("offset", "<u8"), ("bytes", "<u8"), ("sum", "<u8")]
)
assert SECTION_DTYPE.itemsize == 32

HEADER_DTYPE: Final = np.dtype(
    [
        ("magic", "S8"),
        ("version", "<u4"),
        ("kind", "<u4"),
        ("collection", "<u4"),
        ("codec", "<u4"),  # of postings; the raw form of raw rows
        ("first_row", "<u8"),
        ("count", "<u8"),
        ("dim", "<u4"),
        ("sections", "<u4"),
        ("extent", "<u8"),
        ("bytes", "<u8"),
        ("table", SECTION_DTYPE, (SECTIONS_MAX,)),
        ("sum", "<u8"),
    ]
)
assert HEADER_DTYPE.itemsize == 64 + SECTIONS_MAX * 32 + 8
assert HEADER_DTYPE.itemsize <= PAGE

RUN_DTYPE: Final = np.dtype(
    [
        ("tenant", "<u4"),
        ("posting", "<u4"),
        ("offset", "<u8"),  # from the start of BLOCKS
        ("rows", "<u4"),
        ("blocks", "<u4"),
        ("sum", "<u8"),  # xxh3 of the run's bytes
    ]
)
assert RUN_DTYPE.itemsize == 32

PAGE_DTYPE: Final = np.dtype([("offset", "<u8"), ("blocks", "<u4"), ("rows", "<u4")])
assert PAGE_DTYPE.itemsize == 16


def align(offset: int, to: int) -> int:
    """Round `offset` up to a multiple of `to`."""
    return -(-offset // to) * to


def padded_dim(dim: int) -> int:
    """Dimension of rotated vectors: the next multiple of 64."""
    return align(dim, 64)


# --- blocks --------------------------------------------------------------------------------
#
# A run is its blocks, then, for codes of several planes, what belongs to each row:
#
# signs   codes u64[words][32] | factors
#         behind, by row: planes u64[bits - 1][words], the highest first | f_add f_rs f_err f32
# bytes   codes u8[padded / 4][32][4] | factors
# halves  codes u8[padded / 8][32][4]: of eight dimensions, 0 to 3 low and 4 to 7 high | factors
# parts   codes u8[parts][32], to a multiple of 64 bytes | factors
# values  f32 or f16[dim][32] | f_err f32[32] | row u32[32]
#
# factors f_add f32[32] | f_rs f32[32] | f_err f32[32] | row u32[32]

_FACTORS_BYTES: Final = 4 * 4 * BLOCK_ROWS


def sign_block_bytes(dim: int) -> int:
    """Bytes of one block of 32 rows with 1-bit codes."""
    return padded_dim(dim) // 8 * BLOCK_ROWS + _FACTORS_BYTES


def extra_bytes(dim: int, bits: int) -> int:
    """Bytes that a row of `bits` bits per dimension has beside its sign bits."""
    return padded_dim(dim) // 8 * (bits - 1) + 3 * 4 if bits > 1 else 0


def grid_block_bytes(dim: int, bits: int) -> int:
    """Bytes of one block of 32 rows of 4- or 8-bit codes."""
    return padded_dim(dim) * bits // 8 * BLOCK_ROWS + _FACTORS_BYTES


def parts_block_bytes(parts: int) -> int:
    """Bytes of one block of 32 rows of product-quantised codes."""
    return align(parts * BLOCK_ROWS, SECTION_ALIGN) + _FACTORS_BYTES


def value_block_bytes(dim: int, size: int) -> int:
    """Bytes of one block of 32 rows of values of `size` bytes."""
    return (dim * size + 8) * BLOCK_ROWS


assert sign_block_bytes(128) == 1024


# --- raw rows ------------------------------------------------------------------------------
#
# float32:  values f32[dim]
# float16:  values f16[dim] | zeros
# int8:     scale f32 | offset f32 | codes u8[dim] | zeros       value = offset + scale * code
#
# A row takes a multiple of 4 bytes, so that 1,024 rows fill whole pages.

INT8_HEAD: Final = np.dtype([("scale", "<f4"), ("offset", "<f4")])
assert INT8_HEAD.itemsize == 8


def float32_row_bytes(dim: int) -> int:
    """Bytes of one raw row of float32 values."""
    return 4 * dim


def float16_row_bytes(dim: int) -> int:
    """Bytes of one raw row of float16 values."""
    return align(2 * dim, 4)


def int8_row_bytes(dim: int) -> int:
    """Bytes of one raw row of 8-bit codes."""
    return INT8_HEAD.itemsize + align(dim, 4)


def bitmap_words(rows: int) -> int:
    """Number of u64 words of a bitmap over `rows` rows."""
    return -(-rows // 64)


def set_bits(bitmap: NDArray[np.uint64], rows: NDArray[np.uint32], value: bool) -> None:
    """Set (or clear) one bit per row, in place."""
    words = rows >> np.uint32(6)
    bits = np.uint64(1) << (rows & np.uint32(63)).astype(np.uint64)
    if value:
        np.bitwise_or.at(bitmap, words, bits)
    else:
        np.bitwise_and.at(bitmap, words, ~bits)


def set_range(bitmap: NDArray[np.uint64], first: int, end: int) -> None:
    """Set the bits from `first` to `end` - 1, in place; `first` is a multiple of 64."""
    whole = end // 64
    bitmap[first // 64 : whole] = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
    if end % 64:
        bitmap[whole] |= np.uint64((1 << end % 64) - 1)


def get_bits(bitmap: NDArray[np.uint64], rows: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Test one bit per row."""
    shifted: NDArray[np.uint64] = bitmap[rows >> np.uint32(6)] >> (rows & np.uint32(63)).astype(
        np.uint64
    )
    return (shifted & np.uint64(1)).astype(np.bool_)
