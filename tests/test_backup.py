"""Backups: one committed state, whole, while others write; or a typed error and nothing changed."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

import vecstore
from tests.store_checks import normal, small_limits, sound_store, start_python
from vecstore import backup, layout

DIM = 5
EVERY = range(2_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


def fill(store: vecstore.Store) -> None:
    """Two collections, one with tenants, with extents, dead rows, grants and fresh rows."""
    docs = store.collection("docs", dim=DIM)
    docs.upsert(range(90), normal(90, DIM), [{"n": i} for i in range(90)], ["text"] * 90)
    docs.delete(range(10, 40))
    docs.upsert(range(200, 210), normal(10, DIM))
    notes = store.collection("notes", dim=DIM, metric="cosine", tenants=True)
    notes.tenant("a").upsert(range(60), normal(60, DIM), [{"n": i % 3} for i in range(60)])
    notes.tenant("a").grant(range(5), to="b")
    store.collection("gone", dim=DIM).upsert(range(60), normal(60, DIM))
    store.drop("gone")


def answers(store: vecstore.Store) -> Any:
    """All that can be read."""
    docs, notes = store.collection("docs"), store.collection("notes")
    found: list[Any] = [store.collections(), notes.tenants()]
    for view in (docs, notes.tenant("a"), notes.tenant("b"), notes.tenant("a", "b")):
        hits = [hit for hit in view.get(EVERY) if hit is not None]
        found.append([(hit.id, hit.tenant, hit.metadata, hit.document) for hit in hits])
        if not isinstance(view, vecstore.tenant.TenantUnion):
            found.append(view.vectors([hit.id for hit in hits]).tolist())
        for recall in (0.9, 1.0):
            result = view.search(normal(5, DIM, seed=3), k=7, recall=recall)
            found += [result.ids.tolist(), result.distances.tolist()]
        found.append(view.count(where={"n": 1}))
    return found


def listing(folder: Path) -> list[Any]:
    """Everything in a folder: names and lengths."""
    return sorted(
        (str(file.relative_to(folder)), file.stat().st_size if file.is_file() else -1)
        for file in folder.rglob("*")
    )


@pytest.mark.parametrize("mode", ["w", "r"])
@pytest.mark.parametrize("dest", ["copy", "new/folders/copy", "empty"])
def test_copy_answers_equal(
    path: Path, tmp_path: Path, mode: str, dest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_limits(monkeypatch)
    (tmp_path / "empty").mkdir()
    with sound_store(path) as store:
        fill(store)
        expected = answers(store)
    stages: list[tuple[str, int, int]] = []
    with vecstore.open(path, mode) as store:
        before = listing(path)
        store.backup(tmp_path / dest, lambda *stage: stages.append(stage))
        assert listing(path) == before
        assert answers(store) == expected
    assert {stage for stage, _, _ in stages} == {"facts", "extents"}
    assert stages[-1][1] == stages[-1][2] > 0
    assert sorted(tmp_path.iterdir()) == sorted(
        {path, tmp_path / "empty", tmp_path / Path(dest).parts[0]}
    )
    with sound_store(tmp_path / dest, "r") as store:
        assert answers(store) == expected
    with sound_store(tmp_path / dest) as store:
        assert answers(store) == expected
        store.collection("docs").upsert(EVERY, normal(len(EVERY), DIM))
        store.collection("docs").compact()
        assert store.collection("docs").count() == len(EVERY)
    with sound_store(path) as store:
        assert answers(store) == expected


def test_copy_of_an_empty_store_and_of_a_copy(path: Path, tmp_path: Path) -> None:
    with sound_store(path) as store:
        store.backup(f"{tmp_path / 'one'}/")
    with sound_store(tmp_path / "one", "r") as store:
        assert store.collections() == []
        store.backup(tmp_path / "two")
    with sound_store(tmp_path / "two"):
        pass


# --- beside writers and readers ---------------------------------------------------------------


def assert_one_state(copy: Path) -> int:
    """Every row of every collection is of the call that the counter tells; returns the counter."""
    with sound_store(copy, "r") as store:
        counter = store.collection("counter").get(0).metadata["call"]
        docs = store.collection("docs")
        hits = docs.query(np.zeros(DIM), k=1_000, recall=0.5)
        assert sorted(hit.id for hit in hits) == list(range(70))
        # the rows are written first, the counter right after
        (call,) = {hit.metadata["call"] for hit in hits}
        assert call in (counter, counter + 1)
        assert docs.count(where={"call": call}) == 70
        vectors = docs.vectors(range(70))
        assert vectors.tolist() == normal(70, DIM, seed=call).tolist()
    return int(counter)


def write_on(store: vecstore.Store, call: int) -> None:
    docs = store.collection("docs", dim=DIM)
    docs.upsert(range(70), normal(70, DIM, seed=call), [{"call": call}] * 70)
    store.collection("counter", dim=1).upsert(0, [1.0], {"call": call})
    if call % 7 == 6:
        docs.compact()


def test_each_backup_is_one_committed_state(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_limits(monkeypatch)
    stop, failures, written = threading.Event(), [], threading.Semaphore(0)
    with sound_store(path) as store, vecstore.open(path, "r") as reader:
        write_on(store, 0)

        def write() -> None:
            try:
                call = 1
                while not stop.is_set():
                    write_on(store, call)
                    written.release()
                    call += 1
            except BaseException as error:
                failures.append(error)
                raise

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for number in range(8):
                if number in (2, 4, 6):  # however slow the machine is
                    assert written.acquire(timeout=120)
                (store if number % 2 else reader).backup(tmp_path / f"copy {number}")
        finally:
            stop.set()
            thread.join()
        assert failures == []
    counters = [assert_one_state(tmp_path / f"copy {number}") for number in range(8)]
    assert counters == sorted(counters)
    assert counters[-1] > counters[0], "nothing was written meanwhile"


def test_rows_that_change_between_facts_and_extents(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that the copy names is retired at the worst moment, and still there to be copied."""
    small_limits(monkeypatch)
    moments: list[str] = []
    with sound_store(path) as store:
        write_on(store, 1)
        store.collection("docs").compact()

        def retire(stage: str, done: int, total: int) -> None:
            if (stage, done) in {("facts", 0), ("facts", 1), ("extents", 0)}:
                moments.append(stage)
                write_on(store, 10 * len(moments))
                store.collection("docs").compact()

        store.backup(tmp_path / "copy", retire)
        assert moments == ["facts", "facts", "extents"]
        store.collection("docs").upsert(0, normal(1, DIM)[0])
        assert len(listing(path / "extents")) == store.stats()["extents"]
    assert assert_one_state(tmp_path / "copy") == 10


