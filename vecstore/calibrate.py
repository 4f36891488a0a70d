"""Learning how much to read for the recall asked for.

Rows sampled from the collection serve as queries, each without itself among its neighbours; the
truth is exact search over all rows.  A grid of efforts is measured on the whole index, not on a
sample of it, and the cheapest one for each recall is kept.  Cost is counted in postings, rows
and reranks, not timed, so a busy machine does not change the outcome.
"""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

from vecstore.build import Rows, normalised
from vecstore.clustering import Progress, blocks
from vecstore.config import Effort, Metric
from vecstore.extent_set import Identity
from vecstore.facts import Edit
from vecstore.kernels import view as v
from vecstore.kernels.encode import exact_pairs
from vecstore.layout import EffortRecord
from vecstore.search import Searcher, effort_array
from vecstore.snapshot import Snapshot
from vecstore.storage import Environment

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]

QUERIES = 600
K = 10
BOUNDS = (0.35, 0.5, 0.7, 1.0, 1.4)
SPREADS = (0.5, 1.0, 1e9)
PROBES_MAX = 1_024
PROBES_SURE = 16
GAIN_MIN = 0.0005
"""A series of more and more probes ends when the last step gained less than this."""
COST_POSTING_NS = 120.0
COST_ROW_NS = 1.6
COST_RERANK_NS = 150.0
"""Measured on 577,568 x 128; only their ratios matter."""


def near_rows(rows: Rows, queries: F32, k: int) -> I64:
    """Find the k rows nearest to each prepared query, by faiss over blocks of all rows.

    faiss expands squares, so under l2 everything is centred first, and callers take some more
    rows than they need and their exact distances.
    """
    inner = rows.metric == Metric.IP
    metric = faiss.METRIC_INNER_PRODUCT if inner else faiss.METRIC_L2
    centre = queries.mean(axis=0) if rows.metric == Metric.L2 else np.float32(0.0)
    centred = np.ascontiguousarray(queries - centre)
    best_d = np.empty((len(queries), 0), np.float32)
    best_i = np.empty((len(queries), 0), np.int64)
    for start, end in blocks(rows.n, rows.dim):
        block = rows.take(np.arange(start, end)) - centre
        d, i = faiss.knn(centred, block, min(k, end - start), metric=metric)
        best_d = np.concatenate([best_d, -d if inner else d], axis=1)
        best_i = np.concatenate([best_i, np.maximum(i, 0) + start], axis=1)
        order = np.argsort(best_d, axis=1, kind="stable")[:, :k]
        best_d = np.take_along_axis(best_d, order, 1)
        best_i = np.take_along_axis(best_i, order, 1)
    return best_i


def _probe_counts(postings: int) -> list[int]:
    counts, value = [], 1.0
    while value < min(postings, PROBES_MAX):
        counts.append(round(value))
        value = max(value + 1, value * 1.35)
    return [*counts, min(postings, PROBES_MAX)]


def _kth_distances(rows: Rows, queries: F32, picks: I64, wanted: int) -> F32:
    """Distance of the last true neighbour of each query, itself left out.

    It is computed by the kernel that searches use, so rows at equal distance count alike.
    """
    near = near_rows(rows, normalised(queries, rows.metric), min(rows.n, 2 * (wanted + 1)))
    distances = np.empty(near.shape, np.float32)
    exact_pairs(rows.form.number, rows.metric, queries, rows.stored_addresses[near], distances)
    distances[near == picks[:, None]] = np.inf
    kth: F32 = np.sort(distances, axis=1)[:, wanted - 1]
    return kth


