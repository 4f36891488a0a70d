"""Collections with each kind of codec: from the first row over training and damage to reopening.

What queries promise is the same for all codecs, so what is compared is the same too; the codecs
one by one are in test_codecs.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import vecstore
from tests.naive import METRICS, Model, distances, recall, top_k
from tests.store_checks import normal, small_limits, sound_store
from vecstore import planning
from vecstore.codecs import find_codec
from vecstore.config import Effort

# Recall that full error bounds leave when all is probed, of 1 to 300 hits out of 2,000.
FLOORS = {
    "float32": 1.0,
    "float16": 1.0,
    "int8": 0.999,
    "int4": 0.999,
    "rabitq1": 0.998,
    "rabitq3": 0.998,
    "pq4": 0.995,
    "opq4": 0.995,
}
DIM = 12
OTHERS = [metric for metric in METRICS if metric != "l2"]
every_codec = pytest.mark.parametrize("codec", FLOORS)
every_metric = pytest.mark.parametrize("metric", METRICS)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrate on few queries."""
    monkeypatch.setattr("vecstore.calibrate.QUERIES", 40)


def probe_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on queries read all postings with full bounds, whatever recall they ask for."""
    monkeypatch.setattr(planning, "effort_of", lambda *_: Effort(10**6, 1.0, 1e30))


def assert_answers(docs: vecstore.Collection, model: Model, reached: float) -> None:
    """Exact answers are those of the model; all rows are found once; the recall is reached."""
    queries = normal(10, DIM, seed=99)
    n = len(model.rows)
    assert docs.count() == n
    found, exact = [], []
    for query in queries:
        for k in (1, 10, 300, n + 50):
            wanted = model.query(query, k)
            hits = docs.query(query, k=k, recall=1.0)
            assert [hit.id for hit in hits] == [key for key, _ in wanted]
            near = [distance for _, distance in wanted]
            assert [hit.distance for hit in hits] == pytest.approx(near, rel=1e-4, abs=1e-5)
        assert {hit.id for hit in docs.query(query, k=n + 50)} == model.rows.keys()
        rows = [model.rows[hit.id].vector for hit in docs.query(query, k=10)]
        found.append(distances(model.metric, query, rows))
        exact.append([distance for _, distance in model.query(query, 10)])
    assert recall(found, exact) >= reached


@pytest.mark.parametrize(
    ("codec", "metric"),
    [(codec, "l2") for codec in FLOORS]  # and one codec of each kind of kernel
    + [(codec, metric) for codec in ("rabitq1", "rabitq3", "int8", "opq4") for metric in OTHERS],
)
def test_a_collections_life(
    tmp_path: Path, codec: str, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_limits(monkeypatch, bulk=40, log=25, posting=8, pages=6)
    model = Model(DIM, metric)
    with sound_store(tmp_path / "store") as store:
        docs = store.collection("docs", dim=DIM, metric=metric, codec=codec)

        def put(first: int, n: int) -> None:
            vectors = normal(n, DIM, seed=first) + np.float32(0.3)
            docs.upsert(range(first, first + n), vectors)
            model.upsert(range(first, first + n), vectors)

        put(0, 12)
        assert_answers(docs, model, 1.0)
        put(12, 140)
        trained = docs.stats()["postings"]
        assert trained > 5
        put(152, 20)
        put(172, 20)
        assert docs.stats()["tail_rows"] == 0, "the log was flushed"
        put(192, 10)
        put(20, 30)
        assert docs.delete(range(0, 200, 7)) == model.delete(range(0, 200, 7))
        assert_answers(docs, model, 0.85)
        put(202, 230)
        assert docs.stats()["postings"] > 1.5 * trained, "postings were divided"
        assert_answers(docs, model, 0.85)
        assert docs.stats()["codec"] == codec
        before = docs.search(normal(20, DIM), k=9)
    with sound_store(tmp_path / "store", "r") as store:
        docs = store.collection("docs", codec=codec)
        again = docs.search(normal(20, DIM), k=9)
        assert (again.ids == before.ids).all()
        assert (again.distances == before.distances).all()
        assert_answers(docs, model, 0.85)


@every_metric
@every_codec
def test_full_bounds_keep_the_neighbours(
    tmp_path: Path, codec: str, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of few hits, of as many as have upper bounds kept (256), and of more; each row once."""
    monkeypatch.setattr("vecstore.write.BULK_ROWS_MIN", 500)
    monkeypatch.setattr("vecstore.division.RUN_ROWS_MAX", 500)
    monkeypatch.setattr("vecstore.division.LIST_BYTES_MAX", 0)
    monkeypatch.setattr("vecstore.division.COPIES_ROWS_MIN", 0)
    dim, n = 40, 2_000
    vectors, queries = normal(n + 20, dim) + np.float32(0.5), normal(15, dim, seed=1)
    with sound_store(tmp_path / "store") as store:
        docs = store.collection("docs", dim=dim, metric=metric, codec=codec)
        docs.upsert(range(n), vectors[:n])
        docs.upsert(range(n, n + 20), vectors[n:])
        probe_everything(monkeypatch)
        for k in (1, 10, 256, 257, 300):
            result = docs.search(queries, k=k, recall=0.123)
            assert all(len(set(row)) == k for row in result.ids.tolist())
            assert (np.diff(result.distances, axis=1) >= 0).all()
            found, exact = (
                np.array([sorted(distances(metric, q, vectors[own])) for q, own in pairs])
                for pairs in (
                    zip(queries, result.ids, strict=True),
                    ((q, top_k(metric, q, vectors, k)[0]) for q in queries),
                )
            )
            assert result.distances == pytest.approx(found, rel=1e-4, abs=1e-4)
            assert recall(found, exact) >= FLOORS[codec]


