"""Every kernel against the oracle, on random and on drawn inputs."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from tests import naive
from tests.store_checks import normal
from vecstore import layout
from vecstore.config import Metric
from vecstore.directory import draw_signs, geometry
from vecstore.kernels import checksum, rabitq, topk
from vecstore.kernels import view as v
from vecstore.kernels.closure import choose_copies
from vecstore.kernels.distance import exact_distance
from vecstore.kernels.encode import encode_runs, gather_rows
from vecstore.kernels.intrinsics import PLANES, mask_within, rabitq_block
from vecstore.kernels.rotation import rotate
from vecstore.layout import NO_ROW, padded_dim

DIMS = [3, 50, 64, 100, 128, 192, 384, 1000, 1536]
BLOCK = 32
PLAIN = np.zeros(v.VIEW_FIELDS, np.int64)


def address(array: Any) -> int:
    return int(array.ctypes.data)


def aligned(count: int, dtype: Any) -> Any:
    """Zeroed memory that starts at a multiple of 64 bytes, as blocks do in extents."""
    dtype = np.dtype(dtype)
    raw = np.zeros(count * dtype.itemsize + 64, np.uint8)
    start = -address(raw) % 64
    return raw[start : start + count * dtype.itemsize].view(dtype)


@numba.njit
def call_block(block, planes, words, scale, shift, g_add, g_err, threshold, out):  # type: ignore[no-untyped-def]
    return rabitq_block(block, planes, words, scale, shift, g_add, g_err, threshold, out)


@numba.njit
def call_mask(values, threshold):  # type: ignore[no-untyped-def]
    return mask_within(values, threshold)


def bits_of(mask: int) -> list[bool]:
    return [bool(mask >> r & 1) for r in range(BLOCK)]


# --- rotation and codes -------------------------------------------------------------------------


def rotated_centred(x: Any, centre: Any, signs: Any) -> Any:
    out = np.empty(signs.shape[1], np.float32)
    x = np.ascontiguousarray(x, np.float32)
    rabitq.rotate_centred(
        address(x), address(centre), len(x), len(out), address(signs), address(out)
    )
    return out


@pytest.mark.parametrize("dim", DIMS)
def test_rotation_equals_the_documented_rounds(dim: int) -> None:
    signs = draw_signs(dim, 5)
    assert set(np.unique(signs)) == {-1, 1}
    centre, x = normal(2, dim)
    expected = naive.rotate_centred(x, centre, signs)
    assert rotated_centred(x, centre, signs) == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("dim", DIMS)
def test_rotation_is_orthogonal(dim: int) -> None:
    signs = draw_signs(dim, 3)
    padded = padded_dim(dim)
    matrix = np.eye(padded, dtype=np.float32)
    for row in matrix:
        rotate(address(row), padded, address(signs))
    assert np.abs(matrix @ matrix.T - np.eye(padded)).max() < 1e-5
    spread = np.abs(matrix[:dim]).max(axis=1)
    assert spread.max() < 0.9, "every input reaches many outputs"


@pytest.mark.parametrize("dim", DIMS)
def test_query_planes(dim: int) -> None:
    rotated = normal(1, padded_dim(dim), seed=dim)[0]
    planes = np.full(len(rotated) // 64 * PLANES, 2**64 - 1, np.uint64)
    step, half_sum = rabitq.query_planes(address(rotated), len(rotated), address(planes))
    bits = np.unpackbits(planes.view(np.uint8), bitorder="little").reshape(-1, PLANES, 64)
    weights = np.array([1 << p for p in range(PLANES - 1)] + [-(1 << (PLANES - 1))])
    values = np.einsum("p,wpj->wj", weights, bits.astype(np.int64)).ravel()
    steps = float(rabitq.STEPS)
    assert values * step == pytest.approx(naive.quantise_query(rotated, steps), rel=1e-4, abs=1e-5)
    assert np.abs(values).max() == steps
    assert half_sum == pytest.approx(rotated.sum(dtype=np.float64) / 2, rel=1e-4, abs=1e-3)


def test_query_planes_of_zero() -> None:
    planes = np.ones(PLANES, np.uint64)
    assert rabitq.query_planes(address(np.zeros(64, np.float32)), 64, address(planes)) == (0, 0)
    assert not planes.any()


class Coded:
    """A block of 32 rows coded against a centroid, and a query prepared for it."""

    def __init__(self, metric: str, rows: Any, centroid: Any, query: Any, seed: int = 1) -> None:
        self.metric, self.dim = metric, len(centroid)
        self.code = Metric.parse(metric)
        self.signs = draw_signs(self.dim, seed)
        self.centre = normal(1, self.dim, seed=99)[0] * np.float32(0.1)
        if metric == "cosine":
            rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            query = query / np.linalg.norm(query)
        self.rows, self.query = np.float32(rows), np.float32(query)
        self.centroid = np.float32(centroid)
        self.padded = padded_dim(self.dim)
        self.block = aligned(layout.rabitq_block_bytes(self.dim), np.uint8)
        turned_centroid = rotated_centred(self.centroid, self.centre, self.signs)
        for place, row in enumerate(self.rows):
            turned = rotated_centred(row, self.centre, self.signs)
            rabitq.encode_row(
                self.code,
                address(row),
                address(turned),
                address(self.centroid),
                address(turned_centroid),
                self.dim,
                self.padded,
                address(self.block),
                place,
                np.uint32(1_000 + place),
            )

    def scan(self, threshold: float) -> tuple[Any, list[bool], float]:
        """Estimates of the block kernel, its mask, and the factor of the error bounds."""
        turned = rotated_centred(self.query, self.centre, self.signs)
        planes = np.zeros(self.padded // 64 * PLANES, np.uint64)
        scale, shift = rabitq.query_planes(address(turned), self.padded, address(planes))
        offset = np.linalg.norm(self.query.astype(np.float64) - self.centroid)
        base = {"l2": offset**2, "cosine": offset**2 / 2, "ip": -float(self.query @ self.centroid)}
        out = aligned(BLOCK, np.float32)
        mask = call_block(
            address(self.block),
            address(planes),
            self.padded // 64,
            np.float32(scale),
            np.float32(shift),
            np.float32(base[self.metric]),
            np.float32(offset),
            np.float32(threshold),
            address(out),
        )
        return out, bits_of(int(mask)), float(offset)

    def naive(self) -> Any:
        """(32, 2) estimates and bounds of the oracle."""
        return np.array(
            [
                naive.estimate(
                    naive.encode(row, self.centroid, self.centre, self.signs),
                    self.query,
                    self.centre,
                    self.signs,
                    self.metric,
                    float(rabitq.EPSILON),
                    float(rabitq.STEPS),
                )
                for row in self.rows
            ]
        )


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("metric", naive.METRICS)
def test_block_kernel_equals_the_oracle(metric: str, dim: int) -> None:
    rows = normal(BLOCK, dim, seed=dim) + np.float32(1)
    coded = Coded(metric, rows, rows.mean(axis=0) * 0.9, normal(1, dim, seed=7)[0] + 1)
    expected = coded.naive()
    got, everything, offset = coded.scan(np.inf)
    size = np.abs(expected[:, 0]).max() + 1
    assert got == pytest.approx(expected[:, 0], rel=1e-3, abs=1e-3 * size)
    assert everything == [True] * BLOCK
    factors = coded.block.view(np.float32).reshape(-1, BLOCK)
    assert factors[-2] * offset == pytest.approx(expected[:, 1], rel=2e-2, abs=1e-4 * size)
    lower = got - factors[-2] * np.float32(offset)
    for threshold in np.quantile(lower, [0, 0.3, 0.7]):
        _, mask, _ = coded.scan(threshold)
        clear = np.abs(lower - threshold) > 1e-4 * size
        assert (np.array(mask) == (lower <= threshold))[clear].all()
    numbers = coded.block.view(np.uint32).reshape(-1, BLOCK)[-1]
    assert numbers.tolist() == list(range(1_000, 1_000 + BLOCK))
    assert coded.scan(-1e30)[1] == [False] * BLOCK


@pytest.mark.parametrize("dim", [64, 100, 384])
@pytest.mark.parametrize("metric", naive.METRICS)
def test_estimates_are_unbiased_and_bounded(metric: str, dim: int) -> None:
    errors, bounds = [], []
    for seed in range(30):
        rows = normal(BLOCK, dim, seed=seed) + np.float32(0.5)
        coded = Coded(metric, rows, rows[0] * 0.5, normal(1, dim, seed=500 + seed)[0], seed)
        got, _, offset = coded.scan(np.inf)
        errors.append(got - naive.distances(metric, coded.query, coded.rows))
        bounds.append(coded.block.view(np.float32).reshape(-1, BLOCK)[-2] * offset)
    error, bound = np.concatenate(errors), np.concatenate(bounds)
    assert (np.abs(error) <= bound).mean() > 0.9
    assert abs(error.mean()) < 0.1 * bound.mean()
    assert np.abs(error).mean() > 0.05 * bound.mean(), "the bound says something"


@pytest.mark.parametrize("metric", naive.METRICS)
def test_rows_equal_to_the_centroid_and_to_each_other(metric: str) -> None:
    row = normal(1, 70)[0]
    row /= np.linalg.norm(row)
    coded = Coded(metric, np.repeat(row[None], BLOCK, axis=0), row, normal(1, 70, seed=2)[0])
    got, _, _ = coded.scan(np.inf)
    assert np.isfinite(got).all()
    assert len(set(got.tolist())) == 1
    truth = naive.distances(metric, coded.query, coded.rows[:1])[0]
    assert got[0] == pytest.approx(truth, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("codec", ["rabitq1", "float32"])
def test_encode_runs_lays_out_blocks(codec: str) -> None:
    dim, counts = 5, [40, 1, 32]
    number, size = (
        (v.RABITQ, layout.rabitq_block_bytes(dim))
        if codec == "rabitq1"
        else (v.FLOAT32, layout.float32_block_bytes(dim))
    )
    rows, centroids = normal(sum(counts), dim), normal(3, dim, seed=1)
    signs, centre = draw_signs(dim, 1), np.zeros(dim, np.float32)
    view = geometry(dim, Metric.L2, number, size, centre, signs)
    first = np.cumsum([0, *counts])
    offsets = np.array([0, 2, 3]) * size
    out = aligned(4 * size, np.uint8)
    numbers = np.arange(100, 100 + len(rows), dtype=np.uint32)
    at = address(rows) + np.arange(len(rows)) * 4 * dim
    encode_runs(view, centroids, True, first, at, numbers, 0, 3, offsets, address(out))
    words = out.view(np.uint32).reshape(4, -1)
    stored = words[:, -BLOCK:].ravel()
    places = np.r_[0:40, 64:65, 96:128]
    assert stored[places].tolist() == numbers.tolist()
    assert (np.delete(stored, places) == NO_ROW).all()
    if codec == "float32":
        values = out.view(np.float32).reshape(4, -1)[:, :-BLOCK].reshape(4, dim, BLOCK)
        assert values.transpose(0, 2, 1).reshape(128, dim)[places].tolist() == rows.tolist()
    else:
        f_add = out.view(np.float32).reshape(4, -1)[:, -4 * BLOCK : -3 * BLOCK].ravel()
        assert np.isposinf(np.delete(f_add, places)).all()
        assert (f_add[places] < 1e6).all()


# --- distances, masks, checksums ----------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2, 7, 16, 33, 100, 784])
@pytest.mark.parametrize("metric", naive.METRICS)
def test_exact_distance(metric: str, dim: int) -> None:
    for seed in range(5):
        query, row = normal(2, dim, seed=seed)
        prepared = np.empty_like(query)
        code = Metric.parse(metric)
        assert rabitq.prepare(code, address(query), dim, address(prepared)) == 0
        got = exact_distance(v.RAW_FLOAT32, code, address(prepared), address(row), dim)
        truth = naive.distances(metric, query, row[None])[0]
        assert got == pytest.approx(truth, rel=1e-5, abs=1e-5 * (1 + float(np.linalg.norm(query))))
        assert metric != "cosine" or 0 <= got <= 2


@pytest.mark.parametrize(
    ("value", "metric", "status"),
    [(np.nan, "l2", 1), (np.inf, "ip", 1), (3e38, "l2", 1), (0.0, "cosine", 2), (0.0, "l2", 0)],
)
def test_prepare_tells_what_is_odd(value: float, metric: str, status: int) -> None:
    source = np.full(4, value, np.float32)
    target = np.empty(4, np.float32)
    assert rabitq.prepare(Metric.parse(metric), address(source), 4, address(target)) == status


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=32, max_size=32), st.data())
def test_mask_within(values: list[float], data: st.DataObject) -> None:
    block = aligned(BLOCK, np.float32)
    block[:] = values
    threshold = data.draw(st.sampled_from(values))
    mask = call_mask(address(block), np.float32(threshold))
    assert bits_of(int(mask)) == (block <= np.float32(threshold)).tolist()


@given(
    st.integers(checksum.BYTES_MIN, 5_000) | st.sampled_from([4_096, 16_384, 100_000]),
    st.integers(0, 2**32 - 1),
)
def test_xxh3(size: int, seed: int) -> None:
    data = np.random.default_rng(seed).integers(0, 256, size + 3, dtype=np.uint8)
    work = np.zeros(8, np.uint64)
    for start in (0, 3):
        part = data[start : start + size]
        got = int(checksum.xxh3(address(part), size, address(work))) % 2**64
        assert got == xxhash.xxh3_64_intdigest(part.tobytes())


def test_gather_rows() -> None:
    rows = normal(20, 9)
    picks = np.array([3, 3, 19, 0])
    out = np.empty((4, 9), np.float32)
    gather_rows(v.RAW_FLOAT32, address(rows) + picks * 36, out)
    assert out.tolist() == rows[picks].tolist()


# --- the best so far ----------------------------------------------------------------------------

offers = st.lists(st.integers(0, 30), max_size=60)


@given(offers, st.integers(1, 40), st.integers(0, 5), st.booleans())
def test_offer_keeps_the_nearest_once(
    numbers: list[int], k: int, distinct: int, reverse: bool
) -> None:
    """Ties by insertion (the row number, or the place that the chunk's table gives)."""
    view = PLAIN.copy()
    order = np.arange(1024, dtype=np.uint32)[::-1].copy() if reverse else None
    table = np.array([address(order) if order is not None else 0])
    view[v.CHUNKS], view[v.CHUNK_ORDER] = 1, address(table)
    distance_of = {row: np.float32(row % (distinct + 1) - 2) for row in range(31)}
    rows, found = np.zeros(k, np.uint32), np.zeros(k, np.float32)
    count = 0
    for row in numbers:
        count = topk.offer(view, rows, found, count, np.uint32(row), distance_of[row])
    best = sorted(set(numbers), key=lambda row: (distance_of[row], -row if reverse else row))[:k]
    assert rows[:count].tolist() == best
    assert found[:count].tolist() == [distance_of[row] for row in best]


floats = st.floats(width=32, allow_nan=False)


@given(floats, floats, st.integers(0, 2**32 - 1))
def test_heap_keys_order_like_distances(a: float, b: float, ordinal: int) -> None:
    a, b = np.float32(a) + np.float32(0), np.float32(b) + np.float32(0)
    key_a, key_b = (int(topk.heap_key(x, ordinal)) % 2**64 for x in (a, b))
    assert (key_a < key_b) == (a < b)
    assert (key_a == key_b) == (a == b)
    assert topk.key_distance(np.uint64(key_a)) == a
    assert key_a % 2**32 == ordinal


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=50))
def test_heap_pops_in_order(keys: list[int]) -> None:
    heap = np.array(keys, np.uint64)
    topk.heapify(address(heap), len(keys))
    popped = [int(topk.heap_pop(address(heap), size)) % 2**64 for size in range(len(keys), 0, -1)]
    assert popped == sorted(keys)


