"""Stores written by earlier states of the code: they open, are sound and answer as they did.

Approximate answers may change with the code; what is stored, and what is exact, may not.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from tests import make_golden
from tests.store_checks import normal, sound_store
from vecstore.layout import FORMAT_VERSION, HEADER_DTYPE, ExtentKind, Section

ARCHIVES = sorted(make_golden.FIXTURES.glob("golden-v*.tar.gz"))
PRESENT = make_golden.FIXTURES / f"golden-v{FORMAT_VERSION}.tar.gz"


def unpack(archive: Path, folder: Path) -> Path:
    with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as packed:
        packed.extractall(folder, filter="data")
    return folder / "store"


@pytest.fixture
def golden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Any]]:
    """The unpacked store, and the answers that it gave."""
    make_golden.limits(monkeypatch)
    path = unpack(PRESENT, tmp_path)
    return path, json.loads((tmp_path / "expected.json").read_text(encoding="utf-8"))


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare answers; vectors and distances to what processors differ in."""
    assert found.keys() == expected.keys()
    for name, told in expected.items():
        own = dict(found[name])
        assert own.keys() == told.keys()
        for key, value in told.items():
            if key in ("vectors", "distances"):
                assert list(map(len, own[key])) == list(map(len, value)), (name, key)
                for mine, theirs in zip(own[key], value, strict=True):
                    assert mine == pytest.approx(theirs, rel=1e-5, abs=1e-6), (name, key)
            else:
                assert own[key] == value, (name, key)


def test_there_is_one_for_each_version() -> None:
    assert [archive.name for archive in ARCHIVES] == [
        f"golden-v{version}.tar.gz" for version in range(1, FORMAT_VERSION + 1)
    ]
    assert all(archive.stat().st_size < 1_000_000 for archive in ARCHIVES)


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda archive: archive.name)
def test_opens_or_says_why_not(archive: Path, tmp_path: Path) -> None:
    path = unpack(archive, tmp_path)
    if archive == PRESENT:
        with sound_store(path, "r"):
            pass
    else:
        with pytest.raises(vecstore.FormatVersionError, match="Install the vecstore that wrote"):
            vecstore.open(path, "r")


def test_holds_what_a_store_may_hold(golden: tuple[Path, Any]) -> None:
    """The archive is of use as long as every kind of extent and section is in it.

    Pieces of a build that was cut short are not: another version gives them up.
    """
    path, _ = golden
    heads = [np.fromfile(file, HEADER_DTYPE, 1)[0] for file in (path / "extents").iterdir()]
    assert {int(head["kind"]) for head in heads} == set(ExtentKind) - {ExtentKind.PIECE}
    sections = {int(section) for head in heads for section in head["table"]["section"]}
    assert sections - {0} == set(Section) - {Section.INTS, Section.FLOATS}


@pytest.mark.parametrize("mode", ["r", "w"])
def test_answers_as_it_did(golden: tuple[Path, dict[str, Any]], mode: str) -> None:
    path, expected = golden
    with sound_store(path, mode) as store:
        found = make_golden.expectations(store)
        assert found["about"] == expected["about"]
        assert_equal(found["answers"], expected["answers"])
        hits = total = 0
        for name, view in make_golden.views(store).items():
            near = view.search(normal(4, view.dim, seed=77), k=12, recall=0.9).ids.tolist()
            for mine, exact in zip(near, expected["answers"][name]["exact"], strict=True):
                wanted = set(exact) - {-1, None}
                hits, total = hits + len(wanted & set(mine)), total + len(wanted)
        assert hits >= 0.9 * total


def test_goes_on(golden: tuple[Path, dict[str, Any]]) -> None:
    """Compacted it answers the same; it takes every write, and a repair has nothing to do."""
    path, expected = golden
    with sound_store(path) as store:
        for name in store.collections():
            store.collection(name).compact()
        assert store.check() == []
        assert_equal(make_golden.expectations(store)["answers"], expected["answers"])
        assert store.repair() == []
        for name in make_golden.PLAIN:
            docs = store.collection(name)
            text = name in ("auto", "pq")
            make_golden.put(docs, docs.dim, range(120, 200), text=text)
            assert docs.count() >= 80
        for name in make_golden.TENANTS:
            notes = store.collection(name)
            for tenant in ("list", "tree", "new"):
                make_golden.put(notes.tenant(tenant), notes.dim, range(60, 130))
            notes.tenant("tree").grant(range(100, 103), to="guest")
            assert notes.tenant("guest").count() == 5
            with pytest.raises(vecstore.QuotaExceededError):
                make_golden.put(notes.tenant("guest"), notes.dim, range(200, 206))
        assert store.check() == []
        for name in store.collections():
            store.collection(name).compact()
