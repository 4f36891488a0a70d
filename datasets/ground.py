"""Exact nearest neighbours: what approximate answers are measured against.

Candidates come from faiss in float32, block by block over the memory map; a few more than asked
are kept, their distances are computed anew in float64 and ordered by (distance, row). A query for
which float32 rounding (`_ROUNDING`) could have cost a true neighbour is searched again wholly in
float64, so the result is the float64 answer.

Distances are vecstore's: l2 is the squared Euclidean distance, cosine is one minus the cosine.
A vector of zeros has cosine 0 with everything, hence distance 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datasets import sources
from datasets.recipe import Metric, Report

NEIGHBOR_COUNT = 100
_SPARE = 28
_BLOCK_ROWS = 65_536
_ROUNDING = 2.0**-18
"""What faiss's float32 error is taken to stay under, relative to the largest squared norms: 32 ulp.
Blocked dot products do far better than the worst case, which grows with their length."""

Neighbors = tuple[NDArray[np.int64], NDArray[np.float32]]


def exact_neighbors(
    base: NDArray[np.float32],
    queries: NDArray[np.float32],
    metric: Metric,
    count: int = NEIGHBOR_COUNT,
    *,
    block_rows: int = _BLOCK_ROWS,
    report: Report | None = None,
) -> Neighbors:
    """Find the `count` nearest base rows of each query.

    Parameters
    ----------
    base : ndarray, shape (n, d), float32
        May be a memory map; read once in blocks. n must be at least `count`.
    queries : ndarray, shape (m, d), float32
    metric : {"l2", "cosine"}
    count : int
    block_rows : int
        Rows held in memory at a time.
    report : callable, optional
        Told the rows searched and the rows in all.

    Returns
    -------
    neighbors : ndarray, shape (m, count), int64
        Nearest first by float64 distance; equal distances in order of row.
    distances : ndarray, shape (m, count), float32
    """
    _check(base, queries, count)
    kept = min(count + _SPARE, len(base))
    rows, worst, scale = _candidates(base, queries, metric, kept, block_rows, report)
    neighbors = np.empty((len(queries), count), dtype=np.int64)
    distances = np.empty((len(queries), count), dtype=np.float32)
    for index, query in enumerate(queries):
        exact = row_distances(base[rows[index]], query, metric)
        order = np.lexsort((rows[index], exact))[:count]
        neighbors[index], found = rows[index][order], exact[order]
        distances[index] = found
        if kept < len(base) and found[-1] >= worst[index] - _ROUNDING * scale[index]:
            again = float64_neighbors(base, query[None], metric, count, block_rows=block_rows)
            neighbors[index], distances[index] = again[0][0], again[1][0]
    return neighbors, distances


def float64_neighbors(
    base: NDArray[np.float32],
    queries: NDArray[np.float32],
    metric: Metric,
    count: int = NEIGHBOR_COUNT,
    *,
    block_rows: int = _BLOCK_ROWS,
) -> Neighbors:
    """Do as `exact_neighbors` does, directly from the definition in float64; slow."""
    _check(base, queries, count)
    neighbors = np.empty((len(queries), count), dtype=np.int64)
    distances = np.empty((len(queries), count), dtype=np.float32)
    exact = np.empty(len(base))
    for index, query in enumerate(queries):
        for start in range(0, len(base), block_rows):
            block = base[start : start + block_rows]
            exact[start : start + len(block)] = row_distances(block, query, metric)
        limit = np.partition(exact, count - 1)[count - 1]
        near = np.flatnonzero(exact <= limit)  # ascending, so the stable sort breaks ties by row
        neighbors[index] = near[np.argsort(exact[near], kind="stable")[:count]]
        distances[index] = exact[neighbors[index]]
    return neighbors, distances


def row_distances(
    rows: NDArray[np.float32], query: NDArray[np.float32], metric: Metric
) -> NDArray[np.float64]:
    """Return the distance of each row to one query, computed in float64 row by row.

    Equal rows get bitwise equal distances wherever they stand, which ties rely on.
    """
    wide, target = np.asarray(rows, dtype=np.float64), np.asarray(query, dtype=np.float64)
    if metric == "l2":
        return np.asarray(np.square(wide - target).sum(axis=1))
    norms = np.sqrt(np.square(wide).sum(axis=1)) * np.sqrt(np.square(target).sum())
    dots = (wide * target).sum(axis=1)
    return np.asarray(1.0 - np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0))


def disagreements(
    base: NDArray[np.float32],
    queries: NDArray[np.float32],
    metric: Metric,
    truth: Neighbors,
    *,
    sample: int = 4,
    seed: int = 0,
) -> list[str]:
    """Recompute a sample of queries in float64 and name those whose stored answer differs."""
    neighbors, distances = truth
    chosen = np.random.default_rng(seed).choice(
        len(queries), size=min(sample, len(queries)), replace=False
    )
    right = float64_neighbors(base, queries[chosen], metric, neighbors.shape[1])
    return [
        f"ground truth of query {row} differs from a recomputation in float64"
        for row, ids, values in zip(chosen.tolist(), *right, strict=True)
        if not np.array_equal(ids, neighbors[row]) or not np.array_equal(values, distances[row])
    ]


def _check(base: NDArray[np.float32], queries: NDArray[np.float32], count: int) -> None:
    if base.ndim != 2 or queries.ndim != 2 or base.shape[1] != queries.shape[1]:
        raise ValueError(f"Shapes {base.shape} and {queries.shape} are not (n, d) and (m, d).")
    if not 1 <= count <= len(base):
        raise ValueError(f"Asked for {count} neighbours of {len(base)} rows.")


def _candidates(
    base: NDArray[np.float32],
    queries: NDArray[np.float32],
    metric: Metric,
    kept: int,
    block_rows: int,
    report: Report | None,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Search in float32.

    Returns
    -------
    rows : ndarray, shape (m, kept), int64
        Best rows of each query, in no order.
    worst : ndarray, shape (m,), float64
        The largest of their distances as faiss has it.
    scale : ndarray, shape (m,), float64
        What the rounding errors of those distances are in proportion to.
    """
    faiss = sources.module("faiss", "faiss-cpu")
    targets = _unit(queries) if metric == "cosine" else np.ascontiguousarray(queries)
    measure = faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2
    best = np.empty((len(queries), 0), dtype=np.float32)
    rows = np.empty((len(queries), 0), dtype=np.int64)
    largest = 0.0
    for start in range(0, len(base), block_rows):
        block = np.ascontiguousarray(base[start : start + block_rows], dtype=np.float32)
        if metric == "cosine":
            block = _unit(block)
        largest = max(largest, float(np.einsum("ij,ij->i", block, block).max()))
        found, ids = faiss.knn(targets, block, min(kept, len(block)), metric=measure)
        best = np.hstack([best, 1 - found if metric == "cosine" else found])
        rows = np.hstack([rows, ids + start])
        if best.shape[1] > kept:
            order = np.argpartition(best, kept - 1, axis=1)[:, :kept]
            best = np.take_along_axis(best, order, axis=1)
            rows = np.take_along_axis(rows, order, axis=1)
        if report is not None:
            report("exact neighbours", start + len(block), len(base))
    scale = largest + np.einsum("ij,ij->i", targets, targets, dtype=np.float64)
    return rows, best.max(axis=1).astype(np.float64), scale


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(np.divide(vectors, np.where(norms > 0, norms, 1)), dtype=np.float32)
