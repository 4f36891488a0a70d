"""Scanning posting lists block by block, keeping what its bounds cannot exclude.

A row's estimate comes with a bound, so that it is excluded when even its least possible distance
is over the k-th best found.  Codes of one bit have wide bounds, and their survivors are reranked
soon, for a tight k-th distance.  Codes of more bits bound from above as well: the k-th least
upper bound serves as the threshold, and the few survivors are reranked at the end, in one go.
"""

from __future__ import annotations

import numpy as np

from vecstore.config import BLOCK_ROWS
from vecstore.kernels.blocks import mask_within, rabitq_block
from vecstore.kernels.cache import kernel
from vecstore.kernels.cut import cut_below
from vecstore.kernels.estimate import error_bound, estimate_block, refine
from vecstore.kernels.intrinsics import (
    load_f32,
    load_i64,
    load_u32,
    lowest_bit,
    prefetch,
    store_f32,
    store_i64,
    store_u32,
    store_u64,
)
from vecstore.kernels.rows import ask_for, is_live, rerank, run_field, run_intact
from vecstore.kernels.topk import heap_pop, heapify, offer_upper
from vecstore.kernels.view import (
    BITS,
    BLOCK_BYTES,
    CODEC,
    COUNT_REFINED,
    COUNT_ROWS,
    ESTIMATES,
    ESTIMATES_MAX,
    EXTRA_BYTES,
    FACTS,
    FIRST_RUN,
    HEAP,
    LOWER,
    NO_ROW,
    PENDING,
    PENDING_ADD,
    PENDING_BLOCK,
    PENDING_BYTES,
    PENDING_ERR,
    PENDING_EXTRA,
    PENDING_MAX,
    PENDING_PLACE,
    PLANE_SCALE,
    PLANE_SHIFT,
    PLANES_AT,
    RABITQ,
    RUN_ADDRESS,
    RUN_BLOCKS,
    STEPS,
    SURVIVORS,
    SURVIVORS_MAX,
    UPPER,
    UPPERS_MAX,
)

_INF = np.float32(np.inf)
RERANK_AT = 16
"""Survivors of 1-bit codes that wait before their exact distances are taken."""
RERANK_AT_END = SURVIVORS_MAX - BLOCK_ROWS - PENDING_MAX
"""Survivors of better codes that may wait."""
REFINE_AT = 12
"""Rows whose further bits are asked for before the first are looked at."""
SEED_EXTRA = 6
"""Rows beyond k that are reranked first, to get a threshold before the scan."""


@kernel
def bounds_above(view, k):
    """Tell whether the codes bound distances from above tightly enough to use it."""
    return k <= UPPERS_MAX and (view[CODEC] != RABITQ or view[BITS] > 1)


@kernel
def _push(scratch, n, row, lower):
    """Put a row on the list of survivors."""
    store_u32(scratch[SURVIVORS], n, np.uint32(row))
    store_f32(scratch[LOWER], n, lower)
    return n + 1


@kernel
def _keep(view, scratch, n, row, lower):
    """Put a live row on the list of survivors and ask for its raw vector."""
    if not is_live(view, row):
        return n
    ask_for(view, row)
    return _push(scratch, n, row, lower)


@kernel
def _keep_bounded(view, scratch, n, k, row, estimate, error, kth):
    """Put a live row on the list of survivors; lower the threshold by its upper bound."""
    lower = estimate - error
    if not lower <= kth or not is_live(view, row):
        return n
    offer_upper(scratch, k, np.uint32(row), estimate + error)
    return _push(scratch, n, row, lower)


@kernel
def _ask_refined(scratch, n, block, place, extra, extra_bytes, g_add, g_full):
    """Put a row on the list of those to be refined, and ask for its further bits."""
    prefetch(extra)
    prefetch(extra + extra_bytes - 1)
    at = scratch[PENDING] + PENDING_BYTES * n
    store_i64(at + PENDING_BLOCK, 0, block)
    store_i64(at + PENDING_EXTRA, 0, extra)
    store_i64(at + PENDING_PLACE, 0, place)
    store_f32(at + PENDING_ADD, 0, g_add)
    store_f32(at + PENDING_ERR, 0, g_full)
    return n + 1


