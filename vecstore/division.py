"""Dividing the rows of tenants into postings, and finding places for rows that come later.

A tenant with few rows has one posting: a list of them up to `LIST_BYTES_MAX`, a run of codes up
to `RUN_ROWS_MAX` rows; a larger one is clustered by its own rows alone.  Nothing of one tenant
enters the division of another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vecstore import clustering
from vecstore.clustering import Pool, Progress, Serial, Tree
from vecstore.config import (
    COPIES,
    COPIES_ROWS_MIN,
    LIST_BYTES_MAX,
    POSTING_ROWS_MAX,
    RUN_ROWS_MAX,
)
from vecstore.directory import Leaves
from vecstore.extent_set import Identity
from vecstore.row_source import Part, Rows
from vecstore.stages import Keeper, Piece

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
SPREAD_ROWS = 2_048
"""Rows whose distances to their centroids tell how well these fit."""
WHALE_ROWS = 65_536
"""Rows from which on a tenant is clustered by all threads together, the others one by each ..."""
MOST_ROWS = 16_384
"""... except for one that has so many, and most of those that are clustered."""


@dataclass(frozen=True)
class Assignment:
    """Postings of one tenant and the rows that are put into them.

    Attributes
    ----------
    leaves : Leaves
    places : uint32 or int64 (entries,)
        The tenant's rows, as places among the rows of the build.
    homes : int32 (entries, COPIES)
        Ordinals of postings, the nearest first, -1 for none.
    trained : bool
        The postings are new, and hold all that the tenant has indexed.
    new : int
        Otherwise, postings that are new and stand last, when their set changed; -1 when not.
    spread : float
        Mean squared distance of the rows to the centroids of their first homes.
    """

    leaves: Leaves
    places: U32 | I64
    homes: I32
    trained: bool
    spread: float = 0.0
    new: int = -1

    @property
    def needs_directory(self) -> bool:
        """Whether the postings are not those of the present directory."""
        return self.trained or self.new >= 0

    def without_rows(self) -> Assignment:
        """Let go of what is needed to write them, and not to publish them."""
        return replace(self, places=self.places[:0].copy(), homes=self.homes[:0].copy())

    def numbered(self, first_posting: int) -> Assignment:
        """Number the postings from `first_posting` on."""
        count = len(self.leaves.numbers)
        numbers = np.arange(first_posting, first_posting + count, dtype=np.uint32)
        return replace(self, leaves=replace(self.leaves, numbers=numbers))


def size_class(rows: int, row_bytes: int) -> int:
    """Shape of a tenant's index: 0 a list of rows, 1 a run of codes, 2 a tree of postings."""
    if rows * row_bytes <= LIST_BYTES_MAX:
        return 0
    return 1 if rows <= RUN_ROWS_MAX else 2


def has_shrunk(rows: int) -> bool:
    """Tell whether a tenant with a tree has become small enough to be a run again."""
    return 2 * rows <= RUN_ROWS_MAX


def copies_for(rows: int) -> int:
    """Places that each row gets of a tenant that is divided when it has so many."""
    return COPIES if rows >= COPIES_ROWS_MIN else 1


