"""explain: the plan and what was read, for collections, filters, tenants and unions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import vecstore
from tests.store_checks import normal, small_limits, sound_store

DIM = 12
VECTORS = normal(300, DIM)
QUERY = normal(1, DIM, seed=7)[0]


def test_plans_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_limits(monkeypatch)
    with sound_store(tmp_path / "store") as store:
        docs = store.collection("docs", dim=DIM, tenants=True)
        sizes = {"list": 6, "run": 16, "tree": 200}
        names = [name for name, n in sizes.items() for _ in range(n)]
        docs.load(VECTORS[: len(names)], tenants=names)
        plans = {}
        for name, n in sizes.items():
            told = docs.tenant(name).explain(QUERY, k=3)
            plans[name] = told.plan
            assert told.rows == n
            assert told.hits == docs.tenant(name).query(QUERY, k=3)
            assert told.microseconds > 0
            assert told.bytes > 0
        assert plans == {"list": ["exact"], "run": ["scan"], "tree": ["probe"]}
        tree = docs.tenant("tree").explain(QUERY, k=3)
        assert 1 <= tree.postings <= tree.probes
        assert tree.reranked <= tree.scanned
        exact = docs.tenant("tree").explain(QUERY, k=3, recall=1.0)
        assert (exact.plan, exact.scanned, exact.reranked) == (["exact"], 0, 200)
        both = docs.tenant("list", "tree").explain(QUERY, k=3)
        assert (both.plan, both.rows) == (["exact", "probe"], 206)
        assert docs.tenant("nobody").explain(QUERY).hits == []
        with pytest.raises(vecstore.TenantRequiredError):
            docs.explain(QUERY)


def test_plans_by_filter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few matching rows are compared exactly, and fresh ones among them count."""
    small_limits(monkeypatch)
    with sound_store(tmp_path / "store") as store:
        docs = store.collection("docs", dim=DIM)
        docs.load(VECTORS, metadata=[{"n": i} for i in range(300)])
        docs.upsert([1000], np.ones((1, DIM)), [{"n": 4}])
        few = docs.explain(QUERY, k=2, where={"n": {"$in": [3, 4]}})
        assert (few.plan, few.rows, few.reranked) == (["exact"], 3, 3)
        assert [hit.id for hit in few.hits] == [
            hit.id for hit in docs.query(QUERY, k=2, where={"n": {"$in": [3, 4]}})
        ]
        none = docs.explain(QUERY, where={"n": -1})
        assert (none.rows, none.hits) == (0, [])