@kernel
def refine_pending(view, scratch, counters, pending, waiting, distances, count):
    """Refine the rows that were asked for; those that may be among the nearest wait.

    Returns
    -------
    int64
        Survivors that wait.
    """
    k = distances.shape[0]
    numbers_at = view[BLOCK_BYTES] - 4 * BLOCK_ROWS
    counters[COUNT_REFINED] += pending
    for i in range(pending):
        at = scratch[PENDING] + PENDING_BYTES * i
        block = load_i64(at + PENDING_BLOCK, 0)
        extra = load_i64(at + PENDING_EXTRA, 0)
        place = load_i64(at + PENDING_PLACE, 0)
        g_add = load_f32(at + PENDING_ADD, 0)
        g_full = load_f32(at + PENDING_ERR, 0)
        estimate, error = refine(view, scratch, block, place, extra, g_add, g_full)
        row = np.int64(load_u32(block + numbers_at, place))
        kth = threshold(scratch, True, distances, count)
        waiting = _keep_bounded(view, scratch, waiting, k, row, estimate, error, kth)
    return waiting


@kernel
def threshold(scratch, above, distances, count):
    """Distance beyond which a row cannot be among the k nearest."""
    last = distances.shape[0] - 1
    kth = distances[last] if count > last else _INF
    return min(kth, load_f32(scratch[UPPER], last)) if above else kth


@kernel
def scan_posting(
    view,
    scratch,
    counters,
    ordinal,
    following,
    g_add,
    g_err,
    g_full,
    rows,
    distances,
    count,
    waiting,
    pending,
    seeded,
):
    """Scan all runs of a posting, keeping what its bounds cannot exclude.

    Rows whose estimate does not exceed `seeded` were looked at by `seed`.

    A warm scan waits for memory most, so with every line of a block that is read, that of the
    block at the same place of the posting that `following` names (-1: none) is asked for.
    Survivors wait until there are enough of them, so that their raw vectors arrive while more
    blocks are scanned; so do, before, those whose further bits are to be looked at.

    Returns
    -------
    (int64, int64, int64)
        Rows in the best so far, survivors that wait, and rows that wait to be refined.
    """
    block_bytes = view[BLOCK_BYTES]
    extra_bytes = view[EXTRA_BYTES]
    k = rows.shape[0]
    above = bounds_above(view, k)
    refines = above and extra_bytes > 0
    rerank_at = RERANK_AT_END if above else RERANK_AT
    signs = view[CODEC] == RABITQ  # read here rather than by a call, which takes as long as a block
    words = view[STEPS]
    planes = scratch[PLANES_AT]
    scale = load_f32(scratch[FACTS], PLANE_SCALE)
    shift = load_f32(scratch[FACTS], PLANE_SHIFT)
    target = scratch[ESTIMATES]
    ahead = 0
    ahead_end = 0
    if following >= 0:
        run = load_i64(view[FIRST_RUN], following)
        if run < load_i64(view[FIRST_RUN], following + 1):
            ahead = run_field(view, run, RUN_ADDRESS)
            ahead_end = ahead + run_field(view, run, RUN_BLOCKS) * block_bytes
    for run in range(load_i64(view[FIRST_RUN], ordinal), load_i64(view[FIRST_RUN], ordinal + 1)):
        if not run_intact(view, scratch, counters, run):
            continue
        block = run_field(view, run, RUN_ADDRESS)
        blocks = run_field(view, run, RUN_BLOCKS)
        extra = block + blocks * block_bytes
        counters[COUNT_ROWS] += blocks * BLOCK_ROWS
        for _ in range(blocks):
            if pending >= REFINE_AT:
                waiting = refine_pending(
                    view, scratch, counters, pending, waiting, distances, count
                )
                pending = 0
            if waiting >= rerank_at:
                count = rerank(view, scratch, counters, waiting, rows, distances, count)
                waiting = 0
            kth = threshold(scratch, above, distances, count)
            soon = ahead if ahead < ahead_end else block
            ahead += block_bytes
            if signs:
                mask = rabitq_block(
                    block, planes, words, soon, scale, shift, g_add, g_err, kth, target
                )
            else:
                mask = estimate_block(view, scratch, block, soon, g_add, g_err, kth, target)
            numbers = block + block_bytes - 4 * BLOCK_ROWS
            while mask != np.uint32(0):
                r = lowest_bit(mask)
                mask = np.uint32(mask & (mask - np.uint32(1)))
                estimate = load_f32(target, r)
                if estimate <= seeded:
                    continue
                if refines:
                    own = extra + r * extra_bytes
                    pending = _ask_refined(
                        scratch, pending, block, r, own, extra_bytes, g_add, g_full
                    )
                    continue
                row = np.int64(load_u32(numbers, r))
                if signs:
                    error = load_f32(numbers, r - BLOCK_ROWS) * g_err
                else:
                    error = error_bound(view, scratch, numbers, r, estimate, g_err)
                if not above:
                    waiting = _keep(view, scratch, waiting, row, estimate - error)
                    continue
                waiting = _keep_bounded(view, scratch, waiting, k, row, estimate, error, kth)
                kth = threshold(scratch, above, distances, count)
            block += block_bytes
            extra += BLOCK_ROWS * extra_bytes
    return count, waiting, pending


