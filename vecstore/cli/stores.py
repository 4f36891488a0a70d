"""Opening a store for a command, and finding the collection and the rows that it names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import vecstore
from vecstore.cli.output import plain
from vecstore.errors import CollectionNotFoundError, InvalidArgumentError, UnknownIdError

if TYPE_CHECKING:
    from vecstore.collection import Collection
    from vecstore.store import Store

StoreArgument = Annotated[Path, typer.Argument(metavar="STORE", help="The store's directory.")]
CollectionOption = Annotated[
    str | None,
    typer.Option("--collection", "-c", metavar="NAME", help="Needed if there are several."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@contextmanager
def opened(path: Path, mode: Literal["r", "w"]) -> Iterator[Store]:
    """Open a store for the time of a command."""
    with vecstore.open(path, mode) as store:
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


def find_row(collection: Collection, text: str) -> Any:
    """Return the row (a `Hit`) whose id was typed as `text`, or None.

    A collection's ids are all int or all str and only it knows which, so a text that reads as an
    int is tried as both.
    """
    ids: list[int | str] = [text]
    if text.isdecimal() and f"{int(text)}" == text:
        ids.insert(0, int(text))
    for identity in ids:
        try:
            row = collection.get(identity)
        except InvalidArgumentError:
            continue
        if row is not None:
            return row
    return None


def unknown_ids(collection: str, texts: list[str]) -> UnknownIdError:
    """Make the error for ids that no row has."""
    listed = ", ".join(repr(plain(text, 60)) for text in texts[:5])
    more = f" and {len(texts) - 5} more" if len(texts) > 5 else ""
    return UnknownIdError(f"No row of collection {collection!r} has the id {listed}{more}.")


def folder_bytes(path: Path) -> int:
    """Return the bytes that a folder's files take on the disk (not their apparent length)."""
    return sum(file.stat().st_blocks * 512 for file in path.rglob("*") if file.is_file())
