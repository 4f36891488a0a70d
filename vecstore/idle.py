"""Which extents of postings hold so much that is of no use that they are to be written anew.

Entries are of no use when their posting is no more (it was divided, dissolved or renewed, or its
tenant was dropped): queries pass over them.  Others are those of rows that ended.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vecstore.config import COPIES
from vecstore.division import copies_for
from vecstore.errors import CorruptionError
from vecstore.layout import TENANT_NONE, get_bits
from vecstore.postings import PostingRuns
from vecstore.snapshot import Snapshot
from vecstore.writing import Captured

I64 = NDArray[np.int64]
DEAD_SHARE = 0.25
"""Share of stored rows, or of the entries that are read, that may be dead."""
RAW_DEAD_SHARE = 0.2
"""Share of the rows of raw extents that may be dead: vectors are most of what a store takes. Half
as many may be when most postings are written anew, which takes their room twice for a while."""
UNREAD_SHARE = 1 / 4
"""Share of the entries of an extent that may be those of postings which are no more."""
TENANTS_LOOKED_AT = 64
"""Tenants whose postings are looked at for that, those with most entries."""


def dead_rows(snapshot: Snapshot) -> int:
    """Rows that stand in raw extents and are dead."""
    return _stored(snapshot) - _live_stored(snapshot)


def has_dead_entries(captured: Captured) -> bool:
    """Tell whether queries go through so many entries of ended rows that all go anew.

    For the only tenant, whose rows have all their places, that is seen from its entries: where rows
    come, renewal keeps those of ended ones few.  Otherwise the rows that are stored stand for them.
    """
    snapshot = captured.snapshot
    view = None if snapshot.identity.record.tenants else captured.view()
    if view is None or copies_for(view.record.trained_rows) < COPIES:
        return dead_rows(snapshot) > DEAD_SHARE * _stored(snapshot)
    entries = int(view.index.entry_counts().sum())
    return entries - COPIES * _live_stored(snapshot) > DEAD_SHARE * entries


def mostly_unread(captured: Captured) -> list[PostingRuns]:
    """The extent with the largest share of entries that nobody reads, if that is too large.

    It is at least what the tenants with most entries show: others are not looked at.
    """
    parts = captured.snapshot.extents.postings
    stored = np.array([int(part.runs["rows"].sum()) for part in parts], np.int64)
    unread = np.zeros(len(parts), np.int64)
    alone = not captured.snapshot.identity.record.tenants
    for tenant, own in [(TENANT_NONE, stored)] if alone else _largest(parts):
        try:
            unread += own - captured.view(tenant).index.entries_by_part()
        except CorruptionError:  # of this tenant alone; its reads and checks tell
            continue
    share = unread / np.maximum(1, stored)
    worst = int(share.argmax()) if len(parts) else 0
    return [parts[worst]] if len(parts) and share[worst] > UNREAD_SHARE else []


def _largest(parts: Sequence[PostingRuns]) -> list[tuple[int, I64]]:
    """Tenants that have most entries in some extents, and how many they have in each."""
    rows = [part.runs["rows"].astype(np.int64) for part in parts]
    held = np.concatenate([np.zeros(0, np.int64), *rows])
    owners = np.concatenate([np.zeros(0, np.uint32), *(part.runs["tenant"] for part in parts)])
    places = np.repeat(np.arange(len(parts)), [len(own) for own in rows])
    tenants, which = np.unique(owners, return_inverse=True)
    most = np.argsort(-np.bincount(which, held), kind="stable")[:TENANTS_LOOKED_AT]
    found = []
    for tenant in most.tolist():
        own = which == tenant
        counts = np.bincount(places[own], held[own], len(parts)).astype(np.int64)
        found.append((int(tenants[tenant]), counts))
    return found


def _stored(snapshot: Snapshot) -> int:
    """Rows that stand in raw extents."""
    return sum(own.stored for own in snapshot.extents.raws)


def _live_stored(snapshot: Snapshot) -> int:
    """Those of them that are live."""
    fresh = snapshot.log.numbers[: snapshot.log_count]
    return snapshot.state.live_rows - int(get_bits(snapshot.live, fresh).sum())
