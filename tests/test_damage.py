"""Damaged files: noticed on use, named by collection and extent, and no answer is ever wrong."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

import vecstore
from tests.naive import top_k
from tests.store_checks import failure, flip_byte, normal, python, small_limits
from vecstore import layout, upkeep
from vecstore.codecs import find_codec
from vecstore.layout import HEADER_DTYPE, RUN_DTYPE, ExtentKind, Kind, Section
from vecstore.transaction import Transaction

# The metadata index is damaged in tests/test_attributes.py, what only tenants have in
# tests/test_isolation.py, the places of rows in sparse extents in tests/test_repair.py, what an
# unfinished load has left in tests/test_checkpoint.py.
KINDS = [kind for kind in ExtentKind if kind not in (ExtentKind.ATTRIBUTES, ExtentKind.PIECE)]
ELSEWHERE = ("ATTRIBUTE", "OWNERS", "PLACES", "INTS", "FLOATS")
SECTIONS = [section for section in Section if not section.name.startswith(ELSEWHERE)]

ROWS, DIM = 120, 9
VECTORS = normal(ROWS, DIM)
QUERY = normal(1, DIM, seed=1)[0]
READS = 6
"""Calls of `reads`, each made twice."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two collections, each with bulk extents, fragments and a log.

    The codec of "docs" has all that a codec may keep: a codebook and a learned rotation.
    """
    path = tmp_path_factory.mktemp("damage") / "store"
    with pytest.MonkeyPatch.context() as patch, vecstore.open(path, maintenance="inline") as store:
        small_limits(patch, pages=4)
        patch.setattr(upkeep, "WASTE_SHARE", 1.0)  # nothing is renewed: all runs are read
        for name, kind, codec in (("docs", str, "opq3"), ("others", int, "auto")):
            docs = store.collection(name, dim=DIM, codec=codec)
            docs.upsert([kind(i) for i in range(80)], VECTORS[:80])
            docs.upsert([kind(i) for i in range(80, 110)], VECTORS[80:110])
            docs.upsert([kind(i) for i in range(110, ROWS)], VECTORS[110:])
            assert docs.stats()["tail_rows"] == 10
            assert docs.stats()["extents"] == 5
        assert store.check() == []
    return path


@pytest.fixture
def path(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "store"))


def header(path: Path, number: int) -> Any:
    return np.fromfile(path / "extents" / f"{number:012d}.ext", HEADER_DTYPE, 1)[0]


def extents_of(path: Path, collection: int) -> list[int]:
    numbers = sorted(int(file.stem) for file in (path / "extents").iterdir())
    return [n for n in numbers if int(header(path, n)["collection"]) == collection]


def reads(docs: vecstore.Collection, name: Callable[[int], Any]) -> list[Callable[[], None]]:
    """Calls that must answer rightly, or raise."""
    exact = [name(i) for i in top_k("l2", QUERY, VECTORS, ROWS)[0].tolist()]

    def query(recall: float | None) -> None:
        assert {hit.id for hit in docs.query(QUERY, k=ROWS, recall=recall)} == set(exact)

    def few() -> None:
        assert [hit.id for hit in docs.query(QUERY, k=5, recall=1.0)] == exact[:5]

    def search() -> None:
        found = docs.search(np.repeat(QUERY[None], 70, axis=0), k=ROWS, recall=1.0)
        assert (found.ids == np.array(exact, found.ids.dtype)).all()

    def rows() -> None:
        ids = [name(i) for i in range(ROWS)]
        assert [hit.id for hit in docs.get(ids)] == ids
        assert docs.vectors(ids).tobytes() == VECTORS.tobytes()

    def everywhere() -> None:  # from each row, so that each posting is the nearest of some query
        found = docs.search(VECTORS, k=ROWS)
        assert all(set(ids) == set(exact) for ids in found.ids.tolist())

    return [lambda: query(None), lambda: query(0.3), few, search, everywhere, rows]


def hold_against_reads(path: Path, damaged: int) -> int:
    """Read both collections of a store with a damaged extent of "docs"; count what was refused."""
    refused = 0
    with vecstore.open(path, mode="r") as store:
        violations = store.check()
        assert violations, "check() saw nothing"
        assert all(v.where.startswith("docs") for v in violations), violations
        assert any(str(damaged) in v.where + v.detail for v in violations)
        for call in reads(store.collection("others"), int):
            call()
        for call in reads(store.collection("docs"), str):
            for _ in range(2):
                error = failure(call, vecstore.CorruptionError)
                if error is not None:
                    refused += 1
                    assert error.collection == "docs"
                    assert error.extent == damaged
                    assert "restore a backup" in str(error)
                    assert "docs" in str(error) or str(damaged) in str(error)
    with vecstore.open(path, maintenance="inline") as store:
        store.collection("others").upsert([500], VECTORS[:1])
        store.drop("docs")
        assert store.check() == []
    return refused


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_flipped_byte(path: Path, section: Section) -> None:
    tried = 0
    for number in extents_of(path, 1):
        for entry in header(path, number)["table"]:
            if entry["section"] == section and entry["bytes"]:
                copy = path.parent / f"copy-{number}"
                shutil.copytree(path, copy)
                place = int(entry["offset"]) + int(entry["bytes"]) * 2 // 5
                flip_byte(copy / "extents" / f"{number:012d}.ext", place)
                refused = hold_against_reads(copy, number)
                assert refused, f"no read noticed the damage in {section.name} of extent {number}"
                tried += 1
    assert tried, f"no extent has a section {section.name}"


def test_flipped_byte_behind_the_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What codes of several planes keep behind their blocks is under the run's checksum too."""
    small_limits(monkeypatch)
    with vecstore.open(tmp_path / "store", maintenance="inline") as store:
        docs = store.collection("docs", dim=DIM, codec="rabitq4")
        docs.upsert(range(ROWS), VECTORS)
    number = next(
        n
        for n in extents_of(tmp_path / "store", 1)
        if header(tmp_path / "store", n)["kind"] == ExtentKind.POSTINGS
    )
    file = tmp_path / "store" / "extents" / f"{number:012d}.ext"
    table = {int(entry["section"]): entry for entry in header(tmp_path / "store", number)["table"]}
    runs, blocks = table[Section.RUNS], table[Section.BLOCKS]
    run = np.fromfile(file, RUN_DTYPE, 1, offset=int(runs["offset"]))[0]
    end = int(run["blocks"]) * find_codec("rabitq4").run_block_bytes(DIM)
    flip_byte(file, int(blocks["offset"]) + int(run["offset"]) + end - 1)
    with vecstore.open(tmp_path / "store", mode="r") as store:
        assert [v.invariant for v in store.check()] == ["checksums"]
        docs = store.collection("docs")
        error = failure(lambda: docs.query(QUERY, k=ROWS, recall=0.9), vecstore.CorruptionError)
        assert error is not None
        assert error.extent == number
        assert len(docs.query(QUERY, k=ROWS, recall=1.0)) == ROWS, "raw rows are sound"


