"""Killed at any moment: what was acknowledged is there, the call in flight whole or not at all.

One store lives through all kills: every process goes on where the one before it was ended.
"""

from __future__ import annotations

import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.crash import lives, work
from tests.crash.server import Server

CALLS_PER_LIFE = 400


@dataclass
class Tally:
    """What became of the lives."""

    kills: int = 0
    calls: int = 0
    in_flight_present: int = 0
    in_flight_absent: int = 0
    at_opening: int = 0
    wrong: str = ""


def acknowledged(acks: Path) -> list[str]:
    raw = acks.read_text() if acks.exists() else ""
    return [line[:-1] for line in raw.splitlines(keepends=True) if line.endswith("\n")]


def killed_again_and_again(
    server: Server,
    folder: Path,
    kills: int,
    seed: int,
    fault: str = "",
    durability: str = "commit",
) -> Tally:
    rng = random.Random(seed)
    store, tally = str(folder / "store"), Tally()
    expected, world = [work.states(0)[0]], work.World()
    first, doubtful = 0, 1 if durability == "commit" else lives.BATCH
    while tally.kills < kills:
        acks = folder / f"acks-{tally.kills}"
        job = server.start(
            lives.live, store, str(acks), first, first + CALLS_PER_LIFE, fault, durability
        )
        # From the first moments of opening to a good many calls later.
        time.sleep(rng.choice([0.03, 0.6]) * rng.random())
        job.kill()
        outcome = job.wait()
        if outcome.status != -signal.SIGKILL:
            tally.wrong = f"the process ended by itself: {outcome}"
            return tally
        said = acknowledged(acks)
        tally.kills += 1
        tally.at_opening += not said
        done = max((int(line) + 1 for line in said if line != "open"), default=first)
        while world.done < done + doubtful:
            world.apply(world.done)
            expected.append(world.state())
        looked = server.run(lives.look, store)
        where = f"life {tally.kills}, calls {first} to {done}"
        if looked.status:
            tally.wrong = f"{where}: {looked.error}"
        elif looked.value[1]:
            tally.wrong = f"{where}: {looked.value[1]}"
        elif looked.value[0] in expected[done : done + doubtful + 1]:
            there = expected[done : done + doubtful + 1].index(looked.value[0])
            tally.in_flight_absent += not there
            tally.in_flight_present += bool(there)
            done += there
        else:
            tally.wrong = f"{where}: holds another state"
        if tally.wrong:
            return tally
        tally.calls += done - first
        first = done
    return tally


@pytest.mark.parametrize("fault", ["two_commits", "unlink_before_commit", "acknowledged_early"])
def test_planted_bug_is_seen(server: Server, tmp_path: Path, fault: str, report: Any) -> None:
    tally = killed_again_and_again(server, tmp_path, 150, 1, fault)
    report(kills_until_caught=tally.kills)
    assert tally.wrong, f"not seen in {tally.kills} kills"


def hold(tally: Tally, report: Any) -> None:
    report(
        kills=tally.kills,
        calls=tally.calls,
        before_anything_was_acknowledged=tally.at_opening,
        in_flight_there=tally.in_flight_present,
        in_flight_absent=tally.in_flight_absent,
        wrong=int(bool(tally.wrong)),
    )
    assert not tally.wrong, tally.wrong


def test_kill(server: Server, tmp_path: Path, report: Any) -> None:
    hold(killed_again_and_again(server, tmp_path, 12, 2), report)


def test_kill_with_batches(server: Server, tmp_path: Path, report: Any) -> None:
    hold(killed_again_and_again(server, tmp_path, 8, 3, durability="batch"), report)


@pytest.mark.soak
@pytest.mark.parametrize("durability", ["commit", "batch"])
@pytest.mark.parametrize("seed", range(2))
def test_kill_for_long(
    server: Server, tmp_path: Path, seed: int, durability: str, report: Any
) -> None:
    hold(killed_again_and_again(server, tmp_path, 150, seed, durability=durability), report)
