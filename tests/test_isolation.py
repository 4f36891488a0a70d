"""No tenant notices another: not by its answers, not by what is read for it, not by damage.

Whatever is done to the victim, its bytes or its facts, the others are asked the same questions
before and after.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vecstore
from tests.isolation_checks import (
    DIM,
    QUERIES,
    RECALLS,
    SMALL,
    Facts,
    Stores,
    answers,
    ask,
    bytes_of,
    facts_of,
    forge,
    key_is_of,
    limits,
    numbers_of,
    poison,
    rows_by_owner,
    watched,
)
from tests.store_checks import failure, flip_byte, normal, sound_store
from vecstore import layout
from vecstore.collection import Collection
from vecstore.dump import dump
from vecstore.layout import Kind
from vecstore.search import Searcher
from vecstore.storage import Environment


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Stores:
    return Stores(tmp_path_factory.mktemp("isolation"))


shapes = pytest.mark.parametrize("shape", SMALL)
scales = pytest.mark.parametrize(
    ("shape", "scale"),
    [("list", "small"), ("run", "small"), ("tree", "small"), ("tree", "real"), ("run", "real")],
)


@scales
def test_poisoned_bytes(stores: Stores, tmp_path: Path, shape: str, scale: str) -> None:
    """All bytes of the victim are garbage: the others are answered as before, it is not."""
    path = stores.copy(tmp_path / "store", shape, scale)
    with vecstore.open(path, mode="r") as store:
        before = ask(store.collection("docs"))
    numbers = numbers_of(path)
    found = bytes_of(path, numbers["b"])
    wanted = {"postings", "attributes", "raw rows", "directory"}
    assert {kind for kind, pieces in found.items() if pieces} >= (
        wanted - {"directory"} if shape == "list" else wanted
    )
    for pieces in found.values():
        poison(pieces)
    with vecstore.open(path, mode="r") as store:
        docs = store.collection("docs")
        b = docs.tenant("b")
        for _ in range(2):
            assert ask(docs) == before
            for call in (
                lambda: b.query(QUERIES[0], k=999),
                lambda: b.query(QUERIES[0], k=3, recall=1.0),
                lambda: b.search(QUERIES, recall=0.1),
                lambda: b.count(where={"n": 1}),
                lambda: b.query(QUERIES[0], where={"n": {"$gte": 0}}),
                lambda: b.vectors(range(SMALL["list"])),
                lambda: docs.tenant("tree", "b").query(QUERIES[0], k=999),
            ):
                error = failure(call, vecstore.CorruptionError)
                assert error is not None
                assert error.collection == "docs"
                assert error.extent is not None
                assert error.tenant in (numbers["b"], None)
                assert "restore a backup" in str(error)
        violations = store.check()
        assert any(f"tenant {numbers['b']} " in v.detail for v in violations)
        for name, number in numbers.items():
            assert name == "b" or not any(f"tenant {number} " in v.detail for v in violations)


@pytest.mark.parametrize("kind", ["postings", "directory", "attributes"])
@shapes
def test_one_damaged_byte(stores: Stores, tmp_path: Path, shape: str, kind: str) -> None:
    """Wherever it is: the others are answered, the victim is refused, `check` names it."""
    path = stores.copy(tmp_path / "store", shape, "small")
    number = numbers_of(path)["b"]
    pieces = bytes_of(path, number).get(kind, [])
    if kind == "directory" and shape == "list":
        assert not pieces
        return
    with vecstore.open(path, mode="r") as store:
        before = ask(store.collection("docs"))
    file, offset, length = pieces[-1]  # those before may be replaced by now
    flip_byte(file, offset + length // 2)
    with vecstore.open(path, mode="r") as store:
        docs = store.collection("docs")
        assert ask(docs) == before
        b = docs.tenant("b")
        where = {"n": {"$gte": 0}} if kind == "attributes" else None
        error = failure(lambda: b.query(QUERIES[0], 9_999, where, 0.5), vecstore.CorruptionError)
        assert error is not None
        assert (error.collection, error.tenant) == ("docs", number)
        assert error.extent == int(file.stem)
        assert [v.invariant for v in store.check()] == ["checksums"]
        assert f"tenant {number} " in store.check()[0].detail
        assert ask(docs) == before


@shapes
def test_others_write_beside_damage(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    """A flush that meets the victim's damage is put off; the call before it has succeeded."""
    limits(monkeypatch)
    path = stores.copy(tmp_path / "store", shape, "small")
    number = numbers_of(path)["b"]
    poison(bytes_of(path, number)["postings"])
    with vecstore.open(path, maintenance="inline") as store:
        docs = store.collection("docs")
        tree = docs.tenant("tree")
        before = len(tree)
        for i in range(80):
            tree.upsert(10_000 + i, QUERIES[0], {"n": i})
            assert len(tree) == before + i + 1
        assert tree.query(QUERIES[0], k=80)[79].distance == 0.0
        assert tree.grant(range(10_000, 10_040), to="run") == 40
        assert tree.revoke(range(10_000, 10_040), from_="run") == 40
        if shape == "list":  # which is read whole to see whether it still is one
            assert f"tenant {number} " in docs.stats()["maintenance"]
        docs.drop_tenant("b")
        tree.upsert(11_000, QUERIES[0])
        assert docs.stats()["maintenance"] == "up to date"
        assert len(tree) == before + 81
        assert all(violation.invariant == "checksums" for violation in store.check())


