"""Running kernels over a snapshot: work memory, effort, first-use checks, threads."""

from __future__ import annotations

import os
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor, wait
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from vecstore.config import POSTING_ROWS_MAX, Effort
from vecstore.errors import InvalidVectorError, VecstoreError
from vecstore.kernels import view as v
from vecstore.kernels.rows import rows_intact
from vecstore.kernels.scratch import ESTIMATES_MAX, Scratch
from vecstore.kernels.search import search_many
from vecstore.snapshot import Snapshot
from vecstore.tenant_view import TenantView

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]

TURN_QUERIES_MIN = 8
TURNS = 8
"""A batch is taken in turns: about so many for each thread, so that all end together."""
_EXACT = np.array([-1.0, 0.0, 0.0, 0.0])


def effort_array(effort: Effort | None) -> NDArray[np.float64]:
    """Effort as kernels take it; None asks for an exact scan."""
    if effort is None:
        return _EXACT
    pages = 4 + effort.probes // 16
    return np.array([effort.probes, effort.bound, effort.spread, pages], np.float64)


def describe_bad_query(code: int) -> InvalidVectorError:
    """Error for the status that a kernel gave."""
    if code % 2:
        return InvalidVectorError(
            f"Query {code // 2} has length zero in float32; cosine distance needs a direction."
        )
    return InvalidVectorError(
        f"Query {code // 2} is not finite (NaN, infinity, or too long for float32)."
    )


class Searcher:
    """Runs queries of one collection; safe to use from many threads."""

    def __init__(self) -> None:
        self._idle: list[Scratch] = []
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self.workers = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else (os.cpu_count() or 1)
        )

    def _scratch(self, view: I64) -> Scratch:
        try:
            scratch = self._idle.pop()
        except IndexError:
            return Scratch(view)
        return scratch if scratch.fits(view) else Scratch(view)

    def _run(
        self,
        tenant: TenantView,
        effort: NDArray[np.float64],
        queries: F32,
        first: int,
        end: int,
        rows: U32,
        distances: F32,
    ) -> I64:
        """Answer a range of queries."""
        scratch = self._scratch(tenant.view)
        status = search_many(
            tenant.view,
            scratch.table,
            effort,
            queries,
            first,
            end,
            tenant.rows,
            scratch.counters,
            rows,
            distances,
        )
        counters = scratch.counters.copy()
        if scratch.table.item(v.COLD):
            tenant.snapshot.extents.sweep()
        self._idle.append(scratch)
        if status != v.ANSWERED:
            if counters[v.DAMAGED]:
                raise tenant.damage(int(counters[v.DAMAGED]) - 1)
            if status >= 0:
                raise describe_bad_query(status)
            return self._run(tenant.listed, effort, queries, first, end, rows, distances)
        return counters

    def check_rows(self, snapshot: Snapshot, rows: U32) -> None:
        """Check raw rows on their first use, before they are read by address."""
        scratch = self._scratch(snapshot.view)
        scratch.counters[:] = 0
        rows_intact(snapshot.view, scratch.table, scratch.counters, rows)
        damaged = int(scratch.counters[v.DAMAGED])
        self._idle.append(scratch)
        if damaged:
            raise snapshot.extents.damage(damaged - 1)

    def one(
        self, tenant: TenantView, effort: NDArray[np.float64], query: F32, k: int
    ) -> tuple[U32, F32, I64]:
        """Answer one query (1, dim): row numbers, distances and kernel counters."""
        rows = np.empty((1, k), np.uint32)
        distances = np.empty((1, k), np.float32)
        counters = self._run(tenant, effort, query, 0, 1, rows, distances)
        return rows[0], distances[0], counters

    def many(
        self, tenant: TenantView, effort: NDArray[np.float64], queries: F32, k: int
    ) -> tuple[U32, F32, I64]:
        """Answer queries (n, dim) on all cores: rows (n, k), distances (n, k), counters."""
        n = len(queries)
        rows = np.empty((n, k), np.uint32)
        distances = np.empty((n, k), np.float32)
        step = max(TURN_QUERIES_MIN, -(-n // (TURNS * self.workers)))
        turns = iter(range(0, n, step))
        failures: list[tuple[int, VecstoreError]] = []

        def take_turns() -> I64:
            counters = np.zeros(v.COUNTERS, np.int64)
            for start in turns:  # which all threads share
                end = min(n, start + step)
                try:
                    counters += self._run(tenant, effort, queries, start, end, rows, distances)
                except VecstoreError as error:
                    failures.append((start, error))
                    deque(turns, 0)  # nobody begins what is left
            return counters

        helpers = min(self.workers, -(-n // step)) - 1
        helping = [self._executor().submit(take_turns) for _ in range(helpers)]
        try:
            counters = take_turns()
        finally:
            deque(turns, 0)
            wait(helping)
        for one in helping:
            counters += one.result()
        if failures:  # turns before the first that failed were all taken
            raise min(failures, key=itemgetter(0))[1]
        return rows, distances, counters

    def _executor(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.workers, "vecstore-search")
            return self._pool

    def close(self) -> None:
        """Stop the threads."""
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown()
                self._pool = None


assert POSTING_ROWS_MAX <= ESTIMATES_MAX
