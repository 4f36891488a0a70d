"""Reading attributes extents: conditions and filters to sets of rows.

A query for a tenant reads the table of tenants and that tenant's bytes, no others.  Rows that died
since an extent was written are still in it, so answers are to be intersected with the rows that
the tenant sees now.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray
from pyroaring import BitMap

from vecstore.attributes.columns import ALIGN, COLUMN_DTYPE, MEMBER, SLOTS, Column, Texts
from vecstore.attributes.writer import TENANT_DTYPE
from vecstore.bitmaps import bitmap_of
from vecstore.extents import Extent
from vecstore.filters import (
    Condition,
    Contains,
    Exists,
    Filter,
    OneOf,
    Value,
    ValueKind,
    select,
)
from vecstore.layout import Section, align

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]


class _Tenant:
    """Names and columns of one tenant, over its checked bytes."""

    def __init__(self, data: U8, entry: Any) -> None:
        self.data = data
        *_, at, fields, names_bytes, _, _ = entry.item()
        ends = data[at : at + 8 * fields].view(np.uint64)
        at += 8 * fields
        self.names = Texts(ends, data[at : at + names_bytes])
        at += align(names_bytes, ALIGN)
        self.columns = data[at:].view(COLUMN_DTYPE)
        self._keys = self.columns["key"]

    def slots(self, field: str, first: int, end: int) -> Iterator[Column]:
        """Columns of a field whose slots are from `first` to `end` - 1."""
        place = self.names.find(field.encode())
        if place < 0:
            return
        begin = bisect_left(self._keys, place * SLOTS + first)
        for column in range(begin, bisect_left(self._keys, place * SLOTS + end)):
            yield Column(self.data, self.columns[column])

    def slot(self, field: str, slot: int) -> Column | None:
        """Column of a field and slot, if there is one."""
        return next(self.slots(field, slot, slot + 1), None)

    def rows(self, condition: Condition) -> Iterator[U32]:
        """Rows that satisfy a condition, in pieces that may overlap."""
        field = condition.field
        if isinstance(condition, OneOf):
            columns: dict[int, Column | None] = {}
            for value in condition.values:
                if value.kind not in columns:
                    columns[value.kind] = self.slot(field, value.kind)
                column = columns[value.kind]
                if column is not None:
                    yield column.find(value)
        elif isinstance(condition, Exists):
            for column in self.slots(field, 0, MEMBER):
                yield column.rows
        elif isinstance(condition, Contains):
            members = self.slot(field, condition.value.kind + MEMBER)
            if members is not None:
                yield members.find(condition.value)
            if condition.value.kind == ValueKind.STRING:
                strings = self.slot(field, ValueKind.STRING)
                if strings is not None:
                    yield strings.containing(condition.value.payload.encode())
        else:
            column = self.slot(field, condition.kind)
            if column is not None:
                yield column.within(condition)


class Entry(NamedTuple):
    """One value of one field, and its rows.

    Attributes
    ----------
    field : str
    is_member : bool
        The rows have the value as a member of a list.
    value : Value
    rows : uint32 (n,)
        Ascending.
    """

    field: str
    is_member: bool
    value: Value
    rows: U32


class Attributes:
    """The metadata index of one mapped extent.

    Attributes
    ----------
    tenants : uint32 (n,)
        Tenants that have rows in it, ascending.
    """

    def __init__(self, extent: Extent) -> None:
        """Map the table of tenants.

        Raises
        ------
        CorruptionError
            The table is damaged, or names bytes beyond the end.
        """
        self.extent = extent
        self._table = extent.array(Section.ATTRIBUTE_TENANTS, TENANT_DTYPE)
        self._data: U8 = extent.array(Section.ATTRIBUTES, np.uint8)
        ends = self._table["offset"] + self._table["bytes"]
        if len(ends) and int(ends.max()) > len(self._data):
            raise extent.corrupt(
                f"Extent {extent.number} names metadata beyond its end; restore a backup."
            )
        self.tenants: U32 = np.ascontiguousarray(self._table["tenant"])
        self._checked = np.zeros(len(self._table), np.bool_)

    def leaf(self, tenant: int, condition: Condition) -> BitMap:
        """Rows of a tenant that satisfy one positive condition.

        Raises
        ------
        CorruptionError
            The tenant's bytes do not match their checksum.
        """
        found = self._tenant(tenant)
        pieces = [] if found is None else list(found.rows(condition))
        if len(pieces) > 1:
            return bitmap_of(np.concatenate(pieces))
        return bitmap_of(pieces[0]) if pieces else BitMap()

    def entries(self, tenant: int) -> Iterator[Entry]:
        """Everything that the index holds of a tenant, in its order; raises as `leaf` does."""
        found = self._tenant(tenant)
        if found is None:
            return
        for entry in found.columns:
            column = Column(found.data, entry)
            field = found.names[int(entry["key"]) // SLOTS].decode()
            for value, rows in column.values():
                yield Entry(field, column.slot >= MEMBER, value, rows)

    def intact(self, tenant: int) -> bool:
        """Hold the bytes of one of `tenants` against their checksum, used before or not."""
        place = int(self.tenants.searchsorted(np.uint32(tenant)))
        found = xxhash.xxh3_64_intdigest(self._bytes(place).data)
        return bool(found == int(self._table[place]["sum"]))

    def _bytes(self, place: int) -> U8:
        entry = self._table[place]
        start = int(entry["offset"])
        return self._data[start : start + int(entry["bytes"])]

    def _tenant(self, tenant: int) -> _Tenant | None:
        place = int(self.tenants.searchsorted(np.uint32(tenant)))
        if place == len(self.tenants) or int(self.tenants[place]) != tenant:
            return None
        if not self._checked[place]:
            if not self.intact(tenant):
                raise self.extent.corrupt(
                    f"The metadata index of tenant {tenant} in extent {self.extent.number} does "
                    f"not match its checksum; restore a backup.",
                    tenant=tenant,
                )
            self._checked[place] = True
        return _Tenant(self._bytes(place), self._table[place])


def matching(
    filter: Filter,
    tenant: int,
    sources: Sequence[Attributes],
    fresh: Iterable[tuple[int, dict[str, Any] | None]],
    universe: Callable[[], BitMap],
) -> BitMap:
    """Rows of a tenant that a filter matches, over all indexes and the rows not in any.

    Parameters
    ----------
    filter : Filter
    tenant : int
    sources : sequence of Attributes
    fresh : iterable of (int, dict or None)
        Rows that no source holds, with their metadata.
    universe : callable
        Gives all rows that the tenant sees, fresh ones or not; called once at most, and only if
        the filter matches rows by what they lack.

    Returns
    -------
    BitMap
        May hold rows that ended since their index was written; intersect it with the live ones.

    Raises
    ------
    CorruptionError
        The tenant's bytes in a source do not match their checksum.
    """

    def leaf(condition: Condition) -> BitMap:
        return BitMap.union(BitMap(), *(source.leaf(tenant, condition) for source in sources))

    found = select(filter, leaf, universe)
    seen, matched = BitMap(), BitMap()
    for row, metadata in fresh:
        seen.add(row)
        if filter.matches(metadata):
            matched.add(row)
    return (found - seen) | matched
