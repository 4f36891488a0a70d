"""Postings in shape while rows come and go: divided, dissolved, renewed; calibrations kept true."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from tests.store_checks import normal, small_limits, sound_store
from vecstore import compaction, planning, recalibration, upkeep
from vecstore.balance import Entries, Reshaping, Tally
from vecstore.calibrate import calibrate
from vecstore.collection import Collection
from vecstore.config import Effort
from vecstore.directory import Leaves
from vecstore.layout import TenantRecord, get_bits

DIM = 6
ROWS = 400
STEP = 50


def tally_of(docs: Collection) -> Tally:
    return docs._core.writer._indexer.tally


def entries_of(docs: Collection) -> tuple[int, int]:
    """Entries of all postings, and those of live rows."""
    view = docs._core.reader.view()
    block_bytes = view.snapshot.extents.codec.block_bytes(docs.dim)
    rows = view.index.entries(block_bytes)[1]
    return len(rows), int(get_bits(view.snapshot.live, rows).sum())


def groups(count: int, rows: int) -> Any:
    """Rows of groups that lie apart, one group after the other."""
    rng = np.random.default_rng(5)
    centres = 4 * rng.normal(size=(count, DIM))
    return np.concatenate([c + rng.normal(size=(rows, DIM)) for c in centres]).astype(np.float32)


def never_merge(patch: pytest.MonkeyPatch) -> None:
    """Let entries of ended rows leave by nothing but renewal."""
    patch.setattr(compaction, "TIER_EXTENTS", 10_000)
    patch.setattr(compaction, "DEAD_SHARE", 1.0)


def churn(docs: Collection, x: Any, rows: int = ROWS) -> range:
    """Load some rows, then replace the oldest by the next until all had their turn; ids left."""
    docs.upsert(range(rows), x[:rows])
    for first in range(0, len(x) - rows, STEP):
        docs.delete(range(first, first + STEP))
        docs.upsert(range(rows + first, rows + first + STEP), x[rows + first :][:STEP])
    return range(len(x) - rows, len(x))


@pytest.mark.parametrize("tenants", [False, True])
def test_everything_is_found_in_renewed_postings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tenants: bool
) -> None:
    """Probing all postings of exact values finds what brute force finds, in each round's state."""
    small_limits(monkeypatch)
    never_merge(monkeypatch)
    x = groups(12, 100)
    with sound_store(tmp_path / "store") as store:
        docs = store.collection("docs", dim=DIM, codec="float32", tenants=tenants)
        whole: Any = docs.tenant("ann") if tenants else docs
        if tenants:
            docs.tenant("other").upsert(range(90), normal(90, DIM))
        left = churn(whole, x)
        tally = tally_of(docs)
        assert tally.splits
        assert tally.dissolved
        assert tally.renewed > 5
        assert tally.moved <= tally.checked
        everything = Effort(10_000, 1.0, 1e30)
        monkeypatch.setattr(planning, "effort_of", lambda *_: everything)
        asked = x[left.start :: 7] + np.float32(0.1)
        found = whole.search(asked, k=10, recall=0.5).ids
        apart = ((asked[:, None] - x[None, left.start :]) ** 2).sum(axis=2)
        truth = np.argsort(apart, axis=1, kind="stable")[:, :10] + left.start
        assert np.array_equal(np.sort(found, axis=1), np.sort(truth, axis=1))


def test_entries_of_ended_rows_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_limits(monkeypatch)
    never_merge(monkeypatch)
    x = groups(16, 100)
    shares = {}
    with sound_store(tmp_path / "store") as store:
        for inspected in (0, upkeep.INSPECTED):
            monkeypatch.setattr(upkeep, "INSPECTED", inspected)
            docs = store.collection(f"docs{inspected}", dim=DIM)
            churn(docs, x)
            entries, live = entries_of(docs)
            shares[inspected] = 1 - live / entries
            tally = tally_of(docs)
            assert tally.written >= entries
            assert (tally.dropped > 0) == (tally.renewed > 0)
    assert shares[upkeep.INSPECTED] < 0.3
    assert shares[upkeep.INSPECTED] < shares[0] - 0.1


