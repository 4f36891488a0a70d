"""Tables and numbers of reports."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

FIRST = "vecstore"
OWN = f"÷ {FIRST}'s"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Lines of a markdown table, the first column to the left."""
    head = list(head)
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return [*lines, ""]


def number(value: Any, digits: int = 3) -> str:
    """A number with a few significant digits, or a dash."""
    if value is None:
        return "–"
    if isinstance(value, int) or abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def megabytes(value: float | None) -> str:
    """Bytes in MB."""
    return "–" if value is None else number(value / 1e6)


def ratio(value: float | None, reference: float | None) -> str:
    """A value as so many times the reference."""
    return "–" if not value or not reference else f"{value / reference:.2f} ×"


def setting(point: dict[str, Any]) -> str:
    """Parameters of a point."""
    return ", ".join(f"{key} {value}" for key, value in point["params"].items())
