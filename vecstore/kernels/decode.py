"""Rows from their codes: what a posting alone remembers of a vector."""

from __future__ import annotations

import numpy as np

from vecstore.config import BLOCK_ROWS
from vecstore.kernels.cache import allocating_kernel, kernel
from vecstore.kernels.factors import code_scale
from vecstore.kernels.intrinsics import load_f32, load_u8, load_u16, load_u32, load_u64, store_f32
from vecstore.kernels.query import CODEWORDS, part_centred, rotate_centred
from vecstore.kernels.raw import half_value
from vecstore.kernels.rotation import rotate_back
from vecstore.kernels.view import (
    BITS,
    BLOCK_BYTES,
    CENTRE,
    CODEBOOK,
    CODEC,
    DIM,
    EXTRA_BYTES,
    FLOAT16,
    FLOAT32,
    INT4,
    INT8,
    MATRIX,
    METRIC,
    PADDED,
    PART_DIM,
    PARTS,
    PQ,
    SIGNS,
)

_ZERO = np.float32(0.0)
_HALF = np.float32(0.5)


@kernel
def _code(view, block, extra, place, i):
    """Centred value of one dimension of a row's code."""
    codec = view[CODEC]
    if codec == INT8:
        byte = load_u8(block, (i // 4 * BLOCK_ROWS + place) * 4 + i % 4)
        return np.float32(byte) - np.float32(127.5)
    if codec == INT4:
        byte = np.uint32(load_u8(block, (i // 8 * BLOCK_ROWS + place) * 4 + i % 4))
        half = byte >> np.uint32(4) if i % 8 >= 4 else byte & np.uint32(15)
        return np.float32(half) - np.float32(7.5)
    word = i // 64
    level = (load_u64(block, word * BLOCK_ROWS + place) >> np.uint64(i % 64)) & np.uint64(1)
    words = view[PADDED] // 64
    for plane in range(view[BITS] - 1):
        bits = load_u32(extra, 2 * (plane * words + word) + i % 64 // 32)
        level = np.uint64(2) * level + np.uint64((bits >> np.uint32(i % 32)) & np.uint32(1))
    return np.float32(level) - np.float32((1 << view[BITS]) - 1) * _HALF


@kernel
def _decode_grid(view, block, extra, place, centroid_turned, target):
    """Rotated residual of a row that was rounded to a grid, added to its centroid."""
    padded = view[PADDED]
    norm = _ZERO
    for i in range(padded):
        x = _code(view, block, extra, place, i)
        norm += x * x
        store_f32(target, i, x)
    if view[EXTRA_BYTES] > 0:
        f_rs = load_f32(extra + view[EXTRA_BYTES] - 12, 1)
        f_err = load_f32(extra + view[EXTRA_BYTES] - 12, 2)
    else:
        factors = block + view[BLOCK_BYTES] - 16 * BLOCK_ROWS
        f_rs = load_f32(factors, BLOCK_ROWS + place)
        f_err = load_f32(factors, 2 * BLOCK_ROWS + place)
    scale = code_scale(view[METRIC], f_rs, f_err, norm, padded)
    for i in range(padded):
        store_f32(target, i, load_f32(centroid_turned, i) + scale * load_f32(target, i))


@kernel
def _decode_parts(view, block, place, centroid_turned, turned, target):
    """Row of codewords added to the centroid, turned back; without the centre."""
    dim = view[DIM]
    part_dim = view[PART_DIM]
    wide = view[PARTS] * part_dim
    for s in range(wide):
        code = np.int64(load_u8(block, s // part_dim * BLOCK_ROWS + place))
        word = load_f32(view[CODEBOOK] + 4 * CODEWORDS * s, code)
        store_f32(turned, s, load_f32(centroid_turned, s) + word)
    for i in range(dim):
        store_f32(target, i, _ZERO if view[MATRIX] != 0 else load_f32(turned, i))
    if view[MATRIX] != 0:
        for s in range(wide):
            value = load_f32(turned, s)
            row = view[MATRIX] + 4 * dim * s
            for i in range(dim):
                store_f32(target, i, load_f32(target, i) + value * load_f32(row, i))


@allocating_kernel
def decode_run(view, centroid, run, blocks, target):
    """Decode the first `target.shape[0]` places of a run, as the index sees rows.

    Parameters
    ----------
    view : int64 array (see `vecstore.kernels.view`)
    centroid, run : int64
        Addresses of float32 (dim,) and of the run.
    blocks : int64
    target : float32 (rows, dim)
    """
    dim = view[DIM]
    padded = view[PADDED]
    codec = view[CODEC]
    wide = max(padded, view[PARTS] * view[PART_DIM])
    keep = np.empty(3 * wide, np.float32)
    turned = keep.ctypes.data
    centroid_turned = turned + 4 * wide
    row = centroid_turned + 4 * wide
    if codec == PQ:
        part_centred(view, centroid, view[CENTRE], centroid_turned)
    else:
        rotate_centred(centroid, view[CENTRE], dim, padded, view[SIGNS], centroid_turned)
    for at in range(target.shape[0]):
        block = run + at // BLOCK_ROWS * view[BLOCK_BYTES]
        place = at % BLOCK_ROWS
        if codec == FLOAT32:
            for i in range(dim):
                target[at, i] = load_f32(block, i * BLOCK_ROWS + place)
        elif codec == FLOAT16:
            for i in range(dim):
                target[at, i] = half_value(load_u16(block, i * BLOCK_ROWS + place))
        else:
            if codec == PQ:
                _decode_parts(view, block, place, centroid_turned, turned, row)
            else:
                extra = run + blocks * view[BLOCK_BYTES] + at * view[EXTRA_BYTES]
                _decode_grid(view, block, extra, place, centroid_turned, row)
                rotate_back(row, padded, view[SIGNS])
            for i in range(dim):
                target[at, i] = load_f32(row, i) + load_f32(view[CENTRE], i)
    return keep[0]
