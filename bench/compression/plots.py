"""Plots of the study: recall and error against true bytes, one figure of each per dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from bench.compression.methods import METHODS
from bench.compression.study import Cell

_DPI = 100
_TICKS = (1, 3, 5, 10, 25, 50)


def _style(method: str) -> dict[str, Any]:
    """The same colour and marker for a method in every plot."""
    place = list(METHODS).index(method) if method in METHODS else 0
    return {
        "color": plt.get_cmap("tab20")(place % 20),
        "marker": "o^sDvP*X<>"[place % 10],
        "linewidth": 1.4,
        "markersize": 5,
    }


def _curves(axes: Axes, cells: Iterable[Cell], value: Callable[[Cell], float]) -> None:
    by_method: dict[str, dict[float, float]] = {}
    for cell in cells:
        if cell.ok and cell.method in METHODS:
            by_method.setdefault(cell.method, {})[cell.share * 100] = value(cell)
    for method in METHODS:
        points = sorted(by_method.get(method, {}).items())
        if points:
            shares, values = zip(*points, strict=True)
            axes.plot(shares, values, label=method, **_style(method))
    axes.set_xscale("log")
    axes.set_xticks(_TICKS, [str(tick) for tick in _TICKS])
    axes.minorticks_off()
    axes.set_xlabel("true bytes, % of float32")
    axes.grid(True, alpha=0.3)
    axes.legend(fontsize=8, ncols=1, loc="center left", bbox_to_anchor=(1.0, 0.5))


def draw(cells: Iterable[Cell], dataset: str, folder: Path) -> list[Path]:
    """Draw both figures of a dataset into a folder.

    Methods that lose nothing have no place on the logarithmic axis of errors: they are drawn on
    its lower edge.
    """
    found = list(cells)
    panels: list[tuple[str, str, Callable[[Cell], float]]] = [
        ("recall", "recall@k of exact search over decoded rows", lambda cell: cell.recall),
        ("error", "relative reconstruction error", lambda cell: max(cell.error, 1e-5)),
    ]
    drawn = []
    for stem, label, value in panels:
        figure, axes = plt.subplots(figsize=(8, 4.5))
        _curves(axes, found, value)
        if stem == "error":
            axes.set_yscale("log")
        axes.set_ylabel(label)
        axes.set_title(f"{dataset}: {'up' if stem == 'recall' else 'down'} and left is better")
        figure.tight_layout()
        path = folder / f"{dataset}-{stem}.png"
        figure.savefig(path, dpi=_DPI, metadata={"Software": None})
        plt.close(figure)
        drawn.append(path)
    return drawn
