"""Telling how a query was answered: the plan, and what the kernels counted while it ran."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from vecstore.extents import disk_bytes
from vecstore.kernels import view as v
from vecstore.planning import Plan
from vecstore.results import Explanation, Hit
from vecstore.tenant_view import TenantView


class Trace:
    """What is noted of one query while it is answered.

    Attributes
    ----------
    plans : list of Plan
        One for each tenant asked.
    """

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self._counters = np.zeros(v.COUNTERS, np.int64)
        self._fresh = 0
        self._seconds = 0.0
        self._disk_bytes = 0

    def timed(self, search: Callable[..., Any]) -> Callable[..., Any]:
        """Let `Searcher.one` note its time and counters."""

        def noted(view: TenantView, *rest: Any) -> Any:
            before, start = disk_bytes(), time.perf_counter()
            found = search(view, *rest)
            self._seconds += time.perf_counter() - start
            self._disk_bytes += disk_bytes() - before
            self._counters += found[2]
            self._fresh += len(view.fresh)
            return found

        return noted

    def explanation(self, hits: list[Hit]) -> Explanation:
        """Tell what was noted; `hits` are the answer."""
        counters, plans = self._counters, self.plans
        return Explanation(
            plan=[_kind(plan) for plan in plans],
            rows=sum(plan.view.rows for plan in plans),
            probes=sum(plan.effort.probes for plan in plans if plan.effort is not None),
            postings=int(counters[v.COUNT_POSTINGS]),
            scanned=int(counters[v.COUNT_ROWS]),
            refined=int(counters[v.COUNT_REFINED]),
            reranked=int(counters[v.COUNT_RERANKED]) + self._fresh,
            bytes=sum(plan.bytes for plan in plans),
            asked=int(counters[v.COUNT_ASKED]),
            asked_bytes=int(counters[v.ASKED_BYTES]),
            disk_bytes=self._disk_bytes,
            microseconds=self._seconds * 1e6,
            hits=hits,
        )


def _kind(plan: Plan) -> str:
    if plan.effort is None:
        return "exact"
    return "scan" if len(plan.view.index.first_run) == 2 else "probe"
