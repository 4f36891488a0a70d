"""Command line: ``python -m bench.compression run | report | list``."""

from __future__ import annotations

import datetime
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench import results
from bench.channel import BenchError
from bench.compression.methods import METHODS, find_method
from bench.compression.report import write_report
from bench.compression.run import BUDGETS, Settings
from bench.compression.run import run as run_study
from bench.compression.study import load_study
from bench.machine import machine_facts, without_places

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
console = Console(log_path=False)

_DATASETS = "wordnet,glove,fashion,sift577k"


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _budgets(text: str) -> tuple[float, ...]:
    values = tuple(float(word) for word in _names(text))
    if not values or not all(0 < value <= 1 for value in values):
        raise typer.BadParameter(f"{text!r}: budgets are shares in (0, 1], separated by commas.")
    return values


@app.command()
def run(
    dataset: Annotated[str, typer.Option(help="Names, separated by commas.")] = _DATASETS,
    method: Annotated[str, typer.Option(help="Names, separated by commas.")] = ",".join(METHODS),
    budget: Annotated[str, typer.Option(help="Shares of float32, separated by commas.")] = ",".join(
        map(str, BUDGETS)
    ),
    queries: Annotated[int, typer.Option(min=1, help="Held-out queries.")] = 1000,
    k: Annotated[int, typer.Option(min=1, max=100)] = 10,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Results folder; an earlier run in it is added to.")
    ] = None,
) -> None:
    """Measure, store raw results after each method, then write the report beside them."""
    methods = _names(method)
    for name in methods:
        find_method(name)
    day = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    folder = out or results.RESULTS / f"{day}-compression"
    settings = Settings(_names(dataset), methods, _budgets(budget), queries, k, seed)
    command = shlex.join(["python", "-m", "bench.compression", *sys.argv[1:]])
    study = run_study(settings, folder, machine_facts(without_places(command)), console.log)
    console.print(f"Report: {write_report(study, folder)}", soft_wrap=True)


@app.command("report")
def report_command(
    folder: Annotated[Path, typer.Argument(help="Results folder.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the report.")] = None,
) -> None:
    """Derive tables, plots and recommendations from raw results."""
    path = write_report(load_study(folder), out or folder)
    console.print(f"Report: {path}", soft_wrap=True)


@app.command("list")
def list_command() -> None:
    """The methods."""
    table = Table("method", "what it is")
    for name, method in METHODS.items():
        table.add_row(name, method.about)
    console.print(table)


def main() -> None:
    """Run the command; user errors become one line and exit status 1."""
    try:
        app()
    except (BenchError, ValueError) as error:
        console.print(f"[red]{error}", soft_wrap=True)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
