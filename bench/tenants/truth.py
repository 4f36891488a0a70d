"""Exact neighbours within a tenant, and recall against them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import metrics
from bench.tenants.model import Asked, Workload

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
RowsOf = Callable[[int], NDArray[Any]]
"""Rows of a scope, ascending."""


@dataclass(frozen=True)
class Truth:
    """What queries should find.

    Attributes
    ----------
    ids : int64 (q, k)
        Nearest rows within the tenant, nearest first, -1 where it has fewer.
    kth : float64 (q,)
        Distance of the last of them.
    wanted : int64 (q,)
        min(k, rows of the tenant).
    """

    ids: I64
    kth: F64
    wanted: I64


def exact(workload: Workload, asked: Asked, k: int) -> Truth:
    """Find the exact neighbours of queries, tenant by tenant."""
    return exact_within(workload, asked, k, workload.rows_of)


def exact_within(workload: Workload, asked: Asked, k: int, rows_of: RowsOf) -> Truth:
    """Find the exact neighbours of queries among the rows of each query's scope."""
    import faiss

    base, metric = workload.base, workload.metric
    ids = np.full((len(asked.vectors), k), -1, np.int64)
    wanted = np.zeros(len(ids), np.int64)
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    for scope in np.unique(asked.tenants).tolist():
        places = np.flatnonzero(asked.tenants == scope)
        rows = rows_of(scope)
        count = min(k, len(rows))
        wanted[places] = count
        if not count:
            continue
        x, q = base[rows], np.ascontiguousarray(asked.vectors[places])
        if metric == "cosine":
            faiss.normalize_L2(x)
            faiss.normalize_L2(q)
        ids[places, :count] = rows[faiss.knn(q, x, count, metric=kind)[1]]
    apart = metrics.true_distances(base, asked.vectors, ids, metric)
    kth = np.where(np.isfinite(apart), apart, -np.inf).max(axis=1)
    return Truth(ids, kth, wanted)


def hits(workload: Workload, asked: Asked, truth: Truth, ids: I64) -> NDArray[np.float64]:
    """Share of the wanted neighbours that each query found; ties at the last count."""
    found = metrics.found_mask(workload.base, asked.vectors, ids, truth.kth, workload.metric)
    wanted = np.maximum(truth.wanted, 1)
    shares: F64 = np.minimum(found.sum(axis=1), wanted) / wanted
    shares[truth.wanted == 0] = 1.0
    return shares


def strangers(ids: I64, asked: Asked, rows_of: RowsOf) -> int:
    """Answers that are not rows of the query's tenant; any of them is a failure of isolation."""
    count = 0
    for own, scope in zip(ids, asked.tenants.tolist(), strict=True):
        own = own[own >= 0]
        rows = rows_of(scope)
        at = np.minimum(np.searchsorted(rows, own), max(0, len(rows) - 1))
        count += len(own) if not len(rows) else int((rows[at] != own).sum())
    return count
