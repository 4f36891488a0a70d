"""Which rows stand in which round, which are asked, and the truth about them.

All rows of a set are put in one order: groups (the pictures of SIFT) in a drawn order, and within
each the rows as they stand in the set.  A draw marks ``rows + rounds * step`` of them as rows that
are stored in the course of the run; the others are never stored and serve as queries.  In round r
the rows ``r * step`` to ``r * step + rows - 1`` of the marked ones stand: each round deletes the
`step` rows that stand longest and inserts as many that never stood, so both are rows of one group
or a few, and the groups that come are other ones than those that go.  Queries of a round are drawn
from what lies, in the same order, between its first and its last row: they follow the rows.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import datasets
from bench.channel import BenchError
from bench.data import load
from bench.metrics import true_distances

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
GROUPS = 64
"""Groups of a set that names none: cells around so many of its rows."""
_BLOCK_ROWS = 65_536


@dataclass(frozen=True)
class Asked:
    """Queries of one round.

    Attributes
    ----------
    queries : float32 (n, dim)
    kth : float64 (n,)
        Distance of the last true neighbour among the rows that stand.
    """

    queries: F32
    kth: NDArray[np.float64]


@dataclass(frozen=True)
class Stream:
    """A moving window over the rows of a set.

    Attributes
    ----------
    base : float32 (all rows, dim)
    order : int64 (all rows,)
        Rows of the set, by group.
    marked : int64 (rows + rounds * step,)
        Ascending places in `order` of those that are stored at some time.
    groups : int64 (all rows,)
        Group of each row of the set.
    rows, step, rounds : int
        Rows that stand, rows replaced by each round, rounds.
    """

    base: F32
    metric: str
    order: I64
    marked: I64
    groups: I64
    rows: int
    step: int
    rounds: int
    seed: int

    def standing(self, round_: int) -> I64:
        """Rows of the set that stand after a round; 0 is the state before the first."""
        begin = round_ * self.step
        return self.order[self.marked[begin : begin + self.rows]]

    def leaving(self, round_: int) -> I64:
        """Rows that a round, counted from 1, deletes."""
        return self.order[self.marked[(round_ - 1) * self.step : round_ * self.step]]

    def coming(self, round_: int) -> I64:
        """Rows that a round, counted from 1, inserts."""
        begin = self.rows + (round_ - 1) * self.step
        return self.order[self.marked[begin : begin + self.step]]

    def queries(self, round_: int, count: int) -> F32:
        """Rows that are never stored, from among the groups that stand.

        Raises
        ------
        BenchError
            There are too few.
        """
        begin = round_ * self.step
        first, last = self.marked[begin], self.marked[begin + self.rows - 1]
        between = np.setdiff1d(np.arange(first, last + 1), self.marked, assume_unique=True)
        if len(between) < count:
            raise BenchError(
                f"Round {round_} leaves {len(between)} rows for {count} queries; take fewer "
                f"--rows, --rounds or --queries, or a larger --dataset."
            )
        rng = np.random.default_rng((self.seed, round_))
        return self.take(self.order[np.sort(rng.choice(between, count, replace=False))])

    def take(self, rows: I64) -> F32:
        """Copy rows of the set, float32 (len(rows), dim)."""
        return np.ascontiguousarray(self.base[rows], np.float32)

    def asked(self, round_: int, count: int, k: int) -> Asked:
        """Queries of a round and their truth, by exact search over all rows that stand."""
        faiss = importlib.import_module("faiss")
        queries, standing = self.queries(round_, count), np.sort(self.standing(round_))
        inner = self.metric != "l2"
        heap = faiss.ResultHeap(count, k, keep_max=inner)
        kind = faiss.METRIC_INNER_PRODUCT if inner else faiss.METRIC_L2
        seen = queries.copy()
        if self.metric == "cosine":
            faiss.normalize_L2(seen)
        for start in range(0, len(standing), _BLOCK_ROWS):
            block = self.take(standing[start : start + _BLOCK_ROWS])
            if self.metric == "cosine":
                faiss.normalize_L2(block)
            distances, places = faiss.knn(seen, block, min(k, len(block)), metric=kind)
            heap.add_result(distances, places + start)
        heap.finalize()
        near = standing[np.asarray(heap.I, np.int64)]
        kth = true_distances(self.base, queries, near, self.metric).max(axis=1)
        return Asked(queries, kth)

    def described(self) -> dict[str, Any]:
        """What moves, as JSON values."""
        moved = []
        for round_ in range(1, self.rounds + 1):
            gone, come = self.groups[self.leaving(round_)], self.groups[self.coming(round_)]
            moved.append(
                {
                    "groups_leaving": len(np.unique(gone)),
                    "groups_coming": len(np.unique(come)),
                    "rows_of_groups_in_both": int(np.isin(come, gone).sum()),
                }
            )
        standing = self.groups[self.standing(0)]
        return {
            "rows": self.rows,
            "step": self.step,
            "rounds": self.rounds,
            "dim": int(self.base.shape[1]),
            "metric": self.metric,
            "groups": int(self.groups.max()) + 1,
            "groups_at_first": len(np.unique(standing)),
            "moved": moved,
        }


def make_stream(name: str, rows: int, rounds: int, share: float, seed: int) -> Stream:
    """Lay out a run.

    Parameters
    ----------
    share : float
        Of the rows, replaced by each round.

    Raises
    ------
    BenchError
        The set is too small, or not prepared.
    """
    data = load(name)
    step = round(rows * share)
    if not 0 < step < rows:
        raise BenchError(f"Of {rows} rows a share of {share} is {step}; replace at least one.")
    total = rows + rounds * step
    if total > len(data.base):
        raise BenchError(
            f"{rounds} rounds of {step} rows after {rows} take {total} rows and {name!r} has "
            f"{len(data.base)}; take fewer --rows or --rounds, or a larger --dataset."
        )
    groups = _groups(name, data.base, seed)
    rng = np.random.default_rng(seed)
    rank = rng.permutation(int(groups.max()) + 1)
    order = np.argsort(rank[groups], kind="stable").astype(np.int64)
    marked = np.sort(rng.choice(len(order), total, replace=False)).astype(np.int64)
    return Stream(data.base, data.metric, order, marked, groups, rows, step, rounds, seed)


def _groups(name: str, base: F32, seed: int) -> I64:
    """Group of each row: what the set names, or the nearest of `GROUPS` rows drawn."""
    if not name.startswith("synthetic-"):
        named = datasets.load(name).tenants
        if named is not None:
            return np.unique(np.asarray(named), return_inverse=True)[1].astype(np.int64)
    faiss = importlib.import_module("faiss")
    rng = np.random.default_rng(seed)
    picks = np.sort(rng.choice(len(base), min(GROUPS, len(base)), replace=False))
    seeds = np.ascontiguousarray(base[picks], np.float32)
    nearest = [
        faiss.knn(np.ascontiguousarray(base[start : start + _BLOCK_ROWS], np.float32), seeds, 1)[1]
        for start in range(0, len(base), _BLOCK_ROWS)
    ]
    return np.unique(np.concatenate(nearest)[:, 0], return_inverse=True)[1].astype(np.int64)
