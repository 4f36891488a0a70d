"""What Numba does not offer by itself: memory by address, bit scans, prefetch, transforms."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from vecstore.kernels.vectors import F32, I8, I16, I32, I64, prefetch_line


def _pointer(builder: Any, address: Any, to: Any) -> Any:
    return builder.inttoptr(address, ir.PointerType(to))


def _loader(element: Any, numba_type: Any) -> Any:
    @intrinsic
    def load(typingctx: Any, address: Any, index: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = builder.gep(_pointer(builder, args[0], element), [args[1]])
            return builder.load(place)

        return numba_type(types.int64, types.int64), codegen

    return load


load_i64 = _loader(I64, types.int64)
load_u64 = _loader(I64, types.uint64)
load_u32 = _loader(I32, types.uint32)
load_f32 = _loader(F32, types.float32)
load_u16 = _loader(I16, types.uint16)
load_u8 = _loader(I8, types.uint8)


def _storer(element: Any, numba_type: Any) -> Any:
    @intrinsic
    def store(typingctx: Any, address: Any, index: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = builder.gep(_pointer(builder, args[0], element), [args[1]])
            builder.store(args[2], place)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, numba_type), codegen

    return store


store_i64 = _storer(I64, types.int64)
store_u64 = _storer(I64, types.uint64)
store_u32 = _storer(I32, types.uint32)
store_f32 = _storer(F32, types.float32)
store_u16 = _storer(I16, types.uint16)
store_u8 = _storer(I8, types.uint8)


@intrinsic
def prefetch(typingctx: Any, address: Any) -> Any:
    """Ask the processor for the cache line at `address`; harmless at any address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        prefetch_line(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def lowest_bit(typingctx: Any, mask: Any) -> Any:
    """Index of the lowest set bit of a 32-bit mask that is not zero."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.zext(builder.cttz(args[0], ir.Constant(ir.IntType(1), 1)), I64)

    return types.int64(types.uint32), codegen


@intrinsic
def popcount(typingctx: Any, word: Any) -> Any:
    """Set bits of a 64-bit word."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), codegen


@intrinsic
def float_bits(typingctx: Any, value: Any) -> Any:
    """Bits of a float32; for values >= 0 their integer order is the order of the values."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], I32)

    return types.uint32(types.float32), codegen


@intrinsic
def bits_float(typingctx: Any, bits: Any) -> Any:
    """Inverse of `float_bits`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], F32)

    return types.float32(types.uint32), codegen


LANES = 16
_VL = ir.VectorType(F32, LANES)


@intrinsic
def hadamard_within(typingctx: Any, address: Any) -> Any:
    """Walsh-Hadamard transform, unscaled and in place, of the 16 float32 at `address`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _pointer(builder, args[0], _VL)
        value = builder.load(place, align=4)
        for half in (1, 2, 4, 8):
            order = ir.Constant(ir.VectorType(I32, LANES), [i ^ half for i in range(LANES)])
            partner = builder.shuffle_vector(value, ir.Constant(_VL, ir.Undefined), order)
            sign = ir.Constant(_VL, [-1.0 if i & half else 1.0 for i in range(LANES)])
            value = builder.fadd(partner, builder.fmul(value, sign), flags=["contract"])
        builder.store(value, place, align=4)
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def hadamard_across(typingctx: Any, first: Any, second: Any) -> Any:
    """Replace 16 float32 at each of two addresses by their sums and differences."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        one, two = (_pointer(builder, address, _VL) for address in args)
        a, b = builder.load(one, align=4), builder.load(two, align=4)
        builder.store(builder.fadd(a, b), one, align=4)
        builder.store(builder.fsub(a, b), two, align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


_V8 = ir.VectorType(I64, 8)


@intrinsic
def hash_stripe(typingctx: Any, sums: Any, data: Any, secret: Any) -> Any:
    """Add 64 bytes at `data` to the eight XXH3 accumulators at `sums`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place, source, key = (_pointer(builder, address, _V8) for address in args)
        data = builder.load(source, align=1)
        keyed = builder.xor(data, builder.load(key, align=1))
        low = builder.and_(keyed, ir.Constant(_V8, [0xFFFF_FFFF] * 8))
        product = builder.mul(low, builder.lshr(keyed, ir.Constant(_V8, [32] * 8)))
        order = ir.Constant(ir.VectorType(I32, 8), [i ^ 1 for i in range(8)])
        swapped = builder.shuffle_vector(data, ir.Constant(_V8, ir.Undefined), order)
        total = builder.add(builder.load(place, align=8), builder.add(product, swapped))
        builder.store(total, place, align=8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def multiply_fold(typingctx: Any, a: Any, b: Any) -> Any:
    """Exclusive or of the two halves of the 128-bit product."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        high = builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), I64)
        return builder.xor(builder.trunc(product, I64), high)

    return types.uint64(types.uint64, types.uint64), codegen
