"""The benchmark of codecs: recalls are those of the codes, and earlier results stay."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from bench import codecs
from bench.codec_quality import Best, K, Lists, codec_names, faiss_codec, faiss_indexes
from bench.codec_quality import quality as measured
from bench.codec_report import write_report
from bench.data import Data
from vecstore.codecs import find_codec

ROWS, DIM, QUERIES = 3_000, 32, 20


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


def draw(metric: str) -> Data:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(ROWS + QUERIES, DIM)) + 2 * rng.normal(size=(ROWS + QUERIES, 1))
    rows = (rows * rng.uniform(0.5, 2, (len(rows), 1))).astype(np.float32)
    base, queries = rows[:ROWS], rows[ROWS:]
    seen, asked = base, queries
    if metric == "cosine":
        seen, asked = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (base, queries))
    apart = ((asked[:, None] - seen[None]) ** 2).sum(axis=2)
    return Data("drawn", metric, base, queries, np.argsort(apart, axis=1)[:, :50])


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "load", lambda name: draw("l2"))


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> dict[str, Any]:
    monkeypatch.setattr("sys.argv", ["codecs", *arguments, "--out", str(folder)])
    codecs.main()
    found: dict[str, Any] = json.loads((folder / "codecs.json").read_text("utf-8"))
    return found


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_recall_follows_the_codes(metric: str) -> None:
    names = ["rabitq1", "rabitq4", "int8", "float32", "pq4"]
    data = draw(metric)
    found = {one["codec"]: one for one in measured(data, QUERIES, names, baselines=True)}
    recalls = [found[name]["recall_codes"] for name in names[:4]]
    assert recalls == sorted(recalls)
    assert recalls[0] > 0.3
    assert recalls[3] == found["float32"]["within_bound"] == 1
    for one in found.values():
        assert one["recall_codes"] <= one["recall_reranked"] + 1e-9
        assert one["recall_reranked"] > 0.6
        assert (one["dataset"], one["rows"], one["dim"]) == ("drawn", ROWS, DIM)
        assert one["library"] == "faiss" or one["within_bound"] >= 0.9
    ours, theirs = find_codec("int8").row_bytes(DIM), found["IVFScalarQuantizer, 8 bits"]
    assert found["int8"]["posting_bytes_per_row"] == ours
    assert theirs["code_bytes_per_row"] == DIM
    assert theirs["recall_codes"] > 0.95
    assert found["IVFRaBitQ, 4 bits"]["recall_codes"] > found["IVFRaBitQ, 1 bits"]["recall_codes"]


def test_baselines_for_odd_dimensions() -> None:
    names = faiss_indexes(50, 4)
    assert "IVFPQFastScan, 25 × 4 bits" in names
    assert sum("FastScan" in name for name in names) == 1
    assert any(name.startswith("opq") for name in codec_names(50, True))
    assert not any(name.startswith("opq") for name in codec_names(50, False))


def test_inner_products_are_refused() -> None:
    with pytest.raises(ValueError, match="ip"):
        Lists(replace(draw("l2"), metric="ip"), 1)


def test_lists_hold_all_rows_and_faiss_uses_them() -> None:
    lists = Lists(draw("l2"), QUERIES)
    assert sorted(np.concatenate(lists.members).tolist()) == list(range(ROWS))
    index = faiss_indexes(DIM, len(lists.centroids))["IVFScalarQuantizer, fp16"]
    assert faiss_codec(lists, "IVFScalarQuantizer, fp16", index)["recall_codes"] > 0.98
    sizes = [index.invlists.list_size(i) for i in range(index.nlist)]
    assert sizes == [len(members) for members in lists.members]


def test_best_keeps_the_least() -> None:
    values = np.random.default_rng(0).permutation(60).reshape(3, 20).astype(np.float32)
    best = Best(3, K)
    for start in range(0, 20, 7):
        best.add(np.arange(start, min(20, start + 7)), values[:, start : start + 7])
    assert best.rows().tolist() == np.argsort(values, axis=1)[:, :K].tolist()


@pytest.mark.usefixtures("load")
def test_a_run_adds_to_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Speeds stay, records are replaced one by one, and each names its run."""
    asked = ["drawn", "--no-speed", "--queries", "10", "--codec"]
    monkeypatch.setattr(codecs, "speeds", lambda: {"bandwidth_bytes_per_second": 1e9, "rows": []})
    first = run(monkeypatch, tmp_path)
    assert first["speeds"]["run"] == 0
    assert first["quality"] == []
    run(monkeypatch, tmp_path, *asked, "rabitq1,int8")
    last = run(monkeypatch, tmp_path, *asked, "int8,rabitq2")
    assert last["speeds"] == first["speeds"]
    assert len(last["runs"]) == 3
    places = {one["codec"]: one["run"] for one in last["quality"]}
    assert places == {"rabitq1": 1, "int8": 2, "rabitq2": 2}
    report = (tmp_path / "report.md").read_text("utf-8")
    for text in ("drawn: 3,000 × 32, l2", "| vecstore rabitq2 |", "## Speed", "10 held-out"):
        assert text in report
    again = run(monkeypatch, tmp_path, "--no-speed")
    assert again == last, "without anything to measure the report is written anew"


def test_report_opens_with_the_reading(tmp_path: Path) -> None:
    found: dict[str, Any] = {"runs": [], "speeds": None, "quality": []}
    (tmp_path / "codecs.json").write_text(json.dumps(found), "utf-8")
    (tmp_path / "reading.md").write_text("What it says.\n", "utf-8")
    text = write_report(tmp_path).read_text("utf-8")
    assert text.index("What it says.") < text.index("How to read the tables")
    assert "## Speed" not in text
