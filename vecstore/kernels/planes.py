"""Bit planes of one row: packing them, and summing what they select."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from vecstore.kernels.vectors import BIT, F32, I8, I64, constant, fill, pointer, repeat


@intrinsic
def plane_sum(typingctx: Any, bits: Any, stride: Any, words: Any, values: Any) -> Any:
    """Sum of the float32 values whose bit is set.

    Parameters
    ----------
    bits : int64
        Address of the first u64; the next ones follow `stride` bytes apart.
    stride, words : int64
    values : int64
        Address of float32 (64 * words,).
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits, stride, words, values = args
        lanes = ir.VectorType(F32, 64)
        zeros = ir.Constant(lanes, [0.0] * 64)
        places = pointer(builder, values, lanes)

        def step(word: Any, sums: list[Any]) -> list[Any]:
            at = pointer(builder, builder.add(bits, builder.mul(word, stride)), I64)
            mask = builder.bitcast(builder.load(at, align=4), ir.VectorType(BIT, 64))
            value = builder.load(builder.gep(places, [word]), align=64)
            part = builder.select(mask, value, zeros)
            return [builder.fadd(sums[0], part, flags=["contract"])]

        (total,) = repeat(builder, words, [zeros], step)
        start = ir.Constant(F32, 0.0)
        name = "llvm.vector.reduce.fadd.v64f32"
        kind = ir.FunctionType(F32, [F32, lanes])
        function = builder.module.declare_intrinsic(name, (), kind)
        return builder.call(function, [start, total], fastmath=["reassoc"])

    return types.float32(types.int64, types.int64, types.int64, types.int64), codegen


@intrinsic
def pack_plane(typingctx: Any, codes: Any, bit: Any) -> Any:
    """Gather one bit of each of 64 bytes at `codes` into a u64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        many = ir.VectorType(I8, 64)
        code = builder.load(pointer(builder, args[0], many), align=64)
        one = builder.shl(ir.Constant(I8, 1), builder.trunc(args[1], I8))
        chosen = builder.and_(code, fill(builder, one, many))
        return builder.bitcast(builder.icmp_unsigned("!=", chosen, constant(many, 0)), I64)

    return types.uint64(types.int64, types.int64), codegen
