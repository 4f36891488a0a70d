"""Recall on real data, held-out queries only: floors, exactness, and what was promised is kept."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vecstore
from tests.conftest import SmallSet
from tests.naive import METRICS, distances, recall, top_k
from tests.store_checks import sound_store
from vecstore import calibrate, planning
from vecstore.calibrate import (
    BETWEEN,
    NEAR,
    SPREADS,
    TENANT_SPREADS,
    Measured,
    efforts_between,
    measure,
    near_frontier,
)
from vecstore.clustering import kmeans, nearest, silent
from vecstore.codecs import find_codec, train_model
from vecstore.config import Effort, Metric
from vecstore.row_source import normalised
from vecstore.workload import held_out

K = 10
MARGIN = 0.02
"""What 100 queries may miss the promised recall by: about two standard errors."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[vecstore.Store]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vecstore.write.BULK_ROWS_MIN", 500)
        patch.setattr("vecstore.division.RUN_ROWS_MAX", 500)
        patch.setattr("vecstore.division.LIST_BYTES_MAX", 0)
        with sound_store(tmp_path_factory.mktemp("recall") / "store") as opened:
            yield opened


def loaded(
    store: vecstore.Store, data: SmallSet, metric: str, codec: str = "auto"
) -> vecstore.Collection:
    """The set's collection, bulk-loaded on its first use."""
    name = f"{data.name}-{metric}-{codec}"
    docs = store.collection(name, dim=data.dim, metric=metric, codec=codec)
    if not len(docs):
        with pytest.MonkeyPatch.context() as patch:
            quicken(patch, codec)
            docs.upsert(range(len(data.base)), data.base)
        assert docs.stats()["postings"] > 5
        assert docs.stats()["tail_rows"] == 0
    return docs


def quicken(patch: pytest.MonkeyPatch, codec: str) -> None:
    """Calibrate other codecs on fewer queries; nothing but everything is asked of float32."""
    if codec != "auto":
        patch.setattr("vecstore.calibrate.QUERIES", 20 if codec == "float32" else 200)


_truth: dict[tuple[str, str], tuple[Any, Any]] = {}


def truth(data: SmallSet, metric: str) -> tuple[Any, Any]:
    """Ids and distances of the exact neighbours, (queries, K) each."""
    if (data.name, metric) not in _truth:
        found = [top_k(metric, query, data.base, K) for query in data.query]
        ids, near = zip(*found, strict=True)
        _truth[data.name, metric] = np.array(ids), np.array(near)
    return _truth[data.name, metric]


def true_distances(data: SmallSet, metric: str, ids: Any) -> Any:
    return np.array(
        [
            distances(metric, query, data.base[own])
            for query, own in zip(data.query, ids, strict=True)
        ]
    )


def recall_of(docs: vecstore.Collection, data: SmallSet, **options: Any) -> float:
    result = docs.search(data.query, k=K, **options)
    for row in result.ids:
        assert len(set(row.tolist())) == K
    found = true_distances(data, docs.metric, result.ids)
    assert result.distances == pytest.approx(found, rel=1e-4, abs=1e-4)
    return recall(found, truth(data, docs.metric)[1])


@pytest.mark.parametrize("metric", METRICS)
def test_default_recall(store: vecstore.Store, small_set: SmallSet, metric: str) -> None:
    docs = loaded(store, small_set, metric)
    assert recall_of(docs, small_set) >= 0.95 - MARGIN


@pytest.mark.parametrize("target", [0.5, 0.8, 0.9, 0.99, 0.999])
def test_recall_that_was_asked_for(
    store: vecstore.Store, small_set: SmallSet, target: float
) -> None:
    docs = loaded(store, small_set, small_set.metric)
    assert recall_of(docs, small_set, recall=target) >= target - MARGIN


def test_recall_rises_with_what_is_asked(store: vecstore.Store, small_set: SmallSet) -> None:
    docs = loaded(store, small_set, small_set.metric)
    efforts = docs.stats()["calibration"]["efforts"]
    stated = [effort["recall"] for effort in efforts]
    assert stated == sorted(set(stated)), "the calibration rises"
    assert 0 <= stated[0] <= 0.99 <= stated[-1] <= 1
    reached = [recall_of(docs, small_set, recall=r) for r in (0.3, 0.6, 0.9, 0.95, 0.99, 1.0)]
    for lower, higher in itertools.pairwise(reached):
        assert higher >= lower - 0.01
    assert reached[-1] == 1
    assert reached[0] <= reached[-2], "less is read when less is asked for"


