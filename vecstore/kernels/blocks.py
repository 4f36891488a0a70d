"""Code blocks as LLVM vector code: the distances of 32 rows at a time.

The shape is the whole point: 32 rows side by side, one accumulator each, held in registers over
all words of the code.  With AVX-512 the 1-bit block needs three instructions per plane and eight
rows (VPOPCNTDQ), the 8-bit block one per four dimensions and sixteen rows (VNNI); elsewhere LLVM
lowers the same code to what the processor has.

All coded blocks end in the same factors, so that with those of `vecstore.kernels.factors`
(RaBitQ, section 3) ``estimate = f_add + g_add + f_rs * (scale * <code, query> - shift)``, and a
row may lie within a threshold when ``estimate - f_err * g_err`` does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from vecstore.config import BLOCK_ROWS
from vecstore.kernels.vectors import (
    BIT,
    F32,
    I8,
    I16,
    I32,
    I64,
    call,
    constant,
    converts_half,
    fill,
    has_feature,
    pointer,
    prefetch_line,
    repeat,
)
from vecstore.kernels.view import NO_ROW

_V8, _V16, _V32, _V64 = (ir.VectorType(part, BLOCK_ROWS) for part in (I8, I16, I32, I64))
_VF = ir.VectorType(F32, BLOCK_ROWS)
_NO_FLOATS = ir.Constant(_VF, [0.0] * BLOCK_ROWS)

LINE_BYTES = 64
FACTORS_BYTES = 4 * 4 * BLOCK_ROWS
PLANES = 5
"""Bits of a query coordinate in the 1-bit block kernel, two's complement."""


def _within(builder: Any, lower: Any, threshold: Any) -> Any:
    within = builder.fcmp_ordered("<=", lower, fill(builder, threshold, _VF))
    return builder.bitcast(within, I32)


def _ask(builder: Any, place: Any, lines: int) -> None:
    """Ask for cache lines from an address on; harmless at any address."""
    for line in range(lines):
        at = builder.add(place, ir.Constant(I64, line * LINE_BYTES))
        prefetch_line(builder, at)


