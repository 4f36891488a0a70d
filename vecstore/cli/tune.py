"""`vecstore tune`: codec and effort chosen by measurement, shown as a table and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vecstore.cli.app import app
from vecstore.cli.output import emit_json, progress_bars, size_text
from vecstore.cli.stores import CollectionOption, JsonOption, StoreArgument, changed, pick

if TYPE_CHECKING:
    from vecstore.results import Candidate, Tuning

_PLOT_COLUMNS = 64
_PLOT_LINES = 16


@app.command()
def tune(
    store: StoreArgument,
    collection: CollectionOption = None,
    queries: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Vectors to ask with; else rows of the collection."),
    ] = None,
    recall: Annotated[float, typer.Option(help="Share of the true nearest to find.")] = 0.95,
    k: Annotated[int, typer.Option("-k", help="Hits wanted.")] = 10,
    ram: Annotated[
        int | None, typer.Option(metavar="BYTES", help="For tables and directory.")
    ] = None,
    disk: Annotated[int | None, typer.Option(metavar="BYTES", help="For the collection.")] = None,
    codec: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A candidate; may be repeated.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure codecs and efforts on the collection; keep the quickest that reaches the recall."""
    with changed(store) as source:
        docs = pick(source, store, collection)
        asked = None
        if queries is not None:
            from vecstore.loaders import open_vectors

            asked = open_vectors(queries)
        with progress_bars() as progress:
            tuning = docs.tune(asked, recall, k, ram, disk, codecs=codec, progress=progress)
    if json:
        import msgspec

        emit_json({"store": store, "collection": docs.name, **msgspec.to_builtins(tuning)})
    else:
        _print_tuning(docs.name, tuning)


def _print_tuning(name: str, tuning: Tuning) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"{name}: recall@{tuning.k} on {tuning.queries}"))
    for heading in ("", "codec", "probes", "bound", "recall (95 %)", "µs", "reranked", "postings"):
        table.add_column(heading, justify="left" if heading in ("", "codec") else "right")
    best = tuning.pareto()
    for one in tuning.candidates:
        mark = "→" if one == tuning.chosen else "·" if one in best else ""
        table.add_row(
            mark,
            one.codec,
            f"{one.probes:,}",
            f"{one.bound:g}",
            f"{one.recall:.4f} ({one.recall_low:.4f}-{one.recall_high:.4f})",
            f"{one.microseconds:,.0f}",
            f"{one.rows_reranked:,.0f}",
            size_text(one.posting_bytes),
        )
    console = Console()
    console.print(table)
    if len(best) > 1:
        console.print(Text(pareto_plot(tuning)))
    chosen = tuning.chosen
    console.print(
        Text(
            f"Chosen for recall {tuning.target:g}: {chosen.codec}, {chosen.microseconds:,.0f} µs a "
            f"query, {size_text(chosen.disk_bytes)} on disk, {size_text(chosen.ram_bytes)} in RAM."
        )
    )


def pareto_plot(tuning: Tuning) -> str:
    """Draw time over recall: `o` no other candidate beats, `x` the chosen one, `.` the rest."""
    points = tuning.candidates
    recalls = [one.recall for one in points]
    times = [one.microseconds for one in points]
    low, wide = min(recalls), max(max(recalls) - min(recalls), 1e-9)
    quick, high = min(times), max(max(times) - min(times), 1e-9)
    lines = [[" "] * _PLOT_COLUMNS for _ in range(_PLOT_LINES)]
    best = tuning.pareto()

    def mark(one: Candidate, letter: str) -> None:
        column = round((one.recall - low) / wide * (_PLOT_COLUMNS - 1))
        line = round((one.microseconds - quick) / high * (_PLOT_LINES - 1))
        lines[_PLOT_LINES - 1 - line][column] = letter

    for letter, chosen in ((".", points), ("o", best), ("x", [tuning.chosen])):
        for one in chosen:
            mark(one, letter)
    drawn = "\n".join(f"  |{''.join(line).rstrip()}" for line in lines)
    foot = f"  +{'-' * _PLOT_COLUMNS}\n   recall {low:.3f} to {low + wide:.3f}"
    return f"  µs {quick + high:,.0f} (bottom {quick:,.0f})\n{drawn}\n{foot}"