@shapes
@pytest.mark.parametrize("kind", ["postings", "directory", "attributes", "raw rows"])
def test_damage_is_not_merged_into_sound_extents(
    stores: Stores, tmp_path: Path, shape: str, kind: str
) -> None:
    """Compacting refuses damaged bytes, or leaves them where they are: they stay known as such."""
    path = stores.copy(tmp_path / "store", shape, "small")
    poison(bytes_of(path, numbers_of(path)["b"]).get(kind, []))
    with vecstore.open(path) as store:
        docs = store.collection("docs")
        known = {violation.invariant for violation in store.check()}
        assert known == ({"checksums"} if (kind, shape) != ("directory", "list") else set())
        before = ask(docs, [1.0])
        error = failure(docs.compact, vecstore.CorruptionError)
        assert ask(docs, [1.0]) == before
        if error is None:
            assert {violation.invariant for violation in store.check()} <= known
        else:
            assert {violation.invariant for violation in store.check()} == known
    with vecstore.open(path, mode="r") as store:
        docs = store.collection("docs")
        assert ask(docs, [1.0]) == before
        if known and error is not None:
            assert store.check() != []


@shapes
def test_poisoned_facts(stores: Stores, tmp_path: Path, shape: str) -> None:
    """Whatever LMDB says of the victim, or of its rows, is garbage: nobody else reads it."""
    path = stores.copy(tmp_path / "store", shape, "small")
    with vecstore.open(path, mode="r") as store:
        before = ask(store.collection("docs"))
    number = numbers_of(path)["b"]
    rows = rows_by_owner(path)[number]
    kinds = set()
    with Facts(path, write=True) as transaction:
        for key, _ in list(transaction.raw.cursor()):
            if key_is_of(key, number, rows):
                kinds.add(Kind(key[4]))
                transaction.raw.put(key, b"\xc1\xff\xff")
    assert kinds >= {Kind.ID, Kind.TENANT, Kind.METADATA, Kind.DOCUMENT, Kind.REVOKED}
    with vecstore.open(path, mode="r") as store:
        docs = store.collection("docs")
        for _ in range(2):
            assert ask(docs) == before
            for verb in (lambda b: b.query(QUERIES[0]), lambda b: b.get([1]), len):
                with pytest.raises(vecstore.CorruptionError):
                    verb(docs.tenant("b"))


@shapes
@pytest.mark.parametrize("damage", ["changed", "gone", "new"])
def test_metadata_beside_its_index(stores: Stores, tmp_path: Path, shape: str, damage: str) -> None:
    """Metadata that changed behind the back of the index is named by `check`, with its tenant."""
    path = stores.copy(tmp_path / "store", shape, "small")
    row = min(rows_by_owner(path)[numbers_of(path)["b"]])
    key = layout.key_u32(1, Kind.METADATA, row)
    with Facts(path, write=True) as transaction:
        if damage == "gone":
            transaction.delete(key)
        else:
            old = layout.unpack(transaction.get(key))
            new = {**old, "n": -1} if damage == "changed" else {**old, "more": [1]}
            transaction.put(key, layout.pack(new))
    with vecstore.open(path, mode="r") as store:
        found = [v for v in store.check() if v.invariant != "counts-agree"]
        assert [(v.invariant, v.where) for v in found] == [("metadata-indexed", "docs: b")]
        assert str(row) in found[0].detail


