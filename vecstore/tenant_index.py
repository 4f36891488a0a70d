"""The index of one tenant in one state of a collection: its directory and where its runs are.

Made on demand from the extents, which know nothing of it, and kept as long as a budget of bytes
allows; an idle tenant takes no memory at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vecstore.config import BLOCK_ROWS
from vecstore.directory import Directory
from vecstore.errors import CorruptionError
from vecstore.extents import asked_ahead
from vecstore.kernels import view as v
from vecstore.kernels.runs import find_runs, lay_out_runs
from vecstore.postings import PostingRuns
from vecstore.yielding import yielding

I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]


_NO_ROWS = np.zeros(0, np.uint32)
_NO_RUNS: I64 = np.zeros((0, v.RUN_FIELDS), np.int64)


class TenantIndex:
    """Where the postings of one tenant are, as kernels read them.

    Parameters
    ----------
    directory : Directory or None
        None for a tenant whose rows are all fresh.
    postings : sequence of PostingRuns
        Of all extents, the oldest first.  Runs of postings that the directory does not name
        were replaced and are passed over.
    parts : int64 (extents, PART_FIELDS)
        What kernels find the runs of each by.

    Attributes
    ----------
    first_run : int64 (postings + 1,)
        Runs of posting p are first_run[p] to first_run[p + 1] - 1.
    """

    def __init__(
        self, directory: Directory | None, postings: Sequence[PostingRuns], parts: I64
    ) -> None:
        self.directory = directory
        self._parts = postings
        self._table = _NO_RUNS
        count = 0 if directory is None else directory.count
        self._memory: I64 = np.zeros(count + 1, np.int64)
        if directory is not None:
            spans = np.empty((len(parts), 2), np.int64)
            runs = find_runs(parts, directory.tenant, spans)
            self._memory = np.empty(count + 1 + runs * v.RUN_FIELDS, np.int64)
            table = self._memory[count + 1 :].reshape(runs, v.RUN_FIELDS)
            numbers = directory.numbers_address
            runs = lay_out_runs(parts, spans, numbers, self._memory[: count + 1], table)
            self._table = table[:runs]
        self.first_run: I64 = self._memory[: count + 1]

    @property
    def listed(self) -> bool:
        """Whether the tenant's indexed rows are a mere list."""
        return self.directory is not None and self.directory.listed

    @property
    def nbytes(self) -> int:
        """Bytes of memory that this takes, maps included."""
        directory = 0 if self.directory is None else self.directory.nbytes
        return 2_048 + self._memory.nbytes + directory

    @property
    def table_bytes(self) -> int:
        """Bytes of the tables of runs."""
        return self._memory.nbytes

    def fill(self, view: I64) -> None:
        """Write this part of a kernel view."""
        if self.directory is not None:
            self.directory.fill(view)
        address = self._memory.ctypes.data
        view[v.FIRST_RUN] = address
        view[v.RUN_TABLE] = address + self.first_run.nbytes

    def list(self) -> U32:
        """Rows of the posting that is a list; some may be there twice, if granted twice."""
        runs = [self._checked_entries(part, run, 0) for part, run in self._sources()]
        return runs[0] if len(runs) == 1 else np.unique(np.concatenate([_NO_ROWS, *runs]))

    def _sources(self) -> Sequence[tuple[int, int]]:
        """For each run the place of its extent, and its own place there."""
        return self._table[:, v.RUN_PART : v.RUN_PLACE + 1].tolist()  # type: ignore[no-any-return]

    def _source(self, run: int) -> tuple[int, int]:
        """Place of a run's extent, and its own place there."""
        return int(self._table[run, v.RUN_PART]), int(self._table[run, v.RUN_PLACE])

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
        runs = np.arange(len(self._table))
        if extents is not None:
            runs = runs[np.isin(self._table[:, v.RUN_PART], list(extents))]
        return self._entries_in(runs, block_bytes)

    def _entries_in(self, runs: I64, block_bytes: int) -> tuple[I64, U32]:
        """Posting ordinals and rows of the entries of some runs."""
        table = self._table[runs]
        owners = np.searchsorted(self.first_run, runs, "right") - 1
        room = int(np.maximum(BLOCK_ROWS * table[:, v.RUN_BLOCKS], table[:, v.RUN_ROWS]).sum())
        ordinals, rows = np.empty(room, np.int64), np.empty(room, np.uint32)
        # plain numbers: so many lists of two would set off the collection of garbage, all of it
        parts, places = table[:, v.RUN_PART].tolist(), table[:, v.RUN_PLACE].tolist()
        end = 0
        ahead = asked_ahead(range(len(parts)), lambda i: self._parts[parts[i]].ask(places[i]))
        for i, ordinal in yielding(zip(ahead, owners.tolist(), strict=True)):
            own = self._checked_entries(parts[i], places[i], block_bytes)
            start, end = end, end + len(own)
            ordinals[start:end] = ordinal
            rows[start:end] = own
        return ordinals[:end], rows[:end]

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
                place, own = self._source(run)
                entries = self._parts[place].entries(own, block_bytes)
                yield posting, entries, int(self._table[run, v.RUN_ROWS]), run == first

    def entry_counts(self) -> I64:
        """Entries of each posting, dead ones included."""
        return self._by_posting(v.RUN_ROWS)

    def entries_by_part(self) -> I64:
        """Entries that are read, dead ones included, in each extent of postings."""
        rows = np.bincount(self._table[:, v.RUN_PART], self._table[:, v.RUN_ROWS], len(self._parts))
        return rows.astype(np.int64)

    def block_counts(self) -> I64:
        """Blocks of each posting, those that are not full included."""
        return self._by_posting(v.RUN_BLOCKS)

    def _by_posting(self, field: int) -> I64:
        """Sums of a field of all runs, for each posting."""
        ordinals = np.repeat(np.arange(len(self.first_run) - 1), np.diff(self.first_run))
        sums = np.bincount(ordinals, self._table[:, field], len(self.first_run) - 1)
        return sums.astype(np.int64)

    def entries_of(self, postings: I64, block_bytes: int) -> tuple[I64, U32]:
        """Posting ordinals and rows of the entries of some postings; see `entries`."""
        firsts, ends = self.first_run[postings], self.first_run[postings + 1]
        spans = [np.arange(first, end) for first, end in zip(firsts, ends, strict=True)]
        return self._entries_in(np.concatenate([np.zeros(0, np.int64), *spans]), block_bytes)

    @cached_property
    def mean_entries(self) -> float:
        """Entries of a posting in the mean."""
        return float(self._table[:, v.RUN_ROWS].sum()) / max(1, len(self.first_run) - 1)

    def run_count(self) -> int:
        """Runs of all postings."""
        return len(self._table)

    def damage(self, run: int) -> CorruptionError:
        """Build the error for a run that kernels found damaged."""
        place, own = self._source(run)
        return self._parts[place].damage(own)
