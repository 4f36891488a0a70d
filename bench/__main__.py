"""Command line: ``python -m bench run | report | list``."""

from __future__ import annotations

import datetime
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import datasets
from bench import data, growth, report, results
from bench.adapters import ADAPTERS, adapter_class, missing_modules
from bench.channel import BenchError
from bench.cold import DATA_PER_MEMORY, ColdSettings, run_cold
from bench.device import FILE_BYTES
from bench.growth import OTHERS_ROWS_MAX
from bench.machine import machine_facts, without_places
from bench.run import DEFAULT_RECALLS, Settings
from bench.run import run as run_benchmark

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
console = Console(log_path=False)

Datasets = Annotated[str, typer.Option(help="Names, separated by commas; see `list`.")]
Adapters = Annotated[str, typer.Option(help="Names, separated by commas.")]
Reuse = Annotated[str, typer.Option(help="Adapters whose last build may serve, or all.")]
GoOn = Annotated[
    bool, typer.Option("--continue", help="Measure what the results folder does not have.")
]
Out = Annotated[Path | None, typer.Option(help="Results folder.")]
Work = Annotated[Path | None, typer.Option(help="Folder for the built indexes.")]


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _recalls(text: str) -> tuple[float, ...]:
    values = sorted({float(word) for word in _names(text)})
    if not values or not all(0 < value <= 1 for value in values):
        raise typer.BadParameter(f"{text!r}: recall targets lie in (0, 1], separated by commas.")
    return tuple(values)


def _command() -> str:
    """The command line as it would be typed in the repository."""
    return without_places(shlex.join(["python", "-m", "bench", *sys.argv[1:]]))


def _terminated(number: int, _frame: object) -> None:
    """Leave in order on SIGTERM: children end, control groups are removed."""
    raise SystemExit(128 + number)


def _work() -> Path:
    return data.cache_root().parent / "bench"


def _day() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")


@app.command()
def run(
    dataset: Datasets,
    adapter: Adapters = "vecstore,hnswlib",
    recall: Annotated[
        str, typer.Option(help="Targets for adapters that are asked by recall.")
    ] = ",".join(map(str, DEFAULT_RECALLS)),
    queries: Annotated[int, typer.Option(min=1, help="Held-out queries.")] = 1000,
    k: Annotated[int, typer.Option(min=1)] = 10,
    repeats: Annotated[int, typer.Option(min=1, help="Measured passes; 3 at least.")] = 5,
    warmups: Annotated[int, typer.Option(min=1, help="Passes before the measured ones.")] = 1,
    batch: Annotated[bool, typer.Option(help="Also batches on one and on all cores.")] = True,
    reuse: Reuse = "",
    together: Annotated[
        int, typer.Option(min=0, help="Adapters in turns beside the references; 0 for all.")
    ] = 0,
    go_on: GoOn = False,
    out: Out = None,
    work: Work = None,
) -> None:
    """Build, query and store raw results, then write the report beside them."""
    datasets, adapters = _names(dataset), _names(adapter)
    for name in adapters:
        adapter_class(name)
    folder = out or results.RESULTS / f"{_day()}-{'-'.join(datasets)}"
    settings = Settings(
        datasets=datasets,
        adapters=adapters,
        recalls=_recalls(recall),
        queries=queries,
        k=k,
        repeats=repeats,
        warmups=warmups,
        batch=batch,
        reuse=_names(reuse),
        together=together,
        go_on=go_on,
    )
    if repeats < 3:
        console.print("[yellow]Fewer than 3 repeats: good for trying out, not for figures.")
    run_benchmark(settings, folder, work or _work(), machine_facts(_command()), console.log)
    _report([folder], folder)


