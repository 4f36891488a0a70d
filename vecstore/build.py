"""Writing what was divided: raw rows, postings, directories.

One pipeline serves the first bulk load, a later one, a flush of the row log and a retraining,
for one tenant or many: rows that are stored already keep their numbers, new rows get theirs in
the order of tenants and postings, so that rows that are reranked together share pages.  Input is
read in blocks; beside it, a build holds some 60 bytes per row and, for each thread, a cell's rows.

Nothing here touches LMDB.  `Built` lists extents that are whole and synced; the caller
publishes them in one transaction, or `Built.abandon` removes them.  Of a long build they are kept
as they are finished, and taken up again by the next one that would write the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.attributes import write_attributes
from vecstore.built import Built, Fresh, Kept, digest_of
from vecstore.clustering import Progress
from vecstore.codecs import Codec, Model, train_model
from vecstore.config import CHUNK_ROWS
from vecstore.directory import Leaves, write_directories
from vecstore.division import Assignment, draw
from vecstore.extent_set import Identity
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
_NO_NUMBERS: U32 = np.zeros(0, np.uint32)


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
    kept : Kept, optional
        Extents need not be written that are found here.
    """

    def __init__(
        self,
        identity: Identity,
        codec: Codec,
        next_extent: Callable[[], int],
        pool: ThreadPoolExecutor,
        progress: Progress,
        kept: Kept | None = None,
    ) -> None:
        self._kept = kept or Fresh()
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
            self._write_new(built, rows, order, first_row, owners, ids)
            del order
            numbers, addresses = built.numbers, self._new_addresses(built)
            if rows.stored:
                numbers = np.concatenate([stored_numbers, numbers])
                addresses = np.concatenate([rows.stored_addresses, addresses])
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
        if is_int:
            ids[place] = snapshot.log.ints[:count]
        else:
            for at, value in zip(place.tolist(), snapshot.log.texts[:count], strict=True):
                ids[at] = value
        owners = None
        if self._record.tenants:
            owners = np.zeros(total, np.uint32)
            owners[place] = snapshot.log.owners[:count]

        def take(first_place: int, start: int, end: int) -> U8:
            start, end = first_place + start, first_place + end
            block = np.zeros((end - start, self._identity.row_bytes), np.uint8)
            inside = (place >= start) & (place < end)
            block[place[inside] - start] = snapshot.log_vectors[:count][inside]
            return block

        with self._building() as built:
            step = extent_rows(self._identity.row_bytes, total)
            for start in range(0, total, step):
                end = min(total, start + step)
                self.progress("rows", start, total)
                number = self._next_extent()
                built.extents[number] = write_rows(
                    self._identity.folder,
                    number,
                    self._record.number,
                    first + start,
                    end - start,
                    self._record.dim,
                    self._identity.form.number,
                    partial(take, start),
                    ids[start:end],
                    None,
                    None if owners is None else owners[start:end],
                )
        return built

    @contextmanager
    def _building(self) -> Iterator[Built]:
        """Begin extents; remove them when anything fails."""
        built = Built(self._identity)
        try:
            yield built
        except BaseException:
            built.abandon(self._kept.owns)
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
    ) -> U32:
        """New rows by the first posting that they have with their owner."""
        home = np.empty(rows.fresh_count, np.uint32)
        for one, base in zip(assignments, first_postings, strict=False):
            new = one.places >= rows.stored
            places = one.places[new] - rows.stored
            own = owners[places] == one.leaves.tenant
            home[places[own]] = base + one.homes[new, 0][own]
        return np.argsort(home, kind="stable").astype(np.uint32)

    def _put_postings(
        self,
        built: Built,
        model: Model,
        assignments: Sequence[Assignment],
        first_postings: I64,
        numbers: U32,
        addresses: I64,
    ) -> None:
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
        members, end = [], 0
        for one, base in zip(assignments, first_postings.tolist(), strict=False):
            own_first, own = group(one.homes, len(one.leaves.numbers))
            first[base + 1 : base + len(own_first)] = end + own_first[1:]
            members.append(one.places[own].astype(np.uint32, copy=False))
            end += len(own)
        postings = Postings(
            tenants.astype(np.uint32),
            np.concatenate([_NO_NUMBERS, *(one.leaves.numbers for one in assignments)]),
            np.ascontiguousarray(
                centroids[0] if len(centroids) == 1 else np.concatenate(centroids)
            ),
            centres.astype(np.int64),
            listed,
            first,
            members[0] if len(members) == 1 else np.concatenate([_NO_NUMBERS, *members]),
            numbers,
            addresses,
        )
        del members

        def digest() -> bytes:
            learned = (model.centre, model.signs, model.codebook, model.matrix)
            return digest_of(
                *learned, postings.numbers, postings.first, postings.places, postings.rows
            )

        def write(number: int) -> ExtentRecord:
            return write_postings(
                self._identity.folder,
                number,
                self._record.number,
                model,
                self._identity.form.number,
                postings,
                self._pool,
                lambda done: self.progress("postings", done, end),
            )

        self._write_once(built, "postings", 0, digest, write)
        self.progress("postings", end, end)

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

    def _new_addresses(self, built: Built) -> I64:
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

    def _write_new(
        self,
        built: Built,
        rows: Rows,
        order: U32,
        first_row: int,
        owners: U32,
        ids: Sequence[Any] | I64,
    ) -> None:
        """Write new rows in a given order, in as many extents as their size asks for."""
        count = rows.fresh_count
        step = extent_rows(self._identity.row_bytes, count)
        for start in range(0, count, step):
            own = order[start : start + step]

            def take(begin: int, end: int, own: U32 = own, start: int = start) -> U8:
                self.progress("rows", start + begin, count)
                return rows.form.encode(rows.take_raw(rows.stored + own[begin:end]))

            def write(number: int, own: U32 = own, start: int = start) -> ExtentRecord:
                return write_rows(
                    self._identity.folder,
                    number,
                    self._record.number,
                    first_row + start,
                    len(own),
                    self._record.dim,
                    self._identity.form.number,
                    take,
                    ids[own] if isinstance(ids, np.ndarray) else [ids[i] for i in own.tolist()],
                    np.uint32(first_row) + own,
                    owners[own] if self._record.tenants else None,
                )

            digest = partial(digest_of, np.array([first_row + start]), own)
            self._write_once(built, "rows", start, digest, write)

    def _write_once(
        self,
        built: Built,
        stage: str,
        first: int,
        digest: Callable[[], bytes],
        write: Callable[[int], ExtentRecord],
    ) -> None:
        """Write an extent, unless an earlier build has written the same and kept it."""
        made_of = digest() if self._kept.keeps else b""
        known = self._kept.extent(stage, first, made_of)
        if known is not None:
            number, record = known
        else:
            number = self._next_extent()
            record = write(number)
            self._kept.add_extent(stage, first, made_of, number, record)
        built.extents[number] = record


def next_chunk(row: int) -> int:
    """First row number at or after `row` at which an extent may start."""
    return align(row, CHUNK_ROWS)
