"""From row numbers to places and ids: the table of chunks of raw rows."""

from __future__ import annotations

import numpy as np

from vecstore.config import CHUNK_ROWS
from vecstore.kernels.cache import kernel
from vecstore.kernels.intrinsics import load_i64, load_u32, load_u64, popcount
from vecstore.kernels.view import (
    CHUNK_ADDRESS,
    CHUNK_FIELDS,
    CHUNK_FIRST,
    CHUNK_IDS,
    CHUNK_PLACES,
    CHUNK_TABLE,
    CHUNKS,
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
def int_ids(view, rows, ids):
    """Look up the ids of rows (uint32) as int64: NO_ID for NO_ROW, OTHER_ID where there is none.

    Returns
    -------
    int64
        How many got OTHER_ID: rows in the log, and of extents whose ids were not checked yet or
        are no ints.
    """
    others = 0
    for i in range(rows.shape[0]):
        row = np.int64(rows[i])
        chunk = row // CHUNK_ROWS
        table = np.int64(0)
        if chunk < view[CHUNKS] and chunk_field(view, chunk, CHUNK_ADDRESS) != 0:
            table = load_i64(chunk_field(view, chunk, CHUNK_IDS), 0)
        if table != 0:
            place = chunk_field(view, chunk, CHUNK_FIRST) + place_in_chunk(view, row)
            ids[i] = load_i64(table, place)
        elif row == NO_ROW:
            ids[i] = NO_ID
        else:
            ids[i] = OTHER_ID
            others += 1
    return others
