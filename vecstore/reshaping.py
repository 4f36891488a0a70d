"""One change of a tenant's postings: split, reassign, merge (LIRE, SPFresh), and renew.

A posting with too many entries is divided by balanced 2-means, one with too few is dissolved;
either way centroids appear and vanish, and the homes of rows around them are chosen anew (SPFresh,
SOSP 2023, section 4.2).  The original tests, for every row of the postings around a split,
whether a child is nearer than the centroid that was split; with a second copy chosen as in SOAR
that flags many rows for nothing.  Here a row is looked at when a child is nearer than the centroid
of the posting that it stands in, and moves when the choice of homes then names a child.

Where rows are replaced by others, dividing is not enough: centroids stay where the rows were.  A
posting that is *renewed*, because so many of its rows ended, is written whole anyhow.  So its
centroid, like those of children, first moves to the mean of its rows by some steps of k-means over
the rows of all postings that change, and these rows are looked at: one moves to the nearest
centroid, but keeps a second place that is hardly worse than the best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vecstore.balance import Entries, Tally, around, entries_max
from vecstore.clustering import choose_homes, divide, nearest
from vecstore.config import POSTING_ROWS_MAX, SOAR_LAMBDA
from vecstore.directory import Leaves
from vecstore.rowsets import among, distinct, starts
from vecstore.yielding import yielding

F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
ATTRACTED = 16
"""Postings around a division whose rows are looked at."""
CANDIDATES = 48
"""Postings around a change among which homes are chosen."""
STEPS = 3
"""Steps of k-means that move the centroids of new postings."""
MEAN_ROWS = 8
"""Rows that a mean must be of to become a centroid."""
KEPT_COST = 1.1
"""A second place stays while it costs at most so many times what the best one would."""
_NONE = Entries(np.zeros(0, np.int64), np.zeros(0, np.int64))


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


class _Places:
    """Where rows stand once postings have changed.

    Parameters
    ----------
    held : Entries
        Entries that rows have, those of postings that are written anew included.
    centroids : float32 (postings, dim)
    copies : int
    """

    def __init__(self, held: Entries, centroids: F32, copies: int) -> None:
        self._rows, self._ordinals = held.by_place()
        self._centroids = centroids
        self._copies = copies

    def _others(self, places: I64, own: int) -> I64:
        """Postings that hold rows beside one of them, int64 (rows, most), -1 for none."""
        first = np.searchsorted(self._rows, places)
        counts = np.searchsorted(self._rows, places, "right") - first
        columns = np.arange(max(1, int(counts.max(initial=0))))
        there = columns < counts[:, None]
        found = np.full(there.shape, -1, np.int64)
        found[there] = self._ordinals[(first[:, None] + columns)[there]]
        found[found == own] = -1
        return found

    def _costs(self, x: F32, first: I64, ordinals: I64) -> F32:
        """What postings cost rows as their second place, float32 like `ordinals`; inf for -1."""
        residual = x - self._centroids[first]
        square = np.einsum("ij,ij->i", residual, residual)
        weight = np.divide(SOAR_LAMBDA, square, out=np.zeros_like(square), where=square > 0)
        costs = np.full(ordinals.shape, np.inf, np.float32)
        for column in range(ordinals.shape[1]):
            own = ordinals[:, column] >= 0
            apart = x[own] - self._centroids[ordinals[own, column]]
            dot = np.einsum("ij,ij->i", apart, residual[own])
            costs[own, column] = np.einsum("ij,ij->i", apart, apart) + weight[own] * dot * dot
        return costs

    def settle(self, places: I64, x: F32, near: I64, own: int) -> tuple[Entries, NDArray[np.bool_]]:
        """Choose homes for the rows of one posting that is written anew, or is no more.

        A row always gets its nearest centroid.  Of further places that cost it hardly more than the
        best one, the cheapest that it has stays; it gets the best one when it has none.

        Parameters
        ----------
        places : int64 (n,)
        x : float32 (n, dim)
            Their vectors.
        near : int64
            Postings among which homes are chosen.
        own : int
            Ordinal of the posting, -1 when it is no more.

        Returns
        -------
        entries of these rows that are to be written, in this posting and in others; and which rows
        get one in another
        """
        chosen = choose_homes(x, np.ascontiguousarray(self._centroids[near]), near)
        first, second = chosen[:, 0].astype(np.int64), chosen[:, 1].astype(np.int64)
        others = self._others(places, own)
        moves = (first != own) & ~(others == first[:, None]).any(axis=1)
        stays = first == own
        joins = np.zeros(len(places), np.bool_)
        if self._copies > 1:
            others[others == first[:, None]] = -1
            mine = np.where(stays, -1, own)
            candidates = np.column_stack([second, mine, others])
            costs = self._costs(x, first, candidates)
            costs[costs > KEPT_COST * costs[:, :1]] = np.inf
            costs[:, 0] = np.inf
            best = costs.argmin(axis=1)
            any_ = np.isfinite(costs.min(axis=1))
            stays |= any_ & (best == 1)
            joins = ~any_ & (second >= 0)
        entries = Entries(
            np.concatenate([np.full(int(stays.sum()), own), first[moves], second[joins]]),
            np.concatenate([places[stays], places[moves], places[joins]]),
        )
        return entries, moves | joins


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
    held : int64 (postings,)
        Entries of each posting, those of ended rows included.
    """

    def __init__(
        self,
        leaves: Leaves,
        stored: Entries,
        new: Entries,
        take: Callable[[I64], F32],
        copies: int,
        held: I64,
    ) -> None:
        self._leaves = leaves
        self._centroids = np.ascontiguousarray(leaves.centroids)
        self._stored = stored
        self._new = new
        self._take = take
        self._copies = copies
        self._held = held

    def run(self, split: I64, dissolve: I64, renew: I64) -> Shape:
        """Divide, dissolve and renew postings, and give the rows concerned their homes."""
        children, parents = self._children(split)
        keep = np.ones(len(self._centroids), np.bool_)
        for changed in (parents, dissolve, renew):
            keep[changed] = False
        kept = int(keep.sum())
        after = np.concatenate([self._centroids[keep], children, self._centroids[renew]])
        renumber = np.where(keep, np.cumsum(keep) - 1, -1)
        renumber[renew] = kept + len(children) + np.arange(len(renew))
        changed = np.flatnonzero(~keep)
        near = self._near(changed, after)
        self._move(changed, near, after, kept)
        settled, checked, moved = self._settle(changed, near, after, renumber)
        beside, attracted = self._attract(distinct(parents), keep, after, kept, len(children))
        come = self._new.where(keep[self._new.ordinals])
        there = self._stored.where(keep[self._stored.ordinals])
        wanted = Entries.union(_renumbered(come, renumber), settled, attracted)
        wanted = wanted.where(~among(wanted.keys(), _renumbered(there, renumber).keys()))
        wanted, after, parted = self._part(wanted, after, self._held[keep])
        splits = len(distinct(parents)) + parted
        tally = Tally(
            splits=splits,
            dissolved=len(dissolve),
            renewed=len(renew),
            checked=checked + beside,
            moved=moved + len(distinct(attracted.places)),
        )
        numbers = np.zeros(len(after), np.uint32)
        numbers[:kept] = self._leaves.numbers[keep]
        leaves = replace(self._leaves, numbers=numbers, centroids=after)
        return Shape(leaves, len(after) - kept, wanted, tally)

    def _children(self, split: I64) -> tuple[F32, I64]:
        """Centroids of the parts of postings, and the posting that each was part of.

        Rows that are all equal cannot be parted: their posting chains.
        """
        children, parents = [np.zeros((0, self._centroids.shape[1]), np.float32)], []
        most = entries_max(self._copies)
        for ordinal in yielding(split.tolist()):
            x = self._take(self._members(ordinal))
            parts = divide(x, most) if len(x) > most else [x]
            if len(parts) > 1:
                children.append(np.stack([x[part].mean(axis=0) for part in parts]))
                parents += [ordinal] * len(parts)
        return np.concatenate(children), np.array(parents, np.int64)

    def _part(self, wanted: Entries, after: F32, held: I64) -> tuple[Entries, F32, int]:
        """Part what came together beyond the limit of a posting; how many postings that were.

        Each row chose its homes without regard to the others. A new posting that too many chose
        is divided; what a posting that stays has no room for gets postings of its own.

        Parameters
        ----------
        held : int64 (kept,)
            Entries that the first postings of `after` have and keep.
        """
        kept = len(held)
        counts = np.bincount(wanted.ordinals, minlength=len(after))
        room = np.full(len(after), POSTING_ROWS_MAX)
        room[:kept] -= held
        ordinals, centroids, parted = wanted.ordinals.copy(), list(after), 0
        for ordinal in np.flatnonzero((counts > room) & (counts > 0)).tolist():
            own = np.flatnonzero(wanted.ordinals == ordinal)
            x = self._take(wanted.places[own])
            parts = divide(x, entries_max(self._copies))
            if len(parts) == 1 and (ordinal >= kept or not np.ptp(x, axis=0).any()):
                continue  # equal rows chain
            if ordinal >= kept:  # the first part stays where they all were
                centroids[ordinal] = x[parts[0]].mean(axis=0)
                parts = parts[1:]
            parted += 1
            for part in parts:
                ordinals[own[part]] = len(centroids)
                centroids.append(x[part].mean(axis=0))
        return Entries(ordinals, wanted.places), np.stack(centroids), parted

    def _members(self, ordinal: int) -> I64:
        """Rows of a posting, those that come included."""
        parts = (own.places[own.ordinals == ordinal] for own in (self._stored, self._new))
        return distinct(np.concatenate(list(parts)))

    def _near(self, ordinals: I64, after: F32) -> I64:
        """The centroids there are now that are nearest to some of before."""
        if not len(ordinals):
            return np.zeros((0, 1), np.int64)
        return nearest(self._centroids[ordinals], after, CANDIDATES)[1]

    def _move(self, changed: I64, near: I64, after: F32, first: int) -> None:
        """Move the centroids from `first` on to the means of rows, each of those that changed once.

        Parameters
        ----------
        near : int64 (changed, CANDIDATES)
            Centroids among which the nearest of a row is found.
        """
        if first == len(after):
            return
        members = Entries.union(self._stored, self._new).within(changed)
        places, owners = members.by_place()
        first_of = starts(places)
        places, owners = places[first_of], owners[first_of]
        groups = [places[owners == ordinal] for ordinal in yielding(changed.tolist())]
        for _ in range(STEPS):
            sums = np.zeros((len(after) - first, after.shape[1]))
            counts = np.zeros(len(sums), np.int64)
            for group, around_group in yielding(zip(groups, near, strict=True)):
                if not len(group):
                    continue
                x = self._take(group)
                found = nearest(x, np.ascontiguousarray(after[around_group]))[1][:, 0]
                homes = around_group[found] - first
                for home in np.unique(homes[homes >= 0]).tolist():
                    own = x[homes == home]
                    sums[home] += own.sum(axis=0, dtype=np.float64)
                    counts[home] += len(own)
            enough = counts >= MEAN_ROWS
            after[first:][enough] = sums[enough] / counts[enough, None]

    def _settle(
        self, changed: I64, near: I64, after: F32, renumber: I64
    ) -> tuple[Entries, int, int]:
        """Choose homes for the rows of postings that are written anew or are no more.

        Returns
        -------
        entries, rows of postings written anew, and those of them that got a further place
        """
        every = Entries.union(self._stored, self._new)
        held = every.where(renumber[every.ordinals] >= 0)
        rows = _Places(_renumbered(held, renumber), after, self._copies)
        found, checked, moved = [_NONE], 0, [_NONE.places]
        done = np.zeros(0, np.int64)
        for ordinal, around_it in yielding(zip(changed.tolist(), near, strict=True)):
            places = self._members(ordinal)
            own = int(renumber[ordinal])
            if own < 0:
                places = places[~among(places, done)]
                done = np.concatenate([done, places])
            if not len(places):
                continue
            entries, further = rows.settle(places, self._take(places), around_it, own)
            found.append(entries)
            if own >= 0:
                checked += len(places)
                moved.append(places[further])
        return Entries.union(*found), checked, len(distinct(np.concatenate(moved)))

    def _attract(
        self, parents: I64, keep: NDArray[np.bool_], after: F32, first: int, count: int
    ) -> tuple[int, Entries]:
        """Find rows around a split that belong to a child now; how many were looked at.

        Children are the `count` postings from `first` on.
        """
        found, checked = [_NONE], 0
        for parent, near in yielding(
            zip(parents.tolist(), self._near(parents, after), strict=True)
        ):
            neighbours = around(self._leaves, np.array([parent]), ATTRACTED)
            entries = self._stored.within(neighbours[keep[neighbours]])
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
            nearer = rows[np.unique(which[child < least[which]])]
            checked += len(rows)
            if len(nearer):
                centroids = np.ascontiguousarray(after[near])
                homes = choose_homes(self._take(nearer), centroids, near)[:, :1]
                chosen = Entries.of_homes(nearer, homes)
                found.append(chosen.where(among(chosen.ordinals, children)))
        return checked, Entries.union(*found)


def _renumbered(entries: Entries, renumber: I64) -> Entries:
    return Entries(renumber[entries.ordinals], entries.places)