class Divider:
    """Divides the rows of one build.

    Parameters
    ----------
    identity : Identity
    rows : Rows
    pool : ThreadPoolExecutor
        From `clustering.worker_pool`.
    progress : callable
        `progress(stage, rows done, rows in all)`.
    keeping : callable
        `keeping(tenant, rows)` gives what keeps pieces of dividing so many rows of a tenant.
    """

    def __init__(
        self,
        identity: Identity,
        rows: Rows,
        pool: ThreadPoolExecutor,
        progress: Progress,
        keeping: Callable[[int, int], Keeper | None] = lambda tenant, rows: None,
    ) -> None:
        self._keeping = keeping
        self._identity = identity
        self._seed = identity.record.seed
        self._rows = rows
        self._pool = pool
        self._progress = progress

    def train_all(
        self, tenants: Sequence[tuple[int, U32]], first_posting: int
    ) -> Iterator[Assignment]:
        """Divide tenants, each given by its number and places of its rows."""
        row_bytes = self._identity.row_bytes
        total, done = sum(len(rows) for _, rows in tenants), 0
        shapes = [size_class(len(rows), row_bytes) for _, rows in tenants]
        whale_rows = min(WHALE_ROWS, max(MOST_ROWS, total // 2 + 1))
        alone = [
            place
            for place, (_, rows) in enumerate(tenants)
            if shapes[place] == 0 or len(rows) >= whale_rows
        ]
        known = {place: self.train(*tenants[place], self._pool) for place in alone}
        rest = [place for place in range(len(tenants)) if place not in known]

        def train_one(place: int) -> Assignment:
            return self.train(*tenants[place], Serial())

        small = self._pool.map(train_one, rest)
        for place in range(len(tenants)):
            made = known[place] if place in known else next(small)
            done += len(made.places)
            self._progress("tenants", done, total)
            yield made.numbered(first_posting)
            first_posting += len(made.leaves.numbers)

    def train(self, tenant: int, places: U32, pool: Pool) -> Assignment:
        """Divide one tenant's rows; its postings are numbered from 0."""
        dim = self._identity.record.dim
        first = np.zeros(1, np.uint32)
        shape = size_class(len(places), self._identity.row_bytes)
        if shape < 2:
            homes = np.full((len(places), COPIES), -1, np.int32)
            homes[:, 0] = 0
            if shape == 0:
                none = np.zeros((0, dim), np.float32)
                leaves = Leaves(tenant, first, none, np.zeros(dim, np.float32))
                return Assignment(leaves, places, homes, True)
            centroid = self._mean(places)
            leaves = Leaves(tenant, first, centroid[None], centroid)
        else:
            progress = clustering.silent if isinstance(pool, Serial) else self._progress
            keeper = None if isinstance(pool, Serial) else self._keeping(tenant, len(places))
            part = Part(self._rows, places)
            tree = clustering.train_tree(part, self._seed, pool, progress, keeper)
            homes = clustering.assign_homes(part, tree, pool, progress, keeper)
            homes[:, copies_for(len(places)) :] = -1
            homes = clustering.limit_postings(homes, len(tree.leaves), POSTING_ROWS_MAX)
            numbers = np.arange(len(tree.leaves), dtype=np.uint32)
            centre = tree.leaves.mean(axis=0, dtype=np.float32)
            leaves = Leaves(tenant, numbers, tree.leaves, centre)
        spread = self._spread(leaves, places, homes)
        return Assignment(leaves, places, homes, True, spread)

    def append(self, leaves: Leaves, places: U32, copies: int) -> Assignment:
        """Give rows homes, so many each, among the postings that their tenant has."""
        homes = np.full((len(places), COPIES), -1, np.int32)
        if len(leaves.numbers) == 1:
            homes[:, 0] = 0
        else:
            keeper = self._keeping(leaves.tenant, len(places))
            part = Part(self._rows, places)
            centroids = np.ascontiguousarray(leaves.centroids)
            tree, ordinals = self._regroup(part, centroids, keeper)
            homes = clustering.assign_homes(part, tree, self._pool, self._progress, keeper)
            homes = np.where(homes >= 0, ordinals[homes], -1).astype(np.int32)
            homes[:, copies:] = -1
        spread = 0.0 if leaves.listed else self._spread(leaves, places, homes)
        return Assignment(leaves, places, homes, False, spread)

    def _mean(self, places: U32) -> F32:
        x = self._rows.take(places)
        mean: F32 = x.mean(axis=0, dtype=np.float32)
        return mean

    def _spread(self, leaves: Leaves, places: U32, homes: I32) -> float:
        """Mean squared distance of a sample of rows to the centroids of their first homes."""
        sample = draw(len(places), SPREAD_ROWS, self._seed)
        apart = self._rows.take(places[sample]) - leaves.centroids[homes[sample, 0]]
        return float(np.einsum("ij,ij->i", apart, apart).mean())

    def _regroup(self, part: Part, centroids: F32, keeper: Keeper | None) -> tuple[Tree, I64]:
        """Group present centroids into cells, so that homes are found cell by cell.

        Returns
        -------
        Tree, and the ordinal that each of its leaves had before.
        """
        count = max(1, round(len(centroids) / clustering.CELL_LEAVES))

        def group() -> Piece:
            points = clustering.TRAIN_ROWS_PER_CELL
            cells = clustering.kmeans(centroids, count, self._seed, points)
            return clustering.nearest(centroids, cells)[1][:, 0].astype(np.int32), cells

        known = None if keeper is None else keeper.find("groups", 0)
        # In a thread of the pool faiss keeps to one core: so little work only waits at barriers.
        leaf_cell, cells = known or self._pool.submit(group).result()
        if keeper is not None and known is None:
            keeper.keep("groups", 0, (leaf_cell, cells))
        ordinals = np.argsort(leaf_cell, kind="stable")
        first_leaf = np.zeros(len(cells) + 1, np.int64)
        first_leaf[1:] = np.cumsum(np.bincount(leaf_cell, minlength=len(cells)))
        order, cell_first = clustering.assign_cells(part, cells, self._pool, self._progress, keeper)
        leaves = np.ascontiguousarray(centroids[ordinals])
        return Tree(cells, first_leaf, leaves, order, cell_first), ordinals


def draw(n: int, count: int, seed: int) -> I64:
    """Draw up to `count` of n places, ascending."""
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(n, min(n, count), replace=False)).astype(np.int64)
