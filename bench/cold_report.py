"""The part of a report that tells of a cold run: latency, reads, and what the disk allows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.device import wave_us
from bench.results import Run
from bench.summary import Point, Summary
from bench.tables import mb, params_text, table

RULES = """\
Every query process has the same memory limit for anonymous memory and page cache together. Before
each pass its cache is emptied; then come queries that are not reported, with which the process
fills what the limit leaves for a cache, and then those that are. *Reads* are requests that reached
the disk, counted by control group. *One wave* is the median time in which this disk answers as
many reads of this mean size at once, past the page cache: a query that knew from the start all
it wants to read could be no faster. Mean latency at the recall is interpolated between points;
the other figures are those of the quickest measured point that reaches it."""


def is_cold(run: Run) -> bool:
    """Whether a run was made with a memory limit."""
    return "device" in run.settings


def device_table(device: dict[str, Any]) -> str:
    """Median and 99th percentile of waves of reads."""
    head = ["size of a read", *(f"{depth} at once" for depth in device["depths"])]
    rows = [
        [
            f"{size // 1024} KB",
            *(f"{p50:,.0f} / {p99:,.0f}" for p50, p99 in zip(*percentiles, strict=True)),
        ]
        for size, *percentiles in zip(
            device["sizes_bytes"], device["p50_us"], device["p99_us"], strict=True
        )
    ]
    ahead = device.get("read_ahead_kb")
    note = f" A fault in a plain map reads {ahead:,} KB around it." if ahead is not None else ""
    return (
        f"### The disk\n\nWaves of random direct reads in a file of {mb(device['file_bytes'])} MB, "
        f"p50 / p99 in µs.{note}\n\n{table(head, rows)}"
    )


def _shown(summary: Summary, target: float) -> Point:
    """The quickest point that reaches the recall; the most accurate where none does."""
    return summary.point_at(target) or max(summary.points, key=lambda point: point.recall)


def cold_table(run: Run, summaries: Sequence[Summary], facts: dict[str, Any]) -> str:
    """One line for each adapter at the recall asked for."""
    target, device = float(run.settings["recall"]), run.settings["device"]
    head = [
        *(
            "adapter",
            f"mean µs at {target:.2f}",
            "point",
            "recall",
            "mean µs",
            "p50 / p99 µs",
        ),
        *("reads/query", "KB/query", "one wave µs", "mean by wave", "CPU/wall"),
        *("anon MB, imports", "anon MB beyond", "disk by limit"),
    ]
    rows = []
    for summary in sorted(summaries, key=lambda one: _shown(one, target).mean_us):
        point, found = _shown(summary, target), summary.qps_at(target)
        sign = "≤" if found.kind == "at least" else ""
        mean = "not reached" if found.value is None else f"{sign}{1e6 / found.value:,.0f}"
        wave = wave_us(device, point.reads_per_query, point.read_bytes_per_query)
        memory = summary.record["memory"]
        rows.append(
            [
                *(summary.adapter, mean, f"{summary.record['queries']['reported']}"),
                *(params_text(point.params), f"{point.recall:.4f}"),
                f"{point.mean_us:,.0f}",
                f"{point.p50_us:,.0f} / {point.p99_us:,.0f}",
                f"{point.reads_per_query:,.1f}",
                f"{point.read_bytes_per_query / 1024:,.0f}",
                f"{wave:,.0f}",
                f"{point.mean_us / wave:.2f}×" if wave else "",
                f"{point.cpu_share:.2f}",
                mb(memory["imports"]["anon_bytes"]),
                mb(summary.beyond_imports_bytes),
                f"{summary.record['build']['disk_bytes'] / facts['limit_bytes']:.1f}",
            ]
        )
    note = (
        f"Limit {mb(facts['limit_bytes'])} MB, float32 rows {mb(facts['data_bytes'])} MB: "
        f"{facts['data_bytes'] / facts['limit_bytes']:.2f} times as much. "
        f"{run.settings['filling']} queries filled the cache before each pass, and for adapters "
        f"that would take more than {run.settings['pass_s']:.0f} s fewer of both kinds were asked."
    )
    return f"{note}\n\n{table(head, rows)}"
