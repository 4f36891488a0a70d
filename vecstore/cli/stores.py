"""Opening a store for a command, and finding the collection and the rows that it names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import vecstore
from vecstore.cli.output import plain
from vecstore.errors import (
    CollectionMismatchError,
    CollectionNotFoundError,
    InvalidArgumentError,
    TenantRequiredError,
    UnknownIdError,
)

if TYPE_CHECKING:
    from vecstore.collection import Collection
    from vecstore.store import Store
    from vecstore.verbs import ReadVerbs

StoreArgument = Annotated[Path, typer.Argument(metavar="STORE", help="The store's directory.")]
CollectionOption = Annotated[
    str | None,
    typer.Option("--collection", "-c", metavar="NAME", help="Needed if there are several."),
]
TenantsOption = Annotated[
    list[str] | None,
    typer.Option("--tenant", metavar="NAME", help="Whose rows; repeat it to read several as one."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@contextmanager
def opened(path: Path, mode: Literal["r", "w"]) -> Iterator[Store]:
    """Open a store for the time of a command."""
    with vecstore.open(path, mode) as store:
        yield store


@contextmanager
def changed(path: Path) -> Iterator[Store]:
    """Open a store that exists for a command that writes to it."""
    vecstore.open(path, "r").close()
    with vecstore.open(path, "w") as store:
        yield store


def pick_name(store: Store, path: Path, name: str | None) -> str:
    """Return the collection's name: the one given, or the only one there is."""
    if name is not None:
        return name
    names = store.collections()
    if len(names) == 1:
        return names[0]
    if not names:
        raise CollectionNotFoundError(
            f"{path} holds no collection. Make one: vecstore load {path} FILE --collection NAME"
        )
    raise InvalidArgumentError(
        f"{path} holds {len(names)} collections: {', '.join(names)}. Choose with --collection."
    )


def pick(store: Store, path: Path, name: str | None) -> Collection:
    """Return the collection named, or the only one there is."""
    return store.collection(pick_name(store, path, name))


def has_tenants(store: Store, name: str) -> bool:
    """Tell whether an existing collection has tenants."""
    try:
        store.collection(name, tenants=True)
    except CollectionMismatchError:
        return False
    return True


def rows_of(store: Store, name: str, tenants: list[str] | None) -> ReadVerbs:
    """Return the collection, or what these tenants see of it together."""
    docs = store.collection(name)
    if tenants:
        view: ReadVerbs = docs.tenant(*tenants)
        return view
    if has_tenants(store, name):
        raise TenantRequiredError(
            f"Collection {name!r} has tenants. Name one with --tenant, or several, which are then "
            "read as one."
        )
    return docs


def find_row(docs: ReadVerbs, text: str) -> Any:
    """Return the row (a `Hit`) whose id was typed as `text`, or None.

    A collection's ids are all int or all str and only it knows which, so a text that reads as an
    int is tried as both.
    """
    ids: list[int | str] = [text]
    if text.isdecimal() and f"{int(text)}" == text:
        ids.insert(0, int(text))
    for identity in ids:
        try:
            row = docs.get(identity)
        except InvalidArgumentError:
            continue
        if row is not None:
            return row
    return None


def unknown_ids(collection: str, tenants: list[str] | None, texts: list[str]) -> UnknownIdError:
    """Make the error for ids that no row has, or none that these tenants see."""
    whose = f"collection {collection!r}"
    if tenants:
        named = ", ".join(repr(plain(name, 60)) for name in tenants)
        whose = f"tenant{'s' * (len(tenants) > 1)} {named} of {whose}"
    listed = ", ".join(repr(plain(text, 60)) for text in texts[:5])
    more = f" and {len(texts) - 5} more" if len(texts) > 5 else ""
    return UnknownIdError(f"No row of {whose} has the id {listed}{more}.")


def folder_bytes(path: Path) -> int:
    """Return the bytes that a folder's files take on the disk (not their apparent length)."""
    return sum(file.stat().st_blocks * 512 for file in path.rglob("*") if file.is_file())
