"""The shared clustering tree: two levels of balanced k-means, and the homes of rows.

Arrays in and out; nothing here knows of storage.  The tree follows SPANN (NeurIPS 2021, section
3.2.1): hierarchical clustering until a leaf holds few enough rows.  SPANN only encourages
balance by a penalty; here a leaf over the limit is divided, so that few are over it.

Sources of rows are read in blocks, so a memory map larger than RAM can be clustered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vecstore.config import COPIES, POSTING_ROWS, POSTING_ROWS_MAX, SOAR_LAMBDA
from vecstore.kernels.closure import choose_copies
from vecstore.stages import Keeper, Piece, work_through
from vecstore.yielding import begin, beside

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
Progress = Callable[[str, int, int], None]
_NO_INTS: I32 = np.empty(0, np.int32)
_NO_FLOATS: F32 = np.empty((0, 0), np.float32)

CELL_LEAVES = 128
"""Leaves per cell of the upper level."""
CANDIDATES = 24
"""Nearest centroids among which a row's homes are chosen."""
CANDIDATE_LEAVES = 1_024
"""Leaves around a cell that are searched for these."""
BLOCK_BYTES = 32 << 20
TRAIN_ROWS_PER_CELL = 256
TRAIN_ROWS_PER_LEAF = 64
ITERATIONS = 8
LEAF_ROWS_MAX = POSTING_ROWS_MAX // COPIES


class Serial:
    """Stands for a pool of threads where the caller's own is one of them."""

    def map(self, work: Callable[..., Any], *items: Iterable[Any]) -> Iterator[Any]:
        """Work through items one by one."""
        return map(work, *items)


Pool = ThreadPoolExecutor | Serial


def silent(stage: str, done: int, total: int) -> None:
    """Report no progress."""


class Source(Protocol):
    """Rows to be clustered, as the index sees them (normalised under cosine)."""

    n: int
    dim: int

    def take(self, indices: I64 | U32) -> F32:
        """Copy the given rows, float32 (len(indices), dim)."""


@dataclass
class Tree:
    """Two levels of centroids and where each row belongs.

    Attributes
    ----------
    cells : float32 (cells, dim)
    first_leaf : int64 (cells + 1,)
        Leaves of cell c are first_leaf[c] to first_leaf[c + 1] - 1.
    leaves : float32 (leaves, dim)
        Means of their rows.
    order : uint32 (rows,)
        Rows sorted by cell.
    cell_first : int64 (cells + 1,)
        Rows of cell c are order[cell_first[c]:cell_first[c + 1]].
    """

    cells: F32
    first_leaf: I64
    leaves: F32
    order: U32
    cell_first: I64