@app.command()
def cold(
    dataset: Datasets,
    adapter: Adapters = "vecstore,diskann",
    recall: Annotated[float, typer.Option(min=0.5, max=1.0, help="Recall to compare at.")] = 0.95,
    queries: Annotated[int, typer.Option(min=1, help="Reported queries.")] = 800,
    filling: Annotated[
        int, typer.Option(min=1, help="Queries that fill the cache before each pass.")
    ] = 200,
    k: Annotated[int, typer.Option(min=1)] = 10,
    repeats: Annotated[int, typer.Option(min=1, help="Measured passes; 3 at least.")] = 3,
    data_per_memory: Annotated[
        float, typer.Option(min=1.0, help="Bytes of float32 rows by bytes of the limit.")
    ] = DATA_PER_MEMORY,
    memory_limit_mb: Annotated[
        int | None, typer.Option(min=1, help="The limit itself, for every dataset.")
    ] = None,
    reuse: Reuse = "",
    go_on: GoOn = False,
    pass_s: Annotated[
        float, typer.Option(min=1, help="Slower adapters are asked fewer queries.")
    ] = 60.0,
    read_ahead_kb: Annotated[
        int | None, typer.Option(min=0, help="The disk's read-ahead meanwhile; Linux's own is 128.")
    ] = None,
    device_mb: Annotated[
        int, typer.Option(min=64, help="Size of the file by which the disk is measured.")
    ] = FILE_BYTES // 2**20,
    out: Out = None,
    work: Work = None,
) -> None:
    """Queries in a process with less memory than data, against the disk's own limit (root)."""
    datasets, adapters = _names(dataset), _names(adapter)
    for name in adapters:
        adapter_class(name)
    folder = out or results.RESULTS / f"{_day()}-cold-{'-'.join(datasets)}"
    settings = ColdSettings(
        datasets=datasets,
        adapters=adapters,
        recall=recall,
        queries=queries,
        filling=filling,
        k=k,
        repeats=repeats,
        reuse=_names(reuse),
        data_per_memory=data_per_memory,
        limit_bytes=memory_limit_mb * 2**20 if memory_limit_mb else None,
        pass_s=pass_s,
        read_ahead_kb=read_ahead_kb,
        go_on=go_on,
    )
    run_cold(
        settings, folder, work or _work(), machine_facts(_command()), console.log, device_mb * 2**20
    )
    _report([folder], folder)


@app.command("growth")
def growth_command(
    max_rows: Annotated[int, typer.Option(min=1, help="Rows of the largest set.")] = 10_000_000,
    dim: Annotated[int, typer.Option(min=1)] = 128,
    adapter: Adapters = "vecstore,hnswlib",
    others_max_rows: Annotated[
        int, typer.Option(min=0, help="Adapters other than vecstore up to so many rows.")
    ] = OTHERS_ROWS_MAX,
    recall: Annotated[str, typer.Option(help="Targets.")] = "0.9,0.95,0.99",
    repeats: Annotated[int, typer.Option(min=1)] = 3,
    queries: Annotated[int, typer.Option(min=1)] = 1000,
    reuse: Reuse = "",
    go_on: GoOn = False,
    out: Out = None,
    work: Work = None,
) -> None:
    """Latency, memory, build time and disk from 100,000 synthetic rows to 10 million."""
    folder = out or results.RESULTS / f"{_day()}-growth"
    settings = Settings(
        datasets=(),
        adapters=_names(adapter),
        recalls=_recalls(recall),
        queries=queries,
        repeats=repeats,
        batch=False,
        reuse=_names(reuse),
        go_on=go_on,
    )
    growth.run_growth(
        settings,
        growth.sizes_up_to(max_rows),
        dim,
        others_max_rows,
        folder,
        work or _work(),
        machine_facts(_command()),
        console.log,
    )
    _report([folder], folder)


@app.command("report")
def report_command(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Results folders; the latest by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the report.")] = None,
) -> None:
    """Derive tables and plots from raw results."""
    paths = files or [results.latest_run()]
    first = paths[0] if paths[0].is_dir() else paths[0].parent
    _report(paths, out or first)


def _report(paths: list[Path], folder: Path) -> None:
    found = report.write_report([results.load_run(path) for path in paths], folder)
    for head, rows in found:
        table = Table(*head)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(f"Report: {folder / 'report.md'}", soft_wrap=True)


@app.command("list")
def list_command() -> None:
    """Datasets and adapters, and which of the libraries are missing here."""
    known = (*datasets.names(), "synthetic-<rows>x<dim>[-l2|-cosine|-ip]")
    console.print(f"Datasets: {', '.join(known)}", markup=False)
    table = Table("adapter", "library", "here", "what it is")
    for name in ADAPTERS:
        found, missing = adapter_class(name), missing_modules(name)
        versions = ", ".join(f"{p} {v}" for p, v in found.versions().items() if v != "unknown")
        about = (found.__doc__ or "").strip().splitlines()[0]
        here = f"missing: {', '.join(missing)}" if missing else "yes"
        table.add_row(name, versions, here, about)
    console.print(table)


def main() -> None:
    """Run the command; user errors become one line and exit status 1."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        app()
    except (BenchError, ValueError) as error:
        console.print(f"[red]{error}", soft_wrap=True)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