def _finish(builder: Any, dot: Any, factors: Any, apart: Any, rest: Any) -> Any:
    """From products with the codes to stored estimates and the mask of rows within reach."""
    scale, shift, g_add, g_err, threshold, estimates = rest
    contract = ["contract"]
    _ask(builder, builder.add(factors, apart), FACTORS_BYTES // LINE_BYTES)
    parts = pointer(builder, factors, _VF)
    f_add, f_rs, f_err = (
        builder.load(builder.gep(parts, [ir.Constant(I64, part)]), align=64) for part in range(3)
    )
    value = builder.fmul(dot, fill(builder, scale, _VF), flags=contract)
    value = builder.fsub(value, fill(builder, shift, _VF), flags=contract)
    value = builder.fmul(value, f_rs, flags=contract)
    value = builder.fadd(value, f_add, flags=contract)
    value = builder.fadd(value, fill(builder, g_add, _VF), flags=contract)
    builder.store(value, pointer(builder, estimates, _VF), align=64)
    error = builder.fmul(f_err, fill(builder, g_err, _VF), flags=contract)
    return _within(builder, builder.fsub(value, error, flags=contract), threshold)


def _load_and_ask(builder: Any, array: Any, index: Any, apart: Any, align: int) -> Any:
    """Load an element; ask for the memory that stands `apart` bytes from it.

    One line asked for with each one loaded: a scan then runs at the speed of memory, where
    asking for a whole block at once fills the processor's buffers and halves it.
    """
    place = builder.gep(array, [index])
    value = builder.load(place, align=align)
    vector = value.type
    width = 4 if vector.element == F32 else vector.element.width // 8
    lines = max(1, width * vector.count // LINE_BYTES)
    _ask(builder, builder.add(builder.ptrtoint(place, I64), apart), lines)
    return value


def _sign_products(
    context: Any, builder: Any, block: Any, planes: Any, words: Any, apart: Any
) -> tuple[Any, Any]:
    """Products of 1-bit codes, u64 (words, 32), with bit planes, u64 (words, PLANES)."""
    codes, plane = pointer(builder, block, _V64), pointer(builder, planes, I64)

    def step(word: Any, sums: list[Any]) -> list[Any]:
        code = _load_and_ask(builder, codes, word, apart, 64)
        first = builder.mul(word, ir.Constant(I64, PLANES))
        grown = []
        for bit, total in enumerate(sums):
            at = builder.gep(plane, [builder.add(first, ir.Constant(I64, bit))])
            hits = builder.and_(code, fill(builder, builder.load(at), _V64))
            count = call(builder, f"llvm.ctpop.v{BLOCK_ROWS}i64", _V64, [hits])
            grown.append(builder.add(total, count))
        return grown

    sums = repeat(builder, words, [constant(_V64, 0)] * PLANES, step)
    dot = sums[0]
    for bit in range(1, PLANES):
        weighted = builder.shl(sums[bit], constant(_V64, bit))
        dot = builder.sub(dot, weighted) if bit == PLANES - 1 else builder.add(dot, weighted)
    narrow = builder.sitofp(builder.trunc(dot, _V32), _VF)
    return narrow, builder.ptrtoint(builder.gep(codes, [words]), I64)


def _byte_products(context: Any, builder: Any, total: Any, codes: Any, query: Any) -> Any:
    """Add to i32 (32,) the products of four unsigned bytes of each row with four signed ones."""
    parts = 2 if has_feature(context, "avx512vnni") else 4 if has_feature(context, "avxvnni") else 0
    if parts:
        lanes = BLOCK_ROWS // parts
        narrow, many = ir.VectorType(I32, lanes), ir.VectorType(I8, 4 * lanes)
        name = f"llvm.x86.avx512.vpdpbusd.{32 * lanes}"
        four = builder.bitcast(fill(builder, query, narrow), many)
        done = []
        for part in range(parts):
            picks = [part * lanes + lane for lane in range(lanes)]
            order = ir.Constant(ir.VectorType(I32, lanes), picks)
            own = builder.shuffle_vector(codes, ir.Constant(_V32, ir.Undefined), order)
            sums = builder.shuffle_vector(total, ir.Constant(_V32, ir.Undefined), order)
            done.append(call(builder, name, narrow, [sums, builder.bitcast(own, many), four]))
        while len(done) > 1:
            width = 2 * done[0].type.count
            order = ir.Constant(ir.VectorType(I32, width), list(range(width)))
            done = [
                builder.shuffle_vector(done[i], done[i + 1], order) for i in range(0, len(done), 2)
            ]
        return done[0]
    for byte in range(4):
        code = builder.and_(builder.lshr(codes, constant(_V32, 8 * byte)), constant(_V32, 255))
        part = builder.trunc(builder.lshr(query, ir.Constant(I32, 8 * byte)), I8)
        factor = fill(builder, builder.sext(part, I32), _V32)
        total = builder.add(total, builder.mul(code, factor))
    return total


def _byte_codes(
    context: Any, builder: Any, block: Any, query: Any, groups: Any, apart: Any
) -> tuple[Any, Any]:
    """Products of 8-bit codes, u8 (groups, 32, 4), with signed bytes (groups, 4)."""
    codes, parts = pointer(builder, block, _V32), pointer(builder, query, I32)

    def step(group: Any, sums: list[Any]) -> list[Any]:
        code = _load_and_ask(builder, codes, group, apart, 64)
        factor = builder.load(builder.gep(parts, [group]))
        return [_byte_products(context, builder, sums[0], code, factor)]

    (total,) = repeat(builder, groups, [constant(_V32, 0)], step)
    end = builder.ptrtoint(builder.gep(codes, [groups]), I64)
    return builder.sitofp(total, _VF), end


def _nibble_codes(
    context: Any, builder: Any, block: Any, query: Any, groups: Any, apart: Any
) -> tuple[Any, Any]:
    """Products of 4-bit codes with signed bytes (groups, 8).

    A group is u8 (32, 4): dimensions 0 to 3 in the low halves of the bytes, 4 to 7 in the high.
    """
    codes, parts = pointer(builder, block, _V32), pointer(builder, query, I32)
    halves = constant(_V32, 0x0F0F0F0F)

    def step(group: Any, sums: list[Any]) -> list[Any]:
        code = _load_and_ask(builder, codes, group, apart, 64)
        first = builder.mul(group, ir.Constant(I64, 2))
        low = builder.load(builder.gep(parts, [first]))
        high = builder.load(builder.gep(parts, [builder.add(first, ir.Constant(I64, 1))]))
        upper = builder.and_(builder.lshr(code, constant(_V32, 4)), halves)
        total = _byte_products(context, builder, sums[0], builder.and_(code, halves), low)
        return [_byte_products(context, builder, total, upper, high)]

    (total,) = repeat(builder, groups, [constant(_V32, 0)], step)
    end = builder.ptrtoint(builder.gep(codes, [groups]), I64)
    return builder.sitofp(total, _VF), end


def _table_sums(
    context: Any, builder: Any, block: Any, tables: Any, parts: Any, apart: Any
) -> tuple[Any, Any]:
    """Sums of table entries, float32 (parts, 256), that codes, u8 (parts, 32), point to."""
    codes, entries = pointer(builder, block, _V8), pointer(builder, tables, F32)
    name = f"llvm.masked.gather.v{BLOCK_ROWS}f32.v{BLOCK_ROWS}p0"
    on = ir.Constant(ir.VectorType(BIT, BLOCK_ROWS), [1] * BLOCK_ROWS)

    def step(part: Any, sums: list[Any]) -> list[Any]:
        code = builder.zext(_load_and_ask(builder, codes, part, apart, 32), _V64)
        base = builder.mul(part, ir.Constant(I64, 256))
        offsets = builder.shl(builder.add(code, fill(builder, base, _V64)), constant(_V64, 2))
        start = fill(builder, builder.ptrtoint(entries, I64), _V64)
        places = builder.inttoptr(
            builder.add(start, offsets), ir.VectorType(ir.PointerType(F32), BLOCK_ROWS)
        )
        found = call(builder, name, _VF, [places, ir.Constant(I32, 4), on, _NO_FLOATS])
        return [builder.fadd(sums[0], found, flags=["contract"])]

    (total,) = repeat(builder, parts, [_NO_FLOATS], step)
    end = builder.add(builder.ptrtoint(builder.gep(codes, [parts]), I64), ir.Constant(I64, 63))
    return total, builder.and_(end, ir.Constant(I64, -64))


def _coded_block(products: Callable[..., tuple[Any, Any]], name: str, text: str) -> Any:
    """Make the kernel of one kind of coded block."""

    def block_kernel(
        typingctx: Any,
        block: Any,
        query: Any,
        count: Any,
        ahead: Any,
        scale: Any,
        shift: Any,
        g_add: Any,
        g_err: Any,
        threshold: Any,
        estimates: Any,
    ) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            block, query, count, ahead, *rest = args
            apart = builder.sub(ahead, block)
            dot, factors = products(context, builder, block, query, count, apart)
            return _finish(builder, dot, factors, apart, rest)

        reals = (types.float32,) * 5
        signature = types.uint32(*(types.int64,) * 4, *reals, types.int64)
        return signature, codegen

    block_kernel.__name__ = block_kernel.__qualname__ = name
    block_kernel.__doc__ = f"""Estimate the distances of one block of 32 {text}

    Parameters
    ----------
    block, query : int64
        Addresses of the block (see `vecstore.layout`) and of what the query is for this code.
    count : int64
        Steps of the inner loop: words, groups of dimensions, or parts of a vector.
    ahead : int64
        Address of a block that will be scanned soon and is asked for meanwhile, or this one.
    scale, shift : float32
        Of the product with the code.
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
    return intrinsic(block_kernel)


rabitq_block = _coded_block(_sign_products, "rabitq_block", "rows of 1-bit codes.")
int8_block = _coded_block(_byte_codes, "int8_block", "rows of 8-bit codes.")
int4_block = _coded_block(_nibble_codes, "int4_block", "rows of 4-bit codes.")
pq_block = _coded_block(_table_sums, "pq_block", "rows of product-quantised codes.")


def _widen(context: Any, builder: Any, halves: Any) -> Any:
    """Turn float16, given as i16, into float32."""
    if converts_half(context):
        return builder.fpext(builder.bitcast(halves, ir.VectorType(ir.HalfType(), 32)), _VF)
    wide = builder.zext(halves, _V32)
    size = builder.shl(builder.and_(wide, constant(_V32, 0x7FFF)), constant(_V32, 13))
    size = builder.fmul(builder.bitcast(size, _VF), ir.Constant(_VF, [2.0**112] * BLOCK_ROWS))
    sign = builder.shl(builder.and_(wide, constant(_V32, 0x8000)), constant(_V32, 16))
    return builder.bitcast(builder.or_(builder.bitcast(size, _V32), sign), _VF)


def _float_block(half: bool, name: str) -> Any:
    """Make the kernel of blocks that hold the values themselves."""
    element = _V16 if half else _VF

    def block_kernel(
        typingctx: Any,
        block: Any,
        query: Any,
        dim: Any,
        ahead: Any,
        inner: Any,
        scale: Any,
        threshold: Any,
        g_err: Any,
        square: Any,
        estimates: Any,
    ) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            block, query, dim, ahead, inner, scale, threshold, g_err, square, estimates = args
            apart = builder.sub(ahead, block)
            values, coordinates = pointer(builder, block, element), pointer(builder, query, F32)
            bools = ir.VectorType(BIT, BLOCK_ROWS)
            flag = builder.icmp_signed("!=", inner, ir.Constant(I64, 0))
            products = fill(builder, flag, bools)
            contract = ["contract"]

            def step(at: Any, sums: list[Any]) -> list[Any]:
                value = _load_and_ask(builder, values, at, apart, 64)
                value = _widen(context, builder, value) if half else value
                coordinate = fill(builder, builder.load(builder.gep(coordinates, [at])), _VF)
                gap = builder.fsub(value, coordinate, flags=contract)
                left = builder.select(products, builder.fneg(value), gap)
                right = builder.select(products, coordinate, gap)
                part = builder.fmul(left, right, flags=contract)
                return [builder.fadd(sums[0], part, flags=contract)]

            (total,) = repeat(builder, dim, [_NO_FLOATS], step)
            total = builder.fmul(total, fill(builder, scale, _VF))
            tail = builder.ptrtoint(builder.gep(values, [dim]), I64)
            f_err = builder.load(pointer(builder, tail, _VF), align=64)
            numbers = pointer(builder, tail, _V32, ir.Constant(I64, 1))
            empty = builder.icmp_unsigned(
                "==", builder.load(numbers, align=64), constant(_V32, NO_ROW)
            )
            infinite = ir.Constant(_VF, [float("inf")] * BLOCK_ROWS)
            total = builder.select(empty, infinite, total)
            builder.store(total, pointer(builder, estimates, _VF), align=64)
            error = builder.fmul(f_err, fill(builder, square, _VF))
            error = builder.fmul(f_err, builder.fadd(error, fill(builder, g_err, _VF)))
            return _within(builder, builder.fsub(total, error), threshold)

        signature = types.uint32(
            *(types.int64,) * 5,
            *(types.float32,) * 4,
            types.int64,
        )
        return signature, codegen

    block_kernel.__name__ = block_kernel.__qualname__ = name
    return intrinsic(block_kernel)


float32_block = _float_block(False, "float32_block")
float16_block = _float_block(True, "float16_block")


@intrinsic
def mask_within(typingctx: Any, values: Any, threshold: Any) -> Any:
    """Bit r is set when float32 value r of the 32 at `values` does not exceed `threshold`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = builder.load(pointer(builder, args[0], _VF), align=64)
        return _within(builder, value, args[1])

    return types.uint32(types.int64, types.float32), codegen
