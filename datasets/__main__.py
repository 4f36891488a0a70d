"""Command line: ``python -m datasets list | prepare NAME... | verify NAME...``."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from datasets import cache, store
from datasets.errors import DatasetError
from datasets.registry import find, names

console = Console()


def show() -> None:
    """Print a table of all sets and where they stand."""
    table = Table("name", "what", "metric", "rows x dim", "MB", "licence", title=str(cache.root()))
    for name in names():
        known = find(name)
        manifest = cache.read_manifest(cache.folder(name))
        shape, size = "not prepared", ""
        if manifest is not None:
            shape = "{:,} x {}".format(*manifest["shape"])
            size = f"{sum(file['bytes'] for file in manifest['files'].values()) / 1e6:,.0f}"
        table.add_row(name, known.title, known.metric, shape, size, known.licence)
    console.print(table)


def prepare(name: str, *, force: bool) -> None:
    """Make a set unless it is there; a sample's whole set is made first."""
    known = find(name)
    if not force and cache.read_manifest(cache.folder(name)) is not None:
        console.print(f"{name}: already in {cache.folder(name)}")
        return
    for needed in known.needs:
        prepare(needed, force=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        tasks = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(f"{name}: {stage}", total=total)
                if not console.is_terminal:  # no bar is drawn into a file before the end
                    console.print(f"{name}: {stage} ...")
            progress.update(tasks[stage], completed=done)

        store.write(known, report)
    manifest = cache.read_manifest(cache.folder(name))
    assert manifest is not None
    console.print(f"{name}: {manifest['shape']} in {manifest['seconds']} s, {cache.folder(name)}")


def verify(name: str) -> bool:
    """Check a set against its manifest; print what is wrong."""
    wrong = store.verify(find(name).name)
    console.print(f"{name}: {'; '.join(wrong) if wrong else 'sound'}")
    return not wrong


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m datasets", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="show all sets")
    for command, does in (("prepare", "make sets"), ("verify", "check sets")):
        sub = commands.add_parser(command, help=does)
        sub.add_argument("names", nargs="+", metavar="NAME", help=f"all, {', '.join(names())}")
        if command == "prepare":
            sub.add_argument("--force", action="store_true", help="make anew")
    options = parser.parse_args(arguments)
    if options.command == "list":
        show()
        return 0
    chosen = names() if options.names == ["all"] else tuple(options.names)
    try:
        if options.command == "verify":
            return max(0 if verify(name) else 1 for name in chosen)
        for name in chosen:
            prepare(name, force=options.force)
    except DatasetError as error:
        console.print(f"[red]{type(error).__name__}[/red]: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
