"""Raw rows by number: liveness, addresses, first-use checks, exact distances, full scans."""

from __future__ import annotations

import numpy as np

from vecstore.config import BLOCK_ROWS, CHUNK_ROWS
from vecstore.kernels.cache import kernel
from vecstore.kernels.checksum import xxh3
from vecstore.kernels.chunks import chunk_field, place_in_chunk
from vecstore.kernels.disk import ask, ask_with, blocks_read, pages_of
from vecstore.kernels.distance import exact_distance
from vecstore.kernels.intrinsics import (
    load_f32,
    load_i64,
    load_u8,
    load_u32,
    load_u64,
    prefetch,
    store_u8,
    store_u64,
)
from vecstore.kernels.topk import offer
from vecstore.kernels.view import (
    ALL_ROWS,
    BLOCK_BYTES,
    CHUNK_ADDRESS,
    CHUNK_CHECKED,
    CHUNK_IDS,
    CHUNK_START,
    CHUNK_SUMS,
    CHUNKS,
    COLD,
    COUNT_RERANKED,
    DAMAGED,
    DIM,
    EXTRA_BYTES,
    HASH,
    LISTED,
    LISTED_ROWS,
    LIVE,
    LOWER,
    METRIC,
    PAGE_TAG,
    QUERY,
    RAW_FORM,
    ROW_BYTES,
    RUN_ADDRESS,
    RUN_BLOCKS,
    RUN_CHECKED,
    RUN_FIELDS,
    RUN_SUM,
    RUN_TABLE,
    SURVIVORS,
)

_INF = np.float32(np.inf)
_PAGE_BYTES = 4096
_LINE_BYTES = 64
_LINES_MAX = 16
"""Cache lines of a raw row that are asked for ahead; the processor's streamer takes the rest."""
_WINDOW = 256
"""Rows of a list that the disk is asked for at once."""
_AHEAD = 4
"""Rows that an exact scan over a list asks for ahead."""


@kernel
def _is_set(bitmap, place):
    return (load_u64(bitmap, place >> 6) >> np.uint64(place & 63)) & np.uint64(1) != np.uint64(0)


@kernel
def is_live(view, row):
    """Tell whether a row number from disk is a live row of the snapshot."""
    if row >= view[CHUNKS] * CHUNK_ROWS:
        return False
    return _is_set(view[LIVE], row)


@kernel
def _set(bitmap, place):
    """Set a bit; of two threads at once one may lose, and its thing is checked once more."""
    word = load_u64(bitmap, place >> 6)
    store_u64(bitmap, place >> 6, word | (np.uint64(1) << np.uint64(place & 63)))


@kernel
def run_block_bytes(view):
    """Bytes of a run for each of its blocks: the block, and what stands behind for its rows."""
    return view[BLOCK_BYTES] + BLOCK_ROWS * view[EXTRA_BYTES]


@kernel
def run_field(view, run, field):
    """One of the facts of a run."""
    return load_i64(view[RUN_TABLE], run * RUN_FIELDS + field)


@kernel
def run_intact(view, scratch, counters, run):
    """Hold a run against its checksum on its first use; note it when it is damaged."""
    checked = run_field(view, run, RUN_CHECKED)
    if load_u8(checked, 0) != np.uint8(0):
        return True
    size = run_field(view, run, RUN_BLOCKS) * run_block_bytes(view)
    address = run_field(view, run, RUN_ADDRESS)
    if scratch[COLD] == 0:
        ask(counters, *pages_of(address, size))
    found = xxh3(address, size, scratch[HASH])
    if np.int64(found) == run_field(view, run, RUN_SUM):
        store_u8(checked, 0, np.uint8(1))
        return True
    counters[DAMAGED] = run + 1
    return False


