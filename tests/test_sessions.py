"""One writer, many readers; stores that are closed, forked or open for reading only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import vecstore
from tests.store_checks import make_store, python, start_python


@pytest.fixture
def path(tmp_path: Path) -> Path:
    make_store(tmp_path / "store")
    return tmp_path / "store"


# --- one writer ---------------------------------------------------------------------------------


def test_second_writer_in_this_process(path: Path) -> None:
    with vecstore.open(path) as store:
        with pytest.raises(vecstore.WriterLockedError, match=r"Another writer.*mode='r'"):
            vecstore.open(path)
        with pytest.raises(vecstore.WriterLockedError):
            vecstore.open(path.parent / "." / path.name)
        assert store.collection("docs").count() == 2
        with vecstore.open(path, mode="r") as reader:
            assert reader.collection("docs").count() == 2
    with vecstore.open(path) as store:
        assert store.check() == []


def test_second_writer_in_another_process(path: Path) -> None:
    code = """
        import sys, vecstore
        store = vecstore.open(sys.argv[1])
        print("open", flush=True)
        sys.stdin.readline()
        store.close()
        print("closed", flush=True)
        sys.stdin.readline()
    """
    other = start_python(code, path)
    assert other.stdin
    assert other.stdout
    try:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(vecstore.WriterLockedError, match="Another writer"):
            vecstore.open(path)
        with vecstore.open(path, mode="r") as reader:
            assert reader.collection("docs").count() == 2
        other.stdin.write("\n")
        assert other.stdout.readline() == "closed\n"
        vecstore.open(path).close()
    finally:
        other.kill()
        other.communicate()


# --- closed, forked, read-only ------------------------------------------------------------------


def test_closed_store(path: Path) -> None:
    store = vecstore.open(path)
    docs = store.collection("docs")
    store.close()
    store.close()
    vector = np.ones(4)
    for call in (
        store.check,
        store.stats,
        store.collections,
        lambda: store.collection("docs"),
        lambda: store.collection("new", dim=3),
        lambda: store.drop("docs"),
        lambda: docs.upsert([3], [vector]),
        lambda: docs.add([3], [vector]),
        lambda: docs.delete([1]),
        lambda: docs.get([1]),
        lambda: docs.vectors([1]),
        lambda: docs.query(vector),
        lambda: docs.search([vector]),
        docs.count,
        docs.stats,
        lambda: len(docs),
    ):
        with pytest.raises(vecstore.StoreClosedError, match=r"store .* is closed"):
            call()
    with vecstore.open(path, mode="r") as again:
        assert again.collection("docs").count() == 2


def test_used_store_after_fork(path: Path) -> None:
    """The child is refused, opens the store anew or is told why not; the parent is unharmed."""
    python(
        """
        import gc, os, sys, traceback
        import numpy as np
        import vecstore

        path = sys.argv[1]
        store = vecstore.open(path)
        docs = store.collection("docs")
        docs.search(np.ones((100, 4)))
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for call in (
                    lambda: docs.query(np.ones(4)), lambda: docs.upsert([9], np.ones((1, 4))),
                    lambda: docs.delete([1]), lambda: docs.get([1]), docs.count, docs.stats,
                    store.check, store.stats, store.collections, lambda: store.collection("docs"),
                    lambda: store.drop("docs"),
                ):
                    try:
                        call()
                    except vecstore.ForkedStoreError as error:
                        assert "open it again in the child" in str(error)
                    else:
                        raise AssertionError("was not refused")
                store.close()
                try:
                    with vecstore.open(path, mode="r") as own:
                        assert own.collection("docs").count() == 2
                except vecstore.ForkedStoreError:
                    pass  # LMDB cannot let go of what a parent still reads
                del docs, store
                gc.collect()
                code = 0
            except BaseException:
                traceback.print_exc()
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        docs.upsert([3], np.ones((1, 4)))
        for _ in range(5):
            assert docs.search(np.ones((100, 4))).ids.shape == (100, 10)
            assert docs.query(np.ones(4)) and docs.count() == 3
        try:
            vecstore.open(path)
        except vecstore.WriterLockedError:
            pass
        else:
            raise AssertionError("the child let go of the parent's lock")
        assert docs.count() == 3
        assert store.check() == []
        store.close()
        """,
        path,
    )


def test_close_ends_the_lock_while_a_forked_child_lives(path: Path) -> None:
    python(
        """
        import os, sys, time
        import vecstore

        store = vecstore.open(sys.argv[1])
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        try:
            store.close()
            vecstore.open(sys.argv[1]).close()
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
        """,
        path,
    )


def test_read_only_store(path: Path) -> None:
    before = {
        entry: entry.stat().st_mtime_ns for entry in path.rglob("*") if "lock" not in str(entry)
    }
    with vecstore.open(path, mode="r") as store:
        docs = store.collection("docs")
        for call in (
            lambda: docs.upsert([3], [[1, 2, 3, 4]]),
            lambda: docs.add([3], [[1, 2, 3, 4]]),
            lambda: docs.delete([1]),
            lambda: docs.load(np.ones((3, 4))),
            lambda: store.drop("docs"),
        ):
            with pytest.raises(vecstore.ReadOnlyError, match=r"open for reading.*mode='w'"):
                call()
        with pytest.raises(vecstore.CollectionNotFoundError, match=r"'new'.*open for reading"):
            store.collection("new", dim=4)
        assert docs.query([1, 0, 0, 0])[0].id == 1
        assert store.collections() == ["docs"]
    assert {entry: entry.stat().st_mtime_ns for entry in before} == before
