"""Work memory of one running kernel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vecstore.kernels import view as v
from vecstore.kernels.blocks import PLANES
from vecstore.kernels.query import CODEWORDS

I64 = NDArray[np.int64]

ESTIMATES_MAX = 16_384


class Scratch:
    """Work memory for the views of one shape.

    Attributes
    ----------
    table : int64 array
        Addresses, as kernels take them (see `vecstore.kernels.view`).
    counters : int64 array
        What a kernel counted.
    """

    def __init__(self, view: I64) -> None:
        self._shape = _shape(view)
        dim, padded, wide, parts = self._shape
        heap = max(ESTIMATES_MAX, int(view[v.PAGES]))
        sizes = {
            v.QUERY: 4 * dim,
            v.ROTATED: 4 * padded,
            v.PLANES_AT: padded // 64 * PLANES * 8,
            v.ESTIMATES: 4 * ESTIMATES_MAX,
            v.ORDINALS: 4 * ESTIMATES_MAX,
            v.HEAP: 8 * heap,
            v.SURVIVORS: 4 * v.SURVIVORS_MAX,
            v.LOWER: 4 * v.SURVIVORS_MAX,
            v.HASH: 64,
            v.HISTOGRAM: 8 * v.BINS,
            v.FACTS: 4 * v.QUERY_FACTS,
            v.BYTES_AT: padded,
            v.PARTED: 4 * wide,
            v.TABLES: 4 * CODEWORDS * parts,
            v.UPPER: 4 * v.UPPERS_MAX,
            v.UPPER_ROWS: 4 * v.UPPERS_MAX,
        }
        self._memory = np.zeros(sum(sizes.values()) + 64 * (len(sizes) + 1), np.uint8)
        self.table: I64 = np.zeros(v.SCRATCH_FIELDS, np.int64)
        at = int(self._memory.ctypes.data)
        for field, size in sizes.items():
            at += -at % 64
            self.table[field] = at
            at += size
        self.table[v.ESTIMATES_MAX] = ESTIMATES_MAX
        self.table[v.HEAP_MAX] = heap
        self.counters: I64 = np.zeros(v.COUNTERS, np.int64)

    def fits(self, view: I64) -> bool:
        """Tell whether the memory serves a view."""
        return self._shape == _shape(view) and bool(view[v.PAGES] <= self.table[v.HEAP_MAX])


def _shape(view: I64) -> tuple[int, int, int, int]:
    dim, padded, parts, part_dim = view[[v.DIM, v.PADDED, v.PARTS, v.PART_DIM]].tolist()
    return dim, padded, parts * part_dim, parts
