"""The row log: fresh rows, in LMDB for safety and in RAM for search.

Invariants
----------
* A fresh row is visible from the commit of its transaction on, in every process.
* Buffers only grow at their end, so a snapshot that knows its count may share them with a
  newer one.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vecstore import layout
from vecstore.errors import CorruptionError
from vecstore.layout import Kind
from vecstore.transaction import Transaction


def log_value(tenant: int, raw_id: bytes, row: NDArray[np.uint8]) -> bytes:
    """Encode a fresh row, given in its raw form, for LMDB."""
    return layout.LOG_HEAD.pack(tenant, len(raw_id)) + raw_id + row.tobytes()


def read_log(
    transaction: Transaction, collection: int, first_row: int
) -> Iterator[tuple[int, int, bytes, bytes]]:
    """Yield (row number, tenant, id bytes, raw row) of fresh rows from `first_row` on."""
    start = layout.key_u32(collection, Kind.LOG, first_row)
    prefix = layout.key(collection, Kind.LOG)
    head = layout.LOG_HEAD.size
    for key, value in transaction.scan(prefix, start):
        row = int(layout.U32.unpack(key[len(prefix) :])[0])
        tenant, size = layout.LOG_HEAD.unpack_from(value)
        yield row, tenant, value[head : head + size], value[head + size :]


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
        self.vectors: NDArray[np.uint8] = np.empty((64, row_bytes), np.uint8)
        self.numbers: NDArray[np.uint32] = np.empty(64, np.uint32)
        self.ids: list[int | str] = []
        self.owners: list[int] = []
        self.tenants: dict[int, array[int]] = {}
        self.count = 0
        self.next_row = 0

    def catch_up(
        self, transaction: Transaction, collection: int, is_int: bool, first: int
    ) -> NDArray[np.uint32]:
        """Append the rows that LMDB has beyond those held; return their numbers.

        Raises
        ------
        CorruptionError
            A stored row is shorter or longer than rows of the collection are.
        """
        start, row_bytes = self.count, self.vectors.shape[1]
        entries = list(read_log(transaction, collection, max(first, self.next_row)))
        if not entries:
            return self.numbers[start:start]
        numbers, owners, raw_ids, rows = zip(*entries, strict=True)
        for number, row in zip(numbers, rows, strict=True):
            if len(row) != row_bytes:
                raise CorruptionError(
                    f"Row {number} of the row log has {len(row)} bytes where rows take "
                    f"{row_bytes}; restore a backup."
                )
        count = start + len(entries)
        self._make_room(count)
        self.vectors[start:count] = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, row_bytes)
        self.numbers[start:count] = numbers
        self.ids += [layout.decode_id(raw_id, is_int) for raw_id in raw_ids]
        self.owners += owners
        if any(owners):
            for place, owner in enumerate(owners, start):
                self.tenants.setdefault(owner, array("I")).append(place)
        self.count, self.next_row = count, numbers[-1] + 1
        return self.numbers[start:count]

    def _make_room(self, count: int) -> None:
        """Let the buffers hold so many rows; those that snapshots share stay as they are."""
        more = max(count, 2 * len(self.numbers)) - len(self.numbers)
        if count > len(self.numbers):
            self.vectors = np.concatenate(
                [self.vectors, np.empty((more, self.vectors.shape[1]), np.uint8)]
            )
            self.numbers = np.concatenate([self.numbers, np.empty(more, np.uint32)])

    def places(self, tenant: int, count: int) -> NDArray[np.uint32]:
        """Places of a tenant's rows among the first `count`."""
        own = self.tenants.get(tenant)
        if own is None:
            return np.zeros(0, np.uint32)
        # a copy first: an array cannot grow while numpy looks at it
        places: NDArray[np.uint32] = np.array(own[:], np.uint32)
        return places[: int(np.searchsorted(places, count))]
