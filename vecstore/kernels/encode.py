"""Turning rows into code blocks, and gathering rows by address."""

from __future__ import annotations

import numpy as np

from vecstore.config import BLOCK_ROWS
from vecstore.kernels.cache import allocating_kernel, kernel
from vecstore.kernels.disk import ask_if_met, blocks_read
from vecstore.kernels.distance import exact_distance
from vecstore.kernels.intrinsics import store_f32, store_u32
from vecstore.kernels.quantise import (
    encode_grid,
    encode_parts,
    encode_signs,
    encode_values,
    pack_bytes,
    pack_extra,
)
from vecstore.kernels.query import CODEWORDS, part_centred, prepare, rotate_centred
from vecstore.kernels.raw import decode_row, row_size
from vecstore.kernels.view import (
    BLOCK_BYTES,
    CENTRE,
    CODEC,
    DIM,
    EXTRA_BYTES,
    FLOAT16,
    FLOAT32,
    L2,
    METRIC,
    NO_ROW,
    PADDED,
    PART_DIM,
    PARTS,
    PQ,
    RABITQ,
    RAW_FORM,
    SIGNS,
)

_EMPTY_F_ADD = np.float32(np.inf)
_NO_ROW = np.uint32(NO_ROW)
_WINDOW = 256
"""Rows that are asked for at once when they are on disk."""


@kernel
def _empty_places(view, block, first):
    """Mark places `first` to 31 of a block as empty."""
    numbers = block + view[BLOCK_BYTES] - 4 * BLOCK_ROWS
    values = view[CODEC] in (FLOAT16, FLOAT32)
    for place in range(first, BLOCK_ROWS):
        store_u32(numbers, place, _NO_ROW)
        if not values:
            store_f32(numbers, place - 3 * BLOCK_ROWS, _EMPTY_F_ADD)


@allocating_kernel
def encode_runs(
    view, centroids, centres, raw, first, addresses, numbers, begin, end, offsets, target
):
    """Encode the rows of runs `begin` to `end` - 1 into blocks, and what stands behind them.

    Parameters
    ----------
    view : int64 array (see `vecstore.kernels.view`)
        The fields that `vecstore.codecs.Model.view` fills, and RAW_FORM.
    centroids : float32 (runs, dim)
    centres : int64 (runs,)
        Address of what is subtracted before the rotation, for each run; 0: the view's CENTRE.
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
        Address of zeroed memory, a multiple of 64.
    """
    dim = view[DIM]
    padded = view[PADDED]
    metric = view[METRIC]
    codec = view[CODEC]
    block_bytes = view[BLOCK_BYTES]
    factors_at = block_bytes - 16 * BLOCK_ROWS
    wide = max(padded, view[PARTS] * view[PART_DIM], CODEWORDS)
    keep = np.empty(5 * wide + 16, np.float32)
    prepared = (keep.ctypes.data + 63) // 64 * 64
    turned = prepared + 4 * wide
    centroid_turned = turned + 4 * wide
    room = centroid_turned + 4 * wide
    met = blocks_read()
    for run in range(begin, end):
        size = row_size(view[RAW_FORM], dim)
        met = ask_if_met(met, addresses, first[run], first[run + 1], size)
        centroid = centroids.ctypes.data + 4 * dim * run
        centre = centres[run] if centres[run] != 0 else view[CENTRE]
        if codec == PQ:
            part_centred(view, centroid, centre, centroid_turned)
        else:
            rotate_centred(centroid, centre, dim, padded, view[SIGNS], centroid_turned)
        block = target + offsets[run]
        blocks = (first[run + 1] - first[run] + BLOCK_ROWS - 1) // BLOCK_ROWS
        extra = block + blocks * block_bytes
        place = 0
        for i in range(first[run], first[run + 1]):
            decode_row(view[RAW_FORM], addresses[i], dim, prepared)
            prepare(metric if raw else L2, prepared, dim, prepared)
            if codec == PQ:
                part_centred(view, prepared, centre, turned)
                encode_parts(view, prepared, turned, centroid, centroid_turned, room, block, place)
            elif codec in (FLOAT32, FLOAT16):
                encode_values(view, prepared, block, place)
            else:
                rotate_centred(prepared, centre, dim, padded, view[SIGNS], turned)
                if codec == RABITQ:
                    encode_signs(view, prepared, turned, centroid, centroid_turned, block, place)
                    if view[EXTRA_BYTES] > 0:
                        at = extra + view[EXTRA_BYTES] - 12
                        encode_grid(view, prepared, turned, centroid, centroid_turned, room, at, 1)
                        pack_extra(view, room, extra)
                        extra += view[EXTRA_BYTES]
                else:
                    at = block + factors_at + 4 * place
                    encode_grid(
                        view, prepared, turned, centroid, centroid_turned, room, at, BLOCK_ROWS
                    )
                    pack_bytes(view, codec, room, block, place)
            store_u32(block, block_bytes // 4 - BLOCK_ROWS + place, numbers[i])
            place += 1
            if place == BLOCK_ROWS:
                place = 0
                block += block_bytes
        if place > 0:
            _empty_places(view, block, place)
    return keep[0]


@kernel
def gather_rows(form, addresses, target):
    """Copy raw rows by address into float32 `target` (n, dim), C-contiguous."""
    dim = target.shape[1]
    n = addresses.shape[0]
    met = blocks_read()
    for i in range(n):
        if i % _WINDOW == 0:
            met = ask_if_met(met, addresses, i, min(n, i + _WINDOW), row_size(form, dim))
        decode_row(form, addresses[i], dim, target.ctypes.data + 4 * dim * i)


@allocating_kernel
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
