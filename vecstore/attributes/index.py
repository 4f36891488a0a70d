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

from vecstore.attributes.columns import ALIGN, COLUMN_DTYPE, MEMBER, SLOTS, Column, Texts
from vecstore.attributes.writer import TENANT_DTYPE
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
from vecstore.rowsets import NO_ROWS, RowSet

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
_OPENED_MAX = 64
"""Tenants whose names and columns an index keeps at hand."""


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
        self._keys = np.ascontiguousarray(self.columns["key"]).data
        self._known: dict[tuple[str, int], Column | None] = {}

    def slots(self, field: str, first: int, end: int) -> Iterator[Column]:
        """Columns of a field whose slots are from `first` to `end` - 1."""
        place = self.names.find(field.encode())
        if place < 0:
            return
        begin = bisect_left(self._keys, place * SLOTS + first)
        for column in range(begin, bisect_left(self._keys, place * SLOTS + end)):
            yield Column(self.data, self.columns[column])

    def slot(self, field: str, slot: int) -> Column | None:
        """Column of a field and slot, if there is one; those used are kept."""
        known = self._known.get((field, slot))
        if known is None:
            known = next(self.slots(field, slot, slot + 1), None)
            if known is not None:
                self._known[field, slot] = known
        return known

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
        self._opened: dict[int, _Tenant] = {}

    def leaf(self, tenant: int, condition: Condition) -> list[U32]:
        """Rows of a tenant that satisfy one positive condition, in pieces that may overlap.

        Raises
        ------
        CorruptionError
            The tenant's bytes do not match their checksum.
        """
        found = self._tenant(tenant)
        return [] if found is None else list(found.rows(condition))

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
        start, size = int(entry["offset"]), int(entry["bytes"])
        self.extent.ask(Section.ATTRIBUTES, start, size)
        return self._data[start : start + size]

    def _tenant(self, tenant: int) -> _Tenant | None:
        opened = self._opened.get(tenant)
        if opened is not None:
            return opened
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
        if len(self._opened) >= _OPENED_MAX:
            self._opened.clear()
        self._opened[tenant] = opened = _Tenant(self._bytes(place), self._table[place])
        return opened


def matching(
    filter: Filter,
    tenant: int,
    sources: Sequence[Attributes],
    fresh: Iterable[tuple[int, dict[str, Any] | None]],
    universe: Callable[[], RowSet],
    words: int,
) -> RowSet:
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
    words : int
        Of a bitmap over all rows.

    Returns
    -------
    RowSet
        May hold rows that ended since their index was written; intersect it with the live ones.

    Raises
    ------
    CorruptionError
        The tenant's bytes in a source do not match their checksum.
    """

    def leaf(condition: Condition) -> RowSet:
        pieces = [piece for source in sources for piece in source.leaf(tenant, condition)]
        return RowSet.of(words, pieces)

    found = select(filter, leaf, universe, RowSet(words, NO_ROWS))
    seen, matched = [], []
    for row, metadata in fresh:
        seen.append(row)
        if filter.matches(metadata):
            matched.append(row)
    if not seen:
        return found
    others = found - RowSet.of(words, [np.array(seen, np.uint32)])
    return others | RowSet.of(words, [np.array(matched, np.uint32)])
