"""A value below which the least of many lie, as LLVM vector code: 32 values at a time.

Counting how many values do not exceed one is so quick in vectors (a nanosecond for some 30 of
them) that halving the range a dozen times takes a fifth of one scalar pass over a histogram.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from vecstore.config import BLOCK_ROWS
from vecstore.kernels.cache import kernel
from vecstore.kernels.vectors import F32, I32, I64, call, constant, fill, pointer, repeat

_VF, _VI = ir.VectorType(F32, BLOCK_ROWS), ir.VectorType(I32, BLOCK_ROWS)
_INFINITE = ir.Constant(_VF, [float("inf")] * BLOCK_ROWS)
_LEAST = ir.Constant(_VF, [float("-inf")] * BLOCK_ROWS)
_HALF = np.float32(0.5)
ROUNDS_MAX = 24
SLACK = 16
"""The search for a cut ends when no more than 1/16 of what is wanted is below it in excess."""


def _bound(name: str, start: Any, sign: str, text: str) -> Any:
    """Make the kernel that finds the least or the greatest value that is not infinite."""

    def bound_kernel(typingctx: Any, values: Any, blocks: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            places = pointer(builder, args[0], _VF)

            def step(block: Any, best: list[Any]) -> list[Any]:
                value = builder.load(builder.gep(places, [block]), align=64)
                better = builder.fcmp_ordered(sign, value, best[0])
                finite = builder.fcmp_ordered("<", value, _INFINITE)
                return [builder.select(builder.and_(better, finite), value, best[0])]

            (best,) = repeat(builder, args[1], [start], step)
            kind = ir.FunctionType(F32, [_VF])
            reduction = f"llvm.vector.reduce.{name}.v{BLOCK_ROWS}f32"
            function = builder.module.declare_intrinsic(reduction, (), kind)
            return builder.call(function, [best], fastmath=["nnan"])

        return types.float32(types.int64, types.int64), codegen

    bound_kernel.__doc__ = text
    return intrinsic(bound_kernel)


least = _bound(
    "fmin",
    _INFINITE,
    "<",
    "Least of float32 (blocks, 32) at `values`, blocks > 0; +inf when there is none below.",
)
greatest = _bound(
    "fmax",
    _LEAST,
    ">",
    "Greatest of float32 (blocks, 32) at `values` below +inf, blocks > 0; -inf when there is none.",
)


@intrinsic
def count_within(typingctx: Any, values: Any, blocks: Any, cut: Any) -> Any:
    """Count those of float32 (blocks, 32) at `values`, blocks > 0, that do not exceed `cut`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values, blocks, cut = args
        places, limit = pointer(builder, values, _VF), fill(builder, cut, _VF)

        def step(block: Any, counts: list[Any]) -> list[Any]:
            value = builder.load(builder.gep(places, [block]), align=64)
            within = builder.fcmp_ordered("<=", value, limit)
            return [builder.add(counts[0], builder.zext(within, _VI))]

        (counts,) = repeat(builder, blocks, [constant(_VI, 0)], step)
        total = call(builder, f"llvm.vector.reduce.add.v{BLOCK_ROWS}i32", I32, [counts])
        return builder.zext(total, I64)

    return types.int64(types.int64, types.int64, types.float32), codegen


@kernel
def cut_below(values, n, want):
    """Find a value that at least `want` of `n` float32 values do not exceed, and few more.

    Parameters
    ----------
    values : int64
        Address, a multiple of 64.
    n : int64
        A multiple of 32. Infinite values mark empty places and are ignored.
    want : int64
        When there are fewer, the answer is the greatest of them.
    """
    blocks = n // BLOCK_ROWS
    if blocks == 0:
        return np.float32(-np.inf)
    low, high = least(values, blocks), greatest(values, blocks)
    for _ in range(ROUNDS_MAX):
        middle = _HALF * low + _HALF * high
        if not (low < middle and middle < high):
            break
        count = count_within(values, blocks, middle)
        if count < want:
            low = middle
        else:
            high = middle
            if count <= want + want // SLACK:
                break
    return high
