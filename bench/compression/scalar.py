"""One number at a time: float16, and integers of 16, 8 or 4 bits with a range per dimension.

Zhang et al. (arXiv 2311.15578) round stochastically with one scale for the whole table, which is
what training needs; for a frozen table rounding to nearest within each dimension's own range has
the smaller error and costs 8 bytes a dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.channel import BenchError
from bench.compression.container import Layout, Payload
from bench.compression.contract import (
    DECODE_ROWS,
    Encoder,
    Floats,
    Reader,
    Rows,
    require_fit,
)

_CACHED_ROWS = 512
#: Parts of the way from the middle to an end of the range at which values may be clipped.
_SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.5, 0.4, 0.3)


@dataclass(frozen=True)
class Float:
    """Floating-point numbers: 16 bits, or 32 for reference."""

    bits: int

    @property
    def name(self) -> str:
        return f"float{self.bits}"

    @property
    def about(self) -> str:
        return "half-precision numbers" if self.bits == 16 else "the table as it is, for reference"

    def train(self, base: Floats, budget_bytes: int, seed: int) -> Encoder:
        """See `Compressor.train`; values that overflow are refused with `BenchError`."""
        del seed  # nothing is drawn
        shape = (base.shape[0], base.shape[1])
        layout = {"values": (f"<f{self.bits // 8}", shape)}
        require_fit(self.name, shape, layout, budget_bytes)
        largest, end = float(np.abs(base).max(initial=0.0)), float(np.finfo(self._kind).max)
        if largest > end:
            raise BenchError(f"{self.name} ends at {end:,.0f}; the table has {largest:,.0f}.")
        return _FloatEncoder(self.name, f"{self.bits} bits", self._kind)

    @property
    def _kind(self) -> np.dtype[np.floating[Any]]:
        return np.dtype(f"<f{self.bits // 8}")

    def open(self, payload: Payload) -> Reader:
        """See `Compressor.open`."""
        return _FloatReader(payload)


@dataclass(frozen=True)
class _FloatEncoder:
    name: str
    setting: str
    kind: np.dtype[np.floating[Any]]

    def encode(self, base: Floats) -> Payload:
        shape = (base.shape[0], base.shape[1])
        return Payload(self.name, shape, {"values": base.astype(self.kind)})


class _FloatReader(Reader):
    def __init__(self, payload: Payload) -> None:
        super().__init__(payload)
        self._values = payload.arrays["values"]

    def lookup(self, rows: Rows) -> Floats:
        return np.asarray(self._values[rows], dtype=np.float32)

    def decode(self) -> Floats:
        return self._values.astype(np.float32)


@dataclass(frozen=True)
class Grid:
    """Evenly spaced levels in each dimension.

    Attributes
    ----------
    low, step : ndarray (d,) float32
        Level i of a dimension is ``low + i * step``.
    bits : int
        4, 8 or 16.
    """

    low: Floats
    step: Floats
    bits: int

    def codes(self, rows: Floats) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """Nearest level of each value: uint8 or uint16 (m, d); 4 bits: uint8 (m, ⌈d/2⌉)."""
        levels = np.rint((rows - self.low) / self.step)
        levels = np.clip(levels, 0, 2**self.bits - 1, out=levels)
        if self.bits == 16:
            return np.asarray(levels, dtype=np.uint16)
        codes = np.asarray(levels, dtype=np.uint8)
        return _pack(codes) if self.bits == 4 else codes

    def values(self, codes: NDArray[np.uint8] | NDArray[np.uint16]) -> Floats:
        """Float32 (m, d) values of codes."""
        if self.bits == 4:
            codes = _unpack(np.asarray(codes, dtype=np.uint8), len(self.low))
        out = codes.astype(np.float32)
        out *= self.step
        out += self.low
        return out


def _pack(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two 4-bit codes to a byte, the even dimension in the low half."""
    if codes.shape[1] % 2:
        codes = np.pad(codes, ((0, 0), (0, 1)))
    return np.asarray(codes[:, ::2] | (codes[:, 1::2] << 4), dtype=np.uint8)


def _unpack(packed: NDArray[np.uint8], dim: int) -> NDArray[np.uint8]:
    codes = np.empty((len(packed), 2 * packed.shape[1]), np.uint8)
    codes[:, ::2] = packed & 15
    codes[:, 1::2] = packed >> 4
    return codes[:, :dim]


