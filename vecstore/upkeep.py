"""Finding the postings that rows which came or went put out of shape.

The runs tell how many entries a posting has, but not how many of their rows ended since.  That is
seen by reading them, so with the rows that come a part of all postings is looked at, in turn: as
many as hold `INSPECTED` times the entries that come.  The work is bounded by what is written,
however large the tenant, and every posting has its turn.  Beside these, only postings that rows
come to are divided or dissolved.  One whose runs have many ended entries, or are many and short,
is renewed: its live entries are written under a new number, and its centroid follows its rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vecstore.balance import NEIGHBOURS, Entries, Tally, around, overfull, thin
from vecstore.config import BLOCK_ROWS
from vecstore.division import Assignment, copies_for
from vecstore.errors import CorruptionError
from vecstore.layout import get_bits
from vecstore.reshaping import Reshaping
from vecstore.rowsets import among, distinct
from vecstore.tenant_view import TenantView

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
INSPECTED = 8
"""Entries looked at for each one that comes."""
WASTE_SHARE = 0.25
"""Share of what a scan goes through in a posting that writing it anew must save."""


@dataclass(frozen=True)
class Change:
    """Postings of a tenant that are out of shape, and the rows that this concerns.

    Attributes
    ----------
    split, dissolve, renew : int64
        Ordinals.
    ordinals : int64 (n,), entry_rows : uint32 (n,)
        Live entries of these postings and of those around them.
    tally : Tally
        What was done to find them.
    copies : int
        Places that each row gets.
    held : int64 (postings,)
        Entries of each posting, those of ended rows included.
    """

    split: I64
    dissolve: I64
    renew: I64
    ordinals: I64
    entry_rows: U32
    tally: Tally
    copies: int
    held: I64

    @property
    def rows(self) -> U32:
        """Stored rows that this concerns, each once."""
        return distinct(self.entry_rows)

    def apply(
        self, one: Assignment, stored: U32, take: Callable[[I64], F32], next_posting: int
    ) -> tuple[Assignment, Tally]:
        """Put the postings into shape.

        Parameters
        ----------
        one : Assignment
            Of the rows that come, to the present postings.
        stored : uint32
            Row numbers of the stored rows, in the order of places.
        take : callable
            Gives rows by place.
        next_posting : int
            Number of the first new posting.
        """
        places = np.searchsorted(stored, self.entry_rows).astype(np.int64)
        present = Entries(self.ordinals, places)
        new = Entries.of_homes(one.places.astype(np.int64), one.homes)
        shape = Reshaping(one.leaves, present, new, take, self.copies, self.held).run(
            self.split, self.dissolve, self.renew
        )
        numbers = shape.leaves.numbers.copy()
        first = len(numbers) - shape.new
        numbers[first:] = np.arange(next_posting, next_posting + shape.new)
        changed = replace(
            one,
            leaves=replace(shape.leaves, numbers=numbers),
            places=shape.entries.places,
            homes=shape.entries.ordinals.astype(np.int32)[:, None],
            new=shape.new,
        )
        return changed, self.tally + shape.tally


class _Reading:
    """Live entries of some postings of a tenant."""

    def __init__(self, view: TenantView, replaced: U32) -> None:
        self._view = view
        self._replaced = replaced
        dim = view.snapshot.identity.record.dim
        self._block_bytes = view.snapshot.extents.codec.block_bytes(dim)

    def entries(self, ordinals: I64) -> tuple[I64, U32]:
        """Ordinals and rows.  Revoked rows stay entries, see `membership`."""
        found, rows = self._view.index.entries_of(ordinals, self._block_bytes)
        live = get_bits(self._view.snapshot.live, rows)
        if len(self._replaced):
            live &= ~among(rows, self._replaced)
        return found[live], rows[live]


def find_change(view: TenantView | None, one: Assignment, replaced: U32) -> Change | None:
    """Find the postings that rows which come, or went, put out of shape.

    Parameters
    ----------
    replaced : uint32
        Rows that end with the same call.
    """
    if view is None or one.trained or len(one.leaves.numbers) < 2:
        return None
    try:
        return _find(view, one, _Reading(view, replaced))
    except CorruptionError:  # what comes is stored all the same; reads and checks tell the damage
        return None


def _find(view: TenantView, one: Assignment, reading: _Reading) -> Change | None:
    held = view.index.entry_counts()
    coming = np.bincount(one.homes[one.homes >= 0], minlength=len(held))
    whole = held + coming
    copies = copies_for(view.record.trained_rows)
    turn = _turn(view.record.indexed_rows, len(one.places), int(coming.sum()), held)
    grown = np.flatnonzero(coming)
    grown = np.intersect1d(grown, np.concatenate([overfull(whole, copies), thin(whole, copies)]))
    inspected = np.union1d(grown, turn)
    ordinals, rows = reading.entries(inspected)
    live = np.bincount(ordinals, minlength=len(held))
    counts = whole.copy()
    counts[inspected] = live[inspected] + coming[inspected]
    split = np.intersect1d(overfull(counts, copies), inspected)
    dissolve = np.intersect1d(thin(counts, copies), inspected)
    reshaped = np.concatenate([split, dissolve])
    renew = np.setdiff1d(inspected[_worn(view, live, coming)[inspected]], reshaped)
    changing = np.concatenate([reshaped, renew])
    if not len(changing):
        return None
    dropped = int((held - live)[renew].sum())
    near = around(one.leaves, changing, NEIGHBOURS)
    more_ordinals, more_rows = reading.entries(np.setdiff1d(near, inspected))
    wanted = among(ordinals, near)
    return Change(
        split,
        dissolve,
        renew,
        np.concatenate([ordinals[wanted], more_ordinals]),
        np.concatenate([rows[wanted], more_rows]),
        Tally(inspected=len(inspected), dropped=dropped),
        copies,
        held,
    )


def _worn(view: TenantView, live: I64, coming: I64) -> NDArray[np.bool_]:
    """Tell which postings a scan would go through much sooner as one run of live entries.

    Entries of ended rows take places of blocks, and so does nothing at all at the end of a run.
    """
    blocks = view.index.block_counts() + -(-coming // BLOCK_ROWS)
    needed = -(-(live + coming) // BLOCK_ROWS)
    worn: NDArray[np.bool_] = blocks - needed > WASTE_SHARE * blocks
    return worn


def _turn(before: int, rows: int, entries: int, held: I64) -> I64:
    """Ordinals of the postings whose turn it is; the next rows go on where these end.

    Parameters
    ----------
    before : int
        Rows of this tenant that came into postings so far; what others write has no part in it.
    rows, entries : int
        That come.
    held : int64 (postings,)
        Entries of each posting.
    """
    if not entries:
        return np.zeros(0, np.int64)
    by_entry = INSPECTED / max(1.0, float(held.mean()))
    count = min(len(held), int(np.ceil(entries * by_entry)))
    start = int(before * (entries / rows) * by_entry)
    return (start + np.arange(count)) % len(held)
