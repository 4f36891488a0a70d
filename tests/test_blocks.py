"""Block kernels against numpy, and the code for plain processors against that for this one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba.core.registry import cpu_target

from tests.kernel_checks import BLOCK, address, aligned, aligned_copy, bits_of
from vecstore.kernels import blocks
from vecstore.kernels.blocks import PLANES, mask_within
from vecstore.kernels.planes import code_product, pack_plane
from vecstore.kernels.rounding import largest_magnitude, round_to_bytes
from vecstore.kernels.vectors import has_feature
from vecstore.layout import NO_ROW

COUNTS = [1, 2, 3, 6, 16, 24, 384]
DOT_PRODUCTS = ("avx512vnni", "avxvnni")


def compiled(kernel: Any) -> Any:
    """A function of its own for a block kernel, compiled on its first call and kept nowhere."""

    @numba.njit
    def call(block, query, count, ahead, a, b, c, d, e, out):  # type: ignore[no-untyped-def]
        return kernel(block, query, count, ahead, a, b, c, d, e, out)

    return call


def compiled_values(kernel: Any) -> Any:
    @numba.njit
    def call(block, query, dim, ahead, inner, a, b, c, d, out):  # type: ignore[no-untyped-def]
        return kernel(block, query, dim, ahead, inner, a, b, c, d, out)

    return call


@numba.njit
def call_mask(values, threshold):  # type: ignore[no-untyped-def]
    return mask_within(values, threshold)


@numba.njit
def call_code_product(signs, stride, extra, planes, words, values):  # type: ignore[no-untyped-def]
    return code_product(signs, stride, extra, planes, words, values)


@numba.njit
def call_largest_magnitude(values, words):  # type: ignore[no-untyped-def]
    return largest_magnitude(values, words)


@numba.njit
def call_round_to_bytes(values, words, inverse, target):  # type: ignore[no-untyped-def]
    return round_to_bytes(values, words, inverse, target)


@numba.njit
def call_pack_plane(codes, bit):  # type: ignore[no-untyped-def]
    return pack_plane(codes, bit)


# --- coded blocks -------------------------------------------------------------------------------


@dataclass
class Coded:
    """A block without its factors, a query, and their products in float64."""

    codes: Any
    query: Any
    products: Any


def levels(rng: Any, shape: Any, high: int, extreme: bool) -> Any:
    """Codes of 0 to `high`, or all of them `high`."""
    return np.full(shape, high) if extreme else rng.integers(0, high + 1, shape)


def signed_bytes(rng: Any, n: int, extreme: bool) -> Any:
    values = rng.choice([-127, 127]) * np.ones(n) if extreme else rng.integers(-127, 128, n)
    return values.astype(np.int8)


def draw_signs(rng: Any, words: int, extreme: bool) -> Coded:
    """1-bit codes and a query of `PLANES` bits, two's complement."""
    bits = levels(rng, (BLOCK, 64 * words), 1, extreme)
    top = 2 ** (PLANES - 1)
    query = np.full(64 * words, -top) if extreme else rng.integers(-top, top, 64 * words)
    codes = np.packbits(bits.reshape(BLOCK, words, 64), axis=-1, bitorder="little")
    planes = (query[None] >> np.arange(PLANES)[:, None]) & 1
    packed = np.packbits(planes.reshape(PLANES, words, 64), axis=-1, bitorder="little")
    return Coded(codes.transpose(1, 0, 2), packed.transpose(1, 0, 2), bits @ query)


def draw_bytes(rng: Any, groups: int, extreme: bool) -> Coded:
    code = levels(rng, (BLOCK, 4 * groups), 255, extreme)
    query = signed_bytes(rng, 4 * groups, extreme)
    codes = code.reshape(BLOCK, groups, 4).transpose(1, 0, 2).astype(np.uint8)
    return Coded(codes, query, code @ query.astype(np.int64))


