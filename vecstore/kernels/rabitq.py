"""RaBitQ with one bit: planes of a query, codes and factors of rows.

Gao and Long, "RaBitQ: Quantizing High-Dimensional Vectors with a Theoretical Error Bound for
Approximate Nearest Neighbor Search", SIGMOD 2024, sections 3.1 to 3.3, with the factored form of
"Practical and Asymptotically Optimal Quantization ..." (SIGMOD 2025): for a residual
``r = o - c`` and its sign vector ``x`` (entries +-1/2), all rotated,

    <q - c, r>  ~  |r|^2 / <r, x> * <x, q' - c'>

which is unbiased, and off by at most ``|r| |q - c| e0 sqrt((|r|^2|x|^2/<r,x>^2 - 1)/(d - 1))``
with high probability.  We depart in one point: query coordinates are rounded to two's
complement of `PLANES` bits, not at random to 4 unsigned ones, which spares the popcount of the
code itself.
"""

from __future__ import annotations

import numpy as np

from vecstore.config import BLOCK_ROWS, SQUARE_MAX, SQUARE_MIN
from vecstore.kernels.cache import kernel
from vecstore.kernels.distance import inner_product
from vecstore.kernels.intrinsics import PLANES, load_f32, load_u64, store_f32, store_u32, store_u64
from vecstore.kernels.rotation import rotate
from vecstore.kernels.view import COSINE, IP

_SQUARE_MIN = np.float32(SQUARE_MIN)
_SQUARE_MAX = np.float32(SQUARE_MAX)
EPSILON = np.float32(1.9)
"""Width of the error bound in standard deviations (RaBitQ, section 3.2.2)."""
STEPS = np.float32(2 ** (PLANES - 1) - 1)
"""Steps of a query coordinate on either side of zero."""


@kernel
def prepare(metric, source, dim, target):
    """Copy a raw vector as the index sees it: normalised under cosine.

    Returns
    -------
    int
        0; 1 when the squared length is too large or no number; 2 when it is as good as zero under
        cosine.
    """
    total = np.float32(0.0)
    for i in range(dim):
        value = load_f32(source, i)
        total += value * value
    if not total <= _SQUARE_MAX:
        return 1
    scale = np.float32(1.0)
    if metric == COSINE:
        if total < _SQUARE_MIN:
            return 2
        scale = np.float32(1.0) / np.sqrt(total)
    for i in range(dim):
        store_f32(target, i, load_f32(source, i) * scale)
    return 0


@kernel
def rotate_centred(prepared, centre, dim, padded, signs, target):
    """Subtract the collection's centre, pad with zeros, rotate."""
    for i in range(dim):
        store_f32(target, i, load_f32(prepared, i) - load_f32(centre, i))
    for i in range(dim, padded):
        store_f32(target, i, np.float32(0.0))
    rotate(target, padded, signs)


@kernel
def query_planes(rotated, padded, planes):
    """Round a rotated query to `PLANES` bits per coordinate and lay them out as bit planes.

    Returns
    -------
    (float32, float32)
        Value of one step, and half the sum of the coordinates.
    """
    largest = np.float32(0.0)
    total = np.float32(0.0)
    for i in range(padded):
        value = load_f32(rotated, i)
        total += value
        largest = max(largest, abs(value))
    step = largest / STEPS
    inverse = np.float32(1.0) / step if step > np.float32(0.0) else np.float32(0.0)
    for word in range(padded // 64):
        for plane in range(PLANES):
            store_u64(planes, word * PLANES + plane, np.uint64(0))
        for j in range(64):
            value = np.floor(load_f32(rotated, word * 64 + j) * inverse + np.float32(0.5))
            bits = np.uint64(np.int64(value))
            for plane in range(PLANES):
                at = word * PLANES + plane
                bit = (bits >> np.uint64(plane)) & np.uint64(1)
                store_u64(planes, at, load_u64(planes, at) | (bit << np.uint64(j)))
    return step, np.float32(0.5) * total


@kernel
def encode_row(
    metric, prepared, rotated, centroid, centroid_rotated, dim, padded, block, place, row
):
    """Write one row's code, factors and number into its place of a block.

    Parameters
    ----------
    metric : int64
    prepared, centroid : int64
        Addresses of float32 (dim,): the row and the posting's centroid, as the index sees them.
    rotated, centroid_rotated : int64
        Addresses of float32 (padded,): the same two, centred and rotated.
    dim, padded : int64
    block : int64
        Address of the block (see `vecstore.layout`).
    place : int64
        0 to 31.
    row : uint32
    """
    square = np.float32(0.0)
    length = np.float32(0.0)
    cross = np.float32(0.0)
    for word in range(padded // 64):
        bits = np.uint64(0)
        for j in range(64):
            c = load_f32(centroid_rotated, word * 64 + j)
            r = load_f32(rotated, word * 64 + j) - c
            square += r * r
            length += abs(r)
            positive = r >= np.float32(0.0)
            cross += c if positive else -c
            bits |= np.uint64(positive) << np.uint64(j)
        store_u64(block, word * BLOCK_ROWS + place, bits)
    f_add = np.float32(0.0)
    f_rs = np.float32(0.0)
    f_err = np.float32(0.0)
    if length > np.float32(0.0):
        dot = np.float32(0.5) * length
        ratio = square / dot
        f_add = ratio * np.float32(0.5) * cross
        f_rs = -ratio
        excess = max(np.float32(0.0), ratio * np.float32(0.25) * np.float32(padded) / dot - 1)
        f_err = np.sqrt(square) * EPSILON * np.sqrt(np.float32(excess) / np.float32(padded - 1))
    if metric == IP:
        dot_rc = inner_product(prepared, centroid, dim) - inner_product(centroid, centroid, dim)
        f_add -= dot_rc
    else:
        scale = np.float32(1.0) if metric == COSINE else np.float32(2.0)
        f_add = scale * (np.float32(0.5) * square + f_add)
        f_rs *= scale
        f_err *= scale
    factors = block + padded // 64 * 8 * BLOCK_ROWS
    store_f32(factors, place, f_add)
    store_f32(factors, BLOCK_ROWS + place, f_rs)
    store_f32(factors, 2 * BLOCK_ROWS + place, f_err)
    store_u32(factors, 3 * BLOCK_ROWS + place, np.uint32(row))
