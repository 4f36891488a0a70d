"""Tenants, call by call: names, what is nobody's business, drops, quotas, columns of tenants.

Grants have a file of their own, test_grants.py; who may notice whom is tested in
test_isolation.py, random histories in test_tenants_model.py.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
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
from vecstore import layout
from vecstore.collection import Collection
from vecstore.layout import Kind

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


class Colour(str, Enum):  # noqa: UP042 - that one tells what it holds
    """Its members are strings, and say something else of themselves."""

    RED = "red"


class Liar(str):
    def __str__(self) -> str:
        return ""

    def __len__(self) -> int:
        return 3

    def encode(self, *args: Any) -> bytes:
        return b"a"


def test_names_are_what_they_hold(docs: Collection) -> None:
    """Not what a subclass of str says that it is."""
    docs.tenant("red").upsert([1], [ONE])
    docs.tenant("a").upsert([1], [2 * ONE])
    for red in (Colour.RED, Liar("red"), np.str_("red")):
        view = docs.tenant(red)
        assert (type(view.name), view.name) == (str, "red")
        assert view.vectors(1).tolist() == docs.tenant("red", "red").vectors(1).tolist()
        view.upsert([2], [ONE])
        docs.load([ONE], [3], tenants=[red])
        docs.load([ONE], [4], tenants=[["a", red]])
        assert shown_ids(docs.tenant("red")) == [1, 2, 3, 4]
        docs.set_quota(red, rows=3)
        docs.drop_tenant(red)
        assert docs.tenants() == ["a"]
        docs.tenant("red").upsert([1], [ONE])
        docs.tenant("a").delete([4])
    for empty in (Liar(""), np.str_("")):
        for call in (
            lambda empty=empty: docs.tenant(empty).upsert([1], [ONE]),
            lambda empty=empty: docs.drop_tenant(empty),
            lambda empty=empty: docs.load([ONE], [5], tenants=[empty]),
        ):
            with pytest.raises(vecstore.TenantRequiredError):
                call()
    with pytest.raises(vecstore.InvalidArgumentError, match="257 bytes"):
        docs.tenant(Liar("x" * 257))
    assert docs.tenants() == ["a", "red"]


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
    fill(docs, "b", shape, seed=3)
    for first, second in (("a", "b"), ("b", "a")):  # by id, the first that has one answers
        union = docs.tenant(first, second)
        assert {hit.tenant for hit in union.get(ids)} == {first}
        assert union.vectors(ids).tolist() == docs.tenant(first).vectors(ids).tolist()


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


@every_shape
def test_a_dropped_tenant_leaves_nothing(tmp_path: Path, shape: str) -> None:
    """No key of it or of its rows is left; after `compact` no vector of it is in any extent."""
    canary = np.float32(0.123456789) + np.arange(DIM, dtype=np.float32)
    with sound_store(tmp_path / "store") as store:
        docs = store.collection("docs", dim=DIM, tenants=True)
        a, b = docs.tenant("a"), docs.tenant("b")
        ids = fill(docs, "a", shape)
        fill(docs, "c", shape, seed=1)
        a.upsert(ids[:5], np.tile(canary, (5, 1)), [{"secret": 1}] * 5, ["secret"] * 5)
        b.upsert(range(500, 510), normal(10, DIM))
        if shape != "fresh":
            flush(docs)
        b.grant(range(500, 510), to="a")
        a.grant(ids[:8], to="c2")
        if shape != "fresh":
            flush(docs)
        assert b.revoke(range(500, 505), from_="a") == 5
        a.grant(ids[8:9], to="c2")
        number, rows = numbers_of(docs)["a"], rows_of(docs, "a")
        wanted = {Kind.ID, Kind.TENANT, Kind.METADATA, Kind.DOCUMENT, Kind.GRANTEES}
        assert keys_of(docs, number, rows) >= wanted
        assert (Kind.REVOKED in keys_of(docs, number, rows)) == (shape != "fresh")
        docs.drop_tenant("a")
        assert keys_of(docs, number, rows) == set()
        assert "a" not in numbers_of(docs)
        a.upsert([1], [ONE])
        assert numbers_of(docs)["a"] > number, "a number is never given again"
        docs.compact()
        assert docs.stats()["shared_rows"] == 0
        for file in (tmp_path / "store" / "extents").iterdir():
            assert canary.tobytes() not in file.read_bytes()


def numbers_of(docs: Collection) -> dict[str, int]:
    """Numbers of all tenants."""
    prefix = layout.key(1, Kind.TENANT_NAME)
    with docs._core.reader._reading() as (_, transaction):
        found = dict(transaction.scan(prefix))
    return {key[len(prefix) :].decode(): layout.U32.unpack(own)[0] for key, own in found.items()}


def rows_of(docs: Collection, name: str) -> set[int]:
    """Rows that a tenant owns."""
    with docs._core.reader._reading() as (_, transaction):
        found = transaction.scan(layout.id_prefix(1, numbers_of(docs)[name]))
        return {layout.U32.unpack(value)[0] for _, value in found if len(value) == 4}


def keys_of(docs: Collection, number: int, rows: set[int]) -> set[Kind]:
    """Kinds of the keys that are a tenant's, or of rows."""
    of_tenants = (Kind.ID, Kind.TENANT, Kind.PENDING, Kind.REVOKED)
    found = set()
    with docs._core.reader._reading() as (_, transaction):
        for key, _ in transaction.scan(layout.U32.pack(1)):
            kind = Kind(key[4])
            known = {number} if kind in of_tenants else rows
            of_rows = kind in (Kind.METADATA, Kind.DOCUMENT, Kind.GRANTEES)
            if (kind in of_tenants or of_rows) and layout.U32.unpack_from(key, 5)[0] in known:
                found.add(kind)
    return found


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
