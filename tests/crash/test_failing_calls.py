"""The n-th call to the system fails, n rising until a run passes without a failure.

The error is typed, the call is absent (or whole, where it had been committed before), nothing
acknowledged is lost, and after a failed sync of the facts nothing is written any more.
"""

from __future__ import annotations

import errno
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.crash import lives, work
from tests.crash.server import Server
from tests.crash.shim import Kind

LENGTH = 9
WRONG_MAX = 20
ERRORS = {
    Kind.WRITE: [errno.EIO, errno.ENOSPC, 0],
    Kind.SYNC: [errno.EIO, errno.ENOSPC],
    Kind.OPEN: [errno.EIO, errno.EMFILE],
    Kind.RENAME: [errno.EIO, errno.ENOSPC],
    Kind.MMAP: [errno.ENOMEM, errno.EIO],
    Kind.UNLINK: [errno.EIO],
}


@dataclass
class Tally:
    """What became of the runs."""

    runs: int = 0
    raised: int = 0
    put_off: int = 0
    refused_further_writes: int = 0
    wrong: list[str] = field(default_factory=list)


def windows() -> dict[str, int]:
    """Where to begin in the history: at its start, and where the next calls are of most kinds."""
    verbs = [work.step(number)[0] for number in range(150)]
    starts = range(40, 140)
    return {"first calls": 0, "later": max(starts, key=lambda i: len({*verbs[i : i + LENGTH]}))}


@pytest.fixture(scope="module")
def prepared(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Stores as they are before each window."""
    found = {}
    for first in windows().values():
        folder = tmp_path_factory.mktemp(f"before-{first}")
        if first:
            server.run(lives.live, str(folder / "store"), str(folder / "acks"), 0, first).get()
            (folder / "acks").unlink()
        found[first] = folder
    return found


def attack(
    server: Server,
    prepared: dict[int, Path],
    folder: Path,
    kind: Kind,
    *,
    every: int = 1,
    fault: str = "",
    stays: tuple[bool, ...] = (False, True),
    durability: str = "commit",
) -> Tally:
    """Let every n-th call fail in turn, with every error that it may fail with."""
    tally = Tally()
    states = work.states(max(prepared) + LENGTH + 1)
    for first, before in prepared.items():
        for stay in stays:
            for error in ERRORS[kind]:
                at = 1 + tally.runs % every
                how = (kind, error, stay, fault, durability)
                while one_run(server, before, folder, states, first, at, how, tally):
                    at += every
    return tally


def one_run(
    server: Server,
    before: Path,
    folder: Path,
    states: list[Any],
    first: int,
    at: int,
    how: tuple[Kind, int, bool, str, str],
    tally: Tally,
) -> bool:
    """Let one call fail; tell whether there was one to fail."""
    kind, error, stay, fault, durability = how
    target = folder / "run"
    shutil.copytree(before, target)
    store = str(target / "store")
    outcome = server.run(
        lives.failing, store, first, first + LENGTH, int(kind), at, error, stay, fault, durability
    )
    where = f"{kind.name} {at} from call {first}, errno {error}, stays {stay}"
    if outcome.status:
        tally.wrong.append(f"{where}: {outcome.status} {outcome.error}")
        shutil.rmtree(target)
        return len(tally.wrong) < WRONG_MAX
    found: lives.Failure = outcome.value
    where += f" ({found.file}; {found.error})"
    if not found.file:
        shutil.rmtree(target)
        return False
    tally.runs += 1
    tally.raised += bool(found.error)
    tally.put_off += not found.error
    if found.error.startswith("CorruptionError"):
        tally.wrong.append(f"{where}: told to restore a backup")
    done, kept = found.done, found.kept + (found.wrote_on and durability == "commit")
    allowed = states[kept : done + found.wrote_on + 1]
    if found.held is not None and found.held not in states[found.kept : done + 1]:
        whole = found.held == states[done + 1]
        held = "the call that failed" if whole else "another state"
        tally.wrong.append(f"{where}: held {held} after the error")
    if found.error and kind == Kind.SYNC and found.file.endswith("data.mdb"):
        tally.refused_further_writes += not found.wrote_on
        if found.wrote_on:
            tally.wrong.append(f"{where}: wrote on after a failed sync")
    looked = server.run(lives.look, store)
    if looked.status:
        tally.wrong.append(f"{where}: reopened: {looked.error}")
    elif looked.value[1]:
        tally.wrong.append(f"{where}: reopened: {looked.value[1]}")
    elif looked.value[0] not in allowed:
        number = [i for i, state in enumerate(states) if state == looked.value[0]]
        tally.wrong.append(f"{where}: reopened: holds state {number}, not {kept} to {done}")
    shutil.rmtree(target)
    return True


def test_planted_bug_is_seen(
    shimmed: Server, prepared: dict[int, Path], tmp_path: Path, report: Any
) -> None:
    """A failed sync of the facts that is taken for a success, or after which writing goes on."""
    for fault in ("failed_commit_forgotten", "failed_call_keeps_its_rows"):
        tally = attack(shimmed, prepared, tmp_path, Kind.SYNC, every=7, fault=fault, stays=(False,))
        report(runs=tally.runs, caught_in=len(tally.wrong))
        assert tally.wrong, fault


def hold(tally: Tally, report: Any) -> None:
    report(
        runs=tally.runs,
        raised=tally.raised,
        put_off=tally.put_off,
        refused_further_writes=tally.refused_further_writes,
        wrong=len(tally.wrong),
    )
    assert not tally.wrong, "\n".join(tally.wrong[:5])


EVERY = {
    Kind.WRITE: 90,
    Kind.SYNC: 30,
    Kind.OPEN: 35,
    Kind.RENAME: 1,
    Kind.MMAP: 25,
    Kind.UNLINK: 6,
}


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.name)
def test_failing_call(
    shimmed: Server, prepared: dict[int, Path], tmp_path: Path, kind: Kind, report: Any
) -> None:
    hold(attack(shimmed, prepared, tmp_path, kind, every=EVERY[kind]), report)


@pytest.mark.parametrize("kind", [Kind.WRITE, Kind.SYNC], ids=lambda kind: kind.name)
def test_failing_call_with_batches(
    shimmed: Server, prepared: dict[int, Path], tmp_path: Path, kind: Kind, report: Any
) -> None:
    every = EVERY[kind]
    hold(attack(shimmed, prepared, tmp_path, kind, every=every, durability="batch"), report)


@pytest.mark.soak
@pytest.mark.parametrize("kind", [Kind.WRITE, Kind.SYNC], ids=lambda kind: kind.name)
def test_every_failing_call_with_batches(
    shimmed: Server, prepared: dict[int, Path], tmp_path: Path, kind: Kind, report: Any
) -> None:
    hold(attack(shimmed, prepared, tmp_path, kind, durability="batch"), report)


@pytest.mark.soak
@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.name)
def test_every_failing_call(
    shimmed: Server, prepared: dict[int, Path], tmp_path: Path, kind: Kind, report: Any
) -> None:
    hold(attack(shimmed, prepared, tmp_path, kind), report)
