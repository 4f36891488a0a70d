"""Immutable extent files: write, publish, map, remove.

Invariants
----------
* A file is written once, under its own number, and never changed.
* It is whole and synced, and so is its folder, before any transaction names it.
* A file that no transaction names is an orphan; the next writer removes it.
* A mapped file has the length that the facts give; its header is checked at mapping, its
  small sections at their first use.
"""

from __future__ import annotations

import mmap
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from vecstore import layout
from vecstore.creation import sync_folder
from vecstore.disk_errors import disk_errors
from vecstore.errors import CorruptionError
from vecstore.layout import HEADER_DTYPE, PAGE, ExtentKind, Section

_BUFFER_BYTES = 4 << 20
"""A multiple of the largest page of any processor that matters (2 MB)."""
_MAP_OPTIONS: dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
"""A map need not keep its file open; before Python 3.13 it does."""


def extent_path(folder: Path, number: int) -> Path:
    """File of an extent."""
    return folder / f"{number:012d}.ext"


class ExtentWriter:
    """Writes one extent, section after section; nothing counts until `finish`.

    A file of this number can only be left over from a call that failed, and is overwritten.
    """

    def __init__(
        self,
        folder: Path,
        number: int,
        kind: ExtentKind,
        *,
        collection: int,
        dim: int,
        codec: int = 0,
        first_row: int = 0,
    ) -> None:
        self._path = extent_path(folder, number)
        self._folder = folder
        self.header = np.zeros(1, HEADER_DTYPE)
        head = self.header[0]
        head["magic"] = layout.MAGIC
        head["version"] = layout.FORMAT_VERSION
        head["kind"] = kind
        head["collection"] = collection
        head["codec"] = codec
        head["first_row"] = first_row
        head["dim"] = dim
        head["extent"] = number
        self.number = number
        self._offset = 0
        self._section_start = 0
        self._sum: Any = None
        self._process = os.getpid()
        with disk_errors(self._path):
            self._file = open(self._path, "wb", buffering=_BUFFER_BYTES)  # noqa: SIM115
            self._put(bytes(PAGE))

    def _put(self, data: Any) -> None:
        """Append bytes; the file gets them in whole buffers from aligned places on.

        The kernel then keeps them in large pages, which a map of the file shares.
        """
        view = memoryview(data)
        with disk_errors(self._path):
            while view.nbytes:
                part = view[: _BUFFER_BYTES - self._offset % _BUFFER_BYTES]
                self._file.write(part)
                self._offset += part.nbytes
                view = view[part.nbytes :]

    def pad(self, to: int) -> None:
        """Write zeros up to the next multiple of `to` bytes from the start of the section."""
        place = self._offset - self._section_start
        self._put(bytes(layout.align(place, to) - place))

    def pad_to(self, place: int) -> None:
        """Write zeros up to a place in the section."""
        gap = place - (self._offset - self._section_start)
        assert gap >= 0, "a section is written from front to back"
        self._put(bytes(gap))

    def begin(self, section: Section) -> None:
        """Start a section; pages for bulk sections, 64 bytes for others."""
        bulk = section in layout.BULK_SECTIONS
        self._section_start = 0
        self.pad(PAGE if bulk else layout.SECTION_ALIGN)
        entry = self.header[0]["table"][int(self.header[0]["sections"])]
        entry["section"] = section
        entry["offset"] = self._offset
        self._section_start = self._offset
        self._sum = None if bulk else xxhash.xxh3_64()

    def write(self, data: Any) -> int:
        """Append bytes or an array to the section; return its offset in the section."""
        if isinstance(data, np.ndarray):
            data = np.ascontiguousarray(data).data
        view = memoryview(data)
        view = view.cast("B") if view.nbytes else memoryview(b"")
        place = self._offset - self._section_start
        self._put(view)
        if self._sum is not None:
            self._sum.update(view)
        return place

    def end(self) -> None:
        """Close the section."""
        head = self.header[0]
        entry = head["table"][int(head["sections"])]
        entry["bytes"] = self._offset - int(entry["offset"])
        entry["sum"] = 0 if self._sum is None else self._sum.intdigest()
        head["sections"] += 1

    def add(self, section: Section, data: NDArray[Any]) -> None:
        """Write a whole section from one array."""
        self.begin(section)
        self.write(data)
        self.end()

    def finish(self, count: int) -> layout.ExtentRecord:
        """Write the header, sync file and folder, and return the record to publish."""
        self._section_start = 0
        self.pad(PAGE)
        head = self.header[0]
        head["count"] = count
        head["bytes"] = self._offset
        raw = bytearray(self.header.tobytes())
        place = HEADER_DTYPE.fields["sum"][1]  # type: ignore[index]
        raw[place : place + 8] = xxhash.xxh3_64_intdigest(raw[:place]).to_bytes(8, "little")
        with disk_errors(self._path):
            self._file.seek(0)
            self._file.write(raw)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            sync_folder(self._folder)
        return layout.ExtentRecord(
            kind=int(head["kind"]),
            bytes=self._offset,
            first_row=int(head["first_row"]),
            count=count,
        )

    def abandon(self) -> None:
        """Remove the file; safe to call at any time.

        In a forked child it is the parent's, and so is what waits to be written to it.
        """
        if os.getpid() != self._process:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._file.fileno())
            self._file.close()
            return
        with suppress(OSError):  # a full disk fails the flush inside; the file goes anyway
            self._file.close()
        self._path.unlink(missing_ok=True)


