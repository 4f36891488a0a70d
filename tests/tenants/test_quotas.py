"""Limits of tenants, columns of tenants in `load`, and what is refused with or without tenants."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from tests.store_checks import normal, sound_store
from tests.tenant_checks import DIM, ORIGIN, SHAPES, fill, flush, shown, shown_ids
from vecstore import indexing, planning
from vecstore.collection import Collection

ONE = np.ones(DIM, np.float32)


# --- quotas -------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["rows", "k", "query_bytes", "where"])
@pytest.mark.parametrize(
    "value", [-1, 1.5, "7", True, [1], 2**64, 10**5_000, np.float64(1)], ids=lambda v: f"{type(v)}"
)
def test_bad_quotas(docs: Collection, limit: str, value: Any) -> None:
    docs.set_quota("a", rows=9)
    quota: dict[str, Any] = {limit: value}
    with pytest.raises(vecstore.InvalidArgumentError, match=f"{limit} is "):
        docs.set_quota("a", **quota)
    with pytest.raises(vecstore.QuotaExceededError, match="may have 9;"):
        docs.tenant("a").upsert(range(10), normal(10, DIM))


@pytest.mark.parametrize("n", [6, 60], ids=["small", "bulk"])
def test_quota_of_rows(docs: Collection, n: int) -> None:
    a, b = docs.tenant("a"), docs.tenant("b")
    docs.set_quota("a", rows=n)
    a.upsert(range(n), normal(n, DIM), [{"n": 1}] * n, ["text"] * n)
    b.upsert(range(500, 500 + n), normal(n, DIM))
    b.grant(range(500, 500 + n), to="a")
    before = shown(a)
    assert len(before) == 2 * n, "what others grant does not count"
    message = rf"Tenant 'a' would have \d+ rows and may have {n};.*Nothing was written"
    more = [*range(n - 1), 400, 401]
    calls: list[Callable[[], Any]] = [
        lambda: a.upsert(900, ONE, {"n": 2}, "text"),
        lambda: a.add([900], [ONE]),
        lambda: a.upsert(more, normal(n + 1, DIM)),
        lambda: docs.load([ONE] * 2, [900, 901], tenants=["b", "a"]),
        lambda: docs.load([ONE] * 2, [900, 901], tenants=["b", ["a", "c"]]),
    ]
    for call in calls:
        with pytest.raises(vecstore.QuotaExceededError, match=message):
            call()
    assert shown(a) == before
    assert len(shown(b)) == n
    assert "c" not in docs.tenants()
    a.upsert(range(n), normal(n, DIM, seed=1))
    a.delete([0])
    a.upsert([900], [ONE])
    docs.set_quota("a", rows=0)
    with pytest.raises(vecstore.QuotaExceededError, match="may have 0"):
        a.upsert([901], [ONE])
    docs.set_quota("a")
    a.upsert([901], [ONE])
    assert len(a) == 2 * n + 1


@pytest.mark.parametrize("shape", SHAPES)
def test_quotas_of_queries(docs: Collection, shape: str) -> None:
    n = len(fill(docs, "a", shape))
    a, both = docs.tenant("a"), docs.tenant("b", "a")
    docs.set_quota("a", k=3)
    where = {"n": {"$gte": 0}}
    for view in (a, both):
        assert len(view.query(ORIGIN, k=3)) == 3
        with pytest.raises(vecstore.QuotaExceededError, match="'a' may ask for k = 3 at most, not"):
            view.query(ORIGIN, k=4)
        for recall in (1.0, 0.2, None):
            with pytest.raises(vecstore.QuotaExceededError, match=r"not 50;.*set_quota"):
                view.search([ORIGIN], k=50, recall=recall, where=where)
    docs.set_quota("a", where=2)
    for view in (a, both):
        assert len(view.query(ORIGIN, k=n, where={"n": {"$gte": 0}, "of": "a"})) == n
        for long in ({"n": {"$in": [1, 2, 3]}}, {"a": 1, "b": 2, "$not": {"c": 3}}):
            for verb, arguments in (("query", [ORIGIN]), ("search", [[ORIGIN]]), ("count", [])):
                with pytest.raises(vecstore.QuotaExceededError, match="3 terms, and tenant 'a' m"):
                    getattr(view, verb)(*arguments, where=long)
    with pytest.raises(vecstore.QuotaExceededError, match="3 terms"):
        a.delete(where={"n": {"$in": [1, 2, 3]}})
    docs.set_quota("a", query_bytes=n * DIM * 4)
    assert len(a.query(ORIGIN, k=n, recall=1.0)) == n
    docs.set_quota("a", query_bytes=n * DIM * 4 - 1)
    with pytest.raises(vecstore.QuotaExceededError, match=f"would read about {n * DIM * 4} bytes"):
        a.query(ORIGIN, k=1, recall=1.0)
    with pytest.raises(vecstore.QuotaExceededError, match="ask for less recall"):
        both.search([ORIGIN], recall=1.0)
    assert len(a.query(ORIGIN, where={"n": 3}, recall=1.0)) == 1, "a filter makes it cheaper"
    assert len(a.get(range(n))) == a.count() == n
    docs.set_quota("a")
    assert len(shown(a)) == n


def test_what_a_quota_refuses_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is a filter looked at, nor an index built, for a call that asks for too much."""
    with sound_store(tmp_path / "store") as store:
        docs = store.collection("docs", dim=DIM, tenants=True)
        fill(docs, "a", "tree")
        n = SHAPES["tree"]
        a, both = docs.tenant("a"), docs.tenant("b", "a")
        docs.set_quota("a", rows=n + 50, k=3, where=2)

        def never(*args: Any, **options: Any) -> Any:
            raise AssertionError("work was done for it")

        with monkeypatch.context() as patch:
            patch.setattr(planning, "matching_set", never)
            patch.setattr(indexing.Indexer, "run", never)
            for view in (a, both):
                for k, where in ((4, {"n": 1}), (1, {"n": {"$in": [1, 2, 3]}})):
                    for call in (
                        lambda view=view, k=k, where=where: view.query(ORIGIN, k, where),
                        lambda view=view, k=k, where=where: view.search([ORIGIN], k, where),
                        lambda view=view, k=k, where=where: view.explain(ORIGIN, k, where),
                    ):
                        with pytest.raises(vecstore.QuotaExceededError, match=r"k = 3|3 terms"):
                            call()
            for ids in (range(500, 551), [*range(10), *range(500, 551)]):
                names = ["b"] * 20 + ["a"] * len(ids)
                more = [*range(900, 920), *ids]
                for load in (
                    lambda ids=ids: a.upsert(ids, normal(len(ids), DIM)),
                    lambda names=names, more=more: docs.load(
                        normal(len(more), DIM), more, tenants=names
                    ),
                ):
                    with pytest.raises(vecstore.QuotaExceededError, match=f"have {n + 51} rows"):
                        load()
        assert "b" not in docs.tenants()
        a.upsert([*range(10), *range(500, 550)], normal(60, DIM))
        assert len(a) == n + 50


