"""Learning how much to read for the recall asked for.

Queries are given, or rows sampled from the collection, each without itself among its
neighbours; the truth is exact search over all rows.  A grid of efforts is measured on the whole
index, not on a sample of it, and the cheapest one for each recall is kept.  Cost is counted in
postings, rows and reranks, not timed, so a busy machine does not change the outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vecstore.clustering import Progress, silent
from vecstore.codecs import Codec
from vecstore.config import BLOCK_ROWS, Effort, Metric
from vecstore.facts import Edit
from vecstore.kernels import view as v
from vecstore.kernels.encode import exact_pairs
from vecstore.layout import NO_ROW, TENANT_NONE, EffortRecord
from vecstore.row_source import Rows, normalised
from vecstore.search import Searcher, effort_array
from vecstore.tenant_view import TenantView
from vecstore.writing import Writing

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]

QUERIES = 600
TENANT_QUERIES = 128
ROWS_PER_QUERY = 100
"""A small collection is measured with fewer queries, so that this takes no longer than it took to
build."""
K = 10
BOUNDS = (0.35, 0.5, 0.7, 1.0, 1.4)
SPREADS = (0.5, 1.0, 1e9)
BETWEEN = 0.7
"""Spread that is tried with the efforts found best at those on both sides of it: up to 7 % quicker
at equal recall of 0.92 to 0.96 (SIFT, WordNet, GloVe), and targets are met with less to spare; for
a tenth more to measure."""
CEILING = 0.9995
"""Recall below which codes of several bits are tried with the widest bound, too, and up to the most
probes: few queries ask for so much, but without it they would be answered from all rows."""
TENANT_SPREADS = (1.0, 1e9)
"""One of many tenants is measured with less: there may be thousands."""
PROBES_MAX = 1_024
PROBES_SURE = 16
SINGLE_BOUND = 2.0
"""Share of the error bound for a posting that is scanned whole. At 1.0 up to 0.7 % of the true ten
nearest were missed, at 1.5 up to 0.13 %, at 2.0 none of 80,000 (SIFT and WordNet, tenants of 130 to
2,000 rows)."""
TRUTH_BYTES = 16 << 20
"""Products of queries and rows, or rows, that are held at a time."""
GAIN_MIN = 0.0005
"""A series of more and more probes ends when the last step gained less than this."""
COST_POSTING_NS = 120.0
COST_BYTE_NS = 0.05
COST_REFINE_NS = 40.0
COST_RERANK_NS = 150.0
"""Measured on 577,568 x 128: a posting, a byte of codes, a look at further bits, a raw row; only
their ratios matter."""


@dataclass(frozen=True)
class Workload:
    """Queries whose true neighbours are known.

    Attributes
    ----------
    queries : float32 (n, dim)
        Raw.
    limits : float32 (n,)
        Distance of the last true neighbour, by the kernel that searches use, so that rows at
        equal distance count alike.
    own : uint32 (n,)
        Row that a query is and that does not count, or NO_ROW.
    wanted : int
        Neighbours of each query.
    source : str
        Where the queries are from.
    """

    queries: F32
    limits: F32
    own: U32
    wanted: int
    source: str

    def part(self, count: int) -> Workload:
        """Take up to `count` of the queries, spread over all."""
        picks = np.linspace(0, len(self.own) - 1, min(count, len(self.own))).astype(int)
        queries = np.ascontiguousarray(self.queries[picks])
        return replace(self, queries=queries, limits=self.limits[picks], own=self.own[picks])

    @property
    def k(self) -> int:
        """Answers to ask for, so that a query that is a row itself has enough others."""
        return self.wanted + int(self.own[0] != NO_ROW)

    def recalls(self, rows: U32, distances: F32) -> F32:
        """Share of the true neighbours among the answers, float32 (n,)."""
        right = (distances <= self.limits[:, None]) & (rows != self.own[:, None])
        right &= rows != np.uint32(NO_ROW)
        shares: F32 = (np.minimum(right.sum(axis=1), self.wanted) / self.wanted).astype(np.float32)
        return shares


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


def near_rows(rows: Rows, queries: F32, k: int, progress: Progress = silent) -> I64:
    """Find the k rows nearest to each prepared query, by products with blocks of all rows.

    Squares are expanded, so under l2 everything is centred first, and callers take some more rows
    than they need and their exact distances.  Of a block only what is nearer than the k-th so far
    is looked at: the products are all that takes time.

    Returns
    -------
    int64 (queries, k)
        In no order.
    """
    centre = queries.mean(axis=0) if rows.metric == Metric.L2 else np.float32(0.0)
    scaled = np.ascontiguousarray(queries - centre) * np.float32(-2.0)
    best = np.full((len(queries), k), np.inf, np.float32)
    found = np.zeros((len(queries), k), np.int64)
    step = max(k, TRUTH_BYTES // (4 * max(len(queries), rows.dim)))
    for start in range(0, rows.n, step):
        progress("truth", start, rows.n)
        part = rows.take(np.arange(start, min(rows.n, start + step))) - centre
        with np.errstate(invalid="ignore"):  # which BLAS may report of sound products
            values = scaled @ part.T
        if rows.metric == Metric.L2:
            values += np.einsum("ij,ij->i", part, part)
        _keep_nearest(best, found, values, start)
    return found


def _keep_nearest(best: F32, found: I64, values: F32, first: int) -> None:
    """Take what is nearer in `values` (queries, rows) than the k nearest so far among these."""
    k = best.shape[1]
    near = values < best.max(axis=1, keepdims=True)
    for query in np.flatnonzero(near.any(axis=1)).tolist():
        places = np.flatnonzero(near[query])
        distances = np.concatenate([best[query], values[query, places]])
        numbers = np.concatenate([found[query], places + first])
        chosen = np.argpartition(distances, k - 1)[:k]
        best[query], found[query] = distances[chosen], numbers[chosen]


def _probe_counts(postings: int) -> list[int]:
    counts, value = [], 1.0
    while value < min(postings, PROBES_MAX):
        counts.append(round(value))
        value = max(value + 1, value * 1.35)
    return [*counts, min(postings, PROBES_MAX)]


def _all_rows(tenant: TenantView) -> tuple[U32, Rows]:
    numbers, snapshot = tenant.row_numbers(), tenant.snapshot
    return numbers, Rows(snapshot.identity, snapshot.addresses(numbers), None)


def _workload(
    numbers: U32, rows: Rows, queries: F32, own: U32, wanted: int, source: str, progress: Progress
) -> Workload:
    """Find the true neighbours of queries."""
    prepared = normalised(queries, rows.metric)
    near = near_rows(rows, prepared, min(rows.n, 2 * (wanted + 1)), progress)
    distances = np.empty(near.shape, np.float32)
    exact_pairs(rows.form.number, rows.metric, queries, rows.stored_addresses[near], distances)
    distances[numbers[near] == own[:, None]] = np.inf
    limits: F32 = np.sort(distances, axis=1)[:, wanted - 1]
    progress("truth", rows.n, rows.n)
    return Workload(queries, limits, own, wanted, source)


def held_out(tenant: TenantView, count: int, k: int, progress: Progress) -> Workload | None:
    """Sample rows of a tenant as queries; None when there are fewer than two."""
    numbers, rows = _all_rows(tenant)
    wanted = min(k, rows.n - 1)
    if wanted < 1:
        return None
    rng = np.random.default_rng(tenant.snapshot.identity.record.seed)
    picks = np.sort(rng.choice(rows.n, min(count, rows.n), replace=False))
    queries = rows.take_raw(picks)
    whose = "the collection" if tenant.number == TENANT_NONE else "the tenant"
    source = f"{len(picks)} rows of {whose}, each without itself"
    return _workload(numbers, rows, queries, numbers[picks], wanted, source, progress)


def given(tenant: TenantView, queries: F32, k: int, progress: Progress) -> Workload:
    """Take the user's queries, float32 (n, dim)."""
    numbers, rows = _all_rows(tenant)
    own = np.full(len(queries), NO_ROW, np.uint32)
    source = f"{len(queries)} queries that were given"
    return _workload(numbers, rows, queries, own, min(k, rows.n), source, progress)


