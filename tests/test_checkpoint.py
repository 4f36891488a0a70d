"""What a build keeps while it is under way: taken up, given up, known to everybody who asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from tests.crash.builds import DIM, ROWS, base, counted, few_are_many
from tests.store_checks import flip_byte, normal, small_limits, sound_store
from vecstore.layout import ExtentKind
from vecstore.lookups import build_pieces


class StopError(Exception):
    """Ends a load."""


@pytest.fixture(autouse=True)
def long_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    small_limits(monkeypatch, posting=6, pages=6)
    few_are_many(monkeypatch)


def stop_at(wanted: str) -> Any:
    def report(stage: str, done: int, total: int) -> None:
        if stage == wanted:
            raise StopError

    return report


def cut_short(docs: Any, stage: str, vectors: Any = None, ids: Any = None, **more: Any) -> None:
    x = base() if vectors is None else vectors
    with pytest.raises(StopError):
        docs.load(x, ids, progress=stop_at(stage), **more)
    assert docs.stats()["unfinished_bytes"] > 0


def pieces(store: vecstore.Store, docs: Any) -> list[Any]:
    transaction = store._environment.read()
    try:
        return build_pieces(transaction, docs._core.identity.record.number)
    finally:
        transaction.abort()


def files(store: vecstore.Store) -> set[int]:
    return {int(file.stem) for file in (store.path / "extents").iterdir()}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[vecstore.Store]:
    with sound_store(tmp_path / "store") as opened:
        yield opened


def assert_done(store: vecstore.Store, docs: Any, x: Any) -> None:
    assert docs.stats()["unfinished_bytes"] == 0
    assert np.array_equal(docs.vectors(range(len(x))), x)
    assert pieces(store, docs) == []
    assert len(files(store)) == docs.stats()["extents"]


# --- taken up -----------------------------------------------------------------------------------


def test_a_stopped_load_goes_on(store: vecstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = store.collection("docs", dim=DIM)
    cut_short(docs, "publish")
    assert {ExtentKind(one.extent.kind) for one in pieces(store, docs)} >= {
        ExtentKind.PIECE,
        ExtentKind.RAW,
        ExtentKind.POSTINGS,
    }
    assert store.check() == []
    counts = counted(monkeypatch)
    docs.load(base())
    assert counts == {"cells": 0, "leaves": 0, "homes": 0, "rows": 0, "postings": 0}
    assert_done(store, docs, base())


def test_the_result_is_that_of_an_undisturbed_load(store: vecstore.Store) -> None:
    one, other = (store.collection(name, dim=DIM) for name in ("docs", "same"))
    cut_short(one, "homes")
    for docs in (one, other):
        docs.load(base())
    queries = normal(40, DIM, seed=9)
    for effort in (0.8, 1.0):
        assert (
            np.array_equal(
                one.search(queries, recall=effort).distances,
                other.search(queries, recall=effort).distances,
            )
            or effort < 1.0
        )
    assert one.stats()["postings"] == pytest.approx(other.stats()["postings"], rel=0.1)


def test_a_load_beside_present_rows_goes_on(
    store: vecstore.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are appended to postings that stay, not divided with them."""
    x = np.concatenate([base(), normal(2_000, DIM, seed=5)])
    docs = store.collection("docs", dim=DIM)
    docs.load(base())
    late = {"vectors": x[ROWS:], "ids": range(ROWS, len(x))}
    cut_short(docs, "rows", **late)
    counts = counted(monkeypatch)
    docs.load(late["vectors"], late["ids"])
    assert (counts["leaves"], counts["homes"], counts["cells"]) == (0, 0, 0)
    assert_done(store, docs, x)


def test_row_numbers_that_are_taken_meanwhile(store: vecstore.Store) -> None:
    """The division still holds, the raw rows are written again under other numbers."""
    docs = store.collection("docs", dim=DIM)
    cut_short(docs, "postings")
    docs.upsert([ROWS], np.ones((1, DIM)))
    docs.delete([ROWS])
    docs.load(base())
    assert_done(store, docs, base())


