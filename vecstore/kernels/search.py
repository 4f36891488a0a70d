"""The read path of one query or many: route, prune, scan, deduplicate, rerank, top-k.

Memory is read by address from maps and arrays that the caller keeps alive.  Nothing here can
fail: what is odd (a vector that is not finite, bytes not yet checked) is reported by status and
counters, and row numbers from disk are held against the tables before they are followed.
"""

from __future__ import annotations

import numpy as np

from vecstore.config import BLOCK_ROWS, CHUNK_ROWS
from vecstore.kernels.cache import kernel
from vecstore.kernels.distance import centroid_distance, exact_distance
from vecstore.kernels.intrinsics import (
    load_f32,
    load_i64,
    load_u32,
    load_u64,
    lowest_bit,
    mask_within,
    prefetch,
    rabitq_block,
    store_f32,
    store_i64,
    store_u32,
)
from vecstore.kernels.rabitq import prepare, query_planes, rotate_centred
from vecstore.kernels.route import next_posting, route
from vecstore.kernels.topk import histogram_cut, offer
from vecstore.kernels.view import (
    BLOCK_BYTES,
    BOUND,
    CENTRE,
    CENTROIDS,
    CHUNK_ADDRESS,
    CHUNK_CHECKED,
    CHUNKS,
    CODEC,
    COSINE,
    COUNT_POSTINGS,
    COUNT_RERANKED,
    COUNT_ROWS,
    COUNT_UNCHECKED,
    DIM,
    ESTIMATES,
    ESTIMATES_MAX,
    FIRST_RUN,
    HISTOGRAM,
    IP,
    LIVE,
    LOG_NUMBERS,
    LOG_ROWS,
    LOG_VECTORS,
    LOWER,
    METRIC,
    PADDED,
    PAGE_TAG,
    PAGES_PROBED,
    PLANES_AT,
    POSTINGS,
    PROBES,
    QUERY,
    RABITQ,
    ROTATED,
    RUN_ADDRESS,
    RUN_BLOCKS,
    RUN_CHECKED,
    SIGNS,
    SPREAD,
    SURVIVORS,
    SURVIVORS_MAX,
    UNCHECKED,
    UNCHECKED_MAX,
)

_INF = np.float32(np.inf)
_EMPTY = np.float32(1e29)
_EMPTY_DISTANCE = np.float32(1e30)
_NO_ROW = np.uint32(0xFFFF_FFFF)
_PAGE_BYTES = 4096
_LINE_BYTES = 64
_LINES_MAX = 16
"""Cache lines of a raw row that are asked for ahead; the processor's streamer takes the rest."""
SEED_EXTRA = 6
"""Rows beyond k that are reranked first, to get a threshold before the scan."""


@kernel
def is_live(view, row):  # type: ignore[no-untyped-def]
    """Tell whether a row number from disk is a live row of the snapshot."""
    if row >= view[CHUNKS] * CHUNK_ROWS:
        return False
    word = load_u64(view[LIVE], row >> 6)
    return (word >> np.uint64(row & 63)) & np.uint64(1) != np.uint64(0)


@kernel
def _note(scratch, counters, thing):  # type: ignore[no-untyped-def]
    """Append to the list of unchecked things; the counter runs on when the list is full."""
    n = counters[COUNT_UNCHECKED]
    if n < scratch[UNCHECKED_MAX]:
        store_i64(scratch[UNCHECKED], n, thing)
    counters[COUNT_UNCHECKED] = n + 1


@kernel
def raw_address(view, row):  # type: ignore[no-untyped-def]
    """Address of a raw row in an extent, or 0 when it stands in the row log."""
    chunk = row // CHUNK_ROWS
    base = load_i64(view[CHUNK_ADDRESS], chunk)
    if base == 0:
        return base
    return base + (row - chunk * CHUNK_ROWS) * 4 * view[DIM]


