"""Product quantisation (PQ), and PQ after a learnt rotation (OPQ).

PQ: Jégou et al., TPAMI 2011. OPQ: Ge et al., CVPR 2013. Codes are 8 bits a sub-vector; where the
codebooks would take more than a quarter of the budget, 6 or 4 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from bench.compression.codebooks import ProductCode, ProductTable, product_layout, train_product
from bench.compression.container import Layout, Payload, stored_bytes
from bench.compression.contract import (
    DECODE_ROWS,
    Encoder,
    Floats,
    OverBudgetError,
    Reader,
    Rows,
    largest,
    sample,
)

_BITS = (8, 6, 4)
_BOOK_SHARE = 0.25
_ROTATION_SHARE = 0.06
_OPQ_ROWS = 8_192
_OPQ_ROUNDS = 10
_OPQ_ITERATIONS = 2
_PCA_ROWS = 65_536


def code_bits(rows: int, dim: int, budget_bytes: int) -> int:
    """Bits of a sub-vector's code: the most whose codebooks are affordable and can be trained."""
    for bits in _BITS[:-1]:
        if 2**bits * dim * 2 <= _BOOK_SHARE * budget_bytes and 2**bits <= rows:
            return bits
    return _BITS[-1]


@dataclass(frozen=True)
class Pq:
    """Product quantisation."""

    name: str = "pq"
    about: str = "product quantisation"

    def train(self, base: Floats, budget_bytes: int, seed: int) -> Encoder:
        """See `Compressor.train`."""
        rows, dim = base.shape
        bits = code_bits(rows, dim, budget_bytes)

        def fits(count: int) -> bool:
            layout = product_layout(rows, dim, count, bits)
            return stored_bytes(self.name, (rows, dim), layout) <= budget_bytes

        count = largest(1, dim, fits)
        if count is None:
            raise OverBudgetError(f"{self.name}: one code a row exceeds {budget_bytes:,} bytes.")
        return _PqEncoder(self.name, train_product(base, count, bits, seed))

    def open(self, payload: Payload) -> Reader:
        """See `Compressor.open`."""
        return _PqReader(payload)


@dataclass(frozen=True)
class _PqEncoder:
    name: str
    code: ProductCode

    @property
    def setting(self) -> str:
        return f"{self.code.count} × {self.code.bits} bits"

    def encode(self, base: Floats) -> Payload:
        return Payload(self.name, (base.shape[0], base.shape[1]), self.code.arrays(base))


class _PqReader(Reader):
    def __init__(self, payload: Payload) -> None:
        super().__init__(payload)
        self._table = ProductTable(payload.shape[1], payload.arrays)

    def lookup(self, rows: Rows) -> Floats:
        return self._table.lookup(rows)


@dataclass(frozen=True)
class Opq:
    """PQ of centred and rotated rows; the rotation drops dimensions where it costs too much.

    The rotation is stored as float16 and takes at most 6 % of the budget: then only the
    leading principal components are kept and rotated.
    """

    name: str = "opq"
    about: str = "product quantisation after a learnt rotation"

    def _layout(self, shape: tuple[int, int], kept: int, count: int, bits: int) -> Layout:
        side = {"mean": ("<f4", (shape[1],)), "rotation": ("<f2", (kept, shape[1]))}
        return {**side, **product_layout(shape[0], kept, count, bits)}

    def train(self, base: Floats, budget_bytes: int, seed: int) -> Encoder:
        """See `Compressor.train`."""
        rows, dim = base.shape
        kept = max(1, min(dim, int(_ROTATION_SHARE * budget_bytes / (2 * dim))))
        bits = code_bits(rows, kept, budget_bytes)

        def fits(count: int) -> bool:
            layout = self._layout((rows, dim), kept, count, bits)
            return stored_bytes(self.name, (rows, dim), layout) <= budget_bytes

        count = largest(1, kept, fits)
        if count is None:
            raise OverBudgetError(f"{self.name}: one code a row exceeds {budget_bytes:,} bytes.")
        drawn = sample(base, _PCA_ROWS, seed)
        mean = drawn.mean(axis=0, dtype=np.float64).astype(np.float32)
        rotation = _rotation(drawn - mean, kept, count, bits, seed).astype(np.float16)
        code = train_product(_rotate(drawn, mean, rotation), count, bits, seed)
        return _OpqEncoder(self.name, mean, rotation, code)

    def open(self, payload: Payload) -> Reader:
        """See `Compressor.open`."""
        return _OpqReader(payload)


def _rotation(rows: Floats, kept: int, count: int, bits: int, seed: int) -> Floats:
    """Orthonormal rows (kept, d) that make a product code of centred rows (n, d) err little.

    Begun from a random rotation of the leading principal components, and from the dimensions as
    they are where none has to go; the better one is taken.
    """
    components = PCA(kept, svd_solver="covariance_eigh").fit(rows).components_
    mixed, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((kept, kept)))
    starts = [mixed @ components]
    if kept == rows.shape[1]:
        starts.append(np.eye(kept))
    drawn = sample(rows, _OPQ_ROWS, seed)
    _, rotation = min(
        (_improved(drawn, start, count, bits, seed) for start in starts),
        key=lambda found: found[0],
    )
    return rotation


def _improved(
    rows: Floats, rotation: NDArray[np.float64], count: int, bits: int, seed: int
) -> tuple[float, Floats]:
    """Better codes and rotation in turn (Ge et al., section 4); squared error, and the rotation."""
    code, squared = None, 0.0
    for _ in range(_OPQ_ROUNDS):
        turned = np.asarray(rows @ rotation.T, dtype=np.float32)
        iterations = _OPQ_ITERATIONS if code else 2 * _OPQ_ITERATIONS
        code = train_product(turned, count, bits, seed, iterations, code)
        decoded = code.decode(code.encode(turned))
        squared = float(((decoded @ rotation - rows) ** 2).sum(dtype=np.float64))
        left, _, right = np.linalg.svd(decoded.T @ rows, full_matrices=False)
        rotation = left @ right
    return squared, np.asarray(rotation, dtype=np.float32)


def _rotate(rows: Floats, mean: Floats, rotation: NDArray[np.float16]) -> Floats:
    return np.asarray((rows - mean) @ rotation.astype(np.float32).T, dtype=np.float32)


@dataclass(frozen=True)
class _OpqEncoder:
    name: str
    mean: Floats
    rotation: NDArray[np.float16]
    code: ProductCode

    @property
    def setting(self) -> str:
        return f"{self.code.count} × {self.code.bits} bits, {len(self.rotation)} dimensions"

    def encode(self, base: Floats) -> Payload:
        parts = [
            self.code.encode(_rotate(base[start : start + DECODE_ROWS], self.mean, self.rotation))
            for start in range(0, len(base), DECODE_ROWS)
        ]
        arrays: dict[str, NDArray[Any]] = {"mean": self.mean, "rotation": self.rotation}
        for key, book in self.code.books.items():
            arrays[f"book_{key}"] = book
            arrays[f"codes_{key}"] = np.concatenate([part[key] for part in parts])
        return Payload(self.name, (base.shape[0], base.shape[1]), arrays)


class _OpqReader(Reader):
    def __init__(self, payload: Payload) -> None:
        super().__init__(payload)
        self._mean = payload.arrays["mean"]
        self._rotation = payload.arrays["rotation"].astype(np.float32)
        self._table = ProductTable(len(self._rotation), payload.arrays)

    def lookup(self, rows: Rows) -> Floats:
        return np.asarray(self._table.lookup(rows) @ self._rotation + self._mean)