class Extent:
    """One mapped extent."""

    def __init__(
        self, folder: Path, number: int, record: layout.ExtentRecord, collection: str
    ) -> None:
        self.number = number
        self.record = record
        self.kind = ExtentKind(record.kind)
        self.first_row = record.first_row
        self.count = record.count
        self._collection = collection
        path = extent_path(folder, number)
        with disk_errors(path), open(path, "rb") as file:
            length = os.fstat(file.fileno()).st_size
            if length != record.bytes:
                raise self.corrupt(
                    f"{path} has {length} bytes instead of {record.bytes}; restore a backup."
                )
            self._map = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ, **_MAP_OPTIONS)
        self._bytes: NDArray[np.uint8] = np.frombuffer(self._map, dtype=np.uint8)
        self._sections: dict[int, Any] = {}
        self._checked: set[int] = set()
        self._read_header(path)

    def corrupt(
        self, message: str, node: int | None = None, tenant: int | None = None
    ) -> CorruptionError:
        """Build the error for damage found in this extent."""
        return CorruptionError(
            message, collection=self._collection, tenant=tenant, node=node, extent=self.number
        )

    def _read_header(self, path: Path) -> None:
        raw = self._bytes[: HEADER_DTYPE.itemsize].tobytes()
        head = np.frombuffer(raw, HEADER_DTYPE)[0]
        place = HEADER_DTYPE.fields["sum"][1]  # type: ignore[index]
        if (
            xxhash.xxh3_64_intdigest(raw[:place]) != int(head["sum"])
            or head["magic"] != layout.MAGIC
            or int(head["extent"]) != self.number
            or int(head["kind"]) != self.record.kind
        ):
            raise self.corrupt(f"The header of {path} is damaged; restore a backup.")
        self.codec = int(head["codec"])
        self.dim = int(head["dim"])
        for entry in head["table"][: int(head["sections"])]:
            if int(entry["offset"]) + int(entry["bytes"]) > self.record.bytes:
                raise self.corrupt(f"The header of {path} names a part beyond its end.")
            self._sections[int(entry["section"])] = entry

    def has(self, section: Section) -> bool:
        """Tell whether the extent has a section."""
        return int(section) in self._sections

    def array(self, section: Section, dtype: Any) -> NDArray[Any]:
        """Map a section as a flat array, its checksum looked at on the first use."""
        entry = self._sections.get(int(section))
        if entry is None:
            raise self.corrupt(f"Extent {self.number} lacks its {section.name} part.")
        start = int(entry["offset"])
        raw = self._bytes[start : start + int(entry["bytes"])]
        if section not in layout.BULK_SECTIONS and section not in self._checked:
            if xxhash.xxh3_64_intdigest(raw.data) != int(entry["sum"]):
                raise self.corrupt(
                    f"The {section.name} part of extent {self.number} of collection "
                    f"{self._collection!r} does not match its checksum; restore a backup."
                )
            self._checked.add(section)
        return raw.view(dtype)

    def address(self, section: Section) -> int:
        """Address of a section in this process."""
        return int(self._bytes.ctypes.data) + int(self._sections[int(section)]["offset"])

    def close(self) -> None:
        """Unmap, once no array or kernel refers to the map."""
        self._bytes = np.empty(0, np.uint8)
        with suppress(BufferError):  # an array over the map is still held, and keeps it
            self._map.close()


def remove_orphans(folder: Path, named: set[int]) -> list[int]:
    """Delete files that no transaction names (a crash left them); return their numbers.

    One that cannot be removed stays: the number is overwritten when it is given again.
    """
    removed = []
    for entry in folder.iterdir():
        number = entry.stem
        if entry.suffix == ".ext" and number.isdigit() and int(number) not in named:
            with suppress(OSError):
                entry.unlink()
                removed.append(int(number))
    return sorted(removed)


def folder_bytes(folder: Path) -> list[int]:
    """Sizes of all extent files; one that is removed meanwhile is left out."""
    sizes = []
    for entry in folder.iterdir():
        with suppress(FileNotFoundError):
            sizes.append(entry.stat().st_size)
    return sizes
