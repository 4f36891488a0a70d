"""Rows in postings: how many these may hold, and which entries of a row are worth keeping.

What changes postings (`vecstore.reshaping`) only adds entries: one that became superfluous
stays, legal and harmless, until `trim` drops it when the extent that holds it is merged, or until
its posting is written anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from operator import add

import numpy as np
from numpy.typing import NDArray

from vecstore.clustering import nearest
from vecstore.config import (
    COPIES,
    POSTING_ENTRIES_MAX,
    POSTING_ENTRIES_MIN,
    SOAR_LAMBDA,
)
from vecstore.directory import Leaves
from vecstore.kernels.closure import choose_copies
from vecstore.rowsets import among, distinct, starts

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
NEIGHBOURS = 16
"""Postings around a change whose entries are read: where else rows of changed postings stand."""
_PLACE_BITS, _ORDINAL_BITS = 40, 23
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
        keys = distinct(np.concatenate([part.keys() for part in parts]))
        return cls(keys >> _PLACE_BITS, keys & ((1 << _PLACE_BITS) - 1))

    def keys(self) -> I64:
        """One number for each entry."""
        return self.ordinals << _PLACE_BITS | self.places

    def where(self, chosen: NDArray[np.bool_]) -> Entries:
        """Take some."""
        return Entries(self.ordinals[chosen], self.places[chosen])

    def within(self, ordinals: I64) -> Entries:
        """Take those of some postings."""
        return self.where(among(self.ordinals, ordinals))

    def by_place(self) -> tuple[I64, I64]:
        """Places, ascending, and the postings of each row, ascending, aligned."""
        keys = np.sort(self.places << _ORDINAL_BITS | self.ordinals)
        return keys >> _ORDINAL_BITS, keys & ((1 << _ORDINAL_BITS) - 1)


@dataclass(frozen=True)
class Tally:
    """What keeping postings in shape did; tallies can be added up.

    Attributes
    ----------
    splits, dissolved, renewed : int
        Postings that were divided, given up, and written anew without entries of ended rows.
    checked, moved : int
        Rows of renewed postings and rows around divisions that were looked at, and those of them
        that got a further place.
    dropped : int
        Entries of ended rows that renewed postings left behind.
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


def around(leaves: Leaves, ordinals: I64, neighbours: int) -> I64:
    """Some postings, and so many of those nearest to each."""
    centroids = np.ascontiguousarray(leaves.centroids)
    near = nearest(centroids[ordinals], centroids, 1 + neighbours)[1]
    return distinct(np.concatenate([ordinals, near.ravel()]))


def trim(entries: Entries, centroids: F32, take: Callable[[I64], F32]) -> Entries:
    """Leave each row the homes that it would choose among those it has.

    Parameters
    ----------
    entries : Entries
    centroids : float32 (postings, dim)
    take : callable
        Gives rows by place.
    """
    places, ordinals = entries.by_place()
    first = starts(places)
    counts = np.diff(first, append=len(places))
    many = np.flatnonzero(counts > COPIES)
    if not len(many):
        return entries
    few = np.repeat(counts <= COPIES, counts)
    rest = Entries(ordinals[few], places[few])
    first, counts = first[many], counts[many]
    rows = places[first]
    width = int(counts.max())
    kept = [rest]
    for start in range(0, len(many), _TRIM_ROWS):
        part = slice(start, start + _TRIM_ROWS)
        columns = np.arange(width)
        there = columns < counts[part, None]
        at = np.where(there, first[part, None] + columns, 0)
        candidates = np.where(there, ordinals[at], -1)
        x = take(rows[part])
        distances = np.full(candidates.shape, np.inf, np.float32)
        for column in range(width):
            own = candidates[:, column] >= 0
            apart = x[own] - centroids[candidates[own, column]]
            distances[own, column] = np.einsum("ij,ij->i", apart, apart)
        near = np.argsort(distances, axis=1, kind="stable")
        candidates = np.take_along_axis(candidates, near, 1)
        distances = np.take_along_axis(distances, near, 1)
        chosen = np.empty((len(x), COPIES), np.int32)
        choose_copies(x, candidates, distances, centroids, np.float32(SOAR_LAMBDA), chosen)
        kept.append(Entries.of_homes(rows[part], chosen))
    return Entries.union(*kept)
