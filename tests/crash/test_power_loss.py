"""The power goes at any moment: what is found is the last synced commit, or a later one, whole.

A traced process works through the history, is ended between two changes and followed by another.
At random points of the traces disks are made as they may be found then: unsynced writes lost,
kept, torn or reordered, unsynced names there or not.  Each must open to one of the states
that the history passed since the last call that had returned.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.crash import lives, work
from tests.crash.server import Server
from tests.crash.trace import MARK, POLICIES, Disk, Record, lay_out, read

STORE = "folders/to make/store"
BEGINNING = 20


@dataclass
class Traces:
    """What some lives in a row did, and which states they passed.

    Attributes
    ----------
    records : list
        None where a process ended.
    """

    root: Path
    records: list[Record | None] = field(default_factory=list)


@dataclass
class Tally:
    """What became of the images."""

    images: int = 0
    differed_from_synced: int = 0
    differed_from_live: int = 0
    later_than_acknowledged: int = 0
    wrong: list[str] = field(default_factory=list)


def make_traces(
    server: Server,
    folder: Path,
    ends: list[int],
    calls: int,
    fault: str = "",
    durability: str = "commit",
) -> Traces:
    """Let processes live one after another, each ended as `lives.traced` says."""
    root = folder / lives.DISK
    root.mkdir()
    found = Traces(root)
    states = work.states(calls + 1)
    first = 0
    for life, end in enumerate(ends):
        trace = folder / f"trace-{life}"
        store = str(root / STORE)
        outcome = server.run(lives.traced, store, str(trace), first, calls, end, fault, durability)
        assert outcome.status in (0, 137), outcome
        found.records += [*read(trace), None]
        ended = begun = first
        for record in found.records:
            if record is not None and record.op == MARK:
                verb, _, number = record.data.decode().partition(" ")
                ended = int(number) + 1 if verb == "end" else ended
                begun = int(number) + 1 if verb == "begin" else begun
        present = server.run(lives.peek, store).get()
        possible = states[ended : begun + 1]
        assert present in possible, f"life {life}: neither {ended} nor {begun} nor between them"
        first = ended + possible.index(present)
    return found


def try_images(
    server: Server, traces: Traces, folder: Path, count: int, seed: int, *, all_of_them: bool = True
) -> Tally:
    """Make images at random points and look at them: at all, or until one is wrong."""
    rng = random.Random(seed)
    points = sorted(rng.choices(*_unsynced_points(traces), k=count))
    states = work.states(max(_numbers(traces)) + 2)
    disk, tally = Disk(traces.root), Tally()
    low = high = 0
    for place, record in enumerate(traces.records):
        for _ in range(points.count(place)):
            policy = rng.choice(POLICIES)
            image = disk.image(policy, rng)
            tally.images += 1
            tally.differed_from_synced += image != disk.image("lost", rng)
            tally.differed_from_live += image != disk.image("kept", rng)
            target = folder / f"image-{tally.images}"
            target.mkdir()
            lay_out(image, target)
            outcome = server.run(lives.look_and_go_on, str(target / STORE), tally.images)
            where = f"image {tally.images} at {place} ({policy}), calls {low} to {high}"
            if outcome.status:
                tally.wrong.append(f"{where}: {outcome.status} {outcome.error}")
            elif outcome.value[1]:
                tally.wrong.append(f"{where}: {outcome.value[1]}")
            elif outcome.value[0] not in states[low : high + 1]:
                tally.wrong.append(f"{where}: holds another state")
            else:
                tally.later_than_acknowledged += outcome.value[0] != states[low]
            shutil.rmtree(target)
            if tally.wrong and not all_of_them:
                return tally
        if record is None:
            disk.new_life()
        elif record.op == MARK:
            verb, _, number = record.data.decode().partition(" ")
            if verb == "begin":
                high = int(number) + 1
            elif verb == "end":
                low = int(number) + 1
        else:
            disk.follow(record)
    return tally


def _unsynced_points(traces: Traces) -> tuple[list[int], list[float]]:
    """Places in the traces at which something might be lost, and weights.

    Much may go wrong when a process finds what another one left: the first changes of each count
    for more.
    """
    disk, points, weights, since = Disk(traces.root), [], [], 0
    for place, record in enumerate(traces.records):
        if disk.unsynced:
            points.append(place)
            weights.append(10.0 if since < BEGINNING else 1.0)
        if record is None:
            disk.new_life()
            since = 0
        elif record.op != MARK:
            disk.follow(record)
            since += 1
    return points, weights


def _numbers(traces: Traces) -> list[int]:
    marks = [r.data.decode().split() for r in traces.records if r is not None and r.op == MARK]
    return [int(mark[1]) for mark in marks if len(mark) > 1]


def attack(
    server: Server,
    folder: Path,
    ends: list[int],
    calls: int,
    count: int,
    seed: int,
    fault: str = "",
    durability: str = "commit",
) -> Tally:
    traces = make_traces(server, folder, ends, calls, fault, durability)
    return try_images(server, traces, folder, count, seed, all_of_them=not fault)


PLANTED = {"unlink_before_commit": 300}
FAULTS = ["commit_before_fsync", "folder_not_synced", "unlink_before_commit", "commit_not_synced"]


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_bug_is_seen(shimmed: Server, tmp_path: Path, fault: str, report: Any) -> None:
    tally = attack(shimmed, tmp_path, [0], 40, PLANTED.get(fault, 12), 1, fault)
    report(images_until_caught=tally.images)
    assert tally.wrong


@pytest.mark.soak
def test_planted_bug_of_the_next_process_is_seen(
    shimmed: Server, tmp_path: Path, report: Any
) -> None:
    """A process is ended in a commit, and the next removes files before that commit is durable."""
    ends = [-n for n in range(2, 40)]
    tally = attack(shimmed, tmp_path, ends, 250, 800, 1, "opened_without_sync")
    report(images=tally.images, caught_in=len(tally.wrong))
    assert tally.wrong


def test_power_loss_while_a_store_is_created(shimmed: Server, tmp_path: Path, report: Any) -> None:
    hold(attack(shimmed, tmp_path, [9, 15, 19, 0], 2, 30, 3), report)


def test_power_loss(shimmed: Server, tmp_path: Path, report: Any) -> None:
    hold(attack(shimmed, tmp_path, [200, -15, 400, -9, 0], 50, 40, 2), report)


def test_power_loss_with_batches(shimmed: Server, tmp_path: Path, report: Any) -> None:
    hold(attack(shimmed, tmp_path, [150, -6, 0], 40, 20, 4, durability="batch"), report)


@pytest.mark.soak
@pytest.mark.parametrize("durability", ["commit", "batch"])
@pytest.mark.parametrize("seed", range(2))
def test_power_loss_for_long(
    shimmed: Server, tmp_path: Path, seed: int, durability: str, report: Any
) -> None:
    rng = random.Random(seed)
    ends = [rng.randrange(1, 900) if life % 2 else -rng.randrange(1, 30) for life in range(24)]
    hold(attack(shimmed, tmp_path, [*ends, 0], 250, 400, seed, durability=durability), report)


def hold(tally: Tally, report: Any) -> None:
    report(
        images=tally.images,
        differed_from_the_synced_state=tally.differed_from_synced,
        differed_from_the_running_one=tally.differed_from_live,
        later_than_acknowledged=tally.later_than_acknowledged,
        wrong=len(tally.wrong),
    )
    assert not tally.wrong, "\n".join(tally.wrong[:3])