def measure(
    tenant: TenantView,
    searcher: Searcher,
    workload: Workload,
    progress: Progress,
    spreads: Sequence[float] = SPREADS,
) -> list[Measured]:
    """Measure the grid of efforts; return those that no cheaper one beats, by recall."""
    measured: list[Measured] = []
    counts = _probe_counts(int(tenant.view[v.POSTINGS]))
    codec = tenant.snapshot.extents.codec
    has_few_errors = codec.kind != v.RABITQ or codec.bits > 1

    def climb(bound: float, spread: float, *, high: bool = False) -> None:
        """Measure more and more probes, until they gain little or, with `high`, up to CEILING."""
        best = 0.0
        for probes in counts:
            tried = measure_one(tenant, searcher, workload, Effort(probes, bound, spread))
            measured.append(tried)
            gains_little = probes >= PROBES_SURE and tried.sure < best + GAIN_MIN
            if tried.sure >= CEILING or (gains_little and not high):
                break
            best = max(best, tried.sure)

    bounds: tuple[float, ...] = BOUNDS
    if codec.kind == v.FLOAT32:  # has no error to bound
        bounds = (1.0,)
    elif has_few_errors:
        bounds = BOUNDS[:-1]
    series = [(bound, spread) for bound in bounds for spread in spreads]
    for done, (bound, spread) in enumerate(series):
        climb(bound, spread)
        progress("calibrate", done + 1, len(series))
    if has_few_errors and min(spreads) < BETWEEN and max(o.sure for o in measured) < CEILING:
        climb(BOUNDS[-1], spreads[-1], high=True)
    for effort in efforts_between(_frontier(measured), spreads):
        measured.append(measure_one(tenant, searcher, workload, effort))
    return _frontier(measured)


def efforts_between(best: list[Measured], spreads: Sequence[float]) -> list[Effort]:
    """Efforts of the spread between two of those measured, where one of these was among the best.

    A query that needs more than the narrow one gives often needs less than the wide one's.
    """
    if min(spreads) > BETWEEN:
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

    More hits than calibrated for need more postings and farther ones: both grow with the square
    root of their ratio, which kept recall@1,000 at or above recall@10 on SIFT, GloVe and WordNet.
    """
    if recall >= 1.0:
        return None
    if not efforts:
        return DEFAULT_EFFORT
    chosen = next((effort for effort in efforts if effort.recall >= recall), None)
    if chosen is None:
        return None
    grown = max(1.0, (k / calibrated) ** 0.5)
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
