"""EmbeddingTable: vectors in the shape of their ids."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vecstore
from tests import naive
from tests.store_checks import normal, python, small_limits, sound_store

ROWS, DIM = 90, 6
VECTORS = normal(ROWS, DIM)


@pytest.fixture(scope="module", params=["float32", "float16", "int8"])
def raw(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, raw: str) -> Iterator[vecstore.Store]:
    """Collections with int and str ids, most rows in extents, some in the log."""
    with pytest.MonkeyPatch.context() as patch:
        small_limits(patch)
        with sound_store(tmp_path_factory.mktemp("table") / "s") as store:
            for name, kind in (("ints", int), ("texts", str)):
                docs = store.collection(name, dim=DIM, raw=raw)
                docs.upsert([kind(i) for i in range(80)], VECTORS[:80])
                docs.upsert([kind(i) for i in range(80, ROWS)], VECTORS[80:])
                assert docs.stats()["tail_rows"] == 10
            yield store


@pytest.fixture(scope="module")
def expected(raw: str) -> Any:
    return naive.stored(raw, VECTORS)


def test_what_it_is(store: vecstore.Store) -> None:
    table = store.collection("ints").table()
    assert isinstance(table, vecstore.EmbeddingTable)
    assert (table.shape, table.dim, len(table)) == ((ROWS, DIM), DIM, ROWS)
    assert table.dtype == np.float32
    assert repr(table) == f"EmbeddingTable('ints', shape=({ROWS}, {DIM}))"


@pytest.mark.parametrize("shape", [(), (1,), (7,), (0,), (3, 4), (2, 0), (2, 3, 2, 2)])
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.uint64, object])
def test_shapes_of_int_ids(store: vecstore.Store, expected: Any, shape: Any, dtype: Any) -> None:
    """An array, and the same as nested lists."""
    ids = np.random.default_rng(1).integers(0, ROWS, shape).astype(dtype)
    table = store.collection("ints").table()
    for given_ids in (ids, ids.tolist()):
        found = table[given_ids]
        assert (found.shape, found.dtype) == ((*shape, DIM), np.float32)
        assert found.tolist() == expected[ids.astype(int)].tolist()


@pytest.mark.parametrize("shape", [(), (1,), (7,), (0,), (3, 4), (2, 3, 2, 2)])
@pytest.mark.parametrize("dtype", [np.str_, object])
def test_shapes_of_str_ids(store: vecstore.Store, expected: Any, shape: Any, dtype: Any) -> None:
    places = np.random.default_rng(2).integers(0, ROWS, shape)
    ids = places.astype(str).astype(dtype)
    table = store.collection("texts").table()
    for given_ids in (ids, ids.tolist()):
        found = table[given_ids]
        assert (found.shape, found.dtype) == ((*shape, DIM), np.float32)
        assert found.tolist() == expected[places].tolist()


@given(st.lists(st.integers(0, ROWS - 1), max_size=40))
def test_repeats(store: vecstore.Store, expected: Any, ids: list[int]) -> None:
    for name, kind in (("ints", int), ("texts", str)):
        table = store.collection(name).table()
        found = table[[kind(i) for i in ids]]
        assert found.shape == (len(ids), DIM)
        assert found.tolist() == expected[ids].tolist()


def test_an_id_is_looked_up_once(store: vecstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    docs = store.collection("ints")
    fetch = docs._core.reader.fetch_vectors
    monkeypatch.setattr(
        docs._core.reader,
        "fetch_vectors",
        lambda scope, ids, *rest: asked.append(len(ids)) or fetch(scope, ids, *rest),
    )
    docs.table()[[3, 4, 3, 3, 4]]
    assert asked == [2]


class Tensor:
    """What another library's tensor is to numpy."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array([[5], [0]], np.int32)


def test_other_containers(store: vecstore.Store, expected: Any) -> None:
    table = store.collection("ints").table()
    assert table[Tensor()].tolist() == expected[[[5], [0]]].tolist()
    assert table[range(5)].tolist() == expected[:5].tolist()
    assert table[1, 2].tolist() == expected[[1, 2]].tolist(), "a tuple is a list of ids"
    assert table[np.int8(3)].tolist() == expected[3].tolist()