def draw_halves(rng: Any, groups: int, extreme: bool) -> Coded:
    code = levels(rng, (BLOCK, 8 * groups), 15, extreme)
    query = signed_bytes(rng, 8 * groups, extreme)
    grouped = code.reshape(BLOCK, groups, 8).transpose(1, 0, 2)
    codes = (grouped[..., :4] | (grouped[..., 4:] << 4)).astype(np.uint8)
    return Coded(codes, query, code @ query.astype(np.int64))


def draw_parts(rng: Any, parts: int, extreme: bool) -> Coded:
    codes = levels(rng, (parts, BLOCK), 255, extreme).astype(np.uint8)
    tables = rng.normal(size=(parts, 256)).astype(np.float32)
    taken = np.take_along_axis(tables.astype(np.float64), codes.astype(np.int64), axis=1)
    return Coded(codes, tables, taken.sum(axis=0))


CODED: dict[str, Callable[[Any, int, bool], Coded]] = {
    "rabitq_block": draw_signs,
    "int8_block": draw_bytes,
    "int4_block": draw_halves,
    "pq_block": draw_parts,
}
CALLS = {name: compiled(getattr(blocks, name)) for name in CODED}


def with_factors(codes: Any, factors: Any, numbers: Any) -> Any:
    """A block: codes to a multiple of 64 bytes, three lines of factors, row numbers."""
    raw = np.ascontiguousarray(codes).view(np.uint8).ravel()
    at = -(-len(raw) // 64) * 64
    block = aligned(at + 16 * BLOCK, np.uint8)
    block[: len(raw)] = raw
    block[at:-128] = np.float32(factors).view(np.uint8).ravel()
    block[-128:] = np.uint32(numbers).view(np.uint8)
    return block


def run(
    call: Any, coded: Coded, count: int, factors: Any, terms: Any, ahead: int | None = None
) -> tuple[int, Any]:
    """Mask and estimates; `ahead` is what the kernel asks for meanwhile, or else the block."""
    block = with_factors(coded.codes, factors, np.arange(BLOCK))
    query, out = aligned_copy(np.ascontiguousarray(coded.query)), aligned(BLOCK, np.float32)
    ahead = address(block) if ahead is None else ahead
    mask = call(address(block), address(query), count, ahead, *np.float32(terms), address(out))
    return int(mask), out


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", CODED)
def test_coded_block(name: str, count: int, extreme: bool) -> None:
    rng = np.random.default_rng(count)
    coded = CODED[name](rng, count, extreme)
    f_add, f_rs, f_err = factors = rng.normal(size=(3, BLOCK)).astype(np.float32)
    scale, shift, g_add, g_err = np.float32([0.01, 3.5, -2.25, 0.75])
    got = run(CALLS[name], coded, count, factors, (scale, shift, g_add, g_err, np.inf))
    expected = f_add + g_add + f_rs * (float(scale) * coded.products - shift)
    size = 1 + np.abs(f_rs * float(scale) * coded.products).max()
    assert got[1] == pytest.approx(expected, rel=1e-5, abs=2e-6 * size)
    assert bits_of(got[0]) == [True] * BLOCK
    lower = got[1] - f_err * g_err
    for threshold in np.quantile(lower, [0.0, 0.3, 0.7]):
        terms = (scale, shift, g_add, g_err, threshold)
        mask, again = run(CALLS[name], coded, count, factors, terms)
        assert (again == got[1]).all()
        clear = np.abs(lower - threshold) > 1e-5 * size
        assert (np.array(bits_of(mask)) == (lower <= threshold))[clear].all()
    assert run(CALLS[name], coded, count, factors, (0, 0, 0, 0, -1e30))[0] == 0
    for ahead in (0, 1, 2**62):
        terms = (scale, shift, g_add, g_err, np.inf)
        mask, again = run(CALLS[name], coded, count, factors, terms, ahead)
        assert (mask, again.tobytes()) == (got[0], got[1].tobytes()), "harmless at any address"


@pytest.mark.parametrize("name", CODED)
def test_empty_places_are_never_within(name: str) -> None:
    coded = CODED[name](np.random.default_rng(0), 4, False)
    factors = np.zeros((3, BLOCK), np.float32)
    factors[0, 20:] = np.inf
    mask, out = run(CALLS[name], coded, 4, factors, (1, 0, 0, 1, 1e30))
    assert bits_of(mask) == [True] * 20 + [False] * 12
    assert np.isposinf(out[20:]).all()


# --- blocks of values ---------------------------------------------------------------------------

VALUE_CALLS = {
    "float32_block": (np.float32, compiled_values(blocks.float32_block)),
    "float16_block": (np.float16, compiled_values(blocks.float16_block)),
}


def value_block(values: Any, f_err: Any, numbers: Any) -> Any:
    """A block of values (32, dim), f_err and row numbers."""
    parts = (values.T, np.float32(f_err), np.uint32(numbers))
    raw = np.concatenate([np.ascontiguousarray(part).view(np.uint8).ravel() for part in parts])
    return aligned_copy(raw)


@pytest.mark.parametrize("inner", [0, 1])
@pytest.mark.parametrize("dim", [1, 2, 7, 64, 100, 1536])
@pytest.mark.parametrize("name", VALUE_CALLS)
def test_value_block(name: str, dim: int, inner: int) -> None:
    kind, call = VALUE_CALLS[name]
    rng = np.random.default_rng(dim)
    values = rng.normal(size=(BLOCK, dim)).astype(kind)
    query = aligned_copy(rng.normal(size=dim).astype(np.float32))
    f_err = rng.uniform(size=BLOCK).astype(np.float32)
    numbers = np.arange(BLOCK, dtype=np.uint32)
    numbers[[3, 31]] = NO_ROW
    block, out = value_block(values, f_err, numbers), aligned(BLOCK, np.float32)
    wide, q = values.astype(np.float64), query.astype(np.float64)
    expected = 0.5 * (-(wide @ q) if inner else ((wide - q) ** 2).sum(axis=1))
    expected[numbers == NO_ROW] = np.inf
    size = 1 + float(np.linalg.norm(q)) * float(np.abs(wide).max()) * np.sqrt(dim)
    for threshold in (1e30, 0.5 * dim, 0.0, -1e30):
        terms = np.float32((0.5, threshold, 0.25, 0.125))
        at = address(block), address(query), dim, address(block)
        mask = call(*at, inner, *terms, address(out))
        assert out == pytest.approx(expected, rel=1e-5, abs=1e-6 * size)
        lower = out - f_err * (np.float32(0.25) + np.float32(0.125) * f_err)
        clear = np.abs(lower - threshold) > 1e-5 * size
        assert (np.array(bits_of(int(mask))) == (lower <= threshold))[clear].all()


# --- the same for plain processors --------------------------------------------------------------


OWN = [name for name in DOT_PRODUCTS if has_feature(cpu_target.target_context, name)]


@pytest.fixture(params=[(), *[(name,) for name in OWN]], ids=str)
def features(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What kernels that are compiled from now on take the processor to have, out of what it has."""
    monkeypatch.setattr(blocks, "has_feature", lambda context, name: name in request.param)
    return request.param


@pytest.mark.parametrize("name", ["int8_block", "int4_block"])
def test_bytes_on_other_processors(name: str, features: tuple[str, ...]) -> None:
    """To the bit what this processor computes, at the extremes too."""
    call = compiled(getattr(blocks, name))
    for count in COUNTS:
        for extreme in (False, True):
            rng = np.random.default_rng(count)
            coded = CODED[name](rng, count, extreme)
            factors = rng.normal(size=(3, BLOCK)).astype(np.float32)
            terms = (0.01, 3.5, -2.25, 0.75, 1.0)
            mask, out = run(call, coded, count, factors, terms)
            own_mask, own_out = run(CALLS[name], coded, count, factors, terms)
            assert (mask, out.tobytes()) == (own_mask, own_out.tobytes())
    code = next(iter(call.inspect_llvm().values()))
    assert ("vpdpbusd" in code) == bool(features)


def test_what_the_processor_has_is_used() -> None:
    coded = draw_bytes(np.random.default_rng(0), 1, False)
    call = compiled(blocks.int8_block)
    run(call, coded, 1, np.zeros((3, BLOCK)), (0, 0, 0, 0, 0))
    code = next(iter(call.inspect_llvm().values()))
    assert ("vpdpbusd" in code) == bool(OWN)


def test_every_float16_on_other_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value of each finite pattern, by this processor's instruction and without it."""
    bits = np.arange(2**16, dtype=np.uint32).astype(np.uint16)
    finite = bits[np.isfinite(bits.view(np.float16))].view(np.float16)
    _, own = VALUE_CALLS["float16_block"]
    one, out = aligned_copy(np.ones(1, np.float32)), aligned(BLOCK, np.float32)
    plain = compiled_values(blocks.float16_block)
    for call in (own, plain):
        if call is plain:
            monkeypatch.setattr(blocks, "converts_half", lambda context: False)
        for start in range(0, len(finite), BLOCK):
            values = finite[start : start + BLOCK]
            block = value_block(values[:, None], np.zeros(BLOCK), np.zeros(BLOCK))
            at = address(block), address(one), 1, address(block)
            call(*at, 1, *np.float32((-1, 0, 0, 0)), address(out))
            assert out.tolist() == values.astype(np.float32).tolist()
    code = next(iter(plain.inspect_llvm().values()))
    assert "half" not in code


# --- masks and planes ---------------------------------------------------------------------------


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=32, max_size=32), st.data())
def test_mask_within(values: list[float], data: st.DataObject) -> None:
    block = aligned(BLOCK, np.float32)
    block[:] = values
    threshold = data.draw(st.sampled_from(values))
    mask = call_mask(address(block), np.float32(threshold))
    assert bits_of(int(mask)) == (block <= np.float32(threshold)).tolist()


