"""Rounding a vector to signed bytes, as LLVM vector code: 64 coordinates at a time."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from vecstore.kernels.vectors import F32, I8, call, fill, pointer, repeat

LANES = 64
_VF, _V8 = ir.VectorType(F32, LANES), ir.VectorType(I8, LANES)
_ZEROS = ir.Constant(_VF, [0.0] * LANES)
_HALVES = ir.Constant(_VF, [0.5] * LANES)


@intrinsic
def largest_magnitude(typingctx: Any, values: Any, words: Any) -> Any:
    """Largest magnitude of float32 (64 * words,) at `values`, none of them NaN."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        places = pointer(builder, args[0], _VF)

        def step(word: Any, largest: list[Any]) -> list[Any]:
            value = builder.load(builder.gep(places, [word]), align=64)
            size = call(builder, f"llvm.fabs.v{LANES}f32", _VF, [value])
            more = builder.fcmp_ordered(">", size, largest[0])
            return [builder.select(more, size, largest[0])]

        (largest,) = repeat(builder, args[1], [_ZEROS], step)
        kind = ir.FunctionType(F32, [_VF])
        name = f"llvm.vector.reduce.fmax.v{LANES}f32"
        function = builder.module.declare_intrinsic(name, (), kind)
        return builder.call(function, [largest], fastmath=["nnan"])

    return types.float32(types.int64, types.int64), codegen


@intrinsic
def round_to_bytes(typingctx: Any, values: Any, words: Any, inverse: Any, target: Any) -> Any:
    """Round float32 (64 * words,) times `inverse`, at most 127 in magnitude, to signed bytes.

    Halves are rounded up.  Returns the sum of the bytes.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values, words, inverse, target = args
        places, bytes_ = pointer(builder, values, _VF), pointer(builder, target, _V8)
        scale = fill(builder, inverse, _VF)

        def step(word: Any, sums: list[Any]) -> list[Any]:
            value = builder.load(builder.gep(places, [word]), align=64)
            scaled = builder.fadd(builder.fmul(value, scale), _HALVES)
            whole = call(builder, f"llvm.floor.v{LANES}f32", _VF, [scaled])
            builder.store(builder.fptosi(whole, _V8), builder.gep(bytes_, [word]), align=64)
            return [builder.fadd(sums[0], whole)]

        (total,) = repeat(builder, words, [_ZEROS], step)
        kind = ir.FunctionType(F32, [F32, _VF])
        name = f"llvm.vector.reduce.fadd.v{LANES}f32"
        function = builder.module.declare_intrinsic(name, (), kind)
        return builder.call(function, [ir.Constant(F32, 0.0), total], fastmath=["reassoc"])

    return types.float32(types.int64, types.int64, types.float32, types.int64), codegen
