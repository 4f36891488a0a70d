"""What the contract says about a collection, rule by rule: ids, vectors, writes, deletion.

Metadata and documents are in test_facts.py, reading by distance in test_query.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from tests.store_checks import normal, small_limits, sound_store
from vecstore import InvalidArgumentError, InvalidVectorError
from vecstore.codecs import default_codec

UNITS = np.eye(4, dtype=np.float32)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[vecstore.Store]:
    with sound_store(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def docs(store: vecstore.Store) -> vecstore.Collection:
    return store.collection("docs", dim=4)


# --- ids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ids",
    [
        ["a", "b"],
        ("x" * 256, "é" * 128),
        ["\n", " "],
        [0, 2**63 - 1],
        np.array([7, 8], np.uint8),
        np.array([2**63 - 1, 3], np.uint64),
        [np.int32(5), np.uint64(6)],
        np.array(["p", "q"]),
        range(2),
    ],
    ids=str,
)
def test_ids_are_returned_as_given(docs: vecstore.Collection, ids: Any) -> None:
    docs.upsert(ids, UNITS[:2])
    plain = [value.item() if isinstance(value, np.generic) else value for value in ids]
    assert [hit.id for hit in docs.get(ids)] == plain
    assert [hit.id for hit in docs.query(UNITS[1], k=1)] == plain[1:]
    kind = int if isinstance(plain[0], int) else str
    assert {type(hit.id) for hit in docs.get(ids)} == {kind}
    assert docs.search(UNITS[:2], k=1).ids[:, 0].tolist() == plain


def test_ids_are_not_normalised(docs: vecstore.Collection) -> None:
    """The same letter composed and decomposed is two ids."""
    docs.upsert(["\u00e9", "e\u0301"], UNITS[:2])
    assert len(docs) == 2
    assert docs.vectors("e\u0301").tolist() == UNITS[1].tolist()


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("", "0 bytes"),
        ("x" * 257, "257 bytes"),
        ("é" * 129, "258 bytes"),
        ("\ud800", "Unicode"),
        (-1, "-1"),
        (2**63, str(2**63)),
        (True, "True"),
        (np.True_, "True"),
        (1.0, "1.0"),
        (np.float32(1), "1.0"),
        (None, "None"),
        (b"a", "b'a'"),
    ],
    ids=repr,
)
def test_bad_ids_are_refused(docs: vecstore.Collection, bad: Any, words: str) -> None:
    for ids in (bad, [bad]):
        for call in (
            lambda ids=ids: docs.upsert(ids, UNITS[:1]),
            lambda ids=ids: docs.get(ids),
            lambda ids=ids: docs.vectors(ids),
        ):
            with pytest.raises(InvalidArgumentError, match="Id number") as caught:
                call()
            assert words in str(caught.value)
    with pytest.raises(InvalidArgumentError):
        docs.delete([bad])
    assert len(docs) == 0


def test_bad_id_is_named_by_its_place(docs: vecstore.Collection) -> None:
    with pytest.raises(InvalidArgumentError, match="number 2"):
        docs.upsert([5, 6, -7], UNITS[:3])
    with pytest.raises(InvalidArgumentError, match="number 1"):
        docs.upsert(np.array([5, -6]), UNITS[:2])


def test_first_write_fixes_the_kind_of_ids(docs: vecstore.Collection) -> None:
    docs.upsert([], [])
    assert docs.get(["a", "b"]) == [None, None]
    assert docs.get([1]) == [None]
    with pytest.raises(InvalidVectorError):
        docs.upsert([1], [[np.nan] * 4])
    docs.upsert("a", UNITS[0])
    for call in (
        lambda: docs.upsert([1], UNITS[:1]),
        lambda: docs.add([1], UNITS[:1]),
        lambda: docs.get([1]),
        lambda: docs.delete([1]),
    ):
        with pytest.raises(InvalidArgumentError, match="str ids; got int"):
            call()
    assert docs.delete(["a"]) == 1
    with pytest.raises(InvalidArgumentError, match="str ids; got int"):
        docs.upsert([1], UNITS[:1])
    with pytest.raises(InvalidArgumentError, match="mixes"):
        docs.upsert(["a", 1], UNITS[:2])


# --- vectors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i1", "u1", "i8", "u8", "longdouble"])
def test_vectors_of_any_real_dtype(docs: vecstore.Collection, dtype: str) -> None:
    given_vectors = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], dtype)
    docs.upsert([1, 2], given_vectors)
    back = docs.vectors([2, 1])
    assert back.dtype == np.float32
    assert back.tolist() == [[5, 6, 7, 8], [1, 2, 3, 4]]
    assert docs.query(given_vectors[1], k=1)[0].id == 2
    assert docs.search(given_vectors, k=1).ids.tolist() == [[1], [2]]


def test_vectors_in_other_shapes(docs: vecstore.Collection) -> None:
    docs.upsert(1, [1, 2, 3, 4])
    docs.upsert(2, [[5, 6, 7, 8]])
    docs.upsert([3, 4], np.asfortranarray(UNITS[:2]))
    docs.upsert([5, 6], UNITS[::2])
    docs.upsert([7], (range(4),))
    assert docs.vectors(1).tolist() == [1, 2, 3, 4]
    assert docs.vectors(1).shape == (4,)
    assert docs.vectors([1]).shape == (1, 4)
    assert docs.vectors([]).shape == (0, 4)
    assert docs.vectors([4, 6, 7]).tolist() == [[0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 2, 3]]
    assert docs.query(np.array([0, 9, 1, 9, 2, 9, 3, 9], np.float32)[::2], k=1)[0].id == 7


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_vectors_come_back_to_the_bit(store: vecstore.Store, metric: str) -> None:
    """Never normalised, whatever the metric and the path that wrote them."""
    docs = store.collection(metric, dim=7, metric=metric)
    vectors = normal(50, 7) * np.logspace(-8, 8, 50)[:, None].astype(np.float32)
    docs.upsert(range(50), vectors)
    assert docs.vectors(range(50)).tobytes() == vectors.tobytes()


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        ([[1, 2, 3]], "Vector has 3 dimensions; collection 'docs' expects 4"),
        ([1, 2, 3, 4], r"shape \(4,\)"),
        ([[[1, 2, 3, 4]]], r"shape \(1, 1, 4\)"),
        ([[1, 2, 3, 4], [1, 2]], "rectangular"),
        ([["a", "b", "c", "d"]], "dtype"),
        ([[True] * 4], "dtype bool"),
        ([[1j] * 4], "dtype complex128"),
        ([[None] * 4], "dtype object"),
        (7, r"shape \(\)"),
        ([[0, 0, np.nan, 0]], "row 0 contains nan"),
        ([[0, 0, -np.inf, 0]], "row 0 contains -inf"),
        ([[1e39, 0, 0, 0]], "row 0 is too long"),
        ([[1e38] * 4], "row 0 is too long"),
    ],
    ids=str,
)
def test_bad_vectors_are_refused(docs: vecstore.Collection, vectors: Any, words: str) -> None:
    with pytest.raises(InvalidVectorError, match=words):
        docs.upsert([1], vectors)
    with pytest.raises(InvalidVectorError):
        docs.search(vectors)
    assert len(docs) == 0


@pytest.mark.parametrize("n", [3, 60])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300, 0])
def test_bad_vector_is_named_by_its_row(
    store: vecstore.Store, bad: float, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_limits(monkeypatch, bulk=40)
    docs = store.collection("docs", dim=4, metric="cosine")
    vectors = normal(n, 4).astype(np.float64)
    vectors[n - 2] = bad
    with pytest.raises(InvalidVectorError, match=rf"row {n - 2} .*[Nn]othing was written"):
        docs.upsert(range(n), vectors)
    assert docs.count() == 0


@pytest.mark.parametrize("filled", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300, 0])
def test_bad_query_is_refused(store: vecstore.Store, bad: float, filled: bool) -> None:
    docs = store.collection("docs", dim=4, metric="cosine")
    if filled:
        docs.upsert([1], UNITS[:1])
    with pytest.raises(InvalidVectorError, match="0"):
        docs.query([bad] * 4)
    with pytest.raises(InvalidVectorError, match="1"):
        docs.search([[1, 2, 3, 4], [bad] * 4])
    for wrong in ([1, 2, 3], [[1, 2, 3, 4]] * 2, 5, "abcd", None):
        with pytest.raises(InvalidVectorError):
            docs.query(wrong)


def test_zero_vector_is_fine_but_under_cosine(store: vecstore.Store) -> None:
    for metric in ("l2", "ip"):
        docs = store.collection(metric, dim=4, metric=metric)
        docs.upsert([1], np.zeros((1, 4)))
        assert docs.query(np.zeros(4))[0].distance == 0
    with pytest.raises(InvalidVectorError, match="zero"):
        store.collection("c", dim=4, metric="cosine").upsert([1], np.zeros((1, 4)))


# --- writes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bulk", [False, True])
def test_duplicates_write_nothing(
    docs: vecstore.Collection, bulk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_limits(monkeypatch, bulk=40)
    n = 50 if bulk else 3
    vectors = normal(n, 4)
    docs.upsert([0], UNITS[:1], [{"first": True}])
    for verb in (docs.upsert, docs.add):
        with pytest.raises(vecstore.DuplicateIdError, match=r"Id 5 occurs twice.*Nothing"):
            verb([5, 5, *range(6, n + 4)], vectors)
    with pytest.raises(vecstore.DuplicateIdError, match=r"Id 0 exists already.*Nothing"):
        docs.add([*range(1, n), 0], vectors)
    assert len(docs) == 1
    assert docs.get(0).metadata == {"first": True}
    docs.add(range(1, n + 1), vectors)
    assert len(docs) == n + 1


def test_duplicate_str_ids(docs: vecstore.Collection) -> None:
    with pytest.raises(vecstore.DuplicateIdError, match="'b'"):
        docs.upsert(["a", "b", "c", "b"], UNITS)
    assert len(docs) == 0


def test_lengths_must_agree(docs: vecstore.Collection) -> None:
    with pytest.raises(InvalidArgumentError, match="2 ids for 3 vectors"):
        docs.upsert([1, 2], UNITS[:3])
    with pytest.raises(InvalidArgumentError, match="metadata has 1 entries for 2"):
        docs.upsert([1, 2], UNITS[:2], [{}])
    with pytest.raises(InvalidArgumentError, match="documents has 3 entries for 2"):
        docs.upsert([1, 2], UNITS[:2], documents=["a", "b", "c"])
    with pytest.raises(InvalidArgumentError, match="documents"):
        docs.upsert([1, 2], UNITS[:2], documents="ab")
    with pytest.raises(InvalidArgumentError, match="metadata"):
        docs.upsert([1, 2], UNITS[:2], metadata={"a": 1})
    assert len(docs) == 0


def test_empty_calls_do_nothing(docs: vecstore.Collection) -> None:
    docs.upsert([], [])
    docs.upsert([], np.empty((0, 4)), [], [])
    docs.add(np.array([], np.int64), [])
    assert docs.delete([]) == 0
    assert docs.get([]) == []
    assert docs.query(UNITS[0]) == []
    assert (docs.count(), len(docs), bool(docs)) == (0, 0, True)


def test_upsert_replaces_whole_rows(docs: vecstore.Collection) -> None:
    docs.upsert([1, 2], UNITS[:2], [{"a": 1}, {"b": 2}], ["one", "two"])
    docs.upsert([2], UNITS[3:])
    one, two = docs.get([1, 2])
    assert (one.metadata, one.document) == ({"a": 1}, "one")
    assert (two.metadata, two.document) == (None, None)
    assert docs.vectors(2).tolist() == UNITS[3].tolist()
    assert len(docs) == 2
    docs.upsert([1], UNITS[:1], documents=["new"])
    assert (docs.get(1).metadata, docs.get(1).document) == (None, "new")


# --- get, vectors, delete, count ----------------------------------------------------------------


def test_get_and_vectors_are_aligned(docs: vecstore.Collection) -> None:
    docs.upsert(["a", "b"], UNITS[:2], [None, {"n": 1}], ["doc", None])
    hits = docs.get(["b", "nobody", "a", "b"])
    assert [hit and hit.id for hit in hits] == ["b", None, "a", "b"]
    assert [hit and hit.metadata for hit in hits] == [{"n": 1}, None, None, {"n": 1}]
    assert [hit and hit.document for hit in hits] == [None, None, "doc", None]
    for hit in filter(None, hits):
        assert (hit.distance, hit.vector, hit.tenant) == (None, None, None)
    assert docs.get("a").id == "a"
    assert docs.get("nobody") is None
    assert docs.vectors(["b", "a", "b"]).tolist() == UNITS[[1, 0, 1]].tolist()
    with pytest.raises(vecstore.UnknownIdError, match="'docs' has no id 'nobody'") as caught:
        docs.vectors(["a", "nobody"])
    assert isinstance(caught.value, KeyError)


def test_returned_vectors_belong_to_the_caller(docs: vecstore.Collection) -> None:
    docs.upsert([1], UNITS[:1])
    docs.vectors([1])[:] = 9
    hit = docs.query(UNITS[0], include=["vector"])[0]
    assert hit.vector is not None
    hit.vector[:] = 9
    assert docs.vectors(1).tolist() == UNITS[0].tolist()


def test_delete(docs: vecstore.Collection) -> None:
    docs.upsert([1, 2, 3, 4], UNITS, [{"n": i} for i in range(4)])
    assert docs.delete([2, 9, 2]) == 1
    assert docs.delete(3) == 1
    assert docs.delete([2, 3]) == 0
    assert (docs.count(), len(docs)) == (2, 2)
    assert docs.get([1, 2, 3]) == [docs.get(1), None, None]
    assert {hit.id for hit in docs.query(UNITS[1], k=9)} == {1, 4}
    docs.add([2], UNITS[:1])
    assert docs.get(2).metadata is None
    assert docs.delete([1, 2, 4]) == 3
    assert docs.query(UNITS[1]) == []
    assert docs.search(UNITS[:1], k=2).ids.tolist() == [[-1, -1]]


def test_delete_needs_to_be_told_what(docs: vecstore.Collection) -> None:
    docs.upsert([1], UNITS[:1])
    with pytest.raises(InvalidArgumentError, match="ids"):
        docs.delete()
    for ids in (None, [1]):
        for where in ({}, {"$and": [{}]}):
            with pytest.raises(vecstore.FilterError, match="matches all rows"):
                docs.delete(ids, where=where)
        assert docs.delete(ids, where={"a": 1}) == 0
    assert len(docs) == 1


def test_delete_of_everything_bulk(
    docs: vecstore.Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_limits(monkeypatch)
    docs.upsert(range(100), normal(100, 4))
    assert docs.delete(range(1_000)) == 100
    assert docs.query(UNITS[0]) == []
    docs.upsert(range(50, 150), normal(100, 4, seed=1))
    assert len(docs.query(UNITS[0], k=200)) == 100
    assert docs.count() == 100


STATS = {
    "rows",
    "dead_rows",
    "postings",
    "tree_nodes",
    "tenants",
    "disk_bytes",
    "ram_bytes",
    "extents",
    "tail_rows",
    "codec",
    "calibration",
}


def test_stats(docs: vecstore.Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    small_limits(monkeypatch)
    stats = docs.stats()
    assert stats.keys() >= STATS
    assert (stats["rows"], stats["dead_rows"], stats["postings"], stats["extents"]) == (0,) * 4
    docs.upsert(range(100), normal(100, 4))
    docs.upsert(range(95, 105), normal(10, 4))
    docs.delete([0, 1])
    stats = docs.stats()
    assert (stats["rows"], stats["dead_rows"], stats["tail_rows"]) == (103, 7, 10)
    assert stats["postings"] > 5
    assert stats["extents"] == 3
    assert stats["disk_bytes"] > 100 * 4 * 4
    assert stats["ram_bytes"] > 0
    assert stats["codec"] == default_codec(4).name
    assert stats["tenants"] == 0
    assert stats["calibration"]["efforts"]