def blocks(n: int, dim: int) -> Iterator[tuple[int, int]]:
    """Cut `n` rows into ranges of at most `BLOCK_BYTES` of float32."""
    step = max(1_024, BLOCK_BYTES // (4 * dim))
    for start in range(0, n, step):
        yield start, min(n, start + step)


def kmeans(x: F32, k: int, seed: int, points: int) -> F32:
    """Train k centroids with faiss on at most `points` rows for each."""
    k = min(k, len(x))
    if k == 1:
        return np.asarray(x.mean(axis=0, keepdims=True), dtype=np.float32)
    import faiss  # a store that is only read needs none of it

    model = faiss.Kmeans(
        x.shape[1],
        k,
        niter=ITERATIONS,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=points,
    )
    model.train(x)
    return np.ascontiguousarray(model.centroids, dtype=np.float32)


def nearest(x: F32, centroids: F32, k: int = 1) -> tuple[F32, I64]:
    """Squared distances and ordinals of the k nearest centroids of each row."""
    import faiss

    distances, ordinals = faiss.knn(x, centroids, min(k, len(centroids)))
    np.maximum(ordinals[:, 0], 0, out=ordinals[:, 0])  # faiss gives -1 where a distance overflows
    return distances, ordinals


def _products(rows: F32, vector: F32) -> F32:
    """Inner products of finite rows with a vector.

    BLAS sets the flag of an invalid operation now and then although operands and products are
    finite, which numpy would report as a warning.
    """
    with np.errstate(invalid="ignore"):
        return np.asarray(rows @ vector)


def bisect(x: F32) -> NDArray[np.bool_] | None:
    """Divide finite rows in two by 2-means, neither side under a third; None when all are equal."""
    offset = x - x.mean(axis=0)
    largest = np.abs(offset).max()
    if not largest > 0:
        return None
    offset /= largest  # of squares, neither the tiny nor the huge ones are numbers any more
    lengths = np.einsum("ij,ij->i", offset, offset)
    direction = offset[int(lengths.argmax())]
    for _ in range(4):
        projection = _products(offset, direction)
        right = projection > np.median(projection)
        if not right.any():
            right = projection >= projection.max()
        if right.all():
            return None
        direction = offset[right].mean(axis=0) - offset[~right].mean(axis=0)
    projection = _products(offset, direction)
    n = len(x)
    rank = np.empty(n, np.int64)
    rank[np.argsort(projection, kind="stable")] = np.arange(n)
    cut = int(np.clip((projection <= 0).sum(), n // 3, n - n // 3))
    sides: NDArray[np.bool_] = rank >= cut
    if projection.max() == projection.min():
        return None
    return sides


def divide(x: F32, limit: int) -> list[I64]:
    """Divide rows until every part is within the limit or consists of equal vectors."""
    parts, todo = [], [np.arange(len(x))]
    while todo:
        rows = todo.pop()
        sides = bisect(x[rows]) if len(rows) > limit else None
        if sides is None:
            parts.append(rows)
        else:
            todo += [rows[~sides], rows[sides]]
    return parts


def train_cell(x: F32, seed: int, limit: int = LEAF_ROWS_MAX, rows: int = POSTING_ROWS) -> F32:
    """Centroids of one cell: k-means, thin leaves dissolved, large ones divided.

    Parameters
    ----------
    x : float32 (n, dim)
        All rows of the cell, or a sample of them.
    seed : int
    limit : int
        Rows that a leaf may hold.
    rows : int
        Rows that a leaf should hold.
    """
    centroids = kmeans(x, max(1, round(len(x) / rows)), seed, TRAIN_ROWS_PER_LEAF)
    home = nearest(x, centroids)[1][:, 0]
    counts = np.bincount(home, minlength=len(centroids))
    thick = counts >= rows // 4
    if thick.any() and not thick.all():
        centroids = np.ascontiguousarray(centroids[thick])
        home = nearest(x, centroids)[1][:, 0]
    order = np.argsort(home, kind="stable")
    ends = np.cumsum(np.bincount(home, minlength=len(centroids)))
    means = []
    for members in np.split(order, ends[:-1]):
        if len(members):
            own = x[members]
            means += [own[part].mean(axis=0) for part in divide(own, limit)]
    return np.ascontiguousarray(means, dtype=np.float32)


def chain(x: F32, begin: F32) -> I64:
    """Order vectors (n, dim) from the one nearest to `begin`, each followed by the nearest left.

    What is written in this order stands beside what is probed with it, and is read in one piece.
    """
    order = np.empty(len(x), np.int64)
    halves = 0.5 * np.einsum("ij,ij->i", x, x)
    apart = halves - x @ begin
    for i in range(len(x)):
        order[i] = at = np.argmin(apart)
        halves[at] = np.inf
        apart = halves - x @ x[at]
    return order


def worker_pool(workers: int) -> ThreadPoolExecutor:
    """Threads that each run faiss on one core: cells are independent, barriers cost more."""
    running = beside()

    import faiss

    def prepare() -> None:
        faiss.omp_set_num_threads(1)
        if running is not None:
            begin(running)

    return ThreadPoolExecutor(workers, "vecstore-build", prepare)


def assign_cells(
    source: Source, cells: F32, pool: Pool, progress: Progress, keeper: Keeper | None = None
) -> tuple[U32, I64]:
    """Sort rows by their nearest cell.

    Returns
    -------
    order : uint32 (rows,)
    cell_first : int64 (cells + 1,)
        Rows of cell c are order[cell_first[c]:cell_first[c + 1]].
    """
    home = np.empty(source.n, np.int32)
    spans = list(blocks(source.n, source.dim))

    def part(job: int) -> None:
        start, end = spans[job]
        home[start:end] = nearest(source.take(np.arange(start, end)), cells)[1][:, 0]

    def collect(first: int, end: int) -> Piece:
        return home[spans[first][0] : spans[end - 1][1]], _NO_FLOATS

    def restore(first: int, end: int, piece: Piece) -> None:
        home[spans[first][0] : spans[end - 1][1]] = piece[0]

    ends = np.array([end for _, end in spans])
    work_through("cells", ends, part, collect, restore, pool, progress, keeper)
    cell_first = np.zeros(len(cells) + 1, np.int64)
    cell_first[1:] = np.cumsum(np.bincount(home, minlength=len(cells)))
    return np.argsort(home, kind="stable").astype(np.uint32), cell_first


def _train_cells(source: Source, seed: int, keeper: Keeper | None) -> F32:
    """Centroids of the upper level, by a sample of the rows."""
    known = None if keeper is None else keeper.find("sample", 0)
    if known is not None:
        return known[1]
    rng = np.random.default_rng(seed)
    cell_count = max(1, round(source.n / (POSTING_ROWS * CELL_LEAVES)))
    sample = min(source.n, cell_count * TRAIN_ROWS_PER_CELL)
    picks = np.sort(rng.choice(source.n, sample, replace=False)).astype(np.int64)
    cells = kmeans(source.take(picks), cell_count, seed, TRAIN_ROWS_PER_CELL)
    cells = cells[chain(cells, cells[0])]
    if keeper is not None:
        keeper.keep("sample", 0, (_NO_INTS, cells))
    return cells


def train_tree(
    source: Source, seed: int, pool: Pool, progress: Progress, keeper: Keeper | None = None
) -> Tree:
    """Cluster all rows of a source into cells and leaves."""
    cells = _train_cells(source, seed, keeper)
    order, cell_first = assign_cells(source, cells, pool, progress, keeper)
    sample_max = max(BLOCK_BYTES // (4 * source.dim), 64 * POSTING_ROWS)
    leaves = [np.empty((0, source.dim), np.float32)] * len(cells)

    def train(cell: int) -> None:
        members = order[cell_first[cell] : cell_first[cell + 1]]
        if not len(members):
            return
        share = min(1.0, sample_max / len(members))
        if share < 1.0:
            cell_rng = np.random.default_rng([seed, cell])
            members = np.sort(cell_rng.choice(members, sample_max, replace=False))
        limit, rows = max(2, int(LEAF_ROWS_MAX * share)), max(1, int(POSTING_ROWS * share))
        own = train_cell(source.take(members), seed, limit, rows)
        leaves[cell] = own[chain(own, cells[max(0, cell - 1)])]

    def collect(first: int, end: int) -> Piece:
        made = leaves[first:end]
        return np.array([len(own) for own in made], np.int32), np.vstack(made)

    def restore(first: int, end: int, piece: Piece) -> None:
        counts, centroids = piece
        leaves[first:end] = np.split(centroids, np.cumsum(counts)[:-1])

    work_through("leaves", cell_first[1:], train, collect, restore, pool, progress, keeper)
    first_leaf = np.zeros(len(cells) + 1, np.int64)
    first_leaf[1:] = np.cumsum([len(own) for own in leaves])
    return Tree(cells, first_leaf, np.vstack(leaves), order, cell_first)


def assign_homes(
    source: Source, tree: Tree, pool: Pool, progress: Progress, keeper: Keeper | None = None
) -> I32:
    """Choose the homes of every row, the nearest leaf first.

    Returns
    -------
    int32 (rows, COPIES)
        Ordinals of leaves, -1 for none.
    """
    homes = np.full((source.n, COPIES), -1, np.int32)
    sizes = np.diff(tree.first_leaf)

    def choose(cell: int) -> None:
        members = tree.order[tree.cell_first[cell] : tree.cell_first[cell + 1]]
        apart = tree.cells - tree.cells[cell]
        around = np.argsort(np.einsum("ij,ij->i", apart, apart), kind="stable")
        around = around[: int(np.searchsorted(np.cumsum(sizes[around]), CANDIDATE_LEAVES)) + 1]
        leaves = np.concatenate(
            [np.arange(tree.first_leaf[c], tree.first_leaf[c + 1]) for c in around]
        )
        centroids = np.ascontiguousarray(tree.leaves[leaves])
        for start, end in blocks(len(members), source.dim):
            rows = members[start:end]
            homes[rows] = choose_homes(source.take(rows), centroids, leaves)

    def members_of(first: int, end: int) -> U32:
        return tree.order[tree.cell_first[first] : tree.cell_first[end]]

    def collect(first: int, end: int) -> Piece:
        return homes[members_of(first, end)], _NO_FLOATS

    def restore(first: int, end: int, piece: Piece) -> None:
        homes[members_of(first, end)] = piece[0].reshape(-1, COPIES)

    work_through("homes", tree.cell_first[1:], choose, collect, restore, pool, progress, keeper)
    return homes


def choose_homes(x: F32, centroids: F32, ordinals: I64) -> I32:
    """Choose the homes of rows among given centroids; see `assign_homes`."""
    distances, candidates = nearest(x, centroids, CANDIDATES)
    chosen = np.empty((len(x), COPIES), np.int32)
    choose_copies(x, candidates, distances, centroids, np.float32(SOAR_LAMBDA), chosen)
    return np.where(chosen >= 0, ordinals[chosen], -1).astype(np.int32)


def limit_postings(homes: I32, leaves: int, limit: int) -> I32:
    """Drop copies, never first homes, from postings that are over the limit."""
    counts = np.bincount(homes[homes >= 0], minlength=leaves)
    for posting in np.flatnonzero(counts > limit):
        rows, columns = np.nonzero(homes == posting)
        copies = np.flatnonzero(columns > 0)
        excess = min(len(copies), int(counts[posting]) - limit)
        drop = copies[len(copies) - excess :]
        homes[rows[drop], columns[drop]] = -1
    return homes
