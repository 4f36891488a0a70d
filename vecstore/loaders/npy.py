""".npy: one array, mapped in place (format: NumPy Enhancement Proposal 1).

The header is read here rather than by `numpy.load`, so that a file cut short anywhere is told
from one that is of another kind, and so that an array inside an .npz can be mapped as well.
Nothing is ever unpickled.
"""

from __future__ import annotations

import math
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from vecstore.loaders.common import (
    Columns,
    Progress,
    Source,
    SourceFileError,
    check_numbers,
    check_shape,
)

_HEADERS = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
}


@dataclass(frozen=True, slots=True)
class Header:
    """What a .npy header says, and where the data begin."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int

    @property
    def data_bytes(self) -> int:
        """Size of the data that must follow."""
        return math.prod(self.shape) * self.dtype.itemsize


def open_npy(path: Path, columns: Columns, progress: Progress) -> Source:
    """Map a .npy file."""
    with path.open("rb") as file:
        vectors = map_array(f"{path}", "the array", file, path.stat().st_size)
    check_shape(f"{path}", "the array", vectors.shape)
    check_numbers(f"{path}", "the array", vectors.dtype)
    return Source(vectors)


def map_array(name: str, what: str, file: IO[bytes], end: int) -> NDArray[Any]:
    """Map the .npy array that begins where `file` stands and ends at byte `end` at the latest.

    Parameters
    ----------
    name, what
        File and array, for messages.
    file
        A real file, opened for reading in binary.
    """
    start = file.tell()
    header = read_header(name, what, file)
    if header.offset + header.data_bytes > end:
        raise SourceFileError(
            f"{name}: cut short: {what} of shape {header.shape} and dtype {header.dtype} needs "
            f"{header.offset - start + header.data_bytes:,} bytes, {end - start:,} are there. "
            "Copy or download it again."
        )
    order: Literal["C", "F"] = "F" if header.fortran else "C"
    if header.data_bytes == 0:
        return np.empty(header.shape, header.dtype, order)
    return np.memmap(file, header.dtype, "r", header.offset, header.shape, order)


def read_header(name: str, what: str, file: IO[bytes]) -> Header:
    """Read the header and leave the file at the first byte of data."""
    start = file.tell()
    found = file.read(npy_format.MAGIC_LEN)
    if not found.startswith(npy_format.MAGIC_PREFIX[: len(found)]):
        raise SourceFileError(
            f"{name}: {what} begins with {found[:6]!r}, not with {npy_format.MAGIC_PREFIX!r}: it "
            "is not of the .npy format. Check the suffix or say the format (--format)."
        )
    if len(found) < npy_format.MAGIC_LEN:
        raise SourceFileError(
            f"{name}: cut short: {what} has {len(found)} bytes, less than a .npy header. "
            "Copy or download it again."
        )
    version = (found[-2], found[-1])
    if version not in _HEADERS:
        raise SourceFileError(
            f"{name}: {what} has .npy version {version[0]}.{version[1]}; 1.0 and 2.0 hold plain "
            "numbers. Save it again with numpy.save."
        )
    try:
        shape, fortran, dtype = _HEADERS[version](file)
    except (
        ValueError,
        TypeError,
        SyntaxError,
        OverflowError,
        MemoryError,
        RecursionError,
        tokenize.TokenError,
    ) as error:
        raise SourceFileError(
            f"{name}: the .npy header of {what} (byte {start + npy_format.MAGIC_LEN:,}) is damaged "
            f"or cut short ({_first_line(error)}). Copy or download it again."
        ) from error
    if dtype.hasobject:
        raise SourceFileError(
            f"{name}: {what} has dtype object, which is stored as a pickle and could run code when "
            "read; it is refused. Save numbers: numpy.save(path, numpy.stack(rows))."
        )
    if any(length < 0 for length in shape):
        raise SourceFileError(f"{name}: {what} has the impossible shape {shape}.")
    return Header(tuple(shape), dtype, fortran, file.tell())


def _first_line(error: BaseException) -> str:
    return (f"{error}".splitlines() or [type(error).__name__])[0]
