"""The true neighbours that a calibration is measured by."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.store_checks import normal
from vecstore import workload
from vecstore.config import Metric
from vecstore.raw_forms import find_form
from vecstore.row_source import Rows, normalised

K = 7


def rows_of(x: Any, metric: Metric) -> Rows:
    record = SimpleNamespace(dim=x.shape[1], metric=int(metric))
    identity: Any = SimpleNamespace(record=record, form=find_form("float32"))
    return Rows(identity, np.empty(0, np.int64), x)


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("block", [1, 4_096, 16 << 20])
@pytest.mark.parametrize("far", [0.0, 100.0])
def test_near_rows_are_the_nearest(
    monkeypatch: pytest.MonkeyPatch, metric: Metric, block: int, far: float
) -> None:
    monkeypatch.setattr(workload, "TRUTH_BYTES", block)
    x, queries = normal(900, 12) + np.float32(far), normal(40, 12, seed=1) + np.float32(far)
    rows = rows_of(x, metric)
    reports: list[tuple[str, int, int]] = []
    prepared = normalised(queries, metric)
    found = workload.near_rows(rows, prepared, K, lambda *report: reports.append(report))
    assert found.shape == (40, K)
    a = prepared.astype(np.float64)
    b = rows.take(np.arange(900)).astype(np.float64)
    wide = -(a @ b.T) if metric == Metric.IP else ((a[:, None] - b[None]) ** 2).sum(axis=2)
    limit = np.sort(wide, axis=1)[:, K - 1]
    for own, distances, most in zip(found, wide, limit, strict=True):
        assert len(set(own.tolist())) == K
        assert (distances[own] <= most + 1e-4 * max(1.0, abs(most))).all()
    assert all(stage == "truth" and total == 900 for stage, _, total in reports)


def test_all_rows_when_there_are_no_more() -> None:
    found = workload.near_rows(rows_of(normal(K, 3), Metric.L2), normal(2, 3, seed=1), K)
    assert [sorted(own) for own in found.tolist()] == [list(range(K))] * 2
