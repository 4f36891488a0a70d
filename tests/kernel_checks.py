"""What the tests of kernels share: addresses, aligned memory, masks as lists."""

from __future__ import annotations

from typing import Any

import numpy as np

BLOCK = 32


def address(array: Any) -> int:
    return int(array.ctypes.data)


def aligned(count: int, dtype: Any) -> Any:
    """Zeroed memory that starts at a multiple of 64 bytes, as blocks do in extents."""
    dtype = np.dtype(dtype)
    raw = np.zeros(count * dtype.itemsize + 64, np.uint8)
    start = -address(raw) % 64
    return raw[start : start + count * dtype.itemsize].view(dtype)


def aligned_copy(array: Any) -> Any:
    """The same values, at a multiple of 64 bytes."""
    copy = aligned(array.size, array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def bits_of(mask: int) -> list[bool]:
    return [bool(mask >> r & 1) for r in range(BLOCK)]
