"""The benchmark harness: its metrics against plain numpy, and a tiny run from end to end."""

from __future__ import annotations

import importlib.util
import json
import math
import mmap
from pathlib import Path

import numpy as np
import pytest

from bench import data, metrics, report
from bench.adapters import ADAPTERS, adapter_class, missing_modules
from bench.channel import BenchError
from bench.machine import machine_facts, without_places
from bench.memory import read_memory
from bench.results import load_run
from bench.run import Settings, run, sittings, turns, worth_repeating
from bench.summary import ratio_at, summarise

DATASET = "synthetic-2000x16"
QUERIES, K, REPEATS = 50, 10, 3


def test_true_distances_match_their_definitions() -> None:
    draw = np.random.default_rng(1)
    base = draw.standard_normal((40, 7)).astype(np.float32)
    queries = draw.standard_normal((70, 7)).astype(np.float32)
    ids = draw.integers(0, 40, (70, 5))
    found = {m: metrics.true_distances(base, queries, ids, m) for m in ("l2", "cosine", "ip")}
    for q, i in ((0, 0), (33, 4), (69, 2)):
        x, y = base[ids[q, i]].astype(float), queries[q].astype(float)
        cosine = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
        assert found["l2"][q, i] == pytest.approx(((x - y) ** 2).sum())
        assert found["cosine"][q, i] == pytest.approx(1 - cosine)
        assert found["ip"][q, i] == pytest.approx(-(x @ y))


def test_recall_counts_ties_once_and_ignores_padding() -> None:
    base = np.array([[0], [1], [-1], [1], [5]], np.float32)
    queries = np.zeros((4, 1), np.float32)
    ids = np.array([[0, 3], [0, 0], [0, -1], [4, 2]])  # rows 1, 2 and 3 tie for the second place
    found = metrics.found_mask(base, queries, ids, np.ones(4), "l2")
    assert found.tolist() == [[True, True], [True, False], [True, False], [False, True]]
    assert metrics.recall(found, 2) == pytest.approx((2 + 1 + 1 + 1) / 8)


@pytest.mark.parametrize("percent", [0, 50, 99, 100])
def test_percentile_matches_order_statistics(percent: float) -> None:
    values = np.random.default_rng(2).integers(1, 10**6, 1001).astype(np.uint32)
    expected = sorted(values.tolist())[int(percent * 10)]
    assert metrics.percentile(values, percent) == expected


def test_frontier_keeps_what_nothing_beats() -> None:
    draw = np.random.default_rng(3)
    recalls, values = draw.random(60).round(1).tolist(), draw.random(60).round(1).tolist()
    points = list(zip(recalls, values, strict=True))
    kept = metrics.frontier(recalls, values)
    unbeaten = {
        p for p in points if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)
    }
    assert {points[i] for i in kept} == unbeaten
    assert len(kept) == len(unbeaten)
    assert [recalls[i] for i in kept] == sorted(recalls[i] for i in kept)


def test_interpolation_is_log_linear_and_never_extrapolates() -> None:
    recalls, values = [0.8, 0.9, 0.85, 0.98], [4000.0, 1000.0, 500.0, 100.0]  # 0.85 is beaten
    middle = metrics.at_recall(recalls, values, 0.94)
    assert middle.kind == "exact"
    assert middle.value == pytest.approx(math.sqrt(1000 * 100))
    assert metrics.at_recall(recalls, values, 0.9).value == 1000
    assert metrics.at_recall(recalls, values, 0.5) == metrics.AtRecall(4000.0, "at least")
    assert metrics.at_recall(recalls, values, 0.99) == metrics.AtRecall(None, "not reached")


def test_turns_alternate_and_cover_every_point() -> None:
    order = turns({"a": 3, "b": 3}, backwards=False)
    assert [name for name, _ in order] == ["a", "b"] * 3
    assert sorted(order) == [(name, point) for name in "ab" for point in range(3)]
    assert turns({"a": 3, "b": 3}, backwards=True) == order[::-1]


def test_hopeless_points_are_dropped() -> None:
    # beaten by the next one; kept; too low; kept; saturated; saturated but fastest
    recalls, seconds = [0.9, 0.92, 0.3, 0.99, 1.0, 1.0], [9.0, 2.0, 1.0, 3.0, 9.0, 5.0]
    assert worth_repeating(recalls, seconds) == [1, 3, 5]
    assert worth_repeating([0.1, 0.2], [1.0, 1.0]) == [1]


