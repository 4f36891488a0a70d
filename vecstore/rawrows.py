"""Raw rows in extents: each vector once, in the collection's raw form, beside its id.

A raw extent holds an ascending range of row numbers that starts at a multiple of `CHUNK_ROWS`,
so one table entry per chunk turns a row number into an address.  Where rows died and the extent
was written anew, a bitmap per chunk tells those that are left, and a row's place is its rank
among them.  Bulk loads number rows by
posting; ORDER then keeps the order of insertion, by which ties are broken.

Invariants
----------
* A row's number, id and vector never change.
* Row numbers are never reused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from vecstore.config import CHUNK_ROWS, EXTENT_BYTES_MAX, EXTENT_BYTES_MIN, EXTENT_PARTS
from vecstore.extents import Extent, ExtentWriter
from vecstore.kernels import view as v
from vecstore.layout import (
    PAGE,
    PLACES_DTYPE,
    TENANT_NONE,
    ExtentKind,
    ExtentRecord,
    Section,
    bitmap_words,
    set_range,
)
from vecstore.rowsets import numbers

I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
WRITE_ROWS = 8 * CHUNK_ROWS


def page_sums(data: memoryview) -> Iterator[int]:
    """Checksum of each page of `data`."""
    for start in range(0, data.nbytes, PAGE):
        yield xxhash.xxh3_64_intdigest(data[start : start + PAGE])


def extent_rows(row_bytes: int, rows: int) -> int:
    """Rows of one raw extent among so many, a multiple of `CHUNK_ROWS`.

    It takes its part of them, so that little space is needed to write it anew.
    """
    size = min(EXTENT_BYTES_MAX, max(EXTENT_BYTES_MIN, rows * row_bytes // EXTENT_PARTS))
    return max(1, size // (row_bytes * CHUNK_ROWS)) * CHUNK_ROWS


def write_rows(
    folder: Path,
    number: int,
    collection: int,
    first_row: int,
    span: int,
    dim: int,
    form: int,
    take: Callable[[int, int], U8],
    ids: Sequence[Any] | NDArray[np.int64],
    order: NDArray[np.uint32] | None,
    owners: NDArray[np.uint32] | None,
    present: NDArray[np.bool_] | None = None,
) -> ExtentRecord:
    """Write one raw extent.

    Parameters
    ----------
    first_row, span : int
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
    present : bool (span,), optional
        Row numbers that have a row; all by default.  What else is given is about these, in order.
    """
    count = span if present is None else int(present.sum())
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
        if present is not None:
            writer.add(Section.PLACES, _places_table(present))
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
        return writer.finish(span)
    except BaseException:
        writer.abandon()
        raise


def _places_table(present: NDArray[np.bool_]) -> NDArray[Any]:
    """Where the rows of a range stand that have one."""
    chunks = -(-len(present) // CHUNK_ROWS)
    marks = np.zeros((chunks, CHUNK_ROWS), np.bool_)
    marks.ravel()[: len(present)] = present
    table = np.zeros(chunks, PLACES_DTYPE)
    table["bits"] = np.packbits(marks, axis=1, bitorder="little").view(np.uint64)
    counts = np.bitwise_count(table["bits"]).astype(np.int64)
    table["ranks"][:, 1:] = np.cumsum(counts, axis=1)[:, :-1]
    table["start"][1:] = np.cumsum(counts.sum(axis=1))[:-1]
    return table


class RawRows:
    """One mapped raw extent: where its rows stand, whose they are, under which ids.

    Attributes
    ----------
    first_row, end_row : int
        Row numbers covered.
    stored : int
        Rows that stand here.
    """

    def __init__(self, extent: Extent, row_bytes: int) -> None:
        self.extent = extent
        self.first_row = extent.first_row
        self.end_row = extent.first_row + extent.count
        self._row_bytes = row_bytes
        self._chunks: NDArray[Any] | None = None
        self.stored = extent.count
        if extent.has(Section.PLACES):
            self._chunks = extent.array(Section.PLACES, PLACES_DTYPE)
            self.stored = int(np.bitwise_count(self._chunks["bits"]).sum())
        self._sums = extent.array(Section.ROW_SUMS, np.uint64)
        self._checked: NDArray[np.uint64] = np.zeros(bitmap_words(len(self._sums)), np.uint64)
        self._ints_checked: I64 = np.zeros(1, np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that this takes beside the map."""
        return self._checked.nbytes

    def chunk_table(self) -> I64:
        """Rows of the table of chunks, int64 (chunks, CHUNK_FIELDS)."""
        chunks = -(-(self.end_row - self.first_row) // CHUNK_ROWS)
        starts = np.arange(chunks, dtype=np.int64) * CHUNK_ROWS
        table = np.zeros((chunks, v.CHUNK_FIELDS), np.int64)
        if self._chunks is not None:
            starts = self._chunks["start"].astype(np.int64)
            places = int(self._chunks.ctypes.data)
            table[:, v.CHUNK_PLACES] = places + np.arange(chunks) * PLACES_DTYPE.itemsize
        table[:, v.CHUNK_START] = starts * self._row_bytes
        table[:, v.CHUNK_ADDRESS] = self.extent.address(Section.ROWS) + table[:, v.CHUNK_START]
        table[:, v.CHUNK_SUMS] = self._sums.ctypes.data
        table[:, v.CHUNK_CHECKED] = self._checked.ctypes.data
        ids = Section.ID_ENDS if self.extent.has(Section.ID_ENDS) else Section.IDS
        if self.extent.has(ids):
            table[:, v.CHUNK_IDS] = self.extent.address(ids) + 8 * starts
        table[:, v.CHUNK_INTS] = self._ints_checked.ctypes.data
        if self.extent.has(Section.ORDER):
            table[:, v.CHUNK_ORDER] = self.extent.address(Section.ORDER) + 4 * starts
        return table

    def mark(self, live: NDArray[np.uint64]) -> None:
        """Set the bits of the rows that stand here, in a bitmap over all rows."""
        if self._chunks is None:
            set_range(live, self.first_row, self.end_row)
        else:
            bits = self._chunks["bits"].ravel()
            live[self.first_row // 64 :][: len(bits)] |= bits

    def rows(self, live: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """Row numbers of the live rows that stand here, ascending."""
        found = numbers(live[self.first_row // 64 : -(-self.end_row // 64)])
        found += np.uint32(self.first_row)
        return found

    def raw(self, rows: NDArray[np.uint32]) -> U8:
        """Rows as they are stored, uint8 (n, row bytes), of ascending row numbers."""
        stored = self.extent.array(Section.ROWS, np.uint8)[: self.stored * self._row_bytes]
        places = self.places(rows)
        if len(rows):
            first, last = int(places[0]), int(places[-1])
            self.extent.ask(
                Section.ROWS, first * self._row_bytes, (last + 1 - first) * self._row_bytes
            )
        return stored.reshape(-1, self._row_bytes)[places]

    def places(self, rows: NDArray[np.uint32]) -> I64:
        """Places of rows that stand here."""
        within = rows.astype(np.int64) - self.first_row
        if self._chunks is None:
            return within
        chunk, bit = within // CHUNK_ROWS, within % CHUNK_ROWS
        words = self._chunks["bits"][chunk, bit >> 6]
        below = words & ((np.uint64(1) << (bit & 63).astype(np.uint64)) - np.uint64(1))
        ranks = self._chunks["ranks"][chunk, bit >> 6].astype(np.int64)
        found: I64 = self._chunks["start"][chunk] + ranks + np.bitwise_count(below)
        return found

    def place(self, row: int) -> int:
        """Place of a row that stands here."""
        if self._tables is None:
            return row - self.first_row
        bits, ranks, starts = self._tables
        chunk, within = divmod(row - self.first_row, CHUNK_ROWS)
        word, bit = divmod(within, 64)
        below = bits[chunk, word] & ((1 << bit) - 1)
        place: int = starts[chunk] + ranks[chunk, word] + below.bit_count()
        return place

    @cached_property
    def _tables(self) -> tuple[Any, Any, Any] | None:
        """Bits and ranks by chunk and word, starts by chunk, as plain ints; None when dense."""
        if self._chunks is None:
            return None
        bits, ranks, starts = (self._chunks[name].data for name in ("bits", "ranks", "start"))
        return bits, ranks, starts

    def addresses(self, rows: NDArray[np.uint32]) -> I64:
        """Addresses of rows that stand here."""
        return self.extent.address(Section.ROWS) + self.places(rows) * self._row_bytes

    def inserted(self, rows: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Places of rows in order of insertion."""
        if not self.extent.has(Section.ORDER):
            return rows
        order: NDArray[np.uint32] = self.extent.array(Section.ORDER, np.uint32)
        return order[self.places(rows)]

    @cached_property
    def _owners(self) -> memoryview[int] | None:
        if not self.extent.has(Section.OWNERS):
            return None
        return self.extent.array(Section.OWNERS, np.uint32).data

    @cached_property
    def _numbers(self) -> NDArray[np.uint64] | None:
        """Int ids; with the first answer from here, the order that kernels went by is checked.

        From then on kernels may read the ids by address.
        """
        if self.extent.has(Section.ORDER):
            self.extent.array(Section.ORDER, np.uint32)
        if self.extent.has(Section.ID_ENDS):
            return None
        numbers: NDArray[np.uint64] = self.extent.array(Section.IDS, np.uint64)
        self._ints_checked[0] = 1
        return numbers

    @cached_property
    def _number_list(self) -> memoryview[int]:
        assert self._numbers is not None
        return self._numbers.data

    @cached_property
    def _texts(self) -> tuple[memoryview[int], memoryview[int]]:
        """All ids as UTF-8, and where each ends."""
        text = self.extent.array(Section.IDS, np.uint8).data
        return text, self.extent.array(Section.ID_ENDS, np.uint64).data

    def one(self, row: int) -> int | str:
        """Id of a row."""
        place = self.place(row)
        if self._numbers is not None:
            return self._number_list[place]
        text, ends = self._texts
        start = ends[place - 1] if place else 0
        return str(text[start : ends[place]], "utf8")

    def owner(self, row: int) -> int:
        """Tenant of a row."""
        return TENANT_NONE if self._owners is None else self._owners[self.place(row)]

    def several_owners(self, rows: list[int]) -> list[int]:
        """Tenants of a few rows."""
        if self._owners is None or self._chunks is not None:
            return [self.owner(row) for row in rows]
        owners, first = self._owners, self.first_row
        return [owners[row - first] for row in rows]

    def owners(self, rows: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Tenants of rows."""
        if not self.extent.has(Section.OWNERS):
            return np.full(len(rows), TENANT_NONE, np.uint32)
        owners: NDArray[np.uint32] = self.extent.array(Section.OWNERS, np.uint32)
        return owners[self.places(rows)]

    def many(self, rows: NDArray[np.uint32]) -> NDArray[Any]:
        """Ids of rows: int64, or object for str ids."""
        if self._numbers is not None:
            found: NDArray[np.int64] = self._numbers[self.places(rows)].astype(np.int64)
            return found
        return np.array([self.one(int(row)) for row in rows], dtype=object)
