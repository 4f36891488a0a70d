"""A disk that fills up at any moment: a typed error, the store as it was, the next try succeeds."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from tests.store_checks import ROOT, contents, normal, python, small_limits
from vecstore.storage import Environment

DIM = 5
NAMES = range(1_000)


class FullDisk:
    """Raises ENOSPC at one moment of a call: before an fsync or a commit, the n-th in all."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.moment = -1
        self.passed = 0
        fsync, write = os.fsync, Environment.write

        def full_fsync(descriptor: int) -> None:
            self.pass_moment()
            fsync(descriptor)

        @contextmanager
        def full_write(environment: Environment) -> Iterator[Any]:
            with write(environment) as transaction:
                yield transaction
                self.pass_moment()

        patch.setattr(os, "fsync", full_fsync)
        patch.setattr(Environment, "write", full_write)

    def pass_moment(self) -> None:
        self.passed += 1
        if self.passed - 1 == self.moment:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def at(self, moment: int) -> None:
        """Fill up at the given moment from now on, counted from 0; -1 is never."""
        self.moment, self.passed = moment, 0


Call = Callable[[vecstore.Store], Any]


def upsert(start: int, n: int) -> Call:
    def call(store: vecstore.Store) -> None:
        docs = store.collection("docs")
        docs.upsert(range(start, start + n), normal(n, DIM, seed=start), [{"n": n}] * n, ["x"] * n)

    return call


CALLS: dict[str, tuple[list[Call], Call]] = {
    "small upsert": ([], upsert(0, 5)),
    "small upsert that replaces": ([upsert(0, 60)], upsert(55, 10)),
    "first bulk load": ([], upsert(0, 60)),
    "bulk load after small upserts": ([upsert(0, 20)], upsert(10, 50)),
    "bulk load into an index": ([upsert(0, 100)], upsert(90, 60)),
    "bulk load that trains anew": ([upsert(0, 40), upsert(40, 10)], upsert(45, 90)),
    "flush of the row log": ([upsert(0, 100), upsert(100, 24)], upsert(120, 10)),
    "first flush": ([upsert(0, 24)], upsert(20, 10)),
    "delete": (
        [upsert(0, 60), upsert(60, 5)],
        lambda s: s.collection("docs").delete(range(55, 63)),
    ),
    "drop": ([upsert(0, 60)], lambda s: s.drop("docs")),
    "create": ([], lambda s: s.collection("new", dim=3)),
}


def state(store: vecstore.Store) -> Any:
    """All that can be read of a store."""
    names = store.collections()
    docs = store.collection("docs") if "docs" in names else None
    return names, docs and (docs.count(), contents(docs, NAMES))


@pytest.mark.parametrize("name", CALLS)
def test_full_at_every_moment(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either the call raises and nothing of it is there, or it returns and all of it is."""
    small_limits(monkeypatch)
    before_calls, call = CALLS[name]
    disk = FullDisk(monkeypatch)

    def prepare(path: Path) -> vecstore.Store:
        disk.at(-1)
        store = vecstore.open(path, maintenance="inline")
        store.collection("docs", dim=DIM)
        for earlier in before_calls:
            earlier(store)
        return store

    with prepare(tmp_path / "good") as store:
        before = state(store)
        disk.at(-1)
        call(store)
        moments = disk.passed
        after = state(store)
    assert moments >= 1
    for moment in range(moments):
        path = tmp_path / f"moment {moment}"
        with prepare(path) as store:
            disk.at(moment)
            try:
                call(store)
            except vecstore.DiskFullError as error:
                expected = before
                message = str(error)
                assert str(path) in message
                assert "No room" in message
            else:
                expected = after
            disk.at(-1)
            where = f"{name}, moment {moment} of {moments}"
            assert state(store) == expected, where
            assert store.check() == [], where
        with vecstore.open(path, maintenance="inline") as store:
            assert state(store) == expected, f"{where}, reopened"
            assert store.check() == [], where
            if expected is before:
                call(store)
            assert state(store) == after, f"{where}, repeated"
            assert store.check() == [], where


def test_failed_call_can_be_repeated_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without reopening, as the message says; also where several extents were written."""
    small_limits(monkeypatch, bulk=10_000, log=100)
    monkeypatch.setattr("vecstore.rawrows.EXTENT_BYTES_MAX", 4 * DIM * 1024)
    disk = FullDisk(monkeypatch)
    n = 1_500
    with vecstore.open(tmp_path / "store", maintenance="inline") as store:
        docs = store.collection("docs", dim=DIM)
        for moment in range(1, 12):
            vectors = normal(n, DIM, seed=moment)
            disk.at(moment)
            try:
                docs.upsert(range(n), vectors)
            except vecstore.DiskFullError:
                disk.at(-1)
                docs.upsert(range(n), vectors)
            disk.at(-1)
            assert docs.vectors(range(n)).tobytes() == vectors.tobytes()
            assert docs.count() == n
            assert store.check() == []


def test_creating_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(monkeypatch)
    for moment in range(3):
        path = tmp_path / f"store {moment}"
        disk.at(moment)
        with pytest.raises(vecstore.DiskFullError, match="No room"):
            vecstore.open(path, maintenance="inline").close()
        disk.at(-1)
        with vecstore.open(path, maintenance="inline") as store:
            assert store.check() == []


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
import pytest
import vecstore
from tests.store_checks import contents, normal, small_limits

path, n = Path(sys.argv[1]), int(sys.argv[2])
small_limits(pytest.MonkeyPatch(), bulk=200, log=10**9)
store = vecstore.open(path, maintenance="inline")
docs = store.collection("docs", dim=64)
docs.upsert(range(10), normal(10, 64))
size = (path / "facts" / "data.mdb").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + int(sys.argv[3]), resource.RLIM_INFINITY))
before = contents(docs, range(5_000))
try:
    for start in range(0, 100 * n, n):
        docs.upsert(range(start, start + n), normal(n, 64, seed=start))
        before = contents(docs, range(5_000))
    raise AssertionError("the limit was not met")
