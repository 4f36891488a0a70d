"""Raw forms: what comes back of a vector, and that it stays the same wherever the row stands."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numba.core import types
from numba.extending import intrinsic

import vecstore
from tests import naive
from tests.store_checks import failure, flip_byte, normal, small_limits, sound_store
from vecstore.config import Metric
from vecstore.kernels import raw as raw_kernels
from vecstore.kernels.distance import exact_distance
from vecstore.kernels.encode import exact_pairs, gather_rows
from vecstore.kernels.query import prepare
from vecstore.kernels.vectors import converts_half
from vecstore.layout import HEADER_DTYPE, Section
from vecstore.raw_forms import FORMS, find_form

RAW = sorted(FORMS)
ROUNDED = ["float16", "int8"]
DIMS = [3, 50, 100, 128, 1000, 1536]


def addresses(encoded: Any) -> Any:
    return encoded.ctypes.data + np.arange(len(encoded)) * encoded.shape[1]


def decoded(raw: str, rows: Any) -> Any:
    """Rows through the engine's encoder and its kernel."""
    form = find_form(raw)
    encoded = form.encode(rows)
    assert encoded.shape == (len(rows), form.row_bytes(rows.shape[1]))
    out = np.full(rows.shape, np.nan, np.float32)
    gather_rows(form.number, addresses(encoded), out)
    return out


# --- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2, *DIMS])
@pytest.mark.parametrize("raw", RAW)
def test_values_equal_the_oracle(raw: str, dim: int) -> None:
    """To the bit, for ordinary rows, wide and narrow ones, constants and whole numbers."""
    rows = normal(40, dim, seed=dim)
    rows[1] *= 1e-3
    rows[2] = 0.1
    rows[3] = np.rint(rows[3] * 40)
    rows[4] += 1000
    rows[5] = 0
    rows[6] = np.float32(2.0**-24) * np.arange(dim)
    assert decoded(raw, rows).tobytes() == naive.stored(raw, rows).tobytes()


@pytest.mark.parametrize("raw", ROUNDED)
def test_more_rows_than_one_step(raw: str) -> None:
    rows = normal(3_000, 7)
    assert decoded(raw, rows).tolist() == naive.stored(raw, rows).tolist()
    assert decoded(raw, rows[:0]).shape == (0, 7)
    assert find_form(raw).encode(rows[::2]).tolist() == find_form(raw).encode(rows)[::2].tolist()


@intrinsic
def half_by_integers(typingctx, bits):  # type: ignore[no-untyped-def]
    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return raw_kernels._half_by_integers(builder, args[0])

    return types.float32(types.uint16), codegen


@numba.njit
def both_ways(bits, one, other):  # type: ignore[no-untyped-def]
    for i in range(len(bits)):
        one[i] = raw_kernels.half_value(bits[i])
        other[i] = half_by_integers(bits[i])


def test_every_float16() -> None:
    """By the processor and by integers, zeros of both signs and denormal values included."""
    bits = np.arange(2**16, dtype=np.uint32).astype(np.uint16)
    bits = bits[np.isfinite(bits.view(np.float16))]
    expected = bits.view(np.float16).astype(np.float32)
    one, other = np.empty_like(expected), np.empty_like(expected)
    both_ways(bits, one, other)
    assert one.tobytes() == other.tobytes() == expected.tobytes()


def test_the_processor_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Target:
        def __init__(self, triple: str, features: str) -> None:
            self.answer = (triple, "some", features)

        def codegen(self) -> Any:
            return self

        def magic_tuple(self) -> tuple[str, str, str]:
            return self.answer

    assert converts_half(Target("x86_64-unknown-linux-gnu", "+avx,+f16c,-sse4a"))
    assert not converts_half(Target("x86_64-unknown-linux-gnu", "+avx,-f16c"))
    assert not converts_half(Target("x86_64-unknown-linux-gnu", ""))
    assert converts_half(Target("arm64-apple-darwin", ""))


any_rows = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=2, max_side=40),
    elements=st.floats(-60_000, 60_000, width=32),
)


