"""Scanning posting lists block by block, keeping what its bounds cannot exclude."""

from __future__ import annotations

import numpy as np

from vecstore.config import BLOCK_ROWS
from vecstore.kernels.cache import kernel
from vecstore.kernels.intrinsics import (
    float32_block,
    load_f32,
    load_i64,
    load_u32,
    lowest_bit,
    mask_within,
    prefetch,
    rabitq_block,
    store_f32,
    store_u32,
)
from vecstore.kernels.rows import is_live, raw_address, rerank, run_intact
from vecstore.kernels.topk import histogram_cut
from vecstore.kernels.view import (
    BLOCK_BYTES,
    CODEC,
    COSINE,
    COUNT_ROWS,
    DIM,
    ESTIMATES,
    ESTIMATES_MAX,
    FIRST_RUN,
    HISTOGRAM,
    IP,
    LOWER,
    METRIC,
    NO_ROW,
    PADDED,
    PLANES_AT,
    QUERY,
    RABITQ,
    ROW_BYTES,
    RUN_ADDRESS,
    RUN_BLOCKS,
    SURVIVORS,
    SURVIVORS_MAX,
)

_INF = np.float32(np.inf)
_NO_ROW = np.uint32(NO_ROW)
_LINE_BYTES = 64
_LINES_MAX = 16
"""Cache lines of a raw row that are asked for ahead; the processor's streamer takes the rest."""
RERANK_AT = 16
"""Survivors that wait before their exact distances are taken."""
SEED_EXTRA = 6
"""Rows beyond k that are reranked first, to get a threshold before the scan."""


@kernel
def _keep(view, scratch, n, row, lower):
    """Put a live row on the list of survivors and ask for its raw vector."""
    if not is_live(view, row):
        return n
    address = raw_address(view, row)
    lines = min(_LINES_MAX, view[ROW_BYTES] // _LINE_BYTES + 1)
    for line in range(lines):
        prefetch(address + line * _LINE_BYTES)
    store_u32(scratch[SURVIVORS], n, np.uint32(row))
    store_f32(scratch[LOWER], n, lower)
    return n + 1


@kernel
def _float32_block(view, query, block, target):
    """Distances of one block of 32 rows stored as float32, rows side by side."""
    dim = view[DIM]
    float32_block(block, query, dim, np.int64(view[METRIC] == IP), target)
    scale = np.float32(0.5) if view[METRIC] == COSINE else np.float32(1.0)
    for r in range(BLOCK_ROWS):
        empty = load_u32(block, dim * BLOCK_ROWS + r) == _NO_ROW
        store_f32(target, r, _INF if empty else scale * load_f32(target, r))


@kernel
def _estimate_block(view, scratch, block, scale, shift, g_add, g_err, threshold, target):
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
def scan_posting(
    view,
    scratch,
    counters,
    ordinal,
    following,
    scale,
    shift,
    g_add,
    g_err,
    rows,
    distances,
    count,
    waiting,
):
    """Scan all runs of a posting, keeping what its bounds cannot exclude.

    A warm scan waits for memory most, so while a block is scanned, the one at the same place of
    the posting that `following` names (-1: none) is asked for.  Survivors wait until there are
    `RERANK_AT` of them, so that their raw vectors arrive while more blocks are scanned.

    Returns
    -------
    (int64, int64)
        Rows in the best so far, and survivors that wait.
    """
    block_bytes = view[BLOCK_BYTES]
    last = rows.shape[0] - 1
    ahead = 0
    ahead_end = 0
    if following >= 0:
        run = load_i64(view[FIRST_RUN], following)
        if run < load_i64(view[FIRST_RUN], following + 1):
            ahead = load_i64(view[RUN_ADDRESS], run)
            ahead_end = ahead + load_i64(view[RUN_BLOCKS], run) * block_bytes
    for run in range(load_i64(view[FIRST_RUN], ordinal), load_i64(view[FIRST_RUN], ordinal + 1)):
        if not run_intact(view, scratch, counters, run):
            continue
        block = load_i64(view[RUN_ADDRESS], run)
        blocks = load_i64(view[RUN_BLOCKS], run)
        counters[COUNT_ROWS] += blocks * BLOCK_ROWS
        for _ in range(blocks):
            if ahead < ahead_end:
                for line in range(ahead, ahead + block_bytes, _LINE_BYTES):
                    prefetch(line)
                ahead += block_bytes
            if waiting >= RERANK_AT:
                count = rerank(view, scratch, counters, waiting, rows, distances, count)
                waiting = 0
            kth = distances[last] if count > last else _INF
            target = scratch[ESTIMATES]
            mask = _estimate_block(view, scratch, block, scale, shift, g_add, g_err, kth, target)
            numbers = block + block_bytes - 4 * BLOCK_ROWS
            while mask != np.uint32(0):
                r = lowest_bit(mask)
                mask = np.uint32(mask & (mask - np.uint32(1)))
                lower = load_f32(target, r)
                if view[CODEC] == RABITQ:
                    lower -= load_f32(numbers, r - BLOCK_ROWS) * g_err
                waiting = _keep(view, scratch, waiting, np.int64(load_u32(numbers, r)), lower)
            block += block_bytes
    return count, waiting


@kernel
def seed(view, scratch, counters, ordinal, scale, shift, g_add, g_err, rows, distances):
    """Rerank the best estimates of the nearest posting, so that a scan starts with a threshold."""
    k = rows.shape[0]
    block_bytes = view[BLOCK_BYTES]
    estimates = scratch[ESTIMATES]
    found = 0
    first = load_i64(view[FIRST_RUN], ordinal)
    end = load_i64(view[FIRST_RUN], ordinal + 1)
    for run in range(first, end):
        if not run_intact(view, scratch, counters, run):
            return 0
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
    cut = histogram_cut(estimates, found, k + SEED_EXTRA, scratch[HISTOGRAM])
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
                if n >= RERANK_AT:
                    count = rerank(view, scratch, counters, n, rows, distances, count)
                    n = 0
                at += BLOCK_ROWS
                block += block_bytes
    return rerank(view, scratch, counters, n, rows, distances, count)


assert SURVIVORS_MAX >= RERANK_AT + BLOCK_ROWS
