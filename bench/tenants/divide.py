"""Ways to divide tenants into postings, by the rows that must be looked at for a recall.

* **own**: as vecstore does: a tree of each tenant's own rows, a second copy of each row (SOAR), and
  one posting for a tenant of up to `RUN_ROWS_MAX` rows.
* **curator**: one k-means tree of all rows; a tenant's rows stand at the highest shared node under
  which it has no more than a limit (Curator, arXiv 2401.07119, section 4).  Searched best first by
  the distance to shared centroids, without or with the successor's correction for spread (arXiv
  2601.01291), or in one pass over the centroids of all its shortlists.  Which nodes are empty is
  known exactly, without Bloom filters.
* **kmeans**: faiss k-means of each tenant's own rows, as many to a posting.

Distances inside postings are exact, so that only the division counts.  The number of postings to
look at is one for each class of tenant sizes, the least that reaches the recall there.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from bench.tenants.model import Workload
from bench.tenants.records import Record
from bench.tenants.truth import Truth
from vecstore import clustering
from vecstore.codecs import find_codec
from vecstore.config import BLOCK_ROWS, POSTING_ROWS, POSTING_ROWS_MAX
from vecstore.division import size_class

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
Order = Callable[[F32], tuple[I64, I64]]

BRANCHES = 8
SHORTLIST_ROWS = 128
SPREAD_WEIGHT = 0.4
CLASSES = (2_048, 20_000, 100_000)
SHORTLIST_BYTES = 16
"""Number of a node, address and length of a shortlist."""


@dataclass(frozen=True)
class Division:
    """One tenant, divided.

    Attributes
    ----------
    members : list of int64 arrays
        Places among the tenant's rows, by posting.
    order : dict
        By way to search: a function of a query that gives postings, the nearest first, and how
        many centroids have been scored when each is looked at.
    centroid_bytes : int
        What the tenant's own centroids take, or its records of shared ones.
    """

    members: list[I64]
    order: dict[str, Order]
    centroid_bytes: int


def _flat(centroids: F32) -> Order:
    def order(query: F32) -> tuple[I64, I64]:
        apart = ((centroids - query) ** 2).sum(axis=1)
        return np.argsort(apart, kind="stable"), np.full(len(centroids), len(centroids))

    return order


class _Array:
    """Rows in memory, as `vecstore.clustering` takes them."""

    def __init__(self, x: F32) -> None:
        self.x = x
        self.n, self.dim = x.shape

    def take(self, indices: I64 | U32) -> F32:
        return self.x[indices]


def divide_own(x: F32, _rows: I64) -> Division:
    """Divide as vecstore does."""
    if size_class(len(x), 4 * x.shape[1]) < 2:
        return Division([np.arange(len(x))], {"own": _flat(x[:1])}, 4 * x.shape[1])
    source, pool = _Array(x), clustering.Serial()
    tree = clustering.train_tree(source, 1, pool, clustering.silent)
    homes = clustering.assign_homes(source, tree, pool, clustering.silent)
    homes = clustering.limit_postings(homes, len(tree.leaves), POSTING_ROWS_MAX)
    places, columns = np.nonzero(homes >= 0)
    postings = homes[places, columns]
    order = np.argsort(postings, kind="stable")
    ends = np.cumsum(np.bincount(postings, minlength=len(tree.leaves)))
    return Division(
        np.split(places[order], ends[:-1]), {"own": _flat(tree.leaves)}, tree.leaves.nbytes
    )


def divide_kmeans(x: F32, _rows: I64) -> Division:
    """Divide by k-means alone."""
    centroids = clustering.kmeans(x, max(1, round(len(x) / POSTING_ROWS)), 1, 64)
    home = clustering.nearest(x, centroids)[1][:, 0]
    ends = np.cumsum(np.bincount(home, minlength=len(centroids)))
    members = np.split(np.argsort(home, kind="stable"), ends[:-1])
    return Division(members, {"kmeans": _flat(centroids)}, centroids.nbytes)


class SharedTree:
    """A k-means tree of all rows, numbered so that a node is a range of ranks.

    Attributes
    ----------
    rank : int64 (n,)
        Place of each row in the order of leaves.
    """

    def __init__(self, x: F32, leaf_rows: int) -> None:
        self._x, self._leaf_rows = x, leaf_rows
        self.centroids: list[F32] = []
        self.spread: list[float] = []
        self.span: list[tuple[int, int]] = []
        self.children: list[list[int]] = []
        self._order: list[I64] = []
        self._done = 0
        self._grow(np.arange(len(x)))
        order = np.concatenate(self._order)
        self.rank = np.empty(len(x), np.int64)
        self.rank[order] = np.arange(len(x))

    @property
    def nbytes(self) -> int:
        """Bytes of the shared centroids."""
        return sum(c.nbytes for c in self.centroids)

    def _grow(self, rows: I64) -> int:
        own = self._x[rows]
        centroid = own.mean(axis=0)
        number = len(self.centroids)
        self.centroids.append(centroid)
        self.spread.append(float(((own - centroid) ** 2).sum(axis=1).mean()))
        self.children.append([])
        start = self._done
        self.span.append((start, start + len(rows)))
        if len(rows) > self._leaf_rows:
            means = clustering.kmeans(own, BRANCHES, 1, 256)
            home = clustering.nearest(own, means)[1][:, 0]
            parts = [rows[home == c] for c in range(len(means))]
            parts = [part for part in parts if len(part)]
            del own
            if len(parts) > 1:
                self.children[number] = [self._grow(part) for part in parts]
                return number
        self._order.append(rows)
        self._done += len(rows)
        return number

    def divide(self, x: F32, rows: I64) -> Division:
        """Place a tenant's rows at shared nodes."""
        by_rank = np.argsort(self.rank[rows], kind="stable")
        ranks = self.rank[rows][by_rank]
        nodes: list[int] = []
        parents: list[int] = []
        members: list[I64] = []
        shortlist: list[int] = []
        todo = [(0, -1)]
        while todo:
            node, parent = todo.pop()
            low, high = np.searchsorted(ranks, self.span[node])
            if low == high:
                continue
            place = len(nodes)
            nodes.append(node)
            parents.append(parent)
            if high - low <= SHORTLIST_ROWS or not self.children[node]:
                shortlist.append(place)
                members.append(by_rank[low:high])
            else:
                todo += [(child, place) for child in self.children[node]]
        search = _BestFirst(
            np.stack([self.centroids[n] for n in nodes]),
            np.array([self.spread[n] for n in nodes], np.float32),
            parents,
            shortlist,
        )
        order: dict[str, Order] = {
            "curator": search.plain,
            "curator, spread": search.corrected,
            "curator, one pass": _flat(search.shortlists),
        }
        return Division(members, order, SHORTLIST_BYTES * len(nodes))


