"""Jobs of processes that share a store: a writer, readers beside it, and forks."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

import vecstore
from tests.crash import faults, work

ROWS = 30
ALL = range(ROWS)


def vectors(step: int, n: int = ROWS) -> Any:
    """Vectors that tell which call wrote them."""
    found = np.random.default_rng(step).normal(size=(n, work.DIM)).astype(np.float32)
    found[:, 0] = step
    return found


def write(path: str, steps: int, durability: str = "commit", fault: str = "") -> int:
    """Replace all rows with each call, with all that makes extents come and go."""
    if fault:
        getattr(faults, fault)()
    with vecstore.open(path, durability=durability) as store:
        docs = store.collection("docs", dim=work.DIM)
        for step in range(1, steps + 1):
            more = 20 if step % 3 == 0 else 0
            ids = [*ALL, *range(1_000 + 50 * step, 1_000 + 50 * step + more)]
            docs.upsert(ids, vectors(step, len(ids)), [{"step": step}] * len(ids))
            if more:
                docs.delete(ids[ROWS + 2 :])
            if step % 7 == 0:
                docs.compact()
        assert store.check() == []
    return steps


def read(path: str, until: str) -> int:
    """Read until a file is there; return how often that went well."""
    rounds, newest = 0, 0
    while True:
        last_round = Path(until).exists()
        with vecstore.open(path, mode="r") as store:
            docs = store.collection("docs")
            for _ in range(20):
                newest = _read_once(docs, newest)
                rounds += 1
        if last_round:
            return rounds


def _read_once(docs: vecstore.Collection, newest: int) -> int:
    hits = docs.query(np.zeros(work.DIM), k=work.MANY, include=("metadata", "vector"))
    steps = {hit.metadata["step"] for hit in hits if hit.id < ROWS}
    assert len(steps) == 1, f"rows of several calls are seen at once: {steps}"
    assert sum(hit.id < ROWS for hit in hits) == ROWS, "a row is missing"
    (step,) = steps
    assert step >= newest, "a reader went back"
    assert all(hit.vector[0] == hit.metadata["step"] for hit in hits)
    found = docs.get(ALL)
    assert None not in found
    assert len({hit.metadata["step"] for hit in found}) == 1
    assert len({float(vector[0]) for vector in docs.vectors(ALL)}) == 1
    matching = docs.count(where={"step": {"$gte": step}})
    assert matching >= ROWS, f"{matching} rows match"
    return int(step)


def hold_a_snapshot(path: str, ready: str) -> None:
    """Begin to read and never end."""
    with vecstore.open(path, mode="r") as store:
        transaction = store._environment.read()
        Path(ready).touch()
        threading.Event().wait()
        transaction.abort()


def slots(path: str) -> tuple[int, int, int]:
    """Replace everything; count readers, extents that are named and files of extents."""
    with vecstore.open(path, maintenance="off") as store:  # it reads in a slot of its own
        docs = store.collection("docs")
        docs.upsert(range(60), vectors(1, 60))
        docs.compact()
        readers = len(store._environment._env.readers().splitlines()) - 1
        files = len(list((Path(path) / "extents").iterdir()))
        assert store.check() == []
        return readers, docs.stats()["extents"], files


def refusals(store: vecstore.Store, docs: Any) -> list[str]:
    """What a forked child can do with the store of its parent; nothing is right."""
    calls: dict[str, Callable[[], Any]] = {
        "query": lambda: docs.query(np.zeros(work.DIM)),
        "get": lambda: docs.get([1]),
        "count": docs.count,
        "upsert": lambda: docs.upsert([1], vectors(1, 1)),
        "delete": lambda: docs.delete([1]),
        "compact": docs.compact,
        "collections": store.collections,
        "check": store.check,
        "drop": lambda: store.drop("docs"),
    }
    wrong = []
    for name, call in calls.items():
        try:
            call()
        except vecstore.ForkedStoreError:
            continue
        except BaseException as error:  # noqa: BLE001 - that is what is looked for
            wrong.append(f"{name}: {error!r}")
        else:
            wrong.append(f"{name}: went well")
    store.close()
    return wrong


def _in_child(job: Callable[[], list[str]], path: str, report: str, unwinds: bool) -> int:
    """Fork; the child does a job, opens the store anew, and ends, through all frames or not."""
    child = os.fork()
    if child:
        return child
    try:
        wrong = job()
        with suppress(vecstore.ForkedStoreError), vecstore.open(path, mode="r") as store:
            _read_once(store.collection("docs"), 0)
    except BaseException:  # noqa: BLE001 - told to the parent
        wrong = [traceback.format_exc()]
    Path(report).write_text("\n".join(wrong) or "right")
    if unwinds:
        sys.exit(0)
    os._exit(0)


def _join(child: int, report: str) -> None:
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child ended with {status}"
    assert Path(report).read_text() == "right", Path(report).read_text()


def fork_while_threads_work(path: str, forks: int, durability: str) -> int:
    """Fork again and again while threads read, write and open the store."""
    done = threading.Event()
    errors: list[BaseException] = []
    store = vecstore.open(path, durability=durability)
    docs = store.collection("docs")

    def team(call: Callable[[int], Any]) -> threading.Thread:
        def run() -> None:
            step = 0
            try:
                while not done.is_set():
                    step += 1
                    call(step)
            except BaseException as error:  # noqa: BLE001 - told below
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def change(step: int) -> None:
        n = 45 if step % 4 == 0 else ROWS
        docs.upsert(range(n), vectors(10_000 + step, n), [{"step": 10_000 + step}] * n)
        if step % 9 == 0:
            docs.compact()

    threads = [
        team(lambda step: _read_once(docs, 0)),
        team(change),
        team(lambda step: vecstore.open(path, mode="r").close()),
    ]
    report = f"{path}.report"
    try:
        for _ in range(forks):
            _join(_in_child(lambda: refusals(store, docs), path, report, False), report)
    finally:
        done.set()
        for thread in threads:
            thread.join(60)
    assert not errors, errors
    assert store.check() == []
    _read_once(docs, 0)
    store.close()
    return forks


def fork_within_a_load(path: str, last_stage: int) -> int:
    """Fork from a progress callback; the child unwinds through the running load."""
    parent = os.getpid()
    children: list[int] = []
    report = f"{path}.report"
    seen = 0

    def look(stage: str, done: int, total: int) -> None:
        nonlocal seen
        seen += 1
        if seen <= last_stage and os.getpid() == parent:
            children.append(_in_child(lambda: refusals(store, docs), path, report, True))
            _join(children[-1], report)

    with vecstore.open(path) as store:
        docs = store.collection("docs")
        ids = [*ALL, *range(5_000, 5_300)]
        fresh = vectors(20_000, len(ids))
        docs._put(ids, fresh, [{"step": 20_000}] * len(ids), None, False, look)
        assert os.getpid() == parent, "a child came back from the load"
        assert docs.vectors(ids).tobytes() == fresh.tobytes()
        assert store.check() == []
    with vecstore.open(path, mode="r") as store:
        assert store.collection("docs").vectors(ids).tobytes() == fresh.tobytes()
        assert store.check() == []
    return len(children)
