"""The index of one tenant in one state of a collection: its directory and where its runs are.

Made on demand from the extents, which know nothing of it, and kept as long as a budget of bytes
allows; an idle tenant takes no memory at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore import layout
from vecstore.directory import Directory
from vecstore.errors import CorruptionError
from vecstore.kernels import view as v
from vecstore.postings import PostingRuns

I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]


_NO_ROWS = np.zeros(0, np.uint32)
_NO_RUNS = (
    np.zeros(0, np.int64),
    np.zeros(0, np.int64),
    np.zeros(0, np.int64),
    np.zeros(0, np.int64),
    np.zeros(0, np.uint64),
    np.zeros((0, 2), np.uint32),
    np.zeros(0, np.bool_),
)


def _runs_of(
    part: PostingRuns, place: int, begin: int, end: int, numbers: U32
) -> tuple[NDArray[Any], ...]:
    """Tables of a tenant's runs in one extent, but for those of postings that are no more.

    Returns
    -------
    ordinals, addresses, blocks, rows, sums, (place of the extent, run), whether checked
    """
    runs = part.runs[begin:end]
    ordinals = numbers.searchsorted(runs["posting"])
    np.minimum(ordinals, len(numbers) - 1, out=ordinals)
    named = numbers[ordinals] == runs["posting"]
    source = np.empty((end - begin, 2), np.uint32)
    source[:, 0] = place
    source[:, 1] = np.arange(begin, end)
    checked = part.checked[begin:end]
    if not named.all():
        ordinals, runs = ordinals[named], runs[named]
        source, checked = source[named], checked[named]
    address = part.address + runs["offset"].astype(np.int64)
    blocks, rows = runs["blocks"].astype(np.int64), runs["rows"].astype(np.int64)
    return ordinals, address, blocks, rows, runs["sum"].copy(), source, checked


class TenantIndex:
    """Where the postings of one tenant are, as kernels read them.

    Parameters
    ----------
    directory : Directory or None
        None for a tenant whose rows are all fresh.
    postings : sequence of PostingRuns
        Of all extents, the oldest first.  Runs of postings that the directory does not name
        were replaced and are passed over.
    """

    def __init__(self, directory: Directory | None, postings: Sequence[PostingRuns]) -> None:
        self.directory = directory
        self._parts = postings
        numbers = _NO_ROWS if directory is None else directory.postings
        tenant = -1 if directory is None else directory.tenant
        found = []
        for place, part in enumerate(postings if directory is not None else ()):
            begin, end = part.of_tenant(tenant)
            if begin < end:
                found.append(_runs_of(part, place, begin, end, numbers))
        if len(found) == 1:
            ordinals, address, blocks, rows, sums, source, checked = found[0]
        else:
            found.insert(0, _NO_RUNS)
            ordinals, address, blocks, rows, sums, source, checked = map(
                np.concatenate, zip(*found, strict=True)
            )
        if len(ordinals) > 1:
            order = np.argsort(ordinals, kind="stable")
            ordinals, address, blocks = ordinals[order], address[order], blocks[order]
            rows, sums = rows[order], sums[order]
            source, checked = source[order], checked[order]
        self.first_run: I64 = np.zeros(len(numbers) + 1, np.int64)
        self.first_run[1:] = np.bincount(ordinals, minlength=len(numbers)).cumsum()
        self.run_address: I64 = address
        self.run_blocks: I64 = blocks
        self.run_rows: I64 = rows
        self.run_sum: U64 = sums
        self.run_source: U32 = source
        bits = np.zeros(64 * layout.bitmap_words(len(checked)), np.bool_)
        bits[: len(checked)] = checked
        self.run_checked: U64 = np.packbits(bits, bitorder="little").view(np.uint64)

    @property
    def listed(self) -> bool:
        """Whether the tenant's indexed rows are a mere list."""
        return self.directory is not None and self.directory.listed

    @property
    def nbytes(self) -> int:
        """Bytes of memory that this takes, maps included."""
        tables = (self.first_run, self.run_address, self.run_blocks, self.run_sum, self.run_source)
        directory = 0 if self.directory is None else self.directory.nbytes
        return 2_560 + sum(table.nbytes for table in tables) + directory

    def fill(self, view: I64) -> None:
        """Write this part of a kernel view."""
        if self.directory is not None:
            self.directory.fill(view)
        view[v.FIRST_RUN] = self.first_run.ctypes.data
        view[v.RUN_ADDRESS] = self.run_address.ctypes.data
        view[v.RUN_BLOCKS] = self.run_blocks.ctypes.data
        view[v.RUN_CHECKED] = self.run_checked.ctypes.data
        view[v.RUN_SUM] = self.run_sum.ctypes.data

    def remember_checks(self) -> None:
        """Tell the extents which of their runs were checked, for the next who needs them."""
        runs = np.arange(len(self.run_source), dtype=np.uint32)
        checked = self.run_source[layout.get_bits(self.run_checked, runs)]
        for place in np.unique(checked[:, 0]).tolist():
            self._parts[place].checked[checked[checked[:, 0] == place, 1]] = True

    def list(self) -> U32:
        """Rows of the posting that is a list; some may be there twice, if granted twice."""
        runs = [self._checked_entries(place, run, 0) for place, run in self.run_source.tolist()]
        return runs[0] if len(runs) == 1 else np.unique(np.concatenate([_NO_ROWS, *runs]))

    def _checked_entries(self, place: int, run: int, block_bytes: int) -> U32:
        """Rows of a run, its checksum looked at on its first use."""
        part = self._parts[place]
        if not part.checked[run]:
            if not part.intact(run):
                raise part.damage(run)
            part.checked[run] = True
        return part.entries(run, block_bytes)

    def entries(self, block_bytes: int, extents: Collection[int] | None = None) -> tuple[I64, U32]:
        """Posting ordinals and rows of all entries, copies and dead rows included.

        Parameters
        ----------
        extents : collection of int, optional
            Places of the extents that are looked at; all by default.
        """
        ordinals, rows = [np.zeros(0, np.int64)], [np.zeros(0, np.uint32)]
        counts = np.diff(self.first_run)
        for ordinal, (place, run) in zip(
            np.repeat(np.arange(len(counts)), counts), self.run_source.tolist(), strict=True
        ):
            if extents is not None and place not in extents:
                continue
            own = self._checked_entries(place, run, block_bytes)
            rows.append(own)
            ordinals.append(np.full(len(own), ordinal))
        return np.concatenate(ordinals), np.concatenate(rows)

    def runs(self, block_bytes: int) -> Iterator[tuple[int, U32, int, bool]]:
        """Posting number, rows, rows as counted, of each run; and whether it is the first."""
        counts = np.diff(self.first_run)
        for posting, first, count in zip(
            [] if self.directory is None else self.directory.postings.tolist(),
            self.first_run.tolist(),
            counts.tolist(),
            strict=False,
        ):
            for run in range(first, first + count):
                place, own = self.run_source[run].tolist()
                part = self._parts[place]
                counted = int(part.runs[own]["rows"])
                yield posting, part.entries(own, block_bytes), counted, run == first

    def entry_counts(self) -> I64:
        """Entries of each posting, dead ones included."""
        ordinals = np.repeat(np.arange(len(self.first_run) - 1), np.diff(self.first_run))
        counts = np.bincount(ordinals, self.run_rows, len(self.first_run) - 1)
        return counts.astype(np.int64)

    def entries_of(self, postings: I64, block_bytes: int) -> tuple[I64, U32]:
        """Posting ordinals and rows of the entries of some postings; see `entries`."""
        ordinals, rows = [np.zeros(0, np.int64)], [np.zeros(0, np.uint32)]
        for ordinal in postings.tolist():
            for run in range(self.first_run[ordinal], self.first_run[ordinal + 1]):
                place, own = self.run_source[run].tolist()
                rows.append(self._checked_entries(place, own, block_bytes))
                ordinals.append(np.full(len(rows[-1]), ordinal))
        return np.concatenate(ordinals), np.concatenate(rows)

    @cached_property
    def mean_entries(self) -> float:
        """Entries of a posting in the mean."""
        counts = self.entry_counts()
        return float(counts.mean()) if len(counts) else 0.0

    def run_count(self) -> int:
        """Runs of all postings."""
        return len(self.run_source)

    def damage(self, run: int) -> CorruptionError:
        """Build the error for a run that kernels found damaged."""
        place, own = self.run_source[run].tolist()
        part: PostingRuns = self._parts[place]
        return part.damage(own)
