"""XXH3-64 where calling `xxhash` for each piece would cost more than hashing it.

Two forms of the specification (https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md), seed 0:
that of 241 bytes and more, by address, so that a scan can check what it reads for the first time;
and that of 17 to 128 bytes, for the entries of many ids.  Equal to `xxhash.xxh3_64_intdigest`,
which writes the other checksums.
"""

from __future__ import annotations

import numpy as np

from vecstore.kernels.cache import kernel
from vecstore.kernels.intrinsics import (
    hash_stripe,
    load_u64,
    multiply_fold,
    store_u64,
)

BYTES_MIN = 241
SHORT_BYTES_MIN, SHORT_BYTES_MAX = 17, 128

_SECRET = np.frombuffer(
    bytes.fromhex(
        "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
        "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
        "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8a8"
        "fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364ea"
        "c5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e2b"
        "16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
    ),
    np.uint8,
)
_STRIPE = 64
_STRIPES_PER_BLOCK = 16
_PRIME32_1 = np.uint64(0x9E3779B1)
_PRIME32_2 = np.uint64(0x85EBCA77)
_PRIME32_3 = np.uint64(0xC2B2AE3D)
_PRIME64_1 = np.uint64(0x9E3779B185EBCA87)
_PRIME64_2 = np.uint64(0xC2B2AE3D27D4EB4F)
_PRIME64_3 = np.uint64(0x165667B19E3779F9)
_PRIME64_4 = np.uint64(0x85EBCA77C2B2AE63)
_PRIME64_5 = np.uint64(0x27D4EB2F165667C5)
_MIX = np.uint64(0x165667919E3779F9)


@kernel
def xxh3(address, size, sums):
    """Hash memory.

    Parameters
    ----------
    address, size : int64
        Bytes to hash, at least `BYTES_MIN`.
    sums : int64
        Address of 64 bytes of work memory.

    Returns
    -------
    uint64
    """
    secret = _SECRET.ctypes.data
    store_u64(sums, 0, _PRIME32_3)
    store_u64(sums, 1, _PRIME64_1)
    store_u64(sums, 2, _PRIME64_2)
    store_u64(sums, 3, _PRIME64_3)
    store_u64(sums, 4, _PRIME64_4)
    store_u64(sums, 5, _PRIME32_2)
    store_u64(sums, 6, _PRIME64_5)
    store_u64(sums, 7, _PRIME32_1)
    stripes = (size - 1) // _STRIPE
    for stripe in range(stripes):
        within = stripe % _STRIPES_PER_BLOCK
        hash_stripe(sums, address + stripe * _STRIPE, secret + 8 * within)
        if within == _STRIPES_PER_BLOCK - 1:
            for lane in range(8):
                value = load_u64(sums, lane)
                value ^= value >> np.uint64(47)
                value ^= load_u64(secret + 128, lane)
                store_u64(sums, lane, value * _PRIME32_1)
    hash_stripe(sums, address + size - _STRIPE, secret + 121)
    result = np.uint64(size) * _PRIME64_1
    for pair in range(4):
        a = load_u64(sums, 2 * pair) ^ load_u64(secret + 11 + 16 * pair, 0)
        b = load_u64(sums, 2 * pair + 1) ^ load_u64(secret + 19 + 16 * pair, 0)
        result += multiply_fold(a, b)
    result ^= result >> np.uint64(37)
    result *= _MIX
    return result ^ (result >> np.uint64(32))


@kernel
def _mix_16(address, secret):
    """Mix 16 bytes with 16 of the secret."""
    low = load_u64(address, 0) ^ load_u64(secret, 0)
    return multiply_fold(low, load_u64(address, 1) ^ load_u64(secret, 1))


@kernel
def _xxh3_short(address, size):
    """Hash `SHORT_BYTES_MIN` to `SHORT_BYTES_MAX` bytes of memory."""
    secret = _SECRET.ctypes.data
    result = np.uint64(size) * _PRIME64_1
    for pair in range((size - 1) // 32, -1, -1):
        result += _mix_16(address + 16 * pair, secret + 32 * pair)
        result += _mix_16(address + size - 16 * (pair + 1), secret + 32 * pair + 16)
    result ^= result >> np.uint64(37)
    result *= _MIX
    return result ^ (result >> np.uint64(32))


@kernel
def hash_pairs(heads, ends, tails, work, out):
    """Hash many short pieces, each a head followed by a tail.

    Parameters
    ----------
    heads : uint8 (bytes,)
        One after the other.
    ends : int64 (n,)
        Where each head ends.
    tails : uint8 (n, t)
        Head and tail have `SHORT_BYTES_MIN` to `SHORT_BYTES_MAX` bytes together.
    work : uint8 (SHORT_BYTES_MAX,)
        Work memory.
    out : uint64 (n,)
    """
    first = 0
    for piece in range(len(ends)):
        size = ends[piece] - first
        for word in range(size // 8):
            store_u64(work.ctypes.data, word, load_u64(heads.ctypes.data + first, word))
        for place in range(size // 8 * 8, size):
            work[place] = heads[first + place]
        for place in range(tails.shape[1]):
            work[size + place] = tails[piece, place]
        out[piece] = _xxh3_short(work.ctypes.data, size + tails.shape[1])
        first = ends[piece]
