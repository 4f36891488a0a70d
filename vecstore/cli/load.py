"""`vecstore load`: a file of vectors into a collection."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vecstore.cli.app import app
from vecstore.cli.output import emit_json, plain, progress_bars, size_text
from vecstore.cli.stores import (
    CollectionOption,
    JsonOption,
    StoreArgument,
    folder_bytes,
    has_tenants,
    opened,
    pick_name,
)
from vecstore.errors import (
    CollectionMismatchError,
    InvalidArgumentError,
    TenantRequiredError,
    VecstoreError,
)

if TYPE_CHECKING:
    from vecstore.collection import Collection
    from vecstore.loaders import Source
    from vecstore.store import Store


_NAME_IT = "The store has no collection. Name the new one with --collection."


class Metric(StrEnum):
    """What "near" means."""

    l2 = "l2"
    cosine = "cosine"
    ip = "ip"


class RawForm(StrEnum):
    """How vectors are stored."""

    float32 = "float32"
    float16 = "float16"
    int8 = "int8"


class Format(StrEnum):
    """Kinds of file."""

    npy = "npy"
    npz = "npz"
    fvecs = "fvecs"
    bvecs = "bvecs"
    parquet = "parquet"
    hdf5 = "hdf5"
    jsonl = "jsonl"


@app.command()
def load(
    store: StoreArgument,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help=".npy .npz .fvecs .bvecs .parquet .hdf5 .jsonl(.gz)"),
    ],
    collection: CollectionOption = None,
    metric: Annotated[
        Metric | None, typer.Option(help="For a new collection; l2 by default.")
    ] = None,
    dim: Annotated[
        int | None, typer.Option(min=1, help="Refuse the file if its vectors have another.")
    ] = None,
    codec: Annotated[
        str | None, typer.Option(help="For a new collection; chosen by itself by default.")
    ] = None,
    raw: Annotated[
        RawForm | None, typer.Option(help="For a new collection; float32 by default.")
    ] = None,
    format: Annotated[
        Format | None, typer.Option("--format", help="If the suffix does not tell.")
    ] = None,
    array: Annotated[
        str | None, typer.Option(metavar="NAME", help="Array in .npz, dataset in .hdf5.")
    ] = None,
    vector_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Column or key with the vectors.")
    ] = None,
    ids_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Column, key or array with the ids.")
    ] = None,
    document_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Column, key or array with the texts.")
    ] = None,
    metadata_column: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Column, key or array for the metadata; repeatable."),
    ] = None,
    tenant_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Column, key or array: whose each row is.")
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(metavar="NAME", help="All rows of the file are this tenant's.")
    ] = None,
    first_id: Annotated[
        int | None,
        typer.Option(min=0, help="Number the rows from here, if the file has no ids."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Load a file of vectors; rows whose id exists are replaced.

    All rows appear at once, when the last is in place. A large load that was interrupted, even by a
    power cut, goes on where it was when the same command is given again, as long as nothing else
    was written to the collection.
    """
    from vecstore.loaders import SourceFileError, open_source
    from vecstore.tenancy import parse_tenant

    if tenant is not None:
        if tenant_column is not None:
            raise InvalidArgumentError("Give one of --tenant and --tenant-column.")
        parse_tenant(tenant)
    with progress_bars() as progress:
        source = open_source(
            file,
            format=format,
            vector_column=vector_column,
            id_column=ids_column,
            document_column=document_column,
            metadata_columns=metadata_column,
            tenant_column=tenant_column,
            array_key=array,
            progress=progress,
        )
        rows, found_dim = source.vectors.shape
        if dim not in (None, found_dim):
            raise SourceFileError(
                f"{file}: vectors have {found_dim} dimensions; --dim asks for {dim}. Choose "
                "another file or leave --dim out."
            )
        if collection is None and not store.exists():
            raise InvalidArgumentError(_NAME_IT)
        started = time.perf_counter()
        options = {
            "metric": metric and metric.value,
            "codec": codec,
            "raw": raw and raw.value,
            "dim": found_dim,
        }
        given = {key: value for key, value in options.items() if value is not None}
        with opened(store, "w") as target:
            existing = target.collections()
            if collection is None and not existing:
                raise InvalidArgumentError(_NAME_IT)
            name = pick_name(target, store, collection)
            owned = tenant is not None or tenant_column is not None
            if name in existing:
                _check_tenancy(target, name, owned)
            docs = target.collection(name, tenants=owned, **given)
            try:
                ids = _ids(docs, source, first_id, tenant)
                with _blaming(file):
                    docs.load(
                        source.vectors,
                        ids=ids,
                        metadata=source.metadata,
                        documents=source.documents,
                        progress=progress,
                        tenants=source.tenants if tenant is None else [tenant] * rows,
                    )
            except BaseException as error:
                with contextlib.suppress(VecstoreError):
                    if docs.stats()["unfinished_bytes"]:
                        if not isinstance(error, InvalidArgumentError):
                            typer.echo("Give the same command again to go on from here.", err=True)
                    elif name not in existing:
                        target.drop(name)
                raise
            stats = docs.stats()
        seconds = time.perf_counter() - started
    report = {
        "store": store,
        "collection": name,
        "rows_loaded": rows,
        "rows": stats["rows"],
        "tenants": stats["tenants"] if owned else None,
        "dim": found_dim,
        "seconds": round(seconds, 3),
        "disk_bytes": folder_bytes(store),
    }
    if json:
        emit_json(report)
        return
    of_whom = f" of {stats['tenants']:,} tenant{'s' * (stats['tenants'] != 1)}" if owned else ""
    typer.echo(
        f"{rows:,} rows × {found_dim} loaded into {plain(name)!r} in {seconds:.1f} s "
        f"({rows / seconds:,.0f} rows/s); it has {stats['rows']:,} rows{of_whom}, "
        f"the store takes {size_text(folder_bytes(store))}."
    )


def _check_tenancy(store: Store, name: str, owned: bool) -> None:
    """Refuse rows without tenants where there are tenants, and the other way round."""
    held = has_tenants(store, name)
    if held and not owned:
        raise TenantRequiredError(
            f"Collection {name!r} has tenants. Say whose the rows are with --tenant or "
            "--tenant-column."
        )
    if owned and not held:
        raise CollectionMismatchError(
            f"Collection {name!r} has no tenants. Leave --tenant and --tenant-column out, or name "
            "a new collection with --collection."
        )


def _ids(docs: Collection, source: Source, first_id: int | None, tenant: str | None) -> Any:
    """Return the file's ids, or numbers that replace nothing by accident."""
    if source.ids is not None:
        if first_id is not None:
            raise InvalidArgumentError("The file has ids. Leave --first-id out.")
        return source.ids
    held = docs.stats()["rows"] if tenant is None else docs.tenant(tenant).count()
    if held and first_id is None:
        holder = "collection" if tenant is None else f"tenant {plain(tenant, 60)!r}"
        raise InvalidArgumentError(
            f"The {holder} has {held:,} rows and the file has no ids, so that its rows would "
            "replace those numbered from 0. Give --first-id (0 to replace), or --ids-column."
        )
    if not first_id:
        return None
    import numpy as np

    return np.arange(first_id, first_id + len(source.vectors))


@contextlib.contextmanager
def _blaming(file: Path) -> Iterator[None]:
    """Say of which file a complaint about ids, vectors or metadata speaks."""
    from vecstore.loaders import SourceFileError

    try:
        yield
    except InvalidArgumentError as error:
        raise SourceFileError(f"{file}: {error}") from error