@pytest.mark.parametrize("codec", ["auto", "float32"])
@pytest.mark.parametrize("metric", METRICS)
def test_recall_one_is_exact(
    store: vecstore.Store, small_set: SmallSet, metric: str, codec: str
) -> None:
    docs = loaded(store, small_set, metric, codec)
    ids, near = truth(small_set, metric)
    result = docs.search(small_set.query, k=K, recall=1.0)
    assert result.distances == pytest.approx(near, rel=1e-4, abs=1e-5)
    differ = result.ids != ids
    if differ.any():
        # Two rows whose distances float32 cannot tell apart may change places.
        got = true_distances(small_set, metric, result.ids)
        assert (np.abs(got - near)[differ] <= 1e-5 * (1 + np.abs(near[differ]))).all()
        assert differ.mean() < 0.01
    for i in range(3):
        hits = docs.query(small_set.query[i], k=K, recall=1.0)
        assert [hit.id for hit in hits] == result.ids[i].tolist()


@pytest.mark.parametrize("metric", METRICS)
def test_given_neighbours(store: vecstore.Store, small_set: SmallSet, metric: str) -> None:
    """The fixtures' own ground truth, under the metric that it was made for."""
    if metric == small_set.metric:
        _, near = truth(small_set, metric)
        given = true_distances(small_set, metric, small_set.gt)
        assert given == pytest.approx(near, rel=1e-5, abs=1e-6)


def probe_everything(docs: vecstore.Collection, patch: pytest.MonkeyPatch) -> None:
    """From now on read all postings, with full bounds."""
    everything = Effort(docs.stats()["postings"] * 2, 1.0, 1e30)
    patch.setattr(planning, "effort_of", lambda *_: everything)


