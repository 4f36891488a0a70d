"""tune: what it chooses, what it keeps, when it refuses, and that a failure changes nothing."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import vecstore
from tests import naive
from tests.store_checks import normal, small_limits, sound_store
from vecstore.cli import app
from vecstore.cli.tune import pareto_plot
from vecstore.collection import Collection
from vecstore.results import Candidate, Tuning

DIM = 24
ROWS = 900
CODECS = ("rabitq1", "rabitq4", "int8", "float16", "float32")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    small_limits(monkeypatch)
    monkeypatch.setattr("vecstore.calibrate.QUERIES", 60)
    monkeypatch.setattr("vecstore.tune.QUERIES", 80)
    monkeypatch.setattr("vecstore.calibrate.ROUGH_QUERIES", 39)
    monkeypatch.setattr("vecstore.tune.TIMED_QUERIES", 5)
    return tmp_path / "store"


def clustered(n: int, seed: int = 0) -> Any:
    centres = normal(20, DIM, seed=77) * 3
    return centres[np.arange(n) % 20] + normal(n, DIM, seed=seed)


def loaded(store: vecstore.Store, **options: Any) -> Collection:
    docs = store.collection("docs", dim=DIM, **options)
    docs.load(clustered(ROWS))
    return docs


def recall_of(docs: Collection, queries: Any, k: int, metric: str = "l2") -> float:
    """Recall of a search that names none, against the oracle."""
    found = docs.search(queries, k)
    base = docs.vectors(np.arange(ROWS))
    shares = []
    for query, distances in zip(queries, found.distances, strict=True):
        limit = np.sort(naive.distances(metric, query, base))[k - 1]
        shares.append(np.mean(distances <= limit + 1e-5 * abs(limit) + 1e-6))
    return float(np.mean(shares))


@pytest.mark.parametrize("metric", naive.METRICS)
def test_given_queries(path: Path, metric: str) -> None:
    queries = clustered(120, seed=5)
    with sound_store(path) as store:
        docs = loaded(store, metric=metric)
        before = {hit.id for hit in docs.query(queries[0], k=5, recall=1.0)}
        tuning = docs.tune(queries, recall=0.9, k=7, codecs=CODECS)
        assert tuning.chosen in tuning.candidates
        assert tuning.chosen.meets_recall
        assert tuning.chosen.fits
        assert {one.codec for one in tuning.candidates} == set(CODECS)
        assert (tuning.target, tuning.k, tuning.rows) == (0.9, 7, ROWS)
        assert tuning.queries == "120 queries that were given"
        assert recall_of(docs, queries, 7, metric) == pytest.approx(
            tuning.chosen.recall, abs=2e-3
        ), "the recall recorded is the recall of a search that names none"
        for one in tuning.candidates:
            assert 0 <= one.recall_low <= one.recall <= one.recall_high <= 1
            assert one.microseconds > 0
            assert one.rows_reranked >= 7
        assert {hit.id for hit in docs.query(queries[0], k=5, recall=1.0)} == before


def test_the_quickest_that_meets_the_target_wins(path: Path) -> None:
    with sound_store(path) as store:
        tuning = loaded(store).tune(recall=0.9, codecs=CODECS)
        first: dict[str, Candidate] = {}
        for one in tuning.candidates:
            if one.meets_recall and one.fits:
                first.setdefault(one.codec, one)
        meeting = list(first.values())
        quickest = min(one.microseconds for one in meeting)
        assert tuning.chosen.microseconds <= 1.03 * quickest
        level = [one for one in meeting if one.microseconds <= 1.03 * quickest]
        assert tuning.chosen.posting_bytes == min(one.posting_bytes for one in level)


@pytest.mark.parametrize("codec", ["rabitq1", "rabitq4", "int4", "float32", "pq6"])
def test_the_codec_stays(path: Path, codec: str) -> None:
    """Through reopening, flushes, retraining; and both its name and the one asked for fit."""
    with sound_store(path) as store:
        docs = loaded(store)
        tuning = docs.tune(recall=0.9, codecs=[codec])
        assert docs.stats()["codec"] == tuning.chosen.codec == codec
    with sound_store(path) as store:
        docs = store.collection("docs", codec="auto")
        assert store.collection("docs", codec=codec) is docs
        other = "int8" if codec != "int8" else "int4"
        with pytest.raises(vecstore.CollectionMismatchError, match=other):
            store.collection("docs", codec=other)
        assert docs.tuning() == tuning
        extra = clustered(30, seed=9)
        docs.upsert(np.arange(ROWS, ROWS + 30), extra)
        assert docs.stats()["tail_rows"] == 0
        docs.load(clustered(3 * ROWS, seed=3))
        stats = docs.stats()
        assert stats["codec"] == codec
        assert stats["tuning"]["recall"] == 0.9
        for place in range(0, 30, 7):
            assert docs.query(extra[place], k=1)[0].id == ROWS + place or stats["rows"] > ROWS


def test_held_out_rows_say_so(path: Path) -> None:
    with sound_store(path) as store:
        tuning = loaded(store).tune(recall=0.9, codecs=["rabitq1"])
        assert tuning.queries == "80 rows of the collection, each without itself"
        docs = store.collection("docs")
        assert tuning.queries in docs.stats()["calibration"]["note"]


def test_fragments_and_dead_rows_go(path: Path) -> None:
    with sound_store(path) as store:
        docs = loaded(store)
        for start in range(0, 120, 30):
            docs.upsert(np.arange(start, start + 30), clustered(30, seed=start))
        docs.delete(np.arange(200, 300))
        before = docs.stats()
        docs.tune(recall=0.9, codecs=["rabitq2"])
        after = docs.stats()
        assert after["rows"] == before["rows"] == ROWS - 100
        assert after["posting_entries"] < before["posting_entries"]
        assert after["extents"] < before["extents"]
        assert docs.query(clustered(30, seed=90)[3], k=1)[0].id == 93


# --- budgets and refusals -----------------------------------------------------------------------


def facts(docs: Collection) -> Any:
    stats = docs.stats()
    return stats["codec"], stats["calibration"], stats["tuning"], stats["extents"]


def test_disk_budget(path: Path) -> None:
    with sound_store(path) as store:
        docs = loaded(store)
        small = docs.tune(recall=0.9, codecs=["rabitq1"]).chosen
        large = docs.tune(recall=0.9, codecs=["float32"]).chosen
        assert small.disk_bytes < large.disk_bytes
        tuning = docs.tune(recall=0.9, codecs=CODECS, disk_bytes=large.disk_bytes - 1)
        assert "float32" not in {one.codec for one in tuning.candidates if one.fits}
        assert tuning.chosen.disk_bytes < large.disk_bytes
        assert docs.stats()["disk_bytes"] == tuning.chosen.disk_bytes
        assert docs.stats()["ram_bytes"] <= tuning.chosen.ram_bytes
        before = facts(docs)
        for budget in ({"disk_bytes": small.disk_bytes // 2}, {"ram_bytes": 100}):
            ((name, value),) = budget.items()
            with pytest.raises(vecstore.TargetNotMetError, match=f"{name}={value}"):
                docs.tune(recall=0.9, codecs=CODECS, **budget)
            assert facts(docs) == before


def test_a_recall_that_none_reaches(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sound_store(path) as store:
        docs = loaded(store)
        before = facts(docs)
        monkeypatch.setattr("vecstore.calibrate.PROBES_MAX", 1)
        with pytest.raises(vecstore.TargetNotMetError, match=r"recall=0\.99; the best, rabitq1"):
            docs.tune(recall=0.99, codecs=["rabitq1"])
        assert facts(docs) == before
        assert docs.tuning() is None


@pytest.mark.parametrize("stage", ["truth", "rabitq4: postings", "rabitq4: calibrate", "time"])
def test_a_failure_changes_nothing(path: Path, stage: str) -> None:
    with sound_store(path) as store:
        docs = loaded(store)
        before = facts(docs)

        def fail(name: str, done: int, total: int) -> None:
            if name == stage and done == total:
                raise RuntimeError(stage)

        with pytest.raises(RuntimeError, match=stage):
            docs.tune(recall=0.9, codecs=["rabitq1", "rabitq4"], progress=fail)
        assert facts(docs) == before
        assert store.check() == [], "no file is left over"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recall": 1.0}, "recall is 1.0"),
        ({"recall": 0}, "recall"),
        ({"recall": None}, "recall is None"),
        ({"k": 0}, "k is 0"),
        ({"ram_bytes": -1}, "ram_bytes is -1"),
        ({"disk_bytes": True}, "disk_bytes is True"),
        ({"disk_bytes": 1.5}, "disk_bytes is 1.5"),
        ({"codecs": "int8"}, "codecs is 'int8'"),
        ({"codecs": []}, "codecs is empty"),
        ({"codecs": ["int9"]}, "'int9'"),
        ({"queries": np.empty((0, DIM))}, "queries is empty"),
    ],
)
def test_wrong_arguments(path: Path, arguments: dict[str, Any], message: str) -> None:
    with sound_store(path) as store:
        docs = store.collection("docs", dim=DIM)
        with pytest.raises(vecstore.InvalidArgumentError, match=message):
            docs.tune(**arguments)


def test_wrong_queries_and_places(path: Path) -> None:
    with sound_store(path) as store:
        docs = store.collection("docs", dim=DIM, metric="cosine")
        with pytest.raises(vecstore.InvalidArgumentError, match="empty"):
            docs.tune()
        docs.upsert([1], normal(1, DIM))
        for wrong in (normal(2, DIM + 1), np.full((1, DIM), np.nan), np.zeros((1, DIM))):
            with pytest.raises(vecstore.InvalidVectorError):
                docs.tune(wrong)
    with (
        vecstore.open(path, mode="r") as store,
        pytest.raises(vecstore.ReadOnlyError, match="mode='w'"),
    ):
        store.collection("docs").tune()


@pytest.mark.parametrize("rows", [1, 2, 25])
def test_few_rows_are_scanned_exactly(path: Path, rows: int) -> None:
    with sound_store(path) as store:
        docs = store.collection("docs", dim=DIM)
        docs.upsert(np.arange(rows), clustered(rows))
        tuning = docs.tune(recall=0.8)
        assert tuning.chosen.recall == 1.0
        assert "no index yet" in tuning.queries
        assert docs.tuning() == tuning
        assert docs.stats()["tuning"]["recall"] == 0.8


# --- advice -------------------------------------------------------------------------------------


def test_advice_after_growth(path: Path) -> None:
    with sound_store(path) as store:
        docs = loaded(store)
        assert docs.stats()["tuning"] is None
        docs.tune(recall=0.9, codecs=["rabitq1"])
        assert docs.stats()["tuning"] == {"recall": 0.9, "rows": ROWS, "advice": ""}
        docs.upsert(np.arange(ROWS, 4 * ROWS - 1), clustered(3 * ROWS - 1, seed=1))
        assert docs.stats()["tuning"]["advice"] == ""
        docs.upsert([4 * ROWS - 1], clustered(1))
        assert f"{4 * ROWS} rows now" in docs.stats()["tuning"]["advice"]


def test_advice_after_drift(path: Path) -> None:
    with sound_store(path) as store:
        docs = loaded(store)
        docs.tune(recall=0.9, codecs=["rabitq1"])
        docs.upsert(np.arange(ROWS, ROWS + 60), clustered(60, seed=1))
        assert 0.7 < docs.stats()["drift"] < 1.4
        assert docs.stats()["tuning"]["advice"] == ""
        docs.upsert(np.arange(ROWS + 60, ROWS + 300), normal(240, DIM) * 12)
        assert docs.stats()["drift"] > 1.5
        assert "farther" in docs.stats()["tuning"]["advice"]


def test_readers_go_on(path: Path) -> None:
    """Queries from another thread see the old index or the new one, whole."""
    with sound_store(path) as store:
        docs = loaded(store)
        queries = clustered(40, seed=8)
        truth = docs.search(queries, 5, recall=1.0).ids
        stop, wrong = threading.Event(), []

        def ask() -> None:
            while not stop.is_set():
                found = docs.search(queries, 5, recall=1.0).ids
                if found.tolist() != truth.tolist():
                    wrong.append(found)

        reader = threading.Thread(target=ask)
        reader.start()
        try:
            docs.tune(recall=0.9, codecs=CODECS)
        finally:
            stop.set()
            reader.join()
        assert not wrong


# --- the command --------------------------------------------------------------------------------


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


def test_command(path: Path, tmp_path: Path) -> None:
    with sound_store(path) as store:
        loaded(store)
    np.save(tmp_path / "queries.npy", clustered(50, seed=4))
    base = ["tune", str(path), "--recall", "0.9", "--codec", "rabitq1", "--codec", "float32"]
    shown = run(*base, "--queries", str(tmp_path / "queries.npy"))
    assert shown.exit_code == 0, shown.output
    assert "50 queries that were given" in shown.output
    assert "Chosen for recall 0.9: " in shown.output
    as_json = run(*base, "--json")
    document = __import__("json").loads(as_json.stdout)
    assert document["chosen"] in document["candidates"]
    assert document["collection"] == "docs"
    refused = run("tune", str(path), "--disk", "100")
    assert refused.exit_code == 1
    assert "disk_bytes=100" in refused.output
    assert run("tune", str(path), "--recall", "1.5").exit_code == 2


def candidate(codec: str, recall: float, microseconds: float) -> Candidate:
    return Candidate(
        codec, 1, 1.0, 1.0, recall, recall, recall, microseconds, 1, 1, 1, 1, 1, True, True
    )


def test_pareto() -> None:
    points = [candidate("a", 0.9, 10), candidate("b", 0.95, 20), candidate("c", 0.94, 30)]
    tuning = Tuning(0.9, 10, "some", 5, points[1], points)
    assert [one.codec for one in tuning.pareto()] == ["a", "b"]
    plot = pareto_plot(tuning)
    assert plot.count("x") == 1
    lines = plot.splitlines()
    assert next(line for line in lines if "." in line and "|" in line) == lines[1]
    assert "o" in lines[-3]
    assert pareto_plot(Tuning(0.9, 10, "one", 5, points[0], points[:1]))
