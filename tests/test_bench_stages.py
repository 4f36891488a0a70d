"""Where a query's time goes: clocks change no answer, and their times add up; opening, growth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from bench import growth, opening, stages
from bench.channel import BenchError
from bench.machine import machine_facts
from bench.results import load_run
from bench.run import Settings
from bench.summary import Summary
from vecstore import search
from vecstore.kernels.scan import seed

DATASET = "synthetic-9000x16"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data cache."""
    monkeypatch.setenv("VECSTORE_DATA", str(tmp_path / "data"))
    return tmp_path


@pytest.mark.parametrize("codec", ["rabitq1", "rabitq3"])
def test_clocks_change_no_answer_and_add_up(
    codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(3)
    base = draw.standard_normal((9_000, 24)).astype(np.float32)
    queries = draw.standard_normal((40, 24)).astype(np.float32)
    plain, clocked = vars(search)["search_many"], stages.instrumented()
    rate = stages.cycles_per_ns()
    with vecstore.open(tmp_path / "store") as store:
        docs = store.collection("docs", dim=24, codec=codec)
        docs.load(base)
        answers: dict[str, list[Any]] = {}
        for name, function in (("plain", plain), ("clocked", clocked), ("again", clocked)):
            found: list[Any] = []

            def ask(i: int, found: list[Any] = found) -> None:
                found.append([(hit.id, hit.distance) for hit in docs.query(queries[i], k=10)])

            taken = stages.pass_over(ask, len(queries), function)
            answers[name] = found
    assert vars(search)["search_many"] is plain
    assert answers["plain"] == answers["clocked"] == answers["again"]
    call, kernel, cycles = taken[:, 0], taken[:, 1], taken[:, 2:]
    by_stage = dict(zip(stages.STAGES, cycles.sum(axis=0).tolist(), strict=True))
    used = {name for name, spent in by_stage.items() if spent > 0}
    assert used >= {"prepare", "route", "prune", "seed", "scan", "rerank"}
    assert ("refine" in used) == (codec == "rabitq3")
    assert (kernel < call).all()
    assert (cycles.sum(axis=1) / rate < kernel).all()
    assert np.median(cycles.sum(axis=1) / rate / kernel) > 0.5


def test_a_stage_that_is_no_more_is_noticed() -> None:
    with pytest.raises(BenchError, match="seed does not call forget any more"):
        stages._rebuilt(seed, {"rerank": None, "forget": None})


def test_stages_from_the_command_line(
    cached: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stages, "QUERIES", 20)
    monkeypatch.setattr(stages, "PASSES", 2)
    out, work = cached / "out", cached / "work"
    stages.main(
        [DATASET, "--recall", "0.9,0.99", "--work", str(work), "--out", str(out)],
    )
    text = (out / "stages.md").read_text("utf-8")
    assert text == capsys.readouterr().out
    assert str(cached) not in text
    told = json.loads((out / "stages.json").read_text("utf-8"))["figures"][DATASET]
    assert list(told) == ["0.9", "0.99"]
    for one in told.values():
        assert list(one["us"])[: len(stages.STAGES)] == list(stages.STAGES)
        assert one["us"]["Python"] > 0
        assert one["us"]["kernel"] < one["us"]["call"]
        assert one["counted"]["scanned"] > one["counted"]["postings"] >= 1


def test_opening_step_by_step(
    cached: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # compiling takes half a minute: the scripts of the first trial of a machine are replaced
    real = opening.trial

    def quick(script: str, arguments: Any, cache: Path | None = None) -> opening.Seconds:
        if script is opening._WARMUP:
            return {"python": 0.1, "library": 0.2, "warmup": 7.0}
        return real(script, arguments)

    monkeypatch.setattr(opening, "trial", quick)
    out = cached / "out"
    opening.main(
        f"--dataset {DATASET} --repeats 2 --work {cached / 'work'} --out {out}".split(),
    )
    whole = json.loads((out / "opening.json").read_text("utf-8"))
    assert {"warm", "pages on disk", "first ever", opening.WARMUP} <= set(whole["seconds"])
    steps = ["python", "numpy", "library", "the rest of it", "open", "collection", "first query"]
    for case in ("warm", "pages on disk"):
        assert len(whole["seconds"][case]) == 2
        for one in whole["seconds"][case]:
            assert list(one) == [*steps, "second query"]
            assert min(one.values()) > 0
            assert opening.after_imports(one) == pytest.approx(sum(one[s] for s in steps[-3:]))
    text = (out / "opening.md").read_text("utf-8")
    assert text == capsys.readouterr().out
    assert "compiles all kernels in\n7 s" in text


def test_a_trial_that_fails_is_told() -> None:
    with pytest.raises(BenchError, match=r"status 1: [\s\S]*no such thing"):
        opening.trial("raise ValueError('no such thing')", [])


def test_memory_as_a_formula() -> None:
    rows = [100_000, 300_000, 1_000_000, 10_000_000]
    base, slope = growth.line(rows, [5e6 + 30 * n for n in rows])
    assert base == pytest.approx(5e6)
    assert slope == pytest.approx(30)


def test_sizes_end_with_the_one_asked_for() -> None:
    assert growth.sizes_up_to(10_000_000) == list(growth.SIZES)
    assert growth.sizes_up_to(500_000) == [100_000, 300_000, 500_000]
    assert growth.sizes_up_to(50) == [50]


def test_growth_from_size_to_size(cached: Path) -> None:
    folder, said = cached / "out", list[str]()
    settings = Settings(
        (), ("vecstore", "faiss-flat"), (0.9, 0.99), queries=20, repeats=2, batch=False
    )
    arguments = (16, 3_000, folder, cached / "work", machine_facts("test"), said.append)
    growth.run_growth(settings, [2_000, 5_000], *arguments)
    stored = load_run(folder)
    places = [(pair.dataset, pair.adapter) for pair in stored.pairs]
    assert places == [
        ("synthetic-2000x16", "vecstore"),
        ("synthetic-2000x16", "faiss-flat"),
        ("synthetic-5000x16", "vecstore"),
    ]
    from bench import report

    report.write_report([stored], folder)
    text = (folder / "report.md").read_text("utf-8")
    part = text.partition("## Growth")[2]
    assert "| vecstore (16-d) | 2,000 | " in part
    assert "| vecstore (16-d) | 5,000 | " in part
    assert "faiss-flat" not in part  # a single size is no curve
    assert "per million vectors" in part
    assert (folder / "growth.png").stat().st_size > 5_000


def test_only_synthetic_sets_grow() -> None:
    one = Summary("sift", "vecstore", {}, [], [])
    assert growth.curves([({"rows": 1, "dim": 2}, one), ({"rows": 3, "dim": 2}, one)]) == {}
