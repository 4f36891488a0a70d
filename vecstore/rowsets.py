"""Sets of row numbers: ascending numbers when they are few, one bit per row when they are many.

What an index gives for a condition becomes such a set, and with the other conditions of a filter
the one that a query runs over, as a list or as a bitmap.

Invariants
----------
* A set never changes; its arrays are read-only.
* All numbers are below 64 times the words of the bitmap of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vecstore.kernels.rowsets import (
    count,
    drop_repeats,
    keep_by_bits,
    keep_by_rows,
    mark,
    spell_out,
)

U32 = NDArray[np.uint32]
U64 = NDArray[np.uint64]
Array = TypeVar("Array", U32, U64)
NO_ROWS: U32 = np.zeros(0, np.uint32)
DENSE_WORDS = 8
"""Words of a bitmap per row up to which the bitmap is the quicker one: a row that is sorted costs
some 8 ns, a word that is looked at 1."""


def distinct(values: NDArray[Any]) -> NDArray[Any]:
    """Distinct numbers, ascending; `np.unique` would hash them, which takes five times as long."""
    ordered = np.sort(values)
    new = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return ordered[new]


def numbers(bits: U64) -> U32:
    """Places of all set bits, ascending."""
    found: U32 = np.empty(count(bits), np.uint32)
    spell_out(bits, found)
    return found


def starts(ordered: NDArray[Any]) -> NDArray[np.int64]:
    """Places at which another number begins, in ascending ones."""
    new = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return np.flatnonzero(new)


def among(values: NDArray[Any], others: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which numbers are among others; `np.isin` would keep the interpreter to itself."""
    if not len(others):
        return np.zeros(len(values), np.bool_)
    ordered = np.sort(others)
    found: NDArray[np.bool_] = ordered.take(np.searchsorted(ordered, values), mode="clip") == values
    return found


class RowSet:
    """A set of row numbers.

    Parameters
    ----------
    words : int
        Of a bitmap over all rows.
    rows : uint32 (n,), optional
        Ascending, each once.
    bits : uint64 (words,), optional
        Instead of `rows`.
    """

    __slots__ = ("_bits", "_count", "_rows", "_words")

    def __init__(self, words: int, rows: U32 | None = None, bits: U64 | None = None) -> None:
        self._words = words
        self._rows = None if rows is None else _fixed(rows)
        self._bits = None if bits is None else _fixed(bits)
        self._count = -1 if rows is None else len(rows)

    @classmethod
    def of(cls, words: int, pieces: Sequence[U32]) -> RowSet:
        """Rows of some arrays, in any order, repetitions allowed; those beyond `words` are none."""
        total = sum(map(len, pieces))
        if words < DENSE_WORDS * total:
            bits = np.zeros(words, np.uint64)
            for piece in pieces:
                mark(bits, _fixed(piece), True)
            return cls(words, bits=bits)
        if not total:
            return cls(words, NO_ROWS)
        rows = pieces[0].copy() if len(pieces) == 1 else np.concatenate(pieces)
        rows.sort()
        return cls(words, rows[: drop_repeats(rows, 64 * words)])

    def __len__(self) -> int:
        """Count the rows."""
        if self._count < 0:
            assert self._bits is not None
            self._count = int(count(self._bits))
        return self._count

    def __and__(self, other: RowSet) -> RowSet:
        """Rows of both."""
        if self._rows is not None:
            return self._kept(other, True)
        if other._rows is not None:
            return other._kept(self, True)
        assert self._bits is not None
        return RowSet(self._words, bits=self._bits & other.bits)

    def __sub__(self, other: RowSet) -> RowSet:
        """Rows of this one that the other lacks."""
        if self._rows is not None:
            return self._kept(other, False)
        assert self._bits is not None
        if other._rows is None:
            return RowSet(self._words, bits=self._bits & ~other.bits)
        bits = self._bits.copy()
        mark(bits, other._rows, False)
        return RowSet(self._words, bits=bits)

    def __or__(self, other: RowSet) -> RowSet:
        """Rows of either."""
        if self._rows is not None and other._rows is not None:
            return RowSet.of(self._words, [self._rows, other._rows])
        if self._rows is not None:
            return other | self
        assert self._bits is not None
        if other._rows is None:
            return RowSet(self._words, bits=self._bits | other.bits)
        bits = self._bits.copy()
        mark(bits, other._rows, True)
        return RowSet(self._words, bits=bits)

    def _kept(self, other: RowSet, wanted: bool) -> RowSet:
        """Those of these few rows that are in another set, or are not."""
        assert self._rows is not None
        kept = np.empty(len(self._rows), np.uint32)
        if other._rows is None:
            n = keep_by_bits(other.bits, self._rows, wanted, kept)
        else:
            n = keep_by_rows(other._rows, self._rows, wanted, kept)
        return RowSet(self._words, kept[:n])

    @property
    def rows(self) -> U32:
        """Row numbers, ascending."""
        if self._rows is not None:
            return self._rows
        rows = np.empty(len(self), np.uint32)
        spell_out(self.bits, rows)
        return _fixed(rows)

    @property
    def bits(self) -> U64:
        """Bitmap over all rows."""
        if self._bits is not None:
            return self._bits
        assert self._rows is not None
        bits = np.zeros(self._words, np.uint64)
        mark(bits, self._rows, True)
        return _fixed(bits)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the set takes."""
        return 256 + 4 * len(self) if self._rows is not None else 256 + 8 * self._words


def _fixed(array: Array) -> Array:
    """Look at an array read-only, so that kernels see one type of it."""
    if array.flags.writeable:
        array = array.view()
        array.flags.writeable = False
    return array
