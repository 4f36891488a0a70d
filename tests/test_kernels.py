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
from tests.kernel_checks import BLOCK, address, aligned, aligned_copy
from tests.naive_codecs import Oracle, Shape, read_run
from tests.store_checks import normal
from vecstore import layout
from vecstore.codecs import find_codec
from vecstore.codecs.model import draw_signs
from vecstore.config import Metric
from vecstore.kernels import checksum, chunks, cut, topk
from vecstore.kernels import query as queries
from vecstore.kernels import view as v
from vecstore.kernels.blocks import PLANES
from vecstore.kernels.closure import choose_copies
from vecstore.kernels.distance import exact_distance
from vecstore.kernels.encode import encode_runs, gather_rows
from vecstore.kernels.quantise import to_half
from vecstore.kernels.rotation import rotate, rotate_back
from vecstore.kernels.scratch import Scratch
from vecstore.layout import NO_ROW, padded_dim

DIMS = [3, 50, 64, 100, 128, 192, 384, 1000, 1536]
PLAIN = np.zeros(v.VIEW_FIELDS, np.int64)


# --- rotation and codes -------------------------------------------------------------------------


def rotated_centred(x: Any, centre: Any, signs: Any) -> Any:
    out = np.empty(signs.shape[1], np.float32)
    x = np.ascontiguousarray(x, np.float32)
    queries.rotate_centred(
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
    rotated, room = aligned_copy(rotated), aligned(len(rotated), np.uint8)
    step, half_sum = queries.query_planes(
        address(rotated), len(rotated), address(room), address(planes)
    )
    bits = np.unpackbits(planes.view(np.uint8), bitorder="little").reshape(-1, PLANES, 64)
    weights = np.array([1 << p for p in range(PLANES - 1)] + [-(1 << (PLANES - 1))])
    values = np.einsum("p,wpj->wj", weights, bits.astype(np.int64)).ravel()
    steps = float(queries.STEPS)
    assert values * step == pytest.approx(naive.quantise_query(rotated, steps), rel=1e-4, abs=1e-5)
    assert np.abs(values).max() == steps
    assert half_sum == pytest.approx(values.sum() * step / 2, rel=1e-4, abs=1e-3)


def test_query_planes_of_zero() -> None:
    planes = np.ones(PLANES, np.uint64)
    zeros, room = aligned(64, np.float32), aligned(64, np.uint8)
    zeros[:] = 0
    found = queries.query_planes(address(zeros), 64, address(room), address(planes))
    assert found == (0, 0)
    assert not planes.any()


COUNTS = [40, 1, 32]


@pytest.mark.parametrize("name", ["rabitq1", "rabitq3", "int8", "int4", "pq2", "float16"])
def test_encode_runs_lays_out_blocks(name: str) -> None:
    """Rows of several runs, each of its own centroid, to places out of order."""
    dim = 5
    rows, centroids = normal(sum(COUNTS), dim), normal(3, dim, seed=1)
    model = find_codec(name).train(rows, seed=1)
    view, size = model.view(), model.codec.run_block_bytes(dim)
    first = np.cumsum([0, *COUNTS])
    offsets = np.array([2, 0, 1]) * size
    out = aligned(4 * size, np.uint8)
    numbers = np.arange(100, 100 + len(rows), dtype=np.uint32)
    at = address(rows) + np.arange(len(rows)) * 4 * dim
    own = np.zeros(len(COUNTS), np.int64)
    for part in (0, 1, 2):
        encode_runs(
            view, centroids, own, True, first, at, numbers, part, part + 1, offsets, address(out)
        )
    shape = Shape(name, dim)
    for run, count in enumerate(COUNTS):
        blocks = -(-count // BLOCK)
        data = out[offsets[run] : offsets[run] + blocks * size]
        held = read_run(shape, data, model.codebook)
        own = slice(first[run], first[run + 1])
        padding = [NO_ROW] * (blocks * BLOCK - count)
        assert held.numbers.tolist() == [*numbers[own].tolist(), *padding]
        alone = read_run(shape, model.encode(rows[own], centroids[run]), model.codebook)
        assert held.x.tolist() == alone.x.tolist()
        for factor in ("f_add", "f_rs", "f_err"):
            mine, expected = getattr(held, factor), getattr(alone, factor)
            assert np.array_equal(mine, expected, equal_nan=True)


def test_prepared_rows_are_not_normalised_again() -> None:
    """Centroids are encoded as they are, whatever the metric."""
    rows, centroid = normal(3, 8), np.zeros((1, 8), np.float32)
    model = find_codec("float32").train(rows, "cosine")
    found = []
    for raw in (True, False):
        out = aligned(model.codec.run_block_bytes(8), np.uint8)
        at, numbers = address(rows) + 32 * np.arange(3), np.arange(3, dtype=np.uint32)
        where = np.array([0, 3]), at, numbers, 0, 1, np.array([0]), address(out)
        encode_runs(model.view(), centroid, np.zeros(1, np.int64), raw, *where)
        found.append(read_run(Shape("float32", 8), out).x[:3])
    assert found[0] == pytest.approx(rows / np.linalg.norm(rows, axis=1, keepdims=True), rel=1e-6)
    assert found[1].tolist() == rows.tolist()


@pytest.mark.parametrize("dim", DIMS)
def test_rotating_back(dim: int) -> None:
    signs, padded = draw_signs(dim, 5), padded_dim(dim)
    x = normal(1, padded)[0]
    turned = x.copy()
    rotate(address(turned), padded, address(signs))
    assert np.abs(turned - x).max() > 0.5
    rotate_back(address(turned), padded, address(signs))
    assert turned == pytest.approx(x, abs=2e-5)


@pytest.mark.parametrize("dim", DIMS)
def test_query_bytes(dim: int) -> None:
    rotated = aligned_copy(normal(1, padded_dim(dim), seed=dim)[0])
    rounded = aligned(len(rotated), np.int8)
    rounded[:] = 99
    step, total = queries.query_bytes(address(rotated), len(rotated), address(rounded))
    expected = naive.quantise_query(rotated, float(queries.BYTE_STEPS))
    apart = np.abs(rounded * np.float64(step) - expected)
    assert (apart <= 1.01 * step).all()
    assert (apart > 1e-3 * step).mean() < 0.01, "only where halves are rounded otherwise"
    assert total == rounded.sum(dtype=np.int64)
    assert np.abs(rounded.astype(int)).max() == 127


def test_query_bytes_of_zero() -> None:
    rounded, zeros = aligned(64, np.int8), aligned(64, np.float32)
    rounded[:], zeros[:] = 1, 0
    assert queries.query_bytes(address(zeros), 64, address(rounded)) == (0, 0)
    assert not rounded.any()


@pytest.mark.parametrize("name", ["pq4", "opq4", "pq7"])
def test_query_tables(name: str) -> None:
    """The turned query, and its products with the codewords of each part."""
    rows = normal(300, 10) + np.float32(2)
    model = find_codec(name).train(rows)
    assert model.codebook is not None
    parts, part_dim, _ = model.codebook.shape
    view, scratch = model.view(), Scratch(model.view())
    parted, tables = aligned(parts * part_dim, np.float32), aligned(parts * 256, np.float32)
    queries.part_centred(view, address(rows), address(model.centre), address(parted))
    turned = Oracle(
        Shape(name, 10), "l2", model.centre, model.signs, model.codebook, model.matrix
    ).turn(rows[0])
    assert parted == pytest.approx(turned, abs=1e-5)
    queries.query_tables(view, address(parted), address(tables))
    expected = np.einsum("ps,psw->pw", turned.reshape(parts, part_dim), model.codebook)
    assert tables.reshape(parts, 256) == pytest.approx(expected, abs=1e-4)
    assert scratch.fits(view)


# --- float16 ------------------------------------------------------------------------------------


@numba.njit
def to_halves(values, out):  # type: ignore[no-untyped-def]
    for i in range(len(values)):
        out[i] = to_half(values[i])


def halves_of(values: Any) -> Any:
    values = np.asarray(values, np.float32)
    out = np.empty(len(values), np.uint16)
    to_halves(values, out)
    return out


def test_every_float16_comes_back() -> None:
    bits = np.arange(2**16, dtype=np.uint32).astype(np.uint16)
    bits = bits[np.isfinite(bits.view(np.float16))]
    assert (halves_of(bits.view(np.float16)) == bits).all()


def test_float16_between_neighbours() -> None:
    """Halves go to the even one, what is a little more or less to the nearer one."""
    bits = np.arange(0x7BFF, dtype=np.uint16)
    low, high = (part.view(np.float16).astype(np.float32) for part in (bits, bits + 1))
    middle = (low + high) / 2  # exact: float32 has 13 bits more
    for sign in (1, -1):
        for values in (middle, np.nextafter(middle, low), np.nextafter(middle, high)):
            signed = np.float32(sign) * values
            assert (halves_of(signed) == signed.astype(np.float16).view(np.uint16)).all()


@given(st.lists(st.floats(-65504, 65504, width=32), min_size=1, max_size=50))
def test_float16_of_any_float(values: list[float]) -> None:
    expected = np.array(values, np.float32).astype(np.float16).view(np.uint16)
    assert (halves_of(values) == expected).all()


# --- distances, checksums ----------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2, 7, 16, 33, 100, 784])
@pytest.mark.parametrize("metric", naive.METRICS)
def test_exact_distance(metric: str, dim: int) -> None:
    for seed in range(5):
        query, row = normal(2, dim, seed=seed)
        prepared = np.empty_like(query)
        code = Metric.parse(metric)
        assert queries.prepare(code, address(query), dim, address(prepared)) == 0
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
    assert queries.prepare(Metric.parse(metric), address(source), 4, address(target)) == status


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
    table = np.zeros(v.CHUNK_FIELDS, np.int64)
    table[v.CHUNK_ORDER] = address(order) if order is not None else 0
    view[v.CHUNKS], view[v.CHUNK_TABLE] = 1, address(table)
    distance_of = {row: np.float32(row % (distinct + 1) - 2) for row in range(31)}
    rows, found = np.zeros(k, np.uint32), np.zeros(k, np.float32)
    count = 0
    for row in numbers:
        count = topk.offer(view, rows, found, count, np.uint32(row), distance_of[row])
    best = sorted(set(numbers), key=lambda row: (distance_of[row], -row if reverse else row))[:k]
    assert rows[:count].tolist() == best
    assert found[:count].tolist() == [distance_of[row] for row in best]


@given(st.sets(st.integers(0, 1023), min_size=1))
def test_places_in_a_sparse_chunk(present: set[int]) -> None:
    """A row's place is its rank among the rows of its chunk that have one."""
    chunk = np.zeros(1, layout.PLACES_DTYPE)
    marks = np.zeros(1024, np.bool_)
    marks[list(present)] = True
    chunk["bits"][0] = np.packbits(marks, bitorder="little").view(np.uint64)
    counts = marks.reshape(16, 64).sum(axis=1)
    chunk["ranks"][0] = np.cumsum(counts) - counts
    table = np.zeros((2, v.CHUNK_FIELDS), np.int64)
    table[1, v.CHUNK_PLACES] = address(chunk)
    view = PLAIN.copy()
    view[v.CHUNKS], view[v.CHUNK_TABLE] = 2, address(table)
    places = [chunks.place_in_chunk(view, 1024 + row) for row in sorted(present)]
    assert places == list(range(len(present)))
    assert [chunks.place_in_chunk(view, row) for row in (0, 5, 1023)] == [0, 5, 1023]


@given(st.lists(st.tuples(st.integers(0, 25), st.integers(-3, 9)), max_size=80), st.integers(1, 20))
def test_offer_upper_keeps_the_least_bounds(offered: list[tuple[int, int]], k: int) -> None:
    """The k least of the rows' least bounds so far, ascending; a row counts once."""
    scratch = np.zeros(v.SCRATCH_FIELDS, np.int64)
    uppers, rows = np.zeros(k, np.float32), np.zeros(k, np.uint32)
    scratch[v.UPPER], scratch[v.UPPER_ROWS] = address(uppers), address(rows)
    topk.clear_uppers(scratch, k)
    assert np.isposinf(uppers).all()
    assert (rows == NO_ROW).all()
    least: dict[int, float] = {}
    kept: dict[int, float] = {}
    for row, upper in offered:
        topk.offer_upper(scratch, k, np.uint32(row), np.float32(upper))
        least[row] = min(upper, least.get(row, np.inf))
        kept = dict(zip(rows.tolist(), uppers.tolist(), strict=True))
        held = [value for value in uppers.tolist() if value < np.inf]
        assert held == sorted(least.values())[:k]
        assert len(held) == len(kept.keys() - {NO_ROW}), "each row once"
        assert all(least[key] == value for key, value in kept.items() if key != NO_ROW)


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
def test_cut_below(values: list[float], data: st.DataObject) -> None:
    """At least `want` values do not exceed the cut; empty places do not count."""
    empty = -len(values) % 32 + 32 * data.draw(st.integers(0, 2))
    want = data.draw(st.integers(1, len(values)))
    places = aligned_copy(np.array(values + [np.inf] * empty, np.float32))
    np.random.default_rng(len(values)).shuffle(places)
    found = cut.cut_below(address(places), len(places), want)
    assert (places <= np.float32(found)).sum() >= want
    assert found < np.inf


@pytest.mark.parametrize("want", [1, 7, 40, 300, 2_000])
def test_cut_below_is_tight(want: int) -> None:
    """Few more than wanted are below it, of values that differ; all when there are fewer."""
    places = aligned_copy(normal(40, 32).ravel())
    below = (places <= cut.cut_below(address(places), len(places), want)).sum()
    assert min(want, 1_280) <= below <= min(want + want // 16, 1_280)
    assert cut.cut_below(address(places), 0, want) == -np.inf


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


@given(st.lists(st.integers(0, 3 * 1024 - 1), max_size=20), st.booleans())
def test_int_ids(rows: list[int], checked: bool) -> None:
    """Ids come from the table of a row's extent, when there is one and it was checked."""
    ids = np.arange(2 * 1024, dtype=np.int64)[::-1].copy() * 7
    cell = np.array([address(ids) if checked else 0])
    table = np.zeros((2, v.CHUNK_FIELDS), np.int64)
    table[1, [v.CHUNK_ADDRESS, v.CHUNK_FIRST, v.CHUNK_IDS]] = 4096, 1024, address(cell)
    view = PLAIN.copy()
    view[v.CHUNKS], view[v.CHUNK_TABLE] = 2, address(table)
    asked = np.array([*rows, NO_ROW], np.uint32)
    found = np.zeros(len(asked), np.int64)
    others = chunks.int_ids(view, asked, found)
    known = [checked and 1024 <= row < 2048 for row in rows]
    expected = [ids[row] if own else v.OTHER_ID for row, own in zip(rows, known, strict=True)]
    assert found.tolist() == [*expected, v.NO_ID]
    assert others == len(rows) - sum(known)
