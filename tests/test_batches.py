"""durability="batch": calls share a commit, seen at once here, and elsewhere with the commit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

import vecstore
from tests.store_checks import normal, python, small_limits
from vecstore import batching
from vecstore.batching import Batch

DIM = 4
VECTORS = normal(200, DIM)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No commit comes by itself."""
    monkeypatch.setattr(batching, "INTERVAL_S", 3600.0)


@pytest.fixture
def store(tmp_path: Path, patient: None) -> Iterator[vecstore.Store]:
    with vecstore.open(tmp_path / "store", durability="batch") as store:
        store.collection("docs", dim=DIM)
        yield store
        assert store.check() == []


COUNT = """
import sys, vecstore
with vecstore.open(sys.argv[1], mode="r") as store:
    print(len(store.collection("docs")))
"""


def elsewhere(store: vecstore.Store) -> int:
    """Rows that another process sees."""
    return int(python(COUNT, store.path).stdout)


def test_each_call_is_seen_at_once(store: vecstore.Store) -> None:
    docs = store.collection("docs")
    for i in range(30):
        docs.upsert([i], VECTORS[i : i + 1], [{"n": i}])
        assert len(docs) == i + 1
        (hit,) = docs.query(VECTORS[i], k=1)
        assert (hit.id, hit.metadata) == (i, {"n": i})
        assert docs.count(where={"n": {"$lte": i}}) == i + 1
    docs.upsert([3], VECTORS[100:101])
    assert docs.vectors(3).tolist() == VECTORS[100].tolist()
    assert docs.delete([0, 1, 99]) == 2
    assert [hit.id for hit in docs.query(VECTORS[0], k=100, recall=1.0)].count(0) == 0
    assert len(docs) == 28


def test_others_see_whole_batches(store: vecstore.Store) -> None:
    docs = store.collection("docs")
    docs.upsert([1, 2], VECTORS[:2])
    assert elsewhere(store) == 0
    store._environment._batch.flush()
    assert elsewhere(store) == 2
    docs.delete([1])
    assert (len(docs), elsewhere(store)) == (1, 2)


def test_a_batch_is_committed_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "INTERVAL_S", 0.001)
    with vecstore.open(tmp_path / "store", durability="batch") as store:
        docs = store.collection("docs", dim=DIM)
        docs.upsert([1], VECTORS[:1])
        deadline = time.monotonic() + 30
        while store._environment._batch._open is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert elsewhere(store) == 1


def test_closing_commits(tmp_path: Path, patient: None) -> None:
    with vecstore.open(tmp_path / "store", durability="batch") as store:
        store.collection("docs", dim=DIM).upsert([1], VECTORS[:1])
    with vecstore.open(tmp_path / "store", mode="r") as store:
        assert len(store.collection("docs")) == 1


def test_a_call_that_fails_leaves_the_others(store: vecstore.Store) -> None:
    docs = store.collection("docs")
    docs.add([1], VECTORS[:1])
    with pytest.raises(vecstore.DuplicateIdError, match="1"):
        docs.add([2, 1], VECTORS[1:3])
    docs.add([3], VECTORS[3:4])
    assert [hit is not None for hit in docs.get([1, 2, 3])] == [True, False, True]


