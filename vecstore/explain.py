"""Telling how a query is answered: the plan, and what the kernels counted while it ran."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vecstore.filters import Filter
from vecstore.kernels import view as v
from vecstore.planning import Plan, make_plan
from vecstore.results import Explanation, Hit
from vecstore.search import Searcher
from vecstore.tenant_view import TenantView
from vecstore.transaction import Transaction


def explain_query(
    transaction: Transaction,
    searcher: Searcher,
    views: Sequence[TenantView],
    query: NDArray[np.float32],
    k: int,
    where: Filter | None,
    recall: float | None,
    hits: list[Hit],
) -> Explanation:
    """Run a query (1, dim) over some tenants and tell what was done; `hits` are its answer."""
    plans = [make_plan(transaction, view, where, recall, k) for view in views]
    counters = np.zeros(v.COUNTERS, np.int64)
    fresh = 0
    start = time.perf_counter()
    for plan in plans:
        wanted = min(k, plan.view.rows)
        if wanted:
            counters += searcher.one(plan.view, plan.settings, query, wanted)[2]
            fresh += len(plan.view.fresh)
    seconds = time.perf_counter() - start
    return Explanation(
        plan=[_kind(plan) for plan in plans],
        rows=sum(plan.view.rows for plan in plans),
        probes=sum(plan.effort.probes for plan in plans if plan.effort is not None),
        postings=int(counters[v.COUNT_POSTINGS]),
        scanned=int(counters[v.COUNT_ROWS]),
        refined=int(counters[v.COUNT_REFINED]),
        reranked=int(counters[v.COUNT_RERANKED]) + fresh,
        bytes=sum(plan.bytes for plan in plans),
        microseconds=seconds * 1e6,
        hits=hits,
    )


def _kind(plan: Plan) -> str:
    if plan.effort is None:
        return "exact"
    return "scan" if len(plan.view.index.first_run) == 2 else "probe"
