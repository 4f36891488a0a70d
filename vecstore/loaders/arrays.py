"""Named arrays of one length (npz, hdf5) put together as a source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.loaders.common import (
    ColumnRows,
    Columns,
    Source,
    SourceFileError,
    as_ids,
    check_numbers,
    check_shape,
    show_some,
)
from vecstore.loaders.tenants import TenantCheck


def assemble(
    name: str,
    chosen: str,
    columns: Columns,
    available: Sequence[str],
    read: Callable[[str], NDArray[Any]],
) -> Source:
    """Read the vectors and whatever else was asked for; all must have one length."""
    for key in (columns.id, columns.document, columns.tenant, *(columns.metadata or ())):
        if key is not None and key not in available:
            raise SourceFileError(f"{name}: has no {key!r}. It has: {show_some(available)}.")
    vectors = read(chosen)
    check_shape(name, f"array {chosen!r}", vectors.shape)
    check_numbers(name, f"array {chosen!r}", vectors.dtype)

    def aligned(key: str) -> NDArray[Any]:
        column = read(key)
        if column.ndim == 0 or len(column) != len(vectors):
            raise SourceFileError(
                f"{name}: array {key!r} has shape {column.shape}; {chosen!r} has "
                f"{len(vectors)} rows. They must have the same length."
            )
        return column

    metadata = None
    if columns.metadata:
        metadata = ColumnRows({key: _plain(name, key, aligned(key)) for key in columns.metadata})
    ids = None if columns.id is None else _ids(name, columns.id, aligned(columns.id))
    documents = None
    if columns.document is not None:
        documents = _texts(name, columns.document, aligned(columns.document))
    tenants = None
    if columns.tenant is not None:
        tenants = _tenants(name, columns.tenant, aligned(columns.tenant))
    return Source(vectors, ids, metadata, documents, tenants)


def _ids(name: str, key: str, column: NDArray[Any]) -> Any:
    if column.ndim == 1 and column.dtype.kind in "iu":
        return as_ids(column.tolist())
    if column.ndim == 1 and column.dtype.kind in "USO":
        return _texts(name, key, column)
    raise SourceFileError(
        f"{name}: array {key!r} has shape {column.shape} and dtype {column.dtype}; ids are one "
        "integer or one string a row. Choose another array."
    )


def _tenants(name: str, key: str, column: NDArray[Any]) -> list[str | list[str]]:
    if column.ndim != 1 or column.dtype.kind not in "USO":
        raise SourceFileError(
            f"{name}: array {key!r} has shape {column.shape} and dtype {column.dtype}; tenants are "
            "one string a row. Choose another array, or convert it with astype(str)."
        )
    check = TenantCheck()
    tenants: list[str | list[str]] = []
    for row, value in enumerate(_plain(name, key, column).tolist()):
        try:
            tenants.append(check(value))
        except TypeError as error:
            raise SourceFileError(f"{name}: array {key!r}, row {row}: {error}.") from error
    return tenants


def _texts(name: str, key: str, column: NDArray[Any]) -> list[str]:
    column = _plain(name, key, column)
    if column.ndim != 1 or column.dtype.kind not in "UO":
        raise SourceFileError(
            f"{name}: array {key!r} has shape {column.shape} and dtype {column.dtype}; expected "
            "one string a row. Choose another array."
        )
    texts: list[str] = column.tolist()
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise SourceFileError(
                f"{name}: array {key!r}, row {row}: {text!r} is {type(text).__name__}; expected a "
                "string."
            )
    return texts


def _plain(name: str, key: str, column: NDArray[Any]) -> NDArray[Any]:
    """Decode bytes to text; refuse what JSON has no word for."""
    if column.dtype.kind == "S":
        try:
            return np.char.decode(column, "utf-8")
        except UnicodeDecodeError as error:
            raise SourceFileError(
                f"{name}: array {key!r} holds bytes that are not UTF-8 ({error}). Convert it."
            ) from error
    if column.dtype.kind not in "fiubUO":
        raise SourceFileError(
            f"{name}: array {key!r} has dtype {column.dtype}, which has no JSON form. Convert it "
            "or leave it out."
        )
    return column
