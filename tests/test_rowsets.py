"""Sets of rows: as lists and as bitmaps they are what Python's sets are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from tests.conftest import examples
from vecstore.layout import get_bits
from vecstore.rowsets import DENSE_WORDS, RowSet, among, starts

WORDS = 40
END = 64 * WORDS
few = st.lists(st.integers(0, END - 1), max_size=WORDS // DENSE_WORDS)
edges = st.lists(st.sampled_from([0, 1, 63, 64, 65, END - 64, END - 1]), max_size=9)
many = st.builds(
    lambda seed, share: np.flatnonzero(np.random.default_rng(seed).random(END) < share).tolist(),
    st.integers(0, 99),
    st.sampled_from([0.01, 0.5, 1.0]),
)
some = st.one_of(few, edges, many)


def numbers(rows: Any) -> Any:
    return np.array(rows, np.uint32)


def forms(rows: list[int]) -> list[RowSet]:
    """The set in every way that it can be held."""
    ascending = numbers(sorted(set(rows)))
    bits = np.zeros(END, np.bool_)
    bits[ascending] = True
    packed = np.packbits(bits, bitorder="little").view(np.uint64)
    shuffled = numbers(rows)[::-1].copy()
    return [
        RowSet(WORDS, ascending),
        RowSet(WORDS, bits=packed),
        RowSet.of(WORDS, [shuffled]),
        RowSet.of(WORDS, [shuffled[:3], ascending]),
    ]


def held(found: RowSet) -> list[int]:
    """What a set holds, by its list, its bitmap and its length alike."""
    rows = found.rows.tolist()
    marks = np.unpackbits(found.bits.view(np.uint8), bitorder="little")
    assert np.flatnonzero(marks).tolist() == rows
    assert len(found) == len(rows)
    assert found.nbytes > 0
    return list(rows)


@settings(max_examples=examples(60))
@given(some, some)
def test_operations_are_those_of_sets(left: list[int], right: list[int]) -> None:
    a, b = set(left), set(right)
    for one in forms(left):
        assert held(one) == sorted(a)
        for other in forms(right):
            assert held(one & other) == sorted(a & b)
            assert held(one - other) == sorted(a - b)
            assert held(one | other) == sorted(a | b)
        assert held(one) == sorted(a)


@pytest.mark.parametrize("count", [1, 1_000])
def test_rows_beyond_the_end_are_none(count: int) -> None:
    """An index may name rows that the tables do not know: they are passed over, not written to."""
    rows = numbers([*range(count), END, END + 5, 2**32 - 1])
    found = RowSet.of(WORDS, [rows])
    assert held(found) == list(range(count))
    assert len(RowSet(0, bits=np.zeros(0, np.uint64)) & RowSet.of(0, [rows])) == 0
    full = RowSet(WORDS, bits=np.full(WORDS, 2**64 - 1, np.uint64))
    assert len(RowSet(WORDS, rows) & full) == count


@pytest.mark.parametrize("span", [20_000, 800_000])
@pytest.mark.parametrize("count", [5, 16_384, 40_000])
def test_large_sets(span: int, count: int) -> None:
    """What roaring bitmaps make of the same numbers."""
    rng = np.random.default_rng(count)
    words = span // 64 + 1
    left, right = (rng.integers(0, span, n).astype(np.uint32) for n in (count, 900))
    one, other = RowSet.of(words, [left]), RowSet.of(words, [right])
    a, b = BitMap(left.tolist()), BitMap(right.tolist())
    assert held(one) == list(a)
    for found, wanted in ((one & other, a & b), (one - other, a - b), (other - one, b - a)):
        assert held(found) == list(wanted)
    assert held(one | other) == list(a | b)


def test_sets_are_read_only() -> None:
    for one in forms([1, 2, 3]):
        with pytest.raises(ValueError, match="read-only"):
            (one & one).rows[:] = 0
        with pytest.raises(ValueError, match="read-only"):
            one.bits[:] = 0


@given(st.lists(st.integers(-9, 9)), st.lists(st.integers(-9, 9)))
def test_among_is_membership(values: list[int], others: list[int]) -> None:
    found = among(np.array(values, np.int64), np.array(others, np.int64))
    assert found.tolist() == [value in others for value in values]


@given(st.lists(st.integers(0, 9)))
def test_starts_are_where_numbers_change(values: list[int]) -> None:
    ordered = sorted(values)
    wanted = [at for at, value in enumerate(ordered) if ordered.index(value) == at]
    assert starts(np.array(ordered, np.int64)).tolist() == wanted


@given(some, st.lists(st.integers(0, END + 200)))
def test_bits_of_rows_are_read(marked: list[int], asked: list[int]) -> None:
    found = get_bits(RowSet.of(WORDS, [numbers(marked)]).bits, numbers(asked))
    assert found.tolist() == [row in marked for row in asked]
