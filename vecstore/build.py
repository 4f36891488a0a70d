"""Writing what was divided: raw rows, postings, directories.

One pipeline serves the first bulk load, a later one, a flush of the row log and a retraining,
for one tenant or many: rows that are stored already keep their numbers, new rows get theirs in
the order of tenants and postings, so that rows that are reranked together share pages.  Input is
read in blocks; beside it, a build holds some 150 bytes per row and one cell's rows.

Nothing here touches LMDB.  `Built` lists extents that are whole and synced; the caller
publishes them in one transaction, or `Built.abandon` removes them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.attributes import write_attributes
from vecstore.clustering import Progress
from vecstore.codecs import Codec, Model, train_model
from vecstore.config import CHUNK_ROWS
from vecstore.directory import Leaves, write_directories
from vecstore.division import Assignment, draw
from vecstore.extent_set import Identity
from vecstore.extents import Extent, extent_path
from vecstore.layout import ExtentRecord, Section, align
from vecstore.postings import Postings, group, write_postings
from vecstore.rawrows import extent_rows, write_rows
from vecstore.row_source import Rows
from vecstore.snapshot import Snapshot

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
U8 = NDArray[np.uint8]
CODEBOOK_ROWS = 65_536
"""Rows that codebooks are trained on."""


@dataclass
class Built:
    """Extents written and not yet published, and what to publish with them.

    Attributes
    ----------
    extents : dict
        Records by extent number.
    numbers : uint32 (new rows,)
        Row number of each new row, in input order.
    directory : int
        Extent of new directories; 0 when there are none.
    process : int
        The one that wrote them.
    """

    identity: Identity
    extents: dict[int, ExtentRecord] = field(default_factory=dict)
    numbers: U32 = field(default_factory=lambda: np.empty(0, np.uint32))
    directory: int = 0
    process: int = field(default_factory=os.getpid)

    def open(self, number: int) -> Extent:
        """Map an extent that was just written."""
        return Extent(self.identity.folder, number, self.extents[number], self.identity.name)

    def abandon(self, keep: Callable[[int], bool] = lambda number: False) -> None:
        """Remove the files, but those that `keep` names; a forked child has none."""
        if os.getpid() != self.process:
            return
        for number in self.extents:
            if not keep(number):
                extent_path(self.identity.folder, number).unlink(missing_ok=True)


class Builder:
    """Writes extents for one collection.

    Parameters
    ----------
    identity : Identity
    codec : Codec
        Of the postings.
    next_extent : callable
        Gives a new extent number.
    pool : ThreadPoolExecutor
        From `clustering.worker_pool`.
    progress : callable
        `progress(stage, rows done, rows in all)`; what it raises ends the build.
    """

    def __init__(
        self,
        identity: Identity,
        codec: Codec,
        next_extent: Callable[[], int],
        pool: ThreadPoolExecutor,
        progress: Progress,
    ) -> None:
        self._identity = identity
        self._record = identity.record
        self._next_extent = next_extent
        self._pool = pool
        self.progress = progress
        self._codec = codec

    def write(
        self,
        rows: Rows,
        stored_numbers: U32,
        first_row: int,
        owners: U32,
        ids: Sequence[Any] | I64,
        assignments: Sequence[Assignment],
        model: Model | None,
    ) -> Built:
        """Write new rows in posting order, all postings, and directories of those trained.

        Parameters
        ----------
        rows : Rows
        stored_numbers : uint32 (stored,)
            Row numbers of the stored ones.
        first_row : int
            Number of the first new row, a multiple of `CHUNK_ROWS`.
        owners : uint32 (new rows,)
            Tenant of each new row.
        ids : int64 array or list of str
            Of the new rows.
        assignments : sequence of Assignment
            By ascending tenant; every new row is in that of its owner.
        model : Model, optional
            What the codec learned before; without, it is trained.
        """
        first_postings = np.zeros(len(assignments) + 1, np.int64)
        first_postings[1:] = np.cumsum([len(one.leaves.numbers) for one in assignments])
        if model is None:
            model = self._train_model(rows, assignments)
        with self._building() as built:
            order = self._posting_order(rows, owners, assignments, first_postings)
            built.numbers = np.empty(rows.fresh_count, np.uint32)
            built.numbers[order] = np.arange(
                first_row, first_row + rows.fresh_count, dtype=np.uint32
            )
            in_order = (
                ids[order] if isinstance(ids, np.ndarray) else [ids[i] for i in order.tolist()]
            )

            def take(start: int, end: int) -> U8:
                return rows.form.encode(rows.take_raw(order[start:end] + rows.stored))

            inserted = (first_row + order).astype(np.uint32)
            in_tenants = owners[order] if self._record.tenants else None
            self._write_raw(
                built, first_row, rows.fresh_count, take, in_order, inserted, in_tenants
            )
            numbers = np.concatenate([stored_numbers, built.numbers])
            addresses = np.concatenate(
                [rows.stored_addresses, self._new_addresses(built, first_row)]
            )
            self._put_postings(built, model, assignments, first_postings, numbers, addresses)
            self._put_directories(built, model, assignments)
        return built

    def put_attributes(
        self,
        built: Built,
        tenants: Iterable[tuple[int, U32]],
        metadata: Callable[[int], dict[str, Any] | None],
    ) -> None:
        """Write the index of metadata of some tenants' rows.

        Parameters
        ----------
        tenants : iterable of (int, uint32 (rows,))
            By ascending tenant.
        metadata : callable
            Gives the metadata of a row.
        """
        number = self._next_extent()
        built.extents[number] = write_attributes(
            self._identity.folder,
            number,
            self._record.number,
            self._record.dim,
            tenants,
            metadata,
        )

    def store_log(self, snapshot: Snapshot) -> Built:
        """Write the fresh rows of a snapshot as a raw extent under their own numbers."""
        count = snapshot.log_count
        numbers = snapshot.log.numbers[:count]
        first = snapshot.state.log_first
        total = int(numbers[-1]) + 1 - first
        place = numbers.astype(np.int64) - first
        is_int = bool(snapshot.state.int_ids)
        ids: Any = np.zeros(total, np.int64) if is_int else [""] * total
        for at, value in zip(place.tolist(), snapshot.log.ids[:count], strict=True):
            ids[at] = value
        owners = None
        if self._record.tenants:
            owners = np.zeros(total, np.uint32)
            owners[place] = snapshot.log.owners[:count]

        def take(start: int, end: int) -> U8:
            block = np.zeros((end - start, self._identity.row_bytes), np.uint8)
            inside = (place >= start) & (place < end)
            block[place[inside] - start] = snapshot.log_vectors[:count][inside]
            return block

        with self._building() as built:
            self._write_raw(built, first, total, take, ids, None, owners)
        return built

    @contextmanager
    def _building(self) -> Iterator[Built]:
        """Begin extents; remove them when anything fails."""
        built = Built(self._identity)
        try:
            yield built
        except BaseException:
            built.abandon()
            raise

    def _train_model(self, rows: Rows, assignments: Sequence[Assignment]) -> Model:
        """Train the codec on residuals of a sample of rows, those of the only tenant."""
        seed, metric = self._record.seed, self._record.metric
        one = assignments[0]
        residuals = np.empty((0, self._record.dim), np.float32)
        if self._codec.parts:
            sample = draw(len(one.places), CODEBOOK_ROWS, seed)
            residuals = rows.take(one.places[sample])
            if one.leaves.listed:
                residuals = residuals - residuals.mean(axis=0)
            else:
                residuals = residuals - one.leaves.centroids[one.homes[sample, 0]]
        return train_model(self._codec, metric, seed, one.leaves.centre, residuals)

    def _posting_order(
        self,
        rows: Rows,
        owners: U32,
        assignments: Sequence[Assignment],
        first_postings: I64,
    ) -> I64:
        """New rows by the first posting that they have with their owner."""
        home = np.empty(rows.fresh_count, np.int64)
        for one, base in zip(assignments, first_postings, strict=False):
            new = one.places >= rows.stored
            places = one.places[new] - rows.stored
            own = owners[places] == one.leaves.tenant
            home[places[own]] = base + one.homes[new, 0][own]
        return np.argsort(home, kind="stable")

    def _put_postings(
        self,
        built: Built,
        model: Model,
        assignments: Sequence[Assignment],
        first_postings: I64,
        numbers: U32,
        addresses: I64,
    ) -> None:
        total = sum(len(one.places) for one in assignments)
        self.progress("postings", 0, total)
        count = int(first_postings[-1])
        counts = np.diff(first_postings)
        tenants = np.repeat([one.leaves.tenant for one in assignments], counts)
        centres = np.repeat([one.leaves.centre.ctypes.data for one in assignments], counts)
        listed = np.repeat([one.leaves.listed for one in assignments], counts)
        no_centroid = np.zeros((1, self._record.dim), np.float32)
        centroids = [
            no_centroid if one.leaves.listed else one.leaves.centroids for one in assignments
        ]
        first = np.zeros(count + 1, np.int64)
        members, end = [np.zeros(0, np.int64)], 0
        for one, base in zip(assignments, first_postings.tolist(), strict=False):
            entries = np.arange(len(one.places), dtype=np.uint32)
            own_first, own = group(one.homes, entries, len(one.leaves.numbers))
            first[base + 1 : base + len(own_first)] = end + own_first[1:]
            members.append(one.places[own])
            end += len(own)
        places = np.concatenate(members)
        number = self._next_extent()
        built.extents[number] = write_postings(
            self._identity.folder,
            number,
            self._record.number,
            model,
            self._identity.form.number,
            Postings(
                tenants.astype(np.uint32),
                np.concatenate([one.leaves.numbers for one in assignments]),
                np.ascontiguousarray(
                    centroids[0] if len(centroids) == 1 else np.concatenate(centroids)
                ),
                centres.astype(np.int64),
                listed,
                first,
                numbers[places],
                addresses[places],
            ),
            self._pool,
        )
        self.progress("postings", total, total)

    def _put_directories(
        self, built: Built, model: Model, assignments: Sequence[Assignment]
    ) -> None:
        changed = [one.leaves for one in assignments if one.needs_directory]
        if changed:
            self.put_directories(built, model, changed)

    def put_directories(self, built: Built, model: Model, parts: Iterable[Leaves]) -> None:
        """Write directories of some tenants, by ascending number."""
        built.directory = self._next_extent()
        built.extents[built.directory] = write_directories(
            self._identity.folder,
            built.directory,
            self._record.number,
            model,
            parts,
            self._record.seed,
        )

    def _new_addresses(self, built: Built, first_row: int) -> I64:
        """Addresses of the new rows in their just written extents, in input order."""
        addresses = np.empty(len(built.numbers), np.int64)
        self._maps = [built.open(number) for number in built.extents]
        for extent in self._maps:
            inside = (built.numbers >= extent.first_row) & (
                built.numbers < extent.first_row + extent.count
            )
            place = built.numbers[inside].astype(np.int64) - extent.first_row
            addresses[inside] = extent.address(Section.ROWS) + place * self._identity.row_bytes
        return addresses

    def _write_raw(
        self,
        built: Built,
        first_row: int,
        count: int,
        take: Callable[[int, int], U8],
        ids: Any,
        inserted: U32 | None,
        owners: U32 | None,
    ) -> None:
        """Write raw rows, in as many extents as their size asks for."""
        step = extent_rows(self._identity.row_bytes, count)
        for start in range(0, count, step):
            end = min(count, start + step)
            number = self._next_extent()

            def part(begin: int, stop: int, start: int = start) -> U8:
                self.progress("rows", start + begin, count)
                return take(start + begin, start + stop)

            built.extents[number] = write_rows(
                self._identity.folder,
                number,
                self._record.number,
                first_row + start,
                end - start,
                self._record.dim,
                self._identity.form.number,
                part,
                ids[start:end],
                None if inserted is None else inserted[start:end],
                None if owners is None else owners[start:end],
            )


def next_chunk(row: int) -> int:
    """First row number at or after `row` at which an extent may start."""
    return align(row, CHUNK_ROWS)
