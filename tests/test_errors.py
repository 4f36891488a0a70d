"""Every error about stores and collections: its type, its builtin base, the value, the remedy.

Arguments of row verbs are in test_collection.py, test_facts.py and test_query.py, locks and closed
or forked stores in test_sessions.py, damage in test_damage.py, full disks in test_disk_full.py.
"""

from __future__ import annotations

import inspect
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from tests.store_checks import make_store, normal, sound_store
from vecstore import errors
from vecstore.codecs import default_codec

BASES = {
    "InvalidArgumentError": ValueError,
    "InvalidVectorError": ValueError,
    "DuplicateIdError": ValueError,
    "FilterError": ValueError,
    "TenantRequiredError": ValueError,
    "CollectionMismatchError": ValueError,
    "QuotaExceededError": ValueError,
    "RequestTooLargeError": ValueError,
    "StoreClosedError": ValueError,
    "TargetNotMetError": ValueError,
    "UnknownIdError": KeyError,
    "CollectionNotFoundError": KeyError,
    "StoreNotFoundError": FileNotFoundError,
    "NotAStoreError": OSError,
    "FormatVersionError": OSError,
    "WriterLockedError": OSError,
    "ReadOnlyError": PermissionError,
    "AccessDeniedError": PermissionError,
    "UnavailableError": ConnectionError,
    "RateLimitedError": ConnectionError,
    "ServiceTimeoutError": TimeoutError,
    "DiskFullError": OSError,
    "CorruptionError": OSError,
    "ForkedStoreError": RuntimeError,
}


def test_every_error_is_public_and_has_a_builtin_base() -> None:
    known = {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and value is not vecstore.VecstoreError
    }
    assert known.keys() == BASES.keys()
    for name, kind in known.items():
        assert getattr(vecstore, name) is kind
        assert issubclass(kind, vecstore.VecstoreError)
        assert issubclass(kind, BASES[name])
        assert str(kind("what, which, do")) == "what, which, do"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    make_store(tmp_path / "store")
    return tmp_path / "store"


# --- opening ------------------------------------------------------------------------------------


def test_missing_store(tmp_path: Path) -> None:
    with pytest.raises(vecstore.StoreNotFoundError, match=r"no store at .*gone.*mode='w'"):
        vecstore.open(tmp_path / "gone", mode="r")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["r", "w"])
def test_not_a_store(tmp_path: Path, mode: str) -> None:
    file = tmp_path / "file"
    file.write_text("hello")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "thesis.tex").write_text("hello")
    for foreign in (file, folder):
        with pytest.raises(vecstore.NotAStoreError, match=f"{foreign.name} is not a vecstore"):
            vecstore.open(foreign, mode=mode)
    assert file.read_text() == "hello"
    assert [entry.name for entry in folder.iterdir()] == ["thesis.tex"]


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(vecstore.NotAStoreError):
        vecstore.open(tmp_path, mode="r")
    assert list(tmp_path.iterdir()) == []
    with sound_store(tmp_path) as store:
        assert store.collections() == []


def test_creation_makes_parents(tmp_path: Path) -> None:
    with sound_store(tmp_path / "a" / "b") as store:
        assert store.path == tmp_path / "a" / "b"
    with sound_store(Path(os.path.relpath(tmp_path / "c"))):
        pass


@pytest.mark.parametrize("mode", ["r", "w"])
def test_newer_format(path: Path, mode: str) -> None:
    marker = path / "VECSTORE"
    marker.write_bytes(struct.pack("<8sI", b"VECSTORE", 99))
    with pytest.raises(vecstore.FormatVersionError, match=r"version 99; .*reads version \d"):
        vecstore.open(path, mode=mode)


@pytest.mark.parametrize("mode", ["r", "w"])
@pytest.mark.parametrize("content", [b"", b"VECSTORE", b"VECSTOR!\1\0\0\0", b"VECSTORE\1\0\0\0x"])
def test_damaged_marker(path: Path, mode: str, content: bytes) -> None:
    extents = sorted((path / "extents").iterdir())
    (path / "VECSTORE").write_bytes(content)
    with pytest.raises(vecstore.NotAStoreError, match="marker file is damaged"):
        vecstore.open(path, mode=mode)
    (path / "VECSTORE").unlink()
    with pytest.raises(vecstore.NotAStoreError):
        vecstore.open(path, mode="r")
    assert sorted((path / "extents").iterdir()) == extents


