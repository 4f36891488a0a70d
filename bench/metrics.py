"""Metrics derived from raw results: recall with ties, percentiles, frontiers, interpolation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: A returned row counts when it is no farther than the k-th true neighbour, plus this share.
TIE_TOLERANCE = 1e-6
QUERY_BLOCK = 64


def true_distances(
    base: NDArray[np.float32], queries: NDArray[np.float32], ids: NDArray[Any], metric: str
) -> Floats:
    """Distances in float64 between each query and the rows named for it.

    Parameters
    ----------
    base : ndarray (n, d)
    queries : ndarray (q, d)
    ids : ndarray (q, k)
        Row numbers; those outside 0 … n-1 get +inf.
    metric : str
        ``"l2"`` (squared Euclidean), ``"cosine"`` (1 - cosine) or ``"ip"`` (negated product).

    Returns
    -------
    ndarray (q, k) float64
    """
    valid = (ids >= 0) & (ids < len(base))
    safe = np.where(valid, ids, 0)
    out = np.empty(ids.shape, np.float64)
    for start in range(0, len(queries), QUERY_BLOCK):
        part = slice(start, start + QUERY_BLOCK)
        asked = queries[part].astype(np.float64)[:, None, :]
        rows = np.asarray(base[safe[part]], dtype=np.float64)
        if metric == "l2":
            out[part] = ((rows - asked) ** 2).sum(axis=2)
            continue
        products = (rows * asked).sum(axis=2)
        if metric == "cosine":
            lengths = np.linalg.norm(rows, axis=2) * np.linalg.norm(asked, axis=2)
            products = products / np.maximum(lengths, 1e-300) - 1.0
        out[part] = -products
    out[~valid] = np.inf
    return out


def found_mask(
    base: NDArray[np.float32],
    queries: NDArray[np.float32],
    ids: NDArray[Any],
    kth: Floats,
    metric: str,
) -> NDArray[np.bool_]:
    """Which returned ids belong to the true k nearest, ties at the k-th distance included.

    An id repeated within a query counts once.

    Parameters
    ----------
    ids : ndarray (q, k)
        Returned row numbers, padded with -1.
    kth : ndarray (q,)
        True distance of the k-th neighbour, as `true_distances` computes it.

    Returns
    -------
    ndarray (q, k) bool
    """
    distances = true_distances(base, queries, ids, metric)
    scale = np.ones_like(kth) if metric == "cosine" else np.abs(kth)
    near = distances <= (kth + TIE_TOLERANCE * scale)[:, None]
    order = np.argsort(ids, axis=1, kind="stable")
    ordered = np.take_along_axis(ids, order, axis=1)
    repeated = np.zeros(ids.shape, np.bool_)
    np.put_along_axis(repeated[:, :], order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return near & ~repeated


def recall(found: NDArray[np.bool_], wanted: int) -> float:
    """Mean share of the ``wanted`` true neighbours that were found.

    Parameters
    ----------
    found : ndarray (q, k) bool
        From `found_mask`.
    wanted : int
        min(k, rows).
    """
    return float(np.minimum(found.sum(axis=1), wanted).mean() / wanted)


def percentile(values: NDArray[Any], percent: float) -> float:
    """Percentile by linear interpolation between the two nearest order statistics."""
    return float(np.percentile(values.astype(np.float64), percent))


def queries_per_second(latency_ns: NDArray[np.uint32]) -> Floats:
    """Queries per second of each pass: queries by the sum of their latencies.

    Parameters
    ----------
    latency_ns : ndarray (..., q)

    Returns
    -------
    ndarray (...)
    """
    total: Floats = latency_ns.astype(np.float64).sum(axis=-1)
    return np.asarray(latency_ns.shape[-1] * 1e9 / total)


def frontier(recalls: Sequence[float], values: Sequence[float]) -> list[int]:
    """Indexes of the points that no other beats in both, by ascending recall.

    Larger ``values`` are better. Of equal points one stays.
    """
    order = sorted(range(len(recalls)), key=lambda i: (-recalls[i], -values[i]))
    kept: list[int] = []
    best = -math.inf
    for i in order:
        if values[i] > best:
            kept.append(i)
            best = values[i]
    return kept[::-1]


@dataclass(frozen=True)
class AtRecall:
    """A value at a recall.

    Attributes
    ----------
    value : float or None
    kind : str
        ``"exact"``: between two points, or on one. ``"at least"``: every point of the sweep lies
        above this recall, the value is the fastest one's. ``"not reached"``: value is None.
    """

    value: float | None
    kind: str


def at_recall(recalls: Sequence[float], values: Sequence[float], target: float) -> AtRecall:
    """The frontier's value at a recall: log-linear between neighbours, never extrapolated.

    Parameters
    ----------
    recalls, values : sequences of float
        All points of a sweep; larger values are better and must be positive.
    target : float
        Recall asked for.
    """
    kept = frontier(recalls, values)
    above = [i for i in kept if recalls[i] >= target]
    if not above:
        return AtRecall(None, "not reached")
    high = above[0]
    below = [i for i in kept if recalls[i] < target]
    if recalls[high] == target:
        return AtRecall(values[high], "exact")
    if not below:
        return AtRecall(values[high], "at least")
    low = below[-1]
    share = (target - recalls[low]) / (recalls[high] - recalls[low])
    logs = math.log(values[low]) * (1 - share) + math.log(values[high]) * share
    return AtRecall(math.exp(logs), "exact")
