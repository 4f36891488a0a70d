"""The mapped extents of one state of a collection, and the tables that kernels read them by.

Addresses of all postings and raw rows are known without touching their pages.  Kernels hold
bytes against their checksums on their first use in a process and mark them in the bitmaps here.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
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
from vecstore.layout import ExtentKind
from vecstore.lru import LruBytes
from vecstore.postings import PostingRuns
from vecstore.raw_forms import RawForm, find_form
from vecstore.rawrows import RawRows
from vecstore.room import memory_bytes
from vecstore.tenant_index import TenantIndex

I64 = NDArray[np.int64]
SWEEP_BYTES = 8 << 20
"""About what a disk reads in 4 ms, by which the next query may be later."""


@dataclass(frozen=True)
class Identity:
    """What a collection is: its name, record and where its extents lie."""

    name: str
    record: layout.CollectionRecord
    folder: Path

    @cached_property
    def packed(self) -> bytes:
        """Its record as the catalogue has it."""
        return layout.pack(self.record)

    @cached_property
    def form(self) -> RawForm:
        """Form of its raw rows."""
        return find_form(self.record.raw)

    @cached_property
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
        known = {} if old is None else {own.extent.number: own for own in old.raws}
        extents = self.of_kind(ExtentKind.RAW)
        for extent in extents:
            self._refuse_other_form(extent)
        row_bytes = self.identity.row_bytes
        self.raws: list[RawRows] = [
            known.get(extent.number) or RawRows(extent, row_bytes) for extent in extents
        ]
        self.sparse = [own for own in self.raws if own.stored < own.end_row - own.first_row]
        self.raw_firsts = [own.first_row for own in self.raws]
        end = max((own.end_row for own in self.raws), default=0)
        self.chunk_table: I64 = np.zeros((-(-end // CHUNK_ROWS), v.CHUNK_FIELDS), np.int64)
        for own in self.raws:
            part = own.chunk_table()
            first = own.first_row // CHUNK_ROWS
            self.chunk_table[first : first + len(part)] = part

    def _refuse_other_form(self, extent: Extent) -> None:
        """Raise when an extent's rows are not of the collection's form."""
        if extent.codec != self.identity.form.number:
            raise extent.corrupt(
                f"Extent {extent.number} holds raw rows of form {extent.codec}, collection "
                f"{self.identity.name!r} has raw={self.identity.record.raw!r}; restore a backup."
            )

    def _make_runs(self, old: ExtentSet | None) -> None:
        record = self.identity.record
        known = {} if old is None else {p.extent.number: p for p in old.postings}
        self.postings: list[PostingRuns] = [
            known.get(extent.number) or PostingRuns(extent, self.codec.run_block_bytes(record.dim))
            for extent in self.of_kind(ExtentKind.POSTINGS)
        ]
        parts = [own.part for own in self.postings]
        self.parts: I64 = np.array(parts, np.int64).reshape(len(parts), v.PART_FIELDS)
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
        self.indexes: LruBytes[int, TenantIndex] = LruBytes(INDEX_CACHE_BYTES)

    @cached_property
    def _swept(self) -> list[Extent]:
        """Extents that are read whole when they are not in memory, as they find room there."""
        size = sum(record.bytes for record in self.records.values())
        if self.identity.record.tenants or 2 * size > memory_bytes():
            return []
        return [*self.of_kind(ExtentKind.RAW), *self.of_kind(ExtentKind.POSTINGS)]

    def sweep(self) -> None:
        """Ask for a piece of what a query has not asked for, the postings first, each piece once.

        Called after queries whose pages may be on disk.  If all of a collection can stay in memory
        it is there after its first few hundred queries, read in order as a system would read ahead.
        Of tenants nothing is read but what they ask for.
        """
        while self._swept and not self._swept[-1].ask_next(SWEEP_BYTES):
            self._swept.pop()

    def directory(self, tenant: int, number: int) -> Directory | None:
        """Directory of a tenant in the extent of the given number; None for number 0."""
        if not number:
            return None
        directories = self.directories.get(number)
        directory = None if directories is None else directories.find(tenant)
        if directory is None:
            raise CorruptionError(
                f"Extent {number} of collection {self.identity.name!r} lacks the directory of "
                f"tenant {tenant}; restore a backup.",
                collection=self.identity.name,
                extent=number,
            )
        return directory

    def index(self, tenant: int, number: int) -> TenantIndex:
        """Index of a tenant whose directory stands in the extent of the given number.

        With number 0 it has none: it is new, or was dropped since these extents came.
        """
        if not number:
            return TenantIndex(None, self.postings, self.parts)
        known = self.indexes.get(tenant)
        if known is not None:
            return known
        made = TenantIndex(self.directory(tenant, number), self.postings, self.parts)
        return self.indexes.put(tenant, made, made.nbytes)

    def damage(self, thing: int) -> CorruptionError:
        """Build the error for a page of raw rows that kernels found damaged."""
        name = self.identity.name
        row = thing - v.PAGE_TAG
        extent = self.raw_rows(row).extent
        return extent.corrupt(
            f"Rows about {row} of collection {name!r} (extent {extent.number}) do not match "
            f"their checksum; restore a backup."
        )

    def raw_rows(self, row: int) -> RawRows:
        """Raw rows of the extent that covers a row number, or ends just before it."""
        return self.raws[max(0, bisect_right(self.raw_firsts, row) - 1)]
