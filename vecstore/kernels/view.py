"""Fields of the two address tables that kernels take.

A *view* describes everything one query of one tenant may read: addresses and sizes, int64 each,
made once per snapshot.  A *scratch* holds the addresses of a caller's own work memory.  One
array each keeps the number of kernel arguments, and so the cost of a call, small.
"""

from __future__ import annotations

from typing import Final

# --- view: what is read --------------------------------------------------------------------
DIM: Final = 0
PADDED: Final = 1
METRIC: Final = 2
CODEC: Final = 3
BLOCK_BYTES: Final = 4
CENTRE: Final = 5  # f32 (dim,)
SIGNS: Final = 6  # f32 (rounds, padded)
PAGES: Final = 7  # super-centroids
SUPERS: Final = 8  # f32 (pages, dim)
PAGE_ADDRESS: Final = 9  # i64 (pages,): code blocks of centroids
PAGE_BLOCKS: Final = 10  # i64 (pages,)
POSTINGS: Final = 11
CENTROIDS: Final = 12  # f32 (postings, dim)
FIRST_RUN: Final = 13  # i64 (postings + 1,)
RUN_ADDRESS: Final = 14  # i64 (runs,)
RUN_BLOCKS: Final = 15  # i64 (runs,)
RUN_SUM: Final = 16  # u64 (runs,): xxh3
RUN_CHECKED: Final = 17  # u64 bitmap over runs, set on the first use
CHUNKS: Final = 18
CHUNK_ADDRESS: Final = 19  # i64 (chunks,): raw rows; 0 = none
CHUNK_ORDER: Final = 20  # i64 (chunks,): u32 places in order of insertion; 0 = row number
CHUNK_SUMS: Final = 21  # i64 (chunks,): u64 xxh3 of each page of raw rows
PAGE_CHECKED: Final = 22  # u64 bitmap over pages of raw rows, set on the first use
LIVE: Final = 23  # u64 bitmap over rows
LOG_ROWS: Final = 24  # fresh rows
LOG_NUMBERS: Final = 25  # u32 (fresh rows,)
LOG_VECTORS: Final = 26  # u8 (fresh rows, row bytes)
RAW_FORM: Final = 27  # of raw rows, in extents and in the log
ROW_BYTES: Final = 28  # from one raw row to the next
VIEW_FIELDS: Final = 29

# --- scratch: what is written --------------------------------------------------------------
QUERY: Final = 0  # f32 (dim,): normalised under cosine
ROTATED: Final = 1  # f32 (padded,)
PLANES_AT: Final = 2  # u64 (words, planes)
ESTIMATES: Final = 3  # f32 (estimates max,)
ORDINALS: Final = 4  # u32 (estimates max,)
ESTIMATES_MAX: Final = 5
HEAP: Final = 6  # u64 (heap max,): sortable distance, ordinal
HEAP_MAX: Final = 7
SURVIVORS: Final = 8  # u32 (survivors max,)
LOWER: Final = 9  # f32 (survivors max,)
HASH: Final = 10  # 64 bytes
HISTOGRAM: Final = 11  # i64 (BINS,)
SCRATCH_FIELDS: Final = 12

SURVIVORS_MAX: Final = 64
BINS: Final = 512
PAGE_TAG: Final = 1 << 62
"""Added to the number of a page of raw rows where a damaged thing is named."""

# --- effort: how much is read, float64 each -------------------------------------------------
PROBES: Final = 0
BOUND: Final = 1
SPREAD: Final = 2
PAGES_PROBED: Final = 3

# --- counters, int64 each --------------------------------------------------------------------
COUNT_POSTINGS: Final = 0
COUNT_ROWS: Final = 1
COUNT_RERANKED: Final = 2
DAMAGED: Final = 3  # 1 + run, or 1 + page + PAGE_TAG, whose checksum does not hold
COUNTERS: Final = 4

# --- empty places of a block ---------------------------------------------------------------
NO_ROW: Final = 0xFFFF_FFFF

# --- metrics, as `vecstore.config.Metric` ----------------------------------------------------
L2: Final = 0
COSINE: Final = 1
IP: Final = 2

# --- codecs, as stored -----------------------------------------------------------------------
RABITQ: Final = 1
FLOAT32: Final = 2

# --- forms of raw rows, as stored ------------------------------------------------------------
RAW_FLOAT32: Final = 0
RAW_FLOAT16: Final = 1
RAW_INT8: Final = 2
