"""Verifying that an index says what the metadata says."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from vecstore.attributes.columns import MEMBER, as_number, as_text, is_numeric
from vecstore.attributes.index import Attributes
from vecstore.attributes.writer import Metadata, entries_of
from vecstore.filters import Value

U32 = NDArray[np.uint32]
_SHOWN: Final = 5
_AT_ONCE: Final = 65_536
_NUMBER: Final = struct.Struct("<dh")


def faults(index: Attributes, tenant: int, rows: U32, metadata: Metadata) -> Iterator[str]:
    """Say what is wrong with a tenant's part of an index.

    Rows are compared by the sum of hashes over their entries, so each is read once.

    Parameters
    ----------
    index : Attributes
    tenant : int
    rows : uint32 (n,)
        The live rows that the index was written from, ascending; others in it are passed over.
    metadata : callable
        `metadata(row)` gives the row's metadata or None.

    Yields
    ------
    str
        One sentence per fault.

    Raises
    ------
    CorruptionError
        The tenant's bytes do not match their checksum.
    """
    expected = np.array([_of_row(metadata(row)) for row in rows.tolist()], np.uint64)
    found = np.zeros(len(rows), np.uint64)
    hashes: list[int] = []
    pieces: list[U32] = []
    before: tuple[str, int] | None = None
    last: Any = None
    for entry in index.entries(tenant):
        slot = entry.value.kind + MEMBER * entry.is_member
        column = (entry.field, slot)
        payload = _ordered(slot, entry.value)
        if before is not None and (column < before or (column == before and payload <= last)):
            yield f"Values of field {entry.field!r} of tenant {tenant} are out of order."
        before, last = column, payload
        if len(entry.rows) > 1 and not (entry.rows[1:] > entry.rows[:-1]).all():
            yield f"Rows of a value of field {entry.field!r} of tenant {tenant} are out of order."
        hashes.append(_hash(entry.field, slot, entry.value))
        pieces.append(entry.rows)
        if len(hashes) == _AT_ONCE:
            _add(found, rows, hashes, pieces)
    _add(found, rows, hashes, pieces)
    wrong = rows[found != expected]
    if len(wrong):
        some = ", ".join(map(str, wrong[:_SHOWN].tolist()))
        yield (
            f"The metadata index of tenant {tenant} disagrees with the metadata of {len(wrong)} "
            f"rows: {some}{', …' if len(wrong) > _SHOWN else ''}."
        )


def _add(found: NDArray[np.uint64], rows: U32, hashes: list[int], pieces: list[U32]) -> None:
    """Add each hash to the sums of its rows, and forget both lists."""
    if hashes:
        numbers = np.concatenate(pieces)
        sums = np.repeat(np.array(hashes, np.uint64), [len(piece) for piece in pieces])
        places = np.minimum(np.searchsorted(rows, numbers), max(0, len(rows) - 1))
        known = rows[places] == numbers if len(rows) else np.zeros(len(numbers), np.bool_)
        np.add.at(found, places[known], sums[known])
    hashes.clear()
    pieces.clear()


def _ordered(slot: int, value: Value) -> Any:
    return as_number(value) if is_numeric(slot) else as_text(value)


def _hash(field: str, slot: int, value: Value) -> int:
    ordered = _ordered(slot, value)
    payload = _NUMBER.pack(*ordered) if is_numeric(slot) else ordered
    return xxhash.xxh3_64_intdigest(b"%s\xff%c%s" % (field.encode(), slot, payload))


def _of_row(metadata: dict[str, Any] | None) -> int:
    entries = entries_of(metadata or {})
    return sum(_hash(*entry) for entry in entries) & 0xFFFF_FFFF_FFFF_FFFF