@shapes
@pytest.mark.parametrize("row", [2**31 + 7, 2**32 - 2, "next", "another's"])
def test_row_numbers_are_not_followed_anywhere(
    stores: Stores, tmp_path: Path, shape: str, row: Any
) -> None:
    """Postings name a row that never was: it is passed over; `check` tells, also of another's."""
    path = stores.copy(tmp_path / "store", shape, "small")
    numbers = numbers_of(path)
    with vecstore.open(path, mode="r") as store:
        docs = store.collection("docs")
        before = ask(docs)
        known = {hit.id for hit in docs.tenant("b").query(QUERIES[0], 9_999)}
        end = 64 * len(docs._core.reader.newest().live)
    foreign = row == "another's"
    named = min(rows_by_owner(path)[numbers["run"]]) if foreign else end if row == "next" else row
    forge(path, numbers["b"], named)
    with vecstore.open(path, mode="r") as store:
        docs = store.collection("docs")
        b = docs.tenant("b")
        assert ask(docs) == before
        if not foreign:
            for recall in (None, 0.1, 1.0):
                for where in (None, {"n": {"$gte": 0}}, {"n": {"$ne": 3}}):
                    found = {hit.id for hit in b.query(QUERIES[0], 9_999, where, recall)}
                    assert found <= known
                    assert len(found) >= len(known) // 3
            assert b.get(sorted(known)) != []
        violations = store.check()
        invariant = "rows-own" if foreign else "rows-known"
        assert invariant in {violation.invariant for violation in violations}
        assert {v.where.split(": ")[1] for v in violations} == {"b"}


@pytest.mark.parametrize("to", ["another", "nobody"])
def test_a_name_that_leads_elsewhere(stores: Stores, tmp_path: Path, to: str) -> None:
    """An older page of the facts may say so, in entries that are sound: no verb follows it."""
    path = stores.copy(tmp_path / "store", "tree", "small")
    numbers = numbers_of(path)
    number = numbers["tree"] if to == "another" else max(numbers.values()) + 1
    with Facts(path, write=True) as transaction:
        transaction.put(layout.key(1, Kind.TENANT_NAME, b"b"), layout.U32.pack(number))
    one = QUERIES[0]
    verbs: list[Callable[[Any], Any]] = [
        lambda b: b.query(one),
        lambda b: b.query(one, where={"n": 1}),
        lambda b: b.explain(one),
        lambda b: b.search(QUERIES),
        lambda b: b.get([1]),
        lambda b: b.vectors([1]),
        lambda b: b.table(missing=one)[[1]],
        lambda b: b.count(),
        lambda b: b.count({"n": 1}),
        lambda b: list(dump(b)),
        lambda b: b.upsert([1], [one]),
        lambda b: b.add([9_999], [one]),
        lambda b: b.delete([1]),
        lambda b: b.delete(where={"n": 1}),
        lambda b: b.grant([1], to="run"),
        lambda b: b.revoke([1], from_="run"),
    ]
    with vecstore.open(path, maintenance="inline") as store:
        docs = store.collection("docs")
        before = ask(docs, [1.0])
        for verb in verbs:
            with pytest.raises(vecstore.CorruptionError):
                verb(docs.tenant("b"))
        for call in (
            lambda: docs.tenant("run").grant([1], to="b"),
            lambda: docs.tenant("run").revoke([1], from_="b"),
            lambda: docs.load([one], [1], tenants=["b"]),
            lambda: docs.load([one], [9_999], tenants=[["run", "b"]]),
            lambda: docs.drop_tenant("b"),
            lambda: docs.set_quota("b", rows=0),
        ):
            with pytest.raises(vecstore.CorruptionError):
                call()
        assert ask(docs, [1.0]) == before
        assert "tenants-named" in {violation.invariant for violation in store.check()}


# --- what is read -------------------------------------------------------------------------------


SHARED = {Kind.STORE, Kind.CATALOGUE, Kind.STATE, Kind.DEAD, Kind.LOG, Kind.EXTENT, Kind.CHANGE}


@shapes
@pytest.mark.parametrize("name", SMALL)
def test_keys_that_are_read(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str, name: str
) -> None:
    """Beside what all share, only keys of the tenant and of the rows that it sees are read."""
    path = stores.copy(tmp_path / "store", shape, "small")
    numbers = numbers_of(path)
    owned = rows_by_owner(path)
    seen = set(owned[numbers[name]])
    readable = {numbers[name]}
    if name == "tree":
        readable.add(numbers["list"])  # whose name is told
        with Facts(path) as transaction:
            for _, value in transaction.scan(layout.id_prefix(1, numbers["tree"])):
                if len(value) == 8:
                    seen.add(layout.unpack_id(value, 0)[0])
    keys: list[bytes] = []
    read = Environment.read
    monkeypatch.setattr(Environment, "read", lambda self: watched(read(self), keys))
    with vecstore.open(path, mode="r") as store:
        for _ in range(2):
            list(answers(store.collection("docs").tenant(name)))
    kinds = set()
    for key in set(keys):
        collection, kind = layout.U32.unpack_from(key)[0], Kind(key[4])
        kinds.add(kind)
        assert collection in (0, 1)
        if kind in (Kind.ID, Kind.PENDING, Kind.REVOKED):
            assert layout.U32.unpack_from(key, 5)[0] == numbers[name], kind.name
        elif kind == Kind.TENANT:
            assert layout.U32.unpack_from(key, 5)[0] in readable
        elif kind == Kind.TENANT_NAME:
            assert key[5:] == name.encode()
        elif kind in (Kind.METADATA, Kind.DOCUMENT):
            assert layout.U32.unpack_from(key, 5)[0] in seen, kind.name
        else:
            assert kind in SHARED, kind.name
        assert not key_is_of(key, numbers["b"], owned[numbers["b"]])
    assert kinds >= {Kind.ID, Kind.TENANT, Kind.TENANT_NAME, Kind.METADATA, Kind.DOCUMENT}


