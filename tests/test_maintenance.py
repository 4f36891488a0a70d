"""Maintenance beside the calls: what they change while extents are being made is not lost."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from tests.naive import Model
from tests.store_checks import assert_equals, normal, small_limits, sound_store
from tests.tenant_checks import DIM, SHAPES, fill, flush, shown, small_shapes
from vecstore import compaction, maintenance, publish, rebuild, write
from vecstore.clustering import silent
from vecstore.collection import Collection

PATIENCE_S = 60
"""How long anything may take before the test is given up."""


class Gate:
    """Holds a builder between what it has written and the commit that names it."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    def through(self, publishing: Callable[..., Any]) -> Callable[..., Any]:
        @contextmanager
        def gated(*args: Any) -> Iterator[Any]:
            if threading.current_thread().name == "vecstore-maintenance":
                self.reached.set()
                assert self.open.wait(PATIENCE_S)
            with publishing(*args) as edit:
                yield edit

        return gated


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate()
    for module in ("indexing", "compaction"):
        name = f"vecstore.{module}.publishing"
        monkeypatch.setattr(name, made.through(publish.publishing))
    yield made
    made.open.set()


def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name == "vecstore-maintenance"]


def idle() -> bool:
    return not threads()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


# --- in the background --------------------------------------------------------------------------


