"""The read path of one query or many: route, prune, scan, deduplicate, rerank, top-k.

Memory is read by address from maps and arrays that the caller keeps alive.  Nothing here can
fail: what is odd (a vector that is not finite, bytes not yet checked) is reported by status and
counters, and row numbers from disk are held against the tables before they are followed.
"""

from __future__ import annotations

import numpy as np

from vecstore.kernels.cache import kernel
from vecstore.kernels.cold import ask_for_likely_rows, ask_for_postings, begin, finish
from vecstore.kernels.estimate import error_factors
from vecstore.kernels.fresh import scan_fresh
from vecstore.kernels.intrinsics import load_i64, load_u64, prefetch, store_u64
from vecstore.kernels.query import make_query, prepare
from vecstore.kernels.route import is_near, next_posting, route
from vecstore.kernels.rows import ask_for_ids, rerank, run_field, scan_exactly
from vecstore.kernels.scan import (
    bounds_above,
    refine_pending,
    rerank_last,
    scan_posting,
    seed,
    threshold,
)
from vecstore.kernels.topk import clear_uppers, key_distance, key_ordinal
from vecstore.kernels.view import (
    ANSWERED,
    BOUND,
    CENTROIDS,
    COLD,
    COUNT_POSTINGS,
    COUNTED,
    DAMAGED,
    DIM,
    FIRST_RUN,
    LISTED,
    METRIC,
    NEARBY,
    NEARBY_MAX,
    NO_LIST,
    NO_ROW,
    PAGES_PROBED,
    POSTINGS,
    PROBES,
    QUERY,
    RUN_ADDRESS,
    RUN_CHECKED,
    RUN_FIELDS,
    RUN_TABLE,
    UNLISTED,
)

_INF = np.float32(np.inf)
_NO_ROW = np.uint32(NO_ROW)


@kernel
def _look_ahead(view, scratch, place, left):
    """Find the posting that is scanned as number `place`, and ask for what leads to its blocks.

    One look at a posting needs its place in the table of runs, that table, and its first page,
    each of which is far away: they are asked for some postings before.

    Returns
    -------
    int64
        Keys left in the heap.
    """
    key, left = next_posting(scratch, left)
    store_u64(scratch[NEARBY], place % NEARBY_MAX, key)
    ordinal = key_ordinal(key)
    if ordinal >= 0:
        prefetch(view[FIRST_RUN] + 8 * ordinal)
    ordinal = key_ordinal(load_u64(scratch[NEARBY], (place - 2) % NEARBY_MAX))
    if place >= 2 and ordinal >= 0:
        entry = view[RUN_TABLE] + 8 * RUN_FIELDS * load_i64(view[FIRST_RUN], ordinal)
        prefetch(entry)
        prefetch(entry + 8 * RUN_FIELDS - 1)
    ordinal = key_ordinal(load_u64(scratch[NEARBY], (place - 4) % NEARBY_MAX))
    if place >= 4 and ordinal >= 0:
        run = load_i64(view[FIRST_RUN], ordinal)
        if run < load_i64(view[FIRST_RUN], ordinal + 1):
            prefetch(run_field(view, run, RUN_CHECKED))
            prefetch(run_field(view, run, RUN_ADDRESS))
    return left


@kernel
def _nearby(scratch, place):
    """Distance and ordinal of the posting that is scanned as number `place`; ordinal -1: none."""
    key = load_u64(scratch[NEARBY], place % NEARBY_MAX)
    return key_distance(key), key_ordinal(key)


@kernel
def _search_index(view, scratch, effort, counters, rows, distances):
    """Probe the nearest postings, as many as `effort` says."""
    make_query(view, scratch)
    bound = np.float32(effort[BOUND])
    left = route(view, scratch, np.int64(effort[PROBES]), np.int64(effort[PAGES_PROBED]))
    k = rows.shape[0]
    above = bounds_above(view, k)
    if scratch[COLD] != 0:
        asked = ask_for_postings(view, scratch, effort, counters, left)
        if not above:
            ask_for_likely_rows(view, scratch, effort, counters, left, asked, k)
    if above:
        clear_uppers(scratch, k)
    count = 0
    waiting = 0
    pending = 0
    seeded = -_INF
    probed = 0
    for place in range(NEARBY_MAX):
        left = _look_ahead(view, scratch, place, left)
    g_add, ordinal = _nearby(scratch, 0)
    nearest = g_add
    while ordinal >= 0:
        enough = count >= k or (above and threshold(scratch, above, distances, count) < _INF)
        if probed > 0 and enough and not is_near(effort, probed, g_add, nearest):
            break
        following, next_ordinal = _nearby(scratch, probed + 1)
        centroid = view[CENTROIDS] + 4 * view[DIM] * ordinal
        g_err, g_full = error_factors(view, scratch, g_add, centroid, bound)
        if probed == 0:
            count, waiting, seeded = seed(
                view, scratch, counters, ordinal, g_add, g_err, g_full, rows, distances
            )
        count, waiting, pending = scan_posting(
            view,
            scratch,
            counters,
            ordinal,
            next_ordinal,
            g_add,
            g_err,
            g_full,
            rows,
            distances,
            count,
            waiting,
            pending,
            seeded,
        )
        seeded = -_INF
        left = _look_ahead(view, scratch, probed + NEARBY_MAX, left)
        probed += 1
        g_add, ordinal = following, next_ordinal
        if count < k and not above:
            count = rerank(view, scratch, counters, waiting, rows, distances, count)
            waiting = 0
    counters[COUNT_POSTINGS] += probed
    if above:
        waiting = refine_pending(view, scratch, counters, pending, waiting, distances, count)
        return rerank_last(view, scratch, counters, waiting, rows, distances, count)
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
        Receive: postings probed, rows scanned, rows refined by further bits, rows reranked, pieces
        of files asked for ahead and their bytes, and queries that found too few rows and lack a
        list for an exact scan (UNLISTED); DAMAGED is set when a checksum does not hold.
    rows : uint32 (n, k), distances : float32 (n, k)
        Receive the answers, nearest first; places left over get NO_ROW and +inf.

    Returns
    -------
    int64
        ANSWERED; COUNTED, when the answers are worth nothing and a counter says why; or the
        number of the first query that is not finite (2 * number) or is a zero vector under
        cosine (2 * number + 1).
    """
    k = rows.shape[1]
    counters[:] = 0
    for i in range(first, end):
        top_rows = rows[i]
        top_distances = distances[i]
        source = queries.ctypes.data + 4 * view[DIM] * i
        wrong = prepare(view[METRIC], source, view[DIM], scratch[QUERY])
        if wrong != 0:
            return 2 * i + wrong - 1
        began = begin(scratch)
        count = 0
        if effort[PROBES] >= 0 and view[POSTINGS] > 0:
            count = _search_index(view, scratch, effort, counters, top_rows, top_distances)
            count = scan_fresh(view, scratch, top_rows, top_distances, count)
        if count < min(k, live_rows):
            count = scan_fresh(view, scratch, top_rows, top_distances, count)
            if view[LISTED] == NO_LIST:
                counters[UNLISTED] += 1
            count = scan_exactly(view, scratch, counters, top_rows, top_distances, count)
        if scratch[COLD] != 0:
            ask_for_ids(view, counters, top_rows.ctypes.data, count)
        for j in range(count, k):
            top_rows[j] = _NO_ROW
            top_distances[j] = _INF
        finish(scratch, began)
    return COUNTED if counters[DAMAGED] != 0 or counters[UNLISTED] != 0 else ANSWERED
