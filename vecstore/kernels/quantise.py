"""Encoding one row against the centroid of its posting, codec by codec."""

from __future__ import annotations

import numpy as np

from vecstore.config import BLOCK_ROWS
from vecstore.kernels.cache import kernel
from vecstore.kernels.distance import inner_product
from vecstore.kernels.factors import factors
from vecstore.kernels.intrinsics import (
    bits_float,
    float_bits,
    load_f32,
    load_u8,
    store_f32,
    store_u8,
    store_u16,
    store_u32,
    store_u64,
)
from vecstore.kernels.planes import pack_plane
from vecstore.kernels.query import CODEWORDS
from vecstore.kernels.raw import half_value
from vecstore.kernels.view import (
    BITS,
    BLOCK_BYTES,
    CODEBOOK,
    CODEC,
    DIM,
    ERROR_SCALE,
    FLOAT32,
    GRID_SCALE,
    INT8,
    IP,
    L2,
    METRIC,
    PADDED,
    PART_DIM,
    PARTS,
)

_ZERO = np.float32(0.0)
_HALF = np.float32(0.5)
_ONE = np.float32(1.0)
_HALF_MAX = np.float32(65504.0)
_NUDGE = np.float32(1e-5)
_SUM_ERROR = np.float32(2e-5)
"""Rounding of a product that is summed in another order, in the product of the lengths: what is
left when terms cancel says nothing of it."""


@kernel
def store_factors(target, stride, three):
    """Write f_add, f_rs and f_err, `stride` values apart."""
    store_f32(target, 0, three[0])
    store_f32(target, stride, three[1])
    store_f32(target, 2 * stride, three[2])


