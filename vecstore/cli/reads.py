"""`vecstore query` and `vecstore get`: rows, by nearness and by id."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vecstore.cli.app import STATUS_FAULT, app
from vecstore.cli.output import emit_json, json_bytes, plain, say_error
from vecstore.cli.stores import (
    CollectionOption,
    JsonOption,
    StoreArgument,
    TenantsOption,
    find_row,
    opened,
    pick_name,
    rows_of,
    unknown_ids,
)
from vecstore.errors import InvalidArgumentError

if TYPE_CHECKING:
    from vecstore.verbs import ReadVerbs

DOCUMENT_WIDTH = 60


@app.command()
def query(
    store: StoreArgument,
    collection: CollectionOption = None,
    id: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="Neighbours of this row, itself left out."),
    ] = None,
    vector: Annotated[
        str | None, typer.Option(metavar="JSON", help="A vector, as '[0.1, 0.2, ...]'.")
    ] = None,
    vector_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file of vectors, each of them asked.")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="How many neighbours.")] = 10,
    recall: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Recall to aim at; 1 is exact. 0.95 unless tuned."),
    ] = None,
    tenant: TenantsOption = None,
    where: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="""Rows to look at, as '{"year": {"$gte": 2020}}'."""),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Find the nearest rows."""
    if sum(given is not None for given in (id, vector, vector_file)) != 1:
        raise InvalidArgumentError("Give one of --id, --vector and --vector-file.")
    parsed = None if vector is None else _parse_vector(vector)
    condition = None if where is None else _parse_where(where)
    questions = [] if vector_file is None else _vectors_of(vector_file)
    with opened(store, "r") as source:
        name = pick_name(source, store, collection)
        docs = rows_of(source, name, tenant)
        options = {"recall": recall, "where": condition}
        if id is not None:
            found = find_row(docs, id)
            if found is None:
                raise unknown_ids(name, tenant, [id])
            answers = [_neighbours(docs, found, k, options)]
        elif parsed is not None:
            answers = [_ask(docs, 0, parsed, k, options)]
        else:
            answers = [_ask(docs, row, asked, k, options) for row, asked in enumerate(questions)]
    if json:
        asked_of = {"store": store, "collection": name, "tenants": tenant}
        emit_json({**asked_of, "k": k, **options, "queries": answers})
        return
    for answer in answers:
        title = f"query {plain(answer['query'], 40)} ({answer['latency_ms']:.2f} ms)"
        _print_rows(title, answer["hits"], distances=True)


@app.command()
def get(
    store: StoreArgument,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of rows.")],
    collection: CollectionOption = None,
    tenant: TenantsOption = None,
    vectors: Annotated[bool, typer.Option("--vectors", help="With their vectors.")] = False,
    json: JsonOption = False,
) -> None:
    """Show rows by their ids; status 1 if one is missing."""
    rows: list[dict[str, Any] | None] = []
    with opened(store, "r") as source:
        name = pick_name(source, store, collection)
        docs = rows_of(source, name, tenant)
        for text in ids:
            found = find_row(docs, text)
            rows.append(None if found is None else _row(found))
            if found is not None and vectors:
                rows[-1] = {**_row(found), "vector": docs.vectors(found.id)}
    if json:
        emit_json({"store": store, "collection": name, "tenants": tenant, "rows": rows})
    else:
        _print_rows(None, [row for row in rows if row is not None], distances=False)
    missing = [text for text, row in zip(ids, rows, strict=True) if row is None]
    if missing:
        say_error(f"{unknown_ids(name, tenant, missing)}")
        raise typer.Exit(STATUS_FAULT)


def _parse_vector(text: str) -> Any:
    import msgspec

    try:
        return msgspec.json.decode(text, type=list[float])
    except msgspec.DecodeError as error:
        raise InvalidArgumentError(
            f"--vector {plain(text, 40)!r} is not a JSON list of numbers: {error}."
        ) from error


def _parse_where(text: str) -> Any:
    import msgspec

    remedy = """Write an object, as in '{"lang": "en", "year": {"$gte": 2020}}'."""
    try:
        condition = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidArgumentError(
            f"--where {plain(text, 40)!r} is not JSON: {error}. {remedy}"
        ) from error
    if condition is None:  # which the library takes for no condition at all
        raise InvalidArgumentError(f"--where is null, which is no condition. {remedy}")
    return condition


def _vectors_of(path: Path) -> Iterable[Any]:
    from vecstore.loaders import open_vectors

    return open_vectors(path)


def _neighbours(docs: ReadVerbs, row: Any, k: int, options: dict[str, Any]) -> dict[str, Any]:
    """Ask with a stored vector; the row itself is no answer, its namesakes of other tenants are."""
    answer = _ask(docs, row.id, docs.vectors(row.id), k + 1, options)
    itself = (row.id, row.tenant)
    others = [hit for hit in answer["hits"] if (hit["id"], hit.get("tenant")) != itself]
    answer["hits"] = others[:k]
    return answer


def _ask(
    docs: ReadVerbs, label: int | str, vector: Any, k: int, options: dict[str, Any]
) -> dict[str, Any]:
    started = time.perf_counter_ns()
    hits = docs.query(vector, k=k, include=("metadata", "document"), **options)
    latency_ms = (time.perf_counter_ns() - started) / 1e6
    return {"query": label, "latency_ms": round(latency_ms, 3), "hits": [_row(hit) for hit in hits]}


def _row(hit: Any) -> dict[str, Any]:
    """Give the parts of a hit that it has."""
    parts = {
        "distance": hit.distance,
        "metadata": hit.metadata,
        "document": hit.document,
        "tenant": hit.tenant,
    }
    return {"id": hit.id} | {key: part for key, part in parts.items() if part is not None}


def _print_rows(title: str | None, rows: list[dict[str, Any]], *, distances: bool) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=None if title is None else Text(title), title_justify="left")
    table.add_column("id")
    if distances:
        table.add_column("distance", justify="right")
    extra = [
        key
        for key in ("tenant", "metadata", "document", "vector")
        if any(key in row for row in rows)
    ]
    for key in extra:
        table.add_column(key)
    for row in rows:
        cells = [plain(row["id"], 40)]
        if distances:
            cells.append(f"{row['distance']:.5g}")
        cells += _cells(row, extra)
        table.add_row(*(Text(cell) for cell in cells))
    Console().print(table)


def _cells(row: dict[str, Any], keys: list[str]) -> Iterator[str]:
    for key in keys:
        part = row.get(key)
        if key == "metadata" and part is not None:
            part = json_bytes(part).decode()
        elif key == "vector" and part is not None:
            part = f"{part.tolist()}"
        yield "" if part is None else plain(part, DOCUMENT_WIDTH)
