"""Turning what callers pass into what the engine takes, or a typed error that says why not."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.config import (
    COLLECTION_NAME_BYTES_MAX,
    K_MAX,
    METADATA_DEPTH_MAX,
    SQUARE_MAX,
    SQUARE_MIN,
    Metric,
)
from vecstore.errors import (
    InvalidArgumentError,
    InvalidVectorError,
)
from vecstore.ids import is_int

_CHECK_BYTES = 32 << 20
_FLOAT32 = np.dtype(np.float32)


def as_array(vectors: Any, dim: int, collection: str, scalar: bool) -> Any:
    """Check type and shape of vectors; the result may be an array of any real dtype.

    A memory map stays one: values are looked at by `check_values`, in blocks.
    """
    if isinstance(vectors, np.ma.MaskedArray):
        raise InvalidVectorError("vectors is a masked array; fill its gaps first.")
    if isinstance(vectors, np.ndarray):
        array = vectors
    else:
        try:
            array = np.asarray(vectors)
        except (ValueError, TypeError) as error:
            raise InvalidVectorError(
                f"vectors is no rectangular array of numbers ({error})."
            ) from None
    if array.dtype.kind not in "fiu" and array.size:
        raise InvalidVectorError(
            f"vectors has dtype {array.dtype}; pass real numbers (float32 is stored)."
        )
    if array.ndim == 1 and scalar:
        array = array[None]
    if array.ndim == 1 and array.size == 0:
        array = array.reshape(0, dim)
    if array.ndim != 2:
        raise InvalidVectorError(
            f"vectors has shape {array.shape}; collection {collection!r} expects (n, {dim})"
            f"{', or one vector with one id' if array.ndim == 1 else ''}."
        )
    if array.shape[1] != dim:
        raise InvalidVectorError(
            f"Vector has {array.shape[1]} dimensions; collection {collection!r} expects {dim}."
        )
    return array


def check_values(
    array: Any,
    metric: int,
    what: str = "Vector",
    check_form: Callable[[NDArray[np.float32], int, int], None] | None = None,
) -> None:
    """Refuse NaN, infinity, overflow of float32 and, under cosine, zero vectors; names the row.

    `check_form(rows, metric, first)` looks at blocks of rows that passed (`RawForm.check`).
    """
    step = max(1, _CHECK_BYTES // max(1, 4 * array.shape[1]))
    for start in range(0, len(array), step):
        with np.errstate(over="ignore"):
            block = np.asarray(array[start : start + step], np.float32)
            squares = np.einsum("ij,ij->i", block, block)
        tail = "; nothing was written." if what == "Vector" else "."
        wrong = np.flatnonzero(~(squares <= SQUARE_MAX))
        if len(wrong):
            row = start + int(wrong[0])
            values = np.asarray(array[row], np.float64)
            odd = values[~np.isfinite(values)]
            why = f"contains {odd[0]}" if len(odd) else "is too long for float32 distances"
            raise InvalidVectorError(f"{what} in row {row} {why}{tail}")
        short = np.flatnonzero(squares < SQUARE_MIN)
        if metric == Metric.COSINE and len(short):
            raise InvalidVectorError(
                f"{what} in row {start + int(short[0])} has length zero in float32; cosine "
                f"distance needs a direction{tail}"
            )
        if check_form is not None:
            check_form(block, metric, start)


def parse_queries(vectors: Any, dim: int, collection: str, scalar: bool) -> NDArray[np.float32]:
    """Queries as float32 (n, dim), C-contiguous; values are checked by the kernel."""
    if (
        type(vectors) is np.ndarray
        and vectors.dtype == _FLOAT32
        and vectors.ndim == (1 if scalar else 2)
        and vectors.shape[-1] == dim
        and vectors.flags.c_contiguous
    ):
        return vectors[None] if scalar else vectors
    array = as_array(vectors, dim, collection, scalar)
    if scalar and len(array) != 1:
        raise InvalidVectorError(
            f"query takes one vector, not {len(array)}; use search for a batch."
        )
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, np.float32)


def parse_k(k: Any) -> int:
    """Check the number of hits asked for."""
    if not is_int(k) or not 1 <= k <= K_MAX:
        raise InvalidArgumentError(f"k is {k!r}; use an int from 1 to {K_MAX}.")
    return int(k)


def parse_recall(recall: Any) -> float | None:
    """Check the recall asked for."""
    if recall is None:
        return None
    if isinstance(recall, (bool, str)) or not isinstance(recall, (int, float, np.floating)):
        raise InvalidArgumentError(f"recall is {recall!r}; use a number in (0, 1].")
    if not 0 < recall <= 1:
        raise InvalidArgumentError(f"recall is {recall}; use a number in (0, 1].")
    return float(recall)


def parse_path(path: Any, argument: str = "path") -> Path:
    """Check the path of a directory and make it absolute."""
    if (
        not isinstance(path, (str, os.PathLike))
        or not os.fspath(path)
        or isinstance(os.fspath(path), bytes)
        or "\0" in str(path)
    ):
        raise InvalidArgumentError(
            f"{argument} is {path!r}; pass the path of a directory, as str or PathLike."
        )
    return Path(os.path.abspath(path))


def parse_name(name: Any) -> str:
    """Check a collection's name."""
    if not isinstance(name, str) or not name:
        raise InvalidArgumentError(f"Collection name is {name!r}; use a non-empty str.")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"Collection name {name!r} is not valid Unicode.") from None
    if size > COLLECTION_NAME_BYTES_MAX:
        raise InvalidArgumentError(
            f"Collection name has {size} bytes; use at most {COLLECTION_NAME_BYTES_MAX}."
        )
    return name