class _BestFirst:
    """The order in which a best-first search comes to the shortlists of one tenant."""

    def __init__(
        self, centroids: F32, spread: F32, parents: list[int], shortlist: list[int]
    ) -> None:
        self._centroids, self._spread = centroids, spread
        self.shortlists = centroids[shortlist]
        self._children: list[list[int]] = [[] for _ in parents]
        for place, parent in enumerate(parents):
            if parent >= 0:
                self._children[parent].append(place)
        self._ordinal = {place: ordinal for ordinal, place in enumerate(shortlist)}

    def plain(self, query: F32) -> tuple[I64, I64]:
        return self._search(((self._centroids - query) ** 2).sum(axis=1))

    def corrected(self, query: F32) -> tuple[I64, I64]:
        apart = ((self._centroids - query) ** 2).sum(axis=1)
        return self._search(apart - SPREAD_WEIGHT * self._spread)

    def _search(self, keys: F32) -> tuple[I64, I64]:
        key = keys.tolist()
        heap, order, scored, pushed = [(key[0], 0)], [], [], 1
        while heap:
            _, place = heapq.heappop(heap)
            if place in self._ordinal:
                order.append(self._ordinal[place])
                scored.append(pushed)
            for child in self._children[place]:
                heapq.heappush(heap, (key[child], child))
                pushed += 1
        return np.array(order), np.array(scored)


