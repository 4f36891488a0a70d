"""Rows in extents: code blocks, raw rows, bitmaps over rows."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vecstore.config import BLOCK_ROWS
from vecstore.kernels.rowsets import mark, read
from vecstore.layout.base import SECTION_ALIGN, align, padded_dim

# --- blocks --------------------------------------------------------------------------------
#
# A run is its blocks, then, for codes of several planes, what belongs to each row:
#
# signs   codes u64[words][32] | factors
#         behind, by row: planes u64[bits - 1][words], the highest first | f_add f_rs f_err f32
# bytes   codes u8[padded / 4][32][4] | factors
# halves  codes u8[padded / 8][32][4]: of eight dimensions, 0 to 3 low and 4 to 7 high | factors
# parts   codes u8[parts][32], to a multiple of 64 bytes | factors
# values  f32 or f16[dim][32] | f_err f32[32] | row u32[32]
#
# factors f_add f32[32] | f_rs f32[32] | f_err f32[32] | row u32[32]

_FACTORS_BYTES: Final = 4 * 4 * BLOCK_ROWS


def sign_block_bytes(dim: int) -> int:
    """Bytes of one block of 32 rows with 1-bit codes."""
    return padded_dim(dim) // 8 * BLOCK_ROWS + _FACTORS_BYTES


def extra_bytes(dim: int, bits: int) -> int:
    """Bytes that a row of `bits` bits per dimension has beside its sign bits."""
    return padded_dim(dim) // 8 * (bits - 1) + 3 * 4 if bits > 1 else 0


def grid_block_bytes(dim: int, bits: int) -> int:
    """Bytes of one block of 32 rows of 4- or 8-bit codes."""
    return padded_dim(dim) * bits // 8 * BLOCK_ROWS + _FACTORS_BYTES


def parts_block_bytes(parts: int) -> int:
    """Bytes of one block of 32 rows of product-quantised codes."""
    return align(parts * BLOCK_ROWS, SECTION_ALIGN) + _FACTORS_BYTES


def value_block_bytes(dim: int, size: int) -> int:
    """Bytes of one block of 32 rows of values of `size` bytes."""
    return (dim * size + 8) * BLOCK_ROWS


assert sign_block_bytes(128) == 1024


# --- raw rows ------------------------------------------------------------------------------
#
# float32:  values f32[dim]
# float16:  values f16[dim] | zeros
# int8:     scale f32 | offset f32 | codes u8[dim] | zeros       value = offset + scale * code
#
# A row takes a multiple of 4 bytes, so that 1,024 rows fill whole pages.

INT8_HEAD: Final = np.dtype([("scale", "<f4"), ("offset", "<f4")])
assert INT8_HEAD.itemsize == 8


def float32_row_bytes(dim: int) -> int:
    """Bytes of one raw row of float32 values."""
    return 4 * dim


def float16_row_bytes(dim: int) -> int:
    """Bytes of one raw row of float16 values."""
    return align(2 * dim, 4)


def int8_row_bytes(dim: int) -> int:
    """Bytes of one raw row of 8-bit codes."""
    return INT8_HEAD.itemsize + align(dim, 4)


def bitmap_words(rows: int) -> int:
    """Number of u64 words of a bitmap over `rows` rows."""
    return -(-rows // 64)


def set_bits(bitmap: NDArray[np.uint64], rows: NDArray[np.uint32], value: bool) -> None:
    """Set (or clear) one bit per row, in place; rows beyond the bitmap are passed over."""
    mark(bitmap, np.require(rows, np.uint32, ["C", "W"]), value)


def set_range(bitmap: NDArray[np.uint64], first: int, end: int) -> None:
    """Set the bits from `first` to `end` - 1, in place; `first` is a multiple of 64."""
    whole = end // 64
    bitmap[first // 64 : whole] = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
    if end % 64:
        bitmap[whole] |= np.uint64((1 << end % 64) - 1)


def get_bits(bitmap: NDArray[np.uint64], rows: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Test one bit per row; those of rows beyond the bitmap are not set."""
    found = np.empty(len(rows), np.bool_)
    read(bitmap, np.require(rows, np.uint32, ["C", "W"]), found)
    return found
