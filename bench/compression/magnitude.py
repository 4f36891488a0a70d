"""Two groups of rows by length, the longer rows with more bits (MagPQ) or a higher rank (MagSVD).

Zhang et al. (arXiv 2311.15578): rows are sorted by norm and cut where each group holds half of the
sum of norms. The paper keeps a new row number for each row; a bitmap with ranks says the same in
little more than one bit a row.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.compression.bitmap import Bitmap, bitmap_layout, make_bitmap
from bench.compression.codebooks import ProductCode, ProductTable, product_layout, train_product
from bench.compression.container import Layout, Payload, stored_bytes
from bench.compression.contract import (
    Encoder,
    Floats,
    OverBudgetError,
    Reader,
    Rows,
    entries,
    largest,
)
from bench.compression.lowrank import svd_directions, svd_layout

_BITS = ((8, 6), (6, 4))
_BOOK_SHARE = 0.25
#: Exponent of "rank ∝ group size^-α" in the paper's code.
_ALPHA = 0.3


def longer_half(base: Floats) -> NDArray[np.bool_]:
    """Which rows (n,) are the longest that together hold half of the sum of norms.

    Both groups have at least one row; the table needs two.
    """
    norms = np.linalg.norm(base, axis=1).astype(np.float64)
    order = np.argsort(-norms, kind="stable")
    below = int(np.searchsorted(np.cumsum(norms[order]), norms.sum() / 2, side="right"))
    chosen = np.zeros(len(base), np.bool_)
    chosen[order[: min(max(below, 1), len(base) - 1)]] = True
    return chosen


def _sizes(chosen: NDArray[np.bool_]) -> tuple[int, int]:
    longer = int(chosen.sum())
    return longer, len(chosen) - longer


class _GroupReader(Reader):
    def __init__(self, payload: Payload) -> None:
        super().__init__(payload)
        self._bitmap = Bitmap(payload.arrays["longer_words"], payload.arrays["longer_ranks"])

    @abstractmethod
    def _group(self, longer: bool, rows: Rows) -> Floats:
        """Decoded rows (m, d) of one group by their number in it."""

    def lookup(self, rows: Rows) -> Floats:
        longer = self._bitmap.contains(rows)
        before = self._bitmap.rank(rows)
        out = np.empty((len(rows), self.shape[1]), np.float32)
        out[longer] = self._group(True, before[longer])
        out[~longer] = self._group(False, (rows - before)[~longer])
        return out


@dataclass(frozen=True)
class MagPq:
    """Product quantisation of two groups: 8 bits a sub-vector for long rows, 6 for the others.

    Where the codebooks would take more than a quarter of the budget: 6 and 4.
    """

    name: str = "magpq"
    about: str = "PQ with more bits for longer rows"

    def train(self, base: Floats, budget_bytes: int, seed: int) -> Encoder:
        """See `Compressor.train`."""
        rows, dim = base.shape
        if rows < 2:
            raise OverBudgetError("magpq: one row has no longer half.")
        chosen = longer_half(base)
        sizes = _sizes(chosen)
        bits = _BITS[-1]
        for pair in _BITS[::-1]:
            books = sum(2**b for b in pair) * dim * 2
            trainable = all(2**b <= n for b, n in zip(pair, sizes, strict=True))
            if books <= _BOOK_SHARE * budget_bytes and trainable:
                bits = pair

        def layout(count: int) -> Layout:
            groups = zip(("long_", "short_"), sizes, bits, strict=True)
            parts = [product_layout(n, dim, count, b, prefix) for prefix, n, b in groups]
            return {**bitmap_layout(rows, "longer_"), **parts[0], **parts[1]}

        count = _most(layout, dim, self.name, (rows, dim), budget_bytes)
        codes = [
            train_product(base[group], count, b, seed)
            for group, b in zip((chosen, ~chosen), bits, strict=True)
        ]
        return _MagPqEncoder(self.name, chosen, codes[0], codes[1])

    def open(self, payload: Payload) -> Reader:
        """See `Compressor.open`."""
        return _MagPqReader(payload)


def _most(
    layout: Callable[[int], Layout], high: int, name: str, shape: tuple[int, int], budget: int
) -> int:
    found = largest(1, high, lambda count: stored_bytes(name, shape, layout(count)) <= budget)
    if found is None:
        raise OverBudgetError(f"{name}: the smallest setting exceeds {budget:,} bytes.")
    return found


@dataclass(frozen=True)
class _MagPqEncoder:
    name: str
    chosen: NDArray[np.bool_]
    long: ProductCode
    short: ProductCode

    @property
    def setting(self) -> str:
        return f"{self.long.count} × {self.long.bits} and {self.short.bits} bits"

    def encode(self, base: Floats) -> Payload:
        arrays: dict[str, NDArray[Any]] = {**make_bitmap(self.chosen, "longer_")}
        arrays |= self.long.arrays(base[self.chosen], "long_")
        arrays |= self.short.arrays(base[~self.chosen], "short_")
        return Payload(self.name, (base.shape[0], base.shape[1]), arrays)


class _MagPqReader(_GroupReader):
    def __init__(self, payload: Payload) -> None:
        super().__init__(payload)
        dim = payload.shape[1]
        self._long = ProductTable(dim, entries(payload, "long_"))
        self._short = ProductTable(dim, entries(payload, "short_"))

    def _group(self, longer: bool, rows: Rows) -> Floats:
        return (self._long if longer else self._short).lookup(rows)


@dataclass(frozen=True)
class MagSvd:
    """Truncated SVD of two groups, ranks in proportion to group size to the power of -0.3."""

    name: str = "magsvd"
    about: str = "SVD with a higher rank for longer rows"

    def train(self, base: Floats, budget_bytes: int, seed: int) -> Encoder:
        """See `Compressor.train`."""
        rows, dim = base.shape
        if rows < 2:
            raise OverBudgetError("magsvd: one row has no longer half.")
        chosen = longer_half(base)
        sizes = _sizes(chosen)

        def ranks(rank: int) -> tuple[int, int]:
            other = max(1, int(rank * (sizes[1] / sizes[0]) ** -_ALPHA))
            return min(rank, *sizes[:1], dim), min(other, sizes[1], dim)

        def layout(rank: int) -> Layout:
            first, second = ranks(rank)
            long = svd_layout(sizes[0], dim, first, "long_")
            return {
                **bitmap_layout(rows, "longer_"),
                **long,
                **svd_layout(sizes[1], dim, second, "short_"),
            }

        first, second = ranks(_most(layout, 2 * dim, self.name, (rows, dim), budget_bytes))
        return _MagSvdEncoder(
            self.name,
            chosen,
            svd_directions(base[chosen], first, seed),
            svd_directions(base[~chosen], second, seed),
        )

    def open(self, payload: Payload) -> Reader:
        """See `Compressor.open`."""
        return _MagSvdReader(payload)


@dataclass(frozen=True)
class _MagSvdEncoder:
    name: str
    chosen: NDArray[np.bool_]
    long: Floats
    short: Floats

    @property
    def setting(self) -> str:
        return f"ranks {len(self.long)} and {len(self.short)}"

    def encode(self, base: Floats) -> Payload:
        arrays: dict[str, NDArray[Any]] = {**make_bitmap(self.chosen, "longer_")}
        groups = (("long_", self.chosen, self.long), ("short_", ~self.chosen, self.short))
        for prefix, group, directions in groups:
            arrays[f"{prefix}directions"] = directions
            arrays[f"{prefix}weights"] = base[group] @ directions.T
        return Payload(self.name, (base.shape[0], base.shape[1]), arrays)


class _MagSvdReader(_GroupReader):
    def __init__(self, payload: Payload) -> None:
        super().__init__(payload)
        self._long, self._short = entries(payload, "long_"), entries(payload, "short_")

    def _group(self, longer: bool, rows: Rows) -> Floats:
        group = self._long if longer else self._short
        return np.asarray(group["weights"][rows] @ group["directions"])