def test_what_is_given_may_be_written_to(store: vecstore.Store, expected: Any) -> None:
    table = store.collection("ints").table(missing=np.zeros(DIM))
    for ids in (3, [3, 3], [3, 999]):
        table[ids][...] = 7
        assert table[3].tolist() == expected[3].tolist()
        assert not table[999].any()


def test_unknown_ids(store: vecstore.Store) -> None:
    with pytest.raises(vecstore.UnknownIdError, match="'ints' has no id 90"):
        store.collection("ints").table()[[1, 90, 1]]
    with pytest.raises(KeyError, match="has no id '-1'"):
        store.collection("texts").table()["-1"]


@pytest.mark.parametrize("missing", [np.arange(DIM), list(range(DIM)), np.arange(DIM)[None]])
def test_missing(store: vecstore.Store, expected: Any, missing: Any) -> None:
    row = list(range(DIM))
    table = store.collection("ints").table(missing=missing)
    assert table[400].tolist() == row
    assert table[[[400, 2], [89, 401]]].tolist() == [
        [row, expected[2].tolist()],
        [expected[89].tolist(), row],
    ]
    assert table[[400, 400, 500]].tolist() == [row] * 3
    assert store.collection("texts").table(missing)["no such"].tolist() == row


def test_missing_row_of_its_own(store: vecstore.Store) -> None:
    """A change of the caller's array later does not reach the table."""
    row = np.zeros(DIM, np.float32)
    table = store.collection("ints").table(missing=row)
    row[:] = 5
    assert not table[1_000].any()


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (np.zeros(DIM + 1), "7 dimensions; collection 'ints' expects 6"),
        (np.zeros((2, DIM)), "missing has 2 rows; pass one vector"),
        ([], "0 dimensions"),
        ([np.nan] * DIM, "missing in row 0 contains nan"),
        ("zeros", "vectors"),
        (0, "shape"),
    ],
)
def test_bad_missing(store: vecstore.Store, missing: Any, message: str) -> None:
    with pytest.raises(vecstore.InvalidVectorError, match=message):
        store.collection("ints").table(missing=missing)


@pytest.mark.parametrize(
    "ids", [None, 1.5, True, [True], [1, "2"], slice(3), -1, [[1, 2], [3]], {"a": 1}, b"1", [None]]
)
def test_ids_of_other_kinds(store: vecstore.Store, ids: Any) -> None:
    for table in (store.collection("ints").table(), store.collection("ints").table([0] * DIM)):
        with pytest.raises(vecstore.InvalidArgumentError):
            table[ids]


def test_ids_of_the_other_kind(store: vecstore.Store) -> None:
    with pytest.raises(vecstore.InvalidArgumentError, match="has int ids; got str"):
        store.collection("ints").table()["3"]
    with pytest.raises(vecstore.InvalidArgumentError, match="has str ids; got int"):
        store.collection("texts").table([0] * DIM)[3]


def test_it_is_no_sequence_and_read_only(store: vecstore.Store) -> None:
    table: Any = store.collection("ints").table()
    with pytest.raises(TypeError):
        iter(table)
    with pytest.raises(TypeError):
        assert 3 in table
    with pytest.raises(TypeError):
        table[3] = np.zeros(DIM)


def test_it_follows_writes(tmp_path: Path) -> None:
    with sound_store(tmp_path / "s") as store:
        docs = store.collection("docs", dim=2)
        table = docs.table(missing=[9, 9])
        assert table[[]].shape == (0, 2)
        assert table[1].tolist() == [9, 9], "an empty collection has no kind of id"
        docs.upsert([1, 2], [[1, 0], [2, 0]])
        assert table.shape == (2, 2)
        assert table[[2, 1]].tolist() == [[2, 0], [1, 0]]
        docs.upsert(1, [5, 5])
        docs.delete(2)
        assert table[[2, 1]].tolist() == [[9, 9], [5, 5]]
    with pytest.raises(vecstore.StoreClosedError):
        table[1]


def test_no_torch() -> None:
    code = """
        import sys, vecstore
        vecstore.EmbeddingTable
        assert "torch" not in sys.modules
    """
    python(code)
