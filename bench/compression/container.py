"""What a compressed table is on disk: one header and the arrays, nothing else.

Layout: 4 bytes magic, the header's length as a little-endian uint32, the header (JSON in UTF-8:
method, shape of the table, and name, dtype and shape of each array), then the arrays one after the
other, C order, without padding. Whatever a decoder needs is in there, so the length of this file
is the true size of a compressed table.
"""

from __future__ import annotations

import io
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bench.channel import BenchError

MAGIC = b"VCS1"
_PREFIX = struct.Struct("<4sI")
assert _PREFIX.size == 8

#: Name → (dtype, shape) of each array of a payload, in the order of the file.
Layout = Mapping[str, tuple[str, tuple[int, ...]]]


def _header(method: str, shape: tuple[int, int], layout: Layout) -> bytes:
    arrays = [[name, np.dtype(kind).str, list(size)] for name, (kind, size) in layout.items()]
    whole = {"method": method, "shape": list(shape), "arrays": arrays}
    return json.dumps(whole, separators=(",", ":")).encode()


def stored_bytes(method: str, shape: tuple[int, int], layout: Layout) -> int:
    """Bytes of the file that holds arrays of this layout, the header included.

    Parameters
    ----------
    method : str
    shape : (n, d)
        Rows and dimensions of the table.
    layout : Layout
    """
    arrays = sum(np.dtype(kind).itemsize * math.prod(size) for kind, size in layout.values())
    return _PREFIX.size + len(_header(method, shape, layout)) + arrays


@dataclass(frozen=True)
class Payload:
    """A compressed table.

    Attributes
    ----------
    method : str
        Name of the compressor that reads it.
    shape : (n, d)
        Rows and dimensions of the table.
    arrays : dict of ndarray
        All that decoding needs: codes, codebooks, masks, offsets, permutations.
    """

    method: str
    shape: tuple[int, int]
    arrays: dict[str, NDArray[Any]]

    def layout(self) -> Layout:
        """Name, dtype and shape of the arrays."""
        return {name: (array.dtype.str, array.shape) for name, array in self.arrays.items()}

    @property
    def nbytes(self) -> int:
        """Length in bytes of what `write` writes."""
        return stored_bytes(self.method, self.shape, self.layout())

    def write(self, file: BinaryIO) -> None:
        """Write header and arrays."""
        header = _header(self.method, self.shape, self.layout())
        file.write(_PREFIX.pack(MAGIC, len(header)))
        file.write(header)
        for array in self.arrays.values():
            file.write(np.ascontiguousarray(array).data)

    def tobytes(self) -> bytes:
        """The whole file as bytes."""
        buffer = io.BytesIO()
        self.write(buffer)
        return buffer.getvalue()


def read_payload(file: Path | bytes) -> Payload:
    """Read what `Payload.write` wrote.

    Raises
    ------
    BenchError
        It is something else, or its length is not what the header says.
    """
    content = file if isinstance(file, bytes) else file.read_bytes()
    if len(content) < _PREFIX.size or content[:4] != MAGIC:
        raise BenchError("This is no compressed table: it does not begin with its magic.")
    _, length = _PREFIX.unpack_from(content)
    start = _PREFIX.size + length
    whole = json.loads(content[_PREFIX.size : start])
    arrays: dict[str, NDArray[Any]] = {}
    for name, kind, size in whole["arrays"]:
        count = math.prod(size)
        end = start + np.dtype(kind).itemsize * count
        if end > len(content):
            raise BenchError(f"The compressed table is cut short: {len(content)} bytes.")
        arrays[name] = np.frombuffer(content, kind, count, start).reshape(size)
        start = end
    if start != len(content):
        raise BenchError(f"The compressed table has {len(content) - start} bytes too many.")
    rows, dim = whole["shape"]
    return Payload(whole["method"], (rows, dim), arrays)
