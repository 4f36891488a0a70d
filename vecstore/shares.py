"""What each tenant brings into a build: rows that are new, fresh or granted since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore import layout
from vecstore.directory import Directory
from vecstore.division import copies_for, has_shrunk, size_class
from vecstore.layout import TENANT_NONE
from vecstore.rowsets import among, distinct
from vecstore.tenant_view import TenantView

I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
TRAINED_ANEW_SHARE = 0.5
"""Rows that come at once, as a share of those that a tenant has, from which on dividing all of them
anew makes better postings than dividing one after the other, at a cost that growth pays for."""
_NO_ROWS = np.zeros(0, np.uint32)


@dataclass(frozen=True)
class NewRows:
    """Rows that come with a call, on their way into the index.

    Attributes
    ----------
    vectors : array-like (n, dim)
    ids : int64 array or list of str
    owners : uint32 (n,)
        Tenant of each.
    granted : dict
        For each tenant to whom some are granted, their places, int64.
    metadata : sequence of (dict or None), optional
    """

    vectors: Any
    ids: Any
    owners: U32
    granted: dict[int, I64] = field(default_factory=dict)
    metadata: Sequence[dict[str, Any] | None] | None = None


@dataclass
class Share:
    """What one tenant brings into a build.

    Attributes
    ----------
    tenant : int
    view : TenantView or None
        None for a tenant that is new.
    fresh : uint32
        Stored rows that were in no posting of the tenant so far.
    stored : uint32
        All stored rows that it puts into postings, these or all that it has.
    places : uint32
        Places of its new rows.
    train : bool
        Its postings are made anew, from all that it has.
    pending, revoked : uint32
        Rows granted to it that stand in no posting yet, and rows that do and are granted no more.
    """

    tenant: int
    view: TenantView | None
    fresh: U32
    stored: U32
    places: U32
    train: bool
    pending: U32 = field(default_factory=lambda: _NO_ROWS)
    revoked: U32 = field(default_factory=lambda: _NO_ROWS)

    @property
    def copies(self) -> int:
        """Places that each row gets in the present postings."""
        return copies_for(0 if self.view is None else self.view.record.trained_rows)

    @property
    def directory(self) -> Directory | None:
        """The present one."""
        return None if self.view is None else self.view.index.directory


def share_of(row_bytes: int, view: TenantView, places: U32, replaced: U32) -> Share:
    """Share of one tenant: what is fresh, and whether that still fits its index."""
    fresh = view.fresh[layout.get_bits(view.live, view.fresh)]
    fresh = distinct(fresh[~among(fresh, replaced)])
    index = view.index
    coming = len(fresh) + len(places)
    if index.directory is None:
        return Share(view.number, view, fresh, fresh, places, True)
    if index.listed or len(index.directory.postings) == 1:
        shape = 0 if index.listed else 1
        train = size_class(len(view.indexed) + coming, row_bytes) != shape
    else:
        train = has_shrunk(view.rows + coming) or coming > TRAINED_ANEW_SHARE * view.rows
        # rows that have one place each would be missed beside those that have two
        train = train or copies_for(view.rows + coming) > copies_for(view.record.trained_rows)
    return Share(view.number, view, fresh, fresh, places, train)


def places_by_tenant(new: NewRows | None) -> dict[int, U32]:
    """Places of the new rows of each tenant, its own and those granted to it."""
    if new is None:
        return {}
    if not new.owners.any():
        return {TENANT_NONE: np.arange(len(new.owners), dtype=np.uint32)}
    order = np.argsort(new.owners, kind="stable").astype(np.uint32)
    tenants, first = np.unique(new.owners[order], return_index=True)
    found = dict(zip(tenants.tolist(), np.split(order, first[1:]), strict=True))
    for tenant, places in new.granted.items():
        own = found.get(tenant, _NO_ROWS)
        found[tenant] = np.concatenate([own, places.astype(np.uint32)])
    return found
