"""Whose a row is and who may see it: ids of tenants, replaced rows, deletions, grants.

An id key belongs to a tenant and names a row, its own or one granted to it.  The owner's row
lists to whom it is granted, so that what the owner does to the row reaches them in the same
transaction.

Invariants
----------
* A row has one owner; it is found by the owner and by those to whom it is granted, under one id.
* A granted row stands in a posting of the grantee, or is pending; one that was revoked and still
  stands in a posting is listed as revoked.  Never both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from vecstore import layout
from vecstore.errors import DuplicateIdError, QuotaExceededError, ReadOnlyError
from vecstore.facts import Edit
from vecstore.ids import Ids
from vecstore.layout import Kind
from vecstore.lookups import ABSENT
from vecstore.tenant_view import rows_under
from vecstore.yielding import yielding

U32 = NDArray[np.uint32]


def put_rows(edit: Edit, tenant: int, ids: Ids, rows: U32, *, add: bool) -> None:
    """Point ids of a tenant at new rows, and end the rows that they replace.

    Raises
    ------
    DuplicateIdError
        With `add`, when an id exists.
    ReadOnlyError
        When an id is that of a row granted to the tenant.
    """
    record = edit.tenant(tenant)
    if record.rows or record.granted:
        replaced = _known(edit, tenant, ids, add)
        edit.kill(tenant, replaced.values())
        if edit.state.shared_rows:
            raw_ids = ids.encoded()
            for place, row in replaced.items():
                _move_grants(edit, tenant, raw_ids[place], row, int(rows[place]))
    edit.put_ids(tenant, ids, rows)


def _known(edit: Edit, tenant: int, ids: Ids, add: bool) -> dict[int, int]:
    """Rows that ids have so far, by place; raises when they cannot be replaced."""
    known: dict[int, int] = {}
    for places, _, values in edit.find(tenant, ids):
        for place, value in zip(places.tolist(), values, strict=True):
            if value is ABSENT:
                continue
            row, owner = layout.unpack_id(value, tenant)
            if add:
                raise DuplicateIdError(
                    f"Id {ids.one(place)!r} exists already in {whose(edit, tenant)}; use upsert "
                    f"to replace it. Nothing was written."
                )
            if owner != tenant:
                raise _read_only(edit, tenant, ids.one(place))
            known[place] = row
    return known


def known_rows(edit: Edit, tenant: int, ids: Ids, *, add: bool) -> list[int]:
    """Rows that the ids of a call will replace; raises as `put_rows` will."""
    record = edit.tenant(tenant)
    if not (record.rows or record.granted):
        return []
    return list(_known(edit, tenant, ids, add).values())


def check_row_quota(edit: Edit, tenant: int, *, coming: int = 0) -> None:
    """Raise when a tenant has more rows than it may have, with those that come."""
    record = edit.tenant(tenant)
    rows = record.rows + coming
    if record.quota_rows is not None and rows > record.quota_rows:
        raise QuotaExceededError(
            f"Tenant {record.name!r} would have {rows} rows and may have "
            f"{record.quota_rows}; delete some, or raise it with set_quota. Nothing was "
            f"written."
        )


def delete_rows(edit: Edit, tenant: int, ids: Ids) -> int:
    """Delete rows of a tenant by id, for everybody; unknown ids are skipped."""
    prefix = layout.id_prefix(edit.collection, tenant)
    found: dict[bytes, int] = {}
    if not edit.has_tenants:  # every id leads to a row that may be deleted
        for _, keys in ids.keys(prefix):
            rows = edit.transaction.rows(keys, prefix, alike=ids.is_int)
            known = np.flatnonzero(rows != np.uint32(layout.NO_ROW)).tolist()
            found.update(zip([keys[place] for place in known], rows[known].tolist(), strict=True))
    else:
        found = {key: row for _, key, row in _own_rows(edit, tenant, ids)}
    delete_keys(edit, tenant, found, len(prefix))
    return len(found)


def _own_rows(edit: Edit, tenant: int, ids: Ids) -> Iterator[tuple[int, bytes, int]]:
    """Look up rows that a tenant may change: places, keys and rows; unknown ids are skipped.

    Raises
    ------
    ReadOnlyError
        When an id is that of a row granted to the tenant.
    """
    for places, keys, values in edit.find(tenant, ids):
        for place, key, value in zip(places.tolist(), keys, values, strict=True):
            if value is ABSENT:
                continue
            row, owner = layout.unpack_id(value, tenant)
            if owner != tenant:
                raise _read_only(edit, tenant, ids.one(place))
            yield place, key, row


def delete_keys(edit: Edit, tenant: int, found: dict[bytes, int], start: int) -> None:
    """Delete id keys and their rows; ids begin at `start` of a key."""
    for key, row in yielding(found.items()):
        edit.transaction.delete(key)
        if edit.state.shared_rows:
            end_grants(edit, key[start:], row)
    edit.kill(tenant, found.values())


def grant(edit: Edit, owner: int, grantee: int, ids: Ids, *, indexed: bool = False) -> int:
    """Let another tenant see rows; unknown ids and rows that it sees already are skipped.

    Parameters
    ----------
    indexed : bool
        The rows are being put into the grantee's postings by the same transaction.

    Returns
    -------
    int
        Rows newly granted.
    """
    start = len(layout.id_prefix(edit.collection, owner))
    prefix = layout.id_prefix(edit.collection, grantee)
    record = edit.tenant(grantee)
    transaction = edit.transaction
    count = 0
    for place, key, row in _own_rows(edit, owner, ids):
        granted_key = prefix + key[start:]
        granted = layout.pack_granted(row, owner)
        there = transaction.get(granted_key)
        if there == granted:
            continue
        if there is not None:
            raise DuplicateIdError(
                f"{whose(edit, grantee)} has a row with id {ids.one(place)!r} already; "
                f"nothing was granted."
            )
        transaction.put(granted_key, granted)
        _add_grantee(edit, row, grantee)
        if not indexed:
            revoked = layout.key_pair(edit.collection, Kind.REVOKED, grantee, row)
            if record.revoked and transaction.delete(revoked):
                record.revoked -= 1
            else:
                _put_pending(edit, grantee, row)
        count += 1
    record.granted += count
    record.ever_granted = record.ever_granted or count > 0
    return count


def grant_new(edit: Edit, grantee: int, ids: Ids, rows: U32, owners: U32, *, pending: bool) -> None:
    """Let a tenant see rows that the same transaction writes.

    Parameters
    ----------
    ids : Ids
        Each once; a row that the tenant saw under one of them before must have been granted by
        the same owner, and was replaced in this transaction.
    rows, owners : uint32 (n,)
    pending : bool
        The rows are not put into the tenant's postings by this transaction.

    Raises
    ------
    DuplicateIdError
    """
    record = edit.tenant(grantee)
    granted = 0
    for places, keys in ids.keys(layout.id_prefix(edit.collection, grantee)):
        pairs = []
        for place, key in zip(places.tolist(), keys, strict=True):
            row, owner = int(rows[place]), int(owners[place])
            there = edit.transaction.get(key) if record.rows or record.granted else None
            if there is None:
                granted += 1
                if pending:
                    _put_pending(edit, grantee, row)
            elif there != layout.pack_granted(row, owner):
                raise DuplicateIdError(
                    f"{whose(edit, grantee)} has a row with id {ids.one(place)!r} already; "
                    f"nothing was written."
                )
            elif not pending:
                _drop_pending(edit, grantee, row)
            pairs.append((key, layout.pack_granted(row, owner)))
        edit.transaction.put_many(pairs)
    record.granted += granted
    record.ever_granted = True


def put_grantees(edit: Edit, rows: U32, tenants: U32) -> None:
    """List to whom new rows are granted: pairs of rows and tenants, uint32 (n,) each."""
    order = np.lexsort((tenants, rows))
    rows, tenants = rows[order], tenants[order]
    owned, first = np.unique(rows, return_index=True)
    for row, own in zip(owned.tolist(), np.split(tenants, first[1:]), strict=True):
        _put_grantees(edit, row, dict.fromkeys([*_grantees(edit, row), *own.tolist()]))


def revoke(edit: Edit, owner: int, grantee: int, ids: Ids) -> int:
    """End grants; returns how many there were."""
    start = len(layout.id_prefix(edit.collection, owner))
    prefix = layout.id_prefix(edit.collection, grantee)
    record = edit.tenant(grantee)
    count = 0
    for _, keys, values in edit.find(owner, ids):
        for key, value in zip(keys, values, strict=True):
            if value is ABSENT:
                continue
            row, _ = layout.unpack_id(value, owner)
            granted_key = prefix + key[start:]
            if edit.transaction.get(granted_key) != layout.pack_granted(row, owner):
                continue
            edit.transaction.delete(granted_key)
            drop_grantee(edit, row, grantee)
            if not _drop_pending(edit, grantee, row):
                tombstone = layout.key_pair(edit.collection, Kind.REVOKED, grantee, row)
                edit.transaction.put(tombstone, b"")
                record.revoked += 1
            count += 1
    record.granted -= count
    return count


def settle_grants(
    edit: Edit, tenant: int, placed: U32, pending: U32, revoked: U32, *, anew: bool
) -> None:
    """Tell where granted rows stand, once postings are written that were made from an older state.

    Parameters
    ----------
    placed : uint32, ascending
        Rows that were put into postings of the tenant.
    pending, revoked : uint32
        Rows that were so in the older state.
    anew : bool
        The tenant has no other postings than those just written.
    """
    record = edit.tenant(tenant)
    pending_now = rows_under(
        edit.transaction, edit.collection, Kind.PENDING, tenant, record.pending
    )
    for row in np.intersect1d(pending_now, placed).tolist():
        _drop_pending(edit, tenant, row)
    ended = np.setdiff1d(np.intersect1d(pending, placed), pending_now)
    revoked_since = [row for row in ended.tolist() if not edit.is_dead(row)]
    if anew:
        revoked_now = rows_under(
            edit.transaction, edit.collection, Kind.REVOKED, tenant, record.revoked
        )
        for row in np.setdiff1d(revoked_now, placed).tolist():
            edit.transaction.delete(layout.key_pair(edit.collection, Kind.REVOKED, tenant, row))
            record.revoked -= 1
        for row in np.setdiff1d(revoked, np.union1d(revoked_now, placed)).tolist():
            if tenant in _grantees(edit, row):  # granted again since
                _put_pending(edit, tenant, row)
    for row in revoked_since:
        edit.transaction.put(layout.key_pair(edit.collection, Kind.REVOKED, tenant, row), b"")
        record.revoked += 1


def whose(edit: Edit, tenant: int) -> str:
    """Say whose rows these are."""
    name = edit.tenant(tenant).name
    return f"tenant {name!r} of collection {edit.name!r}" if name else f"collection {edit.name!r}"


def _read_only(edit: Edit, tenant: int, value: int | str) -> ReadOnlyError:
    return ReadOnlyError(
        f"The row with id {value!r} is granted to {whose(edit, tenant)} by another tenant, and "
        f"only its owner may change it. Nothing was written."
    )


# --- grantees of a row -------------------------------------------------------------------------


def _grantees(edit: Edit, row: int) -> list[int]:
    """Tenants to whom a row is granted; those that were dropped may be listed still."""
    raw = edit.transaction.get(layout.key_u32(edit.collection, Kind.GRANTEES, row))
    listed = [] if raw is None else layout.unpack_numbers(bytes(raw))
    return [tenant for tenant in listed if tenant not in edit.dropped] if edit.dropped else listed


def _put_grantees(edit: Edit, row: int, tenants: Iterable[int]) -> None:
    """List the tenants to whom a row is granted, in the place of those listed so far."""
    key = layout.key_u32(edit.collection, Kind.GRANTEES, row)
    edit.state.shared_rows -= edit.transaction.delete(key)
    raw = layout.pack_numbers(tenants)
    if raw:
        edit.transaction.put(key, raw)
        edit.state.shared_rows += 1


def _add_grantee(edit: Edit, row: int, tenant: int) -> None:
    _put_grantees(edit, row, [*_grantees(edit, row), tenant])


def drop_grantee(edit: Edit, row: int, tenant: int) -> None:
    """List a tenant no more among those to whom a row is granted."""
    _put_grantees(edit, row, [other for other in _grantees(edit, row) if other != tenant])


def _put_pending(edit: Edit, tenant: int, row: int) -> None:
    edit.transaction.put(layout.key_pair(edit.collection, Kind.PENDING, tenant, row), b"")
    edit.tenant(tenant).pending += 1
    edit.state.pending += 1


def _drop_pending(edit: Edit, tenant: int, row: int) -> bool:
    """Forget a pending grant; False when there was none."""
    key = layout.key_pair(edit.collection, Kind.PENDING, tenant, row)
    if not edit.tenant(tenant).pending or not edit.transaction.delete(key):
        return False
    edit.tenant(tenant).pending -= 1
    edit.state.pending -= 1
    return True


def _move_grants(edit: Edit, owner: int, raw_id: bytes, old: int, new: int) -> None:
    """Let those who saw a replaced row see the one that replaces it."""
    tenants = _grantees(edit, old)
    _put_grantees(edit, old, [])
    _put_grantees(edit, new, tenants)
    for tenant in tenants:
        key = layout.id_prefix(edit.collection, tenant) + raw_id
        edit.transaction.put(key, layout.pack_granted(new, owner))
        _drop_pending(edit, tenant, old)
        _put_pending(edit, tenant, new)


def end_grants(edit: Edit, raw_id: bytes, row: int) -> None:
    """Let nobody see a row that ends."""
    tenants = _grantees(edit, row)
    _put_grantees(edit, row, [])
    for tenant in tenants:
        edit.transaction.delete(layout.id_prefix(edit.collection, tenant) + raw_id)
        edit.tenant(tenant).granted -= 1
        _drop_pending(edit, tenant, row)
