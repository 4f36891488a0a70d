"""Raw rows by number: liveness, addresses, first-use checks, exact distances, full scans."""

from __future__ import annotations

import numpy as np

from vecstore.config import CHUNK_ROWS
from vecstore.kernels.cache import kernel
from vecstore.kernels.distance import exact_distance
from vecstore.kernels.intrinsics import load_f32, load_i64, load_u32, load_u64, store_i64
from vecstore.kernels.topk import offer
from vecstore.kernels.view import (
    CHUNK_ADDRESS,
    CHUNK_CHECKED,
    CHUNKS,
    COUNT_RERANKED,
    COUNT_UNCHECKED,
    DIM,
    LIVE,
    LOG_NUMBERS,
    LOG_ROWS,
    LOG_VECTORS,
    LOWER,
    METRIC,
    PAGE_TAG,
    QUERY,
    SURVIVORS,
    UNCHECKED,
    UNCHECKED_MAX,
)

_INF = np.float32(np.inf)
_PAGE_BYTES = 4096


@kernel
def is_live(view, row):  # type: ignore[no-untyped-def]
    """Tell whether a row number from disk is a live row of the snapshot."""
    if row >= view[CHUNKS] * CHUNK_ROWS:
        return False
    word = load_u64(view[LIVE], row >> 6)
    return (word >> np.uint64(row & 63)) & np.uint64(1) != np.uint64(0)


@kernel
def note_unchecked(scratch, counters, thing):  # type: ignore[no-untyped-def]
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
            note_unchecked(scratch, counters, page + PAGE_TAG)


@kernel
def rerank(  # type: ignore[no-untyped-def]
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
def scan_log(view, scratch, rows, distances, count):  # type: ignore[no-untyped-def]
    """Exact distances of all fresh rows."""
    dim = view[DIM]
    metric = view[METRIC]
    last = rows.shape[0] - 1
    for i in range(view[LOG_ROWS]):
        row = np.int64(load_u32(view[LOG_NUMBERS], i))
        if is_live(view, row):
            distance = exact_distance(metric, scratch[QUERY], view[LOG_VECTORS] + 4 * dim * i, dim)
            if count <= last or distance <= distances[last]:
                count = offer(view, rows, distances, count, np.uint32(row), distance)
    return count


@kernel
def scan_raw(view, scratch, counters, rows, distances, count):  # type: ignore[no-untyped-def]
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
