"""hdf5: a dataset, mapped in place if it lies in one piece, else read in blocks of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.errors import VecstoreError
from vecstore.loaders.arrays import assemble
from vecstore.loaders.common import (
    BLOCK_BYTES,
    Columns,
    Progress,
    Source,
    SourceFileError,
    VectorSpool,
    check_numbers,
    check_shape,
    choose,
    need,
)


def open_hdf5(path: Path, columns: Columns, progress: Progress) -> Source:
    """Open an hdf5 file; needs h5py."""
    h5py = need("h5py", "h5py", "hdf5")
    name = f"{path}"
    try:
        with h5py.File(path, "r") as file:
            found = _datasets(h5py, file)
            chosen = choose(
                name,
                _bare(columns.array or columns.vector),
                {key: f"{data.shape} {data.dtype}" for key, data in found.items()},
                [
                    key
                    for key, data in found.items()
                    if len(data.shape or ()) == 2 and data.dtype.kind in "fiu"
                ],
            )

            def read(key: str) -> NDArray[Any]:
                if key == chosen:
                    return _vectors(path, file, found[key], key, progress)
                return _column(name, h5py, found[key], key)

            wanted = Columns(
                id=_bare(columns.id),
                document=_bare(columns.document),
                metadata=columns.metadata and tuple(f"{_bare(key)}" for key in columns.metadata),
                tenant=_bare(columns.tenant),
            )
            return assemble(name, chosen, wanted, list(found), read)
    except VecstoreError:
        raise
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise SourceFileError(
            f"{name}: cut short or damaged, or no hdf5 file at all: {error}. Copy or download it "
            "again."
        ) from error


def _bare(key: str | None) -> str | None:
    return key if key is None else key.strip("/")


def _datasets(h5py: Any, file: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def visit(key: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[key] = item

    file.visititems(visit)
    return found


def _vectors(path: Path, file: Any, data: Any, key: str, progress: Progress) -> NDArray[Any]:
    what = f"dataset {key!r}"
    shape, dtype = tuple(data.shape or ()), np.dtype(data.dtype)
    check_shape(f"{path}", what, shape)
    check_numbers(f"{path}", what, dtype)
    rows, dim = shape
    in_one_piece = data.id.get_offset() if file.userblock_size == 0 and not data.external else None
    if in_one_piece is not None:
        if in_one_piece + rows * dim * dtype.itemsize > path.stat().st_size:
            raise SourceFileError(
                f"{path}: cut short: {what} {shape} does not end within the file. Copy or "
                "download it again."
            )
        return np.memmap(path, dtype, "r", in_one_piece, shape)
    spool = VectorSpool(f"{path}", dim, dtype)
    block = max(1, BLOCK_BYTES // (dim * dtype.itemsize))
    if data.chunks:
        block = max(block // data.chunks[0], 1) * data.chunks[0]
    for start in range(0, rows, block):
        spool.append(data[start : start + block])
        progress(f"read {key}", min(rows, start + block), rows)
    return spool.finish()


def _column(name: str, h5py: Any, data: Any, key: str) -> NDArray[Any]:
    if h5py.check_string_dtype(data.dtype) is not None:
        try:
            # What is declared as ASCII, as numpy's bytes are, may well be UTF-8.
            return np.asarray(data.asstr("utf-8")[()], object)
        except UnicodeDecodeError as error:
            raise SourceFileError(
                f"{name}: array {key!r} holds bytes that are not UTF-8 ({error}). Convert it."
            ) from error
    return np.asarray(data[()])
