"""The row log: fresh rows, in LMDB for safety and in RAM for search.

Invariants
----------
* A fresh row is visible from the commit of its transaction on, in every process.
* Buffers only grow at their end, so a snapshot that knows its count may share them with a
  newer one.
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore import layout
from vecstore.config import LOG_ENTRY_BYTES, LOG_ROOM_BYTES, LOG_ROOM_ROWS
from vecstore.errors import CorruptionError
from vecstore.extent_set import Identity
from vecstore.ids import Ids
from vecstore.layout import Kind, StateRecord
from vecstore.transaction import Transaction

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
    ids : list
    rows : uint8 (rows, row bytes)
        In their raw form.
    """

    first: int
    owners: U32
    ids: list[Any]
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


def _unpack_ids(raw: bytes, ends: U32, is_int: bool) -> list[Any]:
    """Invert `_pack_ids`."""
    if is_int:
        ids: list[Any] = np.frombuffer(raw, ">u8").tolist()
        return ids
    places = [0, *ends.tolist()]
    return [raw[start:end].decode() for start, end in pairwise(places)]


def _room(rows: int, row_bytes: int) -> U8:
    """Make room for raw rows: memory that is taken page by page as it fills.

    numpy would ask for huge pages, which the system may take tens of milliseconds to find.
    """
    memory = mmap.mmap(-1, rows * row_bytes)
    return np.frombuffer(memory, np.uint8).reshape(rows, row_bytes)


class RowLog:
    """Fresh rows of one collection in RAM.

    Attributes
    ----------
    vectors : uint8 (capacity, row bytes)
        Raw rows in the collection's form.
    numbers : uint32 (capacity,)
        Row numbers, ascending.
    ids, owners : list
        Ids and tenants, aligned.
    tenants : dict
        Places of each tenant's rows, ascending, but for `TENANT_NONE`, which has them all.
    count : int
        Rows held.
    """

    def __init__(self, row_bytes: int) -> None:
        self.vectors: U8 = np.empty((0, row_bytes), np.uint8)
        self.numbers: U32 = np.empty(0, np.uint32)
        self.ids: list[int | str] = []
        self.owners: list[int] = []
        self.tenants: dict[int, array[int]] = {}
        self.count = 0
        self.next_row = 0

    def catch_up(self, transaction: Transaction, identity: Identity, state: StateRecord) -> None:
        """Append the rows that LMDB has beyond those held; what fails may be done again."""
        since = max(state.log_first, self.next_row)
        for entry in read_log(transaction, identity, bool(state.int_ids), since):
            self._append(entry)

    def since(self, first: int) -> RowLog:
        """The log without rows below `first`: itself when it holds none of them, or a copy."""
        start = int(np.searchsorted(self.numbers[: self.count], first))
        if not start:
            return self
        rest = RowLog(self.vectors.shape[1])
        if start < self.count:
            rest._extend(
                self.numbers[start : self.count],
                self.vectors[start : self.count],
                self.ids[start : self.count],
                self.owners[start : self.count],
            )
        return rest

    def _append(self, entry: Entry) -> None:
        numbers = np.arange(entry.first, entry.first + len(entry.ids), dtype=np.uint32)
        self._extend(numbers, entry.rows, entry.ids, entry.owners.tolist())

    def _extend(self, numbers: U32, rows: U8, ids: list[Any], owners: list[int]) -> None:
        start, end = self.count, self.count + len(ids)
        self._make_room(end)
        self.vectors[start:end] = rows
        self.numbers[start:end] = numbers
        self.next_row = int(numbers[-1]) + 1
        self.ids += ids
        self.owners += owners
        if any(owners):  # with tenants; `TENANT_NONE` is 0
            for place, owner in enumerate(owners, start):
                self.tenants.setdefault(owner, array("I")).append(place)
        self.count = end

    def _make_room(self, count: int) -> None:
        """Let the buffers hold so many rows; those that snapshots share stay as they are."""
        if count > len(self.numbers):
            row_bytes = self.vectors.shape[1]
            least = min(LOG_ROOM_ROWS, LOG_ROOM_BYTES // row_bytes)
            vectors = _room(max(count, least, 2 * len(self.numbers)), row_bytes)
            numbers = np.empty(len(vectors), np.uint32)
            vectors[: self.count] = self.vectors[: self.count]
            numbers[: self.count] = self.numbers[: self.count]
            self.vectors, self.numbers = vectors, numbers

    def places(self, tenant: int, count: int) -> NDArray[np.uint32]:
        """Places of a tenant's rows among the first `count`."""
        own = self.tenants.get(tenant)
        if own is None:
            return np.zeros(0, np.uint32)
        # a copy first: an array cannot grow while numpy looks at it
        places: NDArray[np.uint32] = np.array(own[:], np.uint32)
        return places[: int(np.searchsorted(places, count))]
