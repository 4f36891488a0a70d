"""fvecs and bvecs: row after row, a little-endian int32 dimension and then that many numbers.

The numbers are float32 in fvecs and uint8 in bvecs (TEXMEX sets, http://corpus-texmex.irisa.fr).

The file is mapped and the vectors are a strided view of it. Every row's dimension is looked at,
so that a row of another length, which would shift all that follow, is found.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.loaders.common import BLOCK_BYTES, Columns, Progress, Source, SourceFileError

DIM_MAX = 1_000_000
_DIM = np.dtype("<i4")


def open_fvecs(path: Path, columns: Columns, progress: Progress) -> Source:
    """Map an fvecs file."""
    return Source(_map_rows(path, np.dtype("<f4"), progress))


def open_bvecs(path: Path, columns: Columns, progress: Progress) -> Source:
    """Map a bvecs file."""
    return Source(_map_rows(path, np.dtype("u1"), progress))


def _map_rows(path: Path, item: np.dtype[Any], progress: Progress) -> NDArray[Any]:
    size = path.stat().st_size
    if size < _DIM.itemsize:
        raise SourceFileError(
            f"{path}: cut short: {size} bytes, less than one row's dimension (4 bytes). "
            "Copy or download it again."
        )
    data = np.memmap(path, np.uint8, "r")
    dim = int(data[: _DIM.itemsize].view(_DIM)[0])
    if not 1 <= dim <= DIM_MAX:
        raise SourceFileError(
            f"{path}: byte 0 gives the dimension of row 0 as {dim}; expected 1 to {DIM_MAX:,}. "
            "Is it a file of this format?"
        )
    stride = _DIM.itemsize + dim * item.itemsize
    rows = size // stride
    _check_dims(path, data, rows, stride, dim, progress)
    if size % stride:
        raise SourceFileError(
            f"{path}: cut short: row {rows} begins at byte {rows * stride:,} and needs {stride:,} "
            f"bytes, {size - rows * stride:,} are there. Copy or download it again."
        )
    return np.ndarray(
        (rows, dim), item, buffer=data, offset=_DIM.itemsize, strides=(stride, item.itemsize)
    )


def _check_dims(
    path: Path, data: NDArray[np.uint8], rows: int, stride: int, dim: int, progress: Progress
) -> None:
    """Raise at the first row whose dimension is not `dim`."""
    table = data[: rows * stride].reshape(rows, stride)
    block = max(1, BLOCK_BYTES // stride)
    for start in range(0, rows, block):
        heads = np.ascontiguousarray(table[start : start + block, : _DIM.itemsize])
        other = np.flatnonzero(heads.view(_DIM)[:, 0] != dim)
        if len(other):
            row = start + int(other[0])
            raise SourceFileError(
                f"{path}: row {row} (byte {row * stride:,}) has dimension "
                f"{int(heads.view(_DIM)[other[0], 0])}, the rows before it {dim}. Every row must "
                "have the same: the file is damaged or of another format."
            )
        progress("check", min(rows, start + block), rows)
    # A last row that is cut short may be one of another dimension: its head tells.
    left = data[rows * stride :]
    if len(left) >= _DIM.itemsize:
        head = int(left[: _DIM.itemsize].copy().view(_DIM)[0])
        if head != dim:
            raise SourceFileError(
                f"{path}: row {rows} (byte {rows * stride:,}) has dimension {head}, the rows "
                f"before it {dim}. Every row must have the same: the file is damaged or of "
                "another format."
            )