@given(any_rows)
def test_error_of_float16(rows: Any) -> None:
    """Half a unit of the eleventh bit, or half of the least number there is."""
    got = decoded("float16", rows)
    assert (np.abs(got - rows) <= np.maximum(np.abs(rows) * 2.0**-11, 2.0**-25)).all()
    assert got.tolist() == naive.stored("float16", rows).tolist()


@given(any_rows)
def test_error_of_int8(rows: Any) -> None:
    """Half a step of the row's range, and the rounding of float32."""
    got = decoded("int8", rows)
    span = rows.max(axis=1, keepdims=True).astype(np.float64) - rows.min(axis=1, keepdims=True)
    rounding = np.abs(rows).max(axis=1, keepdims=True) * 2.0**-22 + 1e-42
    assert (np.abs(got.astype(np.float64) - rows) <= span / 510 + rounding).all()
    assert got.tolist() == naive.stored("int8", rows).tolist()


@given(
    arrays.arrays(np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40)),
    st.integers(-(2**23), 2**23),
)
def test_whole_numbers_stay(rows: Any, shift: int) -> None:
    """Descriptors of 8 bits lose nothing; within 2,048 float16 keeps whole numbers too."""
    moved = rows.astype(np.float32) + np.float32(shift)
    assert decoded("int8", moved).tolist() == moved.tolist()
    assert decoded("float16", rows.astype(np.float32)).tolist() == rows.tolist()


@given(st.sampled_from([2.0**-100, 2.0**-126, 2.0**-140, 2.0**-144]), st.data())
def test_tiny_values(largest: float, data: st.DataObject) -> None:
    """Down to where a step is no number of full precision any more."""
    values = st.floats(-largest, largest, width=32)
    rows = data.draw(arrays.arrays(np.float32, (3, 5), elements=values))
    got = decoded("int8", rows)
    assert np.abs(got.astype(np.float64) - rows).max() <= 2 * largest
    assert got.tolist() == naive.stored("int8", rows).tolist()
    assert (decoded("float16", rows) == 0).all()


def test_a_step_that_was_rounded_down() -> None:
    """Of 382 least numbers, 255 steps are one each and do not reach the end."""
    least = np.float32(2.0**-149)
    rows = np.array([[0, 1, 254, 382]], np.float32) * least
    assert (decoded("int8", rows) / least).tolist() == [[0, 1, 254, 255]]


# --- distances ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 7, 33, *DIMS])
@pytest.mark.parametrize("metric", naive.METRICS)
@pytest.mark.parametrize("raw", RAW)
def test_exact_distance(raw: str, metric: str, dim: int) -> None:
    """Of the row that comes back, whichever kernel asks."""
    form, code = find_form(raw), Metric.parse(metric)
    rows = normal(20, dim, seed=dim) + np.float32(0.3)
    queries = normal(3, dim, seed=1)
    encoded = form.encode(rows)
    pairs = np.empty((3, 20), np.float32)
    exact_pairs(form.number, code, queries, np.tile(addresses(encoded), (3, 1)), pairs)
    for query, found in zip(queries, pairs, strict=True):
        prepared = np.empty_like(query)
        assert prepare(code, query.ctypes.data, dim, prepared.ctypes.data) == 0
        truth = naive.distances(metric, query, naive.stored(raw, rows))
        size = 1 + float(np.linalg.norm(query))
        assert found == pytest.approx(truth, rel=2e-5, abs=1e-5 * size)
        single = [
            exact_distance(form.number, code, prepared.ctypes.data, at, dim)
            for at in addresses(encoded).tolist()
        ]
        assert single == found.tolist()


@pytest.mark.parametrize("raw", RAW)
def test_a_row_is_at_distance_zero_of_what_comes_back(raw: str) -> None:
    """Values far from zero, where an order of operations of its own would show."""
    form = find_form(raw)
    rows = normal(50, 128) + np.float32(1000 if raw != "float16" else 100)
    encoded = form.encode(rows)
    own = np.empty((50, 1), np.float32)
    at = addresses(encoded)[:, None]
    exact_pairs(form.number, Metric.L2, decoded(raw, rows), at, own)
    assert not own.any()


