"""Keeping postings in shape while rows come and go: split, reassign, merge (LIRE, SPFresh).

A posting with too many entries is divided by balanced 2-means, one with too few is dissolved;
either way centroids appear and vanish, and the homes of rows around them are chosen anew (SPFresh,
SOSP 2023, section 4.2).  The original tests, for every row of the postings around a split,
whether a child is nearer than the centroid that was split; with a second copy chosen as in SOAR
that flags many rows for nothing.  Here a row is looked at when a child is nearer than the centroid
of the posting that it stands in, and moves when the choice of homes then names a child.

Entries are only added: one that became superfluous stays, legal and harmless, until `trim`
drops it when the extent that holds it is merged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vecstore.clustering import choose_homes, divide, nearest
from vecstore.config import COPIES, POSTING_ENTRIES_MAX, POSTING_ENTRIES_MIN, SOAR_LAMBDA
from vecstore.directory import Leaves
from vecstore.division import Assignment
from vecstore.kernels.closure import choose_copies
from vecstore.layout import get_bits
from vecstore.tenant_view import TenantView

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U32 = NDArray[np.uint32]
NEIGHBOURS = 16
"""Postings around a split whose rows are looked at."""
CANDIDATES = 48
"""Postings around a split among which homes are chosen."""


_PLACE_BITS = 40
_TRIM_ROWS = 16_384


@dataclass(frozen=True)
class Entries:
    """Rows in postings.

    Attributes
    ----------
    ordinals : int64 (n,)
        Postings.
    places : int64 (n,)
        Rows, in the numbering of the build.
    """

    ordinals: I64
    places: I64

    @classmethod
    def of_homes(cls, places: I64, homes: I32) -> Entries:
        """Take rows with their homes, int32 (n, COPIES), -1 for none."""
        which, column = np.nonzero(homes >= 0)
        return cls(homes[which, column].astype(np.int64), places[which])

    @classmethod
    def union(cls, *parts: Entries) -> Entries:
        """Take all, each once."""
        keys = np.unique(np.concatenate([part.keys() for part in parts]))
        return cls(keys >> _PLACE_BITS, keys & ((1 << _PLACE_BITS) - 1))

    def keys(self) -> I64:
        """One number for each entry."""
        return self.ordinals << _PLACE_BITS | self.places

    def where(self, chosen: NDArray[np.bool_]) -> Entries:
        """Take some."""
        return Entries(self.ordinals[chosen], self.places[chosen])

    def within(self, ordinals: I64) -> Entries:
        """Take those of some postings."""
        return self.where(np.isin(self.ordinals, ordinals))


@dataclass(frozen=True)
class Shape:
    """How the postings of a tenant changed.

    Attributes
    ----------
    leaves : Leaves
        The postings that there are now; new ones have the number 0 and stand last.
    new : int
        New ones.
    entries : Entries
        To be written; ordinals are those of `leaves`.
    splits, merges, checked, moved : int
        Postings divided and dissolved, rows around them that were looked at, and how many of
        these got a place in a new posting.
    """

    leaves: Leaves
    new: int
    entries: Entries
    splits: int
    merges: int
    checked: int
    moved: int


def overfull(counts: I64) -> I64:
    """Ordinals of postings with too many entries."""
    return np.flatnonzero(counts > POSTING_ENTRIES_MAX)


def thin(counts: I64) -> I64:
    """Ordinals of postings with too few entries; one posting always stays."""
    found = np.flatnonzero(counts < POSTING_ENTRIES_MIN)
    return found[1:] if len(found) == len(counts) else found


def around(leaves: Leaves, ordinals: I64) -> I64:
    """Postings whose rows a change of the given ones may concern, these included."""
    centroids = np.ascontiguousarray(leaves.centroids)
    near = nearest(centroids[ordinals], centroids, 1 + NEIGHBOURS)[1]
    return np.unique(np.concatenate([ordinals, near.ravel()]))


class Reshaping:
    """One change of a tenant's postings.

    Parameters
    ----------
    leaves : Leaves
    stored : Entries
        Live entries of the postings that change and of those around them.
    new : Entries
        Rows that come, with the homes found for them among the present postings.
    take : callable
        Gives rows by place, float32 (n, dim), as the index sees them.
    """

    def __init__(
        self, leaves: Leaves, stored: Entries, new: Entries, take: Callable[[I64], F32]
    ) -> None:
        self._leaves = leaves
        self._centroids = np.ascontiguousarray(leaves.centroids)
        self._stored = stored
        self._new = new
        self._take = take

    def run(self, split: I64, dissolve: I64) -> Shape:
        """Divide and dissolve postings, and give the rows concerned their homes."""
        children, parents = self._children(split)
        keep = np.ones(len(self._centroids), np.bool_)
        keep[parents] = False
        keep[dissolve] = False
        kept = int(keep.sum())
        renumber = np.where(keep, np.cumsum(keep) - 1, -1)
        after = np.concatenate([self._centroids[keep], children])
        numbers = np.zeros(len(after), np.uint32)
        numbers[:kept] = self._leaves.numbers[keep]
        gone = np.flatnonzero(~keep)
        settled_new = self._new.where(keep[self._new.ordinals])
        homes = [Entries(renumber[settled_new.ordinals], settled_new.places)]
        homes.append(self._resettle(gone, after))
        checked, attracted = self._attract(np.unique(parents), kept, keep, after)
        homes.append(attracted)
        wanted = Entries.union(*homes)
        there = self._stored.where(keep[self._stored.ordinals])
        have = Entries(renumber[there.ordinals], there.places)
        wanted = wanted.where(~np.isin(wanted.keys(), have.keys()))
        leaves = replace(self._leaves, numbers=numbers, centroids=after)
        splits = len(np.unique(parents))
        return Shape(
            leaves,
            len(children),
            wanted,
            splits,
            len(gone) - splits,
            checked,
            len(np.unique(attracted.places)),
        )

    def _children(self, split: I64) -> tuple[F32, I64]:
        """Centroids of the parts of postings, and the posting that each was part of.

        Rows that are all equal cannot be parted: their posting chains.
        """
        children, parents = [np.zeros((0, self._centroids.shape[1]), np.float32)], []
        for ordinal in split.tolist():
            x = self._take(self._members(ordinal))
            parts = divide(x, POSTING_ENTRIES_MAX) if len(x) > POSTING_ENTRIES_MAX else [x]
            if len(parts) > 1:
                children.append(np.stack([x[part].mean(axis=0) for part in parts]))
                parents += [ordinal] * len(parts)
        return np.concatenate(children), np.array(parents, np.int64)

    def _members(self, ordinal: int) -> I64:
        """Rows of a posting, those that come included."""
        parts = (own.places[own.ordinals == ordinal] for own in (self._stored, self._new))
        return np.unique(np.concatenate(list(parts)))

    def _resettle(self, gone: I64, after: F32) -> Entries:
        """Choose homes for the rows of postings that are no more."""
        found = [Entries(np.zeros(0, np.int64), np.zeros(0, np.int64))]
        done = np.zeros(0, np.int64)
        for ordinal, near in zip(gone.tolist(), self._near(gone, after), strict=True):
            places = np.setdiff1d(self._members(ordinal), done)
            done = np.union1d(done, places)
            found.append(self._homes(places, near, after))
        return Entries.union(*found)

    def _attract(
        self, parents: I64, kept: int, keep: NDArray[np.bool_], after: F32
    ) -> tuple[int, Entries]:
        """Find rows around a split that belong to a child now; how many were looked at."""
        found = [Entries(np.zeros(0, np.int64), np.zeros(0, np.int64))]
        checked = 0
        for parent, near in zip(parents.tolist(), self._near(parents, after), strict=True):
            neighbours = around(self._leaves, np.array([parent]))
            entries = self._stored.within(neighbours[keep[neighbours]])
            children = near[near >= kept]
            if not len(entries.places) or not len(children):
                continue
            x = self._take(entries.places)
            apart = x - self._centroids[entries.ordinals]
            own = np.einsum("ij,ij->i", apart, apart)
            rows, which = np.unique(entries.places, return_inverse=True)
            least = np.full(len(rows), np.inf, np.float32)
            np.minimum.at(least, which, own)
            child = nearest(x, np.ascontiguousarray(after[children]))[0][:, 0]
            nearer = np.unique(which[child < least[which]])
            checked += len(rows)
            homes = self._homes(rows[nearer], near, after, copies=1)
            found.append(homes.where(homes.ordinals >= kept))
        return checked, Entries.union(*found)

    def _near(self, ordinals: I64, after: F32) -> I64:
        """The centroids there are now that are nearest to some of before."""
        if not len(ordinals):
            return np.zeros((0, 1), np.int64)
        return nearest(self._centroids[ordinals], after, CANDIDATES)[1]

    def _homes(self, places: I64, near: I64, after: F32, copies: int = COPIES) -> Entries:
        """Choose homes of rows among some centroids, the first `copies` of them."""
        if not len(places):
            return Entries(np.zeros(0, np.int64), places)
        chosen = choose_homes(self._take(places), np.ascontiguousarray(after[near]), near)
        return Entries.of_homes(places, chosen[:, :copies])


def trim(entries: Entries, centroids: F32, take: Callable[[I64], F32]) -> Entries:
    """Leave each row the homes that it would choose among those it has.

    Parameters
    ----------
    entries : Entries
    centroids : float32 (postings, dim)
    take : callable
        Gives rows by place.
    """
    rows, which, counts = np.unique(entries.places, return_inverse=True, return_counts=True)
    many = np.flatnonzero(counts > COPIES)
    if not len(many):
        return entries
    rest = entries.where(counts[which] <= COPIES)
    order = np.argsort(which, kind="stable")
    first = np.cumsum(counts) - counts
    width = int(counts.max())
    kept = [rest]
    for start in range(0, len(many), _TRIM_ROWS):
        part = many[start : start + _TRIM_ROWS]
        columns = np.arange(width)
        there = columns < counts[part][:, None]
        at = np.where(there, first[part][:, None] + columns, 0)
        candidates = np.where(there, entries.ordinals[order[at]], -1)
        x = take(rows[part])
        distances = np.full(candidates.shape, np.inf, np.float32)
        for column in range(width):
            own = candidates[:, column] >= 0
            apart = x[own] - centroids[candidates[own, column]]
            distances[own, column] = np.einsum("ij,ij->i", apart, apart)
        near = np.argsort(distances, axis=1, kind="stable")
        candidates = np.take_along_axis(candidates, near, 1)
        distances = np.take_along_axis(distances, near, 1)
        chosen = np.empty((len(part), COPIES), np.int32)
        choose_copies(x, candidates, distances, centroids, np.float32(SOAR_LAMBDA), chosen)
        kept.append(Entries.of_homes(rows[part], chosen))
    return Entries.union(*kept)


@dataclass(frozen=True)
class Change:
    """Postings of a tenant that are out of shape, and the rows that this concerns.

    Attributes
    ----------
    split, dissolve : int64
        Ordinals.
    ordinals : int64 (n,), entry_rows : uint32 (n,)
        Live entries of these postings and of those around them.
    """

    split: I64
    dissolve: I64
    ordinals: I64
    entry_rows: U32

    @property
    def rows(self) -> U32:
        """Stored rows that this concerns, each once."""
        return np.unique(self.entry_rows)

    def apply(
        self, one: Assignment, stored: U32, take: Callable[[I64], F32], next_posting: int
    ) -> tuple[Assignment, I64]:
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

        Returns
        -------
        Assignment, and splits, merges, rows checked, rows moved
        """
        places = np.searchsorted(stored, self.entry_rows).astype(np.int64)
        present = Entries(self.ordinals, places)
        new = Entries.of_homes(one.places, one.homes)
        shape = Reshaping(one.leaves, present, new, take).run(self.split, self.dissolve)
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
        tally = np.array([shape.splits, shape.merges, shape.checked, shape.moved])
        return changed, tally


def find_change(view: TenantView | None, one: Assignment, replaced: U32) -> Change | None:
    """Find the postings that rows which come, or went, put out of shape.

    Parameters
    ----------
    replaced : uint32
        Rows that end with the same call.
    """
    if view is None or one.trained or len(one.leaves.numbers) < 2:
        return None
    counts = view.index.entry_counts()
    counts += np.bincount(one.homes[one.homes >= 0], minlength=len(counts))
    split, dissolve = overfull(counts), thin(counts)
    if not len(split) and not len(dissolve):
        return None
    codec, dim = view.snapshot.extents.codec, view.snapshot.identity.record.dim
    near = around(one.leaves, np.concatenate([split, dissolve]))
    ordinals, rows = view.index.entries_of(near, codec.block_bytes(dim))
    # Revoked rows stay entries, see `membership`.
    live = get_bits(view.snapshot.live, rows) & ~np.isin(rows, replaced)
    return Change(split, dissolve, ordinals[live], rows[live])
