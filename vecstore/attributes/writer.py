"""Writing attributes extents: gathering the metadata of rows into columns, tenant by tenant.

One tenant's values are in memory at a time: a few bytes per value, and each distinct string once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from vecstore.attributes.columns import (
    ALIGN,
    COLUMN_DTYPE,
    MEMBER,
    SLOTS,
    ColumnBuilder,
    pack_texts,
)
from vecstore.extents import ExtentWriter
from vecstore.filters import Value, ValueKind, value_of
from vecstore.layout import SECTION_ALIGN, ExtentKind, ExtentRecord, Section, align

U32 = NDArray[np.uint32]
Metadata = Callable[[int], dict[str, Any] | None]
_PIECE_BYTES: Final = 4 << 20

TENANT_DTYPE: Final = np.dtype(
    [
        ("tenant", "<u4"),
        ("pad", "<u4"),
        ("offset", "<u8"),  # from the start of ATTRIBUTES, a multiple of 64
        ("bytes", "<u8"),
        ("names", "<u8"),  # offset of the ends of field names from the tenant's own start
        ("fields", "<u8"),
        ("names_bytes", "<u8"),
        ("columns", "<u8"),  # their number; the table is behind the names
        ("sum", "<u8"),  # xxh3 of the tenant's bytes
    ]
)
assert TENANT_DTYPE.itemsize == 64


def entries_of(metadata: dict[str, Any]) -> Iterator[tuple[str, int, Value]]:
    """Give what a row has in the index: field, slot and value, each once.

    A value stands under its kind; the members of a list also, under their kinds + `MEMBER`.
    """
    for field, value in metadata.items():
        plain = value_of(value)
        yield field, plain.kind, plain
        if plain.kind == ValueKind.LIST:
            for member in dict.fromkeys(map(value_of, value)):
                yield field, member.kind + MEMBER, member


def write_attributes(
    folder: Path,
    number: int,
    collection: int,
    dim: int,
    tenants: Iterable[tuple[int, U32]],
    metadata: Metadata,
) -> ExtentRecord:
    """Write one attributes extent.

    Parameters
    ----------
    dim : int
        Of the collection; kept in the header as in every extent.
    tenants : iterable of (int, uint32 array)
        Tenants ascending, each with the rows it sees, in any order; a row may occur under several.
        A tenant without any metadata gets no place in the table.
    metadata : callable
        `metadata(row)` gives the row's metadata, plain JSON values, or None.

    Returns
    -------
    ExtentRecord
        Its count is the number of rows given, summed over tenants.

    Raises
    ------
    DiskFullError, OSError
        Nothing is left of the file.
    """
    writer = ExtentWriter(
        folder, number, ExtentKind.ATTRIBUTES, collection=collection, dim=dim, first_row=0
    )
    try:
        table: list[dict[str, int]] = []
        count = 0
        writer.begin(Section.ATTRIBUTES)
        for tenant, rows in tenants:
            assert not table or tenant > table[-1]["tenant"], "tenants are given in order"
            count += len(rows)
            writer.pad(SECTION_ALIGN)
            entry = _write_tenant(writer, tenant, rows, metadata)
            if entry["columns"]:
                table.append(entry)
        writer.end()
        entries = np.zeros(len(table), TENANT_DTYPE)
        for place, entry in enumerate(table):
            for name, value in entry.items():
                entries[place][name] = value
        writer.add(Section.ATTRIBUTE_TENANTS, entries)
        return writer.finish(count)
    except BaseException:
        writer.abandon()
        raise


def _write_tenant(
    writer: ExtentWriter, tenant: int, rows: U32, metadata: Metadata
) -> dict[str, int]:
    """Write one tenant's bytes; return its entry of the table."""
    builders: dict[tuple[str, int], ColumnBuilder] = {}
    for row in rows.tolist():
        for field, slot, value in entries_of(metadata(row) or {}):
            builder = builders.get((field, slot))
            if builder is None:
                builder = builders[field, slot] = ColumnBuilder(slot)
            builder.add(row, value)
    output = _Output(writer)
    fields = {field: place for place, field in enumerate(sorted({f for f, _ in builders}))}
    columns = np.zeros(len(builders), COLUMN_DTYPE)
    for place, (field, slot) in enumerate(sorted(builders)):
        figures, parts = builders.pop((field, slot)).finish()
        column = columns[place]
        column["key"] = fields[field] * SLOTS + slot
        column["offset"] = output.bytes
        for name, figure in figures.items():
            column[name] = figure
        for part in parts:
            output.put(part)
    ends, text = pack_texts([field.encode() for field in fields])
    names = output.bytes
    for part in (ends, text, columns):
        output.put(part)
    output.flush()
    return {
        "tenant": tenant,
        "offset": output.offset,
        "bytes": output.bytes,
        "names": names,
        "fields": len(fields),
        "names_bytes": len(text),
        "columns": len(columns),
        "sum": output.sum.intdigest(),
    }


class _Output:
    """A tenant's bytes on their way: padded, counted, summed, written in large pieces."""

    def __init__(self, writer: ExtentWriter) -> None:
        self._writer = writer
        self._pending = bytearray()
        self.offset = writer.write(b"")
        self.bytes = 0
        self.sum = xxhash.xxh3_64()

    def put(self, part: Any) -> None:
        """Append an array or bytes, zeros behind it up to a multiple of `ALIGN`."""
        data = part.tobytes() if isinstance(part, np.ndarray) else part
        self._pending += data
        self._pending += bytes(-len(data) % ALIGN)
        self.bytes += align(len(data), ALIGN)
        if len(self._pending) >= _PIECE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        self._writer.write(self._pending)
        self.sum.update(self._pending)
        self._pending.clear()