def test_off_nothing_changes_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_limits(monkeypatch)
    with vecstore.open(tmp_path / "store", maintenance="inline") as store:
        docs = store.collection("docs", dim=DIM)
        docs.upsert(range(ROWS), normal(ROWS, DIM))
        postings = docs.stats()["postings"]
        docs._core.writer._indexer.balance = False
        docs.upsert(range(ROWS, ROWS + ROWS // 2), normal(ROWS // 2, DIM, 1))
        assert docs.stats()["postings"] == postings
        assert tally_of(docs).splits == 0
        docs._core.writer._indexer.balance = True
        docs.upsert(range(2 * ROWS, 2 * ROWS + STEP), normal(STEP, DIM, 2))
        assert tally_of(docs).splits > 0


def test_renewal_keeps_centroids_and_live_entries() -> None:
    x = normal(60, 4)
    centroids = np.stack([x[:20].mean(axis=0), x[20:40].mean(axis=0), x[40:].mean(axis=0)])
    leaves = Leaves(0, np.array([7, 8, 9], np.uint32), centroids, centroids[0])
    stored = Entries(np.array([1, 1, 1]), np.array([21, 23, 29]))
    new = Entries(np.array([0, 1]), np.array([3, 30]))
    none = np.zeros(0, np.int64)
    shape = Reshaping(leaves, stored, new, lambda places: x[places], 2).run(
        none, none, np.array([1])
    )
    assert shape.new == 1
    assert shape.leaves.numbers.tolist() == [7, 9, 0]
    assert np.array_equal(shape.leaves.centroids, centroids[[0, 2, 1]])
    written = sorted(zip(shape.entries.ordinals, shape.entries.places, strict=True))
    assert written == [(0, 3), (2, 21), (2, 23), (2, 29), (2, 30)]
    assert shape.tally == Tally(renewed=1)


def test_turns_cover_all_postings_and_stay_bounded() -> None:
    held = np.full(1_000, 200, np.int64)
    seen: set[int] = set()
    rows = 1_024
    for call in range(13):
        turn = upkeep._turn(100_352 + call * rows, rows, 2 * rows, held)
        assert len(turn) == pytest.approx(2 * rows * upkeep.INSPECTED / 200, abs=1)
        seen |= set(turn.tolist())
        assert len(seen) == pytest.approx((call + 1) * len(turn), abs=call + 1) or call == 12
    assert len(seen) == 1_000
    assert len(upkeep._turn(5, 100_000, 200_000, held)) == 1_000
    assert len(upkeep._turn(5, 0, 0, held)) == 0


def test_tallies_add_up() -> None:
    total = Tally(splits=1, written=5) + Tally(splits=2, renewed=3)
    assert total == Tally(splits=3, renewed=3, written=5)


@pytest.mark.parametrize(
    ("rows", "indexed", "outdated"),
    [
        (1_000, 1_000, False),
        (2_000, 1_500, False),
        (2_001, 1_000, True),
        (500, 1_000, False),
        (499, 1_000, True),
        (1_000, 1_500, False),
        (1_000, 1_501, True),
        (2_000, 2_500, False),
        (2_000, 2_501, True),
    ],
)
def test_what_makes_a_calibration_outdated(rows: int, indexed: int, outdated: bool) -> None:
    record = TenantRecord(
        rows=rows, calibrated_rows=1_000, calibrated_indexed=1_000, indexed_rows=indexed
    )
    assert recalibration.outdated(record) == outdated


def test_drift_is_calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many rows as ever, but others: the effort is measured on them, and only now and then."""
    small_limits(monkeypatch)
    calls = []

    def counted(*arguments: Any) -> None:
        calls.append(arguments[1].rows)
        calibrate(*arguments)

    monkeypatch.setattr(recalibration, "calibrate", counted)
    x = groups(10, 100)
    with sound_store(tmp_path / "store") as store:
        docs = store.collection("docs", dim=DIM)
        docs.upsert(range(ROWS), x[:ROWS])
        assert calls == [ROWS]
        churn(docs, x)
        assert 2 <= len(calls) - 1 <= 4
        record = docs._core.reader.view().record
        assert not recalibration.outdated(record)


def test_replaced_files_are_let_go_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The space of a merged extent is free once it is unmapped: no cycle of objects may keep it."""
    small_limits(monkeypatch)
    x = groups(8, 100)
    with vecstore.open(tmp_path / "store", maintenance="inline") as store:
        docs = store.collection("docs", dim=DIM)
        gc.disable()
        try:
            churn(docs, x)
            docs.query(x[-1], k=3)
            docs.query(x[-1], k=3, where={"a": 1})
            old = [weakref.ref(e) for e in docs._core.reader.newest().extents.mapped.values()]
            docs.compact()
            docs.query(x[-1], k=3)
            named = docs._core.reader.newest().extents.mapped
            kept = [extent for ref in old if (extent := ref()) is not None]
            assert all(named.get(extent.number) is extent for extent in kept)
            assert len(kept) < len(old)
        finally:
            gc.enable()


def unread(docs: Collection) -> float:
    """Largest share of an extent's entries that are those of postings which are no more."""
    view = docs._core.reader.view()
    stored = np.array([part.runs["rows"].sum() for part in view.snapshot.extents.postings])
    return float((1 - view.index.entries_by_part() / stored).max())


def test_extents_that_are_hardly_read_are_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_limits(monkeypatch)
    monkeypatch.setattr("vecstore.compaction.TIER_EXTENTS", 1_000)
    x = groups(8, 100)
    shares = {}
    for most in (1.0, 0.3):
        monkeypatch.setattr("vecstore.compaction.UNREAD_SHARE", most)
        with sound_store(tmp_path / str(most)) as store:
            docs = store.collection("docs", dim=DIM)
            churn(docs, x)
            shares[most] = unread(docs)
    assert shares[0.3] <= 0.3 < shares[1.0]