@kernel
def encode_signs(view, prepared, rotated, centroid, centroid_rotated, block, place):
    """Write the 1-bit code of a row and its factors into its place of a block."""
    padded = view[PADDED]
    square = _ZERO
    length = _ZERO
    cross = _ZERO
    for word in range(padded // 64):
        bits = np.uint64(0)
        for j in range(64):
            c = load_f32(centroid_rotated, word * 64 + j)
            r = load_f32(rotated, word * 64 + j) - c
            square += r * r
            length += abs(r)
            positive = r >= _ZERO
            cross += c if positive else -c
            bits |= np.uint64(positive) << np.uint64(j)
        store_u64(block, word * BLOCK_ROWS + place, bits)
    three = factors(
        view[METRIC],
        prepared,
        centroid,
        view[DIM],
        square,
        _HALF * length,
        _HALF * cross,
        np.float32(0.25) * np.float32(padded),
        padded,
    )
    store_factors(block + padded // 64 * 8 * BLOCK_ROWS + 4 * place, BLOCK_ROWS, three)


@kernel
def quantise_grid(view, rotated, centroid_rotated, codes):
    """Round a rotated residual to the grid of `BITS` bits that points where it points.

    Extended RaBitQ (SIGMOD 2025, section 3): magnitudes are scaled by t / |r| and cut to B - 1
    bits; t is the one that suits Gaussian vectors best, the same for all rows.

    Returns
    -------
    (float32, float32, float32, float32)
        ``|r|^2``, ``<r, x>``, ``<c, x>`` and ``|x|^2`` of the centred code x.
    """
    padded = view[PADDED]
    half = np.int32(1) << np.int32(view[BITS] - 1)
    middle = np.float32(half) - _HALF
    square = _ZERO
    for i in range(padded):
        r = load_f32(rotated, i) - load_f32(centroid_rotated, i)
        square += r * r
    t = bits_float(np.uint32(view[GRID_SCALE]))
    inverse = t / np.sqrt(square) if square > _ZERO else _ZERO
    top = np.float32(half - np.int32(1))
    dot = _ZERO
    cross = _ZERO
    norm = _ZERO
    for i in range(padded):
        c = load_f32(centroid_rotated, i)
        r = load_f32(rotated, i) - c
        level = min(np.floor(abs(r) * inverse + _NUDGE), top)
        x = level + _HALF if r >= _ZERO else -level - _HALF
        dot += r * x
        cross += c * x
        norm += x * x
        store_u8(codes, i, np.uint8(np.int32(x + middle)))
    return square, dot, cross, norm


@kernel
def encode_grid(view, prepared, rotated, centroid, centroid_rotated, codes, target, stride):
    """Quantise a row to bytes at `codes`; write the factors of its code at `target`."""
    square, dot, cross, norm = quantise_grid(view, rotated, centroid_rotated, codes)
    three = factors(
        view[METRIC], prepared, centroid, view[DIM], square, dot, cross, norm, view[PADDED]
    )
    store_factors(target, stride, three)


@kernel
def pack_extra(view, codes, extra):
    """Write all but the top bit of a row's codes as bit planes, the highest first."""
    words = view[PADDED] // 64
    planes = view[BITS] - 1
    for plane in range(planes):
        for word in range(words):
            packed = pack_plane(codes + 64 * word, planes - 1 - plane)
            at = 2 * (plane * words + word)
            store_u32(extra, at, np.uint32(packed & np.uint64(0xFFFF_FFFF)))
            store_u32(extra, at + 1, np.uint32(packed >> np.uint64(32)))


@kernel
def pack_bytes(view, codec, codes, block, place):
    """Write a row's codes, bytes or halves of bytes, into its place of a block."""
    if codec == INT8:
        for i in range(view[PADDED]):
            group = i // 4
            store_u8(block, (group * BLOCK_ROWS + place) * 4 + i - 4 * group, load_u8(codes, i))
    else:
        for group in range(view[PADDED] // 8):
            for j in range(4):
                low = np.uint32(load_u8(codes, 8 * group + j))
                high = np.uint32(load_u8(codes, 8 * group + 4 + j))
                both = np.uint8(low | (high << np.uint32(4)))
                store_u8(block, (group * BLOCK_ROWS + place) * 4 + j, both)


@kernel
def encode_parts(view, prepared, parted, centroid, centroid_parted, room, block, place):
    """Write the product-quantised code of a row and its factors into its place of a block.

    Parameters
    ----------
    parted, centroid_parted : int64
        Addresses of float32 (parts * part dim,): the row and the centroid, turned.
    room : int64
        Address of float32 (256,) to work in.
    """
    part_dim = view[PART_DIM]
    square = _ZERO
    dot = _ZERO
    cross = _ZERO
    norm = _ZERO
    for part in range(view[PARTS]):
        start = part * part_dim
        for j in range(CODEWORDS):
            store_f32(room, j, _ZERO)
        for s in range(start, start + part_dim):
            r = load_f32(parted, s) - load_f32(centroid_parted, s)
            codebook = view[CODEBOOK] + 4 * CODEWORDS * s
            for j in range(CODEWORDS):
                apart = load_f32(codebook, j) - r
                store_f32(room, j, load_f32(room, j) + apart * apart)
        best = 0
        for j in range(1, CODEWORDS):
            if load_f32(room, j) < load_f32(room, best):
                best = j
        for s in range(start, start + part_dim):
            c = load_f32(centroid_parted, s)
            r = load_f32(parted, s) - c
            x = load_f32(view[CODEBOOK] + 4 * CODEWORDS * s, best)
            square += r * r
            dot += r * x
            cross += c * x
            norm += x * x
        store_u8(block, part * BLOCK_ROWS + place, np.uint8(best))
    width = view[PARTS] * part_dim
    f_add, f_rs, f_err = factors(
        view[METRIC], prepared, centroid, view[DIM], square, dot, cross, norm, width
    )
    f_err *= bits_float(np.uint32(view[ERROR_SCALE]))
    at = block + view[BLOCK_BYTES] - 16 * BLOCK_ROWS + 4 * place
    store_factors(at, BLOCK_ROWS, (f_add, f_rs, f_err))


@kernel
def to_half(value):
    """Bits of the float16 nearest to a float32 within its range; halves go to even."""
    bits = float_bits(value)
    sign = (bits >> np.uint32(16)) & np.uint32(0x8000)
    size = bits & np.uint32(0x7FFF_FFFF)
    if size < np.uint32(0x3880_0000):  # under 2^-14: adding 1/2 rounds at the right place
        raised = bits_float(np.uint32(size)) + _HALF
        return np.uint16(sign | (float_bits(raised) - np.uint32(0x3F00_0000)))
    odd = (size >> np.uint32(13)) & np.uint32(1)
    size = size - np.uint32(0x3800_0000) + np.uint32(0xFFF) + odd
    return np.uint16(sign | (size >> np.uint32(13)))


@kernel
def encode_values(view, prepared, block, place):
    """Write a row's values into its place of a block, with what bounds the error of its distances.

    That is the length of what the values lost, twice that under l2; an inner product has the
    rounding of its sum besides.
    """
    dim = view[DIM]
    summed = _ZERO
    if view[METRIC] == IP:
        summed = _SUM_ERROR * np.sqrt(inner_product(prepared, prepared, dim))
    if view[CODEC] == FLOAT32:
        for i in range(dim):
            store_f32(block, i * BLOCK_ROWS + place, load_f32(prepared, i))
        store_f32(block, dim * BLOCK_ROWS + place, summed)
        return
    lost = _ZERO
    for i in range(dim):
        value = load_f32(prepared, i)
        bits = to_half(min(_HALF_MAX, max(-_HALF_MAX, value)))
        apart = value - half_value(bits)
        lost += apart * apart
        store_u16(block, i * BLOCK_ROWS + place, bits)
    kappa = np.float32(2.0) if view[METRIC] == L2 else _ONE
    store_f32(block + 2 * dim * BLOCK_ROWS, place, kappa * np.sqrt(lost) + summed)
