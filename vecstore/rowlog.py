"""The row log: fresh rows, in LMDB for safety and in RAM for search.

Invariants
----------
* A fresh row is visible from the commit of its transaction on, in every process.
* Buffers only grow at their end, so a snapshot that knows its count may share them with a
  newer one; memory is used again when no array over it is held any more.
"""

from __future__ import annotations

import mmap
import threading
import weakref
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vecstore import layout
from vecstore.config import LOG_ENTRY_BYTES, LOG_ROOM_BYTES, LOG_ROOM_ROWS
from vecstore.errors import CorruptionError
from vecstore.extent_set import Identity
from vecstore.ids import Ids
from vecstore.kernels.fresh import code_bytes, encode_fresh
from vecstore.layout import Kind, StateRecord
from vecstore.transaction import Transaction

I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]


@dataclass(frozen=True)
class Entry:
    """Fresh rows of one call, or as many of them as one entry of LMDB holds.

    Attributes
    ----------
    first : int
        Row number of the first; the others follow without a gap.
    owners : uint32 (rows,)
        Their tenants.
    ids : int64 (rows,), or list of str
    rows : uint8 (rows, row bytes)
        In their raw form.
    """

    first: int
    owners: U32
    ids: I64 | list[str]
    rows: U8


def log_entries(
    collection: int, first: int, owners: U32, ids: Ids, rows: U8
) -> Iterator[tuple[bytes, bytes]]:
    """Encode fresh rows (n, row bytes) for LMDB, some to an entry: keys and payloads, in order."""
    together = max(1, LOG_ENTRY_BYTES // rows.shape[1])
    for start in range(0, len(rows), together):
        part = slice(start, start + together)
        raw_ids, ends = _pack_ids(ids.values[part])
        head = layout.LOG_HEAD.pack(len(ends), len(raw_ids))
        own = owners[part].astype("<u4").tobytes()
        payload = b"".join((head, own, ends.tobytes(), raw_ids, rows[part].tobytes()))
        yield layout.key_u32(collection, Kind.LOG, first + start), payload


def _pack_ids(ids: NDArray[np.int64] | list[str]) -> tuple[bytes, U32]:
    """Ids as they stand in keys, one after the other, and where each ends."""
    if isinstance(ids, np.ndarray):
        ends = np.arange(1, len(ids) + 1, dtype="<u4") * np.uint32(layout.U64.size)
        return ids.astype(">u8").tobytes(), ends
    encoded = [layout.encode_id(value) for value in ids]
    return b"".join(encoded), np.cumsum([len(raw) for raw in encoded]).astype("<u4")


def read_log(
    transaction: Transaction, identity: Identity, is_int: bool, first_row: int = 0
) -> Iterator[Entry]:
    """Yield the fresh rows from `first_row` on.

    Raises
    ------
    CorruptionError
        An entry is shorter or longer than its rows are.
    """
    collection, row_bytes = identity.record.number, identity.row_bytes
    start = layout.key_u32(collection, Kind.LOG, first_row)
    prefix = layout.key(collection, Kind.LOG)
    head = layout.LOG_HEAD.size
    for key, value in transaction.scan(prefix, start):
        first = int(layout.U32.unpack(key[len(prefix) :])[0])
        count, id_bytes = layout.LOG_HEAD.unpack_from(value) if len(value) >= head else (0, 0)
        size = head + 8 * count + id_bytes + count * row_bytes
        if not count or len(value) != size or (is_int and id_bytes != layout.U64.size * count):
            raise CorruptionError(
                f"The row log of collection {identity.name!r} has {len(value)} bytes at row "
                f"{first}, where {count} rows take {size}; restore a backup.",
                collection=identity.name,
            )
        owners = np.frombuffer(value, "<u4", count, head)
        ends = np.frombuffer(value, "<u4", count, head + 4 * count)
        at = head + 8 * count
        ids = _unpack_ids(value[at : at + id_bytes], ends, is_int)
        rows = np.frombuffer(value, np.uint8, offset=at + id_bytes)
        yield Entry(first, owners, ids, rows.reshape(count, row_bytes))


def _unpack_ids(raw: bytes, ends: U32, is_int: bool) -> I64 | list[str]:
    """Invert `_pack_ids`."""
    if is_int:
        return np.frombuffer(raw, ">u8").astype(np.int64)
    places = [0, *ends.tolist()]
    return [raw[start:end].decode() for start, end in pairwise(places)]


class _Room:
    """Memory for the rows of a log, taken page by page as it fills.

    numpy would ask for huge pages, which the system may take tens of milliseconds to find.
    """

    def __init__(self, rows: int, widths: Sequence[int]) -> None:
        self._rows = rows
        self._widths = widths
        self._memory = mmap.mmap(-1, sum(_aligned(rows * width) for width in widths))
        self._lock = threading.Lock()
        self._user: weakref.ref[U8] | None = None

    def claim(self, count: int) -> list[U8] | None:
        """Arrays uint8 (rows, width) over it, one for each kind of fact.

        None when there are less than `count` rows, or somebody holds an array over it.
        """
        with self._lock:
            if count > self._rows or (self._user is not None and self._user() is not None):
                return None
            whole = np.frombuffer(self._memory, np.uint8)
            self._user = weakref.ref(whole)  # what is made of it refers to it
        parts, at = [], 0
        for width in self._widths:
            size = self._rows * width
            parts.append(whole[at : at + size].reshape(self._rows, width))
            at += _aligned(size)
        return parts


def _aligned(size: int) -> int:
    return -(-size // 64) * 64


class RowLog:
    """Fresh rows of one collection in RAM.

    Attributes
    ----------
    vectors : uint8 (capacity, row bytes)
        Raw rows in the collection's form.
    codes : uint8 (capacity, code bytes)
        What a scan excludes rows by (see `vecstore.kernels.fresh`).
    numbers, owners : uint32 (capacity,)
        Row numbers, ascending, and tenants.
    ints : int64 (capacity,)
        Ids, if they are ints.
    texts : list of str
        Ids, if they are not.
    tenants : dict
        Places of each tenant's rows, ascending, but for `TENANT_NONE`, which has them all.
    count : int
        Rows held.
    addresses : tuple of int
        Of the first four buffers: vectors, codes, ints, numbers.
    """

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._widths = (identity.row_bytes, code_bytes(identity.record.dim), 8, 4, 4)
        self._room: _Room | None = None
        self._spare: list[_Room] = []
        self._put([np.empty((0, width), np.uint8) for width in self._widths])
        self.texts: list[str] = []
        self.tenants: dict[int, array[int]] = {}
        self.count = 0
        self.next_row = 0
        self._coded = 0

    def _put(self, parts: Sequence[U8]) -> None:
        self.vectors, self.codes, ints, numbers, owners = self._parts = parts
        self.addresses = tuple(part.ctypes.data for part in parts[:4])
        self.ints: I64 = ints.view(np.int64)[:, 0]
        self.numbers: U32 = numbers.view(np.uint32)[:, 0]
        self.owners: U32 = owners.view(np.uint32)[:, 0]

    def catch_up(self, transaction: Transaction, state: StateRecord) -> None:
        """Append the rows that LMDB has beyond those held; what fails may be done again."""
        since = max(state.log_first, self.next_row)
        for entry in read_log(transaction, self._identity, bool(state.int_ids), since):
            numbers = np.arange(entry.first, entry.first + len(entry.ids), dtype=np.uint32)
            self._extend(numbers, entry.rows, entry.ids, entry.owners)
        self._encode()

    def since(self, first: int) -> RowLog:
        """The log without rows below `first`: itself when it holds none of them, or a copy."""
        start = int(np.searchsorted(self.numbers[: self.count], first))
        if not start:
            return self
        rest = RowLog(self._identity)
        rest._spare = [room for room in (self._room, *self._spare) if room is not None][:2]
        if start < self.count:
            part = slice(start, self.count)
            ids = self.texts[start:] or self.ints[part]
            rest._extend(self.numbers[part], self.vectors[part], ids, self.owners[part])
            rest._encode()
        return rest

    def _extend(self, numbers: U32, rows: U8, ids: I64 | list[str], owners: U32) -> None:
        start, end = self.count, self.count + len(numbers)
        self._make_room(end)
        self.vectors[start:end] = rows
        self.numbers[start:end] = numbers
        self.owners[start:end] = owners
        self.next_row = int(numbers[-1]) + 1
        if isinstance(ids, list):
            self.texts += ids
        else:
            self.ints[start:end] = ids
        if owners.any():  # with tenants; `TENANT_NONE` is 0
            for place, owner in enumerate(owners.tolist(), start):
                self.tenants.setdefault(owner, array("I")).append(place)
        self.count = end

    def _encode(self) -> None:
        """Encode the rows that have no codes yet."""
        if self._coded == self.count:  # nor is the kernel loaded, in 40 ms and 4 MB
            return
        record, rows = self._identity.record, slice(self._coded, self.count)
        encode_fresh(
            record.metric,
            self._identity.form.number,
            record.dim,
            self.vectors[rows],
            self.codes[rows],
        )
        self._coded = self.count

    def _make_room(self, count: int) -> None:
        """Let the buffers hold so many rows; those that snapshots share stay as they are."""
        if count <= len(self.numbers):
            return
        old, held = self._parts, self.count
        self._put(self._find_room(count))
        for source, target in zip(old, self._parts, strict=True):
            target[:held] = source[:held]

    def _find_room(self, count: int) -> list[U8]:
        for room in self._spare:
            parts = room.claim(count)
            if parts is not None:
                self._room = room
                return parts
        least = min(LOG_ROOM_ROWS, LOG_ROOM_BYTES // self._identity.row_bytes)
        self._room = _Room(max(count, least, 2 * len(self.numbers)), self._widths)
        parts = self._room.claim(count)
        assert parts is not None, "nobody else knows it"
        return parts

    def id_at(self, place: int) -> int | str:
        """Id of a row that is held."""
        return self.texts[place] if self.texts else int(self.ints[place])

    def places(self, tenant: int, count: int) -> NDArray[np.uint32]:
        """Places of a tenant's rows among the first `count`."""
        own = self.tenants.get(tenant)
        if own is None:
            return np.zeros(0, np.uint32)
        # a copy first: an array cannot grow while numpy looks at it
        places: NDArray[np.uint32] = np.array(own[:], np.uint32)
        return places[: int(np.searchsorted(places, count))]
