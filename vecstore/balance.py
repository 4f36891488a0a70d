"""Keeping postings in shape while rows come and go: split, reassign, merge (LIRE, SPFresh).

A posting with too many entries is divided by balanced 2-means, one with too few is dissolved;
either way centroids appear and vanish, and the homes of rows around them are chosen anew (SPFresh,
SOSP 2023, section 4.2).  The original tests, for every row of the postings around a split,
whether a child is nearer than the centroid that was split; with a second copy chosen as in SOAR
that flags many rows for nothing.  Here a row is looked at when a child is nearer than the centroid
of the posting that it stands in, and moves when the choice of homes then names a child.

Entries are only added: one that became superfluous stays, legal and harmless, until `trim`
drops it when the extent that holds it is merged, or until its posting is *renewed*: one with many
entries of rows that ended gets a new number, and only the live ones are written under it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from operator import add

import numpy as np
from numpy.typing import NDArray

from vecstore.clustering import choose_homes, divide, nearest
from vecstore.config import (
    COPIES,
    POSTING_ENTRIES_MAX,
    POSTING_ENTRIES_MIN,
    SOAR_LAMBDA,
)
from vecstore.directory import Leaves
from vecstore.kernels.closure import choose_copies

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
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
class Tally:
    """What keeping postings in shape did; tallies can be added up.

    Attributes
    ----------
    splits, dissolved, renewed : int
        Postings that were divided, given up, and written anew without entries of ended rows.
    checked, moved : int
        Rows around divisions that were looked at, and those of them that got a place in a new
        posting.
    dropped : int
        Entries that renewed postings left behind.
    inspected : int
        Postings whose entries were read to see how many of them are live.
    written : int
        Entries that went to disk, those of the rows that came among them.
    """

    splits: int = 0
    dissolved: int = 0
    renewed: int = 0
    checked: int = 0
    moved: int = 0
    dropped: int = 0
    inspected: int = 0
    written: int = 0

    def __add__(self, other: Tally) -> Tally:
        """Add up two."""
        return Tally(*map(add, astuple(self), astuple(other)))


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
    tally : Tally
    """

    leaves: Leaves
    new: int
    entries: Entries
    tally: Tally


def overfull(counts: I64, copies: int) -> I64:
    """Ordinals of postings with too many entries, where each row has so many."""
    return np.flatnonzero(counts > entries_max(copies))


def entries_max(copies: int) -> int:
    """Entries from which on a posting is divided, where each row has so many."""
    return POSTING_ENTRIES_MAX * copies // COPIES


def thin(counts: I64, copies: int) -> I64:
    """Ordinals of postings with too few entries; one posting always stays."""
    found = np.flatnonzero(counts < POSTING_ENTRIES_MIN * copies // COPIES)
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
    copies : int
        Places that each row gets.
    """

    def __init__(
        self,
        leaves: Leaves,
        stored: Entries,
        new: Entries,
        take: Callable[[I64], F32],
        copies: int,
    ) -> None:
        self._leaves = leaves
        self._centroids = np.ascontiguousarray(leaves.centroids)
        self._stored = stored
        self._new = new
        self._take = take
        self._copies = copies

    def run(self, split: I64, dissolve: I64, renew: I64) -> Shape:
        """Divide, dissolve and renew postings, and give the rows concerned their homes."""
        children, parents = self._children(split)
        keep = np.ones(len(self._centroids), np.bool_)
        keep[parents] = False
        keep[dissolve] = False
        gone = np.flatnonzero(~keep)
        keep[renew] = False
        kept = int(keep.sum())
        after = np.concatenate([self._centroids[keep], children, self._centroids[renew]])
        renumber = np.where(keep, np.cumsum(keep) - 1, -1)
        renumber[renew] = kept + len(children) + np.arange(len(renew))
        numbers = np.zeros(len(after), np.uint32)
        numbers[:kept] = self._leaves.numbers[keep]
        stays = renumber >= 0
        settled = [self._new.where(stays[self._new.ordinals]), self._stored.within(renew)]
        homes = [Entries(renumber[own.ordinals], own.places) for own in settled]
        homes.append(self._resettle(gone, after))
        checked, attracted = self._attract(np.unique(parents), stays, after, kept, len(children))
        homes.append(attracted)
        wanted = Entries.union(*homes)
        there = self._stored.where(keep[self._stored.ordinals])
        have = Entries(renumber[there.ordinals], there.places)
        wanted = wanted.where(~np.isin(wanted.keys(), have.keys()))
        splits = len(np.unique(parents))
        tally = Tally(
            splits=splits,
            dissolved=len(gone) - splits,
            renewed=len(renew),
            checked=checked,
            moved=len(np.unique(attracted.places)),
        )
        leaves = replace(self._leaves, numbers=numbers, centroids=after)
        return Shape(leaves, len(after) - kept, wanted, tally)

    def _children(self, split: I64) -> tuple[F32, I64]:
        """Centroids of the parts of postings, and the posting that each was part of.

        Rows that are all equal cannot be parted: their posting chains.
        """
        children, parents = [np.zeros((0, self._centroids.shape[1]), np.float32)], []
        most = entries_max(self._copies)
        for ordinal in split.tolist():
            x = self._take(self._members(ordinal))
            parts = divide(x, most) if len(x) > most else [x]
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
            found.append(self._homes(places, near, after, self._copies))
        return Entries.union(*found)

    def _attract(
        self, parents: I64, stays: NDArray[np.bool_], after: F32, first: int, count: int
    ) -> tuple[int, Entries]:
        """Find rows around a split that belong to a child now; how many were looked at.

        Children are the `count` postings from `first` on.
        """
        found = [Entries(np.zeros(0, np.int64), np.zeros(0, np.int64))]
        checked = 0
        for parent, near in zip(parents.tolist(), self._near(parents, after), strict=True):
            neighbours = around(self._leaves, np.array([parent]))
            entries = self._stored.within(neighbours[stays[neighbours]])
            children = near[(near >= first) & (near < first + count)]
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
            homes = self._homes(rows[nearer], near, after, 1)
            found.append(homes.where(np.isin(homes.ordinals, children)))
        return checked, Entries.union(*found)

    def _near(self, ordinals: I64, after: F32) -> I64:
        """The centroids there are now that are nearest to some of before."""
        if not len(ordinals):
            return np.zeros((0, 1), np.int64)
        return nearest(self._centroids[ordinals], after, CANDIDATES)[1]

    def _homes(self, places: I64, near: I64, after: F32, copies: int) -> Entries:
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
