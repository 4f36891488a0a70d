"""Plots of a report, drawn with matplotlib without a display."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench import metrics
from bench.adapters import ADAPTERS
from bench.summary import Point, Summary

_SHOWN_RECALL_MIN = 0.8
_GROWTH_RECALL = 0.95
_DPI = 110
#: Recall is drawn on a scale of missed neighbours, ending here.
_RECALL_MAX = 0.9999


def _style(adapter: str) -> dict[str, Any]:
    """The same colour and marker for an adapter in every plot."""
    place = list(ADAPTERS).index(adapter) if adapter in ADAPTERS else 0
    colour = plt.get_cmap("tab20")((place % 10 * 2 + place // 10) % 20)
    return {
        "color": colour,
        "marker": "o^sDvP*X"[place % 8],
        "linewidth": 2.4 if adapter.startswith("vecstore") else 1.4,
        "markersize": 5,
    }


def _save(figure: Figure, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
    plt.close(figure)
    return path


def _speed(summary: Summary) -> float:
    """Queries per second where adapters are told apart: at a recall, or at the most accurate."""
    found = summary.qps_at(_GROWTH_RECALL).value
    return found or min((point.qps for point in summary.points), default=0.0)


def _frontier(axes: Axes, summary: Summary, value: Callable[[Point], float], larger: bool) -> None:
    recalls = [point.recall for point in summary.points]
    values = [value(point) for point in summary.points]
    kept = metrics.frontier(recalls, values if larger else [-v for v in values])
    shown = [i for i in kept if recalls[i] >= _SHOWN_RECALL_MIN]
    if shown:
        axes.plot(
            [1 - min(recalls[i], _RECALL_MAX) for i in shown],
            [values[i] for i in shown],
            label=summary.adapter,
            **_style(summary.adapter),
        )


def _recall_axis(axes: Axes, label: str, title: str) -> None:
    ticks = [0.8, 0.9, 0.95, 0.98, 0.99, 0.999, _RECALL_MAX]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([1 - tick for tick in ticks], [*(f"{t:g}" for t in ticks[:-1]), "1"])
    axes.minorticks_off()
    axes.set_xlim(1 - _SHOWN_RECALL_MIN, 1 - _RECALL_MAX)
    axes.set_xlabel("recall@k")
    axes.set_ylabel(label)
    axes.set_title(title)
    axes.grid(True, which="both", alpha=0.3)


def _legend(axes: Axes) -> None:
    """Beside the plot."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles, labels, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))


def frontiers(summaries: Sequence[Summary], name: str, folder: Path, stem: str) -> list[Path]:
    """Recall against queries/s, and against p50 and p99 latency; each adapter's own frontier."""
    # in the order in which the curves lie
    summaries = sorted(summaries, key=_speed, reverse=True)
    figure, axes = plt.subplots(figsize=(9, 5))
    for summary in summaries:
        _frontier(axes, summary, lambda point: point.qps, larger=True)
    _recall_axis(axes, "queries per second (one thread)", f"{name}: up and right is better")
    _legend(axes)
    drawn = [_save(figure, folder / f"{stem}-recall-qps.png")]
    figure, pair = plt.subplots(1, 2, figsize=(13, 5))
    for summary in summaries:
        _frontier(pair[0], summary, lambda point: point.p50_us, larger=False)
        _frontier(pair[1], summary, lambda point: point.p99_us, larger=False)
    _recall_axis(pair[0], "p50 latency, µs", f"{name}: down and right is better")
    _recall_axis(pair[1], "p99 latency, µs", f"{name}: down and right is better")
    _legend(pair[1])
    drawn.append(_save(figure, folder / f"{stem}-recall-latency.png"))
    return drawn


def resources(summaries: Sequence[Summary], name: str, folder: Path, stem: str) -> Path:
    """Bars: RAM beyond imports, file pages, disk, build time."""
    bars: list[tuple[str, Callable[[Summary], float]]] = [
        ("RAM beyond imports, MB", lambda s: s.beyond_imports_bytes / 2**20),
        ("disk, MB", lambda s: s.record["build"]["disk_bytes"] / 2**20),
        ("build, s", lambda s: s.record["build"]["build_s"]),
    ]
    names = [summary.adapter for summary in summaries]
    size = (4.2 * len(bars), 1.2 + 0.28 * len(names))
    figure, all_axes = plt.subplots(1, len(bars), figsize=size, sharey=True)
    colours = [_style(adapter)["color"] for adapter in names]
    for axes, (title, value) in zip(all_axes, bars, strict=True):
        drawn = axes.barh(names, [value(summary) for summary in summaries], color=colours)
        axes.bar_label(drawn, fmt="{:,.1f}", fontsize=8, padding=2)
        axes.set_title(f"{name}: {title}", fontsize=9)
        axes.tick_params(axis="y", labelsize=8)
        axes.margins(x=0.16)
    all_axes[0].invert_yaxis()
    return _save(figure, folder / f"{stem}-resources.png")


def growth(curves: Mapping[str, Sequence[tuple[int, Summary]]], folder: Path) -> Path:
    """Latency, RAM, build time and disk against rows.

    Parameters
    ----------
    curves : Mapping
        From `bench.growth.curves`.
    """

    def latency(summary: Summary) -> float | None:
        point = summary.point_at(_GROWTH_RECALL)
        return point.p50_us if point else None

    panels: list[tuple[str, Callable[[Summary], float | None]]] = [
        (f"p50 µs at recall ≥ {_GROWTH_RECALL}", latency),
        ("RAM beyond imports, MB", lambda s: s.beyond_imports_bytes / 2**20),
        ("build, s", lambda s: s.record["build"]["build_s"]),
        ("disk, MB", lambda s: s.record["build"]["disk_bytes"] / 2**20),
    ]
    figure, grid = plt.subplots(2, 2, figsize=(11, 8))
    for axes, (title, value) in zip(grid.flat, panels, strict=True):
        for label, curve in curves.items():
            known = [(n, value(summary)) for n, summary in curve]
            drawn = [(n, y) for n, y in known if y is not None]
            style = _style(curve[0][1].adapter)
            axes.plot([n for n, _ in drawn], [y for _, y in drawn], label=label, **style)
        axes.set(xscale="log", yscale="log", xlabel="rows", title=title)
        axes.grid(True, which="both", alpha=0.3)
        axes.legend(fontsize=8)
    return _save(figure, folder / "growth.png")
