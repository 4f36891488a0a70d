"""Queries whose pages are on disk: everything they will read is asked for at once.

A scratch is *cold* when it is made, and again after a query that took long and met the disk.  A
cold query asks for the runs of all postings that it will scan before it looks at the first, and
for raw rows before it takes their distances.  It reads the same bytes in the same order as any
other, so the answer is the same.  After `COLD_QUERIES` in a row for which nothing was read from
the disk, a scratch is warm: then a query costs two looks at the clock.
"""

from __future__ import annotations

import numpy as np

from vecstore.config import BLOCK_ROWS
from vecstore.kernels.cache import kernel
from vecstore.kernels.disk import (
    PAGE_BYTES,
    ask,
    ask_with,
    blocks_read,
    major_faults,
    now_ns,
    pages_of,
)
from vecstore.kernels.estimate import error_bound, error_factors, estimate_block
from vecstore.kernels.intrinsics import (
    load_f32,
    load_i64,
    load_u32,
    load_u64,
    lowest_bit,
    store_f32,
    store_u32,
    store_u64,
)
from vecstore.kernels.route import is_near
from vecstore.kernels.rows import ask_with_row, is_live, run_block_bytes, run_field
from vecstore.kernels.topk import (
    clear_uppers,
    heap_pop,
    heapify,
    key_distance,
    key_ordinal,
    offer_upper,
)
from vecstore.kernels.view import (
    BLOCK_BYTES,
    BOUND,
    CENTROIDS,
    COLD,
    COLD_QUERIES,
    DIM,
    ESTIMATES,
    ESTIMATES_MAX,
    FAULTS,
    FIRST_RUN,
    HEAP,
    KEYS,
    ORDINALS,
    RUN_ADDRESS,
    RUN_BLOCKS,
    UPPER,
    UPPERS_MAX,
)

SLOW_NS = 100_000
"""A query that takes longer looks whether it waited for the disk."""
_PAGES_BITS = 24
"""Of the number of pages of a run, beside the number of its first page."""


@kernel
def begin(scratch):
    """Note where a query begins, for `finish`."""
    return blocks_read() if scratch[COLD] != 0 else now_ns()


@kernel
def finish(scratch, began):
    """Decide by the query that ends whether the next one asks for pages."""
    if scratch[COLD] != 0:
        scratch[COLD] = COLD_QUERIES if blocks_read() != began else scratch[COLD] - 1
        if scratch[COLD] == 0:
            scratch[FAULTS] = major_faults()
    elif now_ns() - began > SLOW_NS:
        faults = major_faults()
        if faults != scratch[FAULTS]:
            scratch[COLD] = COLD_QUERIES
        scratch[FAULTS] = faults


@kernel
def _nearest(scratch, effort, size):
    """Put the keys of the postings that will be scanned at the end of KEYS, the nearest last.

    Returns
    -------
    int64
        How many they are.
    """
    keys = scratch[KEYS]
    for i in range(size):
        store_u64(keys, i, load_u64(scratch[HEAP], i))
    count = 0
    nearest = key_distance(load_u64(keys, 0))
    for taken in range(size):
        key = heap_pop(keys, size - taken)
        if count > 0 and key == load_u64(keys, size - count):
            continue
        if count > 0 and not is_near(effort, count, key_distance(key), nearest):
            break
        count += 1
        store_u64(keys, size - count, key)  # a place that the heap has left
    return count


