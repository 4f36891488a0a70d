"""Reading vectors from files: npy, npz, fvecs, bvecs, parquet, hdf5 and JSON lines.

`open_source` is the only entrance. What it returns is checked for shape (every row has the same
number of numbers) and is never held in memory as a whole: a file that can be mapped is mapped,
any other is streamed into an unnamed temporary file that is mapped in its place. What a vector
may contain (no NaN, no zero under cosine) is for the collection to say that takes it.

Every failure is a `SourceFileError` or a `MissingPackageError` that names the file, the place in
it and the remedy. Formats that need a further package import it only when such a file is opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.errors import InvalidArgumentError
from vecstore.loaders.common import (
    Columns,
    MissingPackageError,
    Progress,
    Source,
    SourceFileError,
    check_numbers,
    need,
    reading,
)

__all__ = [
    "FORMATS",
    "MissingPackageError",
    "Progress",
    "Source",
    "SourceFileError",
    "need",
    "open_source",
    "open_vectors",
]

FORMATS = ("npy", "npz", "fvecs", "bvecs", "parquet", "hdf5", "jsonl")

_SUFFIXES = {
    ".npy": "npy",
    ".npz": "npz",
    ".fvecs": "fvecs",
    ".bvecs": "bvecs",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".hdf5": "hdf5",
    ".h5": "hdf5",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson.gz": "jsonl",
}


def open_source(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    vector_column: str | None = None,
    id_column: str | None = None,
    document_column: str | None = None,
    metadata_columns: Sequence[str] | None = None,
    tenant_column: str | None = None,
    array_key: str | None = None,
    progress: Progress | None = None,
) -> Source:
    """Open a file of vectors.

    Parameters
    ----------
    path
        The file. Its suffix tells the format unless `format` does.
    format
        One of `FORMATS`.
    vector_column
        Column (parquet) or key (jsonl; "vector" by default) that holds one vector a row. For
        npz and hdf5 the same as `array_key`. Without it the only column of lists of numbers is
        taken.
    id_column, document_column
        Column or key of ids (str or int) and of texts; for npz and hdf5 the name of an array.
        In parquet and jsonl "id" and "document" are taken if they are there.
    metadata_columns
        Columns or keys that together make a row's metadata. Without it the column or key
        "metadata" is taken if it is there: an object (a struct or JSON text in parquet).
    tenant_column
        Column or key with each row's tenant, a string, or with those who share it, a list of
        strings with the owner first; for npz and hdf5 the name of an array of strings. Every row
        needs one. Numbers are refused; convert them to strings. Never taken unasked, and not
        taken into the metadata unless `metadata_columns` names it as well.
    array_key
        Name of the array in npz, path of the dataset in hdf5. Without it the only
        two-dimensional array of numbers is taken, or the one with a usual name ("vectors",
        "embeddings", "train", "base" ...).
    progress
        Called with (stage, done, total) while the file is read or checked.

    Returns
    -------
    Source
        `vectors` (n, d) in the file's own number type, n and d at least 1; `ids`, `metadata`,
        `documents` and `tenants` of length n, or None if the file has none.

    Raises
    ------
    SourceFileError
        The file is missing, unreadable, cut short, ragged, or holds no vectors.
    MissingPackageError
        The format needs a package that is not installed.
    InvalidArgumentError
        Unknown format, or an option that the format has no use for.
    """
    if isinstance(metadata_columns, str):
        metadata_columns = [metadata_columns]
    columns = Columns(
        vector=vector_column,
        id=id_column,
        document=document_column,
        metadata=None if metadata_columns is None else tuple(metadata_columns),
        tenant=tenant_column,
        array=array_key,
    )
    name = os.fspath(path)
    if format is not None and format not in FORMATS:
        raise InvalidArgumentError(f"Unknown format {format!r}. Use one of: {', '.join(FORMATS)}.")
    with reading(name):
        file = Path(name)
        found = file.stat()
        if file.is_dir():
            raise SourceFileError(f"{name}: is a folder. Give one file of vectors.")
        chosen = format or _format_of(file)
        if not file.is_file() and chosen != "jsonl":
            raise SourceFileError(
                f"{name}: is not a regular file; only JSON lines are read from a pipe. Save it as "
                "a file first."
            )
        reader = _reader(chosen, columns)
        if file.is_file() and found.st_size == 0:
            raise SourceFileError(f"{name}: is empty (0 bytes). Write or download it again.")
        return reader(file, columns, progress or _silent)


def open_vectors(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Open a file's vectors alone, (n, d); a .npy of one dimension is one vector.

    Raises as `open_source` does.
    """
    name = os.fspath(path)
    file = Path(name)
    with reading(name):
        if file.suffix.lower() == ".npy" and file.is_file():
            from vecstore.loaders.npy import map_array

            with file.open("rb") as opened:
                array = map_array(name, "the array", opened, file.stat().st_size)
            if array.ndim == 1 and len(array):
                check_numbers(name, "the array", array.dtype)
                return array[np.newaxis]
    return open_source(path).vectors


def _silent(stage: str, done: int, total: int) -> None:
    """Report no progress."""


def _format_of(file: Path) -> str:
    found = _SUFFIXES.get("".join(file.suffixes[-2:]).lower()) or _SUFFIXES.get(file.suffix.lower())
    if found is None:
        raise SourceFileError(
            f"{file}: the suffix does not tell the format. Say it with format (--format), one "
            f"of: {', '.join(FORMATS)}."
        )
    return found


def _reader(format: str, columns: Columns) -> Callable[[Path, Columns, Progress], Source]:
    """Return the format's reader; refuse options that the format has no use for."""
    if format in ("npy", "fvecs", "bvecs"):
        columns.refuse(format, "vector", "id", "document", "metadata", "tenant", "array")
    elif format in ("parquet", "jsonl"):
        columns.refuse(format, "array")
    elif columns.array is not None and columns.vector is not None:
        raise InvalidArgumentError(
            f"array_key {columns.array!r} and vector_column {columns.vector!r} mean the same for "
            f"{format}. Give one of them."
        )
    if format == "npy":
        from vecstore.loaders.npy import open_npy as reader
    elif format == "npz":
        from vecstore.loaders.npz import open_npz as reader
    elif format == "fvecs":
        from vecstore.loaders.vecs import open_fvecs as reader
    elif format == "bvecs":
        from vecstore.loaders.vecs import open_bvecs as reader
    elif format == "parquet":
        from vecstore.loaders.parquet import open_parquet as reader
    elif format == "hdf5":
        from vecstore.loaders.hdf5 import open_hdf5 as reader
    else:
        from vecstore.loaders.jsonl import open_jsonl as reader
    return reader
