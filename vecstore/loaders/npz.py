""".npz: a zip of .npy arrays; one of them holds the vectors, others may hold ids and the rest.

An array that is stored plainly is mapped inside the zip (its checksum is verified in one pass);
a compressed one is unpacked into a temporary file and mapped there.
"""

from __future__ import annotations

import struct
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vecstore.loaders.arrays import assemble
from vecstore.loaders.common import (
    BLOCK_BYTES,
    Columns,
    Progress,
    Source,
    SourceFileError,
    choose,
    spooling,
)
from vecstore.loaders.npy import Header, map_array, read_header

# Local file header of the zip format (APPNOTE 4.3.7); names and extra field follow it.
_LOCAL = struct.Struct("<4s5HLLL2H")
assert _LOCAL.size == 30


def open_npz(path: Path, columns: Columns, progress: Progress) -> Source:
    """Map the arrays asked for."""
    name = f"{path}"
    try:
        with zipfile.ZipFile(path) as archive:
            members = {
                info.filename.removesuffix(".npy"): info
                for info in archive.infolist()
                if not info.is_dir()
            }
            headers = {key: _header(name, archive, info) for key, info in members.items()}
            chosen = choose(
                name,
                columns.array or columns.vector,
                {key: f"{header.shape} {header.dtype}" for key, header in headers.items()},
                [
                    key
                    for key, header in headers.items()
                    if len(header.shape) == 2 and header.dtype.kind in "fiu"
                ],
            )

            def read(key: str) -> NDArray[Any]:
                return _map_member(path, archive, members[key], key, progress)

            return assemble(name, chosen, columns, list(members), read)
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error) as error:
        raise SourceFileError(
            f"{name}: cut short or damaged, or no .npz file at all: {error}. Copy or download it "
            "again."
        ) from error
    except (NotImplementedError, RuntimeError) as error:
        raise SourceFileError(
            f"{name}: packed in a way that cannot be read ({error}). Save it with numpy.savez."
        ) from error


def _header(name: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Header:
    if not info.filename.endswith(".npy"):
        return Header((), np.dtype("V1"), False, 0)
    with archive.open(info) as member:
        try:
            return read_header(name, f"array {info.filename[:-4]!r}", member)
        except SourceFileError:
            # Its pickle is refused when it is asked for, not because it lies beside the vectors.
            return Header((), np.dtype("O"), False, 0)


def _map_member(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, key: str, progress: Progress
) -> NDArray[Any]:
    what = f"array {key!r}"
    if info.compress_type != zipfile.ZIP_STORED:
        with tempfile.TemporaryFile(prefix="vecstore-") as file:
            with archive.open(info) as member, spooling(f"{path}"):
                _copy(member, file, info.file_size, key, progress)
            file.seek(0)
            return map_array(f"{path}", what, file, info.file_size)
    with archive.open(info) as member:
        _copy(member, None, info.file_size, key, progress)
    with path.open("rb") as file:
        file.seek(info.header_offset)
        local = _LOCAL.unpack(file.read(_LOCAL.size))
        file.seek(info.header_offset + _LOCAL.size + local[-2] + local[-1])
        return map_array(f"{path}", what, file, file.tell() + info.file_size)


def _copy(
    member: IO[bytes], into: IO[bytes] | None, total: int, key: str, progress: Progress
) -> None:
    """Read a member to its end, which verifies its checksum; write it to `into` if given."""
    done = 0
    while block := member.read(BLOCK_BYTES):
        if into is not None:
            into.write(block)
        done += len(block)
        progress(f"read {key}", done, total)
    if into is not None:
        into.flush()
