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
from vecstore import balance, compaction, idle, planning, recalibration, reshaping, upkeep
from vecstore.balance import Entries, Tally
from vecstore.calibrate import calibrate
from vecstore.collection import Collection
from vecstore.config import Effort
from vecstore.directory import Leaves
from vecstore.layout import TenantRecord, get_bits
from vecstore.reshaping import Reshaping

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
    patch.setattr(idle, "DEAD_SHARE", 1.0)


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


def entries(*pairs: tuple[int, int]) -> Entries:
    """Entries from pairs of a posting and a row."""
    ordinals, places = np.array(pairs, np.int64).T
    return Entries(ordinals, places)


def written_by(
    x: Any, centroids: Any, stored: Entries, renew: list[int], copies: int = 2, new: Any = None
) -> tuple[Any, list[tuple[int, int]], Tally]:
    """Renew postings: centroids after it, entries written, and what was counted."""
    centroids = np.asarray(centroids, np.float32)
    leaves = Leaves(0, np.arange(7, 7 + len(centroids), dtype=np.uint32), centroids, centroids[0])
    none = np.zeros(0, np.int64)
    new = Entries(none, none) if new is None else new
    held = np.bincount(stored.ordinals, minlength=len(centroids))
    reshaping = Reshaping(leaves, stored, new, lambda places: x[places], copies, held)
    shape = reshaping.run(none, none, np.array(renew, np.int64))
    assert shape.new == len(renew) + shape.tally.splits
    assert shape.leaves.numbers.tolist() == [
        *(7 + i for i in range(len(centroids)) if i not in renew),
        *([0] * shape.new),
    ]
    written = zip(shape.entries.ordinals.tolist(), shape.entries.places.tolist(), strict=True)
    return shape.leaves.centroids, sorted(written), shape.tally


def test_renewal_writes_live_entries_and_rows_that_come() -> None:
    x = np.float32([[0, 0], [0, 1], [9, 0], [9, 1], [9, 2]])
    stored, new = entries((1, 2), (1, 3)), entries((0, 1), (1, 4))
    after, written, tally = written_by(x, [[0, 0], [9, 0], [50, 50]], stored, [1], 1, new)
    assert after.tolist() == [[0, 0], [50, 50], [9, 0]], "three rows make no mean"
    assert written == [(0, 1), (2, 2), (2, 3), (2, 4)]
    assert tally == Tally(renewed=1, checked=3)


def test_centroids_of_renewed_postings_follow_their_rows() -> None:
    """Rows nearer to another centroid have no part in the mean, and move there."""
    x = np.float32([[10 + i % 3, i % 2] for i in range(12)] + [[21, 0], [22, 0]])
    stored = entries(*((0, row) for row in range(14)))
    after, written, tally = written_by(x, [[6, 0], [22, 0]], stored, [0], 1)
    assert after == pytest.approx(np.stack([[22, 0], x[:12].mean(axis=0)]))
    assert written == [(0, 12), (0, 13), *((1, row) for row in range(12))]
    assert tally == Tally(renewed=1, checked=14, moved=2)


def test_steps_of_k_means_go_on_from_where_centroids_came() -> None:
    """Two postings that are renewed at once share their rows out between them."""
    x = np.float32([[i, 0] for i in range(24)])
    stored = entries(*((0, row) for row in range(24)), (1, 23))
    after, written, _ = written_by(x, [[0, 0], [30, 0]], stored, [0, 1], 1)
    sides = [(abs(x - centroid)).sum(axis=1) for centroid in after]
    assert len(written) == 24
    assert all(sides[home][row] <= sides[1 - home][row] for home, row in written)
    assert after[0][0] < 9 < 15 < after[1][0]


