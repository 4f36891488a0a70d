"""Queries whose true neighbours are known, by exact search."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vecstore.clustering import Progress, silent
from vecstore.config import Metric
from vecstore.kernels.encode import exact_pairs
from vecstore.layout import NO_ROW, TENANT_NONE
from vecstore.row_source import Rows, normalised
from vecstore.tenant_view import TenantView

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
TRUTH_BYTES = 16 << 20
"""Products of queries and rows, or rows, that are held at a time."""


@dataclass(frozen=True)
class Workload:
    """Queries whose true neighbours are known.

    Attributes
    ----------
    queries : float32 (n, dim)
        Raw.
    limits : float32 (n,)
        Distance of the last true neighbour, by the kernel that searches use, so that rows at
        equal distance count alike.
    own : uint32 (n,)
        Row that a query is and that does not count, or NO_ROW.
    wanted : int
        Neighbours of each query.
    source : str
        Where the queries are from.
    """

    queries: F32
    limits: F32
    own: U32
    wanted: int
    source: str

    def part(self, count: int) -> Workload:
        """Take up to `count` of the queries, spread over all."""
        picks = np.linspace(0, len(self.own) - 1, min(count, len(self.own))).astype(int)
        queries = np.ascontiguousarray(self.queries[picks])
        return replace(self, queries=queries, limits=self.limits[picks], own=self.own[picks])

    @property
    def k(self) -> int:
        """Answers to ask for, so that a query that is a row itself has enough others."""
        return self.wanted + int(self.own[0] != NO_ROW)

    def recalls(self, rows: U32, distances: F32) -> F32:
        """Share of the true neighbours among the answers, float32 (n,)."""
        right = (distances <= self.limits[:, None]) & (rows != self.own[:, None])
        right &= rows != np.uint32(NO_ROW)
        shares: F32 = (np.minimum(right.sum(axis=1), self.wanted) / self.wanted).astype(np.float32)
        return shares


def near_rows(rows: Rows, queries: F32, k: int, progress: Progress = silent) -> I64:
    """Find the k rows nearest to each prepared query, by products with blocks of all rows.

    Squares are expanded, so under l2 everything is centred first, and callers take some more rows
    than they need and their exact distances.  Of a block only what is nearer than the k-th so far
    is looked at: the products are all that takes time.

    Returns
    -------
    int64 (queries, k)
        In no order.
    """
    centre = queries.mean(axis=0) if rows.metric == Metric.L2 else np.float32(0.0)
    scaled = np.ascontiguousarray(queries - centre) * np.float32(-2.0)
    best = np.full((len(queries), k), np.inf, np.float32)
    found = np.zeros((len(queries), k), np.int64)
    step = max(k, TRUTH_BYTES // (4 * max(len(queries), rows.dim)))
    for start in range(0, rows.n, step):
        progress("truth", start, rows.n)
        part = rows.take(np.arange(start, min(rows.n, start + step))) - centre
        with np.errstate(invalid="ignore"):  # which BLAS may report of sound products
            values = scaled @ part.T
        if rows.metric == Metric.L2:
            values += np.einsum("ij,ij->i", part, part)
        _keep_nearest(best, found, values, start)
    return found


def _keep_nearest(best: F32, found: I64, values: F32, first: int) -> None:
    """Take what is nearer in `values` (queries, rows) than the k nearest so far among these."""
    k = best.shape[1]
    near = values < best.max(axis=1, keepdims=True)
    for query in np.flatnonzero(near.any(axis=1)).tolist():
        places = np.flatnonzero(near[query])
        distances = np.concatenate([best[query], values[query, places]])
        numbers = np.concatenate([found[query], places + first])
        chosen = np.argpartition(distances, k - 1)[:k]
        best[query], found[query] = distances[chosen], numbers[chosen]


def _all_rows(tenant: TenantView) -> tuple[U32, Rows]:
    numbers, snapshot = tenant.row_numbers(), tenant.snapshot
    return numbers, Rows(snapshot.identity, snapshot.addresses(numbers), None)


def _workload(
    numbers: U32, rows: Rows, queries: F32, own: U32, wanted: int, source: str, progress: Progress
) -> Workload:
    """Find the true neighbours of queries."""
    prepared = normalised(queries, rows.metric)
    near = near_rows(rows, prepared, min(rows.n, 2 * (wanted + 1)), progress)
    distances = np.empty(near.shape, np.float32)
    exact_pairs(rows.form.number, rows.metric, queries, rows.stored_addresses[near], distances)
    distances[numbers[near] == own[:, None]] = np.inf
    limits: F32 = np.sort(distances, axis=1)[:, wanted - 1]
    progress("truth", rows.n, rows.n)
    return Workload(queries, limits, own, wanted, source)


def held_out(tenant: TenantView, count: int, k: int, progress: Progress) -> Workload | None:
    """Sample rows of a tenant as queries; None when there are fewer than two."""
    numbers, rows = _all_rows(tenant)
    wanted = min(k, rows.n - 1)
    if wanted < 1:
        return None
    rng = np.random.default_rng(tenant.snapshot.identity.record.seed)
    picks = np.sort(rng.choice(rows.n, min(count, rows.n), replace=False))
    queries = rows.take_raw(picks)
    whose = "the collection" if tenant.number == TENANT_NONE else "the tenant"
    source = f"{len(picks)} rows of {whose}, each without itself"
    return _workload(numbers, rows, queries, numbers[picks], wanted, source, progress)


def given(tenant: TenantView, queries: F32, k: int, progress: Progress) -> Workload:
    """Take the user's queries, float32 (n, dim)."""
    numbers, rows = _all_rows(tenant)
    own = np.full(len(queries), NO_ROW, np.uint32)
    source = f"{len(queries)} queries that were given"
    return _workload(numbers, rows, queries, own, min(k, rows.n), source, progress)
