"""Several processes at one store: readers beside a writer, readers that die, forks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.crash import crowd
from tests.crash.server import Server

STEPS = 22


def together(
    server: Server,
    folder: Path,
    readers: int,
    steps: int,
    durability: str = "commit",
    fault: str = "",
) -> tuple[int, list[str]]:
    """Let readers read while a writer writes; count their rounds, tell what went wrong."""
    store, end = str(folder / "store"), folder / "end"
    server.run(crowd.write, store, 1).get()
    jobs = [server.start(crowd.read, store, str(end)) for _ in range(readers)]
    writer = server.run(crowd.write, store, steps, durability, fault, seconds=60 + steps)
    end.touch()
    outcomes = [writer, *(job.wait() for job in jobs)]
    problems = [f"{one.status}: {one.error}" for one in outcomes if one.status]
    return sum(one.value or 0 for one in outcomes[1:]), problems


@pytest.mark.parametrize("fault", ["two_commits", "unlink_before_commit"])
def test_planted_bug_is_seen(server: Server, tmp_path: Path, fault: str) -> None:
    _, problems = together(server, tmp_path, 2, STEPS, fault=fault)
    assert problems


@pytest.mark.parametrize("durability", ["commit", "batch"])
def test_readers_beside_a_writer(
    server: Server, tmp_path: Path, durability: str, report: Any
) -> None:
    rounds, problems = together(server, tmp_path, 2, STEPS, durability)
    report(readers=2, rounds=rounds, wrong=len(problems))
    assert not problems, "\n".join(problems)


@pytest.mark.soak
@pytest.mark.parametrize("durability", ["commit", "batch"])
def test_readers_beside_a_writer_for_long(
    server: Server, tmp_path: Path, durability: str, report: Any
) -> None:
    rounds, problems = together(server, tmp_path, 4, 1_500, durability)
    report(readers=4, rounds=rounds, wrong=len(problems))
    assert not problems, "\n".join(problems)


def test_killed_readers_hold_nothing(server: Server, tmp_path: Path) -> None:
    """What a dead reader saw may go; what a living one sees stays."""
    store = str(tmp_path / "store")
    server.run(crowd.write, store, 10).get()
    jobs = []
    for number in range(3):
        ready = tmp_path / f"ready-{number}"
        jobs.append(server.start(crowd.hold_a_snapshot, store, str(ready)))
        while not ready.exists():
            time.sleep(0.002)
    readers, named, files = server.run(crowd.slots, store).get()
    assert readers == 3
    assert files > named, "a reader has the files of its snapshot"
    for job in jobs:
        job.kill()
        job.wait()
    readers, named, files = server.run(crowd.slots, store).get()
    assert readers == 0
    assert files == named


def fork(server: Server, folder: Path, forks: int, durability: str) -> None:
    store = str(folder / "store")
    server.run(crowd.write, store, 5).get()
    assert server.run(crowd.fork_while_threads_work, store, forks, durability).get() == forks


@pytest.mark.parametrize("durability", ["commit", "batch"])
def test_fork(server: Server, tmp_path: Path, durability: str) -> None:
    fork(server, tmp_path, 8, durability)


@pytest.mark.soak
@pytest.mark.parametrize("durability", ["commit", "batch"])
def test_fork_many_times(server: Server, tmp_path: Path, durability: str, report: Any) -> None:
    for part in range(4):
        (tmp_path / f"{part}").mkdir()
        fork(server, tmp_path / f"{part}", 100, durability)
    report(forks=400)


def test_fork_within_a_load(server: Server, tmp_path: Path, report: Any) -> None:
    store = str(tmp_path / "store")
    server.run(crowd.write, store, 5).get()
    forks = server.run(crowd.fork_within_a_load, store, 6).get()
    report(forks=forks)
    assert forks >= 3
