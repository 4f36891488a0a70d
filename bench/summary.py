"""From the raw results of one pair to the figures that reports show.

The rule for time: a figure is computed for each measured pass, then the median over the passes is
taken; the best pass is kept beside it. Ratios are the median's, with the range over the passes
paired by repeat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import metrics
from bench.metrics import AtRecall
from bench.results import Pair, Run

TARGETS = (0.90, 0.95, 0.99)
REFERENCE = "hnswlib"
OURS = "vecstore"
#: Adapters that take part in every sitting.
REFERENCES = (REFERENCE, OURS)


@dataclass(frozen=True)
class Point:
    """One parameter point, all times of single-query calls on one thread.

    Attributes
    ----------
    qps, p50_us, p99_us, mean_us : float
        Medians over the passes.
    qps_best : float
        Of the fastest pass.
    qps_passes : ndarray (repeats,)
    cpu_share : float
        CPU seconds by wall seconds; above 1 more than one thread was at work.
    read_bytes_per_query, reads_per_query : float
        From storage; reads are counted in cold runs only, else 0.
    changed : int
        Most queries of any pass whose ids differed from the first pass.
    """

    params: dict[str, Any]
    recall: float
    qps: float
    qps_best: float
    qps_passes: NDArray[np.float64]
    p50_us: float
    p99_us: float
    mean_us: float
    cpu_share: float
    read_bytes_per_query: float
    reads_per_query: float
    changed: int


@dataclass(frozen=True)
class Batch:
    """Throughput of batches at one point on ``threads`` cores: the median and best pass."""

    params: dict[str, Any]
    threads: int
    recall: float
    qps: float
    qps_best: float


@dataclass(frozen=True)
class Summary:
    """Everything derived from one pair."""

    dataset: str
    adapter: str
    record: dict[str, Any]
    points: list[Point]
    batches: list[Batch]

    @property
    def beyond_imports_bytes(self) -> int:
        """Anonymous memory after all queries, less that before the index was opened."""
        memory = self.record["memory"]
        return int(memory["after_queries"]["anon_bytes"] - memory["baseline"]["anon_bytes"])

    def qps_at(self, target: float, repeat: int | None = None) -> AtRecall:
        """Queries per second at a recall: of the medians, or of one repeat's passes."""
        recalls = [point.recall for point in self.points]
        if repeat is None:
            return metrics.at_recall(recalls, [point.qps for point in self.points], target)
        values = [float(point.qps_passes[repeat]) for point in self.points]
        return metrics.at_recall(recalls, values, target)

    @property
    def sitting(self) -> int:
        """Those of one dataset and sitting were measured in turns."""
        return int(self.record.get("sitting", 0))

    def point_at(self, target: float) -> Point | None:
        """The fastest measured point that reaches a recall."""
        reached = [point for point in self.points if point.recall >= target]
        return max(reached, key=lambda point: point.qps, default=None)


def summarise(pair: Pair, run: Run) -> Summary:
    """Derive points and batches of one pair."""
    facts = run.datasets[pair.dataset]
    wanted = min(int(run.settings["k"]), int(facts["rows"]))
    arrays, points, batches = pair.arrays, [], []
    for p, params in enumerate(pair.record["points"]):
        latency = arrays["latency_ns"][:, p]
        qps = metrics.queries_per_second(latency)
        passes = [latency[r].astype(np.float64) / 1e3 for r in range(len(latency))]
        points.append(
            Point(
                params=params,
                recall=metrics.recall(arrays["found"][:, :, p], wanted),
                qps=float(np.median(qps)),
                qps_best=float(qps.max()),
                qps_passes=qps,
                p50_us=float(np.median([metrics.percentile(one, 50) for one in passes])),
                p99_us=float(np.median([metrics.percentile(one, 99) for one in passes])),
                mean_us=float(np.median([one.mean() for one in passes])),
                cpu_share=float(arrays["cpu_s"][:, p].sum() / arrays["elapsed_s"][:, p].sum()),
                read_bytes_per_query=float(arrays["storage_bytes"][:, p].mean()) / latency.shape[1],
                reads_per_query=float(arrays["reads"][:, p].mean()) / latency.shape[1]
                if "reads" in arrays
                else 0.0,
                changed=int(arrays["changed"][:, p].max()),
            )
        )
    batch = pair.record.get("batch", {"threads": [], "points": []})
    for t, threads in enumerate(batch["threads"]):
        for b, params in enumerate(batch["points"]):
            rates = int(facts["queries"]) / arrays["batch_seconds"][t, b]
            recall = metrics.recall(arrays["batch_found"][t, b], wanted)
            median, best = float(np.median(rates)), float(rates.max())
            batches.append(Batch(params, threads, recall, median, best))
    return Summary(pair.dataset, pair.adapter, pair.record, points, batches)


@dataclass(frozen=True)
class Ratio:
    """How many times the reference's queries per second, at one recall.

    Attributes
    ----------
    value : float or None
        None where either sweep does not reach the recall.
    low, high : float
        Range over the passes, paired by repeat.
    kind : str
        ``"exact"``, ``"at least"`` (only the fastest known point of the numerator lies above the
        recall), ``"at most"`` (the same of the reference) or ``"unknown"``.
    """

    value: float | None
    low: float
    high: float
    kind: str


def ratio_at(summary: Summary, reference: Summary, target: float) -> Ratio:
    """Queries per second at a recall, relative to a reference of the same run."""
    mine, theirs = summary.qps_at(target), reference.qps_at(target)
    if mine.value is None or theirs.value is None:
        return Ratio(None, 0, 0, "unknown")
    kinds = {("exact", "exact"): "exact", ("at least", "exact"): "at least"}
    kind = kinds.get((mine.kind, theirs.kind), "at most" if mine.kind == "exact" else "unknown")
    repeats = min(len(summary.points[0].qps_passes), len(reference.points[0].qps_passes))
    paired = []
    for repeat in range(repeats):
        above, below = summary.qps_at(target, repeat).value, reference.qps_at(target, repeat).value
        if above is not None and below is not None:
            paired.append(above / below)
    return Ratio(mine.value / theirs.value, min(paired), max(paired), kind)