def code_layout(shape: tuple[int, int], bits: int) -> Layout:
    """Arrays of integer codes with their ranges, for a table of (n, d)."""
    rows, dim = shape
    codes = ("<u2", (rows, dim)) if bits == 16 else ("|u1", (rows, (dim * bits + 7) // 8))
    return {"low": ("<f4", (dim,)), "step": ("<f4", (dim,)), "codes": codes}


def _errors(base: Floats, low: Floats, high: Floats, bits: int) -> NDArray[np.float64]:
    """Squared error (d,) of each dimension on levels from ``low`` to ``high``."""
    grid = _between(low, high, bits)
    total = np.zeros(len(low))
    for start in range(0, len(base), _CACHED_ROWS):
        rows = base[start : start + _CACHED_ROWS]
        levels = np.rint((rows - low) / grid.step)
        np.clip(levels, 0, 2**bits - 1, out=levels)
        levels *= grid.step
        levels += low
        levels -= rows
        total += np.einsum("ij,ij->j", levels, levels)
    return total


def _between(low: Floats, high: Floats, bits: int) -> Grid:
    step = (high - low) / np.float32(2**bits - 1)
    step[step <= 0] = 1.0
    return Grid(low, step.astype(np.float32), bits)


def fit_grid(base: Floats, bits: int) -> Grid:
    """Levels that fit a table: the range of each dimension, clipped where that lowers the error.

    A table of whole numbers that spans no more than the levels gets step 1 and is kept exactly.
    16 bits are never clipped: their rounding error is far below what clipping costs.

    Parameters
    ----------
    base : ndarray (n, d) float32
    bits : int
        4, 8 or 16.
    """
    low, high = base.min(axis=0), base.max(axis=0)
    parts = (base[i : i + DECODE_ROWS] for i in range(0, len(base), DECODE_ROWS))
    if float((high - low).max()) <= 2**bits - 1 and all(
        bool((part == np.rint(part)).all()) for part in parts
    ):
        return Grid(low, np.ones_like(low), bits)
    if bits == 16:
        return _between(low, high, bits)
    middle = (low + high) / 2
    # the upper end first: skewed data has its outliers there
    highs = [middle + np.float32(shrink) * (high - middle) for shrink in _SHRINKS]
    high = _pick(highs, [_errors(base, low, choice, bits) for choice in highs])
    lows = [middle + np.float32(shrink) * (low - middle) for shrink in _SHRINKS]
    low = _pick(lows, [_errors(base, choice, high, bits) for choice in lows])
    return _between(low, high, bits)


def _pick(choices: list[Floats], errors: list[NDArray[np.float64]]) -> Floats:
    """In each dimension the choice with the least error."""
    best = np.stack(errors).argmin(axis=0)
    return np.asarray(np.stack(choices)[best, np.arange(len(best))], dtype=np.float32)


@dataclass(frozen=True)
class Integer:
    """Integers of 16, 8 or 4 bits (INT8/16 of Zhang et al.)."""

    bits: int

    @property
    def name(self) -> str:
        return f"int{self.bits}"

    @property
    def about(self) -> str:
        return f"{self.bits}-bit integers, a range per dimension"

    def train(self, base: Floats, budget_bytes: int, seed: int) -> Encoder:
        """See `Compressor.train`."""
        del seed  # nothing is drawn
        shape = (base.shape[0], base.shape[1])
        require_fit(self.name, shape, code_layout(shape, self.bits), budget_bytes)
        return _IntegerEncoder(self.name, fit_grid(base, self.bits))

    def open(self, payload: Payload) -> Reader:
        """See `Compressor.open`."""
        return _IntegerReader(payload, self.bits)


@dataclass(frozen=True)
class _IntegerEncoder:
    name: str
    grid: Grid

    @property
    def setting(self) -> str:
        return f"{self.grid.bits} bits"

    def encode(self, base: Floats) -> Payload:
        shape = (base.shape[0], base.shape[1])
        layout = code_layout(shape, self.grid.bits)
        codes = np.empty(layout["codes"][1], layout["codes"][0])
        for start in range(0, len(base), DECODE_ROWS):
            part = slice(start, start + DECODE_ROWS)
            codes[part] = self.grid.codes(base[part])
        arrays = {"low": self.grid.low, "step": self.grid.step, "codes": codes}
        return Payload(self.name, shape, arrays)


class _IntegerReader(Reader):
    def __init__(self, payload: Payload, bits: int) -> None:
        super().__init__(payload)
        self._grid = Grid(payload.arrays["low"], payload.arrays["step"], bits)
        self._codes = payload.arrays["codes"]

    def lookup(self, rows: Rows) -> Floats:
        return self._grid.values(self._codes[rows])
