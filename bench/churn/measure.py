"""Recall, work and time of a store's queries."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.churn.stream import Asked, Stream
from bench.metrics import found_mask, recall
from vecstore.calibrate import effort_of
from vecstore.config import Effort
from vecstore.kernels import view as v
from vecstore.search import effort_array

PROBES = (8, 16, 32)
"""Postings read at fixed effort, with the full error bound and none left out."""
TARGET = 0.95
PASSES = 3
FIGURES = ("postings", "posting_entries", "posting_rows_cv", "posting_rows_p99", "dead_rows")


def at_effort(
    stream: Stream, docs: Any, asked: Asked, k: int, effort: Effort | None
) -> dict[str, Any]:
    """Recall and work at one effort; None scans everything."""
    core = docs._core
    view = core.reader.view()
    settings = effort_array(effort)
    rows, _, counters = core.searcher.many(view, settings, asked.queries, k)
    ids = view.snapshot.ids_of(rows.ravel()).reshape(rows.shape)
    found = found_mask(stream.base, asked.queries, ids, asked.kth, stream.metric)
    n = len(asked.queries)
    return {
        "recall": recall(found, k),
        "postings": float(counters[v.COUNT_POSTINGS] / n),
        "scanned": float(counters[v.COUNT_ROWS] / n),
        "reranked": float(counters[v.COUNT_RERANKED] / n),
    }


def fixed(stream: Stream, docs: Any, asked: Asked, k: int) -> dict[str, Any]:
    """Recall and work at some numbers of probes."""
    return {
        str(probes): at_effort(stream, docs, asked, k, Effort(probes, 1.0, 1e30))
        for probes in PROBES
    }


def calibrated(stream: Stream, docs: Any, asked: Asked, k: int) -> dict[str, Any]:
    """Recall, work and time of the effort that the store takes for `TARGET`."""
    view = docs._core.reader.view()
    effort = effort_of(view, TARGET, k)
    found = at_effort(stream, docs, asked, k, effort)
    chosen = None if effort is None else [effort.probes, effort.bound, effort.spread]
    return {
        **found,
        "effort": chosen,
        "calibrated_rows": view.record.calibrated_rows,
        "fresh": len(view.fresh),
    }


def query_ns(docs: Any, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Nanoseconds of single queries, one after the other, int64 (n,)."""
    found = np.empty(len(queries), np.int64)
    for place, query in enumerate(queries):
        began = time.perf_counter_ns()
        docs.query(query, k=k)
        found[place] = time.perf_counter_ns() - began
    return found


def figures(latency_ns: NDArray[np.int64]) -> dict[str, float]:
    """Mean and percentiles in microseconds."""
    micros = latency_ns / 1e3
    return {
        "queries": len(micros),
        "mean_us": float(micros.mean()),
        "p50_us": float(np.percentile(micros, 50)),
        "p99_us": float(np.percentile(micros, 99)),
        "max_us": float(micros.max()),
    }


def shape(docs: Any) -> dict[str, Any]:
    """How postings look."""
    stats = docs.stats()
    return {name: stats[name] for name in FIGURES} | {
        "tail_rows": stats["tail_rows"],
        "extents": stats["extents"],
        "live_entries": live_entries(docs),
        "maintenance": stats["maintenance"],
    }


def live_entries(docs: Any) -> dict[str, int]:
    """Entries of live rows, those of rows that have more than one build would give, and empties."""
    view = docs._core.reader.view()
    record = view.snapshot.identity.record
    ordinals, rows = view.index.entries(view.snapshot.extents.codec.block_bytes(record.dim))
    live = np.isin(rows, view.row_numbers())
    copies = np.unique(rows[live], return_counts=True)[1]
    held = np.bincount(ordinals[live], minlength=len(view.index.first_run) - 1)
    return {
        "entries": int(live.sum()),
        "superfluous": int(np.maximum(copies - 2, 0).sum()),
        "empty_postings": int((held == 0).sum()),
        "thin_postings": int((held < 40).sum()),
    }


def written_bytes() -> int:
    """Bytes that this process wrote to files so far."""
    for line in Path(f"/proc/{os.getpid()}/io").read_text("ascii").splitlines():
        name, _, value = line.partition(": ")
        if name == "wchar":
            return int(value)
    return 0
