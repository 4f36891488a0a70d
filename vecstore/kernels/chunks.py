"""From row numbers to places and ids: the table of chunks of raw rows."""

from __future__ import annotations

import numpy as np

from vecstore.config import CHUNK_ROWS
from vecstore.kernels.cache import kernel
from vecstore.kernels.intrinsics import load_i64, load_u32, load_u64, popcount
from vecstore.kernels.view import (
    CHUNK_ADDRESS,
    CHUNK_FIELDS,
    CHUNK_IDS,
    CHUNK_INTS,
    CHUNK_PLACES,
    CHUNK_TABLE,
    CHUNKS,
    LOG_IDS,
    LOG_NUMBERS,
    LOG_ROWS,
    NO_ID,
    NO_ROW,
    OTHER_ID,
)


@kernel
def chunk_field(view, chunk, field):
    """One of the facts of a chunk of raw rows."""
    return load_i64(view[CHUNK_TABLE], chunk * CHUNK_FIELDS + field)


@kernel
def place_in_chunk(view, row):
    """Place of a row among those of its chunk that have one."""
    chunk = row // CHUNK_ROWS
    row -= chunk * CHUNK_ROWS
    places = chunk_field(view, chunk, CHUNK_PLACES)
    if places == 0:
        return row
    word = row >> 6
    before = load_u64(places, word) & ((np.uint64(1) << np.uint64(row & 63)) - np.uint64(1))
    ranks = places + CHUNK_ROWS // 8
    return np.int64(load_u32(ranks, word)) + popcount(before)


@kernel
def _place_in_log(view, row):
    """Place of a row among those of the log with int ids, or -1."""
    if view[LOG_IDS] == 0:
        return np.int64(-1)
    low, high = np.int64(0), view[LOG_ROWS]
    while low < high:
        middle = (low + high) // 2
        if np.int64(load_u32(view[LOG_NUMBERS], middle)) < row:
            low = middle + 1
        else:
            high = middle
    if low < view[LOG_ROWS] and np.int64(load_u32(view[LOG_NUMBERS], low)) == row:
        return low
    return np.int64(-1)


@kernel
def int_ids(view, rows, ids):
    """Look up the ids of rows (uint32) as int64: NO_ID for NO_ROW, OTHER_ID where there is none.

    Returns
    -------
    int64
        How many got OTHER_ID: rows of extents whose ids were not checked yet, or are no ints.
    """
    others = 0
    for i in range(rows.shape[0]):
        row = np.int64(rows[i])
        chunk = row // CHUNK_ROWS
        known = np.int64(0)
        if chunk < view[CHUNKS] and chunk_field(view, chunk, CHUNK_ADDRESS) != 0:
            known = load_i64(chunk_field(view, chunk, CHUNK_INTS), 0)
        if known != 0:
            ids[i] = load_i64(chunk_field(view, chunk, CHUNK_IDS), place_in_chunk(view, row))
            continue
        if row == NO_ROW:
            ids[i] = NO_ID
            continue
        place = _place_in_log(view, row)
        if place >= 0:
            ids[i] = load_i64(view[LOG_IDS], place)
        else:
            ids[i] = OTHER_ID
            others += 1
    return others