@kernel
def seed(view, scratch, counters, ordinal, g_add, g_err, g_full, rows, distances):
    """Look closer at the best estimates of a posting, so that a scan starts with a threshold.

    Codes of one bit get exact distances, codes with further bits are refined; others bound from
    above well enough as they are.

    Returns
    -------
    (int64, int64, float32)
        Rows in the best so far, survivors that wait, and the estimate up to which all rows of the
        posting were looked at.
    """
    k = rows.shape[0]
    block_bytes = view[BLOCK_BYTES]
    extra_bytes = view[EXTRA_BYTES]
    refines = bounds_above(view, k)
    estimates = scratch[ESTIMATES]
    found = 0
    if refines and extra_bytes == 0:
        return 0, 0, -_INF
    first = load_i64(view[FIRST_RUN], ordinal)
    end = load_i64(view[FIRST_RUN], ordinal + 1)
    for run in range(first, end):
        blocks = run_field(view, run, RUN_BLOCKS)
        if not run_intact(view, scratch, counters, run):
            return 0, 0, -_INF
        if found + blocks * BLOCK_ROWS > scratch[ESTIMATES_MAX]:
            return 0, 0, -_INF
        block = run_field(view, run, RUN_ADDRESS)
        for _ in range(blocks):
            place = estimates + 4 * found
            estimate_block(view, scratch, block, block, g_add, g_err, _INF, place)
            found += BLOCK_ROWS
            block += block_bytes
    if found <= k + SEED_EXTRA:
        return 0, 0, -_INF
    cut = cut_below(estimates, found, k + SEED_EXTRA)
    count = 0
    waiting = 0
    n = 0
    at = estimates
    for run in range(first, end):
        block = run_field(view, run, RUN_ADDRESS)
        blocks = run_field(view, run, RUN_BLOCKS)
        extra = block + blocks * block_bytes
        for _ in range(blocks):
            mask = mask_within(at, cut)
            numbers = block + block_bytes - 4 * BLOCK_ROWS
            while mask != np.uint32(0):
                r = lowest_bit(mask)
                mask = np.uint32(mask & (mask - np.uint32(1)))
                if refines:
                    own = extra + r * extra_bytes
                    n = _ask_refined(scratch, n, block, r, own, extra_bytes, g_add, g_full)
                else:
                    n = _keep(view, scratch, n, np.int64(load_u32(numbers, r)), -_INF)
            if refines and n >= REFINE_AT:
                waiting = refine_pending(view, scratch, counters, n, waiting, distances, 0)
                n = 0
            elif not refines and n >= RERANK_AT:
                count = rerank(view, scratch, counters, n, rows, distances, count)
                n = 0
            at += 4 * BLOCK_ROWS
            block += block_bytes
            extra += BLOCK_ROWS * extra_bytes
            if waiting >= RERANK_AT_END:
                return 0, waiting, -_INF
    if refines:
        waiting = refine_pending(view, scratch, counters, n, waiting, distances, 0)
    else:
        count = rerank(view, scratch, counters, n, rows, distances, count)
    return count, waiting, cut


@kernel
def rerank_last(view, scratch, counters, waiting, rows, distances, count):
    """Take exact distances of the bounded survivors that are left, in the order of rows.

    Those that no bound excludes any more are asked for together, before the first is read.
    """
    kth = threshold(scratch, True, distances, count)
    heap = scratch[HEAP]
    lowers = scratch[ESTIMATES]
    size = 0
    for i in range(waiting):
        lower = load_f32(scratch[LOWER], i)
        if lower <= kth:
            high = np.uint64(load_u32(scratch[SURVIVORS], i)) << np.uint64(32)
            store_u64(heap, size, high | np.uint64(i))
            store_f32(lowers, i, lower)
            size += 1
    heapify(heap, size)
    n = 0
    previous = np.int64(NO_ROW)
    for taken in range(size):
        key = heap_pop(heap, size - taken)
        row = np.int64(key >> np.uint64(32))
        if row != previous:
            ask_for(view, row)
            n = _push(scratch, n, row, load_f32(lowers, np.int64(key & np.uint64(0xFFFF_FFFF))))
        previous = row
    return rerank(view, scratch, counters, n, rows, distances, count)


assert SURVIVORS_MAX >= RERANK_AT + BLOCK_ROWS
assert PENDING_MAX >= REFINE_AT + BLOCK_ROWS
