"""Records in LMDB, as msgpack, and the checksum that every entry of LMDB ends in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from vecstore.errors import CorruptionError
from vecstore.kernels.checksum import SHORT_BYTES_MAX, SHORT_BYTES_MIN, hash_pairs


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
    next_posting: int = 0
    next_tenant: int = 1
    tenants: int = 0
    shared_rows: int = 0  # granted to somebody
    pending: int = 0  # of all tenants
    changes_trimmed: int = 0
    codec: str = ""  # of the postings: what was asked for, or what tuning chose
    tuned_recall: float | None = None
    tuned_rows: int = 0


class TenantRecord(msgspec.Struct):
    """One tenant: its rows, its index and how much of that to read; also the only one there is."""

    name: str = ""
    rows: int = 0  # its own
    granted: int = 0  # of others
    ever_granted: bool = False
    pending: int = 0  # of the granted, in no posting yet
    revoked: int = 0  # in postings, not its any more
    directory: int = 0  # extent, 0 = none
    indexed_rows: int = 0
    trained_rows: int = 0
    calibrated_rows: int = 0
    calibrated_indexed: int = 0  # `indexed_rows` of then
    calibration: list[EffortRecord] = msgspec.field(default_factory=list)
    calibration_note: str = ""
    calibration_k: int = 10
    trained_spread: float = 0.0  # mean squared distance of rows to their centroids
    later_spread: float = 0.0  # the same of rows that came after training
    later_rows: int = 0
    quota_rows: int | None = None
    quota_k: int | None = None
    quota_query_bytes: int | None = None
    quota_where: int | None = None

    @property
    def limits_queries(self) -> bool:
        """Whether a quota on what may be asked is set."""
        quotas = (self.quota_k, self.quota_query_bytes, self.quota_where)
        return any(quota is not None for quota in quotas)


class ExtentRecord(msgspec.Struct, frozen=True):
    """One extent that the collection consists of."""

    kind: int
    bytes: int
    first_row: int
    count: int


class PieceRecord(msgspec.Struct, frozen=True, array_like=True):
    """An extent that a build under way has finished."""

    stage: str
    tenant: int
    first: int  # of the jobs, or rows, that it is about
    digest: bytes  # of what it follows from beside the fingerprint
    number: int
    extent: ExtentRecord


class BuildRecord(msgspec.Struct, frozen=True):
    """What a build that is under way, or was cut short, has finished; see `vecstore.checkpoint`."""

    fingerprint: bytes
    pieces: list[PieceRecord]


class ChangeRecord(msgspec.Struct, frozen=True):
    """What one transaction did to a collection, for readers that catch up.

    `dead` is the packed u32 little-endian array of rows that died; `extents` says that the
    list of extents changed.
    """

    dead: bytes = b""
    extents: bool = False


class ReceiptRecord(msgspec.Struct, frozen=True, array_like=True):
    """A write that was carried out under a key of its caller; see `vecstore.receipts`."""

    number: int
    at: float  # seconds since 1970
    key: bytes
    fingerprint: bytes
    result: int


_packer = msgspec.msgpack.Encoder()


def pack(record: Any) -> bytes:
    """Encode a record or a user's metadata as msgpack."""
    return _packer.encode(record)


def unpack(raw: bytes, type: Any = Any) -> Any:
    """Decode a record or a user's metadata.

    Raises
    ------
    CorruptionError
    """
    try:
        return msgspec.msgpack.decode(raw, type=type)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CorruptionError(
            f"A record of the facts cannot be decoded ({error}); restore a backup."
        ) from error


# --- entries -------------------------------------------------------------------------------
#
# What LMDB holds under a key: payload | first four bytes of xxh3-64 (big-endian) of key and payload

SUM_BYTES: Final = 4
JOINED_BYTES_MAX: Final = 4_096
"""Up to here a copy of the payload costs less than a second call."""
BULK_KEYS_MIN: Final = 16
"""From so many keys on, numpy and kernels pay for themselves."""


def entry_sum(key: bytes, payload: bytes) -> bytes:
    """Checksum of an entry, its key included: a sound value under a broken key is not sound."""
    if len(payload) < JOINED_BYTES_MAX:
        return xxhash.xxh3_64_digest(key + payload)[:SUM_BYTES]
    summer = xxhash.xxh3_64(key)
    summer.update(payload)
    return summer.digest()[:SUM_BYTES]


def entry_sums(
    keys: Sequence[bytes], payloads: bytes, *, alike: bool = False
) -> NDArray[np.uint32]:
    """Checksums of entries whose payloads are of one length and stand one after the other.

    Parameters
    ----------
    keys : sequence of bytes
    payloads : bytes
    alike : bool
        Keys are of one length, too, which need not be asked of each.
    """
    count = len(keys)
    size = len(payloads) // count if count else 0
    if count >= BULK_KEYS_MIN:
        if alike:
            ends = np.arange(1, count + 1) * len(keys[0])
            shortest = longest = len(keys[0]) + size
        else:
            lengths = np.fromiter(map(len, keys), np.int64, count)
            ends = np.cumsum(lengths)
            shortest, longest = int(lengths.min()) + size, int(lengths.max()) + size
        if shortest >= SHORT_BYTES_MIN and longest <= SHORT_BYTES_MAX:
            heads = np.frombuffer(b"".join(keys), np.uint8)
            tails = np.frombuffer(payloads, np.uint8).reshape(count, size)
            sums = np.empty(count, np.uint64)
            hash_pairs(heads, ends, tails, np.empty(SHORT_BYTES_MAX, np.uint8), sums)
            return (sums >> np.uint64(32)).astype(np.uint32)
    joined = b"".join(
        entry_sum(key, payloads[place * size : (place + 1) * size])
        for place, key in enumerate(keys)
    )
    return np.frombuffer(joined, ">u4").astype(np.uint32)
