"""Tenants from many threads: fresh rows are read while they come, revoked ones by no later call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from tests.store_checks import normal, sound_store
from tests.tenant_checks import DIM, ORIGIN, SHAPES, fill, flush, shown_ids, small_shapes

ONE = np.ones(DIM, np.float32)


@contextmanager
def beside(work: Callable[[], None], threads: int = 3) -> Iterator[None]:
    """Repeat some work in threads while the block runs; what it raises, this raises."""
    errors: list[Exception] = []
    stop = threading.Event()

    def run() -> None:
        try:
            while not stop.is_set():
                work()
        except (AssertionError, BufferError, vecstore.VecstoreError) as error:
            errors.append(error)

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in running:
            thread.join()
    if errors:
        raise errors[0]


def test_fresh_rows_that_come_while_others_are_read(tmp_path: Path) -> None:
    """A tenant with thousands of rows in the row log, and one more at a time."""
    n = 3_000
    with sound_store(tmp_path / "store") as store:
        docs = store.collection("docs", dim=DIM, tenants=True)
        a = docs.tenant("a")
        a.upsert(range(n), normal(n, DIM))

        def read() -> None:
            assert len(a.query(ONE)) == 10

        with beside(read, 4):
            for i in range(150):
                a.upsert(n + i, ONE)
        assert shown_ids(a) == list(range(n + 150))


@pytest.mark.parametrize("shape", SHAPES)
def test_no_later_call_finds_a_revoked_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    small_shapes(monkeypatch)
    with sound_store(tmp_path / "store") as store, vecstore.open(store.path, mode="r") as second:
        docs = store.collection("docs", dim=DIM, tenants=True)
        a, b = docs.tenant("a"), docs.tenant("b")
        ids = fill(docs, "a", shape)
        fill(docs, "b", shape, first=500, seed=1)
        a.grant(ids, to="b")
        if shape != "fresh":
            flush(docs)
        gone: set[Any] = set()
        views = [b, second.collection("docs").tenant("b"), docs.tenant("b", "c")]
        turns = iter(range(10**9))

        def read() -> None:
            view = views[next(turns) % 3]
            before = set(gone)
            found = {hit.id for hit in view.query(ORIGIN, k=999, recall=1.0)}
            found |= {hit.id for hit in view.query(ORIGIN, k=999, where={"of": "a"})}
            found |= {hit.id for hit in view.get(ids) if hit is not None}
            assert not found & before

        with beside(read):
            for place, i in enumerate(ids):
                if place % 3 == 0:
                    assert a.revoke(i, from_="b") == 1
                elif place % 3 == 1:
                    assert a.delete(i) == 1
                else:
                    assert a.delete(where={"n": i}) == 1
                gone.add(i)
        assert b.count(where={"of": "a"}) == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_a_name_given_anew_beside_readers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    """Every answer is of one of those who had the name, and none of one who had been dropped."""
    small_shapes(monkeypatch)
    n = SHAPES[shape]
    with sound_store(tmp_path / "store") as store, vecstore.open(store.path, mode="r") as second:
        docs = store.collection("docs", dim=DIM, tenants=True)
        b = docs.tenant("b")
        b.upsert(range(900, 905), normal(5, DIM, seed=1), [{"turn": -1}] * 5)
        dropped = [-1]
        views = [docs.tenant("a"), second.collection("docs").tenant("a"), docs.tenant("a", "b")]
        turns = iter(range(10**9))

        def read() -> None:
            turn = next(turns)
            view = views[turn % 3]
            last = dropped[0]
            if turn % 2:
                hits = view.query(ORIGIN, 999, recall=1.0)
            else:
                hits = [hit for hit in view.get(range(n)) if hit is not None]
            found = {hit.metadata["turn"] for hit in hits if hit.tenant == "a"}
            assert len(found) <= 1
            assert all(one > last for one in found)
            assert {hit.id for hit in hits if hit.tenant == "a"} <= {*range(n)}
            assert last < 0 or view.count(where={"turn": last}) == 0
            assert {hit.tenant for hit in b.query(ORIGIN, 999)} <= {"a", "b"}

        with beside(read):
            for turn in range(6):
                vectors = normal(n, DIM, seed=turn)
                docs.tenant("a").upsert(range(n), vectors, [{"turn": turn}] * n)
                docs.tenant("a").grant(range(3), to="b")
                b.grant([900], to="a")
                if shape != "fresh":
                    flush(docs)
                docs.drop_tenant("a")
                dropped[0] = turn
                assert shown_ids(b) == [*range(900, 905)]
        assert shown_ids(docs.tenant("a")) == []
