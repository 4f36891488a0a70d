"""`vecstore demo`: see it work on 400,000 words."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vecstore.cli.app import app
from vecstore.cli.output import emit_json, plain, progress_bars, size_text
from vecstore.cli.stores import JsonOption

if TYPE_CHECKING:
    from vecstore.demo import Report

REPORT_WIDTH = 96


@app.command()
def demo(
    path: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep the store here; otherwise it is removed."),
    ] = None,
    rows: Annotated[
        int | None, typer.Option(metavar="N", help="Take the N most frequent words only.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Index 400,000 word vectors, reopen them in a new process, query, compare with exact."""
    from vecstore.demo import run

    with progress_bars() as progress:
        report = run(path, rows, progress)
    if json:
        emit_json({"store": path, **asdict(report)})
    else:
        _show(report, path)


def _show(report: Report, path: Path | None) -> None:
    from rich.box import ROUNDED
    from rich.console import Console, Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    figures = Table.grid(padding=(0, 2))
    figures.add_column(style="dim")
    figures.add_column(justify="right", style="bold")
    figures.add_column()
    for name, value, note in _figures(report):
        figures.add_row(name, value, note)
    words = Table.grid(padding=(0, 2))
    words.add_column(style="bold cyan", justify="right")
    words.add_column()
    for word, neighbours in report.neighbours.items():
        near = Text()
        for neighbour in neighbours:
            near.append(f"{plain(neighbour.word)}\N{NO-BREAK SPACE}")
            near.append(f"{neighbour.distance:.2f}   ", style="dim")
        words.add_row(Text(plain(word)), near)
    body = Group(figures, Text(), Text("nearest words, cosine distance", style="dim"), words)
    title = f"vecstore · {report.rows:,} GloVe words × {report.dim}"
    console = Console()
    console.width = min(console.width, REPORT_WIDTH)
    console.print(Panel(body, title=title, title_align="left", box=ROUNDED, padding=(1, 2)))
    if path is not None:
        typer.echo(f"Ask it yourself: vecstore query {plain(path)} --id king")


def _figures(report: Report) -> list[tuple[str, str, str]]:
    """Give name, value and a note for each line."""
    rate = f"{report.rows / report.build_s:,.0f} rows/s"
    if report.compile_s >= 3:  # less is loading them, not compiling
        rate += f", after {report.compile_s:.0f} s of compiling kernels, once"
    ram, ram_note = "n/a", "this system does not tell"
    if report.ram_bytes is not None:
        ram = size_text(report.ram_bytes)
        fixed = [report.ram_libraries_bytes or 0, report.ram_kernels_bytes or 0]
        ram_note = "beside {} of libraries, {} of kernels".format(*map(size_text, fixed))
    return [
        ("rows", f"{report.rows:,}", f"and {report.queries:,} held out as queries"),
        ("build", f"{report.build_s:.1f} s", rate),
        ("recall@10", f"{report.recall_at_10:.4f}", "against exact search (faiss)"),
        ("latency, median", f"{report.latency_p50_ms:.3f} ms", "one query after the other"),
        ("latency, p99", f"{report.latency_p99_ms:.3f} ms", ""),
        ("RAM", ram, ram_note),
        (
            "disk",
            size_text(report.disk_bytes),
            f"the vectors alone: {size_text(report.vectors_bytes)}",
        ),
    ]
