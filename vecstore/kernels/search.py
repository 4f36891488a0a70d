"""The read path of one query or many: route, prune, scan, deduplicate, rerank, top-k.

Memory is read by address from maps and arrays that the caller keeps alive.  Nothing here can
fail: what is odd (a vector that is not finite, bytes not yet checked) is reported by status and
counters, and row numbers from disk are held against the tables before they are followed.
"""

from __future__ import annotations

import numpy as np

from vecstore.kernels.cache import kernel
from vecstore.kernels.distance import euclidean
from vecstore.kernels.rabitq import prepare, query_planes, rotate_centred
from vecstore.kernels.route import next_posting, route
from vecstore.kernels.rows import rerank, scan_log, scan_raw
from vecstore.kernels.scan import scan_posting, seed
from vecstore.kernels.view import (
    BOUND,
    CENTRE,
    CENTROIDS,
    COUNT_POSTINGS,
    DIM,
    METRIC,
    NO_ROW,
    PADDED,
    PAGES_PROBED,
    PLANES_AT,
    POSTINGS,
    PROBES,
    QUERY,
    ROTATED,
    SIGNS,
    SPREAD,
)

_INF = np.float32(np.inf)
_NO_ROW = np.uint32(NO_ROW)


@kernel
def _search_index(view, scratch, effort, counters, rows, distances):
    """Probe the nearest postings, as many as `effort` says."""
    dim = view[DIM]
    padded = view[PADDED]
    metric = view[METRIC]
    query = scratch[QUERY]
    rotate_centred(query, view[CENTRE], dim, padded, view[SIGNS], scratch[ROTATED])
    scale, shift = query_planes(scratch[ROTATED], padded, scratch[PLANES_AT])
    probes = np.int64(effort[PROBES])
    bound = np.float32(effort[BOUND])
    left = route(view, scratch, probes, np.int64(effort[PAGES_PROBED]), scale, shift)
    limit = _INF
    k = rows.shape[0]
    count = 0
    waiting = 0
    probed = 0
    g_add, ordinal, left = next_posting(scratch, left)
    while ordinal >= 0:
        if probed > 0 and count >= k and (probed >= probes or g_add > limit):
            break
        following, next_ordinal, left = next_posting(scratch, left)
        g_err = bound * euclidean(metric, query, g_add, view[CENTROIDS] + 4 * dim * ordinal, dim)
        if probed == 0:
            limit = g_add + np.float32(effort[SPREAD]) * abs(g_add)
            count = seed(
                view, scratch, counters, ordinal, scale, shift, g_add, g_err, rows, distances
            )
        count, waiting = scan_posting(
            view,
            scratch,
            counters,
            ordinal,
            next_ordinal,
            scale,
            shift,
            g_add,
            g_err,
            rows,
            distances,
            count,
            waiting,
        )
        probed += 1
        g_add, ordinal = following, next_ordinal
        if count < k:
            count = rerank(view, scratch, counters, waiting, rows, distances, count)
            waiting = 0
    counters[COUNT_POSTINGS] += probed
    return rerank(view, scratch, counters, waiting, rows, distances, count)


@kernel
def search_many(view, scratch, effort, queries, first, end, live_rows, counters, rows, distances):
    """Answer queries `first` to `end` - 1.

    Parameters
    ----------
    view, scratch : int64 arrays (see `vecstore.kernels.view`)
    effort : float64 array
        How much is read; PROBES < 0 asks for an exact scan of all rows.
    queries : float32 (n, dim), C-contiguous
    first, end : int64
    live_rows : int64
        Rows that can be found at all.
    counters : int64 (COUNTERS,)
        Added to: postings probed, rows scanned, rows reranked; DAMAGED is set when a
        checksum does not hold, and the answers are then worth nothing.
    rows : uint32 (n, k), distances : float32 (n, k)
        Receive the answers, nearest first; places left over get NO_ROW and +inf.

    Returns
    -------
    int64
        -1, or the number of the first query that is not finite (2 * number) or is a zero
        vector under cosine (2 * number + 1).
    """
    k = rows.shape[1]
    for i in range(first, end):
        top_rows = rows[i]
        top_distances = distances[i]
        source = queries.ctypes.data + 4 * view[DIM] * i
        wrong = prepare(view[METRIC], source, view[DIM], scratch[QUERY])
        if wrong != 0:
            return 2 * i + wrong - 1
        count = 0
        if effort[PROBES] >= 0 and view[POSTINGS] > 0:
            count = _search_index(view, scratch, effort, counters, top_rows, top_distances)
            count = scan_log(view, scratch, top_rows, top_distances, count)
        if count < min(k, live_rows):
            count = scan_log(view, scratch, top_rows, top_distances, count)
            count = scan_raw(view, scratch, counters, top_rows, top_distances, count)
        for j in range(count, k):
            top_rows[j] = _NO_ROW
            top_distances[j] = _INF
    return -1