sane = st.floats(-(2.0**50), 2.0**50, width=32).filter(lambda x: x == 0 or abs(x) > 1e-10)


@given(st.lists(sane, min_size=1, max_size=200), st.data())
def test_histogram_cut(values: list[float], data: st.DataObject) -> None:
    """At least `want` values do not exceed the cut; empty places do not count."""
    empty = data.draw(st.integers(0, 40))
    want = data.draw(st.integers(1, len(values)))
    places = np.array(values + [np.inf] * empty, np.float32)
    np.random.default_rng(len(values)).shuffle(places)
    work = np.zeros(v.BINS, np.int64)
    cut = topk.histogram_cut(address(places), len(places), want, address(work))
    assert (places <= np.float32(cut)).sum() >= want
    assert cut < np.inf


# --- copies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [1, 2, 3, 4])
@pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
def test_choose_copies_equals_the_oracle(copies: int, weight: float) -> None:
    x, centroids = normal(200, 12), normal(30, 12, seed=1)
    x[0] = centroids[4]
    squares = ((x[:, None].astype(np.float64) - centroids[None]) ** 2).sum(axis=2)
    near = np.argsort(squares, axis=1)[:, :8]
    near[5, 2:] = -1
    near[6, 1:] = -1
    distances = np.take_along_axis(squares, np.maximum(near, 0), 1).astype(np.float32)
    chosen = np.empty((len(x), copies), np.int32)
    choose_copies(x, near, distances, centroids, np.float32(weight), chosen)
    for row, homes in zip(chosen, naive.soar(x, near, centroids, weight, copies), strict=True):
        assert [home for home in row if home >= 0] == homes
        assert row[len(homes) :].tolist() == [-1] * (copies - len(homes))
