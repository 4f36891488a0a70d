"""What Numba does not offer by itself: memory by address, bit scans, prefetch, code blocks.

The block kernel is written as LLVM vector code because its shape is the whole point: 32 rows
side by side, one accumulator each, held in registers over all words of the code.  On AVX-512
with VPOPCNTDQ it is three instructions per plane and eight rows; elsewhere LLVM lowers the same
code to what the processor has.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from vecstore.config import BLOCK_ROWS

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_F32 = ir.FloatType()
_V64 = ir.VectorType(_I64, BLOCK_ROWS)
_VF = ir.VectorType(_F32, BLOCK_ROWS)
_VBOOL = ir.VectorType(ir.IntType(1), BLOCK_ROWS)
PLANES = 5
"""Bits of a query coordinate in the block kernel, two's complement."""


def _pointer(builder: Any, address: Any, to: Any) -> Any:
    return builder.inttoptr(address, ir.PointerType(to))


def _splat(builder: Any, scalar: Any, vector_type: Any) -> Any:
    empty = ir.Constant(vector_type, ir.Undefined)
    one = builder.insert_element(empty, scalar, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, BLOCK_ROWS), [0] * BLOCK_ROWS)
    return builder.shuffle_vector(one, empty, zeros)


def _popcount(builder: Any, value: Any) -> Any:
    name = f"llvm.ctpop.v{BLOCK_ROWS}i64"
    function = builder.module.declare_intrinsic(name, (), ir.FunctionType(_V64, [_V64]))
    return builder.call(function, [value])


def _loader(element: Any, numba_type: Any) -> Any:
    @intrinsic
    def load(typingctx: Any, address: Any, index: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = builder.gep(_pointer(builder, args[0], element), [args[1]])
            return builder.load(place)

        return numba_type(types.int64, types.int64), codegen

    return load


load_i64 = _loader(_I64, types.int64)
load_u64 = _loader(_I64, types.uint64)
load_u32 = _loader(_I32, types.uint32)
load_f32 = _loader(_F32, types.float32)
load_u16 = _loader(_I16, types.uint16)
load_u8 = _loader(_I8, types.uint8)


def _storer(element: Any, numba_type: Any) -> Any:
    @intrinsic
    def store(typingctx: Any, address: Any, index: Any, value: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = builder.gep(_pointer(builder, args[0], element), [args[1]])
            builder.store(args[2], place)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, numba_type), codegen

    return store


store_i64 = _storer(_I64, types.int64)
store_u64 = _storer(_I64, types.uint64)
store_u32 = _storer(_I32, types.uint32)
store_f32 = _storer(_F32, types.float32)


@intrinsic
def prefetch(typingctx: Any, address: Any) -> Any:
    """Ask the processor for the cache line at `address`; harmless at any address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [ir.PointerType(_I8), _I32, _I32, _I32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [ir.PointerType(_I8)], kind)
        read, locality, data = (ir.Constant(_I32, value) for value in (0, 3, 1))
        builder.call(function, [_pointer(builder, args[0], _I8), read, locality, data])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def lowest_bit(typingctx: Any, mask: Any) -> Any:
    """Index of the lowest set bit of a 32-bit mask that is not zero."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.zext(builder.cttz(args[0], ir.Constant(ir.IntType(1), 1)), _I64)

    return types.int64(types.uint32), codegen


@intrinsic
def float_bits(typingctx: Any, value: Any) -> Any:
    """Bits of a float32; for values >= 0 their integer order is the order of the values."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _I32)

    return types.uint32(types.float32), codegen


@intrinsic
def bits_float(typingctx: Any, bits: Any) -> Any:
    """Inverse of `float_bits`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _F32)

    return types.float32(types.uint32), codegen