@pytest.mark.parametrize("codec", ["auto", "float32"])
@pytest.mark.parametrize("metric", METRICS)
def test_probing_everything(
    store: vecstore.Store,
    small_set: SmallSet,
    metric: str,
    codec: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All postings, full bounds: nothing is missed by float32, next to nothing by codes."""
    docs = loaded(store, small_set, metric, codec)
    assert docs.stats()["codec"] == find_codec(codec, docs.dim).name
    probe_everything(docs, monkeypatch)
    reached = recall_of(docs, small_set, recall=0.123)
    assert reached == 1 if codec == "float32" else reached >= 0.995


FULL_BOUNDS = {"rabitq1": 0.99, "rabitq4": 0.99, "int8": 0.995, "float16": 1.0, "pq16": 0.995}


@pytest.mark.parametrize("codec", FULL_BOUNDS)
def test_recall_of_other_codecs(
    store: vecstore.Store, small_set: SmallSet, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = loaded(store, small_set, small_set.metric, codec)
    assert recall_of(docs, small_set) >= 0.95 - MARGIN
    assert recall_of(docs, small_set, recall=1.0) == 1
    probe_everything(docs, monkeypatch)
    assert recall_of(docs, small_set, recall=0.123) >= FULL_BOUNDS[codec]


CODES_ALONE = {
    "glove50": {"rabitq1": 0.62, "rabitq2": 0.79, "rabitq4": 0.93, "rabitq8": 0.99},
    "wordnet_minilm384": {"rabitq1": 0.71, "rabitq2": 0.83, "rabitq4": 0.94, "rabitq8": 0.99},
    "fashion784": {"rabitq1": 0.9, "rabitq2": 0.945, "rabitq4": 0.98, "rabitq8": 0.99},
}


@pytest.mark.parametrize("codec", ["rabitq1", "rabitq2", "rabitq4", "rabitq8", "int4", "int8"])
def test_recall_of_codes_alone(small_set: SmallSet, codec: str) -> None:
    """Without reranking: the ten least estimates of all rows, encoded against 20 centroids."""
    base, metric = small_set.base, Metric.parse(small_set.metric)
    seen = normalised(np.ascontiguousarray(base), metric)
    centroids = kmeans(seen, 20, 0, len(seen))
    home = nearest(seen, centroids)[1][:, 0]
    residuals = seen - centroids[home]
    model = train_model(find_codec(codec), metric, 1, centroids.mean(axis=0), residuals)
    estimates = np.empty((len(small_set.query), len(base)), np.float32)
    for posting, centroid in enumerate(centroids):
        own = np.flatnonzero(home == posting)
        data = model.encode(base[own], centroid)
        estimates[:, own] = model.estimate(small_set.query, data, centroid)[0][:, : len(own)]
    found = true_distances(small_set, small_set.metric, np.argsort(estimates, axis=1)[:, :K])
    same = {"int4": "rabitq4", "int8": "rabitq8"}.get(codec, codec)
    reached = recall(found, truth(small_set, small_set.metric)[1])
    assert reached >= CODES_ALONE[small_set.name][same]


def test_recall_after_growth(
    tmp_path: Path, small_set: SmallSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half by bulk, then flushes, deletes and replacements: what is asked for still holds."""
    monkeypatch.setattr("vecstore.write.BULK_ROWS_MIN", 400)
    monkeypatch.setattr("vecstore.division.RUN_ROWS_MAX", 400)
    monkeypatch.setattr("vecstore.division.LIST_BYTES_MAX", 0)
    monkeypatch.setattr("vecstore.write.LOG_ROWS_MAX", 150)
    n = len(small_set.base)
    half = n // 2
    with sound_store(tmp_path / "store") as store:
        docs = store.collection("docs", dim=small_set.dim, metric=small_set.metric)
        docs.upsert(range(half), small_set.base[n - half :])
        for start in range(half, n, 99):
            docs.upsert(range(start, min(n, start + 99)), small_set.base[start : start + 99])
        for start in range(0, half, 300):
            end = min(half, start + 300)
            docs.upsert(range(start, end), small_set.base[start:end])
        docs.upsert(range(n, n + 50), small_set.query[:50])
        docs.delete(range(n, n + 50))
        assert docs.count() == n
        assert recall_of(docs, small_set) >= 0.95 - 2 * MARGIN
        assert recall_of(docs, small_set, recall=1.0) == 1


def test_stored_rows_find_themselves(store: vecstore.Store, small_set: SmallSet) -> None:
    docs = loaded(store, small_set, small_set.metric)
    picks = np.arange(0, len(small_set.base), 37)
    found = docs.search(small_set.base[picks], k=1, recall=1.0)
    assert found.distances[:, 0] == pytest.approx(np.zeros(len(picks)), abs=2e-6)
    assert (found.distances >= 0).all()


def test_a_spread_between_is_tried_where_one_beside_it_was_among_the_best() -> None:
    def one(probes: int, bound: float, spread: float) -> Measured:
        return Measured(Effort(probes, bound, spread), 0.9, 0.01, 1.0, 1.0, 1.0, 1.0)

    best = [one(4, 0.5, 0.7), one(9, 0.7, 1e9), one(4, 0.5, 1.5), one(18, 0.7, 1.5)]
    tried = [Effort(4, 0.5, BETWEEN), Effort(18, 0.7, BETWEEN)]
    assert efforts_between(best, SPREADS) == tried
    assert efforts_between(best, TENANT_SPREADS) == []


def test_what_is_near_the_frontier_meets_all_queries() -> None:
    def one(cost: float, recall: float) -> Measured:
        return Measured(Effort(1, 1.0, 1.0), recall, 0.01, 1.0, 1.0, 1.0, cost)

    worst, best, last = one(1, 0.5), one(2, 0.9), one(5, 0.99)
    near, far = one(1.99 / NEAR, 0.8), one(2.01 / NEAR, 0.9)
    equal = one(50, 0.99)
    found = near_frontier([equal, last, far, best, near, worst])
    assert found == [worst, best, near, last, equal]


def test_few_queries_find_the_efforts_that_all_would(
    store: vecstore.Store, small_sets: dict[str, SmallSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each is told as all queries measured it."""
    docs = loaded(store, small_sets["glove50"], "l2", "rabitq2")
    view, searcher = docs._core.reader.view(), docs._core.searcher
    asked: list[int] = []
    measure_one = calibrate.measure_one

    def counted(*arguments: Any) -> Measured:
        asked.append(len(arguments[2].own))
        return measure_one(*arguments)

    monkeypatch.setattr(calibrate, "measure_one", counted)
    workload = held_out(view, 500, K, silent)
    assert workload is not None
    monkeypatch.setattr(calibrate, "ROUGH_QUERIES", 250)
    every = measure(view, searcher, workload, silent)
    whole = sum(asked)
    assert set(asked) == {500}
    asked.clear()
    monkeypatch.setattr(calibrate, "ROUGH_QUERIES", 100)
    found = measure(view, searcher, workload, silent)
    assert set(asked) == {100, 500}
    assert sum(asked) < 0.85 * whole
    for one in every:
        cheapest = next(own for own in found if own.sure >= one.sure)
        assert cheapest.cost <= one.cost / NEAR
    for own in found:
        assert own == measure_one(view, searcher, workload, own.effort)
