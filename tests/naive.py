"""The oracle: what the engine should compute, in plain numpy and float64, slow and readable.

Nothing here shares code with the engine. Distances are those of the public contract: "l2" squared
Euclidean, "cosine" 1 - cosine, "ip" the negated inner product. The rotation follows RaBitQ (SIGMOD
2024, section 3), the choice of copies SOAR (arXiv 2404.00774, section 3.2). Codes are in
`tests.naive_codecs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
METRICS = ("l2", "cosine", "ip")


# --- exact search -----------------------------------------------------------------------------


def distances(metric: str, query: Any, rows: Any) -> F64:
    """Distances of one query (dim,) to rows (n, dim)."""
    q, x = np.asarray(query, np.float64), np.asarray(rows, np.float64)
    if metric == "l2":
        return np.asarray(((x - q) ** 2).sum(axis=1))
    dot = x @ q
    if metric == "ip":
        return np.asarray(-dot)
    return np.asarray(1.0 - dot / (np.linalg.norm(x, axis=1) * np.linalg.norm(q)))


def top_k(metric: str, query: Any, rows: Any, k: int) -> tuple[I64, F64]:
    """Nearest min(k, n) rows, nearest first, equal distances in the order of rows."""
    d = distances(metric, query, rows)
    order = np.argsort(d, kind="stable")[:k]
    return order, d[order]


def recall(found: Any, exact: Any, slack: float = 1e-5) -> float:
    """Share of the k nearest that were found, counted by distance, so that ties count.

    Parameters
    ----------
    found : (n, k) true distances of the rows that were answered
    exact : (n, k) distances of the k nearest rows
    """
    found, exact = np.asarray(found, np.float64), np.asarray(exact, np.float64)
    assert found.shape == exact.shape
    kth = exact[:, -1:]
    return float((found <= kth + slack * np.abs(kth) + slack * slack).mean())


# --- raw forms ---------------------------------------------------------------------------------


def _half(x: F64) -> F64:
    """Round to 11 significant bits, ties to even; below 2**-14 to multiples of 2**-24."""
    exponent = np.maximum(np.frexp(x)[1] - 1, -14)
    step = np.exp2(exponent - 10.0)
    return np.asarray(np.rint(x / step) * step)


def _eight_bits(row: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round to the nearest of 256 levels from least to largest; whole ones if they suffice."""
    low, span = row.min(), row.max() - row.min()
    whole = span <= 255 and all(float(value).is_integer() for value in row)
    step = np.float32(1) if whole else span / np.float32(255)
    if step == 0:
        return np.full_like(row, low)
    levels = np.clip(np.rint((row - low) / step), 0, 255).astype(np.float32)
    return np.asarray(low + step * levels)


def stored(raw: str, rows: Any) -> NDArray[np.float32]:
    """Rows (n, dim) as a collection with this raw form gives them back."""
    x = np.asarray(rows, np.float32)
    if raw == "float16":
        return _half(x.astype(np.float64)).astype(np.float32)
    if raw == "int8":
        return np.array([_eight_bits(row) for row in x], np.float32).reshape(x.shape)
    return x


# --- rotation -----------------------------------------------------------------------------------


@lru_cache
def hadamard(size: int) -> F64:
    """Walsh-Hadamard matrix, unscaled; `size` is a power of two."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def rotate(x: Any, signs: Any) -> F64:
    """Rotate vectors (..., padded): per round all signs, then one Hadamard window.

    The window is the largest power of two; even rounds put it at the start, odd ones at the end.
    """
    y = np.asarray(x, np.float64).copy()
    padded = y.shape[-1]
    size = 2 ** int(np.log2(padded))
    for number, flips in enumerate(np.asarray(signs, np.float64)):
        y *= flips
        start = 0 if number % 2 == 0 else padded - size
        window = (..., slice(start, start + size))
        y[window] = y[window] @ hadamard(size) / np.sqrt(size)
    return y


def rotate_centred(x: Any, centre: Any, signs: Any) -> F64:
    """Subtract the centre, pad with zeros, rotate."""
    padded = np.asarray(signs).shape[1]
    y = np.zeros(padded)
    y[: len(x)] = np.asarray(x, np.float64) - np.asarray(centre, np.float64)
    return rotate(y, signs)


def quantise_query(rotated: Any, steps: float) -> F64:
    """Round coordinates to whole steps, of which the largest has the given number."""
    y = np.asarray(rotated, np.float64)
    step = np.abs(y).max() / steps
    return np.floor(y / step + 0.5) * step if step > 0 else np.zeros_like(y)


# --- copies -----------------------------------------------------------------------------------


def soar(x: Any, candidates: Any, centroids: Any, weight: float, copies: int) -> list[list[int]]:
    """Homes of each row as in SOAR: the first candidate, then the least parallel good ones.

    Every further home minimises ``|r'|^2 + weight * sum_s <r', r_s / |r_s|>^2`` over the homes s
    before it. Rows get fewer homes when there are fewer candidates; -1 is no candidate.
    """
    chosen = []
    for row, near in zip(np.asarray(x, np.float64), candidates, strict=True):
        known = [int(c) for c in near if c >= 0]
        residual = {c: row - np.asarray(centroids[c], np.float64) for c in known}
        homes = known[:1]
        while homes and len(homes) < min(copies, len(known)):
            units = [
                residual[s] / np.linalg.norm(residual[s]) if residual[s].any() else residual[s]
                for s in homes
            ]
            cost = {
                c: float(residual[c] @ residual[c])
                + weight * sum(float(residual[c] @ unit) ** 2 for unit in units)
                for c in known
                if c not in homes
            }
            homes.append(min(cost, key=lambda c: cost[c]))
        chosen.append(homes)
    return chosen


# --- a collection -----------------------------------------------------------------------------


@dataclass
class Row:
    vector: NDArray[np.float32]
    metadata: dict[str, Any] | None = None
    document: str | None = None


@dataclass
class Model:
    """A collection as a dict; its order is the order of insertion, a replaced row comes last."""

    dim: int
    metric: str
    raw: str = "float32"
    rows: dict[Any, Row] = field(default_factory=dict)

    def upsert(
        self,
        ids: Sequence[Any],
        vectors: Any,
        metadata: Sequence[dict[str, Any] | None] | None = None,
        documents: Sequence[str | None] | None = None,
    ) -> None:
        assert len(set(ids)) == len(ids)
        block = stored(self.raw, np.asarray(vectors, np.float32).reshape(-1, self.dim))
        assert len(block) == len(ids)
        for place, key in enumerate(ids):
            self.rows.pop(key, None)
            self.rows[key] = Row(
                block[place].copy(),
                metadata[place] if metadata is not None else None,
                documents[place] if documents is not None else None,
            )

    def delete(self, ids: Iterable[Any]) -> int:
        return sum(self.rows.pop(key, None) is not None for key in dict.fromkeys(ids))

    def get(self, ids: Iterable[Any]) -> list[Row | None]:
        return [self.rows.get(key) for key in ids]

    def matrix(self) -> NDArray[np.float32]:
        if not self.rows:
            return np.empty((0, self.dim), np.float32)
        return np.stack([row.vector for row in self.rows.values()])

    def query(self, vector: Any, k: int) -> list[tuple[Any, float]]:
        """Nearest min(k, rows) as (id, distance), equal distances by insertion."""
        if not self.rows:
            return []
        ids = list(self.rows)
        order, d = top_k(self.metric, vector, self.matrix(), k)
        return [(ids[i], float(v)) for i, v in zip(order, d, strict=True)]
