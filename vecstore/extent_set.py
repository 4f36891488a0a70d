"""The mapped extents of one state of a collection, and the tables that kernels read them by.

Addresses of all postings and raw rows are known without touching their pages.  Kernels hold
bytes against their checksums on their first use in a process and mark them in the bitmaps here.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vecstore import layout
from vecstore.attributes import Attributes
from vecstore.codecs import Codec
from vecstore.config import CHUNK_ROWS, INDEX_CACHE_BYTES
from vecstore.directory import Directories, Directory
from vecstore.errors import CorruptionError
from vecstore.extents import Extent
from vecstore.kernels import view as v
from vecstore.layout import ExtentKind, Section
from vecstore.lru import LruBytes
from vecstore.postings import PostingRuns
from vecstore.raw_forms import RawForm, find_form
from vecstore.rawrows import RowIds
from vecstore.tenant_index import TenantIndex

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]


@dataclass(frozen=True)
class Identity:
    """What a collection is: its name, record and where its extents lie."""

    name: str
    record: layout.CollectionRecord
    folder: Path

    @property
    def form(self) -> RawForm:
        """Form of its raw rows."""
        return find_form(self.record.raw)

    @property
    def row_bytes(self) -> int:
        """Bytes from one raw row to the next."""
        return self.form.row_bytes(self.record.dim)


class ExtentSet:
    """The mapped extents of one state and the tables that kernels read them by."""

    def __init__(
        self,
        identity: Identity,
        codec: Codec,
        records: dict[int, layout.ExtentRecord],
        old: ExtentSet | None,
    ) -> None:
        self.identity = identity
        self.codec = codec
        self.records = records
        kept = old.mapped if old is not None else {}
        self.mapped: dict[int, Extent] = {
            number: kept.get(number)
            or Extent(identity.folder, number, records[number], identity.name)
            for number in sorted(records)
        }
        self._make_row_tables(old)
        self._make_runs(old)

    def of_kind(self, kind: ExtentKind) -> list[Extent]:
        """Extents of one kind, by first row and number."""
        found = [extent for extent in self.mapped.values() if extent.kind == kind]
        return sorted(found, key=lambda extent: (extent.first_row, extent.number))

    def _make_row_tables(self, old: ExtentSet | None) -> None:
        row_bytes = self.identity.row_bytes
        self.raws = self.of_kind(ExtentKind.RAW)
        for extent in self.raws:
            self._refuse_other_form(extent)
        self.raw_firsts = [extent.first_row for extent in self.raws]
        known = {} if old is None else dict(zip(map(id, old.raws), old._ids, strict=True))
        self._ids: list[RowIds | None] = [known.get(id(extent)) for extent in self.raws]
        end = max((extent.first_row + extent.count for extent in self.raws), default=0)
        chunks = -(-end // CHUNK_ROWS)
        self.chunk_address: I64 = np.zeros(chunks, np.int64)
        self.chunk_order: I64 = np.zeros(chunks, np.int64)
        self.chunk_sums: I64 = np.zeros(chunks, np.int64)
        for extent in self.raws:
            first = extent.first_row // CHUNK_ROWS
            count = -(-extent.count // CHUNK_ROWS)
            steps = np.arange(count, dtype=np.int64) * CHUNK_ROWS
            rows = extent.address(Section.ROWS)
            self.chunk_address[first : first + count] = rows + steps * row_bytes
            sums = extent.array(Section.ROW_SUMS, np.uint64)
            self.chunk_sums[first : first + count] = (
                sums.ctypes.data + steps * row_bytes // layout.PAGE * 8
            )
            if extent.has(Section.ORDER):
                order = extent.address(Section.ORDER)
                self.chunk_order[first : first + count] = order + steps * 4
        pages = chunks * CHUNK_ROWS * row_bytes // layout.PAGE
        self.page_checked: U64 = np.zeros(layout.bitmap_words(pages), np.uint64)
        if old is not None:
            kept = min(len(old.page_checked), len(self.page_checked))
            self.page_checked[:kept] = old.page_checked[:kept]

    def _refuse_other_form(self, extent: Extent) -> None:
        """Raise when an extent's rows are not of the collection's form."""
        if extent.codec != self.identity.form.number:
            raise extent.corrupt(
                f"Extent {extent.number} holds raw rows of form {extent.codec}, collection "
                f"{self.identity.name!r} has raw={self.identity.record.raw!r}; restore a backup."
            )

    def _make_runs(self, old: ExtentSet | None) -> None:
        record = self.identity.record
        if old is not None:
            old.remember_checks()
        known = {} if old is None else {p.extent.number: p for p in old.postings}
        self.postings: list[PostingRuns] = [
            known.get(extent.number) or PostingRuns(extent, self.codec.run_block_bytes(record.dim))
            for extent in self.of_kind(ExtentKind.POSTINGS)
        ]
        kept = {} if old is None or old.codec != self.codec else old.directories
        self.directories: dict[int, Directories] = {
            extent.number: kept.get(extent.number) or Directories(extent, self.codec, record.metric)
            for extent in self.of_kind(ExtentKind.DIRECTORY)
        }
        read = {} if old is None else {own.extent.number: own for own in old.attributes}
        self.attributes: list[Attributes] = [
            read.get(extent.number) or Attributes(extent)
            for extent in self.of_kind(ExtentKind.ATTRIBUTES)
        ]
        self.indexes: LruBytes[int, TenantIndex] = LruBytes(
            INDEX_CACHE_BYTES, TenantIndex.remember_checks
        )

    def directory(self, tenant: int, number: int) -> Directory | None:
        """Directory of a tenant in the extent of the given number; None for number 0."""
        if not number:
            return None
        directory = self.directories[number].find(tenant)
        if directory is None:
            raise CorruptionError(
                f"Extent {number} of collection {self.identity.name!r} lacks the directory of "
                f"tenant {tenant}; restore a backup.",
                collection=self.identity.name,
                extent=number,
            )
        return directory

    def index(self, tenant: int, number: int) -> TenantIndex:
        """Index of a tenant whose directory stands in the extent of the given number."""
        known = self.indexes.get(tenant)
        if known is not None:
            return known
        made = TenantIndex(self.directory(tenant, number), self.postings)
        return self.indexes.put(tenant, made, made.nbytes)

    def remember_checks(self) -> None:
        """Tell the extents which of their runs were checked, for the next state's tables."""
        for index in self.indexes.values():
            index.remember_checks()

    def fill(self, view: I64) -> None:
        """Write this part of a kernel view."""
        view[v.PAGE_CHECKED] = self.page_checked.ctypes.data

    def damage(self, thing: int) -> CorruptionError:
        """Build the error for a page of raw rows that kernels found damaged."""
        name = self.identity.name
        row = (thing - v.PAGE_TAG) * layout.PAGE // self.identity.row_bytes
        extent = self.raw_extent(row)
        return extent.corrupt(
            f"Rows about {row} of collection {name!r} (extent {extent.number}) do not match "
            f"their checksum; restore a backup."
        )

    def raw_extent(self, row: int) -> Extent:
        """Raw extent that covers a row number, or ends just before it."""
        return self.raws[max(0, bisect_right(self.raw_firsts, row) - 1)]

    def inserted(self, row: int) -> int:
        """Place of a row in order of insertion; its number where a bulk load did not reorder."""
        extent = self.raw_extent(row)
        if not extent.has(Section.ORDER):
            return row
        return int(extent.array(Section.ORDER, np.uint32)[row - extent.first_row])

    def row_ids(self, row: int) -> RowIds:
        """Ids of the extent that holds a row."""
        place = bisect_right(self.raw_firsts, row) - 1
        ids = self._ids[place]
        if ids is None:
            ids = self._ids[place] = RowIds(self.raws[place])
        return ids
