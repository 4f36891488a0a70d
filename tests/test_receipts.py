"""Receipts: in the transaction of the write or not at all, bounded, and known again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

import vecstore
from tests.store_checks import ROOT
from vecstore import layout, receipts
from vecstore.config import BULK_ROWS_MIN
from vecstore.layout import Kind
from vecstore.receipts import Receipts
from vecstore.store import receipts_of

KEY, PRINT = bytes(16), b"p" * 16
ONE = [[1.0, 0.0]]


def result(store: vecstore.Store, key: bytes = KEY) -> int | None:
    found = receipts_of(store).find(key)
    return None if found is None else found.result


@pytest.mark.parametrize("durability", ["commit", "batch"])
def test_a_write_leaves_one(tmp_path: Path, durability: str) -> None:
    def key(verb: str) -> bytes:
        return verb.encode().ljust(16)

    with vecstore.open(tmp_path / "s", durability=durability) as store:
        own = receipts_of(store)
        with own.carrying(key("create"), PRINT):
            docs = store.collection("docs", dim=2)
        with own.carrying(key("upsert"), PRINT):
            docs.upsert([1, 2, 3], np.eye(2)[[0, 1, 0]])
        with own.carrying(key("load"), PRINT):
            docs.load(np.ones((BULK_ROWS_MIN, 2)), np.arange(100, 100 + BULK_ROWS_MIN))
        with own.carrying(key("delete"), PRINT):
            docs.delete([1, 2, 77])
        with own.carrying(key("nothing"), PRINT):
            docs.count()
        docs.upsert([5], ONE)  # carries none
        told = {"create": 0, "upsert": 0, "load": 0, "delete": 2, "nothing": None}
        assert {name: result(store, key(name)) for name in told} == told
    with vecstore.open(tmp_path / "s") as store:
        assert {name: result(store, key(name)) for name in told} == told
        assert receipts_of(store).find(key("load")).fingerprint == PRINT
        with receipts_of(store).carrying(key("drop"), PRINT):
            store.drop("docs")
        assert result(store, key("drop")) == 0
        assert store.check() == []


def test_a_write_that_fails_leaves_none(tmp_path: Path, monkeypatch: Any) -> None:
    with vecstore.open(tmp_path / "s") as store:
        docs = store.collection("docs", dim=2)
        docs.add([1], ONE)
        own = receipts_of(store)
        with pytest.raises(vecstore.DuplicateIdError), own.carrying(KEY, PRINT):
            docs.add([1], ONE)
        put = Receipts.put

        def fail(self: Receipts, *args: Any) -> None:
            put(self, *args)
            raise lmdb.Error("after the receipt was put, before the commit")

        monkeypatch.setattr(Receipts, "put", fail)
        with pytest.raises(vecstore.VecstoreError), own.carrying(KEY, PRINT):
            docs.upsert([2], ONE)
        monkeypatch.undo()
        assert result(store) is None
        assert docs.get(2) is None
        with own.carrying(KEY, PRINT):
            docs.upsert([2], ONE)
        assert result(store) == 0


def test_a_write_that_is_committed_has_one_whatever_fails_later(
    tmp_path: Path, monkeypatch: Any
) -> None:
    with vecstore.open(tmp_path / "s") as store:
        docs = store.collection("docs", dim=2)
        with monkeypatch.context() as patch:

            def fail(*args: Any) -> None:
                raise vecstore.VecstoreError("after the commit")

            patch.setattr(docs._core.writer._maintenance, "after_write", fail)
            with pytest.raises(vecstore.VecstoreError), receipts_of(store).carrying(KEY, PRINT):
                docs.upsert([1], ONE)
        assert result(store) == 0
        assert docs.get(1) is not None


def test_the_last_ones_are_kept(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(receipts, "RECEIPTS_MAX", 8)

    def keys(*numbers: int) -> list[bytes]:
        return [number.to_bytes(16, "big") for number in numbers]

    for start in (0, 20):
        with vecstore.open(tmp_path / "s") as store:
            docs = store.collection("docs", dim=2)
            for number, key in zip(range(start, start + 20), keys(*range(20)), strict=True):
                with receipts_of(store).carrying(key, PRINT):
                    docs.upsert([number], ONE)
                    docs.delete([number]) if number % 3 == 0 else None
            stored = store._environment.read()
            assert len(list(stored.scan(layout.key(0, Kind.RECEIPT)))) == 8
            stored.abort()
            known = [number for number in range(20) if result(store, *keys(number)) is not None]
            assert known == list(range(20 - len(known), 20))
            assert 5 <= len(known) <= 8
            assert len(receipts_of(store)._known) == len(known)
            assert store.check() == []


def test_they_end_with_time(tmp_path: Path, monkeypatch: Any) -> None:
    with vecstore.open(tmp_path / "s") as store:
        docs = store.collection("docs", dim=2)
        with receipts_of(store).carrying(KEY, PRINT):
            docs.upsert([1], ONE)
        assert result(store) == 0
        monkeypatch.setattr(receipts, "RECEIPT_S", -1.0)
        assert result(store) is None


def test_one_in_the_place_of_another_is_told(tmp_path: Path) -> None:
    with vecstore.open(tmp_path / "s") as store:
        docs = store.collection("docs", dim=2)
        with receipts_of(store).carrying(KEY, PRINT):
            docs.upsert([1], ONE)
        with store._environment.write() as transaction:
            raw = transaction.get(receipts.place_of(0))
            assert raw is not None
            transaction.put(receipts.place_of(5), raw)
        assert [one.invariant for one in store.check()] == ["receipts"]
        with store._environment.write() as transaction:
            transaction.put(receipts.place_of(5), b"\xc1")
        assert [one.invariant for one in store.check()] == ["receipts"]


KILLED = """
import os, signal, sys
import numpy as np
import vecstore
from vecstore.store import receipts_of

store = vecstore.open(sys.argv[1])
docs = store.collection("docs", dim=2)
for number in range(int(sys.argv[2]), 10**9):
    with receipts_of(store).carrying(number.to_bytes(16, "big"), bytes(16)):
        docs.add([number], np.ones((1, 2)))
    print(number, flush=True)
"""


def test_a_kill_parts_no_write_from_its_receipt(tmp_path: Path) -> None:
    path, first = tmp_path / "s", 0
    with vecstore.open(path) as store:
        store.collection("docs", dim=2)
    for kill in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(path), str(first)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert child.stdout is not None
        with child.stdout:
            for _ in range(15 + 7 * kill):
                done = int(child.stdout.readline())
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        with vecstore.open(path) as store:
            docs = store.collection("docs")
            rows = docs.count()
            assert rows > done
            numbers = range(rows + 3)
            known = [result(store, number.to_bytes(16, "big")) is not None for number in numbers]
            assert known == [hit is not None for hit in docs.get(list(numbers))]
            assert store.check() == []
        first = rows
