"""A store with a collection of tenants, under limits that give few rows every shape."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import vecstore
from tests.store_checks import sound_store
from tests.tenant_checks import DIM, small_shapes
from vecstore.collection import Collection


@pytest.fixture(autouse=True)
def shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    small_shapes(monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[vecstore.Store]:
    with sound_store(tmp_path / "store") as store:
        yield store


@pytest.fixture
def docs(store: vecstore.Store) -> Collection:
    return store.collection("docs", dim=DIM, tenants=True)
