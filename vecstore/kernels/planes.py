"""Bit planes of one row: packing them, and products with what they encode."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from vecstore.kernels.vectors import BIT, F32, I8, I64, constant, fill, pointer, repeat


@intrinsic
def code_product(
    typingctx: Any, signs: Any, stride: Any, extra: Any, planes: Any, words: Any, values: Any
) -> Any:
    """Product of a row's code, an unsigned number in each dimension, with float32 values.

    Parameters
    ----------
    signs : int64
        Address of the highest bits: a u64, the next ones `stride` bytes apart.
    stride : int64
    extra : int64
        Address of the other bits, u64 (planes, words), the higher ones first.
    planes, words : int64
        At least one of each.
    values : int64
        Address of float32 (64 * words,).
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        signs, stride, extra, planes, words, values = args
        lanes = ir.VectorType(F32, 64)
        zeros, twos = ir.Constant(lanes, [0.0] * 64), ir.Constant(lanes, [2.0] * 64)
        places = pointer(builder, values, lanes)
        behind = pointer(builder, extra, I64)

        def chosen(place: Any, value: Any) -> Any:
            mask = builder.bitcast(builder.load(place, align=4), ir.VectorType(BIT, 64))
            return builder.select(mask, value, zeros)

        def take_word(word: Any, sums: list[Any]) -> list[Any]:
            value = builder.load(builder.gep(places, [word]), align=64)

            def take_plane(plane: Any, parts: list[Any]) -> list[Any]:
                at = builder.add(builder.mul(plane, words), word)
                part = chosen(builder.gep(behind, [at]), value)
                double = builder.fmul(parts[0], twos, flags=["contract"])
                return [builder.fadd(double, part, flags=["contract"])]

            place = pointer(builder, builder.add(signs, builder.mul(word, stride)), I64)
            (part,) = repeat(builder, planes, [chosen(place, value)], take_plane)
            return [builder.fadd(sums[0], part, flags=["contract"])]

        (total,) = repeat(builder, words, [zeros], take_word)
        start = ir.Constant(F32, 0.0)
        name = "llvm.vector.reduce.fadd.v64f32"
        kind = ir.FunctionType(F32, [F32, lanes])
        function = builder.module.declare_intrinsic(name, (), kind)
        return builder.call(function, [start, total], fastmath=["reassoc"])

    return types.float32(*(types.int64,) * 6), codegen


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
