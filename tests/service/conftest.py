"""Stores behind a service, for tests that were written for stores that were opened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vecstore
from tests.service.checks import Running, running
from vecstore.service import logs


@pytest.fixture(scope="session", autouse=True)
def service_log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where services in threads log to: they go on between tests, when nothing is captured."""
    path = tmp_path_factory.mktemp("logs") / "service.log"
    with open(path, "ab") as file:
        logs.log_to(file.fileno())
        yield path
        logs.log_to(2)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One service for all tests that leave it as they found it."""
    with running(tmp_path_factory.mktemp("service") / "store") as service:
        yield service


@pytest.fixture(params=["msgpack", "json"])
def store(request: pytest.FixtureRequest, service: Running) -> Iterator[vecstore.RemoteStore]:
    """An empty store; every invariant must hold when the test has ended."""
    with service.connect(encoding=request.param) as remote:
        yield remote
        try:
            assert remote.check() == []
        finally:
            drop_all(remote)


def drop_all(store: Any) -> None:
    for name in store.collections():
        store.drop(name)


ONE_OF_EACH = {"shape": "list", "flushed": False, "store": "msgpack", "metric": "cosine"}
"""What is decided below the service, or the same for every verb, need not be run in all forms."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of tests of tenants and queries, take one form of each parameter."""

    def wanted(item: pytest.Item) -> bool:
        if "test_conforms_tenants" not in item.nodeid and "test_conforms_query" not in item.nodeid:
            return True
        given = getattr(item, "callspec", None)
        params = {} if given is None else given.params
        return all(params.get(name, value) == value for name, value in ONE_OF_EACH.items())

    items[:] = [item for item in items if wanted(item)]