def test_a_full_log_is_indexed_without_another_call(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_limits(monkeypatch)
    with sound_store(path, maintenance="background") as store:
        docs = store.collection("docs", dim=DIM)
        for start in range(0, 60, 10):
            docs.upsert(range(start, start + 10), normal(10, DIM, seed=start))
        until(lambda: docs.stats()["tail_rows"] <= 25)
        until(idle)
        assert docs.stats()["calibration"]["efforts"]
        assert docs.stats()["maintenance"] == "up to date"
        assert docs.count() == 60


@pytest.mark.parametrize("durability", ["commit", "batch"])
def test_calls_go_on_while_a_log_is_indexed(
    path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch, durability: str
) -> None:
    small_limits(monkeypatch)
    model = Model(DIM, "l2")
    with vecstore.open(path, durability=durability) as store:
        docs = store.collection("docs", dim=DIM)

        def upsert(first: int, n: int, seed: int) -> None:
            ids, vectors = list(range(first, first + n)), normal(n, DIM, seed=seed)
            docs.upsert(ids, vectors)
            model.upsert(ids, vectors)

        upsert(0, 30, 1)
        assert gate.reached.wait(PATIENCE_S)
        upsert(10, 5, 2)
        for gone in ([0, 1], [12, 13]):
            assert docs.delete(gone) == model.delete(gone)
        upsert(100, 4, 3)
        upsert(1, 1, 4)
        assert_equals(docs, model)
        gate.open.set()
        until(lambda: docs.stats()["tail_rows"] <= 25 and idle())
        assert docs.stats()["tail_rows"] == 10  # two of them dead
        assert_equals(docs, model)
        assert store.check() == []
        docs.compact()
        assert_equals(docs, model)
        assert store.check() == []


def test_deletes_while_extents_are_merged(
    path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_limits(monkeypatch)
    monkeypatch.setattr("vecstore.write.REMOVED_MIN", 30)
    model = Model(DIM, "l2")
    with vecstore.open(path) as store:
        docs = store.collection("docs", dim=DIM)
        ids, vectors = list(range(200)), normal(200, DIM)
        docs.upsert(ids, vectors)
        model.upsert(ids, vectors)
        assert docs.delete(range(80)) == model.delete(list(range(80)))
        assert gate.reached.wait(PATIENCE_S)
        assert docs.delete(range(70, 100)) == model.delete(list(range(70, 100)))
        docs.upsert([3, 150], normal(2, DIM, seed=5))
        model.upsert([3, 150], normal(2, DIM, seed=5))
        assert_equals(docs, model)
        gate.open.set()
        until(idle)
        assert_equals(docs, model)
        assert docs.stats()["dead_rows"] < 80
        assert store.check() == []


# --- tenants that change while extents are being made ------------------------------------------

EVENTS: dict[str, Callable[[Collection, list[int]], Any]] = {
    "revoke": lambda docs, ids: docs.tenant("a").revoke(ids[2:5], from_="b"),
    "grant": lambda docs, ids: docs.tenant("a").grant(ids[4:8], to="b"),
    "revoke and grant": lambda docs, ids: (
        docs.tenant("a").revoke(ids[:4], from_="b"),
        docs.tenant("a").grant(ids[1:3], to="b"),
    ),
    "replace": lambda docs, ids: docs.tenant("a").upsert(ids[3:7], normal(4, DIM, seed=9)),
    "delete": lambda docs, ids: docs.tenant("a").delete(ids[1:4]),
    "drop the owner": lambda docs, ids: docs.drop_tenant("a"),
    "drop the grantee": lambda docs, ids: docs.drop_tenant("b"),
    "drop and make anew": lambda docs, ids: (
        docs.drop_tenant("b"),
        docs.tenant("a").grant(ids[:2], to="b"),
    ),
}


@pytest.mark.parametrize(
    "shape", [pytest.param(one, marks=() if one == "tree" else pytest.mark.soak) for one in SHAPES]
)
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", ["pending", "indexed", "revoked"])
def test_what_happens_to_grants_meanwhile(
    tmp_path: Path,
    gate: Gate,
    monkeypatch: pytest.MonkeyPatch,
    shape: str,
    event: str,
    state: str,
) -> None:
    """The same calls with and without a builder at work end in the same."""
    small_shapes(monkeypatch)
    ends = []
    for held in (False, True):
        mode = "background" if held else "inline"
        gate.open.clear()
        with vecstore.open(tmp_path / mode, maintenance="inline") as store:
            docs = store.collection("docs", dim=DIM, tenants=True)
            ids = fill(docs, "a", shape, first=100)
            docs.tenant("b").upsert([1], normal(1, DIM, seed=7))
            docs.tenant("a").grant(ids[:6], to="b")
            if state != "pending":
                flush(docs)
            if state == "revoked":
                docs.tenant("a").revoke(ids[:5], from_="b")
        with vecstore.open(tmp_path / mode, maintenance=mode) as store:
            docs = store.collection("docs")
            if held:
                docs.tenant("b").upsert(range(30), normal(30, DIM, seed=8))
                assert gate.reached.wait(PATIENCE_S)
                EVENTS[event](docs, ids)
            else:
                EVENTS[event](docs, ids)
                if event not in ("drop the grantee", "drop and make anew"):
                    docs.tenant("b").upsert(range(30), normal(30, DIM, seed=8))
            names = ("a", "b")
            before = [shown(docs.tenant(name)) for name in names]
            gate.open.set()
            until(idle)
            assert [shown(docs.tenant(name)) for name in names] == before
            assert store.check() == []
            docs.compact()
            assert [shown(docs.tenant(name)) for name in names] == before
            flush(docs)
            assert [shown(docs.tenant(name)) for name in names] == before
            assert store.check() == []
        ends.append(before)
    assert ends[0] == ends[1]


def test_collection_that_is_dropped_meanwhile(
    path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_limits(monkeypatch)
    with sound_store(path, maintenance="background") as store:
        docs = store.collection("docs", dim=DIM)
        docs.upsert(range(30), normal(30, DIM))
        assert gate.reached.wait(PATIENCE_S)
        store.drop("docs")
        again = store.collection("docs", dim=DIM)
        again.upsert([1], normal(1, DIM))
        gate.open.set()
        until(idle)
        assert again.count() == 1


# --- who waits for whom -------------------------------------------------------------------------


def test_steps_back_for_a_call_that_makes_extents(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its next report of progress; the second time the call waits."""
    small_limits(monkeypatch)
    calls: list[str] = []
    in_step, go_on = threading.Event(), threading.Event()

    class Slow:
        def is_due(self) -> bool:
            return True

        def full_logs(self) -> float:
            return 0.0

        def maintain(self, progress: Callable[[str, int, int], None]) -> bool:
            calls.append("begin")
            in_step.set()
            assert go_on.wait(PATIENCE_S)
            progress("merge", 0, 1)
            calls.append("end")
            return False

    with sound_store(path, maintenance="background") as store:
        docs = store.collection("docs", dim=DIM)
        docs.upsert(range(100), normal(100, DIM))
        until(idle)
        for expected in (["begin"], ["begin", "end"]):
            store._maintenance.after_write(Slow())
            assert in_step.wait(PATIENCE_S)
            bulk = threading.Thread(target=docs.compact)
            bulk.start()
            until(lambda: store._session.build_lock.wanted)
            begun = len(calls)
            monkeypatch.setattr(store._maintenance, "_stepped_back", len(expected) == 2)
            go_on.set()
            bulk.join(PATIENCE_S)
            until(idle)
            assert calls[begun - 1 : begun - 1 + len(expected)] == expected
            assert calls[-1] == "end"
            in_step.clear()
            go_on.clear()


def test_calls_wait_when_rows_pile_up(
    path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_limits(monkeypatch)
    waits: list[float | None] = []
    wait_for = threading.Condition.wait_for

    def counted(self: Any, predicate: Any, timeout: float | None = None) -> bool:
        waits.append(timeout)
        return wait_for(self, predicate, timeout=0.01)

    with sound_store(path, maintenance="background") as store:
        docs = store.collection("docs", dim=DIM)
        docs.upsert(range(30), normal(30, DIM))
        assert gate.reached.wait(PATIENCE_S)
        monkeypatch.setattr(threading.Condition, "wait_for", counted)
        docs.upsert(range(30, 50), normal(20, DIM))
        assert waits == []
        docs.upsert(range(50, 60), normal(10, DIM))
        assert waits == [maintenance.WAIT_S]
        monkeypatch.setattr(write, "REMOVED_MIN", 1)
        assert docs.delete(range(5)) == 5, "which adds nothing to the log, and does not wait"
        assert waits == [maintenance.WAIT_S]
        gate.open.set()
        until(idle)


def test_a_thread_ends_when_all_is_done(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_limits(monkeypatch)
    with sound_store(path, maintenance="background") as store:
        docs = store.collection("docs", dim=DIM)
        docs.upsert(range(10), normal(10, DIM))
        assert idle()
        docs.upsert(range(10, 40), normal(30, DIM))
        until(idle)
        assert docs.stats()["tail_rows"] == 0


# --- closing ------------------------------------------------------------------------------------


def test_closing_waits_for_a_flush(path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    small_limits(monkeypatch)
    store = vecstore.open(path)
    docs = store.collection("docs", dim=DIM)
    docs.upsert(range(30), normal(30, DIM))
    assert gate.reached.wait(PATIENCE_S)
    closing = threading.Thread(target=store.close)
    closing.start()
    until(lambda: store._session.closed)
    gate.open.set()
    closing.join(PATIENCE_S)
    assert idle()
    with vecstore.open(path, "r") as reader:
        assert reader.collection("docs").stats()["tail_rows"] == 0
        assert reader.check() == []


def test_closing_gives_up_a_merge(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it is left, and the next process does it."""
    small_limits(monkeypatch)
    monkeypatch.setattr("vecstore.write.REMOVED_MIN", 30)
    building, closed = threading.Event(), threading.Event()
    write_raw = rebuild.Rebuilder.write_raw

    def slow(self: Any, *args: Any) -> Any:
        building.set()
        assert closed.wait(PATIENCE_S)
        return write_raw(self, *args)

    store = vecstore.open(path)
    docs = store.collection("docs", dim=DIM)
    docs.upsert(range(200), normal(200, DIM))
    until(idle)
    with monkeypatch.context() as patch:
        patch.setattr("vecstore.rebuild.Rebuilder.write_raw", slow)
        docs.delete(range(100))
        assert building.wait(PATIENCE_S)
        closing = threading.Thread(target=store.close)
        closing.start()
        until(lambda: store._session.closed)
        closed.set()
        closing.join(PATIENCE_S)
    with vecstore.open(path, "r") as reader:
        assert reader.check() == []
        assert reader.collection("docs").stats()["dead_rows"] == 100
    with sound_store(path, maintenance="background") as store:
        docs = store.collection("docs")
        docs.delete(range(100, 130))
        until(idle)
        assert docs.stats()["dead_rows"] == 0
        assert docs.count() == 70


ENDING = """
import sys, numpy as np, vecstore, vecstore.write
vecstore.write.LOG_ROWS_MAX = 1_024
store = vecstore.open(sys.argv[1])
docs = store.collection("docs", dim=32)
for start in range(0, 3_000, 500):
    docs.upsert(range(start, start + 500), np.random.default_rng(start).normal(size=(500, 32)))
"""


def test_the_end_of_a_process_that_does_not_close(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDING, str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    with sound_store(path) as store:
        assert store.collection("docs").count() == 3_000


# --- other modes --------------------------------------------------------------------------------


def test_off(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_limits(monkeypatch)
    with sound_store(path, maintenance="off") as store:
        docs = store.collection("docs", dim=DIM)
        for start in range(0, 90, 30):
            docs.upsert(range(start, start + 30), normal(30, DIM, seed=start))
        assert docs.stats()["tail_rows"] == 90
        assert idle()
        docs.compact()
        assert docs.stats()["tail_rows"] == 0
        assert docs.stats()["postings"] > 1


@pytest.mark.parametrize("mode", ["", "on", None, True])
def test_unknown_mode(path: Path, mode: Any) -> None:
    with pytest.raises(vecstore.InvalidArgumentError, match=r"maintenance is .*'background'"):
        vecstore.open(path, maintenance=mode)
    assert not path.exists()


def test_a_progress_callback_cannot_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even rows: the call that it interrupts has the build lock, as a bulk load would."""
    small_limits(monkeypatch)
    with sound_store(path, maintenance="background") as store:
        docs = store.collection("docs", dim=DIM)

        def write(stage: str, done: int, total: int) -> None:
            docs.upsert(range(100), np.ones((100, DIM)))

        with pytest.raises(vecstore.InvalidArgumentError, match="within a write"):
            docs.load(normal(100, DIM), progress=write)
        assert docs.count() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for this process's maps")
def test_space_comes_back_without_another_call(tmp_path: Path) -> None:
    """A file that is unlinked and still mapped takes its space; the writer's own maps go first."""
    with sound_store(tmp_path / "store", maintenance="off") as store:
        docs = store.collection("docs", dim=DIM)
        for start in (0, 5_000):
            docs.load(normal(5_000, DIM, seed=start), np.arange(start, start + 5_000))
        docs.query(normal(1, DIM)[0])
        folder = tmp_path / "store" / "extents"
        before = {path.name for path in folder.iterdir()}
        with store._session, store._session.build_lock:
            docs._core.writer._compactor.compact(silent)
        gone = before - {path.name for path in folder.iterdir()}
        assert gone
        maps = Path("/proc/self/maps").read_text("utf8")
        assert str(folder) in maps
        assert [name for name in gone if f"{folder / name} (deleted)" in maps] == []


@pytest.mark.parametrize("ends", [True, False])
def test_merges_wait_for_queries_that_began_before_but_not_for_ever(
    tmp_path: Path, ends: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the files of one merge stand beside those of the next."""
    monkeypatch.setattr(compaction, "READER_WAIT_S", 0.001)
    waits: list[int] = []
    with sound_store(tmp_path / "store", maintenance="off") as store:
        docs = store.collection("docs", dim=DIM)
        for start in (0, 5_000):
            docs.load(normal(5_000, DIM, seed=start), np.arange(start, start + 5_000))
        compactor = docs._core.writer._compactor
        environment = compactor._writing.environment
        retired: list[int] = []
        clear_retired = compaction.clear_retired

        def clear(writing: Any) -> int:
            retired.append(clear_retired(writing))
            return retired[-1]

        monkeypatch.setattr(compaction, "clear_retired", clear)
        reading = environment.read_committed()

        def progress(stage: str, done: int, total: int) -> None:
            if stage == "wait for readers":
                waits.append(done)
                assert total == compaction.READER_WAITS
                if ends and done == 2:
                    reading.abort()

        try:
            with store._session, store._session.build_lock:
                compactor.compact(progress)
        finally:
            if not ends:
                reading.abort()
        with store._session:
            compaction.clear_retired(compactor._writing)
    if ends:
        assert waits == [1, 2]
        assert retired[2:] == [0] * (len(retired) - 2)
    else:
        assert waits[: compaction.READER_WAITS] == list(range(1, compaction.READER_WAITS + 1))
        assert retired[-2] > retired[0] > 0 == retired[-1]


def test_dead_vectors_go_before_all_postings_are_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These take their room twice for a while; what can be given back before, is."""
    with sound_store(tmp_path / "store", maintenance="off") as store:
        docs = store.collection("docs", dim=DIM)
        docs.load(normal(5_000, DIM))
        docs.delete(range(750))
        compactor = docs._core.writer._compactor
        with store._session, store._session.build_lock:
            assert not compactor.tend(silent)
            assert docs.stats()["dead_rows"] == 750
            monkeypatch.setattr("vecstore.idle.DEAD_SHARE", 0.1)
            assert compactor.tend(silent)
            assert not compactor.tend(silent)
        assert docs.stats()["dead_rows"] == 0
