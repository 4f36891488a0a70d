"""Which method to take at a budget, for each use, by rules applied to the measured cells.

- lookup: rows fetched by number for a model. Least relative error among the methods that look up
  10,000 rows a second with one thread.
- search: nearest neighbours over decoded rows. Highest recall.
- archive: the smallest file that is decoded as a whole. Least relative error among all cells of a
  method, whatever budget they were made for, whose file fits the budget after DEFLATE.

Of methods whose values tie, the one with the fewest bytes is taken.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.compression.study import Cell

USES = ("lookup", "search", "archive")
LOOKUP_ROWS_PER_S_MIN = 10_000
#: Differences below these are ties: recall, and relative error.
TIE_RECALL = 0.005
TIE_ERROR = 0.002


@dataclass(frozen=True)
class Pick:
    """What a rule takes.

    Attributes
    ----------
    cell : Cell
    bytes_share : float
        Bytes by float32 bytes, after DEFLATE for an archive.
    tied : tuple of str
        Other methods whose value is the same within the tie.
    """

    cell: Cell
    bytes_share: float
    tied: tuple[str, ...]


def loss(cell: Cell, use: str) -> float:
    """What a use minimises: missed recall, or relative error."""
    return 1 - cell.recall if use == "search" else cell.error


def candidates(cells: Iterable[Cell], budget: float, use: str) -> dict[str, Cell]:
    """The cell with which each method takes part, by the method's name."""
    found: dict[str, Cell] = {}
    for cell in cells:
        if not cell.ok:
            continue
        fits = cell.deflated_share <= budget if use == "archive" else cell.budget == budget
        slow = use == "lookup" and cell.rows_per_s("lookup") < LOOKUP_ROWS_PER_S_MIN
        if slow or not fits:
            continue
        other = found.get(cell.method)
        if other is None or _order(cell, use) < _order(other, use):
            found[cell.method] = cell
    return found


def _share(cell: Cell, use: str) -> float:
    return cell.deflated_share if use == "archive" else cell.share


def _order(cell: Cell, use: str) -> tuple[float, float]:
    return loss(cell, use), _share(cell, use)


def pick(cells: Iterable[Cell], budget: float, use: str) -> Pick | None:
    """The method to take on one dataset, or None when none fits."""
    found = list(candidates(cells, budget, use).values())
    if not found:
        return None
    tie = TIE_RECALL if use == "search" else TIE_ERROR
    least = min(loss(cell, use) for cell in found)
    best = [cell for cell in found if loss(cell, use) <= least + tie]
    taken = min(best, key=lambda cell: (_share(cell, use), loss(cell, use)))
    tied = tuple(cell.method for cell in best if cell is not taken)
    return Pick(taken, _share(taken, use), tied)


def over_all(
    cells: Mapping[str, Sequence[Cell]], budget: float, use: str
) -> list[tuple[str, float]]:
    """Methods that take part on every dataset, by their mean loss beyond the best of each.

    Parameters
    ----------
    cells : mapping
        Cells by dataset.

    Returns
    -------
    list of (method, mean excess loss)
        The best first.
    """
    fields = [candidates(found, budget, use) for found in cells.values()]
    if not all(fields):
        return []
    least = [min(loss(cell, use) for cell in field.values()) for field in fields]
    common = set.intersection(*(set(field) for field in fields))
    means = {
        name: statistics.fmean(
            loss(field[name], use) - low for field, low in zip(fields, least, strict=True)
        )
        for name in common
    }
    return sorted(means.items(), key=lambda item: (item[1], item[0]))
