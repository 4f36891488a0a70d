"""Answers of several tenants as one: whose rows they are, each row once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore import layout
from vecstore.ids import Ids
from vecstore.layout import NO_ROW, TENANT_NONE, Kind
from vecstore.lookups import find_rows, read_tenant
from vecstore.tenant_view import TenantView
from vecstore.transaction import Transaction

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
Scope = tuple[str, ...] | None
"""Names of the tenants that a call is about; None in a collection without tenants."""


_NAMES_MAX = 4_096


class Names:
    """Names of a collection's tenants by number; None for the nameless only one.

    They are remembered: a number is never given to another tenant.
    """

    def __init__(self, collection: int) -> None:
        self._collection = collection
        self._known: dict[int, str | None] = {}

    def find(self, transaction: Transaction, tenants: list[int]) -> list[str | None]:
        """Names of tenants, aligned."""
        try:
            return [self._known[tenant] for tenant in tenants]
        except KeyError:
            return [self._find_one(transaction, tenant) for tenant in tenants]

    def _find_one(self, transaction: Transaction, tenant: int) -> str | None:
        if tenant == TENANT_NONE:
            return None
        name = self._known.get(tenant)
        if name is None:
            if len(self._known) > _NAMES_MAX:
                self._known.clear()
            name = read_tenant(transaction, self._collection, tenant).name
            self._known[tenant] = name
        return name


def find_ids(
    transaction: Transaction, collection: int, tenants: Sequence[int], ids: Ids
) -> tuple[U32, list[int]]:
    """Rows of ids, NO_ROW for unknown ones, and their owners; the first tenant that has one."""
    rows = np.full(len(ids), NO_ROW, np.uint32)
    owners = [TENANT_NONE] * len(ids)
    if list(tenants) == [TENANT_NONE]:
        for places, found in find_rows(transaction, collection, TENANT_NONE, ids):
            rows[places] = found
        return rows, owners
    for tenant in tenants:
        prefix = layout.id_prefix(collection, tenant)
        for places, keys in ids.keys(prefix):
            for place, key in zip(places.tolist(), keys, strict=True):
                if rows[place] != NO_ROW:
                    continue
                value = transaction.get(key, prefix)
                if value is not None:
                    rows[place], owners[place] = layout.unpack_id(value, tenant)
    return rows, owners


def owner_names(
    transaction: Transaction, names: Names, view: TenantView, rows: U32
) -> list[str | None] | None:
    """Names of the owners of rows that a tenant found; None without tenants."""
    if view.number == TENANT_NONE:
        return None
    if not view.record.granted or not len(rows):
        return [view.record.name] * len(rows)
    return names.find(transaction, view.snapshot.owner_list(rows.tolist()))


def owner_table(
    transaction: Transaction, names: Names, view: TenantView, rows: U32
) -> NDArray[Any]:
    """Names of the owners of rows (n, k) that a tenant found, object (n, k); None for NO_ROW."""
    table: NDArray[Any] = np.full(rows.shape, None, object)
    answered = rows != np.uint32(NO_ROW)
    if not view.record.granted:
        table[answered] = view.record.name
    elif answered.any():
        owners = view.snapshot.owners_of(rows[answered])
        distinct, which = np.unique(owners, return_inverse=True)
        table[answered] = np.array(names.find(transaction, distinct.tolist()), object)[which]
    return table


def merge(
    transaction: Transaction,
    names: Names,
    found: Sequence[tuple[TenantView, U32, F32]],
    k: int,
) -> tuple[U32, F32, list[str | None]]:
    """Merge what several tenants found for one query: the k nearest, each row once.

    Parameters
    ----------
    found : sequence of (TenantView, uint32 (n,), float32 (n,))
        Rows and distances, nearest first.

    Returns
    -------
    rows, distances, names of the owners
    """
    rows = np.concatenate([rows for _, rows, _ in found])
    distances = np.concatenate([distances for _, _, distances in found])
    which = np.concatenate([np.full(len(own), i) for i, (_, own, _) in enumerate(found)])
    answered = np.flatnonzero(rows != np.uint32(NO_ROW))
    places = found[0][0].snapshot.places_of(rows[answered])
    order = answered[np.lexsort((places, distances[answered]))]
    _, first = np.unique(rows[order], return_index=True)
    order = order[np.sort(first)][:k]
    owners: list[str | None] = [None] * len(order)
    for i, (view, _, _) in enumerate(found):
        own = np.flatnonzero(which[order] == i)
        for place, name in zip(
            own.tolist(),
            owner_names(transaction, names, view, rows[order[own]]) or [],
            strict=False,
        ):
            owners[place] = name
    return rows[order], distances[order], owners


def count_distinct(transaction: Transaction, views: Sequence[TenantView]) -> int:
    """Rows that some tenants can find together, each counted once."""
    own = {view.number: view.record.rows for view in views}
    others: set[int] = set()
    for view in views:
        if view.number not in own or not view.record.granted:
            continue
        collection = view.snapshot.identity.record.number
        for _, value in transaction.scan(layout.key_u32(collection, Kind.ID, view.number)):
            row, owner = layout.unpack_id(value, view.number)
            if owner not in own:
                others.add(row)
    return sum(own.values()) + len(others)