# --- what the victim does -----------------------------------------------------------------------


def upsert(docs: Collection) -> None:
    docs.tenant("b").upsert([1, 2, 9_001], normal(3, DIM, seed=80), facts_of("b", [1, 2, 3]))


def delete(docs: Collection) -> None:
    assert docs.tenant("b").delete([*range(8), 5_000]) == 9


def load(docs: Collection) -> None:
    docs.tenant("b").upsert(range(30, 130), normal(100, DIM, seed=81), facts_of("b", [*range(100)]))


def flush_by_many(docs: Collection) -> None:
    docs.tenant("b").upsert(range(200, 230), normal(30, DIM, seed=82))
    docs.tenant("b").upsert(range(230, 260), normal(30, DIM, seed=83))


def grant(docs: Collection) -> None:
    assert docs.tenant("b").grant([9, 5_003], to="other") == 2


def drop(docs: Collection) -> None:
    docs.drop_tenant("b")


def quota(docs: Collection) -> None:
    docs.set_quota("b", rows=0, k=0, where=0)


ACTIONS: list[Callable[[Collection], None]] = [upsert, delete, grant, load, flush_by_many, quota]


@shapes
@pytest.mark.parametrize("settled", [True, False], ids=["indexed", "with fresh rows"])
def test_what_the_victim_does(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str, settled: bool
) -> None:
    """Answers of the others, and what kernels read for them, are the same whatever it does.

    A flush brings the fresh rows of all into postings; from one state to the other approximate
    answers may change, exact ones may not.
    """
    limits(monkeypatch)
    path = stores.copy(tmp_path / "store", shape, "small")
    recalls = RECALLS if settled else (1.0,)
    counted: list[list[int]] = []
    for name in ("one", "many"):
        inner = getattr(Searcher, name)

        def counting(self: Searcher, *args: Any, inner: Any = inner) -> Any:
            found = inner(self, *args)
            counted.append(found[2].tolist())
            return found

        monkeypatch.setattr(Searcher, name, counting)

    def observe(docs: Collection) -> tuple[list[Any], list[list[int]]]:
        ask(docs, recalls)
        counted.clear()
        return ask(docs, recalls), counted[:]

    with sound_store(path) as store:
        docs = store.collection("docs")
        if settled:
            n = 60
            docs.load(normal(n, DIM), range(30_000, 30_000 + n), tenants=["other"] * n)
            docs.compact()
        wanted = observe(docs)
        for turn, act in enumerate([*ACTIONS, drop, upsert, load]):
            act(docs)
            found = observe(docs)
            assert found[0] == wanted[0], act.__name__
            if settled and turn <= len(ACTIONS):  # then what it once shared leaves their postings
                assert found[1] == wanted[1], act.__name__


@shapes
def test_with_the_victim_and_without(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    """A store in which it never was gives the same answers, approximate ones too."""
    limits(monkeypatch)

    def make(name: str, victim: str | None) -> list[Any]:
        with sound_store(tmp_path / name) as store:
            docs = store.collection("docs", dim=DIM, codec="rabitq1", tenants=True)
            for place, own in enumerate(SMALL):
                if victim:
                    for turn in range(2):
                        n = SMALL[victim] // 2
                        first = turn * n
                        vectors = normal(n, DIM, seed=200 + place + turn)
                        docs.load(vectors, range(first, first + n), tenants=["b"] * n)
                    docs.tenant("b").delete(where={"n": {"$exists": False}})
                    docs.drop_tenant("b")
                    docs.tenant("b").upsert(range(60), normal(60, DIM), facts_of("b", [*range(60)]))
                n = SMALL[own]
                metadata = facts_of(own, [*range(n)])
                vectors = normal(n, DIM, seed=place)
                docs.tenant(own).upsert(range(n), vectors, metadata)
                docs.load(normal(60, DIM), range(100, 160), tenants=["other"] * 60)
            return ask(docs)

    assert make("with", shape) == make("without", None)
