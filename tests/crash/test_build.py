"""A long load killed at any moment goes on where it was, and ends as if nothing had happened."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.crash import builds
from tests.crash.server import Server

ORDER = ["cells", "leaves", "homes", "rows", "postings", "publish"]
"""Stages that a life reports, one after the other."""


def stages(told: Path) -> list[str]:
    """Stage of each report, as far as the life came."""
    return [line.split()[0] for line in told.read_text().splitlines()] if told.exists() else []


def assert_whole(server: Server, store: str) -> None:
    violations, rows, recall, same, left = server.run(builds.look, store).get()
    assert violations == []
    assert rows == builds.ROWS
    assert recall >= 0.85
    assert same
    assert left == []


@pytest.fixture(scope="module")
def whole(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Any]:
    """Reports of a load that nothing disturbs, and the calls that it took."""
    folder = tmp_path_factory.mktemp("whole")
    counts = server.run(builds.load, str(folder / "store"), str(folder / "told")).get()
    assert all(counts[stage] > 1 for stage in ("cells", "leaves", "homes", "rows"))
    assert counts["postings"] == 1
    assert_whole(server, str(folder / "store"))
    return stages(folder / "told"), counts


@pytest.mark.parametrize("stage", [*ORDER, "truth"])
@pytest.mark.parametrize("where", ["first", "middle"])
def test_killed_at_a_stage(
    server: Server, tmp_path: Path, whole: tuple[list[str], Any], stage: str, where: str
) -> None:
    reports, counts = whole
    own = [at for at, name in enumerate(reports) if name == stage]
    stop = own[0] if where == "first" else own[(len(own) + 1) // 2 if len(own) > 2 else -1]
    store = str(tmp_path / "store")
    killed = server.run(builds.load, store, str(tmp_path / "first"), stop)
    assert killed.status == -signal.SIGKILL
    violations, rows, *_ = server.run(builds.look, store).get()
    assert violations == []
    if stage == "truth":  # all was published, and is calibrated by whoever opens the store next
        assert rows == builds.ROWS
        assert_whole(server, store)
        return
    assert rows == 0
    again = server.run(builds.load, store, str(tmp_path / "second")).get()
    finished = ORDER[: ORDER.index(stage)]
    assert {name: again[name] for name in finished if name in again} == dict.fromkeys(
        (name for name in finished if name in again), 0
    )
    if stage in counts and where == "middle" and stage != "postings":
        assert 0 < again[stage] < counts[stage]
    for name in ORDER[ORDER.index(stage) + 1 :]:
        assert name == "publish" or again[name] == counts[name]
    assert_whole(server, store)


@pytest.mark.parametrize("ids", ["int", "str"])
def test_killed_again_and_again(server: Server, tmp_path: Path, ids: str, report: Any) -> None:
    """One load through many lives, each of which comes a little further."""
    rng = random.Random(5)
    store, kills = str(tmp_path / "store"), 0
    while kills < 12:
        job = server.start(builds.load, store, str(tmp_path / f"told-{kills}"), -1, ids)
        time.sleep(0.4 * rng.random())
        job.kill()
        if job.wait().status != -signal.SIGKILL:
            break
        kills += 1
        if Path(store, "VECSTORE").exists():
            assert server.run(builds.violations, store).get() == []
    report(kills=kills)
    server.run(builds.load, store, str(tmp_path / "last"), -1, ids).get()
    assert_whole(server, store)
