"""Rows that stand in no posting yet: exact answers, most rows excluded by bytes beside them.

A fresh row has a byte for each value and a bound on what they leave out of any inner product, so a
scan reads a quarter of it unless it may be among the nearest.  Nothing is lost by that: bounds
include the rounding of float32 sums of as many terms as there are dimensions, in any order.
"""

from __future__ import annotations

import numpy as np

from vecstore.kernels.cache import allocating_kernel, kernel
from vecstore.kernels.distance import exact_distance, inner_product
from vecstore.kernels.intrinsics import (
    bits_float,
    float_bits,
    load_f32,
    load_i64,
    load_u8,
    load_u32,
    store_f32,
    store_u8,
)
from vecstore.kernels.query import prepare
from vecstore.kernels.raw import decode_row
from vecstore.kernels.rows import is_live
from vecstore.kernels.topk import offer
from vecstore.kernels.view import (
    COSINE,
    DIM,
    FRESH_ADDRESSES,
    FRESH_CODES,
    FRESH_NUMBERS,
    FRESH_ROWS,
    FRESH_VECTORS,
    L2,
    METRIC,
    QUERY,
    RAW_FORM,
    ROW_BYTES,
)

CODE_HEAD = 16
"""Bytes before the codes: their step, the value of code 0, the bound, the squared length."""
_STEPS = np.float32(255)
_SPAN_MIN = np.float32(1e-30)
"""Below it the inverse of a step is no float32; such rows are as good as constant."""
_HALF = np.float32(0.5)
_ONE = np.float32(1.0)
_TWO = np.float32(2.0)
_SIGN = np.int32(0x7FFF_FFFF)


def code_bytes(dim: int) -> int:
    """Bytes from the codes of one fresh row to those of the next."""
    return (CODE_HEAD + dim + 15) // 16 * 16


_code_bytes = kernel(code_bytes)


@kernel
def _rounding(dim):
    """Relative error of a float32 sum of `dim` products at most, whatever the order."""
    return np.float32(dim + 16) * np.float32(2.0**-23)


@kernel
def _mirrored(bits):
    """Turn bits of a float32 into an integer of the same order, and back."""
    return bits ^ ((bits >> np.int32(31)) & _SIGN)


@kernel
def _of_key(key):
    return bits_float(np.uint32(_mirrored(key)))


@kernel
def _range(values, dim):
    """Least and largest of float32 values, compared as integers, which LLVM makes vectors of."""
    low, high = _SIGN, np.int32(-1) - _SIGN
    for i in range(dim):
        key = _mirrored(np.int32(float_bits(load_f32(values, i))))
        low = min(low, key)
        high = max(high, key)
    return _of_key(low), _of_key(high)


@allocating_kernel
def encode_fresh(metric, form, dim, rows, codes):
    """Encode raw rows for `scan_fresh`.

    Parameters
    ----------
    metric, form, dim : int64
    rows : uint8 (n, row bytes)
        In their raw form.
    codes : uint8 (n, `code_bytes`)
        Receives them.
    """
    room = np.empty(dim + 16, np.float32)
    values = (room.ctypes.data + 63) // 64 * 64
    rounding = _rounding(dim)
    side = np.sqrt(np.float32(dim))
    for n in range(rows.shape[0]):
        decode_row(form, rows.ctypes.data + rows.shape[1] * n, dim, values)
        prepare(metric, values, dim, values)
        code = codes.ctypes.data + codes.shape[1] * n
        low, high = _range(values, dim)
        span = high - low
        step = inverse = np.float32(0.0)
        if span > _SPAN_MIN:
            step, inverse = span / _STEPS, _STEPS / span
        lost = square = np.float32(0.0)
        for i in range(dim):
            value = load_f32(values, i)
            place = min(np.int32((value - low) * inverse + _HALF), np.int32(255))
            store_u8(code + CODE_HEAD, i, np.uint8(place))
            difference = value - (low + step * np.float32(place))
            lost += difference * difference
            square += value * value
        largest = abs(low) + abs(high)
        store_f32(code, 0, step)
        store_f32(code, 1, low)
        store_f32(code, 2, (_ONE + rounding) * np.sqrt(lost) + _TWO * rounding * side * largest)
        store_f32(code, 3, square)


@kernel
def least_distance(metric, code, query, dim, total, length):
    """Bound below the exact distance of a row, of its codes and a query's sum and length."""
    product = np.float32(0.0)
    for i in range(dim):
        product += load_f32(query, i) * np.float32(load_u8(code + CODE_HEAD, i))
    nearest = load_f32(code, 1) * total + load_f32(code, 0) * product + load_f32(code, 2) * length
    rounding = np.float32(4.0) * _rounding(dim)
    if metric == L2:
        whole = length * length + load_f32(code, 3)
        return whole - rounding * whole - _TWO * nearest
    if metric == COSINE:
        return _ONE - rounding - nearest
    return -nearest


@kernel
def _codes_of(view, i):
    """Address of a fresh row's codes; 0 when it has none."""
    if view[FRESH_CODES] == 0:
        return np.int64(0)
    if view[FRESH_ADDRESSES] == 0:
        return view[FRESH_CODES] + _code_bytes(view[DIM]) * i
    return load_i64(view[FRESH_CODES], i)


@kernel
def scan_fresh(view, scratch, rows, distances, count):
    """Exact distances of all rows that stand in no posting yet, but for those too far away."""
    if view[FRESH_ROWS] == 0:
        return count
    dim = view[DIM]
    form = view[RAW_FORM]
    metric = view[METRIC]
    query = scratch[QUERY]
    last = rows.shape[0] - 1
    total = np.float32(0.0)
    for i in range(dim):
        total += load_f32(query, i)
    length = np.sqrt(inner_product(query, query, dim))
    for i in range(view[FRESH_ROWS]):
        row = np.int64(load_u32(view[FRESH_NUMBERS], i))
        if not is_live(view, row):
            continue
        codes = _codes_of(view, i)
        if count > last and codes != 0:
            least = least_distance(metric, codes, query, dim, total, length)
            if least > distances[last]:
                continue
        if view[FRESH_ADDRESSES] == 0:
            address = view[FRESH_VECTORS] + view[ROW_BYTES] * i
        else:
            address = load_i64(view[FRESH_ADDRESSES], i)
        distance = exact_distance(form, metric, query, address, dim)
        if count <= last or distance <= distances[last]:
            count = offer(view, rows, distances, count, np.uint32(row), distance)
    return count
