"""XXH3-64 of memory by address, so that a scan can check what it reads for the first time.

The long form of the specification (https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md),
seed 0, for at least 241 bytes; equal to `xxhash.xxh3_64_intdigest`, which writes the checksums.
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
