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
from vecstore.codecs import Codec
from vecstore.config import CHUNK_ROWS
from vecstore.directory import Directory
from vecstore.errors import CorruptionError
from vecstore.extents import Extent
from vecstore.kernels import view as v
from vecstore.layout import ExtentKind, Section
from vecstore.postings import PostingRuns
from vecstore.raw_forms import RawForm, find_form
from vecstore.rawrows import RowIds

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
        directories = self.of_kind(ExtentKind.DIRECTORY)
        self.directory = (
            Directory(directories[-1], self.codec, record.metric) if directories else None
        )
        if self.directory is None:
            self.first_run: I64 = np.zeros(1, np.int64)
            self.run_address: I64 = np.zeros(0, np.int64)
            self.run_blocks: I64 = np.zeros(0, np.int64)
            self.run_source: NDArray[np.uint32] = np.zeros((0, 2), np.uint32)
            self.run_sum: U64 = np.zeros(0, np.uint64)
            self.run_checked: U64 = np.zeros(0, np.uint64)
            return
        numbers = self.directory.postings
        ordinal, address, blocks, sums, source = [], [], [], [], []
        for place, postings in enumerate(self.postings):
            runs = postings.runs
            at = np.searchsorted(numbers, runs["posting"])
            at = np.minimum(at, len(numbers) - 1)
            if (numbers[at] != runs["posting"]).any():
                raise postings.extent.corrupt(
                    f"Extent {postings.extent.number} holds a posting without a centroid."
                )
            ordinal.append(at)
            address.append(postings.address + runs["offset"].astype(np.int64))
            blocks.append(runs["blocks"].astype(np.int64))
            sums.append(runs["sum"])
            source.append(np.stack([np.full(len(runs), place), np.arange(len(runs))], axis=1))
        ordinals = np.concatenate(ordinal)
        order = np.argsort(ordinals, kind="stable")
        self.first_run = np.zeros(len(numbers) + 1, np.int64)
        self.first_run[1:] = np.cumsum(np.bincount(ordinals, minlength=len(numbers)))
        self.run_address = np.ascontiguousarray(np.concatenate(address)[order])
        self.run_blocks = np.ascontiguousarray(np.concatenate(blocks)[order])
        self.run_sum = np.ascontiguousarray(np.concatenate(sums)[order])
        self.run_source = np.concatenate(source)[order].astype(np.uint32)
        checked = np.concatenate([part.checked for part in self.postings])[order]
        self.run_checked = np.zeros(layout.bitmap_words(len(order)), np.uint64)
        layout.set_bits(self.run_checked, np.flatnonzero(checked).astype(np.uint32), True)

    def remember_checks(self) -> None:
        """Tell the extents which of their runs were checked, for the next state's tables."""
        runs = np.arange(len(self.run_source), dtype=np.uint32)
        checked = self.run_source[layout.get_bits(self.run_checked, runs)]
        for place, part in enumerate(self.postings):
            part.checked[checked[checked[:, 0] == place, 1]] = True

    def fill(self, view: I64) -> None:
        """Write this part of a kernel view."""
        if self.directory is not None:
            self.directory.fill(view)
        view[v.FIRST_RUN] = self.first_run.ctypes.data
        view[v.RUN_ADDRESS] = self.run_address.ctypes.data
        view[v.RUN_BLOCKS] = self.run_blocks.ctypes.data
        view[v.RUN_CHECKED] = self.run_checked.ctypes.data
        view[v.RUN_SUM] = self.run_sum.ctypes.data
        view[v.PAGE_CHECKED] = self.page_checked.ctypes.data

    def damage(self, thing: int) -> CorruptionError:
        """Build the error for a run, or a page of raw rows, that kernels found damaged."""
        name = self.identity.name
        if thing < v.PAGE_TAG:
            place, run = self.run_source[thing]
            postings: PostingRuns = self.postings[place]
            return postings.damage(int(run))
        row = (thing - v.PAGE_TAG) * layout.PAGE // self.identity.row_bytes
        extent = self.raw_extent(row)
        return extent.corrupt(
            f"Rows about {row} of collection {name!r} (extent {extent.number}) do not match "
            f"their checksum; restore a backup."
        )

    def raw_extent(self, row: int) -> Extent:
        """Raw extent that covers a row number, or ends just before it."""
        return self.raws[max(0, bisect_right(self.raw_firsts, row) - 1)]

    def row_ids(self, row: int) -> RowIds:
        """Ids of the extent that holds a row."""
        place = bisect_right(self.raw_firsts, row) - 1
        ids = self._ids[place]
        if ids is None:
            ids = self._ids[place] = RowIds(self.raws[place])
        return ids