def test_a_quota_names_its_tenant_only(docs: Collection) -> None:
    docs.set_quota("a", rows=1, k=1, where=0)
    assert docs.tenants() == ["a"]
    fill(docs, "b", "list")
    assert len(docs.tenant("b").query(ORIGIN, k=11, where={"n": {"$gte": 0}})) == 11
    with pytest.raises(vecstore.QuotaExceededError, match="k = 1 at most, not 10"):
        docs.tenant("a").query(ORIGIN)


# --- columns of tenants -------------------------------------------------------------------------


@pytest.mark.parametrize("n", [6, 60], ids=["small", "bulk"])
@pytest.mark.parametrize("kind", ["list", "tuple", "array", "objects"])
def test_a_column_of_tenants(docs: Collection, n: int, kind: str) -> None:
    vectors = normal(n, DIM)
    names: list[Any] = ["a", "b", "c"] * (n // 3)
    if kind == "list":  # the owner may be repeated, names may come in any sequence
        names = [
            [name, *others]
            for name, others in zip(
                names, [[], ("b", "a"), ["b"], ["a", "a", "c"]] * n, strict=False
            )
        ]
        names[-1] = np.array(["c", "a"])
    column: Any = np.array(names, object) if kind == "objects" else names
    if kind in ("tuple", "array"):
        column = tuple(names) if kind == "tuple" else np.array(names)
    docs.load(vectors, metadata=[{"n": i} for i in range(n)], tenants=column)
    for view in "abc":
        wanted = {}
        for i, name in enumerate(names):
            seen = [name] if isinstance(name, str) else list(name)
            if view in seen:
                wanted[i, seen[0]] = (tuple(vectors[i]), {"n": i})
        assert shown(docs.tenant(view)) == wanted
    assert len(docs.tenant("a", "b", "c")) == n
    flush(docs)
    assert len(shown(docs.tenant("a", "b", "c"))) == n


def test_an_array_of_names(docs: Collection) -> None:
    docs.load([ONE, ONE], tenants=np.array([["a", "b"], ["b", "a"]]))
    assert [key for key, _ in shown(docs.tenant("a"))] == [0, 1]
    assert [hit.tenant for hit in docs.tenant("b").get([0, 1])] == ["a", "b"]


def test_an_id_for_each_tenant(docs: Collection) -> None:
    """An id may come once for each tenant that sees it, not twice."""
    docs.load([ONE, 2 * ONE], [1, 1], tenants=["a", "b"])
    assert docs.tenant("b").vectors(1).tolist() == (2 * ONE).tolist()
    columns: list[list[Any]] = [["c", "c"], [["c", "d"], ["e", "d"]], [["c", "d"], "d"]]
    for column in columns:
        with pytest.raises(vecstore.DuplicateIdError, match=r"Id 7 occurs twice .*Nothing"):
            docs.load([ONE, ONE], [7, 7], tenants=column)
    with pytest.raises(vecstore.DuplicateIdError, match=r"tenant 'b'.*has a row with id 1 already"):
        docs.load([ONE], [1], tenants=[["c", "b"]])
    assert docs.tenants() == ["a", "b"]


class Frame(list[Any]):
    """Like a table: as long as it has rows, but what it gives are the names of its columns."""

    ndim = 2


@pytest.mark.parametrize("n", [2, 50], ids=["small", "bulk"])
def test_bad_columns(docs: Collection, n: int) -> None:
    docs.tenant("a").upsert([500], [ONE])
    good = ["a"] * n
    wrong: list[tuple[Any, Any, str]] = [
        (None, vecstore.TenantRequiredError, "'docs' has tenants"),
        ([*good[1:], None], vecstore.TenantRequiredError, "tenant is None"),
        ([*good[1:], ""], vecstore.TenantRequiredError, "tenant is ''"),
        ([*good[1:], []], vecstore.TenantRequiredError, rf"tenants\[{n - 1}\] is empty"),
        ([*good[1:], ()], vecstore.TenantRequiredError, "a row has an owner"),
        ([*good[1:], ["a", None]], vecstore.TenantRequiredError, "tenant is None"),
        ([*good[1:], 5], vecstore.InvalidArgumentError, rf"tenants\[{n - 1}\] is 5"),
        ([*good[1:], b"a"], vecstore.InvalidArgumentError, "pass a name, or a list of names"),
        ([*good[1:], {"a", "b"}], vecstore.InvalidArgumentError, "the owner first"),
        ([*good[1:], [["a"]]], vecstore.InvalidArgumentError, r"tenant is \['a'\]"),
        (good[1:], vecstore.InvalidArgumentError, f"{n - 1} tenants for {n} rows"),
        ([*good, "a"], vecstore.InvalidArgumentError, f"{n + 1} tenants for {n} rows"),
        ([], vecstore.InvalidArgumentError, "0 tenants"),
        ("a" * n, vecstore.InvalidArgumentError, "pass a sequence with a name"),
        (b"a" * n, vecstore.InvalidArgumentError, "pass a sequence with a name"),
        (7, vecstore.InvalidArgumentError, "tenants is 7"),
        (iter(good), vecstore.InvalidArgumentError, "pass a sequence"),
        (set(map(str, range(n))), vecstore.InvalidArgumentError, "pass a sequence"),
        (dict.fromkeys(map(str, range(n))), vecstore.InvalidArgumentError, "pass a sequence"),
        (np.arange(n), vecstore.InvalidArgumentError, "tenants.0. is"),
        (Frame(good), vecstore.InvalidArgumentError, "pass a sequence"),
        (np.array("a"), vecstore.InvalidArgumentError, "pass a sequence"),
    ]
    for column, kind, message in wrong:
        with pytest.raises(kind, match=message):
            docs.load(normal(n, DIM), tenants=column)
    assert docs.tenants() == ["a"]
    assert shown_ids(docs.tenant("a")) == [500]


# --- with or without tenants ---------------------------------------------------------------------


def test_a_collection_without_tenants(store: vecstore.Store) -> None:
    plain = store.collection("plain", dim=DIM)
    plain.upsert([1], [ONE], [{"a": 1}])
    for call in (
        lambda: plain.tenant("a"),
        lambda: plain.tenant(),
        lambda: plain.tenant(None),  # type: ignore[arg-type]
        plain.tenants,
        lambda: plain.drop_tenant("a"),
        lambda: plain.set_quota("a", rows=1),
    ):
        with pytest.raises(vecstore.TenantRequiredError, match="'plain' has no tenants; call its"):
            call()
    with pytest.raises(vecstore.InvalidArgumentError, match="'plain' has no tenants; leave"):
        plain.load([ONE], [2], tenants=["a"])
    assert not hasattr(plain, "grant")
    assert [hit.tenant for hit in [*plain.query(ONE), *plain.get([1])]] == [None, None]
    assert plain.search([ONE]).tenants is None
    with pytest.raises(vecstore.CollectionMismatchError, match="tenants"):
        store.collection("plain", tenants=True)
    assert len(plain) == plain.count(where={"a": 1}) == 1


@pytest.mark.parametrize("codec", ["pq", "pq4", "opq2", "opq"])
def test_codecs_that_learn_from_all_rows(store: vecstore.Store, codec: str) -> None:
    with pytest.raises(vecstore.InvalidArgumentError, match=f"codec is '{codec}'"):
        store.collection("docs", dim=DIM, codec=codec, tenants=True)
    assert store.collections() == []


def test_tune(docs: Collection) -> None:
    fill(docs, "a", "tree")
    for queries in (None, [ONE]):
        with pytest.raises(vecstore.InvalidArgumentError, match="'docs' has tenants, each measur"):
            docs.tune(queries)
    assert docs.tuning() is None
    stats = docs.stats()
    assert (stats["tenants"], stats["rows"], stats["shared_rows"]) == (2, 100, 0)


def writes(docs: Collection) -> list[Callable[[], Any]]:
    """Every call that writes."""
    a = docs.tenant("a")
    return [
        lambda: a.upsert([1], [ONE]),
        lambda: a.add([900], [ONE]),
        lambda: a.delete([1]),
        lambda: a.delete(where={"n": 1}),
        lambda: a.grant([1], to="b"),
        lambda: a.revoke([1], from_="b"),
        lambda: docs.load([ONE], [1], tenants=["a"]),
        lambda: docs.drop_tenant("a"),
        lambda: docs.set_quota("a", rows=1),
    ]


READS: list[Callable[[Any], Any]] = [
    lambda docs: docs.tenants(),
    lambda docs: docs.stats(),
    lambda docs: docs.tenant("a").query(ONE),
    lambda docs: docs.tenant("a").query(ONE, where={"n": 1}),
    lambda docs: docs.tenant("a").search([ONE]),
    lambda docs: docs.tenant("a").get([1]),
    lambda docs: docs.tenant("a").vectors([1]),
    lambda docs: docs.tenant("a").count(),
    lambda docs: docs.tenant("a", "b").query(ONE),
]


def test_read_only_and_closed(tmp_path: Path) -> None:
    with sound_store(tmp_path / "store") as store:
        docs = store.collection("docs", dim=DIM, tenants=True)
        fill(docs, "a", "run")
        before = shown(docs.tenant("a"))
    with sound_store(tmp_path / "store", "r") as store:
        docs = store.collection("docs")
        a = docs.tenant("a")
        for call in writes(docs):
            with pytest.raises(vecstore.ReadOnlyError, match="open for reading; open it with mod"):
                call()
        assert shown(a) == before
        assert docs.tenants() == ["a", "filler"]
    with vecstore.open(tmp_path / "store") as store:
        docs = store.collection("docs")
        calls = writes(docs)
        table = docs.tenant("a").table()
    for call in calls:
        with pytest.raises(vecstore.StoreClosedError, match="is closed"):
            call()
    for read in READS:
        with pytest.raises(vecstore.StoreClosedError, match="is closed"):
            read(docs)
    with pytest.raises(vecstore.StoreClosedError, match="is closed"):
        table[np.array([1])]


def test_a_union_can_only_be_read(docs: Collection) -> None:
    ids = fill(docs, "a", "list")
    union = docs.tenant("a", "b")
    before = shown(union)
    for name in ("upsert", "add", "delete", "grant", "revoke"):
        for arguments in [(), ([1], [ONE]), (ids,), ([],)]:
            with pytest.raises(vecstore.ReadOnlyError, match="'a', 'b' are read together; write"):
                getattr(union, name)(*arguments)
    assert shown(union) == before
    assert repr(union) == "TenantUnion('a', 'b' of 'docs')"
    assert shown(docs.tenant("a", "a")) == shown(docs.tenant("a", "a", "b")) == before
