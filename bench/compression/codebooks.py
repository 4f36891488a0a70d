"""Product codes by faiss, with sub-vectors that need not be of one length.

faiss splits d dimensions into m sub-vectors only where m divides d. Here the first d mod m
sub-vectors have one dimension more than the rest, as two faiss quantisers side by side, so that
any m from 1 to d is a setting. Codebooks are stored as float16: their rounding error is far below
the quantisation error, and they weigh as much as many rows when the budget is small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from bench.compression.container import Layout
from bench.compression.contract import Floats, Rows, sample

POINTS_PER_CENTROID = 64
ITERATIONS = 15


@dataclass(frozen=True)
class Part:
    """Consecutive sub-vectors of one length.

    Attributes
    ----------
    key : str
        Suffix of the part's arrays.
    start : int
        First dimension.
    count : int
        Number of sub-vectors.
    length : int
        Dimensions of each.
    """

    key: str
    start: int
    count: int
    length: int

    @property
    def dims(self) -> slice:
        """The dimensions that this part covers."""
        return slice(self.start, self.start + self.count * self.length)


def split(dim: int, count: int) -> list[Part]:
    """Split ``dim`` dimensions into ``count`` sub-vectors, longer ones first."""
    if not 1 <= count <= dim:
        raise ValueError(f"{dim} dimensions have 1 to {dim} sub-vectors, not {count}.")
    length, longer = divmod(dim, count)
    parts = [Part("a", 0, longer, length + 1)] if longer else []
    return [*parts, Part("b", longer * (length + 1), count - longer, length)]


def product_layout(rows: int, dim: int, count: int, bits: int, prefix: str = "") -> Layout:
    """Arrays of the codes of ``rows`` rows with their codebooks."""
    layout: dict[str, tuple[str, tuple[int, ...]]] = {}
    for part in split(dim, count):
        layout[f"{prefix}book_{part.key}"] = ("<f2", (part.count, 2**bits, part.length))
        layout[f"{prefix}codes_{part.key}"] = ("|u1", (rows, (part.count * bits + 7) // 8))
    return layout


class ProductCode:
    """A trained product code.

    Parameters
    ----------
    dim : int
    bits : int
        Of each sub-vector's code, 1 to 16.
    books : mapping of ndarray (count, 2**bits, length) float16
        By the part's key, as `arrays` names them.
    """

    def __init__(self, dim: int, bits: int, books: Mapping[str, NDArray[np.float16]]) -> None:
        self.dim, self.bits = dim, bits
        self.books = dict(books)
        self._parts = split(dim, sum(len(book) for book in books.values()))
        self._quantizers: dict[str, Any] = {}
        for part in self._parts:
            quantizer = faiss.ProductQuantizer(part.count * part.length, part.count, bits)
            flat = self.books[part.key].astype(np.float32).ravel()
            faiss.copy_array_to_vector(flat, quantizer.centroids)
            self._quantizers[part.key] = quantizer

    @property
    def count(self) -> int:
        """Number of sub-vectors."""
        return sum(part.count for part in self._parts)

    def encode(self, rows: Floats) -> dict[str, NDArray[np.uint8]]:
        """Codes (m, bytes) of rows (m, dim), by the part's key."""
        return {
            part.key: self._quantizers[part.key].compute_codes(
                np.ascontiguousarray(rows[:, part.dims])
            )
            for part in self._parts
        }

    def decode(self, codes: Mapping[str, NDArray[np.uint8]]) -> Floats:
        """Rows (m, dim) float32 of codes."""
        parts = [
            self._quantizers[part.key].decode(np.ascontiguousarray(codes[part.key]))
            for part in self._parts
        ]
        return np.asarray(parts[0] if len(parts) == 1 else np.hstack(parts), dtype=np.float32)

    def arrays(self, rows: Floats, prefix: str = "") -> dict[str, NDArray[Any]]:
        """Arrays of `product_layout` for rows (m, dim)."""
        codes = self.encode(rows)
        found: dict[str, NDArray[Any]] = {}
        for key, book in self.books.items():
            found[f"{prefix}book_{key}"] = book
            found[f"{prefix}codes_{key}"] = codes[key]
        return found


def train_product(
    rows: Floats,
    count: int,
    bits: int,
    seed: int,
    iterations: int = ITERATIONS,
    start: ProductCode | None = None,
) -> ProductCode:
    """Learn a product code by k-means in each sub-space.

    Parameters
    ----------
    rows : ndarray (n, d) float32
        At most 64 a centroid are used.
    count : int
        Sub-vectors.
    bits : int
        Of each code; 2**bits may not exceed n.
    seed : int
    iterations : int
        Rounds of k-means.
    start : ProductCode, optional
        Where k-means begins: a code of as many sub-vectors and bits.
    """
    drawn = sample(rows, POINTS_PER_CENTROID * 2**bits, seed)
    books = {}
    for part in split(rows.shape[1], count):
        quantizer = faiss.ProductQuantizer(part.count * part.length, part.count, bits)
        quantizer.cp.niter = iterations
        quantizer.cp.seed = seed + 1
        quantizer.cp.min_points_per_centroid = 1
        quantizer.cp.max_points_per_centroid = POINTS_PER_CENTROID
        if start is not None:
            quantizer.train_type = faiss.ProductQuantizer.Train_hot_start
            flat = start.books[part.key].astype(np.float32).ravel()
            faiss.copy_array_to_vector(flat, quantizer.centroids)
        quantizer.train(np.ascontiguousarray(drawn[:, part.dims]))
        learnt = faiss.vector_to_array(quantizer.centroids)
        books[part.key] = learnt.reshape(part.count, -1, part.length).astype(np.float16)
    return ProductCode(rows.shape[1], bits, books)


class ProductTable:
    """A product code opened together with the codes of a table.

    Parameters
    ----------
    dim : int
    arrays : mapping
        Arrays of `product_layout`, without their prefix.
    """

    def __init__(self, dim: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        books = {
            name.removeprefix("book_"): array
            for name, array in arrays.items()
            if name.startswith("book_")
        }
        bits = next(iter(books.values())).shape[1].bit_length() - 1
        self._code = ProductCode(dim, bits, books)
        self._codes = {key: arrays[f"codes_{key}"] for key in books}

    def lookup(self, rows: Rows) -> Floats:
        """Decoded rows (m, dim) float32."""
        return self._code.decode({key: codes[rows] for key, codes in self._codes.items()})
