"""The benchmark of churn: what moves and is asked, what is counted, a tiny run from end to end."""

from __future__ import annotations

import itertools
import json
import mmap
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.channel import BenchError
from bench.churn import measure, report
from bench.churn.__main__ import main
from bench.churn.arms import ARMS, Arm
from bench.churn.ask import PACE, ask
from bench.churn.disk import FACTS, GONE, UNFINISHED, Looker, Watch, sizes
from bench.churn.stream import Stream, make_stream
from vecstore import reshaping

DATASET = "synthetic-12000x8"
ROWS = 6_000


@pytest.fixture(autouse=True)
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data cache."""
    monkeypatch.setenv("VECSTORE_DATA", str(tmp_path / "data"))
    return tmp_path


def stream(rounds: int = 4, share: float = 0.1) -> Stream:
    return make_stream(DATASET, ROWS, rounds, share, 1)


def test_the_window_moves_by_group() -> None:
    made = stream()
    states = [made.standing(round_) for round_ in range(made.rounds + 1)]
    for round_, (before, after) in enumerate(itertools.pairwise(states), start=1):
        assert len(set(after.tolist())) == ROWS
        leaving, coming = made.leaving(round_), made.coming(round_)
        assert np.array_equal(np.setdiff1d(before, after), np.sort(leaving))
        assert np.array_equal(np.setdiff1d(after, before), np.sort(coming))
        assert len(coming) == len(leaving) == made.step == 600
        # few groups of the 64 are touched by a round, where any 600 rows would be of nearly all
        assert len(np.unique(made.groups[coming])) < 15
    told = made.described()
    assert told["rounds"] == len(told["moved"]) == 4
    assert sum(one["rows_of_groups_in_both"] for one in told["moved"]) == 0


def test_queries_follow_the_rows_and_are_never_stored() -> None:
    made = stream()
    stored = {row.tobytes() for row in made.take(made.order[made.marked])}
    for round_ in (0, made.rounds):
        asked = made.queries(round_, 100)
        assert not any(row.tobytes() in stored for row in asked)
        standing = set(made.groups[made.standing(round_)].tolist())
        place = {row.tobytes(): at for at, row in enumerate(made.take(np.arange(12_000)))}
        assert {int(made.groups[place[row.tobytes()]]) for row in asked} <= standing
    assert not np.array_equal(made.queries(0, 50), made.queries(1, 50))
    assert np.array_equal(made.queries(1, 50), stream().queries(1, 50))


def test_truth_is_that_of_the_rows_that_stand() -> None:
    made = stream()
    asked = made.asked(2, 20, 5)
    rows = made.take(made.standing(2)).astype(float)
    for query, kth in zip(asked.queries, asked.kth, strict=True):
        apart = np.sort(((rows - query) ** 2).sum(axis=1))
        assert kth == pytest.approx(apart[4], rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((DATASET, 10_000, 5, 0.1, 1), "take 15000 rows"),
        ((DATASET, 10, 1, 0.01, 1), "replace at least one"),
        ((DATASET, 11_980, 1, 0.001, 1), "for 100 queries"),
    ],
)
def test_what_cannot_be_laid_out(arguments: Any, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        make_stream(*arguments).queries(0, 100)


def test_arms_differ_by_what_the_engine_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vecstore.write.LOG_ROWS_MAX", 200)
    monkeypatch.setattr("vecstore.write.BULK_ROWS_MIN", 4_000)
    attracted = reshaping.ATTRACTED
    made, told = stream(share=0.2), {}
    for name in ("append", "split", "reassign"):
        arm = Arm(name, tmp_path / name, made, "inline")
        arm.build(0)
        for round_ in range(1, 5):
            arm.write(made.leaving(round_), made.coming(round_), 0)
        asked = made.asked(4, 50, 10)
        found = measure.fixed(made, arm.docs, asked, 10)
        assert arm.docs.count() == ROWS
        assert [value["recall"] for value in found.values()] == sorted(
            value["recall"] for value in found.values()
        )
        assert measure.calibrated(made, arm.docs, asked, 10)["recall"] > 0.85
        shape = measure.shape(arm.docs)
        assert 0 < shape["live_entries"]["entries"] <= shape["posting_entries"]
        assert len(arm.take_calls()) == 2 * 2 * 4
        assert not arm.take_calls()
        told[name] = arm.counters()
        arm.close()
    assert attracted == reshaping.ATTRACTED
    append, split, reassign = (told[name] for name in ("append", "split", "reassign"))
    assert not append["splits"]
    assert not append["renewed"]
    assert split["splits"]
    assert reassign["splits"]
    assert reassign["checked"] > split["checked"]
    assert reassign["checked"] > reassign["moved"] > 0


def test_sizes_by_kind_with_what_is_removed_but_mapped(tmp_path: Path) -> None:
    made = stream()
    arm = Arm("reassign", tmp_path / "store", made)
    arm.build(0)
    found = sizes(arm.folder)
    files = [path for path in arm.folder.rglob("*") if path.is_file()]
    assert sum(found.values()) == sum(path.stat().st_blocks * 512 for path in files)
    assert set(found) == {FACTS, "raw", "postings", "directory"}
    arm.close()
    path = arm.folder / "extents" / "000000009999.ext"
    path.write_bytes(bytes(40_960))
    looker = Looker(arm.folder, [os.getpid()])
    assert looker.look()[UNFINISHED] == 40_960
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        assert not set(GONE) & set(looker.look())
        path.unlink()
        assert looker.look()[GONE[0]] == 40_960
        both = Looker(arm.folder, [os.getpid(), os.getpid()]).look()
        assert both == looker.look()
        assert Looker(arm.folder, [os.getppid(), os.getpid()]).look()[GONE[1]] == 40_960
    assert not set(GONE) & set(looker.look())


def test_the_watch_sees_what_came_and_went(tmp_path: Path) -> None:
    with Watch(tmp_path, []) as watch:
        watch.peak()
        path = tmp_path / "large"
        path.write_bytes(bytes(1 << 20))
        ends = time.monotonic() + 30
        seen = 0
        while seen < 1 << 20 and time.monotonic() < ends:
            seen = max(seen, sum(watch.peak().values()))
        path.unlink()
        assert seen >= 1 << 20
        while sum(watch.peak().values()) >= 1 << 20 and time.monotonic() < ends:
            time.sleep(0.01)
        assert sum(watch.peak().values()) < 1 << 20


def test_a_stop_counts_for_every_query_that_was_due() -> None:
    """A query of 40 gaps delays the next ones, which are timed from when they were due."""
    stop = threading.Event()
    calls = 0

    class Slow:
        def query(self, query: Any, k: int) -> None:
            nonlocal calls
            calls += 1
            if calls == 3:
                time.sleep(40 / PACE)
            if calls == 50:
                stop.set()

    found = ask(Slow(), np.zeros((2, 1), np.float32), 1, stop.is_set)
    assert len(found) == 50
    assert (found > 10 * 10**9 // PACE).sum() >= 20


def test_tiny_run_and_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vecstore.write.LOG_ROWS_MAX", 100)
    monkeypatch.setattr("bench.churn.run.WARM_S", 0.02)
    out = tmp_path / "out"
    arguments = f"--dataset {DATASET} --rows 6000 --rounds 2 --share 0.1 --queries 40"
    arguments += f" --quiet-s 0.1 --rows-s 0 --work {tmp_path} --out {out}"
    assert main(arguments.split()) == 0
    data = json.loads((out / "churn.json").read_text())
    assert data["complete"]
    assert [one["round"] for one in data["rounds"]] == [0, 1, 2]
    for one in data["rounds"]:
        assert list(one["arms"]) == list(ARMS)
        for name, own in one["arms"].items():
            assert 0 < own["fixed"]["8"]["recall"] <= own["fixed"]["32"]["recall"] <= 1
            assert own["fixed"]["8"]["scanned"] < own["fixed"]["32"]["scanned"]
            if one["round"] and name != "rebuild":
                assert sum(own["disk_peak"].values()) >= 6_000 * 8 * 4
                assert own["engine"]["written"] >= 600
    assert all(own["violations"] == [] for own in data["compacted"].values())
    text = (out / "report.md").read_text()
    assert "| *goal* |" in text
    for name in ARMS:
        assert f"| 2 {name} |" in text
    assert (out / "churn.png").stat().st_size > 10_000
    assert not list(tmp_path.glob("churn-*"))
    # what a run that was cut short leaves is reported as such
    data["complete"], data["rounds"] = False, data["rounds"][:2]
    del data["compacted"]
    (out / "churn.json").write_text(json.dumps(data))
    report.write_report(out)
    text = (out / "report.md").read_text()
    assert "cut short" in text
    assert "Not reached." in text


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--arms", "magic", "--out", str(tmp_path / "out")]) == 1
    assert "append, split, reassign, rebuild" in capsys.readouterr().err
    assert main(["report", "--out", str(tmp_path / "none")]) == 1
    assert "holds no rounds" in capsys.readouterr().err
