"""Pruner of Zhang et al. (arXiv 2311.15578): the largest magnitudes of the whole table, the rest 0.

Values stay float32. Where they stand is told in the way that leaves room for most values: a bitmap
over all positions, a column number for each value with the end of each row, or a position in the
table for each value (the paper's CSR and COO take four bytes a number throughout).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.compression.bitmap import Bitmap, bitmap_layout, make_bitmap
from bench.compression.container import Layout, Payload, stored_bytes
from bench.compression.contract import (
    DECODE_ROWS,
    Encoder,
    Floats,
    OverBudgetError,
    Reader,
    Rows,
    largest,
)

_FORMS = ("bitmap", "columns", "positions")


def _unsigned(values: int) -> str:
    """Smallest unsigned dtype for numbers below ``values``."""
    return np.min_scalar_type(max(values - 1, 0)).str


def _layout(form: str, shape: tuple[int, int], kept: int) -> Layout:
    rows, dim = shape
    values = {"values": ("<f4", (kept,))}
    if form == "bitmap":
        return {**bitmap_layout(rows * dim, "kept_"), **values}
    if form == "columns":
        places = {"columns": (_unsigned(dim), (kept,)), "row_ends": (_unsigned(kept + 1), (rows,))}
        return {**places, **values}
    return {"positions": (_unsigned(rows * dim), (kept,)), **values}


@dataclass(frozen=True)
class Pruner:
    """Global magnitude pruning."""

    name: str = "pruner"
    about: str = "largest magnitudes only, sparse"

    def train(self, base: Floats, budget_bytes: int, seed: int) -> Encoder:
        """See `Compressor.train`."""
        del seed  # nothing is drawn
        shape = (base.shape[0], base.shape[1])

        def size(form: str, kept: int) -> int:
            return stored_bytes(self.name, shape, _layout(form, shape, kept))

        nonzero = max(1, int(np.count_nonzero(base)))
        most = 0
        for form in _FORMS:
            found = largest(1, nonzero, lambda kept, f=form: size(f, kept) <= budget_bytes)  # type: ignore[misc]
            most = max(most, found or 0)
        if most == 0:
            raise OverBudgetError(f"{self.name}: one value exceeds {budget_bytes:,} bytes.")
        return _PrunerEncoder(self.name, min(_FORMS, key=lambda form: size(form, most)), most)

    def open(self, payload: Payload) -> Reader:
        """See `Compressor.open`."""
        if "kept_words" in payload.arrays:
            return _BitmapReader(payload)
        return _RaggedReader(payload)


@dataclass(frozen=True)
class _PrunerEncoder:
    name: str
    form: str
    kept: int

    @property
    def setting(self) -> str:
        return f"{self.kept} values, {self.form}"

    def encode(self, base: Floats) -> Payload:
        shape = (base.shape[0], base.shape[1])
        flat = base.reshape(-1)
        places = np.argpartition(np.abs(flat), len(flat) - self.kept)[len(flat) - self.kept :]
        places.sort()
        layout = _layout(self.form, shape, self.kept)
        arrays: dict[str, NDArray[Any]] = {}
        if self.form == "bitmap":
            mask = np.zeros(len(flat), np.bool_)
            mask[places] = True
            arrays |= make_bitmap(mask, "kept_")
        elif self.form == "columns":
            ends = np.searchsorted(places, np.arange(1, shape[0] + 1) * shape[1])
            arrays["columns"] = (places % shape[1]).astype(layout["columns"][0])
            arrays["row_ends"] = ends.astype(layout["row_ends"][0])
        else:
            arrays["positions"] = places.astype(layout["positions"][0])
        return Payload(self.name, shape, {**arrays, "values": flat[places]})


class _BitmapReader(Reader):
    def __init__(self, payload: Payload) -> None:
        super().__init__(payload)
        self._values = payload.arrays["values"]
        self._bitmap = Bitmap(payload.arrays["kept_words"], payload.arrays["kept_ranks"])

    def lookup(self, rows: Rows) -> Floats:
        dim = self.shape[1]
        mask = self._bitmap.contains(rows[:, None] * dim + np.arange(dim))
        ordinal = np.cumsum(mask, axis=1) - 1 + self._bitmap.rank(rows * dim)[:, None]
        out = np.zeros(mask.shape, np.float32)
        out[mask] = self._values[ordinal[mask]]
        return out

    def decode(self) -> Floats:
        out = np.zeros(self.shape, np.float32)
        flat, done = out.reshape(-1), 0
        step = DECODE_ROWS * self.shape[1]
        for start in range(0, len(flat), step):
            mask = self._bitmap.mask(start, min(start + step, len(flat)))
            count = int(mask.sum())
            flat[start : start + step][mask] = self._values[done : done + count]
            done += count
        return out


class _RaggedReader(Reader):
    """Values of a row stand together; their columns are stored, or follow from positions."""

    def __init__(self, payload: Payload) -> None:
        super().__init__(payload)
        self._arrays = payload.arrays

    def _ends(self, rows: Rows) -> Rows:
        """Where the values of rows below ``rows`` + 1 end."""
        if "row_ends" in self._arrays:
            ends = self._arrays["row_ends"][np.maximum(rows, 0)].astype(np.int64)
            return np.where(rows >= 0, ends, 0)
        positions = self._arrays["positions"]
        targets = ((rows + 1) * self.shape[1]).astype(positions.dtype)
        return np.asarray(np.searchsorted(positions, targets), dtype=np.int64)

    def lookup(self, rows: Rows) -> Floats:
        starts = self._ends(rows - 1)
        counts = self._ends(rows) - starts
        line = np.repeat(np.arange(len(rows)), counts)
        within = np.arange(len(line)) - np.repeat(np.cumsum(counts) - counts, counts)
        at = np.repeat(starts, counts) + within
        if "columns" in self._arrays:
            columns = self._arrays["columns"][at]
        else:
            columns = self._arrays["positions"][at] % self.shape[1]
        out = np.zeros((len(rows), self.shape[1]), np.float32)
        out[line, columns] = self._arrays["values"][at]
        return out
