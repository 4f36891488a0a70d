"""Sets of row numbers: ascending arrays and bitmaps, one into the other and one by the other."""

from __future__ import annotations

import numpy as np

from vecstore.kernels.cache import kernel
from vecstore.kernels.intrinsics import popcount

_ONE = np.uint64(1)


@kernel
def mark(bits, rows, value):
    """Set the bits of rows, or clear them; those beyond the bitmap are passed over.

    Parameters
    ----------
    bits : uint64 (words,)
    rows : uint32 (n,)
        In any order.
    value : bool
    """
    words = bits.shape[0]
    at = np.int64(0)
    found = np.uint64(0)
    for i in range(rows.shape[0]):
        row = np.int64(rows[i])
        word = row >> 6
        if word >= words:
            continue
        if word != at:  # neighbours share a word, which is kept until the last of them
            bits[at] = bits[at] | found if value else bits[at] & ~found
            at = word
            found = np.uint64(0)
        found |= _ONE << np.uint64(row & 63)
    if words > 0:
        bits[at] = bits[at] | found if value else bits[at] & ~found


@kernel
def read(bits, rows, found):
    """Write to bool (n,) whether the bits of rows are set; those beyond the bitmap are not."""
    words = bits.shape[0]
    for i in range(rows.shape[0]):
        row = np.int64(rows[i])
        word = row >> 6
        found[i] = word < words and (bits[word] >> np.uint64(row & 63)) & _ONE != np.uint64(0)


@kernel
def count(bits):
    """Bits that are set."""
    total = np.int64(0)
    for word in range(bits.shape[0]):
        total += popcount(bits[word])
    return total


@kernel
def spell_out(bits, rows):
    """Write the places of all set bits, ascending, to uint32 (count,)."""
    n = 0
    for word in range(bits.shape[0]):
        left = bits[word]
        while left != np.uint64(0):
            place = popcount((left & (~left + _ONE)) - _ONE)
            rows[n] = np.uint32(word * 64 + place)
            left &= left - _ONE
            n += 1


@kernel
def drop_repeats(rows, end):
    """Move ascending rows below `end` forward, each once; return how many they are."""
    n = 0
    for i in range(rows.shape[0]):
        row = rows[i]
        if np.int64(row) >= end:
            break
        if n == 0 or rows[n - 1] != row:
            rows[n] = row
            n += 1
    return n


@kernel
def keep_by_bits(bits, rows, wanted, kept):
    """Write those rows to `kept` whose bit is as `wanted`; return how many there are."""
    end = bits.shape[0] * 64
    n = 0
    for i in range(rows.shape[0]):
        row = np.int64(rows[i])
        held = row < end and (bits[row >> 6] >> np.uint64(row & 63)) & _ONE != np.uint64(0)
        if held == wanted:
            kept[n] = rows[i]
            n += 1
    return n


@kernel
def keep_by_rows(others, rows, wanted, kept):
    """Write those rows to `kept` that are among the others, or are not; both ascending.

    The next place among the others is looked for in steps that double, so that few rows among
    many cost little.
    """
    size = others.shape[0]
    at = np.int64(0)
    n = 0
    for i in range(rows.shape[0]):
        row = rows[i]
        step = np.int64(1)
        while at + step < size and others[at + step] < row:
            step *= 2
        high = min(size, at + step)
        while at < high:
            middle = (at + high) >> 1
            if others[middle] < row:
                at = middle + 1
            else:
                high = middle
        held = at < size and others[at] == row
        if held == wanted:
            kept[n] = row
            n += 1
    return n
