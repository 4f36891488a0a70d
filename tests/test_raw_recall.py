"""Raw forms beside the index: nothing else depends on them, and little recall is lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import raw_forms as bench
from bench.data import Data
from tests import naive
from tests.conftest import SmallSet
from tests.store_checks import normal, small_limits, sound_store
from vecstore.layout import HEADER_DTYPE, ExtentKind
from vecstore.raw_forms import FORMS


def test_postings_and_directory_are_the_same_in_every_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole numbers are kept by all forms, so all but the raw rows is equal, byte by byte."""
    small_limits(monkeypatch, pages=6)
    rows = np.random.default_rng(0).integers(0, 200, (300, 12)).astype(np.float32)
    files = []
    for raw in FORMS:
        with sound_store(tmp_path / raw) as store:
            docs = store.collection("docs", dim=12, raw=raw)
            docs.upsert(range(200), rows[:200])
            docs.upsert(range(200, 300), rows[200:])
            calibration = docs.stats()["calibration"]
        found = {
            file.name: (file.read_bytes(), calibration)
            for file in (tmp_path / raw / "extents").iterdir()
            if np.fromfile(file, HEADER_DTYPE, 1)[0]["kind"] != ExtentKind.RAW
        }
        assert len(found) >= 2
        files.append(found)
    assert files[0] == files[1] == files[2]


@pytest.mark.parametrize("raw", ["float16", "int8"])
def test_recall_on_real_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_set: SmallSet, raw: str
) -> None:
    """Against the vectors as they were given: little is lost by rounding them."""
    monkeypatch.setattr("vecstore.write.BULK_ROWS_MIN", 500)
    monkeypatch.setattr("vecstore.division.RUN_ROWS_MAX", 500)
    monkeypatch.setattr("vecstore.division.LIST_BYTES_MAX", 0)
    base, asked = small_set.base, small_set.query
    with sound_store(tmp_path / "s") as store:
        docs = store.collection("docs", dim=small_set.dim, metric=small_set.metric, raw=raw)
        docs.upsert(range(len(base)), base)
        assert docs.stats()["postings"] > 5
        exact = [naive.distances(small_set.metric, q, base) for q in asked]
        kth = [np.sort(distances)[:10] for distances in exact]
        for target, floor in ((None, 0.925), (1.0, 0.98)):
            ids = docs.search(asked, recall=target).ids
            found = [distances[own] for distances, own in zip(exact, ids, strict=True)]
            assert naive.recall(found, kth) >= floor


def test_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_limits(monkeypatch, posting=50)
    for name, value in (("BATCH", 40), ("BATCHES", 2), ("PASSES", 1)):
        monkeypatch.setattr(bench, name, value)
    base, asked = normal(400, 8), normal(20, 8, seed=1)
    near = np.array([naive.top_k("l2", query, base, 10)[0] for query in asked])
    measured = bench.measure(Data("tiny", "l2", base, asked, near), tmp_path)
    assert [entry["form"] for entry in measured] == list(FORMS)
    errors = [entry["error_worst"] for entry in measured]
    assert errors[0] == 0 < errors[1] < 2**-11 < errors[2] < 1 / 100
    assert all(entry["recall"]["1"] > 0.98 for entry in measured)
    lines = bench.table(measured).splitlines()
    assert len(lines) == 2 + len(FORMS)
    assert len({line.count("|") for line in lines}) == 1
    machine = {"cpu": "A", "cores": 2, "date": "2026-01-01T", "git_commit": "0", "git_dirty": True}
    text = bench.report({**machine, "command": "bench"}, measured)
    assert "\n".join(lines) in text
    assert "0 with uncommitted changes: `bench`" in text
