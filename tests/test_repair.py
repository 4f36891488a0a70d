"""Repair: what follows from rows and facts is made anew, what does not is named and left."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

import vecstore
from tests.store_checks import flip_byte, normal, python, small_limits, sound_store
from tests.test_backup import listing
from vecstore import layout, storage
from vecstore.layout import HEADER_DTYPE, ExtentKind, Kind, Section
from vecstore.transaction import Transaction

DIM = 6
EVERY = range(400)
REBUILT = (ExtentKind.POSTINGS, ExtentKind.DIRECTORY, ExtentKind.ATTRIBUTES)


def fill(store: vecstore.Store) -> None:
    """Collections of all kinds, each with several extents of each kind and fresh rows."""
    for name, codec, metric in (("docs", "opq3", "l2"), ("others", "rabitq3", "ip")):
        docs = store.collection(name, dim=DIM, metric=metric, codec=codec)
        write(docs, range(120))
        docs.delete(range(50, 80))
        docs.compact()
        write(docs, range(120, 160))
        write(docs, range(100, 110))
    notes = store.collection("notes", dim=DIM, metric="cosine", tenants=True)
    for tenant, ids in (("list", range(4)), ("run", range(12)), ("tree", range(90))):
        write(notes.tenant(tenant), ids)
    notes.tenant("tree").grant(range(20, 60), to="run")
    notes.tenant("tree").grant([70], to="guest")
    notes.compact()
    notes.tenant("tree").revoke(range(20, 30), from_="run")
    notes.tenant("tree").revoke([70], from_="guest")
    notes.tenant("tree").grant(range(80, 83), to="run")
    write(notes.tenant("tree"), range(90, 100))
    write(notes.tenant("list"), [7])
    store.collection("empty", dim=DIM)


def write(docs: Any, ids: Any) -> None:
    ids = list(ids)
    vectors = normal(len(ids), DIM, seed=ids[0])
    docs.upsert(ids, vectors, [{"n": i % 5, "even": i % 2 == 0} for i in ids], ["text"] * len(ids))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("repair") / "store"
    with pytest.MonkeyPatch.context() as patch, sound_store(path) as store:
        small_limits(patch, pages=4)
        fill(store)
    return path


@pytest.fixture
def path(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    small_limits(monkeypatch, pages=4)
    return Path(shutil.copytree(sound, tmp_path / "store"))


def views(store: vecstore.Store) -> dict[str, Any]:
    notes = store.collection("notes")
    tenants = {f"notes {name}": notes.tenant(name) for name in ("list", "run", "tree", "guest")}
    return {"docs": store.collection("docs"), "others": store.collection("others"), **tenants}


def answers(view: Any) -> Any:
    """All that does not depend on how rows are divided into postings."""
    hits = [hit for hit in view.get(EVERY) if hit is not None]
    found: list[Any] = [(hit.id, hit.tenant, hit.metadata, hit.document) for hit in hits]
    found.append(view.vectors([hit.id for hit in hits]).tolist())
    exact = view.search(normal(5, DIM, seed=9), k=500, recall=1.0)
    found += [exact.ids.tolist(), exact.distances.tolist()]
    found += [sorted(hit.id for hit in view.query(np.ones(DIM), k=500, recall=0.4))]
    for where in ({"n": 3}, {"even": True, "n": {"$gt": 1}}, {"n": {"$ne": 2}}):
        found += [view.count(where=where)]
        found += [[hit.id for hit in view.query(np.ones(DIM), k=500, where=where)]]
    return found


def extents(path: Path) -> list[tuple[Path, Any]]:
    """Files and their headers, by number."""
    return [
        (file, np.fromfile(file, HEADER_DTYPE, 1)[0])
        for file in sorted((path / "extents").iterdir())
    ]


def collection_of(head: Any) -> str:
    return ["docs", "others", "notes"][int(head["collection"]) - 1]


def break_file(file: Path, how: str) -> None:
    head = np.fromfile(file, HEADER_DTYPE, 1)[0]
    if how == "missing":
        file.unlink()
    elif how == "short":
        file.write_bytes(file.read_bytes()[:-1])
    elif how == "header":
        flip_byte(file, 20)
    else:
        entry = next(e for e in head["table"] if e["section"] == Section[how])
        inside = 5 if how == "BLOCKS" else int(entry["bytes"]) * 2 // 5  # no gap between runs
        flip_byte(file, int(entry["offset"]) + inside)


SECTIONS_OF = {
    ExtentKind.POSTINGS: ["BLOCKS", "RUNS"],
    ExtentKind.DIRECTORY: ["DIRECTORIES", "TENANTS", "SIGNS"],
    ExtentKind.ATTRIBUTES: ["ATTRIBUTES", "ATTRIBUTE_TENANTS"],
}


@pytest.mark.parametrize("name", ["docs", "notes"])
@pytest.mark.parametrize(
    ("kind", "how"),
    [(kind, how) for kind in REBUILT for how in ("missing", "short", "header", *SECTIONS_OF[kind])],
    ids=lambda value: getattr(value, "name", value),
)
def test_made_anew(path: Path, name: str, kind: ExtentKind, how: str) -> None:
    """Each extent by itself: all answers are back, and other collections are not touched."""
    with vecstore.open(path, "r") as store:
        expected = {key: answers(view) for key, view in views(store).items()}
    chosen = [
        f for f, head in extents(path) if head["kind"] == kind and collection_of(head) == name
    ]
    assert chosen
    before = {head["extent"] for _, head in extents(path) if collection_of(head) != name}
    for file in chosen:
        copy = path.parent / f"copy {file.stem}"
        shutil.copytree(path, copy)
        break_file(copy / "extents" / file.name, how)
        with vecstore.open(copy, "r") as store:
            assert store.check()
        with sound_store(copy) as store:
            (said,) = store.repair()
            what = "index of metadata" if kind == ExtentKind.ATTRIBUTES else "postings"
            assert said.startswith(f"Collection {name!r}: ")
            assert f"{what} w" in said or f"{what} was made anew" in said
            assert f"{kind.name.lower()} {int(file.stem)}" in said
            assert store.check() == []
            assert {key: answers(view) for key, view in views(store).items()} == expected
            assert store.repair() == []
        with sound_store(copy) as store:
            assert {key: answers(view) for key, view in views(store).items()} == expected
            after = {head["extent"] for _, head in extents(copy) if collection_of(head) != name}
            assert after == before
            go_on(store)


def go_on(store: vecstore.Store) -> None:
    """A repaired store takes every kind of write."""
    for name in ("docs", "others"):
        write(store.collection(name), range(200, 260))
        store.collection(name).delete(where={"n": 1})
    notes = store.collection("notes")
    notes.tenant("tree").grant([70, *range(20, 30)], to="guest")
    notes.tenant("tree").grant(range(20, 30), to="run")
    assert store.check() == []
    assert sorted(hit.id for hit in notes.tenant("guest").query(np.ones(DIM), k=50)) == [
        *range(20, 30),
        70,
    ]
    for name in ("guest", "run", "tree"):
        view = notes.tenant(name)
        assert view.count(where={"n": {"$gte": 0}}) == view.count()
    write(notes.tenant("run"), range(300, 330))
    notes.drop_tenant("list")
    for name in store.collections():
        store.collection(name).compact()


def test_everything_at_once(path: Path) -> None:
    with vecstore.open(path, "r") as store:
        expected = {key: answers(view) for key, view in views(store).items()}
    for file, head in extents(path):
        if head["kind"] != ExtentKind.RAW:
            file.unlink()
    with sound_store(path) as store:
        said = store.repair()
        assert [text.split("'")[1] for text in said] == ["docs", "notes", "others"]
        assert {key: answers(view) for key, view in views(store).items()} == expected
        assert store.collection("docs").stats()["calibration"]
        go_on(store)


def test_with_a_snapshot_held(path: Path) -> None:
    """Readers that saw the damage, and those that did not, see what was made anew."""
    with vecstore.open(path) as store, vecstore.open(path, "r") as reader:
        expected = {key: answers(view) for key, view in views(store).items()}
        for file, head in extents(path):
            if head["kind"] == ExtentKind.POSTINGS and collection_of(head) != "others":
                break_file(file, "missing")
        with pytest.raises(vecstore.CorruptionError), vecstore.open(path, "r") as late:
            late.collection("docs").query(np.ones(DIM))
        assert len(store.repair()) == 2
        assert {key: answers(view) for key, view in views(store).items()} == expected
        assert {key: answers(view) for key, view in views(reader).items()} == expected


def test_extent_that_nobody_names_any_more(path: Path) -> None:
    """Postings that LMDB has forgotten: every file is sound, and rows cannot be found."""
    with vecstore.open(path, "r") as store:
        expected = {key: answers(view) for key, view in views(store).items()}
    heads = [head for _, head in extents(path) if collection_of(head) == "docs"]
    *_, gone = (head for head in heads if head["kind"] == ExtentKind.POSTINGS)  # all of it is read
    edit_facts(path, lambda t: t.delete(layout.key_u64(1, Kind.EXTENT, int(gone["extent"]))))
    with sound_store(path) as store:
        assert {violation.invariant for violation in store.check()} == {"rows-reachable"}
        assert store.repair() == ["Collection 'docs': postings were made anew from its 130 rows."]
        assert {key: answers(view) for key, view in views(store).items()} == expected


def edit_facts(path: Path, edit: Callable[[Transaction], Any]) -> None:
    with (
        lmdb.open(str(path / "facts"), map_size=1 << 30, lib_version=0) as facts,
        facts.begin(write=True) as transaction,
    ):
        edit(Transaction(transaction, path))


# --- what cannot be made good -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["docs", "notes"])
def test_damaged_vectors_are_named_and_kept(path: Path, name: str) -> None:
    """Rows on damaged pages: told by id, refused when read, good again when stored again."""
    rows = [f for f, h in extents(path) if h["kind"] == ExtentKind.RAW and collection_of(h) == name]
    file = rows[0]
    break_file(file, "ROWS")
    with vecstore.open(path) as store:
        before, contents = store.check(), listing(path)
        (said,) = store.repair()
        assert f"extent {int(file.stem)} has lost" in said
        assert store.check() == before, "nothing was made worse"
        assert listing(path) == contents
        view = store.collection("docs") if name == "docs" else None
        if view is None:
            assert "of tenant 'tree'" in said
            return
        lost = [int(part.split(")")[0]) for part in said.split("(id ")[1:]]
        assert lost
        assert f"has lost {len(lost)} vectors" in said
        for one in EVERY:
            hit = view.get(one)
            if one in lost:
                with pytest.raises(vecstore.CorruptionError):
                    view.vectors(one)
            elif hit is not None:
                assert view.vectors(one).shape == (DIM,)
        write(view, lost)
        assert store.repair() == ["Collection 'docs': its vectors were written anew."]
        assert store.check() == []
        assert view.count() == 130


def contents(view: Any) -> dict[int, Any]:
    """Every row of a view by id."""
    hits = [hit for hit in view.get(EVERY) if hit is not None]
    vectors = view.vectors([hit.id for hit in hits]).tolist() if hits else []
    return {
        hit.id: (hit.tenant, hit.metadata, hit.document, vector)
        for hit, vector in zip(hits, vectors, strict=True)
    }


def named(said: str) -> set[tuple[str | None, int]]:
    """Tenants and ids that a sentence names."""
    found = re.findall(r"\(id (\d+)(?: of tenant '(\w+)')?\)", said)
    return {(tenant or None, int(number)) for number, tenant in found}


@pytest.mark.parametrize("also", ["nothing else", "postings"])
@pytest.mark.parametrize("name", ["docs", "notes"])
@pytest.mark.parametrize("how", ["ROWS", "missing", "header", "IDS"])
def test_damaged_rows_are_dropped(
    path: Path, name: str, how: str, also: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that were named before are deleted, for everybody, and no others."""
    monkeypatch.setattr("vecstore.lost.SHOWN", 999)
    with vecstore.open(path, "r") as store:
        expected = {key: contents(view) for key, view in views(store).items()}
    own = [(f, ExtentKind(h["kind"])) for f, h in extents(path) if collection_of(h) == name]
    break_file(next(f for f, kind in own if kind == ExtentKind.RAW), how)
    if also == "postings":
        break_file(next(f for f, kind in own if kind == ExtentKind.POSTINGS), "missing")
    with sound_store(path) as store:
        before = listing(path)
        refused = store.repair()
        assert "drop_damaged" in refused[0]
        assert listing(path) == before
        lost = named(refused[0])
        assert lost
        said = store.repair(drop_damaged=True)
        assert f"{len(lost)} rows were deleted" in said[0]
        assert named(said[0]) == lost
        assert store.check() == []
        assert store.repair(drop_damaged=True) == []
        for key, view in views(store).items():
            if not key.startswith(name):
                assert contents(view) == expected[key]
                continue
            left = {
                number: row for number, row in expected[key].items() if (row[0], number) not in lost
            }
            assert contents(view) == left
            assert view.count() == len(left)
            found = {hit.id for hit in view.query(np.ones(DIM), k=999, recall=1.0)}
            assert found == set(left)
            even = {hit.id for hit in view.query(np.ones(DIM), k=999, where={"even": True})}
            assert even == {number for number in left if number % 2 == 0}
        again = (
            store.collection("docs") if name == "docs" else store.collection("notes").tenant("tree")
        )
        write(again, EVERY)  # all ids are free, or their owner's
        assert again.count() == len(EVERY)