@kernel
def ask_for_postings(view, scratch, effort, counters, size):
    """Ask for the postings that a query will scan, neighbours in one piece.

    Parameters
    ----------
    size : int64
        Keys in the heap that `route` has filled, which stays as it is.

    Returns
    -------
    int64
        How many they are; their keys stand in the last places of the first `size` of KEYS, the
        nearest last.
    """
    count = _nearest(scratch, effort, size)
    heap = scratch[ESTIMATES]
    room = scratch[ESTIMATES_MAX] // 2
    n = 0
    for place in range(size - 1, size - count - 1, -1):
        ordinal = key_ordinal(load_u64(scratch[KEYS], place))
        first = load_i64(view[FIRST_RUN], ordinal)
        for run in range(first, load_i64(view[FIRST_RUN], ordinal + 1)):
            if n < room:
                size_bytes = run_field(view, run, RUN_BLOCKS) * run_block_bytes(view)
                first_page, last = pages_of(run_field(view, run, RUN_ADDRESS), size_bytes)
                pages = (last - first_page) // PAGE_BYTES
                key = first_page // PAGE_BYTES << _PAGES_BITS | min(pages, (1 << _PAGES_BITS) - 1)
                store_u64(heap, n, np.uint64(key))
                n += 1
    heapify(heap, n)
    start = end = np.int64(0)
    for taken in range(n):
        key = np.int64(heap_pop(heap, n - taken))
        address = (key >> _PAGES_BITS) * PAGE_BYTES
        pages = key & ((1 << _PAGES_BITS) - 1)
        start, end = ask_with(counters, start, end, address, pages * PAGE_BYTES)
    ask(counters, start, end)
    return count


@kernel
def ask_for_likely_rows(view, scratch, effort, counters, size, count, k):
    """Ask for the raw rows that bounds from above cannot tell: those of codes of one bit.

    Their thresholds come from exact distances, so which rows are reranked is known only while
    they are.  Here the k-th least estimate takes the place of the k-th distance.

    Parameters
    ----------
    size, count : int64
        As `ask_for_postings` takes and gives them.
    """
    if k > UPPERS_MAX:
        return
    clear_uppers(scratch, k)
    block_bytes = view[BLOCK_BYTES]
    target = scratch[ESTIMATES]
    lowers = target + 4 * BLOCK_ROWS
    rows = scratch[ORDINALS]
    room = scratch[ESTIMATES_MAX] - 2 * BLOCK_ROWS
    n = 0
    for place in range(size - 1, size - count - 1, -1):
        key = load_u64(scratch[KEYS], place)
        g_add, ordinal = key_distance(key), key_ordinal(key)
        centroid = view[CENTROIDS] + 4 * view[DIM] * ordinal
        g_err, _ = error_factors(view, scratch, g_add, centroid, np.float32(effort[BOUND]))
        first = load_i64(view[FIRST_RUN], ordinal)
        for run in range(first, load_i64(view[FIRST_RUN], ordinal + 1)):
            block = run_field(view, run, RUN_ADDRESS)
            for _ in range(run_field(view, run, RUN_BLOCKS)):
                if n >= room:
                    break
                kth = load_f32(scratch[UPPER], k - 1)
                mask = estimate_block(view, scratch, block, block, g_add, g_err, kth, target)
                numbers = block + block_bytes - 4 * BLOCK_ROWS
                while mask != np.uint32(0):
                    r = lowest_bit(mask)
                    mask = np.uint32(mask & (mask - np.uint32(1)))
                    row = load_u32(numbers, r)
                    if is_live(view, np.int64(row)):
                        estimate = load_f32(target, r)
                        error = error_bound(view, scratch, numbers, r, estimate, g_err)
                        store_u32(rows, n, row)
                        store_f32(lowers, n, estimate - error)
                        n += 1
                        offer_upper(scratch, k, row, estimate)
                block += block_bytes
    kth = load_f32(scratch[UPPER], k - 1)
    keys = scratch[KEYS]
    likely = 0
    for i in range(n):
        if load_f32(lowers, i) <= kth:
            store_u64(keys, likely, np.uint64(load_u32(rows, i)))
            likely += 1
    heapify(keys, likely)
    start = end = np.int64(0)
    for taken in range(likely):
        row = np.int64(heap_pop(keys, likely - taken))
        start, end = ask_with_row(view, counters, start, end, row)
    ask(counters, start, end)
