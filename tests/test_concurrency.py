"""Many threads, closing at any time, and writers that are killed."""

from __future__ import annotations

import functools
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from tests.store_checks import failure, normal, small_limits, sound_store, start_python

DIM = 6


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


# --- threads ------------------------------------------------------------------------------------


class Team:
    """Threads, and what went wrong in them."""

    def __init__(self, calls: Sequence[Callable[[], Any]]) -> None:
        self.errors: list[BaseException] = []
        self.threads = [threading.Thread(target=self.run, args=(call,)) for call in calls]
        for thread in self.threads:
            thread.start()

    def run(self, call: Callable[[], Any]) -> None:
        error = failure(call, BaseException)
        if error is not None:
            self.errors.append(error)

    def join(self) -> list[BaseException]:
        for thread in self.threads:
            thread.join(120)
            assert not thread.is_alive(), "a thread hangs"
        return self.errors


def test_threads_that_create_the_same_collection(path: Path) -> None:
    with sound_store(path) as store:

        def make(name: str, own: int, barrier: threading.Barrier) -> None:
            barrier.wait()
            store.collection(name, dim=2).upsert([own], np.ones((1, 2)))

        for number in range(10):
            name, barrier = f"c{number}", threading.Barrier(6)
            calls = [functools.partial(make, name, own, barrier) for own in range(6)]
            assert Team(calls).join() == []
            assert store.collection(name).count() == 6


def test_threads_query_while_one_writes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows 0 to 49 are always there, whatever is replaced, flushed and trained anew."""
    small_limits(monkeypatch)
    done = threading.Event()
    with sound_store(path) as store:
        docs = store.collection("docs", dim=DIM)
        docs.upsert(range(50), normal(50, DIM))

        def read(own: int) -> None:
            queries = normal(40, DIM, seed=own)
            while not done.is_set():
                hits = docs.query(queries[0], k=1_000)
                assert {hit.id for hit in hits} >= set(range(50))
                assert len({hit.id for hit in hits}) == len(hits)
                assert None not in docs.get(range(50))
                result = docs.search(queries, k=20)
                assert (result.ids >= 0).all()
                assert (np.diff(result.distances) >= 0).all()
                assert docs.vectors(range(50)).shape == (50, DIM)
                docs.stats()

        def write() -> None:
            try:
                for step in range(25):
                    n = 70 if step % 8 == 7 else 12
                    docs.upsert(range(n), normal(n, DIM, seed=step))
                    docs.upsert(range(100, 100 + n), normal(n, DIM, seed=step))
                    docs.delete(range(100, 100 + n, 2))
            finally:
                done.set()

        readers = [functools.partial(read, own) for own in range(6)]
        assert Team([write, *readers]).join() == []


def test_close_while_threads_use_the_store(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_limits(monkeypatch)
    with sound_store(path) as store:
        store.collection("docs", dim=DIM).upsert(range(500), normal(500, DIM))

    def use(docs: vecstore.Collection, own: int) -> None:
        queries = normal(100, DIM, seed=own)
        while True:
            if own == 0:
                docs.upsert([10_000], queries[:1])
            docs.search(queries, k=10)
            docs.query(queries[0], k=500)

    for round_number in range(5):
        store = vecstore.open(path)
        docs = store.collection("docs")
        team = Team([functools.partial(use, docs, own) for own in range(4)])
        time.sleep(0.02 * round_number)
        store.close()
        assert [type(error) for error in team.join()] == [vecstore.StoreClosedError] * 4
    with vecstore.open(path) as store:
        assert store.check() == []


def test_close_waits_for_running_calls(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A load that began before `close` ends well, and only then the lock is free."""
    small_limits(monkeypatch)
    store = vecstore.open(path)
    docs = store.collection("docs", dim=DIM)
    reached, released = threading.Event(), threading.Event()

    def pause(stage: str, done: int, total: int) -> None:
        reached.set()
        assert released.wait(60)

    load = Team([functools.partial(docs.load, normal(100, DIM), progress=pause)])
    assert reached.wait(60)
    close = Team([store.close])
    while failure(docs.count, vecstore.StoreClosedError) is None:
        time.sleep(0.001)
    assert close.threads[0].is_alive()
    with pytest.raises(vecstore.WriterLockedError):
        vecstore.open(path)
    released.set()
    assert load.join() == close.join() == []
    with sound_store(path) as again:
        assert again.collection("docs").count() == 100


# --- death --------------------------------------------------------------------------------------

MARK = 10**9
VICTIM = """
import sys
import pytest
import vecstore
from tests.store_checks import failure, normal, small_limits

small_limits(pytest.MonkeyPatch())
store = vecstore.open(sys.argv[1])
docs = store.collection("docs", dim=6)
step = int(sys.argv[2])
while True:
    n = 50 if step % 5 == 4 else 12
    ids = [*range(step * 100, step * 100 + n), 10**9]
    docs.upsert(ids, normal(n + 1, 6, seed=step), [{"step": step}] * (n + 1))
    print("upsert", step, flush=True)
    docs.delete([step * 100 + 1])
    print("delete", step, flush=True)
    step += 1
"""


def test_kill_loses_nothing_acknowledged(path: Path) -> None:
    """Each step upserts rows of its own and a mark, then deletes a row; killed at any moment."""
    rng = random.Random(1)
    alive: set[int] = {MARK}
    step = 0
    for _ in range(15):
        process = start_python(VICTIM, path, step)
        assert process.stdout
        lines = [process.stdout.readline()]
        time.sleep(rng.uniform(0, 0.25))
        process.kill()
        lines += process.stdout.readlines()  # communicate would forget what was read ahead
        process.communicate()
        said = [line.split() for line in lines if line.endswith("\n")]
        upserted = max(int(number) for verb, number in said if verb == "upsert")
        deleted = max((int(number) for verb, number in said if verb == "delete"), default=-1)
        with vecstore.open(path) as store:
            assert store.check() == []
            docs = store.collection("docs")
            last = docs.get(MARK).metadata["step"]
            assert last in (upserted, upserted + 1), "an acknowledged call is lost"
            for number in range(step, last + 1):
                alive |= set(range(number * 100, number * 100 + (50 if number % 5 == 4 else 12)))
                if number < last or number <= deleted:
                    alive.remove(number * 100 + 1)
            found = {hit.id for hit in docs.query(np.zeros(DIM), k=10**6)}
            assert docs.count() == len(found)
            doubtful = last * 100 + 1
            if last > deleted and doubtful not in found:
                alive.remove(doubtful)
            assert found == alive
            docs.delete([doubtful])
            alive.discard(doubtful)
            step = last + 1
    assert step > 15
