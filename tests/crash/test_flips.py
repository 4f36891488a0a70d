"""Files damaged at random: right answers or typed errors, in a process of its own."""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.crash import damage, lives
from tests.crash.server import Server

CALLS = 66
FACTS = "data.mdb"


@dataclass
class Tally:
    """What became of damaged stores."""

    verdicts: list[Any] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def sound(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A store with rows of every kind, and its answers."""
    folder = tmp_path_factory.mktemp("sound")
    server.run(lives.live, str(folder / "store"), str(folder / "acks"), 0, CALLS).get()
    return folder / "store", server.run(damage.sound_answers, str(folder / "store")).get()


def attack(
    server: Server,
    sound: tuple[Path, Any],
    folder: Path,
    *,
    facts: bool,
    count: int,
    seed: int,
    fault: str = "",
) -> Tally:
    """Damage one file of a copy of the store at a time; a planted bug need be seen only once."""
    rng, tally = random.Random(seed), Tally()
    store, expected = sound
    files = sorted(path.relative_to(store) for path in store.rglob("*") if path.is_file())
    files = [
        name for name in files if (name.name == FACTS) == facts and (store / name).stat().st_size
    ]
    while len(tally.verdicts) < count and not (fault and tally.problems):
        copy = Path(shutil.copytree(store, folder / "copy"))
        name = rng.choice(files)
        what = damage.damage(copy / name, rng)
        if what:
            outcome = server.run(damage.use, str(copy), expected, fault)
            tally.verdicts.append(outcome.value)
            problems = [f"ended with {outcome.status}: {outcome.error}"]
            if outcome.value is not None:
                problems = outcome.value.wrong
            tally.problems += [f"{name}: {what}: {problem}" for problem in problems]
        shutil.rmtree(copy)
    return tally


def test_planted_bug_is_seen(
    server: Server, sound: tuple[Path, Any], tmp_path: Path, report: Any
) -> None:
    fault = "checksums_not_looked_at"
    tally = attack(server, sound, tmp_path, facts=False, count=200, seed=1, fault=fault)
    report(**damage.summary(tally.verdicts))
    assert tally.problems


def hold(tally: Tally, report: Any) -> None:
    report(damaged=len(tally.verdicts), **damage.summary(tally.verdicts))
    assert not tally.problems, "\n".join(tally.problems[:10])


def test_flips(server: Server, sound: tuple[Path, Any], tmp_path: Path, report: Any) -> None:
    hold(attack(server, sound, tmp_path, facts=False, count=60, seed=2), report)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(4))
def test_flips_for_long(
    server: Server, sound: tuple[Path, Any], tmp_path: Path, seed: int, report: Any
) -> None:
    hold(attack(server, sound, tmp_path, facts=False, count=400, seed=seed), report)


@pytest.mark.soak
def test_flips_in_the_facts(
    server: Server, sound: tuple[Path, Any], tmp_path: Path, report: Any
) -> None:
    tally = attack(server, sound, tmp_path, facts=True, count=400, seed=3)
    report(damaged=len(tally.verdicts), **damage.summary(tally.verdicts))
