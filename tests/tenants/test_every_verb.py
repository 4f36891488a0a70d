"""Every verb, whoever is named: foreign, unknown, dropped, empty tenants, no name, odd names.

The verbs are read off the classes, so that one which is added without a line here fails.  What a
tenant is answered is held, word for word, against a store in which the others never were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import vecstore
from tests.store_checks import normal, sound_store
from tests.tenant_checks import DIM, ORIGIN, fill, flush, shown
from vecstore.collection import Collection
from vecstore.dump import dump
from vecstore.picture import picture
from vecstore.tenant import Tenant, TenantUnion

ONE = np.ones(DIM, np.float32)
IDS = [0, 1, 5, 12, 59, 905, 906]
"""Those that "a" has, some of them also "b"'s own, and two that nobody has."""

READS: dict[str, Callable[[Any], Any]] = {
    "query": lambda t: t.query(ORIGIN, 99, None, 1.0, ("metadata", "document", "vector")),
    "query approximately": lambda t: t.query(ORIGIN, 7),
    "query where": lambda t: [
        t.query(ORIGIN, 99, {"n": {"$gte": 0}}),
        t.query(ONE, 9, {"of": "a"}),
    ],
    "explain": lambda t: t.explain(ORIGIN, 99, {"n": {"$gte": 0}}, 1.0),
    "search": lambda t: t.search([ORIGIN, ONE], 70, None, 1.0),
    "search where": lambda t: t.search([ORIGIN], 5, {"of": {"$ne": "b"}}),
    "get": lambda t: t.get(IDS),
    "get one": lambda t: t.get(0),
    "vectors": lambda t: t.vectors(IDS),
    "vectors of one": lambda t: t.vectors(5),
    "table": lambda t: t.table(missing=ONE)[np.array(IDS)],
    "table without missing": lambda t: t.table()[np.array(IDS)],
    "count": lambda t: t.count(),
    "count where": lambda t: [t.count({"of": "a"}), t.count({"of": {"$ne": "b"}}), t.count({})],
    "len": len,
    "bool": bool,
    "dim": lambda t: t.dim,
    "dump": lambda t: [(block.ids, block.metadata, block.tenant) for block in dump(t)],
    "picture": picture,
}
WRITES: dict[str, Callable[[Any], Any]] = {
    "delete": lambda t: t.delete(IDS),
    "delete where": lambda t: t.delete(where={"of": "a"}),
    "delete both": lambda t: t.delete(IDS, {"n": {"$lt": 60}}),
    "grant": lambda t: t.grant(IDS, to="c"),
    "revoke": lambda t: [t.revoke(IDS, from_="a"), t.revoke(IDS, from_="c")],
    "add": lambda t: t.add(IDS, normal(len(IDS), DIM, seed=5), [{"n": i} for i in IDS]),
    "add again": lambda t: t.add(IDS, normal(len(IDS), DIM, seed=5)),
    "upsert": lambda t: t.upsert(IDS[:3], normal(3, DIM, seed=6)),
    "grant new": lambda t: t.grant(IDS, to="c"),
    "revoke new": lambda t: t.revoke(IDS, from_="c"),
    "delete new": lambda t: t.delete(IDS),
}
TELL_HOW = ("explain", "picture")
"""These also tell where rows stand, which any write may change that fills the row log."""

EVERY = [
    *READS.items(),
    *WRITES.items(),
    *((verb, call) for verb, call in READS.items() if verb not in TELL_HOW),
]
NAMELESS: dict[str, Callable[[Any], Any]] = {
    **READS,
    **WRITES,
    "load": lambda docs: docs.load([ONE], [1]),
    "drop_tenant": lambda docs: [docs.drop_tenant(None)],
    "set_quota": lambda docs: docs.set_quota(None, rows=1),
    "tenant": lambda docs: docs.tenant(None),
}
UNSCOPED = {
    "name", "metric", "options", "dim", "stats", "tenants", "compact", "tune", "tuning", "bool",
}  # fmt: skip
"""What a collection tells and does for all: nothing of it takes or gives rows."""


def verbs_of(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")} - {"name", "names"}


def test_no_verb_is_left_out() -> None:
    here = {name.split()[0] for name in (*READS, *WRITES)} - {"len", "bool", "dump", "picture"}
    assert verbs_of(Tenant) == verbs_of(TenantUnion) == here
    assert verbs_of(Collection) - UNSCOPED == {name.split()[0] for name in NAMELESS} - {
        *("len", "bool", "dump", "picture", "dim", "grant", "revoke")
    }


def outcome(call: Callable[[Any], Any], view: Any) -> Any:
    """What a verb of a view gives or raises, as it compares."""
    try:
        return plain(call(view))
    except vecstore.VecstoreError as error:
        return type(error).__name__, str(error)


def plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    if isinstance(value, dict):
        return {key: plain(own) for key, own in value.items() if key != "microseconds"}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Collection]:
    """A collection of the same name, to which nobody else comes."""
    with sound_store(tmp_path / "alone") as store:
        yield store.collection("docs", dim=DIM, tenants=True)