@intrinsic
def rabitq_block(
    typingctx: Any,
    block: Any,
    planes: Any,
    words: Any,
    scale: Any,
    shift: Any,
    g_add: Any,
    g_err: Any,
    threshold: Any,
    estimates: Any,
) -> Any:
    """Estimate the distances of one block of 32 rows; say which may lie within `threshold`.

    With the factors of `vecstore.kernels.rabitq` (RaBitQ, section 3):
    ``estimate = f_add + g_add + f_rs * (scale * <bits, planes> - shift)``.

    Parameters
    ----------
    block : int64
        Address of the block (see `vecstore.layout`).
    planes : int64
        Address of u64 (words, PLANES): the query's coordinates as bit planes, the last plane
        of negative weight.
    words : int64
        Words of 64 dimensions.
    scale, shift : float32
        Value of one step of a coordinate, and half the sum of all coordinates.
    g_add, g_err : float32
        The query's part of the estimate, and its factor of the error bound.
    threshold : float32
        Largest distance of interest.
    estimates : int64
        Address of float32 (32,) that receives the estimates.

    Returns
    -------
    uint32
        Bit r is set when the lower bound of row r does not exceed `threshold`.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        block, planes, words, scale, shift, g_add, g_err, threshold, estimates = args
        codes = _pointer(builder, block, _V64)
        plane = _pointer(builder, planes, _I64)
        entry = builder.basic_block
        loop = builder.append_basic_block("rabitq.words")
        done = builder.append_basic_block("rabitq.done")
        builder.branch(loop)
        builder.position_at_end(loop)
        word = builder.phi(_I64)
        word.add_incoming(ir.Constant(_I64, 0), entry)
        sums = [builder.phi(_V64) for _ in range(PLANES)]
        code = builder.load(builder.gep(codes, [word]), align=64)
        nexts = []
        first = builder.mul(word, ir.Constant(_I64, PLANES))
        for bit, total in enumerate(sums):
            total.add_incoming(ir.Constant(_V64, [0] * BLOCK_ROWS), entry)
            at = builder.gep(plane, [builder.add(first, ir.Constant(_I64, bit))])
            hits = builder.and_(code, _splat(builder, builder.load(at), _V64))
            nexts.append(builder.add(total, _popcount(builder, hits)))
        following = builder.add(word, ir.Constant(_I64, 1))
        word.add_incoming(following, loop)
        for total, value in zip(sums, nexts, strict=True):
            total.add_incoming(value, loop)
        builder.cbranch(builder.icmp_signed("<", following, words), loop, done)
        builder.position_at_end(done)
        dot = nexts[0]
        for bit in range(1, PLANES):
            weighted = builder.shl(nexts[bit], ir.Constant(_V64, [bit] * BLOCK_ROWS))
            dot = builder.sub(dot, weighted) if bit == PLANES - 1 else builder.add(dot, weighted)
        narrow = builder.trunc(dot, ir.VectorType(_I32, BLOCK_ROWS))
        value = builder.sitofp(narrow, _VF)
        value = builder.fmul(value, _splat(builder, scale, _VF), flags=["contract"])
        value = builder.fsub(value, _splat(builder, shift, _VF), flags=["contract"])
        factors = builder.bitcast(builder.gep(codes, [words]), ir.PointerType(_VF))
        f_add, f_rs, f_err = (
            builder.load(builder.gep(factors, [ir.Constant(_I64, at)]), align=64) for at in range(3)
        )
        value = builder.fmul(value, f_rs, flags=["contract"])
        value = builder.fadd(value, f_add, flags=["contract"])
        value = builder.fadd(value, _splat(builder, g_add, _VF), flags=["contract"])
        builder.store(value, _pointer(builder, estimates, _VF), align=64)
        error = builder.fmul(f_err, _splat(builder, g_err, _VF), flags=["contract"])
        lower = builder.fsub(value, error, flags=["contract"])
        within = builder.fcmp_ordered("<=", lower, _splat(builder, threshold, _VF))
        return builder.bitcast(within, _I32)

    return (
        types.uint32(
            types.int64,
            types.int64,
            types.int64,
            types.float32,
            types.float32,
            types.float32,
            types.float32,
            types.float32,
            types.int64,
        ),
        codegen,
    )


@intrinsic
def float32_block(typingctx: Any, block: Any, query: Any, dim: Any, inner: Any, target: Any) -> Any:
    """Squared distances (or, if `inner`, negated products) of one block of float32 rows.

    Parameters
    ----------
    block : int64
        Address of float32 (dim, 32): one row per column.
    query : int64
        Address of float32 (dim,).
    dim, inner : int64
    target : int64
        Address of float32 (32,).
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        block, query, dim, inner, target = args
        values, coordinates = _pointer(builder, block, _VF), _pointer(builder, query, _F32)
        products = _splat(builder, builder.icmp_signed("!=", inner, ir.Constant(_I64, 0)), _VBOOL)
        entry = builder.basic_block
        loop = builder.append_basic_block("float32.dims")
        done = builder.append_basic_block("float32.done")
        builder.branch(loop)
        builder.position_at_end(loop)
        at = builder.phi(_I64)
        at.add_incoming(ir.Constant(_I64, 0), entry)
        total = builder.phi(_VF)
        total.add_incoming(ir.Constant(_VF, [0.0] * BLOCK_ROWS), entry)
        value = builder.load(builder.gep(values, [at]), align=64)
        coordinate = _splat(builder, builder.load(builder.gep(coordinates, [at])), _VF)
        apart = builder.fsub(value, coordinate, flags=["contract"])
        left = builder.select(products, builder.fneg(value), apart)
        right = builder.select(products, coordinate, apart)
        grown = builder.fadd(
            total, builder.fmul(left, right, flags=["contract"]), flags=["contract"]
        )
        following = builder.add(at, ir.Constant(_I64, 1))
        at.add_incoming(following, loop)
        total.add_incoming(grown, loop)
        builder.cbranch(builder.icmp_signed("<", following, dim), loop, done)
        builder.position_at_end(done)
        builder.store(grown, _pointer(builder, target, _VF), align=64)
        return context.get_dummy_value()

    return (
        types.void(types.int64, types.int64, types.int64, types.int64, types.int64),
        codegen,
    )