# --- collections --------------------------------------------------------------------------------


def answers(docs: vecstore.Collection, ids: list[Any], queries: Any) -> tuple[bytes, Any, Any]:
    found = docs.search(queries, k=len(ids), recall=1.0)
    return docs.vectors(ids).tobytes(), found.ids.tolist(), found.distances.tolist()


@pytest.mark.parametrize("codec", ["rabitq1", "float32"])
@pytest.mark.parametrize("metric", naive.METRICS)
@pytest.mark.parametrize("raw", RAW)
def test_rows_stay_the_same_wherever_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw: str, metric: str, codec: str
) -> None:
    """In the log, flushed, as fragments, trained anew, in another process's map."""
    small_limits(monkeypatch, bulk=60, log=25)
    dim, queries = 9, normal(4, 9, seed=9)
    rows = normal(150, dim) + np.float32(0.5)
    with sound_store(tmp_path / "s") as store:
        docs = store.collection("docs", dim=dim, metric=metric, raw=raw, codec=codec)
        first = list(range(20))
        docs.upsert(first, rows[:20])
        assert docs.stats()["tail_rows"] == 20
        fresh = answers(docs, first, queries)
        assert fresh[0] == naive.stored(raw, rows[:20]).tobytes()
        for query, found in zip(queries, fresh[2], strict=True):
            _, truth = naive.top_k(metric, query, naive.stored(raw, rows[:20]), 20)
            assert found == pytest.approx(truth.tolist(), rel=1e-5, abs=1e-5)
        docs.upsert(list(range(20, 30)), rows[20:30])
        assert docs.stats()["tail_rows"] == 0, "the log was flushed"
        docs.delete(list(range(20, 30)))
        assert answers(docs, first, queries) == fresh
        docs.load(rows[30:150], ids=np.arange(30, 150))
        everything = [*first, *range(30, 150)]
        kept = np.concatenate([rows[:20], rows[30:]])
        trained = answers(docs, everything, queries)
        assert trained[0] == naive.stored(raw, kept).tobytes()
        for place, query in enumerate(queries):
            _, truth = naive.top_k(metric, query, naive.stored(raw, kept), len(kept))
            assert trained[2][place] == pytest.approx(truth.tolist(), rel=1e-5, abs=1e-5)
            some = docs.query(query, k=5)
            own = dict(zip(trained[1][place], trained[2][place], strict=True))
            assert [hit.distance for hit in some] == [own[hit.id] for hit in some]
    with vecstore.open(tmp_path / "s", mode="r") as store:
        assert answers(store.collection("docs", raw=raw), everything, queries) == trained
        assert store.collection("docs").stats()["raw"] == raw


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("raw", ROUNDED)
def test_dimensions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw: str, dim: int) -> None:
    """In several chunks of the address table, bulk, fragments and log."""
    small_limits(monkeypatch, posting=64)
    rows = normal(1_300 if dim < 200 else 200, dim, seed=dim)
    n = len(rows)
    with sound_store(tmp_path / "s") as store:
        docs = store.collection("docs", dim=dim, raw=raw)
        for start, end in ((0, n - 100), (n - 100, n - 10), (n - 10, n)):
            docs.upsert(range(start, end), rows[start:end])
        assert docs.stats()["tail_rows"] == 10
        back = docs.vectors(range(n))
        assert back.tobytes() == naive.stored(raw, rows).tobytes()
        for query in normal(3, dim, seed=4):
            order, truth = naive.top_k("l2", query, back, 10)
            hits = docs.query(query, recall=1.0, include=("vector",))
            assert [hit.id for hit in hits] == order.tolist()
            assert [hit.distance for hit in hits] == pytest.approx(truth.tolist(), rel=1e-5)
            assert all((hit.vector == back[hit.id]).all() for hit in hits)
        kept = docs.stats()["raw_bytes"] - 2 * 8_192  # a header and tables in each extent
        assert kept <= 1_024 * (-(-n // 1_024) + 1) * find_form(raw).row_bytes(dim) + 24 * n


def test_the_form_is_the_collections_own(tmp_path: Path) -> None:
    with sound_store(tmp_path / "s") as store:
        store.collection("half", dim=4, raw="float16").upsert([1], [[0.1, 0.2, 0.3, 0.4]])
        assert store.collection("plain", dim=4).stats()["raw"] == "float32"
        with pytest.raises(vecstore.CollectionMismatchError, match="raw 'float16', not 'int8'"):
            store.collection("half", raw="int8")
        for wrong in ("float64", "", "Float16", 16, np.float16, ["int8"]):
            with pytest.raises(vecstore.InvalidArgumentError, match="'float32', 'float16', 'int8'"):
                store.collection("other", dim=4, raw=wrong)  # type: ignore[arg-type]
        assert store.collections() == ["half", "plain"]


@pytest.mark.parametrize("kind", [int, str])
def test_many_ids_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    """Looked up in the order of keys, answered in the order asked, repeats included."""
    small_limits(monkeypatch, posting=32)
    monkeypatch.setattr("vecstore.ids._PIECE_IDS", 64)
    rows = normal(400, 5)
    with sound_store(tmp_path / "s") as store:
        docs = store.collection("docs", dim=5)
        docs.upsert([kind(3 * i) for i in range(400)], rows)
        picks = np.random.default_rng(0).integers(0, 400, 1_000)
        assert docs.vectors([kind(3 * i) for i in picks.tolist()]).tolist() == rows[picks].tolist()
        asked = [kind(i) for i in range(1_250)]
        found = docs.get(asked)
        assert [hit and hit.id for hit in found] == [
            asked[i] if i % 3 == 0 and i < 1_200 else None for i in range(1_250)
        ]
        with pytest.raises(vecstore.UnknownIdError, match=repr(kind(1_201))):
            docs.vectors([kind(1_197), kind(1_201), kind(4)])


# --- what does not fit --------------------------------------------------------------------------


@pytest.mark.parametrize("n", [5, 100])
@pytest.mark.parametrize(
    ("raw", "metric", "value", "message"),
    [
        (
            "float16",
            "l2",
            65_505.0,
            r"row 3 has a value of magnitude 65505; raw='float16' holds at",
        ),
        ("float16", "ip", -1e9, r"row 3 has a value of magnitude 1e\+09; raw='float16'"),
        ("float16", "cosine", 2.0**-25, r"row 3 has no value of more than .* needs a direction"),
        ("int8", "l2", 3e15, r"row 3 has a value of magnitude 3e\+15; raw='int8'"),
        ("int8", "cosine", 1e-18, r"row 3 has no value .* raw='int8' rounds to zero"),
        ("float16", "l2", np.nan, r"row 3 contains nan"),
        ("int8", "cosine", 0.0, r"row 3 has length zero"),
    ],
)
def test_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raw: str,
    metric: str,
    value: float,
    message: str,
    n: int,
) -> None:
    """By row and by what to do, in small calls and large ones; nothing of the call is written."""
    small_limits(monkeypatch)
    with sound_store(tmp_path / "s") as store:
        docs = store.collection("docs", dim=4, metric=metric, raw=raw)
        rows = normal(n, 4)
        rows[3] = 0
        rows[3, 1] = value
        error = failure(lambda: docs.upsert(range(n), rows), vecstore.InvalidVectorError)
        assert error is not None
        assert error.args[0].startswith("Vector in row 3 ")
        with pytest.raises(vecstore.InvalidVectorError, match=message):
            docs.upsert(range(n), rows)
        if "raw" in message:
            assert "raw='float32'" in str(error)
        assert "nothing was written" in str(error)
        assert docs.count() == 0
        if np.isfinite(value) and value:
            other = store.collection("plain", dim=4, metric=metric)
            other.upsert(range(n), rows)
            assert other.vectors(3).tolist() == rows[3].tolist()


@pytest.mark.parametrize(
    ("raw", "metric", "value"),
    [
        ("float16", "l2", 65_504.0),
        ("float16", "l2", 1e-30),
        ("float16", "cosine", 3.1e-8),
        ("int8", "ip", -1e15),
        ("int8", "cosine", 1.1e-18),
    ],
)
def test_just_accepted(tmp_path: Path, raw: str, metric: str, value: float) -> None:
    """At the limits a row is still found, at its own distance."""
    with sound_store(tmp_path / "s") as store:
        docs = store.collection("docs", dim=3, metric=metric, raw=raw)
        docs.upsert(["edge", "other"], [[0, value, 0], [value, 0, 0]])
        hits = docs.query([0, np.sign(value), 0])
        assert {hit.id for hit in hits} == {"edge", "other"}
        assert np.isfinite([hit.distance for hit in hits]).all()
        assert docs.vectors("edge").tolist() == naive.stored(raw, [[0, value, 0]])[0].tolist()


def test_row_numbers_in_messages_count_from_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values are looked at in blocks; the row named is that of the whole."""
    monkeypatch.setattr("vecstore.inputs._CHECK_BYTES", 160)
    with sound_store(tmp_path / "s") as store:
        docs = store.collection("docs", dim=4, raw="float16")
        rows = normal(35, 4)
        rows[27] = 1e6
        with pytest.raises(vecstore.InvalidVectorError, match=r"Vector in row 27 .*1e\+06"):
            docs.upsert(range(35), rows)


# --- damage -------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: Any) -> Any:
    """A store of one raw extent, and its file."""
    small_limits(monkeypatch)
    with sound_store(tmp_path / "s") as store:
        store.collection("docs", dim=50, raw=request.param).upsert(range(300), normal(300, 50))
    files = sorted((tmp_path / "s" / "extents").iterdir())
    heads = {file: np.fromfile(file, HEADER_DTYPE, 1) for file in files}
    (raw_file,) = (file for file, head in heads.items() if head[0]["kind"] == 1)
    return tmp_path / "s", raw_file, heads[raw_file]


@pytest.mark.parametrize("damaged", RAW, indirect=True)
def test_damage_in_a_raw_page(damaged: Any) -> None:
    path, file, head = damaged
    entry = next(e for e in head[0]["table"] if e["section"] == Section.ROWS)
    with vecstore.open(path, mode="r") as store:
        row_bytes = store.collection("docs")._core.identity.row_bytes
    flip_byte(file, int(entry["offset"]) + 200 * row_bytes + 11)
    with vecstore.open(path, mode="r") as store:
        docs = store.collection("docs")
        reads = [
            lambda: docs.vectors(range(300)),
            lambda: docs.query(np.ones(50), recall=1.0),
            lambda: docs.query(np.ones(50), k=300),
            lambda: docs.query(np.ones(50), k=300, include=("vector",)),
        ]
        for call in reads:
            error = failure(call, vecstore.CorruptionError)
            assert error is not None
            assert (error.collection, error.extent) == ("docs", int(head[0]["extent"]))
            assert "restore a backup" in str(error)
            about = re.search(r"Rows about (\d+) ", str(error))
            assert about
            assert abs(int(about[1]) - 200) <= 4096 // row_bytes + 1
        refused = sum(failure(partial(docs.vectors, i), OSError) is not None for i in range(300))
        assert 4096 // row_bytes <= refused <= 4096 // row_bytes + 2, "one page of rows is lost"
        assert [violation.invariant for violation in store.check()] == ["checksums"]


@pytest.mark.parametrize("damaged", RAW, indirect=True)
def test_rows_of_another_form_are_damage(damaged: Any) -> None:
    """A sound extent of another collection's form must not be read as this one's."""
    path, file, head = damaged
    head[0]["codec"] = (int(head[0]["codec"]) + 1) % 3
    assert HEADER_DTYPE.fields is not None
    place = HEADER_DTYPE.fields["sum"][1]
    head[0]["sum"] = xxhash.xxh3_64_intdigest(head.tobytes()[:place])
    with open(file, "r+b") as target:
        target.write(head.tobytes())
    with vecstore.open(path, mode="r") as store:
        with pytest.raises(vecstore.CorruptionError, match="raw rows of form"):
            store.collection("docs").query(np.ones(50))
        (violation,) = store.check()
        assert "raw rows of form" in violation.detail
