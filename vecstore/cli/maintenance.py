"""What a store is made of, whether it is sound, and keeping it so.

`vecstore stats`, `check`, `compact`, `backup` and `warmup`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import vecstore
from vecstore.cli.app import STATUS_FAULT, app
from vecstore.cli.output import emit_json, json_bytes, plain, progress_bars, size_text
from vecstore.cli.stores import (
    CollectionOption,
    JsonOption,
    StoreArgument,
    changed,
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
def check(
    store: StoreArgument,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Make postings and metadata index anew where they are damaged."
        ),
    ] = False,
    drop_damaged: Annotated[
        bool,
        typer.Option(
            "--drop-damaged",
            help="With --repair: delete the rows whose vectors are damaged, and name them.",
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Verify every invariant; status 1 if one is violated."""
    if drop_damaged and not repair:
        raise typer.BadParameter("--drop-damaged deletes rows; give --repair with it.")
    done: list[str] = []
    with changed(store) if repair else opened(store, "r") as source:
        found = source.check()
        if repair and found:
            with progress_bars() as progress:
                done = source.repair(progress, drop_damaged=drop_damaged)
            found = source.check()
    violations = [
        {"invariant": one.invariant, "where": one.where, "detail": one.detail} for one in found
    ]
    if json:
        repaired = {"repair": done} if repair else {}
        emit_json({"store": store, "sound": not violations, "violations": violations, **repaired})
    else:
        for sentence in done:
            typer.echo(plain(sentence))
        for one in violations:
            typer.echo(plain(f"{one['invariant']}: {one['where']}: {one['detail']}"))
        if violations:
            typer.echo(f"{len(violations)} violation{'' if len(violations) == 1 else 's'}.")
        else:
            typer.echo(f"{plain(store)} is sound.")
    if violations:
        raise typer.Exit(STATUS_FAULT)


@app.command()
def compact(
    store: StoreArgument, collection: CollectionOption = None, json: JsonOption = False
) -> None:
    """Merge extents and give the space of dead rows back, of one collection or all."""
    with changed(store) as source, progress_bars() as progress:
        names = source.collections() if collection is None else [collection]
        chosen = [source.collection(name) for name in names]
        before = folder_bytes(store)
        for docs in chosen:
            docs.compact(progress)
        after = folder_bytes(store)
    if json:
        emit_json(
            {"store": store, "collections": names, "bytes_before": before, "bytes_after": after}
        )
    else:
        typer.echo(f"{plain(store)}: {size_text(before)} before, {size_text(after)} after.")


@app.command()
def backup(
    store: StoreArgument,
    dest: Annotated[
        Path, typer.Argument(metavar="DEST", help="A folder that does not exist, or is empty.")
    ],
    json: JsonOption = False,
) -> None:
    """Copy a store while others read it and write to it."""
    with opened(store, "r") as source, progress_bars() as progress:
        source.backup(dest, progress)
    copied = folder_bytes(dest)
    if json:
        emit_json({"store": store, "dest": dest, "disk_bytes": copied})
    else:
        typer.echo(f"{plain(store)} was copied to {plain(dest)} ({size_text(copied)}).")


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
