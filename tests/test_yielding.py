"""Who lets others have the interpreter, and for how long."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from tests.store_checks import normal
from vecstore import yielding
from vecstore.collection import Collection


@contextmanager
def another_thread(work: Any) -> Iterator[None]:
    """Run `work`, which is handed a function that says where it is and waits there, meanwhile."""
    there, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        there.set()
        assert go_on.wait(60)

    thread = threading.Thread(target=work, args=(wait,))
    thread.start()
    try:
        assert there.wait(60)
        yield
    finally:
        go_on.set()
        thread.join()


class Pauses:
    """Counts pauses, which take no time."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        patch.setattr(yielding, "EVERY_S", 0.0)
        patch.setattr(yielding.time, "sleep", self._pause)

    def _pause(self, seconds: float) -> None:
        assert seconds == yielding.PAUSE_S
        self.count += 1


def test_nobody_waits_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = Pauses(monkeypatch)
    assert list(yielding.yielding(range(5))) == [0, 1, 2, 3, 4]
    if threading.active_count() == 1:
        with yielding.sharing(lambda: True):
            assert yielding.beside() is None
    assert pauses.count == 0


@pytest.mark.parametrize(("busy", "each"), [(False, 1), (True, yielding.PAUSES)])
def test_a_call_that_runs_is_let_pass_but_not_for_ever(
    busy: bool, each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with another_thread(lambda wait: wait()):
        pauses = Pauses(monkeypatch)
        with yielding.sharing(lambda: busy):
            assert list(yielding.yielding("abc")) == ["a", "b", "c"]
            with yielding.sharing(lambda: True):
                assert yielding.beside() is not None
                assert yielding.beside()() is busy, "the outermost one counts"
            assert yielding.beside() is not None
        assert yielding.beside() is None
        assert pauses.count == 3 * each


def test_calls_of_others_run(tmp_path: Path) -> None:
    with vecstore.open(tmp_path / "store") as store:
        session = store._session

        def call(wait: Any) -> None:
            with session, session:
                wait()

        def work_in_background(wait: Any) -> None:
            with session.in_background():
                wait()

        assert not session.others_run()
        with session:
            assert not session.others_run(), "it is its own"
        with another_thread(call):
            assert session.others_run()
            with session:
                assert session.others_run()
        with another_thread(work_in_background), another_thread(call):
            assert session.others_run()
        assert not session.others_run()


def test_calls_need_not_let_maintenance_pass(tmp_path: Path) -> None:
    with vecstore.open(tmp_path / "store") as store:
        session, seen = store._session, []

        def work_in_background(wait: Any) -> None:
            with session.in_background():
                seen.append(session.others_run())
                wait()

        with another_thread(work_in_background), session:
            assert not session.others_run()
        assert seen == [False]


def test_writes_share_the_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = normal(300, 8)

    def pauses_of(docs: Collection) -> list[int]:
        found, pauses = [], Pauses(monkeypatch)
        for write in (
            lambda: docs.upsert(np.arange(300), rows),
            lambda: docs.upsert(np.arange(300), rows),
            lambda: docs.delete(np.arange(300)),
        ):
            before = pauses.count
            write()
            found.append(pauses.count - before)
        return found

    with vecstore.open(tmp_path / "store", maintenance="off") as store:
        docs = store.collection("docs", dim=8)
        with another_thread(lambda wait: wait()):
            assert min(pauses_of(docs)[1:]) >= 300
        assert store.check() == []
