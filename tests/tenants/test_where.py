"""Filters in collections and tenants: which rows they find, what they delete, what they refuse.

Random histories are in test_where_model.py; how a clause is read is tested in test_filters.py, the
index of metadata in test_attributes.py.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from tests.naive import distances
from tests.naive_filters import holds
from tests.store_checks import normal, sound_store
from tests.tenant_checks import DIM, ORIGIN, SHAPES, fill, flush, shown, shown_ids
from vecstore import planning
from vecstore.collection import Collection
from vecstore.tenant_view import TenantView

ONE = np.ones(DIM, np.float32)
QUERIES = normal(40, DIM, seed=9)
every_shape = pytest.mark.parametrize("shape", SHAPES)
SCOPES = ["collection", "tenant", "granted"]


@pytest.fixture(params=["planned", "exact", "scan"])
def plan(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How queries under a filter are answered: as planned, or always in one of the ways."""
    if request.param != "planned":
        exact = request.param == "exact"
        monkeypatch.setattr(planning, "_exact_is_cheaper", lambda *_: exact)
    return str(request.param)


def populate(store: vecstore.Store, scope: str, n: int) -> tuple[Any, Any, dict[int, Any]]:
    """n rows that a scope shows, numbered by a metadatum, in as many places as there are.

    Returns
    -------
    view of the rows, what may write them, metadata by id
    """
    metadata = {i: {"n": i, "third": i % 3, "even": i % 2 == 0} for i in range(n)}
    if scope == "collection":
        view = writer = store.collection("plain", dim=DIM)
    else:
        docs = store.collection("docs", dim=DIM, tenants=True)
        view = writer = docs.tenant("a")
        docs.tenant("b").upsert(range(60), normal(60, DIM, seed=5), [{"n": i} for i in range(60)])
    vectors = normal(n, DIM)
    ids = [*metadata]
    for part in (ids[: n // 2], ids[n // 2 : n * 3 // 4], ids[n * 3 // 4 :]):
        if scope == "granted":
            docs.tenant("owner").upsert(part, vectors[part], [metadata[i] for i in part])
            docs.tenant("owner").grant(part, to="a")
            writer = docs.tenant("owner")
        else:
            writer.upsert(part, vectors[part], [metadata[i] for i in part])
    return view, writer, metadata


def clauses(n: int) -> list[Any]:
    """Clauses that none, few, half, all but one and all of n rows match."""
    return [
        {"n": -1},
        {"n": n // 2},
        {"n": {"$in": [0, n - 1, n // 3]}},
        {"n": {"$lt": 7}},
        {"third": 1},
        {"even": True},
        {"even": True, "third": {"$ne": 0}},
        {"$or": [{"n": {"$lt": 3}}, {"n": {"$gte": n - 3}}]},
        {"n": {"$ne": 0}},
        {"n": {"$gte": 0}},
        {"other": {"$exists": False}},
    ]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("n", [12, 40, 150])
def test_as_many_as_match(store: vecstore.Store, plan: str, scope: str, n: int) -> None:
    view, writer, metadata = populate(store, scope, n)
    hold_matches(view, metadata)
    gone = [*range(0, n, 5)]
    assert writer.delete(gone) == len(gone)
    for i in gone:
        del metadata[i]
    changed = [*range(1, n, 5)]
    for i in changed:
        metadata[i] = {"n": i + n, "even": "no longer"}
    writer.upsert(changed, normal(len(changed), DIM, seed=3), [metadata[i] for i in changed])
    hold_matches(view, metadata)


def hold_matches(view: Any, metadata: dict[int, Any]) -> None:
    """Hold counts and queries of a view against clauses read row by row."""
    n = len(metadata)
    assert len(view) == n
    ids = list(metadata)
    vectors = dict(zip(ids, view.vectors(ids), strict=True))
    for where in clauses(n):
        matching = [i for i in ids if holds(where, metadata[i])]
        assert view.count(where=where) == len(matching), where
        far: Any = distances("l2", ORIGIN, [vectors[i] for i in matching]) if matching else []
        true = dict(zip(matching, map(float, far), strict=True))
        for k in (1, 5, 300):
            for recall in (None, 0.01, 0.5, 1.0):
                hits = view.query(ORIGIN, k, where, recall)
                assert len({hit.id for hit in hits}) == len(hits) == min(k, len(matching)), where
                for hit in hits:
                    assert hit.metadata == metadata[hit.id]
                    assert hit.distance == pytest.approx(true[hit.id], rel=1e-5)
                if recall == 1.0:
                    nearest = sorted(true.values())[:k]
                    assert [hit.distance for hit in hits] == pytest.approx(nearest, rel=1e-5)
                result = view.search([ORIGIN], k, where, recall)
                assert result.ids[0, : len(hits)].tolist() == [hit.id for hit in hits]
                assert (result.ids[0, len(hits) :] == -1).all()
                assert np.isinf(result.distances[0, len(hits) :]).all()


def test_real_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree as large as trees are: filters that many match run inside the scan."""
    monkeypatch.undo()
    used = set()
    for way in ("only", "narrowed"):
        inner = getattr(TenantView, way)

        def noting(view: Any, rows: Any, way: str = way, inner: Any = inner) -> Any:
            used.add(way)
            return inner(view, rows)

        monkeypatch.setattr(TenantView, way, noting)
    n = 6_000
    vectors = normal(n, DIM)
    with sound_store(tmp_path / "store") as store:
        docs = store.collection("docs", dim=DIM, tenants=True)
        docs.load(vectors, metadata=[{"n": i, "half": i % 2} for i in range(n)], tenants=["a"] * n)
        docs.tenant("b").upsert(range(50), vectors[:50], [{"n": i, "half": 1} for i in range(50)])
        for name, rows in (("a", range(n)), ("b", range(50))):
            view = docs.tenant(name)
            for where, share in (({"half": 1}, 2), ({"n": {"$lt": n // 50}}, 50), ({"n": 7}, n)):
                matching = [i for i in rows if holds(where, {"n": i, "half": i % 2 or name == "b"})]
                if name == "b" and "half" in where:
                    matching = [*rows]
                assert view.count(where=where) == len(matching), share
                found, exact = (
                    view.search(QUERIES, 10, where, recall).ids for recall in (None, 1.0)
                )
                for query, some, nearest in zip(QUERIES, found, exact, strict=True):
                    far = distances("l2", query, vectors[matching])
                    order = np.array(matching)[np.argsort(far, kind="stable")[:10]]
                    assert [i for i in nearest if i >= 0] == order.tolist()
                    assert (some >= 0).sum() == len({*some} - {-1}) == len(order)
                    assert {*some} - {-1} <= {*matching}
                shared = sum(len(({*a} & {*b}) - {-1}) for a, b in zip(found, exact, strict=True))
                assert shared >= 0.9 * (exact >= 0).sum()
    assert used == {"only", "narrowed"}


# --- values that look alike ---------------------------------------------------------------------


@every_shape
def test_values_of_many_kinds_on_a_warm_view(docs: Collection, shape: str) -> None:
    """What a view remembers of one clause is not taken for another's."""
    values = [1, 1.5, True, "1", "true", None, [1], [], {}, {"a": 1}, [[1]], 2**53, 2**53 + 1, "a"]
    values += [-1, "", 2**63, -0.0, "é", "e\u0301", ["1"], False, 10**18 + 1, 1e18, "=1:", "s1:1"]
    a = docs.tenant("a")
    n = SHAPES[shape]
    a.upsert(range(n), normal(n, DIM), [{"v": values[i % len(values)]} for i in range(n)])
    if shape != "fresh":
        flush(docs)
    metadata = [hit.metadata for hit in a.get(range(n))]
    for _ in range(2):
        for value in values:
            for where in (
                {"v": {"$eq": value}},
                {"v": {"$ne": value}},
                {"v": {"$in": [value, 1]}},
                {"v": {"$contains": value}},
                {"$not": {"v": {"$eq": value}}},
                {"w": {"$eq": value}},
            ):
                wanted = sum(holds(where, own) for own in metadata)
                assert a.count(where=where) == wanted, where
                assert len(a.query(ORIGIN, k=99, where=where)) == wanted, where


def test_what_is_remembered_of_filters_is_bounded(docs: Collection) -> None:
    """However long they are, and whether rows match or not: callers cannot fill the memory."""
    fill(docs, "a", "tree")
    a, both = docs.tenant("a"), docs.tenant("a", "b")
    long = "x" * 1_000_000
    calls: list[Callable[[Any], Any]] = [
        lambda where: a.count(where=where),
        lambda where: a.query(ORIGIN, where=where),
        lambda where: both.search([ORIGIN], where=where),
    ]
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for call in calls:
            for i in range(12):
                call({"n": {"$in": [f"{long}{i}", i]}})
                call({"$not": {f"{long}{i}": 1}})
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 4_000_000
    for i in range(12):
        for end in ("a", "b"):
            assert a.count(where={"n": {"$in": [long + end, i]}}) == 1
            assert a.count(where={"n": {"$in": [long + end, i, i + 1]}}) == 2


def test_what_is_remembered_counts_with_its_tenant(
    docs: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Views of tenants, their filters and plans share one budget; answers do not depend on it."""
    budget = 60_000
    monkeypatch.setattr("vecstore.snapshot.INDEX_CACHE_BYTES", budget)
    names = [f"t{i}" for i in range(8)]
    for name in names:
        docs.tenant(name).upsert(range(4), normal(4, DIM), [{"n": i} for i in range(4)])
    flush(docs)
    kept = docs._core.reader.newest().tenants
    for i in range(12):
        for name in names:
            view = docs.tenant(name)
            assert view.count(where={"n": {"$in": [i, 100 + i]}}) == (i < 4)
            assert len(view.query(ORIGIN, where={"n": {"$lt": i}})) == min(i, 4)
    sizes = [view.nbytes for view in kept.values()]
    assert kept.nbytes == sum(sizes)
    assert kept.nbytes <= budget
    assert 0 < len(sizes) < len(names)
    whole = docs.tenant(names[0])
    for i in range(200):
        assert whole.count(where={"n": {"$gte": i}}) == max(0, 4 - i)
    assert [view.number for view in kept.values()] == [1]  # the one used last stays, whatever it is


# --- writes -------------------------------------------------------------------------------------


@every_shape
def test_replaced_metadata(docs: Collection, shape: str) -> None:
    a = docs.tenant("a")
    ids = fill(docs, "a", shape)
    n = len(ids)
    for turn, new in enumerate([{"turn": 0}, None, {"turn": "2"}, {"of": "a", "n": [3]}]):
        old = {"of": "a"} if turn == 0 else {"turn": {"$exists": True}}
        a.upsert(ids[:6], normal(6, DIM, seed=turn), None if new is None else [new] * 6)
        for flushed in range(2):
            matching = sorted(hit.id for hit in a.query(ORIGIN, k=99, where=old))
            assert matching == (ids[6:] if turn == 0 else ids[:6] if turn == 2 else [])
            assert a.count(where={"n": {"$in": ids[:6]}}) == 0
            assert a.count(where={"n": {"$gte": 6}}) == n - 6
            assert a.count(where=new or {"n": {"$exists": False}}) == 6
            if not flushed:
                flush(docs)
    with vecstore.open(docs._core.session.environment.path, mode="r") as reader:
        assert reader.collection("docs").tenant("a").count(where={"n": {"$contains": 3}}) == 6


@pytest.mark.parametrize("scope", ["collection", "tenant"])
@every_shape
def test_delete_where(store: vecstore.Store, scope: str, shape: str) -> None:
    if scope == "tenant":
        docs = store.collection("docs", dim=DIM, tenants=True)
        view, other = docs.tenant("a"), docs.tenant("b")
        fill(docs, "b", shape)
        before = shown(other)
        ids = fill(docs, "a", shape)
    else:
        view = store.collection("plain", dim=DIM)
        ids = [*range(SHAPES[shape])]
        view.upsert(ids, normal(len(ids), DIM), [{"n": i, "of": "a"} for i in ids])
    n = len(ids)
    all_rows: list[Any] = [{}, {"$and": [{}]}, {"$and": [{}, {}]}, {"$or": [{"n": 1}, {}]}]
    for everything in all_rows:
        for named in (None, [1], []):
            with pytest.raises(vecstore.FilterError, match="which matches all rows; name ids, or"):
                view.delete(named, where=everything)
    with pytest.raises(vecstore.InvalidArgumentError, match="delete needs ids or where"):
        view.delete()
    wrongs: list[Any] = [[], "n", 5, {"n": {"$near": 1}}, {"$n": 1}]
    for wrong in wrongs:
        with pytest.raises(vecstore.FilterError, match=r"where|Field"):
            view.delete(where=wrong)
    assert view.delete([], where={"n": 1}) == view.delete(where={"n": -1}) == 0
    assert view.delete([1, 2, 900], where={"n": {"$gte": 2}}) == 1
    assert view.delete([1, 2, 900], where={"n": {"$gte": 2}}) == 0
    assert view.delete(3, where={"n": 3}) == 1
    assert view.delete([4, 4], where={"n": {"$in": [4, 5]}}) == 1
    assert view.delete(where={"n": {"$in": [0, 4, 5]}}) == 2
    assert view.count() == view.count(where={"of": "a"}) == n - 5
    assert view.get([0, 1, 2, 3, 4, 5, 6])[2:6] == [None] * 4
    assert view.delete(where={"$not": {"n": 1}}) == n - 6
    assert [hit.id for hit in view.query(ORIGIN, k=99)] == [1]
    assert view.delete(where={"nothing": {"$exists": False}}) == 1
    assert view.count() == len(view) == 0
    if scope == "tenant":
        assert shown(other) == before


# --- granted rows -------------------------------------------------------------------------------


@pytest.mark.parametrize("many", [False, True], ids=["revoked", "and divided anew since"])
@every_shape
def test_revoked_rows_match_nothing(docs: Collection, plan: str, shape: str, many: bool) -> None:
    """Their metadata is still in the grantee's index: no clause may find them there."""
    a, b = docs.tenant("a"), docs.tenant("b")
    ids = fill(docs, "a", shape)
    b.upsert(range(500, 504), normal(4, DIM, seed=1), [{"n": i, "of": "b"} for i in range(4)])
    a.grant(ids, to="b")
    flush(docs)
    kept = ids[:2]
    assert b.count(where={"of": "a"}) == len(ids)
    a.revoke(ids[2:], from_="b")
    if many:
        more = range(600, 700)
        b.upsert(more, normal(100, DIM, seed=2), [{"n": i} for i in more])
        flush(docs)
    for where in ({"of": "a"}, {"n": {"$in": ids}, "of": {"$ne": "b"}}, {"of": {"$lt": "b"}}):
        assert b.count(where=where) == 2
        assert sorted(hit.id for hit in b.query(ORIGIN, k=99, where=where)) == kept
        assert sorted(b.search([ORIGIN], 99, where).ids[0].tolist())[-2:] == kept
    assert b.count(where={"of": {"$ne": "nobody"}}) == len(b) == len(shown_ids(b))
    assert b.delete(where={"of": "a", "n": {"$gte": 2}}) == 0
    assert a.count(where={"of": "a"}) == len(a) == len(ids)
    assert docs.tenant("a", "b").count(where={"of": "a"}) == len(ids)
    assert docs.tenant("b", "c").count(where={"of": "a"}) == 2
    a.grant(ids[2:5], to="b")
    for _ in range(2):
        assert b.count(where={"of": "a"}) == 5
        flush(docs)


# --- filters that reach out ---------------------------------------------------------------------

FOREIGN: list[Any] = [
    {"of": "b"},
    {"tenant": "b"},
    {"_tenant": {"$in": ["b", 2, 4]}},
    {"tenant": {"$exists": True}},
    {"": {"$exists": True}},
    {"of.tenant": {"$ne": None}, "of": "b"},
    {"$or": [{"of": "b"}, {"$and": [{"of": "b"}, {}]}]},
    {"$not": {"of": {"$ne": "b"}}},
    {"of": {"$gte": "b", "$lte": "b"}},
    {"of": {"$contains": "b"}},
    {"of\0": "b"},
    {"n": {"$exists": True}, "of": {"$nin": ["tree", "run", "list"]}},
]


@every_shape
def test_filters_reach_nobody_else(docs: Collection, shape: str) -> None:
    for seed, name in enumerate(["tree", "run", "list", "b"]):
        fill(docs, name, shape, seed=seed)
    views = [docs.tenant("tree"), docs.tenant("run"), docs.tenant("tree", "run", "list")]
    for where in FOREIGN:
        for view in views:
            assert view.count(where=where) == 0, where
            assert view.query(ORIGIN, where=where) == []
            assert (view.search([ORIGIN], where=where).ids == -1).all()
    assert docs.tenant("b").count(where=FOREIGN[0]) == SHAPES[shape]


def nested(depth: int, wrap: Callable[[Any], Any], inner: Any) -> Any:
    for _ in range(depth):
        inner = wrap(inner)
    return inner


def test_filters_that_blow_up(docs: Collection) -> None:
    """Refused as filters: no stack, memory or time is lost to them, and nothing is deleted."""
    fill(docs, "a", "tree")
    itself: dict[str, Any] = {}
    itself["$and"] = [itself]
    ring: list[Any] = []
    ring.append(ring)
    bombs: list[Any] = [
        itself,
        {"$not": itself},
        {"n": ring},
        {"n": {"$in": [ring]}},
        nested(100_000, lambda inner: {"$not": inner}, {"n": 1}),
        nested(100_000, lambda inner: {"$and": [inner]}, {"n": 1}),
        nested(33, lambda inner: {"$or": [inner, inner]}, {"n": 1}),
        {"n": nested(100_000, lambda inner: {"$not": inner}, {"$eq": 1})},
        {"n": {"$eq": nested(100_000, lambda inner: [inner], 1)}},
        {"n": {"$contains": nested(100_000, lambda inner: {"a": inner}, 1)}},
        {"n": {"$in": list(range(1_025))}},
        {"$or": [{"n": 1}] * 1_025},
        {f"field {i}": 1 for i in range(1_025)},
        {"n": {"$eq": "x" * (17 << 20)}},
        {"n": float("nan")},
        {"n": {"$gt": float("inf")}},
        {"n": {"$regex": "(a+)+$"}},
        {"$where": "1"},
        {"n": "\ud800"},
        {1: 1},
        "n",
        [],
        5,
    ]
    views: list[Any] = [docs.tenant("a"), docs.tenant("unknown"), docs.tenant("a", "b")]
    for place, bomb in enumerate(bombs):
        for view in views:
            for verb, arguments in (("count", ()), ("query", (ONE,)), ("search", ([ONE],))):
                with pytest.raises(vecstore.FilterError):
                    getattr(view, verb)(*arguments, where=bomb)
        with pytest.raises(vecstore.FilterError) as caught:
            views[0].delete(where=bomb)
        assert len(str(caught.value)) < 500, f"bomb {place}"
    assert len(shown(views[0])) == SHAPES["tree"]
    assert views[0].count(where=nested(31, lambda inner: {"$not": inner}, {"n": 1})) == 59
    assert views[0].count(where={"n": 10**400}) == 0