@pytest.mark.parametrize("stride", [8, 12, 256])
@pytest.mark.parametrize("planes", [1, 2, 7])
@pytest.mark.parametrize("words", [1, 2, 3, 24])
def test_code_product(words: int, planes: int, stride: int) -> None:
    rng = np.random.default_rng(words)
    signs = aligned((words - 1) * stride + 8, np.uint8)
    signs[:] = rng.integers(0, 256, len(signs))
    extra = aligned_copy(rng.integers(0, 256, planes * words * 8).astype(np.uint8))
    own = np.concatenate([signs[stride * word : stride * word + 8] for word in range(words)])
    code = np.unpackbits(own, bitorder="little").astype(np.int64)
    for plane in extra.reshape(planes, -1):
        code = 2 * code + np.unpackbits(plane, bitorder="little")
    places = address(signs), stride, address(extra), planes, words
    whole = aligned_copy(rng.integers(-99, 99, 64 * words).astype(np.float32))
    assert call_code_product(*places, address(whole)) == (code * whole).sum()
    values = aligned_copy(rng.normal(size=64 * words).astype(np.float32))
    expected = (code * values.astype(np.float64)).sum()
    got = call_code_product(*places, address(values))
    assert got == pytest.approx(expected, rel=1e-5, abs=1e-5 * 2**planes)


@pytest.mark.parametrize("words", [1, 3, 16])
def test_rounding(words: int) -> None:
    rng = np.random.default_rng(words)
    values = aligned_copy(rng.normal(size=64 * words).astype(np.float32))
    largest = call_largest_magnitude(address(values), words)
    assert largest == np.abs(values).max()
    target = aligned(64 * words, np.int8)
    inverse = np.float32(127 / largest)
    total = call_round_to_bytes(address(values), words, inverse, address(target))
    assert target.tolist() == np.floor(values * inverse + np.float32(0.5)).tolist()
    assert total == target.sum(dtype=np.int64)
    values[:] = 0
    assert call_largest_magnitude(address(values), words) == 0
    assert call_round_to_bytes(address(values), words, inverse, address(target)) == 0
    assert not target.any()


@pytest.mark.parametrize("bit", range(8))
def test_pack_plane(bit: int) -> None:
    codes = aligned_copy(np.random.default_rng(bit).integers(0, 256, 64).astype(np.uint8))
    packed = int(call_pack_plane(address(codes), bit)) % 2**64
    assert [packed >> i & 1 for i in range(64)] == ((codes >> bit) & 1).tolist()