def test_all_dropped_rows_are_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are told nowhere else; a refusal names some."""
    monkeypatch.setattr("vecstore.lost.SHOWN", 3)
    file = next(f for f, h in extents(path) if (h["table"]["section"] == Section.PLACES).any())
    break_file(file, "short")
    with sound_store(path) as store:
        (refused,) = store.repair()
        assert len(named(refused)) == 3
        assert "and 77 more" in refused
        assert len(named(store.repair(drop_damaged=True)[0])) == 80


@pytest.mark.parametrize("how", ["missing", "short", "header", "PLACES", "IDS", "ROW_SUMS"])
def test_lost_raw_extents(path: Path, how: str) -> None:
    """A whole extent of vectors: all its rows are told, and nothing is written."""
    file = next(f for f, h in extents(path) if (h["table"]["section"] == Section.PLACES).any())
    break_file(file, how)
    postings = next(f for f, h in extents_left(path) if h["kind"] == ExtentKind.POSTINGS)
    break_file(postings, "missing")
    with vecstore.open(path) as store:
        before, contents = store.check(), listing(path)
        said = store.repair()
        assert f"Collection 'docs': extent {int(file.stem)} has lost 80 vectors" in said[0]
        assert "(id 49)" in said[0]
        assert "(id 50)" not in said[0]
        assert "Restore a backup" in said[1]
        assert store.check() == before
        assert listing(path) == contents
        assert store.collection("others").count() == 130


def extents_left(path: Path) -> list[tuple[Path, Any]]:
    return [(f, h) for f, h in extents(path) if collection_of(h) == "docs"]


def test_nothing_is_made_from_facts_that_disagree(path: Path) -> None:
    for file, head in extents(path):
        if head["kind"] == ExtentKind.POSTINGS and collection_of(head) == "notes":
            file.unlink()
    edit_facts(path, lambda t: t.put(layout.id_prefix(3, 1) + layout.encode_id(999), b"\0\1\0\0"))
    with vecstore.open(path) as store:
        contents = listing(path)
        (said,) = store.repair()
        assert "'notes' was left as it is: ids-rows-agree: " in said
        assert "Restore a backup" in said
        assert listing(path) == contents


def test_a_sound_store_is_left_alone(path: Path) -> None:
    with sound_store(path) as store:
        contents = listing(path)
        assert store.repair() == []
        assert listing(path) == contents
    with vecstore.open(path, "r") as store, pytest.raises(vecstore.ReadOnlyError, match="repair"):
        store.repair()


def test_no_room_for_a_repair(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repair that fails leaves all as it was, and can be had later."""
    for file, head in extents(path):
        if head["kind"] != ExtentKind.RAW and collection_of(head) == "docs":
            file.unlink()
    with sound_store(path) as store:
        before, contents = store.check(), listing(path)

        def full(folder: Path) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("vecstore.extents.sync_folder", full)
            with pytest.raises(vecstore.DiskFullError):
                store.repair()
        assert store.check() == before
        assert listing(path) == contents
        assert len(store.repair()) == 1