def _check_json(value: Any, row: int, depth: int) -> None:
    kind = type(value)
    if value is None or kind is bool:
        return
    if kind is str:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidArgumentError(
                f"Metadata of row {row} has a str that is not valid Unicode."
            ) from None
        return
    if kind is int:
        if not -(2**63) <= value < 2**64:
            raise InvalidArgumentError(
                f"Metadata of row {row} has the int {value}; use at most 64 bits, or a str."
            )
        return
    if kind is float:
        if not math.isfinite(value):
            raise InvalidArgumentError(
                f"Metadata of row {row} has the float {value}, which JSON lacks; use None."
            )
        return
    if isinstance(value, (list, dict)) and depth >= METADATA_DEPTH_MAX:
        raise InvalidArgumentError(
            f"Metadata of row {row} is nested deeper than {METADATA_DEPTH_MAX} levels."
        )
    if isinstance(value, list):
        for item in value:
            _check_json(item, row, depth + 1)
        return
    if isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str:
                raise InvalidArgumentError(
                    f"Metadata of row {row} has the key {key!r}; keys are str."
                )
            _check_json(key, row, depth)
            _check_json(item, row, depth + 1)
        return
    raise InvalidArgumentError(
        f"Metadata of row {row} has a {type(value).__name__}; use JSON values "
        f"(str, int, float, bool, None, list, dict)."
    )


def parse_metadata(metadata: Any, n: int, scalar: bool) -> Sequence[dict[str, Any] | None] | None:
    """Check metadata: None, or n times None or a dict of JSON values."""
    if metadata is None:
        return None
    if scalar and isinstance(metadata, dict):
        metadata = [metadata]
    rows = _sequence("metadata", metadata, n)
    for row, entry in enumerate(rows):
        if entry is not None:
            if not isinstance(entry, dict):
                raise InvalidArgumentError(
                    f"Metadata of row {row} is {entry!r}; use a dict or None."
                )
            _check_json(entry, row, 0)
    return rows


def parse_documents(documents: Any, n: int, scalar: bool) -> Sequence[str | None] | None:
    """Check documents: None, or n times None or a str."""
    if documents is None:
        return None
    if scalar and isinstance(documents, str):
        documents = [documents]
    rows = _sequence("documents", documents, n)
    for row, entry in enumerate(rows):
        if entry is not None and not isinstance(entry, str):
            raise InvalidArgumentError(f"Document of row {row} is {entry!r}; use a str or None.")
        if entry is not None:
            try:
                entry.encode()
            except UnicodeEncodeError:
                raise InvalidArgumentError(f"Document of row {row} is not valid Unicode.") from None
    return rows


def _sequence(what: str, values: Any, n: int) -> Sequence[Any]:
    if isinstance(values, (str, bytes, dict)) or not hasattr(values, "__len__"):
        raise InvalidArgumentError(f"{what} is {type(values).__name__}; pass a list of {n}.")
    if len(values) != n:
        raise InvalidArgumentError(
            f"{what} has {len(values)} entries for {n} ids; lengths must agree."
        )
    return values  # type: ignore[no-any-return]


INCLUDABLE = frozenset({"metadata", "document", "vector"})


def parse_include(include: Any) -> tuple[str, ...]:
    """Check what a query is to return beside ids and distances."""
    if isinstance(include, str) or not hasattr(include, "__iter__"):
        raise InvalidArgumentError(
            f"include is {include!r}; pass a sequence out of {sorted(INCLUDABLE)}."
        )
    parts = tuple(include)
    for part in parts:
        if not isinstance(part, str) or part not in INCLUDABLE:
            raise InvalidArgumentError(f"include has {part!r}; choose out of {sorted(INCLUDABLE)}.")
    return parts
