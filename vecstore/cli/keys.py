"""`vecstore keys`: who may call the service of a store."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from vecstore.cli.app import app
from vecstore.cli.output import emit_json, plain
from vecstore.cli.stores import JsonOption, StoreArgument

keys = typer.Typer(help="Make, list and remove keys of the service.", no_args_is_help=True)
app.add_typer(keys, name="keys")
FileOption = Annotated[
    Path | None, typer.Option("--keys", metavar="FILE", help="STORE.keys by default.")
]


class RoleName(StrEnum):
    """What a key allows."""

    read = "read"
    write = "write"
    admin = "admin"


@keys.command()
def add(
    store: StoreArgument,
    role: Annotated[RoleName, typer.Option(help="admin: collections, tenants, maintenance too.")],
    tenant: Annotated[
        str | None, typer.Option(metavar="NAME", help="The only tenant it reaches; all without.")
    ] = None,
    note: Annotated[str, typer.Option(metavar="TEXT", help="What it is for.")] = "",
    calls_per_second: Annotated[
        float | None, typer.Option(metavar="N", help="Calls a second at most.")
    ] = None,
    calls_at_once: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Calls at the same time at most.")
    ] = None,
    file: FileOption = None,
    json: JsonOption = False,
) -> None:
    """Make a key and print it; only its hash is kept, so it is shown this once."""
    made, secret = _file(store, file).add(role.value, tenant, note, calls_per_second, calls_at_once)
    if json:
        emit_json({"key": secret, **_facts(made)})
    else:
        typer.echo(secret)


@keys.command("list")
def list_keys(store: StoreArgument, file: FileOption = None, json: JsonOption = False) -> None:
    """List keys by their ids."""
    found = [_facts(key) for key in _file(store, file).read()]
    if json:
        emit_json({"store": store, "keys": found})
        return
    for key in found:
        whose = "all tenants" if key["tenant"] is None else f"tenant {key['tenant']!r}"
        made = time.strftime("%Y-%m-%d", time.gmtime(key["made"]))
        typer.echo(plain(f"{key['id']}  {key['role']:<5}  {made}  {whose}  {key['note']}"))


@keys.command()
def remove(
    store: StoreArgument,
    id: Annotated[str, typer.Argument(metavar="ID", help="As `keys list` shows it.")],
    file: FileOption = None,
    json: JsonOption = False,
) -> None:
    """Remove a key; a service that runs refuses it from the next call on."""
    removed = _file(store, file).remove(id)
    if json:
        emit_json({"removed": _facts(removed)})
    else:
        typer.echo(f"Key {plain(removed.id)} was removed.")


def _file(store: Path, file: Path | None) -> Any:
    from vecstore.service.keys import KeyFile
    from vecstore.service.options import keys_beside

    return KeyFile(keys_beside(store.absolute()) if file is None else file)


def _facts(key: Any) -> dict[str, Any]:
    """Tell about a key, its hash left out."""
    fields = ("id", "role", "tenant", "note", "made", "calls_per_s", "calls_at_once")
    return {name: getattr(key, name) for name in fields}