@pytest.mark.parametrize(
    "options",
    [{"mode": "a"}, {"mode": None}, {"mode": "rw"}, {"durability": "never"}, {"durability": None}],
    ids=str,
)
def test_bad_options_of_open(tmp_path: Path, options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(vecstore.InvalidArgumentError, match=f"{name} is {value!r}"):
        vecstore.open(tmp_path / "store", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", ["", None, 7, b"bytes"], ids=repr)
def test_bad_path(wrong: Any) -> None:
    with pytest.raises(vecstore.InvalidArgumentError, match="path is"):
        vecstore.open(wrong)


# --- collections --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "other"),
    [("dim", 5), ("metric", "l2"), ("metric", "ip"), ("codec", "float32")],
)
def test_collection_mismatch(tmp_path: Path, option: str, other: Any) -> None:
    with sound_store(tmp_path / "store") as store:
        own = {"dim": 4, "metric": "cosine", "codec": "auto", "raw": "float32", "tenants": False}
        docs = store.collection("docs", dim=4, metric="cosine")
        with pytest.raises(vecstore.CollectionMismatchError) as caught:
            store.collection("docs", **{option: other})
        for part in ("'docs'", option, repr(own[option]), repr(other), "leave the argument out"):
            assert part in str(caught.value)
        assert store.collection("docs") is docs
        assert store.collection("docs", **own) is docs
        assert store.collection("docs", codec=default_codec(4).name) is docs


@pytest.mark.parametrize(
    "options",
    [
        {"dim": 0},
        {"dim": -1},
        {"dim": 4.0},
        {"dim": True},
        {"dim": "4"},
        {"dim": 65_537},
        {"dim": 4, "metric": "L2"},
        {"dim": 4, "metric": "euclid"},
        {"dim": 4, "metric": 0},
        {"dim": 4, "codec": "pq"},
        {"dim": 4, "codec": "rabitq9"},
        {"dim": 4, "codec": ["rabitq1"]},
        {"dim": 4, "raw": "float64"},
        {"dim": 4, "raw": ["int8"]},
        {"dim": 4, "tenants": 1},
        {"dim": 4, "tenants": "yes"},
    ],
    ids=str,
)
def test_bad_options_of_a_collection(tmp_path: Path, options: dict[str, Any]) -> None:
    name, value = list(options.items())[-1]
    with sound_store(tmp_path / "store") as store:
        with pytest.raises(vecstore.InvalidArgumentError, match=f"{name} is") as caught:
            store.collection("docs", **options)
        assert repr(value) in str(caught.value)
        assert store.collections() == []


@pytest.mark.parametrize("name", ["", None, 7, "x" * 257, "\ud800"], ids=repr)
def test_bad_names(tmp_path: Path, name: Any) -> None:
    with sound_store(tmp_path / "store") as store:
        for call in (lambda: store.collection(name, dim=4), lambda: store.drop(name)):
            with pytest.raises(vecstore.InvalidArgumentError, match="Collection name"):
                call()


def test_collection_not_found(path: Path) -> None:
    with sound_store(path) as store:
        with pytest.raises(vecstore.CollectionNotFoundError, match=r"'new'.*dim="):
            store.collection("new")
        with pytest.raises(vecstore.CollectionNotFoundError, match="'new'"):
            store.drop("new")
        assert store.collections() == ["docs"]


def test_dropped_collection(path: Path) -> None:
    with sound_store(path) as store, vecstore.open(path, mode="r") as reader:
        docs, seen = store.collection("docs"), reader.collection("docs")
        assert seen.count() == 2
        store.drop("docs")
        assert store.collections() == reader.collections() == []
        new = store.collection("docs", dim=3)
        new.upsert(["a"], np.ones((1, 3)))
        for call in (
            docs.count,
            seen.count,
            lambda: docs.query(np.ones(4)),
            lambda: seen.get([1]),
            lambda: docs.upsert([5], np.ones((1, 4))),
            lambda: docs.delete([1]),
        ):
            with pytest.raises(vecstore.CollectionNotFoundError, match="'docs' was dropped"):
                call()
        assert new.count() == reader.collection("docs").count() == 1


def test_drop_frees_the_extents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vecstore.write.BULK_ROWS_MIN", 40)
    monkeypatch.setattr("vecstore.division.RUN_ROWS_MAX", 40)
    monkeypatch.setattr("vecstore.division.LIST_BYTES_MAX", 0)
    with sound_store(tmp_path / "store") as store:
        for name in ("a", "b"):
            store.collection(name, dim=4).upsert(range(100), normal(100, 4))
        held = len(list((tmp_path / "store" / "extents").iterdir()))
        store.drop("a")
        assert len(list((tmp_path / "store" / "extents").iterdir())) == held // 2
        assert len(store.collection("b").query(np.ones(4), k=200)) == 100


def test_tenants_are_refused(path: Path) -> None:
    with vecstore.open(path, mode="r") as store, pytest.raises(vecstore.TenantRequiredError):
        store.collection("docs").tenant("acme")
