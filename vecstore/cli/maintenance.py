"""`vecstore stats`, `check` and `warmup`: what a store is made of, and whether it is sound."""

from __future__ import annotations

from typing import Any

import typer

import vecstore
from vecstore.cli.app import STATUS_FAULT, app
from vecstore.cli.output import emit_json, json_bytes, plain, progress_bars, size_text
from vecstore.cli.stores import (
    CollectionOption,
    JsonOption,
    StoreArgument,
    folder_bytes,
    opened,
)


@app.command()
def stats(
    store: StoreArgument, collection: CollectionOption = None, json: JsonOption = False
) -> None:
    """Show rows, postings, bytes on disk and in memory."""
    with opened(store, "r") as source:
        names = source.collections() if collection is None else [collection]
        found = {name: source.collection(name).stats() for name in names}
    disk_bytes = folder_bytes(store)
    if json:
        emit_json({"store": store, "disk_bytes": disk_bytes, "collections": found})
        return
    typer.echo(
        f"{plain(store)}: {size_text(disk_bytes)}, "
        f"{len(found)} collection{'' if len(found) == 1 else 's'}"
    )
    for name, facts in found.items():
        _print_facts(name, facts)


@app.command()
def check(store: StoreArgument, json: JsonOption = False) -> None:
    """Verify every invariant; status 1 if one is violated."""
    with opened(store, "r") as source:
        violations = [
            {"invariant": found.invariant, "where": found.where, "detail": found.detail}
            for found in source.check()
        ]
    if json:
        emit_json({"store": store, "sound": not violations, "violations": violations})
    elif violations:
        for found in violations:
            typer.echo(plain(f"{found['invariant']}: {found['where']}: {found['detail']}"))
        typer.echo(f"{len(violations)} violation{'' if len(violations) == 1 else 's'}.")
    else:
        typer.echo(f"{plain(store)} is sound.")
    if violations:
        raise typer.Exit(STATUS_FAULT)


@app.command()
def warmup(json: JsonOption = False) -> None:
    """Compile the kernels now rather than in the first call."""
    with progress_bars() as progress:
        seconds = vecstore.warmup(progress)
    if json:
        emit_json({"seconds": round(seconds, 3)})
    else:
        typer.echo(f"Kernels are ready ({seconds:.1f} s).")


def _print_facts(name: str, facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(plain(name)), title_justify="left", show_header=False)
    for key, given in facts.items():
        value = given.tolist() if hasattr(given, "tolist") else given
        if isinstance(value, dict | list | tuple):
            shown = plain(json_bytes(value).decode(), 60)
        elif isinstance(value, int) and not isinstance(value, bool):
            shown = size_text(value) if key.endswith("_bytes") else f"{value:,}"
        else:
            shown = plain(value, 60)
        table.add_row(Text(key), Text(shown))
    Console().print(table)
