"""Tenants, call by call: names, what is nobody's business, drops, quotas, columns of tenants.

Grants have a file of their own, test_grants.py; who may notice whom is tested in
test_isolation.py, random histories in test_tenants_model.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from tests.store_checks import normal, sound_store
from tests.tenant_checks import (
    DIM,
    ORIGIN,
    SHAPES,
    Shown,
    fill,
    flush,
    hold_empty,
    hold_unknown,
    shown,
    shown_ids,
)
from vecstore.collection import Collection

ONE = np.ones(DIM, np.float32)
every_shape = pytest.mark.parametrize("shape", SHAPES)


# --- who is meant -------------------------------------------------------------------------------

ROW_VERBS: dict[str, Callable[[Any], Any]] = {
    "upsert": lambda docs: docs.upsert([1], [ONE]),
    "upsert nothing": lambda docs: docs.upsert([], []),
    "add": lambda docs: docs.add([1], [ONE]),
    "load": lambda docs: docs.load([ONE], [1]),
    "load nothing": lambda docs: docs.load(np.zeros((0, DIM))),
    "query": lambda docs: docs.query(ONE),
    "query where": lambda docs: docs.query(ONE, where={"a": 1}),
    "search": lambda docs: docs.search([ONE]),
    "search nothing": lambda docs: docs.search(np.zeros((0, DIM))),
    "get": lambda docs: docs.get([1]),
    "get nothing": lambda docs: docs.get([]),
    "vectors": lambda docs: docs.vectors([1]),
    "delete": lambda docs: docs.delete([1]),
    "delete nothing": lambda docs: docs.delete([]),
    "delete where": lambda docs: docs.delete(where={"a": 1}),
    "count": lambda docs: docs.count(),
    "count where": lambda docs: docs.count(where={"a": 1}),
    "len": len,
    "list": list,
    "table": lambda docs: docs.table(),
}


@pytest.mark.parametrize("verb", ROW_VERBS)
def test_row_verbs_need_a_tenant(docs: Collection, verb: str) -> None:
    docs.tenant("a").upsert([1, 2], normal(2, DIM))
    wanted: Any = TypeError if verb == "list" else vecstore.TenantRequiredError
    with pytest.raises(wanted, match=r"not iterable|'docs' has tenants; call the verb of one"):
        ROW_VERBS[verb](docs)
    assert bool(docs)
    assert docs.tenants() == ["a"]
    assert shown_ids(docs.tenant("a")) == [1, 2]


NO_NAMES: list[Any] = [None, ""]
BAD_NAMES: list[Any] = [
    5,
    True,
    1.5,
    b"a",
    ["a"],
    ("a", "b"),
    {"a"},
    object,
    "x" * 257,
    "ü" * 129,
    "\ud800",
]


@pytest.mark.parametrize("name", [*NO_NAMES, *BAD_NAMES], ids=lambda name: repr(name)[:20])
def test_names_that_name_nobody(docs: Collection, name: Any) -> None:
    a = docs.tenant("a")
    a.upsert([1], [ONE])
    calls: list[Callable[[], Any]] = [
        lambda: docs.tenant(name),
        lambda: docs.tenant("a", name),
        lambda: docs.tenant(name, "a"),
        lambda: docs.drop_tenant(name),
        lambda: docs.set_quota(name, rows=1),
        lambda: a.grant([1], to=name),
        lambda: a.revoke([1], from_=name),
    ]
    if not isinstance(name, (list, tuple)):
        calls += [
            lambda: docs.load([ONE], [2], tenants=[name]),
            lambda: docs.load([ONE], [2], tenants=[["a", name]]),
        ]
    missing = name is None or name == ""
    kind = vecstore.TenantRequiredError if missing else vecstore.InvalidArgumentError
    for call in calls:
        with pytest.raises(kind, match=r"tenant is|tenants\[0\] is"):
            call()
    assert docs.tenants() == ["a"]
    assert shown_ids(a) == [1]


def test_no_name_at_all(docs: Collection) -> None:
    docs.tenant("a").upsert([1], [ONE])
    with pytest.raises(vecstore.TenantRequiredError, match=r"tenant\(\) names none"):
        docs.tenant()


NAMES = ["a", "A", "a ", " a", "a\0", "\0", "*", "%", "a*", "a/b", "a/", "..", "None", "all", "ab"]
NAMES += ["é", "e\u0301", "а", "ａ", "ﬁ", "fi", "ß", "ss", "ſ", "s", "İ", "i", "\u200ba", "1", "\n"]
NAMES += ["x" * 256, "x" * 255, "ü" * 128, "\uffff", "\U0010ffff", "a\0b", "'; drop", "docs"]


def test_every_name_is_a_tenant_of_its_own(tmp_path: Path) -> None:
    """The same id under every name: nothing is trimmed, folded, normalised or matched."""
    vectors = normal(len(NAMES), DIM)

    def hold(docs: Collection, names: list[str]) -> None:
        assert docs.tenants() == sorted(names)
        for name, vector in zip(NAMES, vectors, strict=True):
            wanted = {(1, name): (tuple(vector), {"of": name})} if name in names else {}
            assert shown(docs.tenant(name)) == wanted

    with sound_store(tmp_path / "store") as store:
        docs = store.collection("docs", dim=DIM, tenants=True)
        for name, vector in zip(NAMES, vectors, strict=True):
            docs.tenant(name).upsert(1, vector, {"of": name})
        hold(docs, NAMES)
        left = NAMES[1::2]
        for name in NAMES[::2]:
            docs.drop_tenant(name)
        hold(docs, left)
    with sound_store(tmp_path / "store") as store:
        hold(store.collection("docs"), left)


# --- what is nobody's business ------------------------------------------------------------------


@every_shape
@pytest.mark.parametrize("which", ["unknown", "dropped", "empty", "emptied", "revoked"])
def test_who_sees_nothing_looks_alike(docs: Collection, shape: str, which: str) -> None:
    ids = fill(docs, "a", shape)
    before = shown(docs.tenant("a"))
    if which in ("dropped", "emptied"):
        fill(docs, "b", shape, seed=1)
        if which == "dropped":
            docs.drop_tenant("b")
        else:
            assert docs.tenant("b").delete(ids) == len(ids)
    elif which == "empty":
        docs.set_quota("b", rows=10)
    elif which == "revoked":
        docs.tenant("a").grant(ids, to="b")
        flush(docs)
        assert docs.tenant("a").revoke(ids, from_="b") == len(ids)
    b = docs.tenant("b")
    hold_empty(b, ids)
    hold_empty(docs.tenant("b", "c"), ids)
    assert b.delete(ids) == b.delete(ids, where={"n": 0}) == b.delete(where={"n": {"$gte": 0}}) == 0
    assert b.grant(ids, to="c") == b.revoke(ids, from_="a") == b.revoke(ids, from_="c") == 0
    assert shown(docs.tenant("a")) == shown(docs.tenant("a", "b")) == before


@every_shape
def test_ids_of_others_are_unknown(docs: Collection, shape: str) -> None:
    ids = fill(docs, "a", shape)
    fill(docs, "b", shape, first=500, seed=1)
    a, b = docs.tenant("a"), docs.tenant("b")
    before = shown(a), shown(b)
    hold_unknown(b, ids)
    assert b.delete(ids) == b.delete(where={"of": "a"}) == b.grant(ids, to="c") == 0
    assert b.count(where={"of": "a"}) == b.count(where={"n": {"$lt": 500}}) == 0
    assert b.query(ORIGIN, where={"of": "a"}) == []
    assert b.revoke(ids, from_="a") == 0
    assert (shown(a), shown(b)) == before


@every_shape
def test_the_same_ids_in_two_tenants(docs: Collection, shape: str) -> None:
    a, b = docs.tenant("a"), docs.tenant("b")
    ids = fill(docs, "a", shape)
    fill(docs, "b", shape, seed=1)
    before = shown(a)
    fill(docs, "b", shape, seed=2)
    assert shown(a) == before
    with pytest.raises(vecstore.DuplicateIdError, match="exists already in tenant 'b'"):
        b.add(ids, normal(len(ids), DIM))
    assert b.delete(ids[::2]) == len(ids[::2])
    assert shown(a) == before
    assert shown_ids(b) == ids[1::2]
    assert b.delete(where={"n": {"$gte": 0}}) == len(ids[1::2])
    assert shown(a) == before
    hold_empty(b, ids)
    both = shown(docs.tenant("a", "b"))
    assert both == before


# --- dropping -----------------------------------------------------------------------------------


@every_shape
def test_drop_tenant(docs: Collection, shape: str) -> None:
    """At once invisible with what it granted and was granted; its name starts from nothing."""
    a, b, c = (docs.tenant(name) for name in "abc")
    ids = fill(docs, "a", shape)
    fill(docs, "b", shape, first=500, seed=1)
    fill(docs, "c", shape, first=700, seed=2)
    a.grant(ids[:5], to="b")
    c.grant([700, 701, 702], to="a")
    if shape != "fresh":
        flush(docs)
    a.grant(ids[5:7], to="b")
    docs.set_quota("a", rows=100, k=10_000, where=5)
    others = shown(b), shown(c), shown(docs.tenant("b", "c"))
    assert len(others[0]) == SHAPES[shape] + 7
    docs.drop_tenant("a")
    assert "a" not in docs.tenants()
    hold_empty(a, [*ids, 700])
    assert shown(b) == {key: row for key, row in others[0].items() if key[1] == "b"}
    assert shown(c) == others[1]
    a.upsert([1, 700], [ONE, ONE])
    wanted: Shown = {(1, "a"): (tuple(ONE), None), (700, "a"): (tuple(ONE), None)}
    assert shown(a) == wanted
    hold_unknown(b, ids)
    hold_unknown(a, [ids[0], *ids[2:]])
    assert a.count(where={"a": {"$not": {"$in": [*range(9)]}}}) == 2, "no quota is left"
    assert a.revoke(ids, from_="b") == c.revoke([700], from_="a") == 0
    flush(docs)
    assert shown_ids(a) == [1, 700]
    assert shown(c) == others[1]


def test_drop_what_is_not_there(docs: Collection) -> None:
    docs.drop_tenant("a")
    assert docs.tenants() == []
    fill(docs, "a", "list")
    docs.drop_tenant("b")
    docs.drop_tenant("a")
    docs.drop_tenant("a")
    assert docs.tenants() == ["filler"]


@every_shape
def test_drop_of_fresh_rows(docs: Collection, shape: str) -> None:
    """The row log still holds them when it is brought into the index."""
    fill(docs, "a", shape)
    docs.tenant("a").upsert([900], [ONE])
    fill(docs, "b", "fresh")
    docs.drop_tenant("a")
    flush(docs)
    assert docs.tenants() == ["b", "filler"]
    assert docs.stats()["tenants"] == 2
    assert len(shown(docs.tenant("b"))) == SHAPES["fresh"]


def test_drop_of_many_grants(docs: Collection) -> None:
    """More grants than a page of the facts has room for, in both directions."""
    n = 600
    docs.load(normal(n, DIM), tenants=[["a", "b"], ["b", "a"]] * (n // 2))
    docs.drop_tenant("a")
    assert shown_ids(docs.tenant("b")) == list(range(1, n, 2))
    assert docs.stats()["shared_rows"] == 0


def test_reopening(tmp_path: Path) -> None:
    with sound_store(tmp_path / "store") as store:
        docs = store.collection("docs", dim=DIM, tenants=True)
        for place, shape in enumerate(SHAPES):
            ids = fill(docs, shape, shape, seed=place)
            docs.tenant(shape).grant(ids[:3], to=f"to {shape}")
        fill(docs, "late", "fresh")
        docs.drop_tenant("filler")
        names = docs.tenants()
        assert names == sorted([*SHAPES, *(f"to {shape}" for shape in SHAPES), "late"])
        before = {name: shown(docs.tenant(name)) for name in names}
        kept = docs.tenant("late")
    with pytest.raises(vecstore.StoreClosedError, match="is closed"):
        kept.count()
    for mode in ("r", "w"):
        with sound_store(tmp_path / "store", mode) as store:
            docs = store.collection("docs")
            assert docs.tenants() == names
            assert {name: shown(docs.tenant(name)) for name in names} == before
