"""Writing LLVM vector code from Numba intrinsics: types, addresses, loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

BIT, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32 = ir.FloatType()


def has_feature(context: Any, feature: str) -> bool:
    """Tell whether kernels are compiled for a processor feature."""
    _, _, features = context.codegen().magic_tuple()
    return f"+{feature}" in features.split(",")


def converts_half(context: Any) -> bool:
    """Tell whether the processor turns float16 into float32 by itself.

    Where it does not, LLVM would call a function that need not exist.
    """
    triple, _, _ = context.codegen().magic_tuple()
    return has_feature(context, "f16c") or triple.startswith(("aarch64", "arm64"))


def pointer(builder: Any, address: Any, element: Any, index: Any = None) -> Any:
    """Point to element `index` of an array at an address."""
    place = builder.inttoptr(address, ir.PointerType(element))
    return place if index is None else builder.gep(place, [index])


def prefetch_line(builder: Any, address: Any) -> None:
    """Ask the processor for the cache line at an address; harmless at any address."""
    place = builder.inttoptr(address, ir.PointerType(I8))
    kind = ir.FunctionType(ir.VoidType(), [place.type, I32, I32, I32])
    function = builder.module.declare_intrinsic("llvm.prefetch", [place.type], kind)
    read, locality, data = (ir.Constant(I32, value) for value in (0, 3, 1))
    builder.call(function, [place, read, locality, data])


def fill(builder: Any, scalar: Any, vector: Any) -> Any:
    """Repeat a scalar."""
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(I32, 0))
    zeros = ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)


def constant(vector: Any, value: int) -> Any:
    """Repeat a constant."""
    return ir.Constant(vector, [value] * vector.count)


def repeat(
    builder: Any, count: Any, starts: list[Any], step: Callable[[Any, list[Any]], list[Any]]
) -> list[Any]:
    """Carry values through `count` > 0 rounds of `step(index, values)`; return the last ones."""
    before = builder.block
    loop = builder.append_basic_block("rounds")
    done = builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    index = builder.phi(I64)
    index.add_incoming(ir.Constant(I64, 0), before)
    carried = [builder.phi(start.type) for start in starts]
    for value, start in zip(carried, starts, strict=True):
        value.add_incoming(start, before)
    results = step(index, list(carried))
    following = builder.add(index, ir.Constant(I64, 1))
    end = builder.block
    index.add_incoming(following, end)
    for value, result in zip(carried, results, strict=True):
        value.add_incoming(result, end)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, done)
    builder.position_at_end(done)
    return results


def call(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """Call an LLVM intrinsic by its full name."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(builder.module.declare_intrinsic(name, (), kind), arguments)
