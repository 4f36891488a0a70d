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
        self._dim, padded, self._parts, self._part_dim, pages = view[
            [v.DIM, v.PADDED, v.PARTS, v.PART_DIM, v.PAGES]
        ].tolist()
        self._heap = max(ESTIMATES_MAX, pages)
        sizes = {
            v.QUERY: 4 * self._dim,
            v.ROTATED: 4 * padded,
            v.PLANES_AT: padded // 64 * PLANES * 8,
            v.ESTIMATES: 4 * ESTIMATES_MAX,
            v.ORDINALS: 4 * ESTIMATES_MAX,
            v.HEAP: 8 * self._heap,
            v.SURVIVORS: 4 * v.SURVIVORS_MAX,
            v.LOWER: 4 * v.SURVIVORS_MAX,
            v.HASH: 64,
            v.FACTS: 4 * v.QUERY_FACTS,
            v.BYTES_AT: padded,
            v.PARTED: 4 * self._parts * self._part_dim,
            v.TABLES: 4 * CODEWORDS * self._parts,
            v.UPPER: 4 * v.UPPERS_MAX,
            v.UPPER_ROWS: 4 * v.UPPERS_MAX,
            v.PENDING: v.PENDING_BYTES * v.PENDING_MAX,
            v.NEARBY: 8 * v.NEARBY_MAX,
        }
        self._memory = np.zeros(sum(sizes.values()) + 64 * (len(sizes) + 1), np.uint8)
        self.table: I64 = np.zeros(v.SCRATCH_FIELDS, np.int64)
        at = int(self._memory.ctypes.data)
        for field, size in sizes.items():
            at += -at % 64
            self.table[field] = at
            at += size
        self.table[v.ESTIMATES_MAX] = ESTIMATES_MAX
        self.counters: I64 = np.zeros(v.COUNTERS, np.int64)
        self._served = view

    def fits(self, view: I64) -> bool:
        """Tell whether the memory serves a view."""
        if view is self._served:
            return True
        field = view.item
        fits: bool = (
            self._dim == field(v.DIM)
            and self._parts == field(v.PARTS)
            and self._part_dim == field(v.PART_DIM)
            and self._heap >= field(v.PAGES)
        )
        if fits:
            self._served = view
        return fits
