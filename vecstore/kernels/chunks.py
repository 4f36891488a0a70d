"""From row numbers to places: the table of chunks of raw rows."""

from __future__ import annotations

import numpy as np

from vecstore.config import CHUNK_ROWS
from vecstore.kernels.cache import kernel
from vecstore.kernels.intrinsics import load_i64, load_u32, load_u64, popcount
from vecstore.kernels.view import CHUNK_FIELDS, CHUNK_PLACES, CHUNK_TABLE


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
