"""Turning rows into code blocks, and gathering rows by address."""

from __future__ import annotations

import numpy as np

from vecstore.config import BLOCK_ROWS
from vecstore.kernels.cache import kernel
from vecstore.kernels.distance import exact_distance
from vecstore.kernels.intrinsics import load_f32, store_f32, store_u32
from vecstore.kernels.rabitq import encode_row, prepare, rotate_centred
from vecstore.kernels.raw import decode_row
from vecstore.kernels.view import (
    BLOCK_BYTES,
    CENTRE,
    CODEC,
    DIM,
    L2,
    METRIC,
    NO_ROW,
    PADDED,
    RABITQ,
    RAW_FORM,
    SIGNS,
)

_EMPTY_F_ADD = np.float32(np.inf)
_NO_ROW = np.uint32(NO_ROW)


@kernel
def _empty_places(view, block, first):
    """Mark places `first` to 31 of a block as empty."""
    numbers = block + view[BLOCK_BYTES] - 4 * BLOCK_ROWS
    for place in range(first, BLOCK_ROWS):
        store_u32(numbers, place, _NO_ROW)
        if view[CODEC] == RABITQ:
            store_f32(numbers, place - 3 * BLOCK_ROWS, _EMPTY_F_ADD)


@kernel
def encode_runs(view, centroids, raw, first, addresses, numbers, begin, end, offsets, target):
    """Encode the rows of runs `begin` to `end` - 1 into blocks.

    Parameters
    ----------
    view : int64 array (see `vecstore.kernels.view`)
        DIM, PADDED, METRIC, CODEC, BLOCK_BYTES, CENTRE, SIGNS and RAW_FORM are used.
    centroids : float32 (runs, dim)
    raw : bool
        The rows are raw and get normalised under cosine; otherwise they are used as they are.
    first : int64 (runs + 1,)
        Rows of run i are first[i] to first[i + 1] - 1.
    addresses : int64 (rows,)
        Addresses of rows in the view's form.
    numbers : uint32 (rows,)
        Row numbers to store.
    begin, end : int64
    offsets : int64 (runs,)
        Place of each run, from `target`.
    target : int64
        Address of zeroed memory.
    """
    dim = view[DIM]
    padded = view[PADDED]
    metric = view[METRIC]
    block_bytes = view[BLOCK_BYTES]
    keep_prepared = np.empty(dim, np.float32)
    keep_rotated = np.empty(padded, np.float32)
    keep_centroid = np.empty(padded, np.float32)
    prepared = keep_prepared.ctypes.data
    rotated = keep_rotated.ctypes.data
    centroid_rotated = keep_centroid.ctypes.data
    for run in range(begin, end):
        centroid = centroids.ctypes.data + 4 * dim * run
        rotate_centred(centroid, view[CENTRE], dim, padded, view[SIGNS], centroid_rotated)
        block = target + offsets[run]
        place = 0
        for i in range(first[run], first[run + 1]):
            decode_row(view[RAW_FORM], addresses[i], dim, prepared)
            prepare(metric if raw else L2, prepared, dim, prepared)
            if view[CODEC] == RABITQ:
                rotate_centred(prepared, view[CENTRE], dim, padded, view[SIGNS], rotated)
                encode_row(
                    metric,
                    prepared,
                    rotated,
                    centroid,
                    centroid_rotated,
                    dim,
                    padded,
                    block,
                    place,
                    numbers[i],
                )
            else:
                for d in range(dim):
                    store_f32(block, d * BLOCK_ROWS + place, load_f32(prepared, d))
                store_u32(block, dim * BLOCK_ROWS + place, numbers[i])
            place += 1
            if place == BLOCK_ROWS:
                place = 0
                block += block_bytes
        if place > 0:
            _empty_places(view, block, place)
    return keep_prepared[0] + keep_rotated[0] + keep_centroid[0]


@kernel
def gather_rows(form, addresses, target):
    """Copy raw rows by address into float32 `target` (n, dim), C-contiguous."""
    dim = target.shape[1]
    for i in range(addresses.shape[0]):
        decode_row(form, addresses[i], dim, target.ctypes.data + 4 * dim * i)


@kernel
def exact_pairs(form, metric, queries, addresses, target):
    """Distances of raw queries to given raw rows, bit for bit as a search computes them.

    Parameters
    ----------
    form, metric : int64
    queries : float32 (n, dim)
    addresses : int64 (n, m)
        Addresses of each query's rows.
    target : float32 (n, m)
    """
    dim = queries.shape[1]
    prepared = np.empty(dim, np.float32)
    for i in range(addresses.shape[0]):
        prepare(metric, queries.ctypes.data + 4 * dim * i, dim, prepared.ctypes.data)
        for j in range(addresses.shape[1]):
            target[i, j] = exact_distance(form, metric, prepared.ctypes.data, addresses[i, j], dim)
    return prepared[0]
