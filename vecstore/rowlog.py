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
        start = self.count
        for row, tenant, raw_id, vector in read_log(
            transaction, collection, max(first, self.next_row)
        ):
            if self.count == len(self.numbers):
                self.vectors = np.concatenate([self.vectors, np.empty_like(self.vectors)])
                self.numbers = np.concatenate([self.numbers, np.empty_like(self.numbers)])
            if len(vector) != self.vectors.shape[1]:
                raise CorruptionError(
                    f"Row {row} of the row log has {len(vector)} bytes where rows take "
                    f"{self.vectors.shape[1]}; restore a backup."
                )
            self.vectors[self.count] = np.frombuffer(vector, np.uint8)
            self.numbers[self.count] = row
            if tenant != layout.TENANT_NONE:
                self.tenants.setdefault(tenant, array("I")).append(self.count)
            self.owners.append(tenant)
            self.ids.append(layout.decode_id(raw_id, is_int))
            self.count += 1
            self.next_row = row + 1
        return self.numbers[start : self.count]

    def places(self, tenant: int, count: int) -> NDArray[np.uint32]:
        """Places of a tenant's rows among the first `count`."""
        own = self.tenants.get(tenant)
        if own is None:
            return np.zeros(0, np.uint32)
        # a copy first: an array cannot grow while numpy looks at it
        places: NDArray[np.uint32] = np.array(own[:], np.uint32)
        return places[: int(np.searchsorted(places, count))]
