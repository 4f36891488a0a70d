"""Dropping a tenant: gone with one short commit, its entries removed piece by piece afterwards.

The commit that drops a tenant ends its rows, for everybody, and its name; what is left under its
number is found by nobody, since numbers are never given again.  Maintenance removes that, some
entries with each commit, however large the tenant was.

Invariants
----------
* A number stands under DROPPED as long as entries of the tenant are left.
* Its rows are dead; ids, metadata and documents of them may be there still, and rows that were
  granted to it may list it.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from vecstore import layout
from vecstore.facts import Edit
from vecstore.layout import Kind
from vecstore.lookups import dropped_tenants
from vecstore.membership import drop_grantee, end_grants
from vecstore.writing import Writing

REMOVED_MAX: Final = 500
"""Entries removed with one commit, some 10 ms."""


class Leftovers:
    """Entries that the dropped tenants of a collection left.

    Attributes
    ----------
    due : bool
        There may be some; a process before may have left them.
    """

    def __init__(self, writing: Writing) -> None:
        self._writing = writing
        self.due = True

    def remove(self) -> None:
        """Remove all; the build lock must be held."""
        while self.remove_some():
            pass

    def remove_some(self) -> bool:
        """Remove some, in one commit; False when nothing is left."""
        if not self.due:
            return False
        with self._writing.lock:
            with self._writing.reading() as transaction:
                left = dropped_tenants(transaction, self._writing.collection)
            if not left:
                self.due = False
                return False
            with self._writing.environment.write_soon() as transaction:
                edit = Edit(transaction, self._writing.identity)
                _remove_some(edit, min(left))
                edit.finish()
        return True


def drop_tenant(edit: Edit, tenant: int) -> bool:
    """Drop a tenant: its rows for everybody, its name, what was granted to it.

    Returns
    -------
    bool
        It left entries.
    """
    transaction, collection = edit.transaction, edit.collection
    record = edit.tenant(tenant)
    prefix = layout.id_prefix(collection, tenant)
    own: dict[bytes, int] = {}
    for key, value in transaction.scan(prefix):
        row, owner = layout.unpack_id(value, tenant)
        if owner == tenant:
            own[key] = row
    if edit.state.shared_rows:
        for key, row in own.items():
            end_grants(edit, key[len(prefix) :], row)
    edit.end(own.values())
    edit.state.pending -= record.pending
    transaction.delete_range(layout.key_u32(collection, Kind.PENDING, tenant))
    transaction.delete(layout.key_u32(collection, Kind.TENANT, tenant))
    transaction.delete(layout.key(collection, Kind.TENANT_NAME, record.name.encode()))
    transaction.put(layout.key_u32(collection, Kind.DROPPED, tenant), b"")
    edit.state.tenants -= 1
    edit.forget_tenant(tenant)
    return not _remove_some(edit, tenant)


def _remove_some(edit: Edit, tenant: int) -> bool:
    """Remove entries of a dropped tenant; True when nothing of it is left."""
    transaction, collection = edit.transaction, edit.collection
    prefix = layout.id_prefix(collection, tenant)
    entries = list(islice(transaction.scan(prefix), REMOVED_MAX))
    for key, value in entries:
        row, owner = layout.unpack_id(value, tenant)
        if owner == tenant:
            edit.drop_facts(row)
        else:
            drop_grantee(edit, row, tenant)
        transaction.delete(key)
    if len(entries) == REMOVED_MAX:
        return False
    transaction.delete_range(layout.key_u32(collection, Kind.REVOKED, tenant))
    transaction.delete(layout.key_u32(collection, Kind.DROPPED, tenant))
    return True
