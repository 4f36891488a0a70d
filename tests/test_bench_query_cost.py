"""The benchmark of a query's fixed cost, run tiny: every case is there, times add up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench import query_cost
from vecstore import search


def test_all_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(query_cost, "SIZES", (10, 300))
    monkeypatch.setattr(query_cost, "QUERIES", 5)
    monkeypatch.setattr(query_cost, "PASSES", 2)
    before = search.search_many
    query_cost.main(["synthetic-2000x8", "--out", str(tmp_path / "out")])
    assert search.search_many is before
    said = capsys.readouterr().out
    report = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert str(tmp_path) not in report
    with np.load(tmp_path / "out" / "query_cost.npz") as found:
        cases = {name.removeprefix("synthetic-2000x8: "): found[name] for name in found.files}
    wanted = {"no tenants", "no tenants, metadata"}
    wanted |= {f"tenant of {size}{idle}" for size in (10, 300) for idle in ("", ", idle")}
    wanted |= {f"filter of {s:.2%}{new}" for s in query_cost.SHARES for new in ("", ", new")}
    assert cases.keys() == wanted
    for case, taken in cases.items():
        assert taken.shape == (2, 5, 2)
        whole, kernel = taken[..., 0], taken[..., 1]
        assert (kernel > 0).all(), case
        assert (kernel < whole).all(), case
        assert f"| {case} |" in report
        assert f"| {case} |" in said
    machine = json.loads((tmp_path / "out" / "query_cost.json").read_text("utf-8"))
    assert machine["command"].startswith("python -m bench.query_cost synthetic-2000x8")