def test_flushes_and_bulk_loads_between(
    store: vecstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written as extents commits what was open before it."""
    small_limits(monkeypatch)
    docs = store.collection("docs")
    for start in range(0, 200, 10):
        docs.upsert(range(start, start + 10), VECTORS[start : start + 10])
    docs.upsert(range(500, 560), VECTORS[:60])
    docs.upsert([1000], VECTORS[:1])
    assert len(docs) == 261
    assert elsewhere(store) >= 260
    docs.compact()
    assert elsewhere(store) == 261


def test_tenants_in_batches(store: vecstore.Store) -> None:
    notes = store.collection("notes", dim=DIM, tenants=True)
    notes.tenant("a").upsert([1, 2], VECTORS[:2])
    assert notes.tenant("a").grant([1], to="b") == 1
    assert [hit.tenant for hit in notes.tenant("b").query(VECTORS[0])] == ["a"]
    assert notes.tenant("a").revoke([1], from_="b") == 1
    assert notes.tenant("b").query(VECTORS[0]) == []
    notes.drop_tenant("a")
    assert notes.tenants() == ["b"]


def test_many_threads(store: vecstore.Store) -> None:
    """Reads through the open transaction wait for the call that changes it."""
    docs = store.collection("docs")

    def work(first: int) -> None:
        for i in range(first, first + 25):
            docs.upsert([i], VECTORS[i : i + 1])
            assert docs.query(VECTORS[i], k=1)[0].id == i
            assert docs.get(i) is not None

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(0, 150, 25)))
    assert len(docs) == 150


class Failing:
    """A transaction that cannot be committed."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def commit(self) -> None:
        self._inner.abort()
        raise lmdb.DiskError("mdb_txn_commit: input/output error")


def test_a_failed_commit_refuses_further_writes(tmp_path: Path, patient: None) -> None:
    store = vecstore.open(tmp_path / "store", durability="batch")
    docs = store.collection("docs", dim=DIM)
    docs.upsert([1], VECTORS[:1])
    batch = store._environment._batch
    batch._open = Failing(batch._open)
    with pytest.raises(vecstore.VecstoreError):
        docs.compact()
    with pytest.raises(vecstore.VecstoreError, match="refuses writes"):
        docs.upsert([2], VECTORS[1:2])
    with pytest.raises(vecstore.VecstoreError, match="refuses writes"):
        docs.query(VECTORS[0])
    store.close()
    del store, docs
    with vecstore.open(tmp_path / "store") as again:
        assert again.check() == []
        assert len(again.collection("docs")) == 0


def test_a_tenant_of_a_lost_batch_lends_its_name_to_nobody(tmp_path: Path, patient: None) -> None:
    """Its number is given again, to another; readers that go on have forgotten it."""
    path = tmp_path / "store"
    store = vecstore.open(path, durability="batch")
    notes = store.collection("notes", dim=DIM, tenants=True)
    notes.tenant("reader").upsert([0], VECTORS[:1])
    batch = store._environment._batch
    batch.flush()
    with vecstore.open(path, mode="r") as second:
        seen = second.collection("notes").tenant("reader")
        notes.tenant("lost").upsert([1], VECTORS[1:2])
        notes.tenant("lost").grant([1], to="reader")
        assert [hit.tenant for hit in seen.query(VECTORS[1], k=2)] == ["lost", "reader"]
        assert seen.get(1).tenant == "lost"
        batch._open = Failing(batch._open)
        with pytest.raises(vecstore.VecstoreError):
            notes.compact()
        store.close()
        with vecstore.open(path) as again:
            notes = again.collection("notes")
            notes.tenant("found").upsert([2], VECTORS[2:3])
            notes.tenant("found").grant([2], to="reader")
            assert notes.tenants() == ["found", "reader"]
            assert [hit.tenant for hit in seen.query(VECTORS[2], k=2)] == ["found", "reader"]
            assert seen.search(VECTORS[2:3], k=1).tenants.tolist() == [["found"]]
            assert seen.get([1, 2])[0] is None
            assert seen.get(2).tenant == "found"
            assert again.check() == []


@pytest.mark.parametrize("durability", ["never", "", None, 5, np.nan], ids=repr)
def test_bad_durability(tmp_path: Path, durability: Any) -> None:
    with pytest.raises(vecstore.InvalidArgumentError, match="durability is"):
        vecstore.open(tmp_path / "store", durability=durability)
    assert not (tmp_path / "store").exists()


def test_a_commit_that_failed_in_its_time_fails_the_next_flush() -> None:
    """Who flushes may not take for durable what a timer could not commit a moment before."""

    class Opened:
        def commit(self) -> None:
            raise lmdb.DiskError("no")

    class Facts:
        def begin(self, *, write: bool) -> Opened:
            assert write
            return Opened()

    batch = Batch(Facts())
    batch._ask("begin")
    batch._flush_quietly()
    with pytest.raises(lmdb.DiskError):
        batch.flush()
    batch.close()
