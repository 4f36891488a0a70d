"""Values of raw rows, by address, in each of the forms that `vecstore.layout` lays out.

A value is rounded in one way wherever it is computed, so that the distance of a row is that of
the vector which is read back: the intrinsics here carry flags of their own, which keeps Numba
from letting LLVM fuse or reorder their arithmetic.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from vecstore.kernels.cache import kernel
from vecstore.kernels.intrinsics import load_f32, load_u8, load_u16, store_f32
from vecstore.kernels.vectors import converts_half
from vecstore.kernels.view import RAW_FLOAT16, RAW_FLOAT32, RAW_INT8

_I32, _F32 = ir.IntType(32), ir.FloatType()
_STRICT = ["nsz"]
"""Allows nothing that could change a value; without any flag, an instruction gets Numba's."""
INT8_HEAD = 8
"""Bytes of scale and offset before the codes of an int8 row."""


def _half_by_integers(builder: Any, bits: Any) -> Any:
    """Shift a float16 into place as a float32, and multiply by the ratio of their exponents."""
    wide = builder.zext(bits, _I32)
    places = builder.shl(builder.and_(wide, ir.Constant(_I32, 0x7FFF)), ir.Constant(_I32, 13))
    ratio = ir.Constant(_F32, 2.0**112)
    size = builder.fmul(builder.bitcast(places, _F32), ratio, flags=_STRICT)
    sign = builder.shl(builder.and_(wide, ir.Constant(_I32, 0x8000)), ir.Constant(_I32, 16))
    return builder.bitcast(builder.or_(builder.bitcast(size, _I32), sign), _F32)


@intrinsic
def half_value(typingctx: Any, bits: Any) -> Any:
    """Value of the bits of a finite float16."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if converts_half(context):
            return builder.fpext(builder.bitcast(args[0], ir.HalfType()), _F32)
        return _half_by_integers(builder, args[0])

    return types.float32(types.uint16), codegen


@intrinsic
def int8_value(typingctx: Any, scale: Any, offset: Any, code: Any) -> Any:
    """``offset + scale * code``, rounded after each operation."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        scale, offset, code = args
        product = builder.fmul(scale, builder.uitofp(code, _F32), flags=_STRICT)
        return builder.fadd(offset, product, flags=_STRICT)

    return types.float32(types.float32, types.float32, types.uint8), codegen


@kernel
def row_size(form, dim):
    """Bytes of a raw row's values, and of what stands before them."""
    if form == RAW_FLOAT32:
        return 4 * dim
    return 2 * dim if form == RAW_FLOAT16 else INT8_HEAD + dim


@kernel
def row_scale(form, row):
    """Scale and offset of an int8 row; the other forms have none."""
    if form == RAW_INT8:
        return load_f32(row, 0), load_f32(row, 1)
    return np.float32(1.0), np.float32(0.0)


@kernel
def row_value(form, row, scale, offset, i):
    """Value `i` of a raw row.

    In a loop, pass `form` as a constant: the branches are then gone before LLVM makes vectors.
    """
    if form == RAW_FLOAT32:
        return load_f32(row, i)
    if form == RAW_FLOAT16:
        return half_value(load_u16(row, i))
    return int8_value(scale, offset, load_u8(row + INT8_HEAD, i))


@kernel
def _decode(form, row, dim, target):
    scale, offset = row_scale(form, row)
    for i in range(dim):
        store_f32(target, i, row_value(form, row, scale, offset, i))


@kernel
def decode_row(form, row, dim, target):
    """Copy a raw row to float32 (dim,) at `target`."""
    if form == RAW_FLOAT32:
        _decode(RAW_FLOAT32, row, dim, target)
    elif form == RAW_FLOAT16:
        _decode(RAW_FLOAT16, row, dim, target)
    else:
        _decode(RAW_INT8, row, dim, target)
