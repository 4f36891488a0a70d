"""Learning how much to read for the recall asked for.

Queries are given, or rows sampled from the collection, each without itself among its
neighbours; the truth is exact search over all rows.  A grid of efforts is measured on the whole
index, not on a sample of it, by some of the queries; those that look best are measured by all, and
the cheapest one for each recall is kept.  Cost is counted in postings, rows and reranks, not timed,
so a busy machine does not change the outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vecstore.clustering import Progress
from vecstore.codecs import Codec
from vecstore.config import BLOCK_ROWS, Effort
from vecstore.facts import Edit
from vecstore.kernels import view as v
from vecstore.layout import TENANT_NONE, EffortRecord
from vecstore.search import Searcher, effort_array
from vecstore.tenant_view import TenantView
from vecstore.workload import Workload, held_out
from vecstore.writing import Writing

I64 = NDArray[np.int64]

QUERIES = 600
ROUGH_QUERIES = 150
"""Queries that the whole grid of efforts is measured on; what comes near its frontier meets all."""
NEAR = 0.85
"""An effort comes near if none that costs less than this share of its cost is as good, by these
few queries."""
TENANT_QUERIES = 128
ROWS_PER_QUERY = 100
"""A small collection is measured with fewer queries, so that this takes no longer than it took to
build."""
K = 10
BOUNDS = (0.35, 0.5, 0.7, 1.0, 1.4)
SPREADS = (0.7, 1.5, 1e9)
BETWEEN = 1.0
"""Spread that is tried with the efforts found best at those on both sides of it: targets
are met with less to spare, for a tenth more to measure."""
CEILING = 0.9995
"""Recall below which codes of several bits are tried with the widest bound, too, and up to the most
probes: few queries ask for so much, but without it they would be answered from all rows."""
TENANT_SPREADS = (1.0, 1e9)
"""One of many tenants is measured with less: there may be thousands."""
PROBES_MAX = 2_048
PROBES_SURE = 16
SINGLE_BOUND = 2.0
"""Share of the error bound for a posting that is scanned whole. At 1.0 up to 0.7 % of the true ten
nearest were missed, at 1.5 up to 0.13 %, at 2.0 none of 80,000 (SIFT and WordNet, tenants of 130 to
2,000 rows)."""
GAIN_MIN = 0.0005
"""A series of more and more probes ends when the last step gained less than this."""
GROWTH = 0.35
"""Power of k by which an effort grows."""
COST_POSTING_NS = 120.0
COST_BYTE_NS = 0.05
COST_REFINE_NS = 40.0
COST_RERANK_NS = 150.0
"""Measured on 577,568 x 128: a posting, a byte of codes, a look at further bits, a raw row; only
their ratios matter."""


@dataclass(frozen=True)
class Measured:
    """What one effort gave.

    Attributes
    ----------
    effort : Effort
    recall : float
        Mean over the queries.
    error : float
        Its standard error.
    postings, rows, reranked : float
        Postings probed, codes scanned and raw rows read per query.
    cost : float
        Nanoseconds per query that the counted work should take, up to a constant factor.
    """

    effort: Effort
    recall: float
    error: float
    postings: float
    rows: float
    reranked: float
    cost: float

    @property
    def sure(self) -> float:
        """Recall less two standard errors: a target is met rather than missed by chance."""
        return max(0.0, self.recall - 2.0 * self.error)

    def record(self) -> EffortRecord:
        """Make the record that is stored with the collection."""
        return EffortRecord(self.sure, self.effort.probes, self.effort.bound, self.effort.spread)


def _probe_counts(postings: int) -> list[int]:
    counts, value = [], 1.0
    while value < min(postings, PROBES_MAX):
        counts.append(round(value))
        value = max(value + 1, value * 1.35)
    return [*counts, min(postings, PROBES_MAX)]


def measure(
    tenant: TenantView,
    searcher: Searcher,
    workload: Workload,
    progress: Progress,
    spreads: Sequence[float] = SPREADS,
) -> list[Measured]:
    """Measure a grid of efforts; return those that no cheaper one beats, by recall."""
    codec = tenant.snapshot.extents.codec
    has_few_errors = codec.kind != v.RABITQ or codec.bits > 1
    bounds: tuple[float, ...] = BOUNDS
    if codec.kind == v.FLOAT32:  # has no error to bound
        bounds = (1.0,)
    elif has_few_errors:
        bounds = BOUNDS[:-1]
    if len(workload.own) <= 2 * ROUGH_QUERIES:
        measured = _grid(tenant, searcher, workload, progress, bounds, spreads)
    else:
        few = workload.part(ROUGH_QUERIES)
        near = near_frontier(_grid(tenant, searcher, few, progress, bounds, spreads))
        measured = []
        for done, one in enumerate(near):
            measured.append(measure_one(tenant, searcher, workload, one.effort))
            progress("calibrate with all queries", done + 1, len(near))
            if measured[-1].sure >= CEILING:
                break
    surest = max(measured, key=lambda one: one.sure)
    if has_few_errors and min(spreads) < BETWEEN and surest.sure < CEILING:
        widest = (BOUNDS[-1], spreads[-1])
        measured += _climb(tenant, searcher, workload, *widest, at_least=surest.effort.probes)
    for effort in efforts_between(_frontier(measured), spreads):
        measured.append(measure_one(tenant, searcher, workload, effort))
    return _frontier(measured)


def _grid(
    tenant: TenantView,
    searcher: Searcher,
    workload: Workload,
    progress: Progress,
    bounds: Sequence[float],
    spreads: Sequence[float],
) -> list[Measured]:
    """Measure more and more probes, for all bounds and spreads."""
    measured: list[Measured] = []
    series = [(bound, spread) for bound in bounds for spread in spreads]
    for done, (bound, spread) in enumerate(series):
        measured += _climb(tenant, searcher, workload, bound, spread)
        progress("calibrate", done + 1, len(series))
    return measured


def _climb(
    tenant: TenantView,
    searcher: Searcher,
    workload: Workload,
    bound: float,
    spread: float,
    at_least: int = 0,
) -> list[Measured]:
    """Measure more and more probes, up to CEILING.

    Without a number to begin `at_least` with, only until they gain little.
    """
    measured: list[Measured] = []
    best = 0.0
    for probes in _probe_counts(int(tenant.view[v.POSTINGS])):
        if probes < at_least:
            continue
        tried = measure_one(tenant, searcher, workload, Effort(probes, bound, spread))
        measured.append(tried)
        gains_little = probes >= PROBES_SURE and tried.sure < best + GAIN_MIN
        if tried.sure >= CEILING or (gains_little and not at_least):
            break
        best = max(best, tried.sure)
    return measured


def near_frontier(measured: list[Measured]) -> list[Measured]:
    """Drop the efforts that a much cheaper one equals; the rest by cost.

    Those at the highest recall stay: few queries cannot tell which of them is the best.
    """
    by_cost = sorted(measured, key=lambda entry: entry.cost)
    highest = max(entry.recall for entry in measured)
    kept, best, much_cheaper = [], -1.0, 0
    for one in by_cost:
        while by_cost[much_cheaper].cost < NEAR * one.cost:
            best = max(best, by_cost[much_cheaper].recall)
            much_cheaper += 1
        if one.recall > best or one.recall == highest:
            kept.append(one)
    return kept


def efforts_between(best: list[Measured], spreads: Sequence[float]) -> list[Effort]:
    """Efforts of the spread between two of those measured, where one of these was among the best.

    A query that needs more than the narrow one gives often needs less than the wide one's.
    """
    if min(spreads) >= BETWEEN:
        return []
    sides = {max(s for s in spreads if s < BETWEEN), min(s for s in spreads if s > BETWEEN)}
    near = [one.effort for one in best if one.effort.spread in sides]
    return list(dict.fromkeys(Effort(effort.probes, effort.bound, BETWEEN) for effort in near))


def measure_one(
    tenant: TenantView, searcher: Searcher, workload: Workload, effort: Effort
) -> Measured:
    """Measure one effort on all queries."""
    n = len(workload.queries)
    settings = effort_array(effort)
    rows, distances, counters = searcher.many(tenant, settings, workload.queries, workload.k)
    shares = workload.recalls(rows, distances)
    return Measured(
        effort,
        float(shares.mean()),
        float(shares.std() / np.sqrt(n)),
        float(counters[v.COUNT_POSTINGS] / n),
        float(counters[v.COUNT_ROWS] / n),
        float(counters[v.COUNT_RERANKED] / n),
        _cost(counters, tenant.snapshot.extents.codec, tenant.snapshot.identity.record.dim) / n,
    )


def _cost(counters: I64, codec: Codec, dim: int) -> float:
    """Nanoseconds that the counted work should take, up to a constant factor."""
    wide = 0.5 + dim / 256
    row_bytes = codec.block_bytes(dim) / BLOCK_ROWS
    return float(
        counters[v.COUNT_POSTINGS] * COST_POSTING_NS
        + counters[v.COUNT_ROWS] * COST_BYTE_NS * row_bytes
        + counters[v.COUNT_REFINED] * COST_REFINE_NS * wide
        + counters[v.COUNT_RERANKED] * COST_RERANK_NS * wide
    )


def _frontier(measured: list[Measured]) -> list[Measured]:
    """Keep the efforts that no cheaper one beats, by rising recall."""
    kept: list[Measured] = []
    for candidate in sorted(measured, key=lambda entry: entry.cost):
        if not kept or candidate.sure > kept[-1].sure:
            kept.append(candidate)
    return kept


def calibration_note(workload: Workload, rows: int) -> str:
    """Say what a calibration was measured on."""
    return (
        f"recall@{workload.wanted}, less two standard errors, of {workload.source}, "
        f"on all {rows} rows"
    )


def calibrate(writing: Writing, tenant: TenantView, progress: Progress) -> None:
    """Measure and store the calibration of a tenant whose postings are new."""
    alone = tenant.number == TENANT_NONE
    queries, spreads = (QUERIES, SPREADS) if alone else (TENANT_QUERIES, TENANT_SPREADS)
    queries = min(queries, max(TENANT_QUERIES, tenant.rows // ROWS_PER_QUERY))
    workload = held_out(tenant, queries, K, progress)
    efforts = []
    if workload is not None:
        efforts = measure(tenant, writing.searcher, workload, progress, spreads)
    with writing.committing(), writing.environment.write() as transaction:
        edit = Edit(transaction, writing.identity)
        record = edit.tenant(tenant.number) if edit.knows(tenant.number) else None
        if record is None or record.trained_rows != tenant.record.trained_rows:
            return  # dropped, or divided anew meanwhile
        record.calibration = [effort.record() for effort in efforts]
        record.calibration_k = K
        record.calibrated_rows = tenant.rows
        record.calibrated_indexed = record.indexed_rows
        record.calibration_note = (
            "a single row" if workload is None else calibration_note(workload, tenant.rows)
        )
        edit.finish()


def choose_effort(
    efforts: list[EffortRecord], recall: float, k: int, calibrated: int = K
) -> Effort | None:
    """Cheapest effort measured to reach a recall; None, an exact scan, when none does.

    More hits than calibrated for need more postings and farther ones: both limits grow with a power
    of their ratio, by which recall@30 to recall@1,000 of SIFT, GloVe and WordNet stayed above what
    was asked for, by 0.2 to 7 points.
    """
    if recall >= 1.0:
        return None
    if not efforts:
        return DEFAULT_EFFORT
    chosen = next((effort for effort in efforts if effort.recall >= recall), None)
    if chosen is None:
        return None
    grown = max(1.0, k / calibrated) ** GROWTH
    return Effort(round(chosen.probes * grown), chosen.bound, chosen.spread * grown)


SINGLE_EFFORT = Effort(probes=1, bound=SINGLE_BOUND, spread=SPREADS[-1])
"""Serves a single posting, which is scanned whole."""
DEFAULT_EFFORT = Effort(probes=64, bound=1.0, spread=SPREADS[-1])
"""Serves in the moments between training and calibration."""


def effort_of(tenant: TenantView, recall: float, k: int) -> Effort | None:
    """Effort for a recall over a tenant's index; None asks for an exact scan."""
    directory = tenant.index.directory
    if recall >= 1.0 or directory is None or directory.listed:
        return None
    if directory.count == 1:
        return SINGLE_EFFORT
    record = tenant.record
    return choose_effort(record.calibration, recall, k, record.calibration_k)
