"""Growth: what latency, memory, building and disk are at ever more rows of one kind.

Sets of one dimension are prefixes of each other (`bench.data`). Each size is a dataset of a
common run, so that one that was cut short goes on with the size it was at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.results import Run
from bench.run import Say, Settings, run
from bench.summary import Summary
from bench.tables import mb, table

SIZES = (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
#: Adapters other than vecstore keep out of larger sets: graphs take hours to build there.
OTHERS_ROWS_MAX = 1_000_000
RECALL = 0.95

Grown = Sequence[tuple[dict[str, Any], Summary]]


def sizes_up_to(most: int) -> list[int]:
    """Sizes of the curve, ending with the one asked for."""
    return [*(size for size in SIZES if size < most), most]


def run_growth(
    settings: Settings,
    sizes: Sequence[int],
    dim: int,
    others_rows_max: int,
    folder: Path,
    work: Path,
    machine: dict[str, Any],
    say: Say,
) -> Run:
    """Measure every size, smallest first.

    Parameters
    ----------
    settings : Settings
        Its datasets are left out of account.
    sizes : sequence of int
        Rows.
    others_rows_max : int
        Adapters other than vecstore are measured up to so many rows.
    """
    for place, rows in enumerate(sizes):
        adapters = tuple(
            name
            for name in settings.adapters
            if rows <= others_rows_max or name.startswith("vecstore")
        )
        one = replace(
            settings,
            datasets=(f"synthetic-{rows}x{dim}",),
            adapters=adapters,
            go_on=settings.go_on or place > 0,
        )
        stored = run(one, folder, work, machine, say)
    return stored


def curves(grown: Grown) -> dict[str, list[tuple[int, Summary]]]:
    """Rows and summaries by adapter and dimension, where there is more than one size."""
    found: dict[str, dict[int, Summary]] = {}
    for facts, summary in grown:
        if summary.dataset.startswith("synthetic-"):
            label = f"{summary.adapter} ({facts['dim']}-d)"
            found.setdefault(label, {})[int(facts["rows"])] = summary
    return {label: sorted(curve.items()) for label, curve in found.items() if len(curve) > 1}


def line(rows: Sequence[int], values: Sequence[float]) -> tuple[float, float]:
    """Least squares of ``base + slope · rows``, weighted so that small sizes count as well.

    Returns
    -------
    (float, float)
        Base, and slope per row.
    """
    x, y = np.array(rows, np.float64), np.array(values, np.float64)
    weights = 1 / np.sqrt(x)
    slope, base = np.polyfit(x, y, 1, w=weights)
    return float(base), float(slope)


def growth_tables(found: Mapping[str, list[tuple[int, Summary]]]) -> str:
    """A line for each size, and the memory as a formula."""
    head = [
        *("", "rows", f"recall at {RECALL:.2f}", "queries/s", "p50 / p99 µs"),
        *("anon MB, imports", "anon MB beyond", "build s", "rows/s", "build peak anon MB"),
        *("disk MB", "disk bytes/row", "open ms", "first query ms"),
    ]
    rows, formulas = [], []
    for label, curve in found.items():
        for count, summary in curve:
            point, record = summary.point_at(RECALL), summary.record
            build, opened = record["build"], record["open"]
            timed = ["not reached", "", ""]
            if point:
                latency = f"{point.p50_us:,.0f} / {point.p99_us:,.0f}"
                timed = [f"{point.recall:.4f}", f"{point.qps:,.0f}", latency]
            rows.append(
                [
                    *(label, f"{count:,}", *timed),
                    mb(record["memory"]["imports"]["anon_bytes"]),
                    mb(summary.beyond_imports_bytes),
                    f"{build['build_s']:,.1f}",
                    f"{count / build['build_s']:,.0f}",
                    mb(build["peak_anon_bytes"] - build["imports_anon_bytes"]),
                    mb(build["disk_bytes"]),
                    f"{build['disk_bytes'] / count:,.0f}",
                    f"{opened['open_s'] * 1e3:,.1f}",
                    f"{opened['first_query_s'] * 1e3:,.0f}",
                ]
            )
        counts = [count for count, _ in curve]
        base, slope = line(counts, [summary.beyond_imports_bytes for _, summary in curve])
        formulas.append(f"- {label}: {mb(base)} MB + {mb(slope * 1e6)} MB per million vectors")
    told = "Anonymous memory beyond imports, by least squares over the sizes:"
    return f"{table(head, rows)}\n\n{told}\n\n" + "\n".join(formulas)