def test_no_posting_gets_more_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows of two postings that are renewed choose the same; a third has no room for more."""
    monkeypatch.setattr(balance, "POSTING_ENTRIES_MAX", 32)
    monkeypatch.setattr(reshaping, "POSTING_ROWS_MAX", 20)
    x = np.float32([[i % 6, i // 6] for i in range(30)] + [[40, i] for i in range(24)])
    stored = entries(*((i % 2, i) for i in range(30)), *((2, 30 + i) for i in range(18)))
    coming = entries(*((2, 48 + i) for i in range(6)))
    after, written, tally = written_by(x, [[3, 2], [-90, 2], [40, 9]], stored, [0, 1], 1, coming)
    sizes = np.bincount([home for home, _ in written], minlength=len(after))
    assert sorted(row for _, row in written) == [*range(30), *range(48, 54)], "each row once"
    assert sizes[0] == 0, "what stays as it is got none"
    assert 0 < sizes.max() <= 16
    assert tally.splits == 2
    for home, row in written:
        assert abs(x[row] - after[home]).max() < 7


def test_equal_rows_chain() -> None:
    """However many they are: no centroid could tell them apart."""
    x = np.ones((900, 2), np.float32)
    stored = entries(*((0, i) for i in range(600)))
    after, written, tally = written_by(x, [[1, 1], [9, 9]], stored, [0], 1)
    assert (len(after), len(written), tally.splits) == (2, 600, 0)
    coming = entries(*((0, i) for i in range(600, 900)))
    after, written, tally = written_by(x, [[1, 1], [9, 9]], stored, [1], 1, coming)
    assert (len(after), tally.splits) == (2, 0)
    assert written == [(0, i) for i in range(600, 900)]


@pytest.mark.parametrize(
    ("held", "apart", "written"),
    [
        ([0, 2], 10.2, [(3, 0)]),  # costs hardly more than the best, which it does not have
        ([0, 1, 2], 10.2, [(3, 0)]),  # another that it has costs much more
        ([0, 2, 3], 10.2, []),  # another that it has costs less
        ([0, 2], 30, [(2, 0)]),  # the best one costs much less
        ([0, 3], 10.2, [(1, 0)]),  # it always gets the nearest
        ([0], 30, [(1, 0), (2, 0)]),
    ],
)
def test_second_places_stay_unless_another_is_much_better(
    held: list[int], apart: float, written: list[tuple[int, int]]
) -> None:
    """The renewed posting is then number 3, the others are 0 to 2; 1 is parallel to the nearest."""
    centroids = [[0, apart], [10, 0], [1, 0], [0, -10.1]]
    x = np.zeros((1, 2), np.float32)
    found = written_by(x, centroids, entries(*((posting, 0) for posting in held)), [0])
    assert found[1] == written


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
    with docs._core.writer._indexer._writing.captured() as captured:
        parts = captured.snapshot.extents.postings
        stored = np.array([part.runs["rows"].sum() for part in parts])
        tenants = np.unique(np.concatenate([part.runs["tenant"] for part in parts])).tolist()
        read = sum(captured.view(tenant).index.entries_by_part() for tenant in tenants)
    return float((1 - read / stored).max())


@pytest.mark.parametrize("tenants", [[], ["ann", "bob"]])
def test_extents_that_are_hardly_read_are_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tenants: list[str]
) -> None:
    small_limits(monkeypatch)
    never_merge(monkeypatch)
    x = groups(8, 100)
    shares = {}
    for most in (1.0, 0.3):
        monkeypatch.setattr(idle, "UNREAD_SHARE", most)
        with sound_store(tmp_path / str(most)) as store:
            docs = store.collection("docs", dim=DIM, tenants=bool(tenants))
            for name in tenants[1:]:
                docs.tenant(name).upsert(range(90), normal(90, DIM))
            churn(docs.tenant(tenants[0]) if tenants else docs, x)
            shares[most] = unread(docs)
    assert shares[0.3] <= 0.3 < shares[1.0]


def test_ended_rows_leave_postings_that_nothing_comes_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_limits(monkeypatch)
    monkeypatch.setattr(upkeep, "INSPECTED", 0)
    with sound_store(tmp_path / "store") as store:
        docs = store.collection("docs", dim=DIM)
        docs.upsert(range(ROWS), normal(ROWS, DIM))
        docs.delete(range(ROWS // 2))
        docs.upsert(range(ROWS, ROWS + STEP), normal(STEP, DIM, 1))
        entries, live = entries_of(docs)
        assert entries - live <= idle.DEAD_SHARE * entries
