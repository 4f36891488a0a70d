"""A random rotation in O(d log d): sign flips and Hadamard transforms, four rounds.

RaBitQ (SIGMOD 2024, section 3.1.2) needs a random orthogonal matrix; a dense one costs
d^2 per vector.  Rounds of random signs and Walsh-Hadamard transforms come close enough
(fast Johnson-Lindenstrauss).  A dimension that is no power of two is covered by two
overlapping windows in turn, so that after four rounds every input reaches every output.
"""

from __future__ import annotations

import numpy as np

from vecstore.kernels.cache import kernel
from vecstore.kernels.intrinsics import (
    LANES,
    hadamard_across,
    hadamard_within,
    load_f32,
    store_f32,
)

ROUNDS = 4


@kernel
def _hadamard(address, size):
    """Unscaled Walsh-Hadamard transform in place; `size` is a power of two, at least 64."""
    for i in range(0, size, LANES):
        hadamard_within(address + 4 * i)
    half = LANES
    while half < size:
        for start in range(0, size, 2 * half):
            for i in range(start, start + half, LANES):
                hadamard_across(address + 4 * i, address + 4 * (i + half))
        half *= 2


@kernel
def _window(padded, r):
    """First coordinate and size of the window that round `r` transforms."""
    size = 64
    while size * 2 <= padded:
        size *= 2
    return 0 if r % 2 == 0 else padded - size, size


@kernel
def _flip(x, padded, signs, r, first, size):
    """Apply the signs of a round, and the scale of its transform within the window."""
    scale = np.float32(1.0) / np.sqrt(np.float32(size))
    for i in range(first):
        store_f32(x, i, load_f32(x, i) * load_f32(signs, r * padded + i))
    for i in range(first, first + size):
        store_f32(x, i, load_f32(x, i) * load_f32(signs, r * padded + i) * scale)
    for i in range(first + size, padded):
        store_f32(x, i, load_f32(x, i) * load_f32(signs, r * padded + i))


@kernel
def rotate(x, padded, signs):
    """Rotate a vector in place.

    Parameters
    ----------
    x : int64
        Address of float32 (padded,).
    padded : int64
        Padded dimension, a multiple of 64.
    signs : int64
        Address of float32 (ROUNDS, padded): +1 or -1, drawn once per collection.
    """
    for r in range(ROUNDS):
        first, size = _window(padded, r)
        _flip(x, padded, signs, r, first, size)
        _hadamard(x + 4 * first, size)


@kernel
def rotate_back(x, padded, signs):
    """Invert `rotate`, in place."""
    for r in range(ROUNDS - 1, -1, -1):
        first, size = _window(padded, r)
        _hadamard(x + 4 * first, size)
        _flip(x, padded, signs, r, first, size)
