"""Estimates of the rows of posting blocks, whatever their codec."""

from __future__ import annotations

import numpy as np

from vecstore.config import BLOCK_ROWS
from vecstore.kernels.blocks import (
    float16_block,
    float32_block,
    int4_block,
    int8_block,
    pq_block,
    rabitq_block,
)
from vecstore.kernels.cache import kernel
from vecstore.kernels.distance import centroid_distance, euclidean
from vecstore.kernels.intrinsics import load_f32, load_u32
from vecstore.kernels.planes import code_product
from vecstore.kernels.query import make_query, prepare
from vecstore.kernels.view import (
    BITS,
    BLOCK_BYTES,
    BYTES_AT,
    CODE_SCALE,
    CODE_SHIFT,
    CODEC,
    COSINE,
    DIM,
    ESTIMATES,
    EXTRA_BYTES,
    FACTS,
    FLOAT16,
    FLOAT32,
    HALF_SUM,
    INT4,
    INT8,
    IP,
    LENGTH,
    METRIC,
    NO_ROW,
    PADDED,
    PLANES_AT,
    PQ,
    QUERY,
    RABITQ,
    ROTATED,
    ROUNDING,
    STEPS,
    TABLES,
)

_INF = np.float32(np.inf)
_NO_ROW = np.uint32(NO_ROW)
_SLACK = np.float32(1e-4)
_SLACK_LEAST = np.float32(1e-6)
"""Rounding of a distance that is summed in another order, relative to it and at least."""


@kernel
def _value_block(view, scratch, block, ahead, g_err, threshold, target):
    """Distances of one block of values, and the rows within reach."""
    metric = view[METRIC]
    scale = np.float32(0.5) if metric == COSINE else np.float32(1.0)
    reach = threshold
    error = np.float32(0.0)
    if threshold < _INF:
        reach = threshold + _SLACK * abs(threshold) + _SLACK_LEAST
        error = g_err * value_error(view, scratch, threshold)
    inner = np.int64(metric == IP)
    query = scratch[QUERY]
    square = square_error(metric)
    if view[CODEC] == FLOAT16:
        return float16_block(
            block, query, view[DIM], ahead, inner, scale, reach, error, square, target
        )
    return float32_block(block, query, view[DIM], ahead, inner, scale, reach, error, square, target)


@kernel
def value_error(view, scratch, distance):
    """What the stored length of a row's rounding is to be multiplied with, at a distance.

    By Cauchy and Schwarz the rounding e moves a squared distance by at most
    2 |q - o| |e| + |e|^2, a product by |q| |e|; what is stored for products covers the rounding
    of their sums too.
    """
    metric = view[METRIC]
    if metric == IP:
        return load_f32(scratch[FACTS], LENGTH)
    squared = max(np.float32(0.0), distance)
    return np.sqrt(np.float32(2.0) * squared if metric == COSINE else squared)


@kernel
def square_error(metric):
    """What the square of the stored length is to be multiplied with."""
    if metric == IP:
        return np.float32(0.0)
    return np.float32(0.5) if metric == COSINE else np.float32(0.25)


@kernel
def estimate_block(view, scratch, block, ahead, g_add, g_err, threshold, target):
    """Estimates of one block in `target`; bits of the rows that may lie within `threshold`.

    For blocks of values `g_err` is the share of the bound asked for, for codes that share times
    the query's distance to the centroid.  The block at `ahead` is asked for meanwhile; it may be
    this one.
    """
    codec = view[CODEC]
    count = view[STEPS]
    scale = load_f32(scratch[FACTS], CODE_SCALE)
    shift = load_f32(scratch[FACTS], CODE_SHIFT)
    if codec == RABITQ:
        query = scratch[PLANES_AT]
        return rabitq_block(
            block, query, count, ahead, scale, shift, g_add, g_err, threshold, target
        )
    if codec == INT8:
        query = scratch[BYTES_AT]
        return int8_block(block, query, count, ahead, scale, shift, g_add, g_err, threshold, target)
    if codec == INT4:
        query = scratch[BYTES_AT]
        return int4_block(block, query, count, ahead, scale, shift, g_add, g_err, threshold, target)
    if codec == PQ:
        query = scratch[TABLES]
        return pq_block(block, query, count, ahead, scale, shift, g_add, g_err, threshold, target)
    return _value_block(view, scratch, block, ahead, g_err, threshold, target)