except vecstore.DiskFullError as error:
    assert str(path) in str(error), error
assert contents(docs, range(5_000)) == before
assert store.check() == []
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.close()
with vecstore.open(path, maintenance="inline") as store:
    docs = store.collection("docs")
    assert contents(docs, range(5_000)) == before
    docs.upsert([4_999], normal(1, 64))
    assert store.check() == []
"""


@pytest.mark.parametrize("room", [0, 4096])
@pytest.mark.parametrize("n", [20, 300], ids=["in the facts", "in an extent"])
def test_limit_of_file_sizes(tmp_path: Path, n: int, room: int) -> None:
    """What the system itself does when a file may not grow, in a process of its own.

    With some room left a write is short, which LMDB calls an I/O error.
    """
    python(LIMITED, tmp_path / "store", n, room)


SMALL = """
import subprocess, sys
from pathlib import Path
import pytest
import vecstore
from tests.store_checks import contents, normal, small_limits

folder, n, mode = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], check=True)
small_limits(pytest.MonkeyPatch(), bulk=200, log=100)
path = folder / "store"
store = vecstore.open(path, maintenance=mode)
docs = store.collection("docs", dim=64)
before = {}
try:
    for start in range(0, 400 * n, n):
        docs.upsert(range(start, start + n), normal(n, 64, seed=start))
        before = contents(docs, range(20_000))
    raise AssertionError("the disk is not full")
except vecstore.DiskFullError as error:
    assert str(folder) in str(error), error
assert len(before) >= n
assert contents(docs, range(20_000)) == before
store.close()
with vecstore.open(path, "r") as store:
    assert contents(store.collection("docs"), range(20_000)) == before
    # when it was a commit that failed, extents made for it stay until the next writer comes
    assert {violation.invariant for violation in store.check()} <= {"extents-named"}
subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True)
with vecstore.open(path, maintenance=mode) as store:
    docs = store.collection("docs")
    assert contents(docs, range(20_000)) == before
    docs.upsert(range(300), normal(300, 64))
    docs.compact()
    assert docs.count() == len(before.keys() | set(range(300)))
    assert store.check() == []
"""
OWN_MOUNTS = ["unshare", "--map-root-user", "--mount"]


@pytest.mark.parametrize("mode", ["inline", "background"])
@pytest.mark.parametrize("n", [20, 300], ids=["in the facts", "in an extent"])
def test_small_file_system(tmp_path: Path, n: int, mode: str) -> None:
    """A file system that really is full, and is made larger afterwards."""
    try:
        mounts = [*OWN_MOUNTS, "mount", "-t", "tmpfs", "none", str(tmp_path)]
        subprocess.run(mounts, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a process may not mount here: {error}")
    run = [*OWN_MOUNTS, sys.executable, "-c", SMALL, str(tmp_path), str(n), mode]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_state_reads_all(tmp_path: Path) -> None:
    """The comparison above would be worth nothing if it could not tell states apart."""
    with vecstore.open(tmp_path / "store", maintenance="inline") as store:
        docs = store.collection("docs", dim=DIM)
        docs.upsert([1], np.ones((1, DIM)), [{"a": 1}], ["x"])
        first = state(store)
        docs.upsert([1], np.ones((1, DIM)), [{"a": 2}], ["x"])
        assert state(store) != first


def test_calibration_that_was_put_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call succeeds, `stats` tells, and the next write makes up for it."""
    small_limits(monkeypatch)
    with vecstore.open(tmp_path / "store", maintenance="inline") as store:
        docs = store.collection("docs", dim=DIM)
        with monkeypatch.context() as patch:

            def full(*_: Any) -> None:
                raise vecstore.DiskFullError("No room for the calibration.")

            patch.setattr("vecstore.recalibration.calibrate", full)
            for start in (0, 20):
                docs.upsert(range(start, start + 20), normal(20, DIM, seed=start))
            assert docs.stats()["maintenance"] == "No room for the calibration."
            assert docs.stats()["calibration"]["efforts"] == []
        docs.upsert([99], normal(1, DIM))
        assert docs.stats()["maintenance"] == "up to date"
        assert docs.stats()["calibration"]["efforts"]
        assert docs.count() == 41
        assert store.check() == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_calls_after_a_commit_without_room(tmp_path: Path, code: int) -> None:
    """A commit that found no room, cut short or not, is told as such to all later calls."""
    with vecstore.open(tmp_path / "store", maintenance="off") as store:
        docs = store.collection("docs", dim=DIM)
        docs.upsert([1], normal(1, DIM))
        store._environment.refuses_writes = f"mdb_txn_commit: {os.strerror(code)}"
        with pytest.raises(vecstore.DiskFullError, match=r"since a commit failed .*reopen"):
            docs.upsert([2], normal(1, DIM))
        assert docs.count() == 1
