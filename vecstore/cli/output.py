"""How commands speak: one JSON document, rich tables, one line of error, bars on stderr.

What comes from a store or a file may hold control characters; none of them reaches a terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer


def say_error(message: str) -> None:
    """Print `error: ...` on stderr, as one line."""
    typer.echo(f"error: {plain(message)}", err=True)


def emit_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document on stdout, on one line."""
    typer.echo(json_bytes(document))


def json_bytes(value: Any) -> bytes:
    """Encode a value; what is no JSON value becomes the nearest one."""
    import msgspec

    return msgspec.json.encode(value, enc_hook=_to_json)


def plain(value: Any, width: int | None = None) -> str:
    """Give a value's text on one line, without control characters, cut to a width."""
    spaced = "".join(letter if letter.isprintable() else " " for letter in f"{value}")
    text = " ".join(spaced.split())
    return text if width is None or len(text) <= width else text[: width - 1] + "…"


def size_text(count: float) -> str:
    """Give a number of bytes in a unit that reads well (1 MB = 10^6 bytes)."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Give a function (stage, done, total) that moves one bar per stage, if there is a terminal.

    A bar shows the time taken and an estimate of what is left of the stage.
    """
    if not sys.stderr.isatty():
        yield lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<22}", markup=False),
        BarColumn(bar_width=36),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                for earlier in bars.tasks:  # stages follow one another
                    bars.update(earlier.id, completed=earlier.total)
                tasks[stage] = bars.add_task(plain(stage), total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield report


def _to_json(value: Any) -> Any:
    """Convert what msgspec does not know: numpy's numbers and arrays, paths, sets."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value)
    return f"{value}"