def test_memory_tells_anonymous_from_file_pages() -> None:
    before = read_memory()
    # a mapping of its own: an array may be given memory that was freed and is still resident
    with mmap.mmap(-1, 2**25, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
        held.write(bytes(2**25))
        grown = read_memory().anon_bytes - before.anon_bytes
    assert grown == pytest.approx(2**25, rel=0.1)
    assert before.file_bytes > 0


def test_results_name_no_folders_of_this_machine() -> None:
    text = "no /srv/some-where/index.bin in `bench run --out=/var/x/y` or a/b/c, 3/4 https://a/b"
    left = "no index.bin in `bench run --out=y` or a/b/c, 3/4 https://a/b"
    assert without_places(text) == left


def test_every_adapter_is_described_without_loading_its_library() -> None:
    for name in ADAPTERS:
        assert adapter_class(name).__doc__
        assert isinstance(missing_modules(name), list)
    with pytest.raises(ValueError, match="No adapter is called 'nope'; there are: vecstore"):
        adapter_class("nope")


def test_unknown_data_is_refused() -> None:
    with pytest.raises(BenchError, match="No dataset is called 'nope'"):
        data.load("nope")
    with pytest.raises(BenchError, match="is not of the form"):
        data.load("synthetic-2000")


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data cache."""
    monkeypatch.setenv("VECSTORE_DATA", str(tmp_path / "data"))
    return tmp_path


@pytest.mark.usefixtures("cached")
def test_smaller_synthetic_sets_are_prefixes_with_exact_neighbours() -> None:
    small, large = data.load("synthetic-300x8-cosine"), data.load("synthetic-70000x8-cosine")
    assert np.array_equal(small.base, large.base[:300])
    every = np.broadcast_to(np.arange(300), (20, 300))
    distances = metrics.true_distances(small.base, small.queries[:20], every, "cosine")
    assert np.array_equal(small.neighbors[:20, :5], np.argsort(distances, axis=1)[:, :5])


def _adapters() -> tuple[str, ...]:
    names = ["faiss-flat", "hnswlib"]
    spec = importlib.util.find_spec("vecstore")
    if spec is not None and spec.origin is not None:
        names.append("vecstore")
    return tuple(names)


def test_a_tiny_run_from_build_to_report(cached: Path) -> None:
    adapters = _adapters()
    settings = Settings(
        (DATASET,), adapters, (0.9, 0.99, 1.0), queries=QUERIES, k=K, repeats=REPEATS
    )
    folder = cached / "results"
    said: list[str] = []
    run(settings, folder, cached / "work", machine_facts("test"), said.append)
    stored = load_run(folder)
    pairs = {pair.adapter: pair for pair in stored.pairs}
    assert list(pairs) == list(adapters)
    missing = {name for name in adapters if missing_modules(name)}
    for name in adapters:
        assert pairs[name].record["status"] == ("skipped" if name in missing else "ok"), said

    summaries = {name: summarise(pairs[name], stored) for name in adapters if name not in missing}
    flat = summaries["faiss-flat"]
    assert [point.recall for point in flat.points] == [1.0]
    for name, summary in summaries.items():
        points, arrays, record = summary.points, pairs[name].arrays, pairs[name].record
        assert max(point.recall for point in points) > 0.98
        assert arrays["latency_ns"].shape == (REPEATS, len(points), QUERIES)
        assert arrays["latency_ns"].min() > 0
        assert arrays["ids"].shape == (QUERIES, K, len(points))
        assert all(point.p50_us <= point.p99_us for point in points)
        assert {batch.threads for batch in summary.batches} >= {1}
        assert record["build"]["disk_bytes"] > 0
        assert record["build"]["peak_rss_bytes"] > record["build"]["imports_anon_bytes"]
        phases = ["start", "imports", "baseline", "open", "first_query", "after_queries"]
        assert list(record["memory"]) == phases
        assert ratio_at(summary, summary, 0.9).value == 1.0

    head, rows = report.write_report([stored], folder)[0]
    assert head[0] == DATASET
    assert [row[0] for row in rows] == list(summaries)
    text = (folder / "report.md").read_text("utf-8")
    for image in ("recall-qps", "recall-latency", "resources"):
        assert f"{DATASET}-{image}.png" in text
        assert (folder / f"{DATASET}-{image}.png").stat().st_size > 5000
    assert json.loads((folder / "run.json").read_text("utf-8"))["machine"]["python"]


def test_an_earlier_build_is_reused_only_when_asked(cached: Path) -> None:
    for reuse, expected in (((), False), (("faiss-flat",), True), ((), False)):
        settings = Settings(
            (DATASET,), ("faiss-flat",), queries=5, repeats=1, batch=False, reuse=reuse
        )
        stored = run(settings, cached / "out", cached / "work", machine_facts("test"), print)
        assert stored.pairs[0].record["build"]["reused"] is expected


def test_references_sit_in_every_sitting() -> None:
    asked = ("vecstore", "a", "hnswlib", "b", "c")
    assert sittings(asked, (), 0) == [list(asked)]
    assert sittings(asked, (), 2) == [
        ["vecstore", "a", "hnswlib", "b"],
        ["vecstore", "hnswlib", "c"],
    ]
    assert sittings(asked, ("vecstore", "hnswlib", "a"), 0) == [["vecstore", "hnswlib", "b", "c"]]
    assert sittings(asked, ("a", "b", "c"), 2) == [["vecstore", "hnswlib"]]
    assert sittings(("vecstore", "a"), ("vecstore", "a"), 2) == []
    assert sittings(("a", "b"), (), 1) == [["a"], ["b"]]


def test_a_run_goes_on_where_it_ended(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.run.REFERENCES", ("hnswlib", "faiss-flat"))
    folder, said = cached / "out", list[str]()

    def asked(*adapters: str, queries: int = 20) -> None:
        settings = Settings(
            (DATASET,), adapters, queries=queries, repeats=2, batch=False, together=1, go_on=True
        )
        run(settings, folder, cached / "work", machine_facts("test"), said.append)

    def built() -> list[str]:
        names = [line.rpartition(" ")[2] for line in said if "building" in line]
        said.clear()
        return names

    asked("faiss-flat", "faiss-ivf-mmap")
    assert built() == ["faiss-flat", "faiss-ivf-mmap"]
    first = (folder / f"{DATASET}--faiss-flat.npz").read_bytes()
    asked("faiss-flat", "faiss-ivf-mmap")
    assert built() == []
    asked("faiss-flat", "faiss-ivf-mmap", "faiss-hnsw", "faiss-ivfpq")
    assert built() == ["faiss-flat", "faiss-hnsw", "faiss-flat", "faiss-ivfpq"]
    stored = load_run(folder)
    places = [(pair.adapter, pair.record["sitting"]) for pair in stored.pairs]
    assert places == [
        *(("faiss-flat", 0), ("faiss-ivf-mmap", 0)),
        *(("faiss-flat", 1), ("faiss-hnsw", 1)),
        *(("faiss-flat", 2), ("faiss-ivfpq", 2)),
    ]
    assert (folder / f"{DATASET}--faiss-flat.npz").read_bytes() == first
    reused = [pair.record["build"]["reused"] for pair in stored.pairs]
    assert reused == [False, False, True, False, True, False]
    monkeypatch.setattr("bench.report.OURS", "faiss-flat")
    _, rows = report.write_report([stored], folder)[0]
    names = ["faiss-flat", "faiss-ivf-mmap", "faiss-hnsw", "faiss-ivfpq"]
    assert [row[0] for row in rows] == names
    text = (folder / "report.md").read_text("utf-8")
    duels = text.partition("| vecstore against |")[2].partition("\n\n")[0]
    assert [line.split(" | ")[0] for line in duels.splitlines()[2:]] == [
        f"| {n}" for n in names[1:]
    ]
    with pytest.raises(BenchError, match="was measured with queries 20, now it is 30"):
        asked("faiss-flat", queries=30)


def test_sources_of_the_store_belong_to_its_build(monkeypatch: pytest.MonkeyPatch) -> None:
    before = adapter_class("vecstore").code()
    assert before == adapter_class("vecstore-float32").code()
    real = Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda self: real(self) + b" " * (self.name == "ids.py")
    )
    assert adapter_class("vecstore").code() != before


def test_a_failing_adapter_leaves_the_others(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # known to this process only: the child refuses the name
    monkeypatch.setitem(ADAPTERS, "broken", ADAPTERS["faiss-flat"])
    settings = Settings((DATASET,), ("broken", "faiss-flat"), queries=5, repeats=1, batch=False)
    said: list[str] = []
    stored = run(settings, cached / "out", cached / "work", machine_facts("test"), said.append)
    assert [pair.record["status"] for pair in stored.pairs] == ["failed", "ok"]
    assert any("broken failed" in line for line in said)


def test_reading_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="is no benchmark run"):
        load_run(tmp_path)
    (tmp_path / "run.json").write_text('{"schema": 99}', "utf-8")
    with pytest.raises(BenchError, match="has schema 99, this code reads 1"):
        load_run(tmp_path)