@every_codec
def test_more_ties_than_may_wait(
    tmp_path: Path, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounds tell equal rows not apart: all of them survive, and insertion decides."""
    small_limits(monkeypatch, posting=32)
    vectors = normal(1_200, DIM)
    vectors[::2] = vectors[0]
    with sound_store(tmp_path / "store") as store:
        docs = store.collection("docs", dim=DIM, codec=codec)
        docs.upsert(range(1_200), vectors)
        probe_everything(monkeypatch)
        for k in (5, 200, 256, 300, 600):
            hits = docs.query(vectors[0], k=k, recall=0.123)
            assert [hit.id for hit in hits] == [*range(0, 2 * k, 2)]
            assert {hit.distance for hit in hits} == {0.0}


def test_float16_codes_beyond_their_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rows are clipped to one point; a query there is nearer to rows that are not."""
    small_limits(monkeypatch)
    rng = np.random.default_rng(0)
    vectors = rng.uniform(1e4, 6e4, (300, DIM)).astype(np.float32)
    vectors[::3] = rng.uniform(3e5, 1e6, (100, DIM))
    query = np.full(DIM, 65504, np.float32)
    with sound_store(tmp_path / "store") as store:
        docs = store.collection("docs", dim=DIM, codec="float16")
        docs.upsert(range(300), vectors)
        probe_everything(monkeypatch)
        expected = top_k("l2", query, vectors, 20)[0].tolist()
        assert [hit.id for hit in docs.query(query, k=20, recall=0.123)] == expected


def test_what_auto_stood_for_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version may choose another codec; what is stored stays readable."""
    small_limits(monkeypatch)
    vectors = normal(100, DIM)
    with sound_store(tmp_path / "store") as store:
        docs = store.collection("docs", dim=DIM)
        docs.upsert(range(100), vectors)
        codec = docs.stats()["codec"]
        before = docs.search(normal(5, DIM), k=7)
    other = find_codec("int8" if codec != "int8" else "int4")
    monkeypatch.setattr("vecstore.codecs.contract.default_codec", lambda dim: other)
    with sound_store(tmp_path / "store") as store:
        docs = store.collection("docs")
        assert docs.stats()["codec"] == codec
        assert docs.search(normal(5, DIM), k=7).ids.tolist() == before.ids.tolist()
        docs.upsert(range(100, 130), normal(30, DIM, seed=1))
        assert len(docs.query(vectors[0], k=130)) == 130
