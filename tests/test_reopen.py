"""A store lives in files: reopened, flushed and trained anew, read beside its writer."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from tests.naive import METRICS, Model
from tests.store_checks import (
    assert_equals,
    make_store,
    normal,
    python,
    small_limits,
    sound_store,
    start_python,
)

DIM = 6


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


def history(docs: vecstore.Collection, model: Model, seed: int = 0) -> None:
    """Small calls, a bulk load, deletes and replacements, so that every kind of row exists."""
    rng = np.random.default_rng(seed)
    for step in range(60):
        n = 60 if step in (10, 40) else int(rng.integers(1, 9))
        ids = [f"id {i}" for i in rng.choice(300, n, replace=False)]
        vectors = rng.normal(size=(n, DIM)).astype(np.float32)
        facts = [{"step": step}] * n, [None if step % 2 else f"text {step}"] * n
        docs.upsert(ids, vectors, *facts)
        model.upsert(ids, vectors, *facts)
        gone = [f"id {i}" for i in rng.choice(300, 3, replace=False)]
        assert docs.delete(gone) == model.delete(gone)


@pytest.mark.parametrize(
    ("codec", "metric"),
    [
        *itertools.product(["rabitq1", "float32"], METRICS),
        *[("rabitq4", "l2"), ("int8", "cosine"), ("int4", "ip"), ("float16", "l2")],
        *[("pq3", "cosine"), ("opq2", "ip")],
    ],
)
def test_same_answers_after_reopening(
    path: Path, metric: str, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_limits(monkeypatch, pages=6)
    model = Model(DIM, metric)
    with sound_store(path) as store:
        docs = store.collection("docs", dim=DIM, metric=metric, codec=codec)
        history(docs, model)
        assert_equals(docs, model)
        stats = docs.stats()
        assert stats["extents"] > 3
        queries = normal(50, DIM, seed=2)
        before = docs.search(queries, k=7)
    for mode in "rw":
        with sound_store(path, mode) as store:
            docs = store.collection("docs")
            assert (docs.dim, docs.metric) == (DIM, metric)
            assert_equals(docs, model)
            again = docs.search(queries, k=7)
            assert (again.ids == before.ids).all()
            assert (again.distances == before.distances).all()
            kept = ("rows", "dead_rows", "postings", "extents", "calibration")
            assert {key: docs.stats()[key] for key in kept} == {key: stats[key] for key in kept}


def test_many_collections(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_limits(monkeypatch)
    models = {}
    with sound_store(path) as store:
        for number, name in enumerate(["b", "a", "ä/../x", "B", "b" * 256]):
            models[name] = Model(DIM, METRICS[number % 3])
            docs = store.collection(name, dim=DIM, metric=models[name].metric)
            history(docs, models[name], seed=number)
    with sound_store(path) as store:
        assert store.collections() == sorted(models)
        for name, model in models.items():
            assert_equals(store.collection(name), model)
        store.drop("a")
    with sound_store(path, "r") as store:
        assert store.collections() == sorted(models.keys() - {"a"})
        assert_equals(store.collection("B"), models["B"])


def test_flush_and_training_anew_keep_every_row(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_limits(monkeypatch)
    trained = 0
    model = Model(DIM, "l2")
    with sound_store(path) as store:
        docs = store.collection("docs", dim=DIM)
        last = -1
        for step in range(80):
            ids = [f"id {i}" for i in range(step * 7, step * 7 + 10)]
            vectors = normal(10, DIM, seed=step) + np.float32(step / 10)
            docs.upsert(ids, vectors)
            model.upsert(ids, vectors)
            stats = docs.stats()
            assert stats["tail_rows"] <= 25 + 10
            trained += stats["postings"] != last
            last = stats["postings"]
            if step % 20 == 19:
                assert_equals(docs, model)
                assert store.check() == []
        assert trained > 4
        assert_equals(docs, model)


def test_no_flush_leaves_old_extents_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_limits(monkeypatch)
    with sound_store(path) as store:
        docs = store.collection("docs", dim=DIM)
        for step in range(6):
            docs.upsert(range(60), normal(60, DIM, seed=step))
            docs.upsert(range(40 * step, 40 * step + 40), normal(40, DIM))
        assert len(list((path / "extents").iterdir())) == docs.stats()["extents"]
        assert store.stats()["extents"] == docs.stats()["extents"]


def test_orphans_go_with_the_next_writer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_limits(monkeypatch)
    with sound_store(path) as store:
        store.collection("docs", dim=DIM).upsert(range(60), normal(60, DIM))
    named = sorted((path / "extents").iterdir())
    for number in (4, 5, 999):
        (path / "extents" / f"{number:012d}.ext").write_bytes(b"half an extent")
    with vecstore.open(path, mode="r") as store:
        assert [v.invariant for v in store.check()] == ["extents-named"] * 3
        assert store.collection("docs").count() == 60
    assert len(list((path / "extents").iterdir())) == len(named) + 3
    with sound_store(path) as store:
        assert sorted((path / "extents").iterdir()) == named
        store.collection("docs").upsert(range(60, 160), normal(100, DIM))


def test_check_is_right_while_a_load_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Extents that are written and about to be published are no violation."""
    small_limits(monkeypatch)
    found: list[Any] = []
    with sound_store(path) as store, vecstore.open(path, mode="r") as reader:
        docs = store.collection("docs", dim=DIM)
        docs.upsert(range(60), normal(60, DIM))

        def look(stage: str, done: int, total: int) -> None:
            found.extend((stage, violation) for violation in reader.check())

        docs.load(normal(200, DIM), progress=look)
        assert found == []


