"""Raw rows in extents: each vector once, in the collection's raw form, beside its id.

A raw extent holds an ascending range of row numbers that starts at a multiple of `CHUNK_ROWS`,
so one table entry per chunk turns a row number into an address.  Bulk loads number rows by
posting; ORDER then keeps the order of insertion, by which ties are broken.

Invariants
----------
* A row's number, id and vector never change.
* Row numbers are never reused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from vecstore.config import CHUNK_ROWS, EXTENT_BYTES_MAX
from vecstore.extents import Extent, ExtentWriter
from vecstore.layout import PAGE, TENANT_NONE, ExtentKind, ExtentRecord, Section

U8 = NDArray[np.uint8]
WRITE_ROWS = 8 * CHUNK_ROWS


def page_sums(data: memoryview) -> Iterator[int]:
    """Checksum of each page of `data`."""
    for start in range(0, data.nbytes, PAGE):
        yield xxhash.xxh3_64_intdigest(data[start : start + PAGE])


def extent_rows(row_bytes: int) -> int:
    """Rows of one full raw extent, a multiple of `CHUNK_ROWS`."""
    return max(1, EXTENT_BYTES_MAX // (row_bytes * CHUNK_ROWS)) * CHUNK_ROWS


def write_rows(
    folder: Path,
    number: int,
    collection: int,
    first_row: int,
    count: int,
    dim: int,
    form: int,
    take: Callable[[int, int], U8],
    ids: Sequence[Any] | NDArray[np.int64],
    order: NDArray[np.uint32] | None,
    owners: NDArray[np.uint32] | None,
) -> ExtentRecord:
    """Write one raw extent.

    Parameters
    ----------
    first_row, count : int
        Row numbers covered; `first_row` is a multiple of `CHUNK_ROWS`.
    dim : int
    form : int
        Number of the raw form, kept in the header.
    take : callable
        `take(start, end)` gives rows start to end - 1 of the extent, uint8 (n, row bytes).
    ids : int64 array, or list of str
        Ids in row order; an empty one stands for a number without a row.
    order : uint32 (count,), optional
        Place of each row in order of insertion; its number without.
    owners : uint32 (count,), optional
        Tenant of each row, in a collection with tenants.
    """
    writer = ExtentWriter(
        folder,
        number,
        ExtentKind.RAW,
        collection=collection,
        dim=dim,
        codec=form,
        first_row=first_row,
    )
    try:
        sums: list[int] = []
        writer.begin(Section.ROWS)
        for start in range(0, count, WRITE_ROWS):
            block = np.ascontiguousarray(take(start, min(count, start + WRITE_ROWS)))
            data = block.data.cast("B")
            if data.nbytes % PAGE:
                data = memoryview(bytes(data) + bytes(-data.nbytes % PAGE))
            sums.extend(page_sums(data))
            writer.write(data)
        writer.end()
        writer.add(Section.ROW_SUMS, np.array(sums, np.uint64))
        if order is not None:
            writer.add(Section.ORDER, order)
        if owners is not None:
            writer.add(Section.OWNERS, owners)
        if isinstance(ids, np.ndarray):
            writer.add(Section.IDS, ids.astype(np.uint64))
        else:
            encoded = [value.encode() for value in ids]
            writer.add(Section.IDS, np.frombuffer(b"".join(encoded), np.uint8))
            ends = np.cumsum([len(value) for value in encoded], dtype=np.uint64)
            writer.add(Section.ID_ENDS, ends)
        return writer.finish(count)
    except BaseException:
        writer.abandon()
        raise


class RowIds:
    """Ids and owners of one raw extent, by row."""

    def __init__(self, extent: Extent) -> None:
        self.first_row = extent.first_row
        self.end_row = extent.first_row + extent.count
        if extent.has(Section.ORDER):
            extent.array(Section.ORDER, np.uint32)
        self._owners: memoryview[int] | None = None
        if extent.has(Section.OWNERS):
            self._owners = extent.array(Section.OWNERS, np.uint32).data
        self._numbers: NDArray[np.uint64] | None = None
        if extent.has(Section.ID_ENDS):
            self._text = extent.array(Section.IDS, np.uint8).data
            self._places = extent.array(Section.ID_ENDS, np.uint64).data
        else:
            self._numbers = extent.array(Section.IDS, np.uint64)
            self._places = self._numbers.data

    def one(self, row: int) -> int | str:
        """Id of a row."""
        place = row - self.first_row
        if self._numbers is not None:
            return self._places[place]
        start = self._places[place - 1] if place else 0
        return str(self._text[start : self._places[place]], "utf8")

    def owner(self, row: int) -> int:
        """Tenant of a row."""
        return TENANT_NONE if self._owners is None else self._owners[row - self.first_row]

    def several(self, rows: list[int]) -> list[int | str]:
        """Ids of a few rows."""
        if self._numbers is None:
            return [self.one(row) for row in rows]
        places, first = self._places, self.first_row
        return [places[row - first] for row in rows]

    def many(self, rows: NDArray[np.uint32]) -> NDArray[Any]:
        """Ids of rows: int64, or object for str ids."""
        if self._numbers is not None:
            places = rows - np.uint32(self.first_row)
            found: NDArray[np.int64] = self._numbers[places].astype(np.int64)
            return found
        return np.array([self.one(int(row)) for row in rows], dtype=object)
