"""Keeping the best: a sorted top-k with ties by insertion, and a heap."""

from __future__ import annotations

import numpy as np

from vecstore.config import CHUNK_ROWS
from vecstore.kernels.cache import kernel
from vecstore.kernels.chunks import chunk_field, place_in_chunk
from vecstore.kernels.intrinsics import (
    bits_float,
    float_bits,
    load_f32,
    load_u32,
    load_u64,
    store_f32,
    store_u32,
    store_u64,
)
from vecstore.kernels.view import CHUNK_ORDER, CHUNKS, NO_ROW, UPPER, UPPER_ROWS

_SIGN = np.uint32(0x8000_0000)
_ALL = np.uint32(0xFFFF_FFFF)
NO_KEY = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
"""Stands where there is no packed key: no distance has its bits."""


@kernel
def insertion_order(view, row):
    """Place of a row in the order of insertion (bulk loads number rows by posting)."""
    chunk = row // CHUNK_ROWS
    if chunk < view[CHUNKS]:
        order = chunk_field(view, chunk, CHUNK_ORDER)
        if order != 0:
            return np.int64(load_u32(order, place_in_chunk(view, row)))
    return row


@kernel
def offer(view, rows, distances, count, row, distance):
    """Insert a row into the sorted best so far; return how many there are now.

    A row that is there already has the same distance to the bit, so only equal distances are
    looked at.  Equal distances are ordered by insertion.
    """
    k = rows.shape[0]
    place = count
    while place > 0 and distances[place - 1] > distance:
        place -= 1
    tie = place
    while tie > 0 and distances[tie - 1] == distance:
        tie -= 1
        if rows[tie] == row:
            return count
    if tie != place:
        order = insertion_order(view, np.int64(row))
        while place > tie and insertion_order(view, np.int64(rows[place - 1])) > order:
            place -= 1
    if place >= k:
        return count
    last = min(count, k - 1)
    while last > place:
        rows[last] = rows[last - 1]
        distances[last] = distances[last - 1]
        last -= 1
    rows[place] = row
    distances[place] = distance
    return min(count + 1, k)


@kernel
def offer_upper(scratch, k, row, upper):
    """Insert a row's upper bound into the k least, each row once."""
    uppers = scratch[UPPER]
    rows = scratch[UPPER_ROWS]
    if not upper < load_f32(uppers, k - 1):
        return
    last = k - 1
    for i in range(k):
        if load_u32(rows, i) == row:
            if not upper < load_f32(uppers, i):
                return
            last = i
    place = last
    while place > 0 and load_f32(uppers, place - 1) > upper:
        store_f32(uppers, place, load_f32(uppers, place - 1))
        store_u32(rows, place, load_u32(rows, place - 1))
        place -= 1
    store_f32(uppers, place, upper)
    store_u32(rows, place, row)


@kernel
def clear_uppers(scratch, k):
    """Begin with no upper bound."""
    for i in range(k):
        store_f32(scratch[UPPER], i, np.float32(np.inf))
        store_u32(scratch[UPPER_ROWS], i, np.uint32(NO_ROW))


@kernel
def heap_key(distance, ordinal):
    """Pack a distance and an ordinal so that integer order is order of distance."""
    bits = float_bits(distance)
    bits = bits ^ _SIGN if bits & _SIGN == np.uint32(0) else bits ^ _ALL
    return (np.uint64(bits) << np.uint64(32)) | np.uint64(ordinal)


@kernel
def key_distance(packed):
    """Distance of a packed key."""
    bits = np.uint32(packed >> np.uint64(32))
    bits = bits ^ _SIGN if bits & _SIGN != np.uint32(0) else bits ^ _ALL
    return bits_float(np.uint32(bits))


@kernel
def key_ordinal(packed):
    """Ordinal of a packed key; -1 of `NO_KEY`."""
    return np.int64(packed & np.uint64(_ALL)) if packed != NO_KEY else np.int64(-1)


@kernel
def _sift_down(heap, size, start):
    place = start
    value = load_u64(heap, place)
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        best = load_u64(heap, child)
        if child + 1 < size:
            right = load_u64(heap, child + 1)
            if right < best:
                best = right
                child += 1
        if best >= value:
            break
        store_u64(heap, place, best)
        place = child
    store_u64(heap, place, value)


@kernel
def heapify(heap, size):
    """Order `size` packed keys at address `heap` as a binary min-heap."""
    for start in range(size // 2 - 1, -1, -1):
        _sift_down(heap, size, start)


@kernel
def heap_pop(heap, size):
    """Remove and return the smallest key of a heap of `size` > 0 keys."""
    best = load_u64(heap, 0)
    store_u64(heap, 0, load_u64(heap, size - 1))
    if size > 2:
        _sift_down(heap, size - 1, 0)
    return best
