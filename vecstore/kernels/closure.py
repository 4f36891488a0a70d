"""Closure assignment: which further postings also hold a row."""

from __future__ import annotations

import numpy as np

from vecstore.kernels.cache import allocating_kernel, kernel


@allocating_kernel
def choose_copies(x, candidates, distances, centroids, soar_lambda, chosen):
    """Choose further homes for rows as in SOAR (arXiv 2404.00774, section 3.2).

    A copy helps when its residual r' is not parallel to those of the homes before it: then a
    query that the first centroid explains badly is explained well by the other.  Each further
    home minimises ``|r'|^2 + lambda * sum_s <r', r_s / |r_s|>^2`` over all homes s chosen
    before; the paper looks at the first home only.

    Parameters
    ----------
    x : float32 (n, dim)
    candidates : int64 (n, t)
        Ordinals of each row's nearest centroids, nearest first; the first is its home.
    distances : float32 (n, t)
        Squared distances to them.
    centroids : float32 (postings, dim)
    soar_lambda : float32
    chosen : int32 (n, copies)
        Receives ordinals; -1 where there are fewer candidates than copies.
    """
    n, t = candidates.shape
    dim = x.shape[1]
    copies = chosen.shape[1]
    cost = np.empty(t, np.float32)
    unit = np.empty(dim, np.float32)
    for i in range(n):
        for j in range(copies):
            chosen[i, j] = -1
        chosen[i, 0] = candidates[i, 0]
        for j in range(t):
            cost[j] = distances[i, j] if candidates[i, j] >= 0 else np.float32(np.inf)
        cost[0] = np.float32(np.inf)
        last = 0
        for copy in range(1, copies):
            home = candidates[i, last]
            square = np.float32(0.0)
            for d in range(dim):
                unit[d] = x[i, d] - centroids[home, d]
                square += unit[d] * unit[d]
            weight = soar_lambda / square if square > np.float32(0.0) else np.float32(0.0)
            best = -1
            for j in range(1, t):
                if cost[j] < np.float32(np.inf):
                    other = candidates[i, j]
                    dot = np.float32(0.0)
                    for d in range(dim):
                        dot += (x[i, d] - centroids[other, d]) * unit[d]
                    cost[j] += weight * dot * dot
                    if best < 0 or cost[j] < cost[best]:
                        best = j
            if best < 0:
                break
            chosen[i, copy] = candidates[i, best]
            cost[best] = np.float32(np.inf)
            last = best


@kernel
def count_homes(homes, counts):
    """Count the entries of each posting, one place on, in int64 `counts` (postings + 1,)."""
    for i in range(homes.shape[0]):
        for j in range(homes.shape[1]):
            if homes[i, j] >= 0:
                counts[homes[i, j] + 1] += 1


@kernel
def group_homes(homes, at, rows):
    """Sort rows by posting.

    Parameters
    ----------
    homes : int32 (n, copies)
        Ordinals of postings, -1 for none.
    at : int64 (postings,)
        Where the rows of each begin; afterwards, where they end.
    rows : uint32 (entries,)
        Receives the rows of each posting, ascending.
    """
    for i in range(homes.shape[0]):
        for j in range(homes.shape[1]):
            home = homes[i, j]
            if home >= 0:
                rows[at[home]] = np.uint32(i)
                at[home] += 1
