"""Pieces of markdown that reports share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table; all columns but the first are set to the right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def mb(count: float) -> str:
    """Bytes as MB of 2**20."""
    return f"{count / 2**20:,.1f}"


def params_text(params: dict[str, Any]) -> str:
    """A parameter point on one line."""
    return " ".join(f"{name}={value}" for name, value in params.items()) or "-"
