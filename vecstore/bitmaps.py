"""Roaring bitmaps of row numbers out of numpy arrays, and back.

`BitMap(array)` of pyroaring walks a numpy array value by value; these hand over whole buffers.
"""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

U32 = NDArray[np.uint32]
_DENSE_ROWS_MIN = 16_384
_DENSE_SPAN = 16
_CONTAINER = 65_536
_ARRAY_MAX = 4_096
_COOKIE = 12_346


def bitmap_of(rows: U32) -> BitMap:
    """Bitmap of row numbers in any order, repetitions allowed.

    Parameters
    ----------
    rows : uint32 (n,)
    """
    if len(rows) >= _DENSE_ROWS_MIN:
        low, high = int(rows.min()), int(rows.max())
        if high - low < _DENSE_SPAN * len(rows):
            return _dense(rows, low // _CONTAINER, high // _CONTAINER + 1)
        rows = np.sort(rows)
    values = array("I")
    values.frombytes(np.ascontiguousarray(rows, np.uint32).data.cast("B") if len(rows) else b"")
    return BitMap(values)


def rows_of(bitmap: BitMap) -> U32:
    """Row numbers of a bitmap, ascending."""
    return np.frombuffer(bitmap.to_array(), np.uint32)


def _dense(rows: U32, first: int, end: int) -> BitMap:
    """Bitmap by way of one byte per row: the stored form of containers `first` to `end` - 1.

    The portable format of Roaring (its specification on GitHub, RoaringFormatSpec): cookie, number
    of containers, (key u16, cardinality - 1 u16) each, offset u32 each, then the containers, of
    which those with more than 4,096 rows are 8,192 bytes of bits.
    """
    marks = np.zeros((end - first) * _CONTAINER, np.bool_)
    marks[rows - np.uint32(first * _CONTAINER)] = True
    by_container = marks.reshape(-1, _CONTAINER)
    counts = np.count_nonzero(by_container, axis=1)
    full = np.flatnonzero(counts > _ARRAY_MAX)
    head = np.empty((len(full), 2), "<u2")
    head[:, 0] = full + first
    head[:, 1] = counts[full] - 1
    base = 8 + 8 * len(full)
    offsets = (base + _CONTAINER // 8 * np.arange(len(full))).astype("<u4")
    bits = np.packbits(by_container[full], axis=1, bitorder="little")
    start = np.array([_COOKIE, len(full)], "<u4")
    stored = b"".join(part.tobytes() for part in (start, head, offsets, bits))
    found = BitMap.deserialize(stored)
    for container in np.flatnonzero((counts > 0) & (counts <= _ARRAY_MAX)).tolist():
        places = np.flatnonzero(by_container[container]) + (first + container) * _CONTAINER
        found |= bitmap_of(places.astype(np.uint32))
    return found
