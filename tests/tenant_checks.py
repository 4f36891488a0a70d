"""What the tests of tenants share: tenants of every shape, and all that a view shows of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import vecstore
from tests.store_checks import normal, small_limits
from vecstore.collection import Collection

DIM = 8
ORIGIN = np.zeros(DIM, np.float32)
SHAPES = {"fresh": 10, "list": 11, "run": 15, "tree": 60}
"""Rows that a tenant has in each shape of its index, under `small_shapes`."""
Shown = dict[tuple[Any, str | None], tuple[tuple[float, ...], Any]]


def small_shapes(patch: pytest.MonkeyPatch) -> None:
    """Lists up to 12 rows, runs of codes up to 16, trees above; flushes after 25 fresh rows."""
    small_limits(patch, bulk=40, log=25, posting=8, pages=4)
    patch.setattr("vecstore.calibrate.TENANT_QUERIES", 4)


def flush(docs: Collection) -> None:
    """Bring all fresh rows and pending grants into postings, by rows of a tenant of their own."""
    docs.tenant("filler").upsert(range(9_000, 9_040), normal(40, DIM, seed=9))
    assert docs.stats()["tail_rows"] == 0


def fill(docs: Collection, name: str, shape: str, *, first: int = 0, seed: int = 0) -> list[int]:
    """Give a tenant rows with ids from `first` on until its index has a shape; returns the ids."""
    n = SHAPES[shape]
    ids = list(range(first, first + n))
    metadata = [{"n": i, "of": name} for i in ids]
    docs.tenant(name).upsert(ids, normal(n, DIM, seed=seed), metadata)
    if shape != "fresh":
        flush(docs)
    return ids


def shown(view: Any) -> Shown:
    """All that a view shows, by id and owner: vectors and metadata; every read verb must agree."""
    hits = view.query(ORIGIN, k=9_999, recall=1.0, include=("metadata", "vector"))
    found: Shown = {(hit.id, hit.tenant): (tuple(hit.vector), hit.metadata) for hit in hits}
    assert len(found) == len(hits) == len(view) == view.count() == view.count(where={})
    for recall in (None, 0.01):
        some = view.query(ORIGIN, k=9_999, recall=recall)
        assert {(hit.id, hit.tenant) for hit in some} == found.keys()
        assert len(some) == len(found)
    result = view.search([ORIGIN], k=len(found) + 1, recall=1.0)
    places = range(len(found))
    assert [(result.ids[0, i], result.tenants[0, i]) for i in places] == list(found)
    assert result.tenants[0, -1] is None
    assert np.isinf(result.distances[0, -1])
    assert view.count(where={"nobody": {"$exists": False}}) == len(found)
    ids = list(dict.fromkeys(key for key, _ in found))
    got = view.get(ids)
    assert [hit.id for hit in got] == ids
    assert [hit.metadata for hit in got] == [found[hit.id, hit.tenant][1] for hit in got]
    vectors = view.vectors(ids)
    assert [tuple(row) for row in vectors] == [found[hit.id, hit.tenant][0] for hit in got]
    return found


def shown_ids(view: Any) -> list[Any]:
    """Ids that a view shows, sorted."""
    return sorted(key for key, _ in shown(view))


def hold_empty(view: Any, ids: list[Any]) -> None:
    """Hold every verb of a view against that of a tenant that never was, for some ids."""
    assert shown(view) == {}
    assert view.query(ORIGIN) == view.query(ORIGIN, where={"n": {"$gte": 0}}) == []
    result = view.search(np.ones((2, DIM)), k=3, where={"n": {"$exists": True}})
    assert (result.ids == (-1 if isinstance(ids[0], int) else None)).all()
    assert np.isinf(result.distances).all()
    assert (result.tenants == None).all()  # noqa: E711
    hold_unknown(view, ids)
    assert view.count(where={"n": {"$gte": 0}}) == view.count(where={"n": {"$ne": -1}}) == 0


def hold_unknown(view: Any, ids: list[Any]) -> None:
    """Hold verbs that take ids against ids that a view does not know."""
    assert view.get(ids) == [None] * len(ids)
    assert view.get(ids[0]) is None
    for asked in (ids, ids[0]):
        with pytest.raises(vecstore.UnknownIdError, match=f"'docs' has no id {ids[0]!r}; use get"):
            view.vectors(asked)
    table = view.table(missing=np.full(DIM, 7.0))
    assert (table[np.array(ids)] == 7.0).all()