def test_tenants(store: vecstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = store.collection("docs", dim=DIM, tenants=True)
    names = ["large" if i % 3 else "small" for i in range(ROWS)]
    names[:5] = ["tiny"] * 5
    cut_short(docs, "rows", tenants=names)
    counts = counted(monkeypatch)
    docs.load(base(), tenants=names)
    assert counts["cells"] == counts["homes"] == 0
    for name in set(names):
        own = [i for i, other in enumerate(names) if other == name]
        assert np.array_equal(docs.tenant(name).vectors(own), base()[own])
    assert pieces(store, docs) == []


# --- given up -----------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", ["vector", "id", "order", "fewer"])
def test_another_load_begins_anew(
    store: vecstore.Store, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    docs = store.collection("docs", dim=DIM)
    cut_short(docs, "postings")
    before = {one.number for one in pieces(store, docs)}
    x, ids = base(), np.arange(ROWS)
    if changed == "vector":
        x[4_711, 3] += 1
    elif changed == "id":
        ids[4_711] = ROWS
    elif changed == "order":
        x, ids = x[::-1].copy(), ids[::-1].copy()
    else:
        x, ids = x[:-1], ids[:-1]
    counts = counted(monkeypatch)
    docs.load(x, ids)
    assert all(counts[stage] for stage in counts)
    assert np.array_equal(docs.vectors(ids), x)
    assert not before & files(store)
    assert docs.stats()["unfinished_bytes"] == 0


@pytest.mark.parametrize("kind", [ExtentKind.PIECE, ExtentKind.RAW, ExtentKind.POSTINGS])
@pytest.mark.parametrize("damage", ["flipped", "missing", "cut"])
def test_damage_is_seen_and_what_is_damaged_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: ExtentKind, damage: str
) -> None:
    path = tmp_path / "store"
    with vecstore.open(path) as store:
        docs = store.collection("docs", dim=DIM)
        cut_short(docs, "publish")
        hurt = [one for one in pieces(store, docs) if one.extent.kind == kind][-1]
    file = path / "extents" / f"{hurt.number:012d}.ext"
    if damage == "flipped":
        flip_byte(file, 4_096 + 17)
    elif damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-64])
    with sound_store(path) as store:
        assert [one.invariant for one in store.check()] == [
            "extents-present" if damage == "missing" else "checksums"
        ]
        docs = store.collection("docs", dim=DIM)
        counts = counted(monkeypatch)
        docs.load(base())
        assert all(counts[stage] for stage in counts)
        assert_done(store, docs, base())


def test_repair_drops_what_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with vecstore.open(path) as store:
        docs = store.collection("docs", dim=DIM)
        docs.upsert([1], np.ones((1, DIM)))
        cut_short(docs, "postings")
        hurt = pieces(store, docs)[0].number
    flip_byte(path / "extents" / f"{hurt:012d}.ext", 4_096)
    with sound_store(path) as store:
        (said,) = store.repair()
        assert "unfinished" in said
        assert len(store.collection("docs")) == 1


@pytest.mark.parametrize("way", ["compact", "drop", "small load"])
def test_space_is_given_back(store: vecstore.Store, way: str) -> None:
    docs = store.collection("docs", dim=DIM)
    cut_short(docs, "publish")
    left = {one.number for one in pieces(store, docs)}
    assert left <= files(store)
    if way == "compact":
        docs.compact()
    elif way == "drop":
        store.drop("docs")
    else:
        docs.load(base()[:100])
        docs.load(base()[:100])
    assert not left & files(store)


# --- known --------------------------------------------------------------------------------------


def test_a_backup_goes_on_too(
    store: vecstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_short(store.collection("docs", dim=DIM), "rows")
    store.backup(tmp_path / "copy")
    with sound_store(tmp_path / "copy") as copy:
        assert copy.check() == []
        counts = counted(monkeypatch)
        docs = copy.collection("docs")
        docs.load(base())
        assert counts["homes"] == 0
        assert_done(copy, docs, base())


def test_readers_see_nothing_of_it(store: vecstore.Store, tmp_path: Path) -> None:
    docs = store.collection("docs", dim=DIM)
    docs.upsert([1], np.ones((1, DIM)))
    with vecstore.open(store.path, mode="r") as other:
        seen = other.collection("docs")
        cut_short(docs, "publish")
        assert [hit.id for hit in seen.query(np.ones(DIM), k=5)] == [1]
        docs.load(base())
        assert len(seen) == ROWS


def test_progress_goes_on_from_what_is_done(store: vecstore.Store) -> None:
    docs = store.collection("docs", dim=DIM)
    reports: list[tuple[str, int, int]] = []

    def stop_late(stage: str, done: int, total: int) -> None:
        if stage == "homes" and done > total // 2:
            raise StopError

    with pytest.raises(StopError):
        docs.load(base(), progress=stop_late)
    docs.load(base(), progress=lambda *report: reports.append(report))
    cells = [report for report in reports if report[0] == "cells"]
    assert cells == [("cells", ROWS, ROWS)]
    first = next(done for stage, done, _ in reports if stage == "homes")
    assert ROWS // 4 < first < ROWS
    for stage in {stage for stage, _, _ in reports}:
        done = [done for name, done, _ in reports if name == stage]
        assert done == sorted(done)
        assert done[-1] == next(total for name, _, total in reports if name == stage) or (
            stage == "rows"
        )
