"""What a query becomes before any block is looked at: rotated, planes, bytes, tables.

Everything here is made once per query, whatever the number of postings: the estimates of
`vecstore.kernels.factors` need only products of the codes with the query itself.
"""

from __future__ import annotations

import numpy as np

from vecstore.config import SQUARE_MAX, SQUARE_MIN
from vecstore.kernels.blocks import PLANES
from vecstore.kernels.cache import kernel
from vecstore.kernels.distance import inner_product
from vecstore.kernels.intrinsics import (
    bits_float,
    load_f32,
    store_f32,
    store_u64,
)
from vecstore.kernels.planes import pack_plane
from vecstore.kernels.rotation import rotate
from vecstore.kernels.rounding import largest_magnitude, round_to_bytes
from vecstore.kernels.view import (
    BYTES_AT,
    CENTRE,
    CODE_SCALE,
    CODE_SHIFT,
    CODEBOOK,
    CODEC,
    COSINE,
    DIM,
    FACTS,
    GRID_ERROR,
    HALF_SUM,
    INT4,
    INT8,
    LENGTH,
    MATRIX,
    PADDED,
    PART_DIM,
    PARTED,
    PARTS,
    PLANE_SCALE,
    PLANE_SHIFT,
    PLANES_AT,
    PQ,
    QUERY,
    ROTATED,
    ROUNDING,
    SIGNS,
    TABLES,
)

_SQUARE_MIN = np.float32(SQUARE_MIN)
_SQUARE_MAX = np.float32(SQUARE_MAX)
STEPS = np.float32(2 ** (PLANES - 1) - 1)
"""Steps of a query coordinate on either side of zero, as bit planes."""
BYTE_STEPS = np.float32(127)
"""The same as signed bytes."""
SIGN_ERROR = np.float32(0.7555)
"""Relative error of a 1-bit code: the tangent of its mean angle, sqrt(pi / 2 - 1)."""
CODEWORDS = 256


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
    """Subtract the centre, pad with zeros, rotate."""
    for i in range(dim):
        store_f32(target, i, load_f32(prepared, i) - load_f32(centre, i))
    for i in range(dim, padded):
        store_f32(target, i, np.float32(0.0))
    rotate(target, padded, signs)


@kernel
def part_centred(view, prepared, centre, target):
    """Subtract the centre; turn by the learned rotation, or pad with zeros."""
    dim = view[DIM]
    wide = view[PARTS] * view[PART_DIM]
    if view[MATRIX] == 0:
        for i in range(dim):
            store_f32(target, i, load_f32(prepared, i) - load_f32(centre, i))
        for i in range(dim, wide):
            store_f32(target, i, np.float32(0.0))
    else:
        for i in range(wide):
            row = view[MATRIX] + 4 * dim * i
            turned = inner_product(prepared, row, dim) - inner_product(centre, row, dim)
            store_f32(target, i, turned)


@kernel
def query_planes(rotated, padded, room, planes):
    """Round a rotated query to `PLANES` bits per coordinate and lay them out as bit planes.

    `room` is memory for a byte of each coordinate, at a multiple of 64.

    Returns
    -------
    (float32, float32)
        Value of one step, and half the sum of the rounded coordinates: the same rounding on both
        sides, so that it enters a product with signs of one half, not with bits.
    """
    words = padded // 64
    step = largest_magnitude(rotated, words) / STEPS
    inverse = np.float32(1.0) / step if step > np.float32(0.0) else np.float32(0.0)
    total = round_to_bytes(rotated, words, inverse, room)
    for word in range(words):
        for plane in range(PLANES):
            store_u64(planes, word * PLANES + plane, pack_plane(room + 64 * word, plane))
    return step, np.float32(0.5) * step * total


@kernel
def query_bytes(rotated, padded, target):
    """Round a rotated query to signed bytes.

    Returns
    -------
    (float32, float32)
        Value of one step, and the sum of the bytes.
    """
    words = padded // 64
    step = largest_magnitude(rotated, words) / BYTE_STEPS
    inverse = np.float32(1.0) / step if step > np.float32(0.0) else np.float32(0.0)
    return step, round_to_bytes(rotated, words, inverse, target)


@kernel
def query_tables(view, parted, tables):
    """Products of each part of the query with the codewords of its codebook."""
    part_dim = view[PART_DIM]
    for part in range(view[PARTS]):
        table = tables + 4 * CODEWORDS * part
        for j in range(CODEWORDS):
            store_f32(table, j, np.float32(0.0))
        for s in range(part_dim):
            value = load_f32(parted, part * part_dim + s)
            codebook = view[CODEBOOK] + 4 * CODEWORDS * (part * part_dim + s)
            for j in range(CODEWORDS):
                store_f32(table, j, load_f32(table, j) + value * load_f32(codebook, j))


@kernel
def _rounding(step, error, width):
    """Variance of a rounded query's products, as a square that is added to its distance.

    A code's error at distance x is `error` * x spread over `width` dimensions; rounding adds
    step^2 / 12 in each, as if x^2 were larger by what is returned.
    """
    share = step / error
    return share * share * np.float32(width - 1) / np.float32(12.0)


@kernel
def _sum(values, count):
    total = np.float32(0.0)
    for i in range(count):
        total += load_f32(values, i)
    return total


@kernel
def make_query(view, scratch):
    """Derive from the prepared query all that routing and the posting codec need."""
    padded = view[PADDED]
    query = scratch[QUERY]
    facts = scratch[FACTS]
    rotated = scratch[ROTATED]
    rotate_centred(query, view[CENTRE], view[DIM], padded, view[SIGNS], rotated)
    scale, shift = query_planes(rotated, padded, scratch[BYTES_AT], scratch[PLANES_AT])
    store_f32(facts, PLANE_SCALE, scale)
    store_f32(facts, PLANE_SHIFT, shift)
    store_f32(facts, CODE_SCALE, scale)
    store_f32(facts, CODE_SHIFT, shift)
    store_f32(facts, HALF_SUM, np.float32(0.5) * _sum(rotated, padded))
    store_f32(facts, ROUNDING, _rounding(scale, SIGN_ERROR, padded))
    store_f32(facts, LENGTH, np.sqrt(inner_product(query, query, view[DIM])))
    codec = view[CODEC]
    if codec in (INT8, INT4):
        step, total = query_bytes(rotated, padded, scratch[BYTES_AT])
        middle = np.float32(127.5) if codec == INT8 else np.float32(7.5)
        store_f32(facts, CODE_SCALE, step)
        store_f32(facts, CODE_SHIFT, middle * step * total)
        error = bits_float(np.uint32(view[GRID_ERROR]))
        store_f32(facts, ROUNDING, _rounding(step, error, padded))
    elif codec == PQ:
        part_centred(view, query, view[CENTRE], scratch[PARTED])
        query_tables(view, scratch[PARTED], scratch[TABLES])
        store_f32(facts, CODE_SCALE, np.float32(1.0))
        store_f32(facts, CODE_SHIFT, np.float32(0.0))
        store_f32(facts, ROUNDING, np.float32(0.0))