@pytest.mark.parametrize("field", ["magic", "kind", "first_row", "count", "dim", "table", "sum"])
def test_flipped_byte_in_a_header(path: Path, field: str) -> None:
    number = extents_of(path, 1)[-1]
    assert HEADER_DTYPE.fields is not None
    flip_byte(path / "extents" / f"{number:012d}.ext", HEADER_DTYPE.fields[field][1])
    assert hold_against_reads(path, number) == 2 * READS


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("how", ["empty", "short", "one byte less", "longer"])
def test_length_of_an_extent(path: Path, kind: ExtentKind, how: str) -> None:
    number = next(n for n in extents_of(path, 1) if header(path, n)["kind"] == kind)
    file = path / "extents" / f"{number:012d}.ext"
    size = file.stat().st_size
    os.truncate(file, {"empty": 0, "short": 4096, "one byte less": size - 1}.get(how, size + 1))
    assert hold_against_reads(path, number) == 2 * READS


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_missing_extent(path: Path, kind: ExtentKind) -> None:
    number = next(n for n in extents_of(path, 1) if header(path, n)["kind"] == kind)
    (path / "extents" / f"{number:012d}.ext").unlink()
    assert hold_against_reads(path, number) == 2 * READS


def test_extents_that_changed_places(path: Path) -> None:
    """A file under another's name is damage, even when it is sound in itself."""
    first, second = extents_of(path, 1)[0], extents_of(path, 2)[0]
    one, two = (path / "extents" / f"{n:012d}.ext" for n in (first, second))
    held = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(held)
    with vecstore.open(path, mode="r") as store:
        assert len(store.check()) >= 2
        for name in ("docs", "others"):
            with pytest.raises(vecstore.CorruptionError, match="restore a backup"):
                store.collection(name).query(QUERY)


