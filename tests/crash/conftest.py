"""The server that runs jobs, and the counts that are printed at the end of a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.crash import shim
from tests.crash.server import Server

COUNTS: dict[str, dict[str, int]] = {}


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The shim, compiled; None where that cannot be done."""
    return shim.build(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, library: Any) -> Iterator[Server]:
    """A process that runs jobs in children, with the shim where there is one."""
    found = Server(tmp_path_factory.mktemp("server"), library)
    yield found
    found.close()


@pytest.fixture
def shimmed(server: Server, library: Any) -> Server:
    """The server, in a test that needs the shim."""
    if library is None:
        pytest.skip("needs Linux and a C compiler, for tests/crash/shim.c")
    return server


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Any:
    """Tell what was counted: `report(name=number, ...)`."""

    def tell(**counts: int) -> None:
        COUNTS[request.node.nodeid.split("/")[-1]] = counts

    return tell


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the counts."""
    if COUNTS:
        terminalreporter.section("crashes")
    for name, counts in COUNTS.items():
        told = ", ".join(f"{key.replace('_', ' ')} {value:,}" for key, value in counts.items())
        terminalreporter.write_line(f"{name}: {told}")