@kernel
def _note_pages(view, scratch, counters, row):  # type: ignore[no-untyped-def]
    """Note the pages of a raw row whose checksums have not been looked at."""
    stride = 4 * view[DIM]
    chunk = row // CHUNK_ROWS
    start = (row - chunk * CHUNK_ROWS) * stride
    base = chunk * (CHUNK_ROWS * stride // _PAGE_BYTES)
    first = base + start // _PAGE_BYTES
    last = base + (start + stride - 1) // _PAGE_BYTES
    for page in range(first, last + 1):
        word = load_u64(view[CHUNK_CHECKED], page >> 6)
        if (word >> np.uint64(page & 63)) & np.uint64(1) == np.uint64(0):
            _note(scratch, counters, page + PAGE_TAG)


@kernel
def _rerank(  # type: ignore[no-untyped-def]
    view, scratch, counters, n, rows, distances, count
):
    """Exact distances of the `n` survivors that their bounds still cannot exclude."""
    dim = view[DIM]
    metric = view[METRIC]
    last = rows.shape[0] - 1
    for i in range(n):
        kth = distances[last] if count > last else _INF
        if load_f32(scratch[LOWER], i) > kth:
            continue
        row = np.int64(load_u32(scratch[SURVIVORS], i))
        address = raw_address(view, row)
        if address == 0:
            continue
        _note_pages(view, scratch, counters, row)
        counters[COUNT_RERANKED] += 1
        distance = exact_distance(metric, scratch[QUERY], address, dim)
        if distance <= kth:
            count = offer(view, rows, distances, count, np.uint32(row), distance)
    return count


@kernel
def _keep(view, scratch, n, row, lower):  # type: ignore[no-untyped-def]
    """Put a live row on the list of survivors and ask for its raw vector."""
    if not is_live(view, row):
        return n
    address = raw_address(view, row)
    lines = min(_LINES_MAX, 4 * view[DIM] // _LINE_BYTES + 1)
    for line in range(lines):
        prefetch(address + line * _LINE_BYTES)
    store_u32(scratch[SURVIVORS], n, np.uint32(row))
    store_f32(scratch[LOWER], n, lower)
    return n + 1


@kernel
def _float32_block(view, query, block, target):  # type: ignore[no-untyped-def]
    """Distances of one block of 32 rows stored as float32, rows side by side."""
    dim = view[DIM]
    for r in range(BLOCK_ROWS):
        store_f32(target, r, np.float32(0.0))
    if view[METRIC] == IP:
        for i in range(dim):
            q = load_f32(query, i)
            for r in range(BLOCK_ROWS):
                value = load_f32(block, i * BLOCK_ROWS + r)
                store_f32(target, r, load_f32(target, r) - q * value)
    else:
        for i in range(dim):
            q = load_f32(query, i)
            for r in range(BLOCK_ROWS):
                d = load_f32(block, i * BLOCK_ROWS + r) - q
                store_f32(target, r, load_f32(target, r) + d * d)
    scale = np.float32(0.5) if view[METRIC] == COSINE else np.float32(1.0)
    for r in range(BLOCK_ROWS):
        empty = load_u32(block, dim * BLOCK_ROWS + r) == _NO_ROW
        store_f32(target, r, _EMPTY_DISTANCE if empty else scale * load_f32(target, r))


@kernel
def _estimate_block(  # type: ignore[no-untyped-def]
    view, scratch, block, scale, shift, g_add, g_err, threshold, target
):
    """Estimates of one block in `target`; bits of the rows that may lie within `threshold`."""
    if view[CODEC] == RABITQ:
        return rabitq_block(
            block,
            scratch[PLANES_AT],
            view[PADDED] // 64,
            scale,
            shift,
            g_add,
            g_err,
            threshold,
            target,
        )
    _float32_block(view, scratch[QUERY], block, target)
    slack = np.float32(1e-4) * abs(threshold) + np.float32(1e-6)
    return mask_within(target, threshold + slack if threshold < _INF else threshold)


@kernel
def _scan_posting(  # type: ignore[no-untyped-def]
    view, scratch, counters, ordinal, scale, shift, g_add, g_err, rows, distances, count
):
    """Scan all runs of a posting, reranking what its bounds cannot exclude."""
    block_bytes = view[BLOCK_BYTES]
    last = rows.shape[0] - 1
    n = 0
    for run in range(
        load_i64(view[FIRST_RUN], ordinal), load_i64(view[FIRST_RUN], ordinal + 1)
    ):
        word = load_u64(view[RUN_CHECKED], run >> 6)
        if (word >> np.uint64(run & 63)) & np.uint64(1) == np.uint64(0):
            _note(scratch, counters, run)
        block = load_i64(view[RUN_ADDRESS], run)
        blocks = load_i64(view[RUN_BLOCKS], run)
        counters[COUNT_ROWS] += blocks * BLOCK_ROWS
        for _ in range(blocks):
            kth = distances[last] if count > last else _INF
            target = scratch[ESTIMATES]
            mask = _estimate_block(
                view, scratch, block, scale, shift, g_add, g_err, kth, target
            )
            numbers = block + block_bytes - 4 * BLOCK_ROWS
            while mask != np.uint32(0):
                r = lowest_bit(mask)
                mask = np.uint32(mask & (mask - np.uint32(1)))
                lower = load_f32(target, r)
                if view[CODEC] == RABITQ:
                    lower -= load_f32(numbers, r - BLOCK_ROWS) * g_err
                n = _keep(view, scratch, n, np.int64(load_u32(numbers, r)), lower)
                if n == SURVIVORS_MAX:
                    count = _rerank(view, scratch, counters, n, rows, distances, count)
                    n = 0
            block += block_bytes
    return _rerank(view, scratch, counters, n, rows, distances, count)


@kernel
def _seed(  # type: ignore[no-untyped-def]
    view, scratch, counters, ordinal, scale, shift, g_add, g_err, rows, distances
):
    """Rerank the best estimates of the nearest posting, so that a scan starts with a threshold."""
    k = rows.shape[0]
    block_bytes = view[BLOCK_BYTES]
    estimates = scratch[ESTIMATES]
    found = 0
    first = load_i64(view[FIRST_RUN], ordinal)
    end = load_i64(view[FIRST_RUN], ordinal + 1)
    for run in range(first, end):
        block = load_i64(view[RUN_ADDRESS], run)
        for _ in range(load_i64(view[RUN_BLOCKS], run)):
            if found + BLOCK_ROWS <= scratch[ESTIMATES_MAX]:
                _estimate_block(
                    view, scratch, block, scale, shift, g_add, g_err, _INF, estimates + 4 * found
                )
                found += BLOCK_ROWS
                block += block_bytes
    if found <= k + SEED_EXTRA:
        return 0
    cut = histogram_cut(estimates, found, k + SEED_EXTRA, _EMPTY, scratch[HISTOGRAM])
    count = 0
    at = 0
    n = 0
    for run in range(first, end):
        block = load_i64(view[RUN_ADDRESS], run)
        for _ in range(load_i64(view[RUN_BLOCKS], run)):
            if at + BLOCK_ROWS <= found:
                mask = mask_within(estimates + 4 * at, cut)
                numbers = block + block_bytes - 4 * BLOCK_ROWS
                while mask != np.uint32(0):
                    r = lowest_bit(mask)
                    mask = np.uint32(mask & (mask - np.uint32(1)))
                    n = _keep(view, scratch, n, np.int64(load_u32(numbers, r)), -_INF)
                    if n == SURVIVORS_MAX:
                        count = _rerank(view, scratch, counters, n, rows, distances, count)
                        n = 0
                at += BLOCK_ROWS
                block += block_bytes
    return _rerank(view, scratch, counters, n, rows, distances, count)


@kernel
def _scan_log(view, scratch, rows, distances, count):  # type: ignore[no-untyped-def]
    """Exact distances of all fresh rows."""
    dim = view[DIM]
    metric = view[METRIC]
    last = rows.shape[0] - 1
    for i in range(view[LOG_ROWS]):
        row = np.int64(load_u32(view[LOG_NUMBERS], i))
        if is_live(view, row):
            distance = exact_distance(
                metric, scratch[QUERY], view[LOG_VECTORS] + 4 * dim * i, dim
            )
            if count <= last or distance <= distances[last]:
                count = offer(view, rows, distances, count, np.uint32(row), distance)
    return count


@kernel
def _scan_raw(view, scratch, counters, rows, distances, count):  # type: ignore[no-untyped-def]
    """Exact distances of all live rows in extents."""
    dim = view[DIM]
    metric = view[METRIC]
    last = rows.shape[0] - 1
    for chunk in range(view[CHUNKS]):
        if load_i64(view[CHUNK_ADDRESS], chunk) == 0:
            continue
        for row in range(chunk * CHUNK_ROWS, (chunk + 1) * CHUNK_ROWS):
            if is_live(view, row):
                _note_pages(view, scratch, counters, row)
                counters[COUNT_RERANKED] += 1
                address = raw_address(view, row)
                distance = exact_distance(metric, scratch[QUERY], address, dim)
                if count <= last or distance <= distances[last]:
                    count = offer(view, rows, distances, count, np.uint32(row), distance)
    return count


@kernel
def _search_index(view, scratch, effort, counters, rows, distances):  # type: ignore[no-untyped-def]
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
    probed = 0
    while left > 0:
        g_add, ordinal, left = next_posting(scratch, left)
        if probed > 0 and count >= k and (probed >= probes or g_add > limit):
            break
        centroid = view[CENTROIDS] + 4 * dim * ordinal
        _, g_err = centroid_distance(metric, query, centroid, dim)
        g_err *= bound
        if probed == 0:
            limit = g_add + np.float32(effort[SPREAD]) * abs(g_add)
            count = _seed(
                view, scratch, counters, ordinal, scale, shift, g_add, g_err, rows, distances
            )
        count = _scan_posting(
            view, scratch, counters, ordinal, scale, shift, g_add, g_err, rows, distances, count
        )
        probed += 1
    counters[COUNT_POSTINGS] += probed
    return count


@kernel
def search_many(  # type: ignore[no-untyped-def]
    view, scratch, effort, queries, first, end, live_rows, counters, rows, distances
):
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
        Added to: postings probed, rows scanned, rows reranked, things not yet checked.
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
            count = _scan_log(view, scratch, top_rows, top_distances, count)
        if count < min(k, live_rows):
            count = _scan_log(view, scratch, top_rows, top_distances, count)
            count = _scan_raw(view, scratch, counters, top_rows, top_distances, count)
        for j in range(count, k):
            top_rows[j] = _NO_ROW
            top_distances[j] = _INF
    return -1