# --- a reader beside the writer -----------------------------------------------------------------

WRITER = """
import sys
import pytest
import vecstore
from tests.store_checks import normal, small_limits

small_limits(pytest.MonkeyPatch())
with vecstore.open(sys.argv[1]) as store:
    docs = store.collection("docs", dim=6)
    print("open", flush=True)
    for line in sys.stdin:
        verb, first, n = line.split()
        ids = range(int(first), int(first) + int(n))
        if verb == "upsert":
            docs.upsert(ids, normal(len(ids), 6, seed=ids[0]), [{"call": line}] * len(ids))
        else:
            docs.delete(ids)
        print("done", flush=True)
"""


@pytest.fixture
def writer(path: Path) -> Iterator[Any]:
    """Another process that writes on demand: `writer("upsert", first, n)`."""
    process = start_python(WRITER, path)
    assert process.stdin
    assert process.stdout

    def tell(verb: str, first: int, n: int, wait: bool = True) -> None:
        process.stdin.write(f"{verb} {first} {n}\n")  # type: ignore[union-attr]
        if wait:
            assert process.stdout.readline() == "done\n"  # type: ignore[union-attr]

    assert process.stdout.readline() == "open\n"
    tell.process = process  # type: ignore[attr-defined]
    yield tell
    process.communicate(timeout=60)
    assert process.returncode == 0
    with vecstore.open(path) as store:
        assert store.check() == []


def test_reader_sees_what_another_process_committed(path: Path, writer: Any) -> None:
    model = Model(DIM, "l2")
    with vecstore.open(path, mode="r") as store:
        docs = store.collection("docs")
        assert docs.query(np.ones(DIM)) == []
        steps = [(0, 5), (5, 60), (3, 10), (60, 20), (80, 20), (10, 100), (200, 3), (0, 60)]
        for first, n in steps:
            writer("upsert", first, n)
            ids = range(first, first + n)
            model.upsert(ids, normal(n, DIM, seed=first), [{"call": f"upsert {first} {n}\n"}] * n)
            assert_equals(docs, model)
            writer("delete", first + 1, 2)
            model.delete([first + 1, first + 2])
            assert_equals(docs, model)
            assert store.check() == []


def test_reader_never_sees_part_of_a_call(path: Path, writer: Any) -> None:
    """Every call of the writer replaces all rows; a reader sees one call's rows, and all."""
    writer("upsert", 0, 50)
    with vecstore.open(path, mode="r") as store:
        docs = store.collection("docs")
        for _ in range(40):
            writer("upsert", 0, 50, wait=False)
        query, seen = np.zeros(DIM, np.float32), 0
        deadline = time.monotonic() + 60
        while seen < 40 and time.monotonic() < deadline:
            hits = docs.query(query, k=100, recall=0.5)
            assert sorted(hit.id for hit in hits) == list(range(50))
            assert len({hit.metadata["call"] for hit in hits}) == 1
            assert None not in docs.get(range(50))
            seen += 1
        for _ in range(40):
            assert writer.process.stdout.readline() == "done\n"


def test_reader_that_slept_through_a_thousand_changes(path: Path) -> None:
    """Change records are kept for a while only; who is further behind loads the state whole."""
    with sound_store(path) as store, vecstore.open(path, mode="r") as reader:
        docs = store.collection("docs", dim=DIM)
        docs.upsert([0, 1], normal(2, DIM))
        seen = reader.collection("docs")
        assert seen.count() == 2
        for step in range(1_100):
            docs.upsert([0], normal(1, DIM, seed=step))
        docs.delete([1])
        assert seen.count() == 1
        assert seen.vectors([0]).tobytes() == docs.vectors([0]).tobytes()
        assert [hit.id for hit in seen.query(np.ones(DIM))] == [0]


def test_opened_twice_in_one_process(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_limits(monkeypatch)
    with sound_store(path) as store:
        store.collection("docs", dim=DIM).upsert(range(3), normal(3, DIM))
    reader = vecstore.open(path, mode="r")
    other = vecstore.open(path, mode="r")
    with sound_store(path) as store:
        docs = store.collection("docs")
        for n in (5, 60, 200):
            docs.upsert(range(n), normal(n, DIM))
            assert reader.collection("docs").count() == other.collection("docs").count() == n
            assert len(reader.collection("docs").query(np.ones(DIM), k=500)) == n
        other.close()
        docs.delete([0])
        assert reader.collection("docs").get(0) is None
    assert reader.collection("docs").count() == 199
    with sound_store(path) as store:
        store.collection("docs").upsert([500], normal(1, DIM))
        assert reader.collection("docs").count() == 200
        assert reader.check() == []
    reader.close()


FIRST_QUERY = """
import sys
import numpy as np
import vecstore

with vecstore.open(sys.argv[1], "r") as store:
    assert len(store.collection("docs").query(np.ones(4), k=2)) == 2
print(*sorted(name for name in ("faiss", "numba.np.linalg", "scipy.linalg") if name in sys.modules))

import numba

assert numba.njit(lambda x: x.sum() + 1.0)(np.ones(3)) == 4.0
"""


def test_a_first_query_loads_nothing_that_only_builds_need(tmp_path: Path) -> None:
    """Neither clustering nor what compiles kernels; who wants to compile can."""
    make_store(tmp_path / "store")
    python(FIRST_QUERY, tmp_path / "store")  # may compile
    assert python(FIRST_QUERY, tmp_path / "store").stdout.split() == []
