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
BLOCK_BYTES: Final = 4  # of 32 rows, as the scan steps through them
CENTRE: Final = 5  # f32 (dim,)
SIGNS: Final = 6  # f32 (rounds, padded)
BITS: Final = 7  # of a code, per dimension
STEPS: Final = 8  # rounds of the block kernel's inner loop
EXTRA_BYTES: Final = 9  # of a row, behind the blocks of its run
GRID_SCALE: Final = 10  # bits of the float32 by which residuals of length one are quantised
GRID_ERROR: Final = 11  # bits of the float32 relative error of its codes
PARTS: Final = 12  # parts of a vector that have a codebook each
PART_DIM: Final = 13
CODEBOOK: Final = 14  # f32 (parts, part dim, 256)
MATRIX: Final = 15  # f32 (parts * part dim, dim), learned rotation; 0 = none
ERROR_SCALE: Final = 16  # bits of the float32 that product-quantised rows' bounds are scaled by
MODEL_FIELDS: Final = 17  # those before: of the codec and what it learned

RAW_FORM: Final = 17  # of raw rows, in extents and in the log
ROW_BYTES: Final = 18  # from one raw row to the next
CHUNKS: Final = 19
CHUNK_TABLE: Final = 20  # i64 (chunks, CHUNK_FIELDS)
LIVE: Final = 21  # u64 bitmap over rows that may be found
FRESH_ROWS: Final = 22  # rows that stand in no posting yet
FRESH_NUMBERS: Final = 23  # u32 (fresh rows,)
FRESH_VECTORS: Final = 24  # u8 (fresh rows, row bytes), where FRESH_ADDRESSES is 0
FRESH_ADDRESSES: Final = 25  # i64 (fresh rows,), when they do not stand one after the other
FRESH_CODES: Final = 26  # beside FRESH_VECTORS their codes, beside FRESH_ADDRESSES i64, of their
# codes or 0; 0 = no row has codes
LOG_ROWS: Final = 27  # rows of the log, of whatever tenant
LOG_NUMBERS: Final = 28  # u32 (log rows,), ascending
LOG_IDS: Final = 29  # i64 (log rows,); 0 = ids are no ints

PAGES: Final = 30  # super-centroids
SUPERS: Final = 31  # f32 (pages, dim)
PAGE_TABLE: Final = 32  # as stored, (pages,): where the code blocks of centroids are
PAGE_CODES: Final = 33
POSTINGS: Final = 34
CENTROIDS: Final = 35  # f32 (postings, dim)
FIRST_RUN: Final = 36  # i64 (postings + 1,)
RUN_TABLE: Final = 37  # i64 (runs, RUN_FIELDS)
LISTED: Final = 38  # rows of an exact scan, or ALL_ROWS, or NO_LIST
LISTED_ROWS: Final = 39  # u32 (listed,), ascending
VIEW_FIELDS: Final = 40

# --- a run, i64 each -------------------------------------------------------------------------
RUN_ADDRESS: Final = 0
RUN_BLOCKS: Final = 1
RUN_SUM: Final = 2  # xxh3
RUN_CHECKED: Final = 3  # u8 at this address, set on the first use
RUN_ROWS: Final = 4
RUN_PART: Final = 5  # place of its extent among those of postings
RUN_PLACE: Final = 6  # in its extent
RUN_FIELDS: Final = 7

# --- an extent of postings, i64 each -----------------------------------------------------------
PART_TENANTS: Final = 0  # u32 (runs,), ascending
PART_RUNS: Final = 1  # as stored, (runs,)
PART_COUNT: Final = 2
PART_BLOCKS: Final = 3  # what offsets of runs count from
PART_CHECKED: Final = 4  # u8 (runs,), set on the first use
PART_FIELDS: Final = 5

# --- bytes of stored runs and pages, as `vecstore.layout.RUN_DTYPE` and `PAGE_DTYPE` ------------
STORED_POSTING: Final = 4
STORED_OFFSET: Final = 8
STORED_ROWS: Final = 16
STORED_BLOCKS: Final = 20
STORED_SUM: Final = 24
STORED_RUN_BYTES: Final = 32
STORED_PAGE_BLOCKS: Final = 8
STORED_PAGE_BYTES: Final = 16

# --- scratch: what is written --------------------------------------------------------------
QUERY: Final = 0  # f32 (dim,): normalised under cosine
ROTATED: Final = 1  # f32 (padded,)
PLANES_AT: Final = 2  # u64 (words, planes)
ESTIMATES: Final = 3  # f32 (estimates max,)
ORDINALS: Final = 4  # u32 (estimates max,)
ESTIMATES_MAX: Final = 5
HEAP: Final = 6  # u64 (estimates max or pages, whichever is more,): sortable distance, ordinal
SURVIVORS: Final = 7  # u32 (survivors max,)
LOWER: Final = 8  # f32 (survivors max,)
HASH: Final = 9  # 64 bytes
FACTS: Final = 10  # f32 (QUERY_FACTS,)
BYTES_AT: Final = 11  # i8 (padded,): the query's coordinates, rounded
PARTED: Final = 12  # f32 (parts * part dim,): the query as product quantisation sees it
TABLES: Final = 13  # f32 (parts, 256): its products with the codebooks
UPPER: Final = 14  # f32 (UPPERS_MAX,): least upper bounds so far, ascending
UPPER_ROWS: Final = 15  # u32 (UPPERS_MAX,)
PENDING: Final = 16  # rows to be refined, PENDING_BYTES each (see below)
NEARBY: Final = 17  # u64 (NEARBY_MAX,): keys of the next postings, a ring
KEYS: Final = 18  # u64 (as HEAP): keys of the postings that were asked for
COLD: Final = 19  # queries for which pages are still to be asked for; no address
FAULTS: Final = 20  # of the process, when they were last looked at; no address
SCRATCH_FIELDS: Final = 21