@kernel
def refine(view, scratch, block, place, extra, g_add, g_err):
    """Estimate of a row from all bits of its code, and the error bound.

    Parameters
    ----------
    block, place : int64
        Where the row's sign bits are.
    extra : int64
        Address of its further bits and factors.
    """
    words = view[PADDED] // 64
    signs = block + 8 * place
    query = scratch[ROTATED]
    dot = code_product(signs, 8 * BLOCK_ROWS, extra, view[BITS] - 1, words, query)
    shift = np.float32((1 << view[BITS]) - 1) * load_f32(scratch[FACTS], HALF_SUM)
    factors = extra + view[EXTRA_BYTES] - 12
    estimate = load_f32(factors, 0) + g_add + load_f32(factors, 1) * (dot - shift)
    return estimate, load_f32(factors, 2) * g_err


@kernel
def error_bound(view, scratch, numbers, place, estimate, g_err):
    """Error bound of a row of a block whose row numbers stand at `numbers`."""
    if view[CODEC] in (FLOAT16, FLOAT32):
        length = load_f32(numbers, place - BLOCK_ROWS)
        slack = _SLACK * abs(estimate) + _SLACK_LEAST
        near = g_err * value_error(view, scratch, estimate)
        return length * (near + square_error(view[METRIC]) * length) + slack
    return load_f32(numbers, place - BLOCK_ROWS) * g_err


@kernel
def posting_terms(view, scratch, centroid, bound):
    """The query's part of the estimates of a posting: g_add and both of `error_factors`."""
    g_add = centroid_distance(view[METRIC], scratch[QUERY], centroid, view[DIM])
    g_err, g_full = error_factors(view, scratch, g_add, centroid, bound)
    return g_add, g_err, g_full


@kernel
def error_factors(view, scratch, g_add, centroid, bound):
    """Factors of a posting's error bounds for a query at distance `g_add` from its centroid.

    Blocks are multiplied with a query that is itself rounded, to bit planes or bytes.  Its error
    and that of the codes are independent, so their squares add up; in a tight cluster far from
    the collection's centre it is the larger one.

    Returns
    -------
    (float32, float32)
        For estimates of blocks, and for those that `refine` makes with the query as it is.
    """
    if view[CODEC] in (FLOAT16, FLOAT32):
        return bound, bound
    apart = euclidean(view[METRIC], scratch[QUERY], g_add, centroid, view[DIM])
    rounding = load_f32(scratch[FACTS], ROUNDING)
    return bound * np.sqrt(apart * apart + rounding), bound * apart


@kernel
def estimate_run(view, scratch, queries, centroid, run, blocks, bound, estimates, errors):
    """Estimates and error bounds of all rows of one run, for several queries.

    Parameters
    ----------
    view, scratch : int64 arrays (see `vecstore.kernels.view`)
    queries : float32 (n, dim), C-contiguous, raw
    centroid, run : int64
        Addresses of float32 (dim,) and of the run.
    blocks : int64
    bound : float32
        Share of the error bound.
    estimates, errors : float32 (n, 32 * blocks)
        +inf in empty places.

    Returns
    -------
    int64
        -1, or the number of the first query that `prepare` refuses.
    """
    extra_bytes = view[EXTRA_BYTES]
    block_bytes = view[BLOCK_BYTES]
    room = scratch[ESTIMATES]
    for i in range(queries.shape[0]):
        source = queries.ctypes.data + 4 * view[DIM] * i
        if prepare(view[METRIC], source, view[DIM], scratch[QUERY]) != 0:
            return i
        make_query(view, scratch)
        g_add, g_err, g_full = posting_terms(view, scratch, centroid, bound)
        for b in range(blocks):
            block = run + b * block_bytes
            estimate_block(view, scratch, block, block, g_add, g_err, _INF, room)
            numbers = block + block_bytes - 4 * BLOCK_ROWS
            for place in range(BLOCK_ROWS):
                at = b * BLOCK_ROWS + place
                estimate = load_f32(room, place)
                error = error_bound(view, scratch, numbers, place, estimate, g_err)
                if load_u32(numbers, place) == _NO_ROW:
                    estimate, error = _INF, _INF
                elif extra_bytes > 0:
                    extra = run + blocks * block_bytes + at * extra_bytes
                    estimate, error = refine(view, scratch, block, place, extra, g_add, g_full)
                estimates[i, at] = estimate
                errors[i, at] = error
    return -1