@intrinsic
def mask_within(typingctx: Any, values: Any, threshold: Any) -> Any:
    """Bit r is set when float32 value r of the 32 at `values` does not exceed `threshold`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = builder.load(_pointer(builder, args[0], _VF), align=64)
        within = builder.fcmp_ordered("<=", value, _splat(builder, args[1], _VF))
        return builder.bitcast(within, _I32)

    return types.uint32(types.int64, types.float32), codegen


LANES = 16
_VL = ir.VectorType(_F32, LANES)


@intrinsic
def hadamard_within(typingctx: Any, address: Any) -> Any:
    """Walsh-Hadamard transform, unscaled and in place, of the 16 float32 at `address`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _pointer(builder, args[0], _VL)
        value = builder.load(place, align=4)
        for half in (1, 2, 4, 8):
            order = ir.Constant(ir.VectorType(_I32, LANES), [i ^ half for i in range(LANES)])
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


_V8 = ir.VectorType(_I64, 8)


@intrinsic
def hash_stripe(typingctx: Any, sums: Any, data: Any, secret: Any) -> Any:
    """Add 64 bytes at `data` to the eight XXH3 accumulators at `sums`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place, source, key = (_pointer(builder, address, _V8) for address in args)
        data = builder.load(source, align=1)
        keyed = builder.xor(data, builder.load(key, align=1))
        low = builder.and_(keyed, ir.Constant(_V8, [0xFFFF_FFFF] * 8))
        product = builder.mul(low, builder.lshr(keyed, ir.Constant(_V8, [32] * 8)))
        order = ir.Constant(ir.VectorType(_I32, 8), [i ^ 1 for i in range(8)])
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
        high = builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), _I64)
        return builder.xor(builder.trunc(product, _I64), high)

    return types.uint64(types.uint64, types.uint64), codegen
