"""What a recipe is: the description of a set, and the parts that making it yields."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Metric = Literal["l2", "cosine"]
Column = NDArray[Any] | Sequence[str]
Report = Callable[[str, int, int], None]
"""Called with a stage's name, the steps done and the steps in all."""

QUERY_COUNT = 1000
HOLD_OUT_SEED = 20_260_101


@dataclass(frozen=True, eq=False)
class Parts:
    """A set before its ground truth is known.

    Attributes
    ----------
    base : ndarray, shape (n, d), float32
    queries : ndarray, shape (m, d), float32
        Rows that are not in `base` (though equal values may be: real data has duplicates).
    columns, query_columns : mapping
        Per row of `base` or `queries`: "labels", "tenants" (int32 arrays), "words", "texts".
    tenant_names : sequence of str
        Name of tenant i; empty for a set without tenants.
    sources : sequence of str
        Packages and versions that went in.
    """

    base: NDArray[np.float32]
    queries: NDArray[np.float32]
    columns: Mapping[str, Column] = field(default_factory=dict)
    query_columns: Mapping[str, Column] = field(default_factory=dict)
    tenant_names: Sequence[str] = ()
    sources: Sequence[str] = ()


@dataclass(frozen=True)
class Recipe:
    """One dataset: what it is, the function that makes its parts, and the sets it is made from."""

    name: str
    metric: Metric
    title: str
    licence: str
    make: Callable[[Report], Parts]
    needs: tuple[str, ...] = ()


def pick(column: Column, rows: NDArray[np.intp]) -> Column:
    """Return the chosen rows of a column, in the order given."""
    if isinstance(column, np.ndarray):
        return np.ascontiguousarray(column[rows])
    return [column[int(row)] for row in rows]


def hold_out(
    vectors: NDArray[Any],
    columns: Mapping[str, Column],
    *,
    count: int = QUERY_COUNT,
    seed: int = HOLD_OUT_SEED,
    tenant_names: Sequence[str] = (),
    sources: Sequence[str] = (),
) -> Parts:
    """Split rows into base and held-out queries, both in their original order.

    Parameters
    ----------
    vectors : ndarray, shape (n, d)
        Converted to float32.
    columns : mapping
        Per row of `vectors`.
    count : int
        Number of queries; must leave at least one base row.
    seed : int
        The same seed and n give the same split.
    """
    total = len(vectors)
    if not 0 < count < total:
        raise ValueError(f"Cannot hold {count} queries out of {total} rows.")
    held = np.zeros(total, dtype=np.bool_)
    held[np.random.default_rng(seed).choice(total, size=count, replace=False)] = True
    query_rows, base_rows = np.flatnonzero(held), np.flatnonzero(~held)
    return Parts(
        base=np.ascontiguousarray(vectors[base_rows], dtype=np.float32),
        queries=np.ascontiguousarray(vectors[query_rows], dtype=np.float32),
        columns={name: pick(column, base_rows) for name, column in columns.items()},
        query_columns={name: pick(column, query_rows) for name, column in columns.items()},
        tenant_names=tenant_names,
        sources=sources,
    )
