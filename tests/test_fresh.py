"""Fresh rows: what codes exclude is never among the nearest, and is nearly all of the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.kernel_checks import address
from tests.store_checks import normal
from vecstore.config import Metric
from vecstore.kernels import view as v
from vecstore.kernels.distance import exact_distance
from vecstore.kernels.fresh import code_bytes, encode_fresh, least_distance, scan_fresh
from vecstore.kernels.query import prepare
from vecstore.kernels.scratch import Scratch
from vecstore.layout import padded_dim
from vecstore.raw_forms import FORMS, RawForm

KINDS = ("normal", "whole", "far", "constant", "sparse", "tiny", "huge", "one large")


def vectors(kind: str, n: int, dim: int, seed: int) -> Any:
    x = normal(n, dim, seed=seed)
    if kind == "whole":
        return np.abs(np.rint(40 * x))
    if kind == "far":
        return x + np.float32(1_000)
    if kind == "constant":
        return np.broadcast_to(x[:, :1], x.shape).copy()
    if kind == "sparse":
        return np.where(np.abs(x) > 1.5, x, np.float32(0))
    if kind == "one large":
        x[:, 0] *= np.float32(3_000)
    return x * np.float32({"tiny": 1e-18, "huge": 1e14}.get(kind, 1))


def encoded(x: Any, metric: Metric, form: RawForm) -> tuple[Any, Any]:
    rows = form.encode(x)
    codes = np.zeros((len(x), code_bytes(x.shape[1])), np.uint8)
    encode_fresh(int(metric), form.number, x.shape[1], rows, codes)
    return rows, codes


def scan(view: Any, query: Any, k: int) -> tuple[Any, Any]:
    """Rows and distances of the best k."""
    scratch = Scratch(view)
    assert prepare(view[v.METRIC], address(query), len(query), scratch.table[v.QUERY]) == 0
    rows, distances = np.zeros(k, np.uint32), np.zeros(k, np.float32)
    count = scan_fresh(view, scratch.table, rows, distances, 0)
    return rows[:count], distances[:count]


def prepared(query: Any, metric: Metric) -> Any:
    ready = np.empty(len(query), np.float32)
    assert prepare(int(metric), address(query), len(query), address(ready)) == 0
    return ready


def bounds(metric: Metric, ready: Any, codes: Any) -> list[float]:
    """What `least_distance` says of each row, for a prepared query."""
    facts = len(ready), ready.sum(), np.sqrt(np.float32(ready @ ready))
    return [least_distance(int(metric), address(code), address(ready), *facts) for code in codes]


kinds = st.sampled_from(KINDS)


@given(
    kinds,
    kinds,
    st.sampled_from([1, 3, 16, 50, 128, 200, 784]),
    st.sampled_from(list(Metric)),
    st.sampled_from(sorted(FORMS)),
    st.integers(0, 99),
)
@example("far", "far", 784, Metric.L2, "float32", 0)
def test_no_row_is_nearer_than_its_codes_allow(
    kind: str, asked: str, dim: int, metric: Metric, name: str, seed: int
) -> None:
    form = FORMS[name]
    n, k = 60, 7
    x = vectors(kind, n, dim, seed)
    if metric == Metric.COSINE:
        x[np.abs(x).max(axis=1) == 0] = 1
    if name == "float16" and np.abs(x).max() > form.largest:
        return
    if metric == Metric.COSINE and np.abs(x).max(axis=1).min() <= max(form.lost, 1e-18):
        return
    query = vectors(asked, 1, dim, seed + 1)[0]
    if metric == Metric.COSINE and np.square(query, dtype=np.float64).sum() < 1e-30:
        return
    rows, codes = encoded(x, metric, form)
    ready = prepared(query, metric)
    for row, least in zip(rows, bounds(metric, ready, codes), strict=True):
        exact = exact_distance(form.number, int(metric), address(ready), address(row), dim)
        assert not least > exact

    live = np.full(1024 // 64, 2**64 - 1, np.uint64)
    live[0] &= ~np.uint64(0b100)
    numbers = np.arange(n, dtype=np.uint32)
    addresses = address(rows) + rows.strides[0] * np.arange(n)
    code_addresses = address(codes) + codes.strides[0] * np.arange(n)
    code_addresses[::3] = 0
    view = np.zeros(v.VIEW_FIELDS, np.int64)
    view[[v.DIM, v.PADDED, v.METRIC]] = dim, padded_dim(dim), int(metric)
    view[[v.RAW_FORM, v.ROW_BYTES, v.CHUNKS]] = form.number, rows.shape[1], 1
    table = np.zeros(v.CHUNK_FIELDS, np.int64)
    view[v.CHUNK_TABLE] = address(table)
    view[v.LIVE], view[v.FRESH_ROWS] = address(live), n
    view[v.FRESH_NUMBERS], view[v.FRESH_VECTORS] = address(numbers), address(rows)
    wanted = scan(view, query, k)
    assert 2 not in wanted[0]
    view[v.FRESH_CODES] = address(codes)
    for _ in range(2):
        found = scan(view, query, k)
        assert np.array_equal(found[0], wanted[0])
        assert np.array_equal(found[1], wanted[1])
        view[v.FRESH_ADDRESSES] = address(addresses)
        view[v.FRESH_CODES] = address(code_addresses)
    codes[:] = 0xFF  # NaN: what excludes nothing
    view[v.FRESH_CODES] = address(code_addresses)
    assert np.array_equal(scan(view, query, k)[0], wanted[0])


@pytest.mark.parametrize("name", sorted(FORMS))
@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("kind", ["normal", "whole"])
def test_codes_exclude_nearly_all_that_is_farther(kind: str, metric: Metric, name: str) -> None:
    x = vectors(kind, 4_000, 64, 3)
    rows, codes = encoded(x, metric, FORMS[name])
    ready = prepared(vectors(kind, 1, 64, 4)[0], metric)
    exact = [
        exact_distance(FORMS[name].number, int(metric), address(ready), address(row), 64)
        for row in rows
    ]
    tenth = sorted(exact)[9]
    assert sum(least <= tenth for least in bounds(metric, ready, codes)) < 40