# --- facts of a query ----------------------------------------------------------------------
PLANE_SCALE: Final = 0  # products with bit planes: value of a step, and what to subtract
PLANE_SHIFT: Final = 1
CODE_SCALE: Final = 2  # the same for the posting codes
CODE_SHIFT: Final = 3
HALF_SUM: Final = 4  # half the sum of the rotated coordinates
LENGTH: Final = 5
ROUNDING: Final = 6  # of the query, as a square to be added to that of its distance
QUERY_FACTS: Final = 7

# --- a row to be refined, bytes from its start -----------------------------------------------
PENDING_BLOCK: Final = 0  # i64, address of the block
PENDING_EXTRA: Final = 8  # i64, address of the row's further bits
PENDING_PLACE: Final = 16  # i64, in the block
PENDING_ADD: Final = 24  # f32, g_add of its posting
PENDING_ERR: Final = 28  # f32, and the factor of the error bound
PENDING_BYTES: Final = 32
PENDING_MAX: Final = 64

NEARBY_MAX: Final = 8
SURVIVORS_MAX: Final = 512
UPPERS_MAX: Final = 256
COLD_QUERIES: Final = 32
"""Queries in a row that read nothing from the disk before a scratch is warm."""
PAGE_TAG: Final = 1 << 62
"""Added to the number of a raw row where a damaged thing is named."""

# --- effort: how much is read, float64 each -------------------------------------------------
PROBES: Final = 0
BOUND: Final = 1
SPREAD: Final = 2
PAGES_PROBED: Final = 3

# --- counters, int64 each --------------------------------------------------------------------
COUNT_POSTINGS: Final = 0
COUNT_ROWS: Final = 1
COUNT_RERANKED: Final = 2
DAMAGED: Final = 3  # 1 + run, or 1 + PAGE_TAG + a row on the page, whose checksum does not hold
COUNT_REFINED: Final = 4
UNLISTED: Final = 5  # queries that need an exact scan over a list that is not there
COUNT_ASKED: Final = 6  # pieces of files that were asked for before they were read
ASKED_BYTES: Final = 7
COUNTERS: Final = 8

# --- status of a search, where it is not the number of a query that cannot be asked ------------
ANSWERED: Final = -1
COUNTED: Final = -2  # DAMAGED or UNLISTED say what kept it from being answered

# --- empty places of a block ---------------------------------------------------------------
NO_ROW: Final = 0xFFFF_FFFF

# --- ids of rows -----------------------------------------------------------------------------
NO_ID: Final = -1  # of NO_ROW
OTHER_ID: Final = -2  # of a row whose id is not found in a checked table of int ids

# --- a chunk of raw rows, i64 each ----------------------------------------------------------
CHUNK_ADDRESS: Final = 0  # of its first row; 0 = no row has a place in extents
CHUNK_START: Final = 1  # bytes from the extent's first row to there
CHUNK_SUMS: Final = 2  # u64, xxh3 of each page of the extent's rows
CHUNK_CHECKED: Final = 3  # u64 bitmap over these pages, set on the first use
CHUNK_ORDER: Final = 4  # u32, places in order of insertion from the first row on; 0 = row number
CHUNK_PLACES: Final = 5  # PLACES_DTYPE; 0 = all rows of the chunk have a place
CHUNK_IDS: Final = 6  # u64, from the first row on: int ids, or ends of others
CHUNK_INTS: Final = 7  # i64 at this address, set when the ids are ints and were checked
CHUNK_FIELDS: Final = 8  # one cache line

# --- lists of an exact scan ------------------------------------------------------------------
ALL_ROWS: Final = -1  # all that have a place in extents
NO_LIST: Final = -2  # not made yet

# --- metrics, as `vecstore.config.Metric` ----------------------------------------------------
L2: Final = 0
COSINE: Final = 1
IP: Final = 2

# --- codecs, as stored -----------------------------------------------------------------------
RABITQ: Final = 1
FLOAT32: Final = 2
FLOAT16: Final = 3
INT8: Final = 4
INT4: Final = 5
PQ: Final = 6

# --- forms of raw rows, as stored ------------------------------------------------------------
RAW_FLOAT32: Final = 0
RAW_FLOAT16: Final = 1
RAW_INT8: Final = 2