# --- LMDB's own structure -----------------------------------------------------------------------

LOOK = """
import sys, vecstore
with vecstore.open(sys.argv[1], "r") as store:
    print(*(one.invariant for one in store.check()))
"""


@pytest.mark.parametrize("place", [10, 16, 18, 2_000, 4_000])
def test_broken_pages_of_the_facts(path: Path, place: int) -> None:
    """Whatever the flip does to a page: `check` tells or finds nothing, and never dies of it."""
    facts = path / "facts" / "data.mdb"
    pages = facts.stat().st_size // 4096
    told = 0
    for page in range(2, pages):
        copy = path.parent / "copy"
        shutil.copytree(path, copy)
        flip_byte(copy / "facts" / "data.mdb", page * 4096 + place)
        if storage.walk_facts(copy / "facts"):
            told += 1
            if told < 3:
                assert python(LOOK, copy).stdout == "facts-walk\n"
        shutil.rmtree(copy)
    assert told or place > 16


def test_keys_out_of_order(tmp_path: Path) -> None:
    """A page whose keys lead astray, though LMDB reads them without complaint."""
    with (
        lmdb.open(str(tmp_path), lib_version=0) as facts,
        facts.begin(write=True) as transaction,
    ):
        for number in range(9):
            transaction.put(b"key %d" % number, b"value")
    assert storage.walk_facts(tmp_path) == ""
    file = tmp_path / "data.mdb"
    file.write_bytes(file.read_bytes().replace(b"key 5", b"key 3"))
    assert storage.walk_facts(tmp_path) == "keys are out of order"


def test_the_walk_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A walk that fails is all that `check` says, and no repair begins."""
    flip_byte(path / "extents" / sorted((path / "extents").iterdir())[0].name, 5_000)
    with vecstore.open(path) as store:
        monkeypatch.setattr(storage, "walk_facts", lambda folder: "a page is gone")
        (found,) = store.check()
        assert found == vecstore.Violation("facts-walk", str(path / "facts"), "a page is gone")
        with pytest.raises(vecstore.CorruptionError, match=r"a page is gone.*Nothing was changed"):
            store.repair()