def own_rows(docs: Collection) -> None:
    """Rows of "b", some under ids that "a" has too."""
    ids = [*range(50, 65)]
    metadata = [{"n": i, "of": "b"} for i in ids]
    docs.tenant("b").upsert(ids, normal(15, DIM, seed=3), metadata, ["text"] * 15)


KINDS: dict[str, Callable[[Collection], Any]] = {
    "unknown": lambda docs: None,
    "foreign": own_rows,
    "empty": lambda docs: docs.set_quota("b"),
}
ODD = ["a ", "A", "a\0", "\0", "*", "%", "a/../a", "a\u200b", "\uff41", "x" * 256, "None", "\n"]


@pytest.fixture(params=["fresh", "tree"])
def owner(docs: Collection, request: pytest.FixtureRequest) -> Any:
    """Tenant "a" with 60 rows of its own, all indexed or some fresh again."""
    fill(docs, "a", "tree")
    a = docs.tenant("a")
    if request.param == "fresh":
        a.upsert(range(4), normal(4, DIM), [{"n": i, "of": "a"} for i in range(4)], ["a"] * 4)
    return a


def hold(docs: Collection, alone: Collection, name: str, owner: Any) -> None:
    """Whatever one asks in both collections, the answers are the same and "a" stays as it is."""
    before = shown(owner)
    for verb, call in EVERY:
        found, wanted = (outcome(call, c.tenant(name)) for c in (docs, alone))
        assert found == wanted, verb
        found, wanted = (outcome(call, c.tenant(name, "d")) for c in (docs, alone))
        assert found == wanted, f"{verb} of a union"
    assert shown(owner) == before


@pytest.mark.parametrize("kind", KINDS)
def test_others_are_as_if_they_were_not(
    docs: Collection, alone: Collection, owner: Any, kind: str
) -> None:
    for collection in (docs, alone):
        KINDS[kind](collection)
    hold(docs, alone, "b", owner)


@pytest.mark.parametrize("ending", ["dropped", "emptied", "revoked", "dropped by its grantor"])
def test_what_was_is_as_if_it_never_had_been(
    docs: Collection, alone: Collection, owner: Any, ending: str
) -> None:
    """In the other store the tenant is as new as its name."""
    b = docs.tenant("b")
    if ending in ("dropped", "emptied"):
        fill(docs, "b", "tree", seed=1)
        owner.grant([3, 4], to="z")
        if ending == "dropped":
            owner.delete([59])
            owner.grant([59], to="b")
            docs.drop_tenant("b")
        else:
            assert b.delete(where={"n": {"$gte": 0}}) == 60
    elif ending == "revoked":
        assert owner.grant(range(60), to="b") == 60
        flush(docs)
        assert owner.revoke(range(60), from_="b") == 60
    else:
        fill(docs, "e", "tree", seed=2)
        docs.tenant("e").grant(range(60), to="b")
        flush(docs)
        docs.drop_tenant("e")
    before = shown(owner)
    for verb, call in EVERY:
        # Rows of its own that ended may show by what is read, not by what is found.
        if verb not in TELL_HOW or ending == "dropped":
            found, wanted = (outcome(call, c.tenant("b")) for c in (docs, alone))
            assert found == wanted, verb
    assert shown(owner) == before


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_odd_names_are_nobodys(docs: Collection, alone: Collection, name: str) -> None:
    fill(docs, "a", "fresh")
    hold(docs, alone, name, docs.tenant("a"))


@pytest.mark.parametrize("verb", NAMELESS)
@pytest.mark.parametrize("name", [None, ""], ids=repr)
def test_no_name_is_nobody(docs: Collection, verb: str, name: Any) -> None:
    """Neither the collection's own verb nor a tenant without a name gives or changes anything."""
    fill(docs, "a", "fresh")
    before = shown(docs.tenant("a"))
    call = NAMELESS[verb]
    with pytest.raises(vecstore.TenantRequiredError):
        call(docs.tenant(name))
    if verb not in ("dim", "bool"):  # of the collection itself
        has_none = verb.startswith(("grant", "revoke"))
        with pytest.raises(AttributeError if has_none else vecstore.TenantRequiredError):
            call(docs)
    assert docs.tenants() == ["a"]
    assert shown(docs.tenant("a")) == before