WRITER = """
import sys
import pytest
import vecstore
from tests.store_checks import small_limits
from tests.test_backup import write_on

small_limits(pytest.MonkeyPatch())
with vecstore.open(sys.argv[1]) as store:
    write_on(store, 0)
    print("begun", flush=True)
    call = 0
    while not sys.stdin.closed and call < 400:
        call += 1
        write_on(store, call)
        print(call, flush=True)
"""


def test_backup_beside_a_writer_in_another_process(path: Path, tmp_path: Path) -> None:
    process = start_python(WRITER, path)
    assert process.stdout
    try:
        assert process.stdout.readline() == "begun\n"
        with vecstore.open(path, "r") as store:
            for number in range(4):
                process.stdout.readline()
                store.backup(tmp_path / f"copy {number}")
    finally:
        process.kill()
        process.communicate()
    for number in range(4):
        assert_one_state(tmp_path / f"copy {number}")
    with sound_store(path):
        pass


# --- what is refused, what fails ----------------------------------------------------------------


def test_dest_is_refused(path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    (tmp_path / "busy.part").mkdir()
    (tmp_path / "busy.part" / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "else")
    with sound_store(path) as store:
        fill(store)
        (tmp_path / "inside").symlink_to(path / "extents")
        before = listing(tmp_path)
        for dest, told in (
            (path, "within the store"),
            (path / "copy", "within the store"),
            (path / "extents" / "copy", "within the store"),
            (tmp_path / "inside" / "copy", "within the store"),
            (tmp_path, "no empty folder"),
            (tmp_path / "file", "no empty folder"),
            (tmp_path / "full", "no empty folder"),
            (tmp_path / "busy", "busy.part exists"),
            (7, "dest is 7"),
            (None, "dest is None"),
            ("", "dest is ''"),
            (b"copy", "dest is b'copy'"),
            ("a\0b", "dest is"),
        ):
            with pytest.raises(vecstore.InvalidArgumentError, match=told):
                store.backup(dest)  # type: ignore[arg-type]
        for dest in (tmp_path / "file" / "copy", Path("/proc/copy")):
            with pytest.raises(vecstore.VecstoreError, match="cannot be used"):
                store.backup(dest)
        assert listing(tmp_path) == before
        store.backup(tmp_path / "dangling")
        assert (tmp_path / "nowhere" / "else" / layout.MARKER_NAME).is_file()
    with pytest.raises(vecstore.StoreClosedError):
        store.backup(tmp_path / "late")


@pytest.mark.parametrize("dest", ["new/copy", "empty"])
def test_full_disk(path: Path, tmp_path: Path, dest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room at any sync: nothing is left, and the next try succeeds."""
    small_limits(monkeypatch)
    (tmp_path / "empty").mkdir()
    fsync, moment, passed = os.fsync, 0, 0

    def full(descriptor: int) -> None:
        nonlocal passed
        passed += 1
        if passed == moment:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with sound_store(path) as store:
        fill(store)
        before = listing(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            while moment == passed:
                moment, passed = moment + 1, 0
                try:
                    store.backup(tmp_path / dest)
                except vecstore.DiskFullError as error:
                    assert f"No room to write to {tmp_path / dest}" in str(error)  # noqa: PT017
                    assert listing(tmp_path) == before
        assert passed > 10
    with sound_store(tmp_path / dest):
        pass


def test_lmdb_finds_no_room(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def copy(self, target: str) -> None:
            raise lmdb.DiskError(f"mdb_env_copy: {os.strerror(errno.ENOSPC)}")

    with sound_store(path) as store:
        with monkeypatch.context() as patch:
            patch.setattr(store._environment, "_env", _Beside(store._environment._env, Full()))
            with pytest.raises(vecstore.DiskFullError, match="No room to write to"):
                store.backup(tmp_path / "copy")
        assert sorted(tmp_path.iterdir()) == [path]


class _Beside:
    """An object with some methods of another."""

    def __init__(self, real: Any, other: Any) -> None:
        self._real, self._other = real, other

    def __getattr__(self, name: str) -> Any:
        return getattr(self._other if hasattr(self._other, name) else self._real, name)


@pytest.mark.parametrize("raised", [KeyboardInterrupt, ZeroDivisionError])
def test_progress_that_raises(
    path: Path, tmp_path: Path, raised: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    small_limits(monkeypatch)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "extents" and done:
            raise raised

    with sound_store(path) as store:
        fill(store)
        with pytest.raises(raised):
            store.backup(tmp_path / "copy", stop)
        assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("damage", ["missing", "short", "longer"])
def test_extents_that_are_not_whole(
    path: Path, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_limits(monkeypatch)
    with sound_store(path) as store:
        fill(store)
    file = sorted((path / "extents").iterdir())[-1]
    size = file.stat().st_size
    if damage == "missing":
        file.unlink()
    else:
        os.truncate(file, size - 1 if damage == "short" else size + 1)
    told = "is missing" if damage == "missing" else f"bytes instead of {size}"
    with vecstore.open(path, "r") as store:
        with pytest.raises(vecstore.CorruptionError, match=told) as caught:
            store.backup(tmp_path / "copy")
        assert caught.value.extent == int(file.stem)
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_killed_backup_is_no_store(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The marker comes last: what stands under the part's name does not open before."""
    seen: list[Path] = []
    with sound_store(path) as store:
        store.collection("docs", dim=DIM).upsert(range(5), normal(5, DIM))

        def look(part: Path) -> None:
            seen.append(part)
            assert (part / layout.FACTS_NAME / "data.mdb").stat().st_size
            with pytest.raises(vecstore.NotAStoreError):
                vecstore.open(part, "r")

        monkeypatch.setattr(backup, "write_marker", look)
        store.backup(tmp_path / "copy")
        assert seen == [tmp_path / "copy.part"]
