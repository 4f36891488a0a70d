"""What a dropped tenant leaves: found by nobody, removed by maintenance, and no harm meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import vecstore
from tests.store_checks import normal, sound_store
from tests.tenant_checks import DIM, hold_empty, hold_unknown, shown, shown_ids
from vecstore import layout
from vecstore.layout import Kind

ONE = np.ones(DIM, np.float32)


def entries_of(store: vecstore.Store, collection: int, tenant: int) -> dict[Kind, int]:
    """Entries of LMDB under a tenant's number, by kind."""
    transaction = store._environment.read()
    try:
        return {
            kind: sum(1 for _ in transaction.scan(layout.key_u32(collection, kind, tenant)))
            for kind in (Kind.ID, Kind.PENDING, Kind.REVOKED, Kind.TENANT, Kind.DROPPED)
        }
    finally:
        transaction.abort()


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[vecstore.Store]:
    """A store whose maintenance waits until asked, and in which a drop leaves nearly everything."""
    monkeypatch.setattr("vecstore.dropping.REMOVED_MAX", 3)
    with sound_store(tmp_path / "store", maintenance="off") as store:
        docs = store.collection("docs", dim=DIM, tenants=True)
        for place, name in enumerate("abc"):
            ids = np.arange(20) + 100 * place
            facts = [{"of": name}] * 20
            docs.tenant(name).upsert(ids, normal(20, DIM, place), facts, [name] * 20)
        docs.tenant("a").grant([0, 1, 2], to="b")
        docs.tenant("b").grant([100, 101, 102, 103, 104], to="a")
        docs.tenant("b").grant([100, 101], to="c")
        docs.compact()
        docs.tenant("b").revoke([104], from_="a")
        docs.tenant("b").grant([105], to="a")
        yield store


def test_a_dropped_tenant_is_gone_before_its_entries_are(left: vecstore.Store) -> None:
    docs = left.collection("docs")
    docs.drop_tenant("a")
    there = entries_of(left, 1, 1)
    assert there == {
        Kind.ID: 22, Kind.PENDING: 0, Kind.REVOKED: 1, Kind.TENANT: 0, Kind.DROPPED: 1
    }  # fmt: skip
    assert left.check() == []
    assert docs.tenants() == ["b", "c"]
    assert docs.stats()["rows"] == 40
    hold_empty(docs.tenant("a"), [*range(20), *range(100, 106)])
    assert shown_ids(docs.tenant("b")) == [*range(100, 120)]
    assert shown_ids(docs.tenant("c")) == [100, 101, *range(200, 220)]
    docs.compact()
    assert set(entries_of(left, 1, 1).values()) == {0}
    assert docs.stats()["shared_rows"] == 2


def test_what_is_left_is_not_missed_elsewhere(left: vecstore.Store) -> None:
    """As many facts as live rows, of which some have none: the others are of dead rows."""
    docs = left.collection("docs")
    docs.tenant("c").upsert(range(200, 220), normal(20, DIM, seed=7))
    docs.tenant("d").upsert([1], [ONE])
    docs.drop_tenant("a")
    docs.tenant("c").delete([200])  # 40 rows live, and there are facts of 37, 17 of them dead
    docs.tenant("b").upsert([500, 501, 502], normal(3, DIM), [{"n": 1}] * 3, ["x"] * 3)
    docs.tenant("c").delete([201, 202, 203])
    state = docs._core.reader.newest().state
    assert (state.metadata_rows, state.document_rows) == (state.live_rows, state.live_rows)
    for name, n in (("b", 23), ("c", 16), ("d", 1)):
        assert len(shown(docs.tenant(name))) == n + 2 * (name == "c")
    assert docs.tenant("d").get(1).metadata is docs.tenant("d").get(1).document is None
    docs.compact()
    assert len(shown(docs.tenant("d"))) == 1


@pytest.mark.parametrize("change", ["replace", "delete", "grant", "revoke", "drop", "name"])
def test_changes_to_rows_that_a_dropped_tenant_saw(left: vecstore.Store, change: str) -> None:
    """They list it still; nothing comes to it, and nothing is counted for it."""
    docs = left.collection("docs")
    b, c = docs.tenant("b"), docs.tenant("c")
    docs.drop_tenant("a")
    if change == "replace":
        b.upsert([100, 102], [ONE, ONE])
        assert shown(c)[100, "b"] == (tuple(ONE), None)
    elif change == "delete":
        assert b.delete([100, 102]) == 2
        assert shown_ids(c) == [101, *range(200, 220)]
    elif change == "grant":
        assert b.grant([100, 102, 103], to="c") == 2
        assert shown_ids(c) == [*range(100, 104), *range(200, 220)]
    elif change == "revoke":
        assert b.revoke([100, 102], from_="c") == 1
        assert shown_ids(c) == [101, *range(200, 220)]
    elif change == "drop":
        docs.drop_tenant("b")
        assert shown_ids(c) == [*range(200, 220)]
    else:
        docs.tenant("a").upsert([0, 100], [ONE, ONE])
        assert b.grant([101], to="a") == 1
        assert shown_ids(docs.tenant("a")) == [0, 100, 101]
    before = {name: shown(docs.tenant(name)) for name in docs.tenants()}
    assert left.check() == []
    docs.compact()
    assert left.check() == []
    assert set(entries_of(left, 1, 1).values()) == {0}
    assert {name: shown(docs.tenant(name)) for name in docs.tenants()} == before
    hold_unknown(docs.tenant("b"), [0, 1, 2])


def test_what_is_left_is_removed_by_a_later_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vecstore.dropping.REMOVED_MAX", 3)
    with sound_store(tmp_path / "store", maintenance="off") as store:
        docs = store.collection("docs", dim=DIM, tenants=True)
        for name in "abc":
            docs.tenant(name).upsert(np.arange(20), normal(20, DIM))
        docs.drop_tenant("a")
    with sound_store(tmp_path / "store", maintenance="off") as store:
        assert entries_of(store, 1, 1)[Kind.ID] == 17
        store.collection("docs").compact()
        assert set(entries_of(store, 1, 1).values()) == {0}
    with sound_store(tmp_path / "store") as store:
        store.collection("docs").drop_tenant("c")
        assert set(entries_of(store, 1, 3).values()) == {0}
        assert shown_ids(store.collection("docs").tenant("b")) == [*range(20)]


def test_a_small_tenant_leaves_nothing(tmp_path: Path) -> None:
    with sound_store(tmp_path / "store", maintenance="off") as store:
        docs = store.collection("docs", dim=DIM, tenants=True)
        docs.tenant("a").upsert(np.arange(20), normal(20, DIM))
        docs.drop_tenant("a")
        assert set(entries_of(store, 1, 1).values()) == {0}