@kernel
def raw_address(view, row):
    """Address of a raw row in an extent, or 0 when it stands in the row log."""
    base = chunk_field(view, row // CHUNK_ROWS, CHUNK_ADDRESS)
    if base == 0:
        return base
    return base + place_in_chunk(view, row) * view[ROW_BYTES]


@kernel
def ask_for(view, row):
    """Ask for the first lines of a raw row, so that they arrive before it is read."""
    address = raw_address(view, row)
    for line in range(min(_LINES_MAX, view[ROW_BYTES] // _LINE_BYTES + 1)):
        prefetch(address + line * _LINE_BYTES)


@kernel
def ask_with_row(view, counters, start, end, row):
    """Ask the disk for a raw row together with the pages from `start` to `end` (see `ask_with`)."""
    chunk = row // CHUNK_ROWS
    base = chunk_field(view, chunk, CHUNK_ADDRESS)
    if base == 0:
        return start, end
    place = place_in_chunk(view, row) * view[ROW_BYTES]
    page = (chunk_field(view, chunk, CHUNK_START) + place) // _PAGE_BYTES
    if not _is_set(chunk_field(view, chunk, CHUNK_CHECKED), page):
        ask(counters, *pages_of(chunk_field(view, chunk, CHUNK_SUMS) + 8 * page, 8))
    return ask_with(counters, start, end, base + place, view[ROW_BYTES])


@kernel
def ask_for_ids(view, counters, rows, count):
    """Ask the disk for the ids of `count` rows whose numbers (uint32) stand at `rows`."""
    start = end = np.int64(0)
    for i in range(count):
        row = np.int64(load_u32(rows, i))
        chunk = row // CHUNK_ROWS
        if chunk_field(view, chunk, CHUNK_ADDRESS) != 0:
            address = chunk_field(view, chunk, CHUNK_IDS) + 8 * place_in_chunk(view, row)
            start, end = ask_with(counters, start, end, address, 8)
    ask(counters, start, end)


@kernel
def _ask_for_rows(view, counters, rows, first, end):
    """Ask the disk for rows `first` to `end` - 1 of those whose numbers stand at `rows`."""
    start = stop = np.int64(0)
    for i in range(first, end):
        row = np.int64(load_u32(rows, i))
        if is_live(view, row):
            start, stop = ask_with_row(view, counters, start, stop, row)
    ask(counters, start, stop)


@kernel
def _ask_for_chunk(view, counters, chunk):
    """Ask the disk for all rows of a chunk."""
    if chunk < view[CHUNKS] and chunk_field(view, chunk, CHUNK_ADDRESS) != 0:
        address = raw_address(view, chunk * CHUNK_ROWS)
        size = raw_address(view, (chunk + 1) * CHUNK_ROWS - 1) + view[ROW_BYTES] - address
        ask(counters, *pages_of(address, size))


@kernel
def _ask_for_survivors(view, scratch, counters, n, kth):
    """Ask the disk for the raw rows of those survivors that `kth` does not exclude."""
    start = end = np.int64(0)
    for i in range(n):
        if load_f32(scratch[LOWER], i) <= kth:
            row = np.int64(load_u32(scratch[SURVIVORS], i))
            start, end = ask_with_row(view, counters, start, end, row)
    ask(counters, start, end)


@kernel
def row_intact(view, scratch, counters, row):
    """Hold the pages of a raw row in an extent against their checksums on their first use."""
    stride = view[ROW_BYTES]
    chunk = row // CHUNK_ROWS
    at = chunk_field(view, chunk, CHUNK_START)
    rows = chunk_field(view, chunk, CHUNK_ADDRESS) - at
    checked = chunk_field(view, chunk, CHUNK_CHECKED)
    start = at + place_in_chunk(view, row) * stride
    intact = True
    for page in range(start // _PAGE_BYTES, (start + stride - 1) // _PAGE_BYTES + 1):
        if not _is_set(checked, page):
            expected = load_u64(chunk_field(view, chunk, CHUNK_SUMS), page)
            if xxh3(rows + page * _PAGE_BYTES, _PAGE_BYTES, scratch[HASH]) == expected:
                _set(checked, page)
            else:
                counters[DAMAGED] = row + PAGE_TAG + 1
                intact = False
    return intact


@kernel
def rows_intact(view, scratch, counters, rows):
    """Check the pages of many rows (uint32); rows in the log have none."""
    met = blocks_read()
    for i in range(rows.shape[0]):
        if i % _WINDOW == 0:
            read = blocks_read()
            if read != met:
                met = read
                end = min(rows.shape[0], i + _WINDOW)
                _ask_for_rows(view, counters, rows.ctypes.data, i, end)
        row = np.int64(rows[i])
        if raw_address(view, row) != 0:
            row_intact(view, scratch, counters, row)


@kernel
def rerank(view, scratch, counters, n, rows, distances, count):
    """Exact distances of the `n` survivors that their bounds still cannot exclude."""
    dim = view[DIM]
    form = view[RAW_FORM]
    metric = view[METRIC]
    last = rows.shape[0] - 1
    if scratch[COLD] != 0:
        _ask_for_survivors(view, scratch, counters, n, distances[last] if count > last else _INF)
    for i in range(n):
        kth = distances[last] if count > last else _INF
        if load_f32(scratch[LOWER], i) > kth:
            continue
        row = np.int64(load_u32(scratch[SURVIVORS], i))
        address = raw_address(view, row)
        if address == 0 or not row_intact(view, scratch, counters, row):
            continue
        counters[COUNT_RERANKED] += 1
        distance = exact_distance(form, metric, scratch[QUERY], address, dim)
        if distance <= kth:
            count = offer(view, rows, distances, count, np.uint32(row), distance)
    return count


@kernel
def _scan_row(view, scratch, counters, row, rows, distances, count):
    """Exact distance of a row in an extent."""
    if not is_live(view, row) or not row_intact(view, scratch, counters, row):
        return count
    counters[COUNT_RERANKED] += 1
    address = raw_address(view, row)
    distance = exact_distance(view[RAW_FORM], view[METRIC], scratch[QUERY], address, view[DIM])
    last = rows.shape[0] - 1
    if count <= last or distance <= distances[last]:
        count = offer(view, rows, distances, count, np.uint32(row), distance)
    return count


@kernel
def scan_exactly(view, scratch, counters, rows, distances, count):
    """Exact distances of all live rows in extents: those listed, or all there are."""
    listed = view[LISTED]
    if listed != ALL_ROWS:
        for i in range(listed):
            if scratch[COLD] != 0 and i % _WINDOW == 0:
                following = i + _WINDOW if i > 0 else i
                end = min(listed, i + 2 * _WINDOW)
                _ask_for_rows(view, counters, view[LISTED_ROWS], following, end)
            if i + _AHEAD < listed:
                ahead = np.int64(load_u32(view[LISTED_ROWS], i + _AHEAD))
                if is_live(view, ahead):
                    ask_for(view, ahead)
            own = np.int64(load_u32(view[LISTED_ROWS], i))
            if is_live(view, own) and raw_address(view, own) != 0:
                count = _scan_row(view, scratch, counters, own, rows, distances, count)
        return count
    if scratch[COLD] != 0:
        _ask_for_chunk(view, counters, 0)
    for chunk in range(view[CHUNKS]):
        if scratch[COLD] != 0:
            _ask_for_chunk(view, counters, chunk + 1)
        if chunk_field(view, chunk, CHUNK_ADDRESS) != 0:
            for row in range(chunk * CHUNK_ROWS, (chunk + 1) * CHUNK_ROWS):
                count = _scan_row(view, scratch, counters, row, rows, distances, count)
    return count