@pytest.mark.parametrize("section", [Section.ROWS, Section.BLOCKS], ids=lambda s: s.name)
def test_writes_do_not_spread_damage(
    path: Path, section: Section, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has to read a damaged row refuses the call; a damaged posting only stays as it is."""
    small_limits(monkeypatch)
    number = next(
        n for n in extents_of(path, 1) if (header(path, n)["table"]["section"] == section).any()
    )
    entry = next(e for e in header(path, number)["table"] if e["section"] == section)
    flip_byte(path / "extents" / f"{number:012d}.ext", int(entry["offset"]) + 5)
    with vecstore.open(path, maintenance="inline") as store:
        docs = store.collection("docs")
        before = docs.count()
        error = failure(
            lambda: docs.upsert([f"new {i}" for i in range(45)], normal(45, DIM, seed=3)),
            vecstore.CorruptionError,
        )
        if section == Section.ROWS:
            assert error is not None
            assert error.extent == number
            assert docs.count() == before
        else:
            assert error is None
            assert docs.count() == before + 45
            assert {violation.invariant for violation in store.check()} == {"checksums"}
            assert store.repair()
            assert store.check() == []


# --- the facts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["r", "w"])
@pytest.mark.parametrize("damage", ["missing", "empty", "foreign", "folder missing"])
def test_facts_that_are_gone(path: Path, mode: str, damage: str) -> None:
    """Without its facts a store is damaged, not empty: its extents must survive the attempt."""
    facts, extents = path / "facts" / "data.mdb", sorted((path / "extents").iterdir())
    if damage == "missing":
        facts.unlink()
    elif damage == "folder missing":
        shutil.rmtree(path / "facts")
    else:
        facts.write_bytes(b"" if damage == "empty" else b"\x55" * facts.stat().st_size)
    with pytest.raises((vecstore.CorruptionError, vecstore.NotAStoreError), match=r"facts|not a"):
        vecstore.open(path, mode=mode)
    assert sorted((path / "extents").iterdir()) == extents


@pytest.mark.parametrize("mode", ["r", "w"])
@pytest.mark.parametrize("change", [-4, -1, 1, 36])
def test_length_of_a_fresh_row(path: Path, mode: str, change: int) -> None:
    """A row of the log that is shorter or longer than rows are is named; nobody reads on."""
    with (
        lmdb.open(str(path / "facts"), map_size=1 << 30) as facts,
        facts.begin(write=True) as transaction,
    ):
        entries = Transaction(transaction, path)
        key, value = list(entries.scan(layout.key(1, Kind.LOG)))[-1]
        entries.put(key, value + bytes(change) if change > 0 else value[:change])
    row = int.from_bytes(key[-4:], "big")
    with vecstore.open(path, mode=mode) as store:
        docs = store.collection("docs")
        with pytest.raises(vecstore.CorruptionError, match=rf"row log of .*docs.* at row {row}, "):
            docs.query(QUERY)
        assert store.collection("others").query(QUERY)


@pytest.mark.parametrize("mode", ["r", "w"])
def test_extents_folder_is_gone(path: Path, mode: str) -> None:
    shutil.rmtree(path / "extents")
    with pytest.raises(vecstore.VecstoreError), vecstore.open(path, mode=mode) as store:
        store.collection("docs").query(QUERY)


@pytest.mark.parametrize("mode", ["r", "w"])
@pytest.mark.parametrize("kept", [5_000, 8_192, 12_288])
def test_truncated_facts(path: Path, mode: str, kept: int) -> None:
    """In a process of its own: reading a map beyond its file ends a process."""
    os.truncate(path / "facts" / "data.mdb", kept)
    extents = sorted((path / "extents").iterdir())
    code = """
        import sys, vecstore
        try:
            store = vecstore.open(sys.argv[1], mode=sys.argv[2])
            store.collections(), store.collection("docs").query([1.0] * 9), store.check()
        except vecstore.CorruptionError:
            pass
        else:
            raise AssertionError("was not noticed")
    """
    python(code, path, mode)
    assert sorted((path / "extents").iterdir()) == extents
