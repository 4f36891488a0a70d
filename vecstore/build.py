"""Training an index and writing it: clustering, homes, raw rows, postings, directory.

One pipeline serves the first bulk load, a later one, a flush of the row log and a retraining:
rows that are stored already keep their numbers, new rows get theirs in posting order, so that
rows that are reranked together share pages.  Input is read in blocks; beside it, a build holds
some 150 bytes per row and one cell's rows.

Nothing here touches LMDB.  `Built` lists extents that are whole and synced; the caller
publishes them in one transaction, or `Built.abandon` removes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore import clustering
from vecstore.clustering import Progress, Tree
from vecstore.codecs import Codec, Model, train_model
from vecstore.config import CHUNK_ROWS, POSTING_ROWS_MAX
from vecstore.directory import Directory, write_directory
from vecstore.extent_set import Identity
from vecstore.extents import Extent, extent_path
from vecstore.layout import TENANT_NONE, ExtentRecord, Section, align, get_bits
from vecstore.postings import group, write_postings
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
SPREAD_ROWS = 2_048
"""Rows whose distances to their centroids tell how well these fit."""


@dataclass(frozen=True)
class Leaves:
    """Postings that rows are encoded into.

    Attributes
    ----------
    centroids : float32 (postings, dim)
    numbers : uint32 (postings,)
        Posting numbers, ascending.
    model : Model
        Of the posting codec.
    """

    centroids: F32
    numbers: U32
    model: Model

    @classmethod
    def of(cls, directory: Directory) -> Leaves:
        """Take those of a directory."""
        centroids = np.ascontiguousarray(directory.centroids)
        return cls(centroids, np.ascontiguousarray(directory.postings), directory.model)


@dataclass
class Built:
    """Extents written and not yet published, and what to publish with them.

    Attributes
    ----------
    extents : dict
        Records by extent number.
    numbers : uint32 (new rows,)
        Row number of each new row, in input order.
    postings : int
        Postings of the directory; 0 when the present one stays.
    spread : float
        Mean squared distance of the rows to the centroids of their postings.
    """

    identity: Identity
    extents: dict[int, ExtentRecord] = field(default_factory=dict)
    numbers: U32 = field(default_factory=lambda: np.empty(0, np.uint32))
    postings: int = 0
    spread: float = 0.0

    def open(self, number: int) -> Extent:
        """Map an extent that was just written."""
        return Extent(self.identity.folder, number, self.extents[number], self.identity.name)

    def abandon(self, keep: Callable[[int], bool] = lambda number: False) -> None:
        """Remove the files, but those that `keep` names."""
        for number in self.extents:
            if not keep(number):
                extent_path(self.identity.folder, number).unlink(missing_ok=True)


class Builder:
    """Writes extents for one collection.

    Parameters
    ----------
    identity : Identity
    codec : Codec
        Of postings that are trained.
    next_extent : callable
        Gives a new extent number.
    pool : ThreadPoolExecutor
        From `clustering.worker_pool`.
    progress : callable
        `progress(stage, rows done, rows in all)`.
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
        self._progress = progress
        self._codec = codec

    def train(
        self,
        rows: Rows,
        stored_numbers: U32,
        first_row: int,
        first_posting: int,
        ids: Sequence[Any] | I64,
    ) -> Built:
        """Cluster all rows afresh; write new raw rows, all postings and a directory."""
        tree = clustering.train_tree(rows, self._record.seed, self._pool, self._progress)
        homes = clustering.assign_homes(rows, tree, self._pool, self._progress)
        homes = clustering.limit_postings(homes, len(tree.leaves), POSTING_ROWS_MAX)
        numbers = np.arange(first_posting, first_posting + len(tree.leaves), dtype=np.uint32)
        leaves = Leaves(tree.leaves, numbers, self._train_model(rows, tree, homes))
        with self._building() as built:
            built.postings = len(numbers)
            built.spread = self._spread(rows, leaves.centroids, homes)
            self._write(built, rows, stored_numbers, first_row, homes, ids, leaves)
            self._put_directory(built, leaves)
        return built

    def append(
        self,
        rows: Rows,
        stored_numbers: U32,
        first_row: int,
        directory: Directory,
        ids: Sequence[Any] | I64,
    ) -> Built:
        """Give rows homes among the present postings; write raw rows and fragments."""
        leaves = Leaves.of(directory)
        tree, ordinals = self._regroup(rows, leaves.centroids)
        homes = clustering.assign_homes(rows, tree, self._pool, self._progress)
        homes = np.where(homes >= 0, ordinals[homes], -1).astype(np.int32)
        with self._building() as built:
            built.spread = self._spread(rows, leaves.centroids, homes)
            self._write(built, rows, stored_numbers, first_row, homes, ids, leaves)
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

    def _regroup(self, rows: Rows, centroids: F32) -> tuple[Tree, I64]:
        """Group present centroids into cells, so that homes are found cell by cell.

        Returns
        -------
        Tree, and the ordinal that each of its leaves had before.
        """
        count = max(1, round(len(centroids) / clustering.CELL_LEAVES))
        cells = clustering.kmeans(
            centroids, count, self._record.seed, clustering.TRAIN_ROWS_PER_CELL
        )
        leaf_cell = clustering.nearest(centroids, cells)[1][:, 0]
        ordinals = np.argsort(leaf_cell, kind="stable")
        first_leaf = np.zeros(len(cells) + 1, np.int64)
        first_leaf[1:] = np.cumsum(np.bincount(leaf_cell, minlength=len(cells)))
        order, cell_first = clustering.assign_cells(rows, cells, self._pool, self._progress)
        leaves = np.ascontiguousarray(centroids[ordinals])
        return Tree(cells, first_leaf, leaves, order, cell_first), ordinals

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

        def take(start: int, end: int) -> U8:
            block = np.zeros((end - start, self._identity.row_bytes), np.uint8)
            inside = (place >= start) & (place < end)
            block[place[inside] - start] = snapshot.log_vectors[:count][inside]
            return block

        with self._building() as built:
            self._write_raw(built, first, total, take, ids, None)
        return built

    def rewrite(self, snapshot: Snapshot, directory: Directory) -> Built:
        """Write all postings of a snapshot anew, each as one run, with this codec.

        Postings, centroids and rows stay what they are; entries of dead rows are left out.
        """
        first, rows = _entries(snapshot, directory)
        addresses = snapshot.addresses(rows)
        old = Leaves.of(directory)
        sample = _sample(len(rows), CODEBOOK_ROWS if self._codec.parts else 0, self._record.seed)
        homes = np.searchsorted(first, sample, side="right") - 1
        model = train_model(
            self._codec,
            self._record.metric,
            self._record.seed,
            np.ascontiguousarray(old.model.centre),
            Rows(self._identity, addresses, None).take(sample) - old.centroids[homes],
        )
        leaves = replace(old, model=model)
        with self._building() as built:
            built.postings = len(leaves.numbers)
            self._put_postings(built, leaves, first, rows, addresses)
            self._put_directory(built, leaves)
        return built

    def _spread(self, rows: Rows, centroids: F32, homes: I32) -> float:
        """Mean squared distance of a sample of rows to their first centroids."""
        sample = _sample(rows.n, SPREAD_ROWS, self._record.seed)
        apart = rows.take(sample) - centroids[homes[sample, 0]]
        return float(np.einsum("ij,ij->i", apart, apart).mean())

    def _train_model(self, rows: Rows, tree: Tree, homes: I32) -> Model:
        """Train the codec on residuals of a sample of rows."""
        seed = self._record.seed
        sample = _sample(rows.n, CODEBOOK_ROWS if self._codec.parts else 0, seed)
        residuals = rows.take(sample) - tree.leaves[homes[sample, 0]]
        centre = tree.leaves.mean(axis=0, dtype=np.float32)
        return train_model(self._codec, self._record.metric, seed, centre, residuals)

    def _write(
        self,
        built: Built,
        rows: Rows,
        stored_numbers: U32,
        first_row: int,
        homes: I32,
        ids: Sequence[Any] | I64,
        leaves: Leaves,
    ) -> None:
        """Write new rows in posting order, then all rows' codes."""
        order = np.argsort(homes[rows.stored :, 0], kind="stable")
        built.numbers = np.empty(rows.fresh_count, np.uint32)
        built.numbers[order] = np.arange(first_row, first_row + rows.fresh_count, dtype=np.uint32)
        in_order = ids[order] if isinstance(ids, np.ndarray) else [ids[i] for i in order.tolist()]

        def take(start: int, end: int) -> U8:
            return rows.form.encode(rows.take_raw(order[start:end] + rows.stored))

        inserted = (first_row + order).astype(np.uint32)
        self._write_raw(built, first_row, rows.fresh_count, take, in_order, inserted)
        numbers = np.concatenate([stored_numbers, built.numbers])
        addresses = np.concatenate([rows.stored_addresses, self._new_addresses(built, first_row)])
        first, members = group(homes, np.arange(rows.n, dtype=np.uint32), len(leaves.numbers))
        self._put_postings(built, leaves, first, numbers[members], addresses[members])

    def _put_postings(
        self, built: Built, leaves: Leaves, first: I64, rows: U32, addresses: I64
    ) -> None:
        self._progress("postings", 0, len(rows))
        number = self._next_extent()
        built.extents[number] = write_postings(
            self._identity.folder,
            number,
            self._record.number,
            TENANT_NONE,
            leaves.model,
            self._identity.form.number,
            leaves.centroids,
            leaves.numbers,
            first,
            rows,
            addresses,
            self._pool,
        )
        self._progress("postings", len(rows), len(rows))

    def _put_directory(self, built: Built, leaves: Leaves) -> None:
        number = self._next_extent()
        built.extents[number] = write_directory(
            self._identity.folder,
            number,
            self._record.number,
            TENANT_NONE,
            leaves.model,
            leaves.centroids,
            leaves.numbers,
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
    ) -> None:
        """Write raw rows, in as many extents as their size asks for."""
        step = extent_rows(self._identity.row_bytes)
        for start in range(0, count, step):
            end = min(count, start + step)
            number = self._next_extent()

            def part(begin: int, stop: int, start: int = start) -> U8:
                self._progress("rows", start + begin, count)
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
            )


def _sample(n: int, count: int, seed: int) -> I64:
    """Draw up to `count` of n places, ascending."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(n, min(n, count), replace=False)).astype(np.int64)


def _entries(snapshot: Snapshot, directory: Directory) -> tuple[I64, U32]:
    """Live entries of all postings, base and fragments together; see `vecstore.postings.group`."""
    block_bytes = snapshot.extents.codec.block_bytes(snapshot.identity.record.dim)
    ordinals, rows = [np.empty(0, np.int64)], [np.empty(0, np.uint32)]
    for part in snapshot.extents.postings:
        places = np.searchsorted(directory.postings, part.runs["posting"])
        for run, ordinal in enumerate(places.tolist()):
            own = part.entries(run, block_bytes)
            rows.append(own)
            ordinals.append(np.full(len(own), ordinal))
    all_rows, home = np.concatenate(rows), np.concatenate(ordinals)
    live = get_bits(snapshot.live, all_rows)
    return group(home[live, None].astype(np.int32), all_rows[live], len(directory.postings))


def next_chunk(row: int) -> int:
    """First row number at or after `row` at which an extent may start."""
    return align(row, CHUNK_ROWS)
