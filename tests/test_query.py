"""What the contract says about reading by distance: query and search, on every path of a write."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from tests.naive import METRICS, distances, top_k
from tests.store_checks import normal, python, small_limits, sound_store
from vecstore import InvalidArgumentError

UNITS = np.eye(4, dtype=np.float32)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[vecstore.Store]:
    with sound_store(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def docs(store: vecstore.Store) -> vecstore.Collection:
    return store.collection("docs", dim=4)


PATHS = ["log", "bulk", "flushed", "mixed"]


def fill(docs: vecstore.Collection, path: str, vectors: Any, patch: pytest.MonkeyPatch) -> None:
    """Store row i under id i, in order, so that it ends in the row log, a base or a fragment."""
    n = len(vectors)
    if path == "log":
        small_limits(patch, bulk=10**6, log=10**6)
        docs.upsert(range(n), vectors)
        return
    small_limits(patch, bulk=40, log=25)
    if path == "bulk":
        docs.upsert(range(n), vectors)
        return
    half = n // 2
    docs.upsert(range(half), vectors[:half])
    for start in range(half, n, 13):
        docs.upsert(range(start, min(n, start + 13)), vectors[start : start + 13])
    assert docs.stats()["tail_rows"] < n - half, "the log was flushed"
    if path == "mixed":
        docs.upsert(range(n, n + 60), normal(60, docs.dim, seed=9))
        docs.delete(range(n, n + 60))


def test_answers_are_min_of_k_and_rows(docs: vecstore.Collection) -> None:
    docs.upsert([1, 2, 3], UNITS[:3])
    for k in (1, 2, 3, 4, 1_000, 10**6, np.int64(2)):
        for recall in (None, 0.1, 1.0, 1):
            assert len(docs.query(UNITS[0], k=k, recall=recall)) == min(k, 3)
    assert len(docs.query(UNITS[0])) == 3


@pytest.mark.parametrize("k", [0, -1, True, 1.0, "3", None, [1]], ids=repr)
def test_bad_k(docs: vecstore.Collection, k: Any) -> None:
    for call in (docs.query, docs.search):
        with pytest.raises(InvalidArgumentError, match=r"k is .*use an int"):
            call(UNITS[:1], k=k)


@pytest.mark.parametrize(
    "recall", [0, 0.0, -0.5, 1.01, np.nan, np.inf, "0.9", True, [0.9], np.array(0.9)], ids=repr
)
def test_bad_recall(docs: vecstore.Collection, recall: Any) -> None:
    docs.upsert([1], UNITS[:1])
    docs.query(UNITS[0], recall=1.0)
    for call in (docs.query, docs.search):
        with pytest.raises(InvalidArgumentError, match=r"recall is .*\(0, 1\]"):
            call(UNITS[:1], recall=recall)


@pytest.mark.parametrize("include", ["metadata", ["id"], [["vector"]], [1], 7, None], ids=repr)
def test_bad_include(docs: vecstore.Collection, include: Any) -> None:
    docs.upsert([1], UNITS[:1])
    with pytest.raises(InvalidArgumentError, match="include"):
        docs.query(UNITS[0], include=include)


@pytest.mark.parametrize("where", [{"$near": 1}, {"$and": []}, "a", 7, [], ["a"]], ids=repr)
def test_where_is_refused(docs: vecstore.Collection, where: Any) -> None:
    message = r"where|\$and|\$near"
    docs.upsert([1], UNITS[:1])
    with pytest.raises(vecstore.FilterError, match=message):
        docs.query(UNITS[0], where=where)
    with pytest.raises(vecstore.FilterError, match=message):
        docs.search(UNITS[:1], where=where)
    with pytest.raises(vecstore.FilterError, match=message):
        docs.count(where=where)
    with pytest.raises(vecstore.FilterError, match=message):
        docs.delete([1], where=where)


def test_empty_where_filters_nothing(docs: vecstore.Collection) -> None:
    docs.upsert([1], UNITS[:1])
    assert len(docs.query(UNITS[0], where={})) == docs.count(where={}) == 1
    assert docs.search(UNITS[:1], where={}).ids[0, 0] == 1


def test_include(docs: vecstore.Collection) -> None:
    docs.upsert([1, 2], UNITS[:2], [{"a": 1}, None], [None, "two"])
    for include in (
        (),
        ("metadata",),
        ["document"],
        {"vector"},
        ("vector", "document", "metadata"),
    ):
        for hit, row in zip(docs.query(UNITS[0], k=2, include=include), UNITS, strict=False):
            one = hit.id == 1
            assert hit.metadata == ({"a": 1} if one and "metadata" in include else None)
            assert hit.document == ("two" if not one and "document" in include else None)
            assert (hit.vector is not None) == ("vector" in include)
            if hit.vector is not None:
                assert hit.vector.dtype == np.float32
                assert hit.vector.tolist() == row.tolist()
            assert hit.tenant is None
    assert docs.query(UNITS[0])[0].metadata == {"a": 1}


@pytest.mark.parametrize("ids", [[5, 6, 7], ["a", "b", "c"]], ids=str)
def test_search_shapes(docs: vecstore.Collection, ids: list[Any]) -> None:
    empty = docs.search(UNITS, k=2)
    assert empty.ids.shape == (4, 2)
    assert np.isposinf(empty.distances).all()
    docs.upsert(ids, UNITS[:3])
    for n in (0, 1, 4):
        for k in (1, 3, 5):
            result = docs.search(UNITS[:n], k=k)
            assert result.ids.shape == result.distances.shape == (n, k)
            assert result.distances.dtype == np.float32
            assert result.ids.dtype == (np.int64 if ids[0] == 5 else object)
            padding = result.ids[:, 3:].ravel().tolist()
            assert padding == [-1 if ids[0] == 5 else None] * len(padding)
            assert np.isposinf(result.distances[:, 3:]).all()
            for i in range(n):
                hits = docs.query(UNITS[i], k=k)
                assert result.ids[i, : len(hits)].tolist() == [hit.id for hit in hits]
                assert result.distances[i, : len(hits)].tolist() == [h.distance for h in hits]
    assert docs.search([], k=3).ids.shape == (0, 3)
    with pytest.raises(vecstore.InvalidVectorError):
        docs.search(UNITS[0])


def test_many_queries_at_once_equal_one_by_one(
    docs: vecstore.Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(docs, "mixed", normal(300, 4), monkeypatch)
    queries = normal(150, 4, seed=3)
    result = docs.search(queries, k=7, recall=0.8)
    for i in range(150):
        hits = docs.query(queries[i], k=7, recall=0.8)
        assert [hit.id for hit in hits] == result.ids[i].tolist()


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("wrong", [[40, 150], [199, 0], [77]])
def test_a_batch_names_the_first_query_that_cannot_be_asked(
    docs: vecstore.Collection, monkeypatch: pytest.MonkeyPatch, threads: int, wrong: list[int]
) -> None:
    """Threads take parts of a batch in turns, and any of them may meet it."""
    fill(docs, "bulk", normal(300, 4), monkeypatch)
    monkeypatch.setattr(docs._core.searcher, "workers", threads)
    queries = normal(200, 4, seed=3)
    queries[wrong, 2] = np.nan
    for _ in range(20):
        with pytest.raises(vecstore.InvalidVectorError, match=f"^Query {min(wrong)} "):
            docs.search(queries, k=3)
    queries[wrong, 2] = 0
    assert (docs.search(queries, k=3).ids >= 0).all()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("metric", METRICS)
def test_distances_are_exact(
    store: vecstore.Store, metric: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 1e-4 of float64, relative; what cancels is compared with what it came from."""
    docs = store.collection("docs", dim=37, metric=metric)
    vectors = normal(200, 37) * np.float32(3) + np.float32(0.5)
    fill(docs, path, vectors, monkeypatch)
    for query in [*normal(5, 37, seed=1), vectors[7]]:
        truth = distances(metric, query, vectors)
        scale = 1.0 if metric == "cosine" else float(np.linalg.norm(query)) * 10
        for recall in (None, 1.0):
            for hit in docs.query(query, k=50, recall=recall):
                assert hit.distance == pytest.approx(truth[int(hit.id)], rel=1e-4, abs=1e-6 * scale)
                assert metric == "ip" or hit.distance >= 0


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "codec", ["rabitq1", "rabitq3", "int8", "int4", "float32", "float16", "pq2", "opq1"]
)
def test_ties_come_by_insertion(
    store: vecstore.Store, codec: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = store.collection("docs", dim=2, codec=codec)
    vectors = np.random.default_rng(0).integers(-2, 3, (150, 2)).astype(np.float32)
    fill(docs, path, vectors, monkeypatch)
    for query in ([0, 0], [1, -2], [0.5, 0.5]):
        expected, _ = top_k("l2", query, vectors, 60)
        assert [hit.id for hit in docs.query(query, k=60, recall=1.0)] == expected.tolist()
        assert docs.search([query], k=60, recall=1.0).ids[0].tolist() == expected.tolist()
    docs.upsert([3], vectors[3:4])
    assert docs.query(vectors[3], k=150, recall=1.0)[-1].distance >= 0
    twins = np.flatnonzero((vectors == vectors[3]).all(axis=1))
    found = [hit.id for hit in docs.query(vectors[3], k=len(twins), recall=1.0)]
    assert found == [*(i for i in twins if i != 3), 3], "a replaced row counts as new"


@pytest.mark.parametrize(
    ("codec", "dim"),
    [
        *itertools.product(["rabitq1", "float32"], [1, 3, 8, 50, 64, 100, 200]),
        *itertools.product(["rabitq4", "int8", "int4", "float16"], [1, 70]),
        *[("pq1", 1), ("pq3", 3), ("pq3", 70), ("opq1", 1), ("opq2", 70)],
    ],
)
@pytest.mark.parametrize("metric", METRICS)
def test_every_row_is_found_once(
    store: vecstore.Store, metric: str, codec: str, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking for all rows at a low recall makes the index hand over to the full scan."""
    small_limits(monkeypatch, bulk=40, log=10**6, pages=4)
    docs = store.collection("docs", dim=dim, metric=metric, codec=codec)
    vectors = normal(170, dim)
    docs.upsert(range(150), vectors[:150])
    docs.upsert(range(150, 170), vectors[150:])
    for recall in (0.01, 0.5, 1.0):
        for k in (160, 170, 500):
            hits = docs.query(normal(1, dim, seed=5)[0], k=k, recall=recall)
            assert len({hit.id for hit in hits}) == len(hits) == min(k, 170)


@pytest.mark.parametrize("metric", METRICS)
def test_identical_rows(
    store: vecstore.Store, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More equal vectors than a posting may hold are all kept and all found."""
    small_limits(monkeypatch)
    monkeypatch.setattr("vecstore.calibrate.QUERIES", 50)
    docs = store.collection("docs", dim=5, metric=metric)
    vectors = np.ones((1_200, 5), np.float32)
    vectors[1_000:] = normal(200, 5)
    docs.upsert(range(1_200), vectors)
    assert len(docs.query(vectors[0], k=1_000)) == 1_000
    exact = [hit.id for hit in docs.query(vectors[0], k=10, recall=1.0)]
    assert exact == top_k(metric, vectors[0], vectors, 10)[0].tolist()
    docs.delete(range(995))
    assert len(docs.query(vectors[0], k=9_999)) == 205


SCALED = """
import sys
import numpy as np
import pytest
import vecstore
from tests.naive import top_k
from tests.store_checks import normal, small_limits

path, metric = sys.argv[1:]
small_limits(pytest.MonkeyPatch())
recalls = []
with vecstore.open(path) as store:
    for scale in (1e-22, 1e-19, 1e-15, 1e-6, 1e6, 1e14, 1e15, 1e16, 1e18):
        print(f"scale {scale:g}", flush=True)
        vectors = (normal(400, 16).astype(np.float64) * scale).astype(np.float32)
        queries = (normal(20, 16, seed=1).astype(np.float64) * scale).astype(np.float32)
        docs = store.collection(f"{scale:g}", dim=16, metric=metric)
        try:
            docs.upsert(range(400), vectors)
        except vecstore.InvalidVectorError:
            continue
        hits = 0
        if scale < 1e-16 and metric != "cosine":
            docs.search(queries)  # distances underflow, which is no reason to fail
            continue
        for query in queries:
            expected, exact = top_k(metric, query, vectors, 5)
            found = docs.query(query, k=5, recall=1.0)
            assert [hit.id for hit in found] == expected.tolist(), scale
            got = [hit.distance for hit in found]
            assert got == pytest.approx(exact.tolist(), rel=1e-4, abs=0), scale
            hits += len({hit.id for hit in docs.query(query, k=5)} & set(expected.tolist()))
        assert hits >= 80, (scale, hits)
        recalls.append(hits / 100)
    assert np.mean(recalls) >= 0.93, recalls
    assert store.check() == []
"""


@pytest.mark.parametrize("metric", METRICS)
def test_scale_of_vectors_does_not_matter(tmp_path: Path, metric: str) -> None:
    """Lengths that float32 cannot square are refused; all others are answered rightly.

    In a process of its own: what goes wrong here may go wrong in a kernel.
    """
    result = python(SCALED, tmp_path / "store", metric, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_dimension_one_and_large(store: vecstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    small_limits(monkeypatch)
    for dim in (1, 2, 3_000):
        docs = store.collection(f"d{dim}", dim=dim)
        vectors = normal(60, dim)
        docs.upsert(range(60), vectors)
        query = normal(1, dim, seed=2)[0]
        expected = top_k("l2", query, vectors, 5)[0].tolist()
        assert [hit.id for hit in docs.query(query, k=5, recall=1.0)] == expected
        assert len({hit.id for hit in docs.query(query, k=60)}) == 60
