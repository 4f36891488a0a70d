"""Choosing codec and effort by measurement, on the whole collection and on the user's queries.

Every candidate codec encodes all postings anew (centroids and rows stay), is measured like a
calibration, and is timed side by side with the others.  The quickest that reaches the recall
within the budgets is kept, with the evidence; the rest is removed.

Invariants
----------
* Nothing changes unless a candidate meets the target within the budgets.
* The choice becomes visible in one commit; readers go on meanwhile, writers wait.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from vecstore import layout
from vecstore.built import Built
from vecstore.calibrate import Measured, calibration_note, measure
from vecstore.choice import Request, best, fits
from vecstore.clustering import Progress, worker_pool
from vecstore.codecs import Codec, find_codec
from vecstore.config import Effort
from vecstore.errors import InvalidArgumentError
from vecstore.facts import Edit
from vecstore.kernels import view as v
from vecstore.layout import TENANT_NONE, ExtentKind, Kind
from vecstore.publish import ExtentNumbers, abandon, clear_retired, publishing
from vecstore.rebuild import Rebuilder
from vecstore.results import Candidate, Tuning
from vecstore.search import effort_array
from vecstore.snapshot import Snapshot, with_index
from vecstore.stats import index_bytes
from vecstore.tenant_view import TenantView, make_view
from vecstore.workload import Workload, given, held_out
from vecstore.writing import Writing

F32 = NDArray[np.float32]

QUERIES = 1_000
RECALLS = (0.90, 0.95, 0.99)
"""Timed beside the recall that is asked for."""
TIMED_QUERIES = 200
ROUNDS = 5
NORMAL_95 = 1.96


@dataclass
class _Entrant:
    """One codec: its postings, what they gave, and what to publish if it wins."""

    codec: Codec
    built: Built
    tenant: TenantView
    measured: list[Measured]
    ram_bytes: int
    disk_bytes: int
    posting_bytes: int


class Tuner:
    """Tunes one collection without tenants."""

    def __init__(self, writing: Writing) -> None:
        self._writing = writing
        self._environment = writing.environment
        self._identity = writing.identity
        self._searcher = writing.searcher

    def tune(self, request: Request, progress: Progress) -> Tuning:
        """Measure all candidates and keep the best."""
        with self._writing.build_lock:
            with self._writing.captured() as captured:
                snapshot, tenant = captured.snapshot, captured.view()
            workload = self._workload(tenant, request, progress)
            if workload is None or not tenant.view[v.POSTINGS]:
                return self._without_index(tenant, request)
            entrants: list[_Entrant] = []
            numbers = ExtentNumbers(self._environment)
            try:
                left_out = self._enter(tenant, request, workload, numbers, entrants, progress)
                points = self._points(entrants, request)
                times = self._time(points, workload, progress)
                candidates = [
                    _candidate(entrant, found, microseconds, request)
                    for (entrant, found), microseconds in zip(points, times, strict=True)
                ]
                winner = best(candidates, request, left_out)
                tuning = Tuning(
                    request.recall,
                    workload.wanted,
                    workload.source,
                    snapshot.state.live_rows,
                    candidates[winner],
                    candidates,
                )
                self._publish(points[winner][0], snapshot, workload, tuning, numbers)
            finally:
                abandon(self._environment, self._identity, [e.built for e in entrants])
            clear_retired(self._writing)
            return tuning

    def _workload(
        self, tenant: TenantView, request: Request, progress: Progress
    ) -> Workload | None:
        if not tenant.rows:
            raise InvalidArgumentError(
                f"Collection {self._identity.name!r} is empty; tune it when it holds the rows that "
                f"queries will meet."
            )
        self._searcher.check_rows(tenant.snapshot, tenant.row_numbers())
        if request.queries is not None:
            return given(tenant, request.queries, request.k, progress)
        return held_out(tenant, QUERIES, request.k, progress)

    def _without_index(self, tenant: TenantView, request: Request) -> Tuning:
        """Few rows: every query scans all of them, whatever the codec will be."""
        rows, snapshot = tenant.rows, tenant.snapshot
        ram, disk, _ = index_bytes(tenant)
        exact = Candidate(
            codec=snapshot.extents.codec.name,
            probes=0,
            bound=1.0,
            spread=0.0,
            recall=1.0,
            recall_low=1.0,
            recall_high=1.0,
            microseconds=0.0,
            rows_scanned=0.0,
            rows_reranked=float(rows),
            posting_bytes=0,
            disk_bytes=disk,
            ram_bytes=ram,
            meets_recall=True,
            fits=fits(ram, disk, request),
        )
        winner = best([exact], request, {})
        source = "no queries: there is no index yet, and all rows are scanned exactly"
        tuning = Tuning(request.recall, request.k, source, rows, [exact][winner], [exact])
        with self._writing.committing(), self._environment.write() as transaction:
            edit = Edit(transaction, self._identity)
            self._store(edit, tuning)
            edit.finish()
        return tuning

    # --- measuring -------------------------------------------------------------------------

    def _enter(
        self,
        tenant: TenantView,
        request: Request,
        workload: Workload,
        numbers: ExtentNumbers,
        entrants: list[_Entrant],
        progress: Progress,
    ) -> dict[str, int]:
        """Encode and measure every candidate codec; those too large are left out.

        Returns
        -------
        dict
            Bytes on disk that the codecs left out would take at least.
        """
        entries = int(tenant.index.entry_counts().sum())
        dim = self._identity.record.dim
        _, disk, postings = index_bytes(tenant)
        left_out: dict[str, int] = {}
        pool = worker_pool(self._searcher.workers)
        try:
            for name in request.codecs:
                codec = find_codec(name, dim)
                least = disk - postings + int(entries * codec.row_bytes(dim))
                if request.disk_bytes is not None and least > request.disk_bytes:
                    left_out[name] = least
                    continue

                def report(stage: str, done: int, total: int, name: str = name) -> None:
                    progress(f"{name}: {stage}", done, total)

                builder = Rebuilder(self._identity, codec, numbers, pool, report)
                built = builder.rewrite(tenant.snapshot, tenant)
                changed = _with_index(tenant, codec, built)
                entrant = _Entrant(codec, built, changed, [], *index_bytes(changed))
                entrants.append(entrant)
                entrant.measured = measure(changed, self._searcher, workload, report)
        finally:
            pool.shutdown()
        return left_out

    def _points(
        self, entrants: list[_Entrant], request: Request
    ) -> list[tuple[_Entrant, Measured]]:
        """Efforts to be timed: for each codec and recall the cheapest, or else the best."""
        points = []
        for entrant in entrants:
            chosen: dict[Effort, Measured] = {}
            for recall in sorted({*RECALLS, request.recall}):
                reached = [found for found in entrant.measured if found.sure >= recall]
                if reached:
                    chosen[reached[0].effort] = reached[0]
                elif recall == request.recall and entrant.measured:
                    chosen[entrant.measured[-1].effort] = entrant.measured[-1]
            points += [(entrant, found) for found in chosen.values()]
        return points

    def _time(
        self,
        points: list[tuple[_Entrant, Measured]],
        workload: Workload,
        progress: Progress,
    ) -> list[float]:
        """Median time of one query, in microseconds: all points in turn, several rounds."""
        queries = workload.queries[:TIMED_QUERIES]
        taken = np.empty((len(points), ROUNDS, len(queries)))
        for turn in range(ROUNDS):
            for place, (entrant, found) in enumerate(points):
                settings = effort_array(found.effort)
                for i in range(len(queries)):
                    start = time.perf_counter_ns()
                    self._searcher.one(
                        entrant.tenant, settings, queries[i : i + 1], workload.wanted
                    )
                    taken[place, turn, i] = time.perf_counter_ns() - start
            progress("time", turn + 1, ROUNDS)
        return [float(np.median(own)) / 1e3 for own in taken]

    # --- publishing ------------------------------------------------------------------------

    def _publish(
        self,
        winner: _Entrant,
        snapshot: Snapshot,
        workload: Workload,
        tuning: Tuning,
        numbers: ExtentNumbers,
    ) -> None:
        """Put the winner's postings in the place of the present ones."""
        with publishing(self._writing, numbers) as edit:
            edit.retire(snapshot.extents, ExtentKind.POSTINGS, ExtentKind.DIRECTORY)
            edit.add_extents(winner.built.extents)
            edit.state.codec = winner.codec.name
            record = edit.tenant(TENANT_NONE)
            record.directory = winner.built.directory
            record.calibration = [found.record() for found in winner.measured]
            record.calibration_k = workload.wanted
            record.calibrated_rows = record.rows
            record.calibrated_indexed = record.indexed_rows
            record.calibration_note = calibration_note(workload, record.rows)
            self._store(edit, tuning)

    def _store(self, edit: Edit, tuning: Tuning) -> None:
        """Keep the decision and its evidence with the collection."""
        edit.state.tuned_recall = tuning.target
        edit.state.tuned_rows = tuning.rows
        key = layout.key(self._identity.record.number, Kind.TUNING)
        edit.transaction.put(key, layout.pack(tuning))


def _with_index(tenant: TenantView, codec: Codec, built: Built) -> TenantView:
    """View the only tenant with other postings and another directory."""
    snapshot = with_index(tenant.snapshot, codec, built.extents)
    record = msgspec.structs.replace(tenant.record, directory=built.directory)
    none = np.zeros(0, np.uint32)
    return make_view(snapshot, TENANT_NONE, record, none, none)


def _candidate(
    entrant: _Entrant, found: Measured, microseconds: float, request: Request
) -> Candidate:
    margin = NORMAL_95 * found.error
    return Candidate(
        codec=entrant.codec.name,
        probes=found.effort.probes,
        bound=found.effort.bound,
        spread=found.effort.spread,
        recall=found.recall,
        recall_low=max(0.0, found.recall - margin),
        recall_high=min(1.0, found.recall + margin),
        microseconds=microseconds,
        rows_scanned=found.rows,
        rows_reranked=found.reranked,
        posting_bytes=entrant.posting_bytes,
        disk_bytes=entrant.disk_bytes,
        ram_bytes=entrant.ram_bytes,
        meets_recall=found.sure >= request.recall,
        fits=fits(entrant.ram_bytes, entrant.disk_bytes, request),
    )