def measure(
    snapshot: Snapshot, searcher: Searcher, progress: Progress, seed: int
) -> list[EffortRecord]:
    """Measure the grid of efforts; return those that no cheaper one beats, by recall.

    The recall recorded is the mean less one standard error, so that a target is met rather than
    missed by chance.
    """
    numbers = snapshot.live_rows()
    rng = np.random.default_rng(seed)
    picks = np.sort(rng.choice(len(numbers), min(QUERIES, len(numbers)), replace=False))
    rows = Rows(snapshot.identity, snapshot.addresses(numbers), None)
    queries = rows.take_raw(picks)
    wanted = min(K, len(numbers) - 1)
    if wanted < 1:
        return []
    progress("truth", 0, len(numbers))
    limits = _kth_distances(rows, queries, picks, wanted)
    progress("truth", len(numbers), len(numbers))
    own = numbers[picks]
    measured: list[tuple[float, EffortRecord]] = []
    counts = _probe_counts(int(snapshot.view[v.POSTINGS]))
    exact = int(snapshot.view[v.CODEC]) == v.FLOAT32  # has no error to bound
    bounds = (1.0,) if exact else BOUNDS
    series = [(bound, spread) for bound in bounds for spread in SPREADS]
    for done, (bound, spread) in enumerate(series):
        best = 0.0
        for probes in counts:
            effort = effort_array(Effort(probes, bound, spread), snapshot)
            found, distances, counters = searcher.many(snapshot, effort, queries, K + 1)
            right = (distances <= limits[:, None]) & (found != own[:, None])
            shares = np.minimum(right.sum(axis=1), wanted) / wanted
            sure = float(shares.mean() - shares.std() / np.sqrt(len(shares)))
            tried = EffortRecord(max(0.0, sure), probes, bound, spread)
            measured.append((_cost(counters, rows.dim), tried))
            if probes >= PROBES_SURE and sure < best + GAIN_MIN:
                break
            best = max(best, sure)
        progress("calibrate", done + 1, len(series))
    return _frontier(measured)


def _cost(counters: I64, dim: int) -> float:
    """Nanoseconds that the counted work should take, up to a constant factor."""
    return float(
        counters[v.COUNT_POSTINGS] * COST_POSTING_NS
        + counters[v.COUNT_ROWS] * COST_ROW_NS * dim / 128
        + counters[v.COUNT_RERANKED] * COST_RERANK_NS * (0.5 + dim / 256)
    )


def _frontier(measured: list[tuple[float, EffortRecord]]) -> list[EffortRecord]:
    """Keep the efforts that no cheaper one beats, by rising recall."""
    kept: list[EffortRecord] = []
    for _, candidate in sorted(measured, key=lambda entry: entry[0]):
        if not kept or candidate.recall > kept[-1].recall:
            kept.append(candidate)
    return kept


def calibrate(
    environment: Environment,
    identity: Identity,
    snapshot: Snapshot,
    searcher: Searcher,
    progress: Progress,
) -> None:
    """Measure and store the calibration of a collection that was just trained."""
    efforts = measure(snapshot, searcher, progress, identity.record.seed)
    with environment.write() as transaction:
        edit = Edit(transaction, identity)
        edit.state.calibration = efforts
        edit.state.calibration_note = (
            f"recall@{K}, less one standard error, of "
            f"{min(QUERIES, snapshot.state.live_rows)} rows of the collection, each without "
            f"itself, on all {snapshot.state.live_rows} rows"
        )
        edit.finish()


def choose_effort(efforts: list[EffortRecord], recall: float, k: int) -> Effort | None:
    """Cheapest effort measured to reach a recall; None, an exact scan, when none does.

    More hits than calibrated for need more postings and farther ones: both grow with the square
    root of k / 10, which kept recall@1,000 at or above recall@10 on SIFT, GloVe and WordNet.
    """
    if recall >= 1.0:
        return None
    if not efforts:
        return DEFAULT_EFFORT
    chosen = next((effort for effort in efforts if effort.recall >= recall), None)
    if chosen is None:
        return None
    grown = max(1.0, (k / K) ** 0.5)
    return Effort(round(chosen.probes * grown), chosen.bound, chosen.spread * grown)


DEFAULT_EFFORT = Effort(probes=64, bound=1.0, spread=SPREADS[-1])
"""Serves in the moments between training and calibration."""