def run(
    workload: Workload, truths: dict[str, Truth], record: Record, say: Callable[[str], None]
) -> None:
    """Divide every tenant that is asked, in each way, and find what its queries need."""
    faiss.omp_set_num_threads(1)
    x = workload.base
    if workload.metric == "cosine":
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    began = time.perf_counter()
    tree = SharedTree(x, SHORTLIST_ROWS)
    tree_s = time.perf_counter() - began
    say(f"shared tree of {len(tree.centroids)} nodes in {tree_s:.1f} s")
    ways: dict[str, Callable[[F32, I64], Division]] = {
        "own": divide_own,
        "curator": tree.divide,
        "kmeans": divide_kmeans,
    }
    record.data["workload"] = workload.described()
    record.data["tree"] = {"nodes": len(tree.centroids), "bytes": tree.nbytes, "build_s": tree_s}
    asked = {n: a for n, a in workload.asked.items() if n in truths}
    who = np.unique(np.concatenate([a.tenants for a in asked.values()]))
    memberships = int(workload.sizes[who].sum())
    code_bytes = find_codec("auto", x.shape[1]).row_bytes(x.shape[1])
    for way, divide in ways.items():
        say(f"dividing {len(who)} tenants: {way}")
        totals: dict[str, float] = dict.fromkeys(
            ("build_s", "entries", "padded_entries", "postings", "centroid_bytes"), 0.0
        )
        curves: dict[str, dict[str, list[Any]]] = {}
        for tenant in who.tolist():
            rows = workload.rows_of(tenant).astype(np.int64)
            own = x[rows]
            began = time.perf_counter()
            made = divide(own, rows)
            totals["build_s"] += time.perf_counter() - began
            sizes = np.array([len(m) for m in made.members])
            totals["entries"] += int(sizes.sum())
            totals["padded_entries"] += int((-(-sizes // BLOCK_ROWS) * BLOCK_ROWS).sum())
            totals["postings"] += int((sizes > 0).sum())
            totals["centroid_bytes"] += made.centroid_bytes
            for name, queries in asked.items():
                for place in np.flatnonzero(queries.tenants == tenant).tolist():
                    query = queries.vectors[place]
                    if workload.metric == "cosine":
                        query = query / np.linalg.norm(query)
                    true = np.searchsorted(rows, truths[name].ids[place])
                    true = true[: truths[name].wanted[place]]
                    for search, order in made.order.items():
                        curve = _curve(made.members, sizes, *order(query), true)
                        curves.setdefault(name, {}).setdefault(search, []).append(
                            (len(rows), *curve)
                        )
        shared = tree.nbytes * memberships / len(workload.rows) if way == "curator" else 0.0
        coded = totals["padded_entries"] * code_bytes
        record.data.setdefault("ways", {})[way] = {
            **totals,
            "memberships": memberships,
            "build_s_per_million": totals["build_s"] / memberships * 1e6,
            "entry_bytes": (totals["entries"] * code_bytes + totals["centroid_bytes"] + shared)
            / memberships,
            "entry_bytes_padded": (coded + totals["centroid_bytes"] + shared) / memberships,
        }
        for name, searches in curves.items():
            for search, found in searches.items():
                needed = record.data.setdefault("needed", {}).setdefault(name, {})
                needed[search] = [at_recall(found, *span) for span in spans()]
        record.save()


def spans() -> list[tuple[int, int]]:
    """Classes of tenants by rows: from, to."""
    edges = (0, *CLASSES, 2**62)
    return list(pairwise(edges))


def _curve(
    members: list[I64], sizes: I64, order: I64, scored: I64, true: I64
) -> tuple[I64, I64, NDArray[np.float64]]:
    """Rows, centroids scored and recall after each posting."""
    left = set(true.tolist())
    found = np.zeros(len(order))
    for step, posting in enumerate(order.tolist()):
        if not left:
            break
        hit = left & set(members[posting].tolist())
        found[step] = len(hit)
        left -= hit
    return np.cumsum(sizes[order]), scored, np.cumsum(found) / max(1, len(true))


def at_recall(curves: list[Any], low: int, high: int, target: float = 0.95) -> dict[str, Any]:
    """Rows and centroids that queries for tenants of some sizes need in the mean."""
    own = [c for c in curves if low < c[0] <= high]
    if not own:
        return {"queries": 0}
    longest = max(len(c[1]) for c in own)
    before: tuple[float, float, float] = (0.0, 0.0, 0.0)
    for probes in range(1, longest + 1):
        at = [min(probes, len(c[1])) - 1 for c in own]
        rows, scored, recall = (
            float(np.mean([c[part][i] for c, i in zip(own, at, strict=True)])) for part in (1, 2, 3)
        )
        if recall >= target or probes == longest:
            share = 1.0 if recall <= before[2] else (target - before[2]) / (recall - before[2])
            share = min(1.0, max(0.0, share)) if probes > 1 else 1.0
            return {
                "queries": len(own),
                "probes": probes,
                "recall": recall,
                "rows": before[0] + share * (rows - before[0]),
                "centroids": before[1] + share * (scored - before[1]),
                "tenant_rows": float(np.mean([c[0] for c in own])),
            }
        before = rows, scored, recall
    raise AssertionError
