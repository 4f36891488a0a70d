"""`where` clauses: what they mean, what is refused, and how rows are put together."""

from __future__ import annotations

import dataclasses
import math
from collections import OrderedDict
from enum import StrEnum
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyroaring import BitMap

from tests import naive_filters
from tests.filter_checks import rows, values, wheres
from vecstore.config import FILTER_BYTES_MAX, FILTER_DEPTH_MAX, FILTER_TERMS_MAX
from vecstore.errors import FilterError, InvalidArgumentError, VecstoreError
from vecstore.filters import (
    Condition,
    Range,
    ValueKind,
    parse_where,
    select,
    split_number,
    value_of,
)
from vecstore.filters.values import REST_MAX, canonical

ROW = {
    "lang": "en",
    "year": 2021,
    "score": 0.5,
    "draft": False,
    "tags": ["a", 1, None, ["x"], {"k": 1}],
    "note": None,
    "author": {"name": "Ada", "age": 36},
    "day": "2024-02-29",
    "": "empty",
    "a.b": "dotted",
    "naïve": "größer",
    "big": 2**53 + 1,
}

MEANINGS: list[tuple[dict[str, Any], bool]] = [
    ({}, True),
    ({"lang": "en"}, True),
    ({"lang": "EN"}, False),
    ({"lang": {"$eq": "en"}}, True),
    ({"lang": "en", "year": 2021}, True),
    ({"lang": "en", "year": 2020}, False),
    ({"year": {"$gte": 2021, "$lt": 2022}}, True),
    ({"year": {"$gt": 2021, "$lt": 2022}}, False),
    ({"year": {"$gte": 2000, "$lte": 2021}}, True),
    ({"year": {"$gte": 2000, "$lt": 2021}}, False),
    ({"year": {"$gt": 2000, "$gte": 2021}}, True),
    ({"year": {"$gt": 2000, "$gte": 2021, "$lt": 2021.5, "$lte": 2021}}, True),
    ({"year": {"$gt": 2000, "$lt": "3000"}}, False),
    ({"year": 2021.0}, True),
    ({"year": "2021"}, False),
    ({"year": {"$gt": "2020"}}, False),
    ({"lang": {"$gt": 1}}, False),
    ({"draft": False}, True),
    ({"draft": 0}, False),
    ({"draft": {"$lt": 1}}, False),
    ({"year": {"$gt": True}}, False),
    ({"year": {"$lte": None}}, False),
    ({"note": {"$gte": None}}, False),
    ({"draft": {"$gte": False}}, False),
    ({"note": None}, True),
    ({"gone": None}, False),
    ({"lang": {"$ne": "de"}}, True),
    ({"lang": {"$ne": "en"}}, False),
    ({"gone": {"$ne": "en"}}, True),
    ({"year": {"$ne": "2021"}}, True),
    ({"note": {"$ne": None}}, False),
    ({"lang": {"$in": ["de", "en"]}}, True),
    ({"lang": {"$in": ("de", "en")}}, True),
    ({"lang": {"$in": ["de", "fr"]}}, False),
    ({"lang": {"$in": []}}, False),
    ({"gone": {"$in": ["de"]}}, False),
    ({"draft": {"$in": [0, 1]}}, False),
    ({"lang": {"$nin": ["de", "fr"]}}, True),
    ({"lang": {"$nin": ["de", "en"]}}, False),
    ({"lang": {"$nin": []}}, True),
    ({"gone": {"$nin": ["de"]}}, True),
    ({"lang": {"$exists": True}}, True),
    ({"note": {"$exists": True}}, True),
    ({"gone": {"$exists": True}}, False),
    ({"gone": {"$exists": False}}, True),
    ({"lang": {"$exists": False}}, False),
    ({"tags": {"$contains": "a"}}, True),
    ({"tags": {"$contains": 1.0}}, True),
    ({"tags": {"$contains": True}}, False),
    ({"tags": {"$contains": None}}, True),
    ({"tags": {"$contains": ["x"]}}, True),
    ({"tags": {"$contains": {"k": 1.0}}}, True),
    ({"tags": {"$contains": "x"}}, False),
    ({"lang": {"$contains": "n"}}, True),
    ({"lang": {"$contains": ""}}, True),
    ({"lang": {"$contains": "ne"}}, False),
    ({"lang": {"$contains": 1}}, False),
    ({"year": {"$contains": "2"}}, False),
    ({"author": {"$contains": "name"}}, False),
    ({"naïve": {"$contains": "öß"}}, True),
    ({"tags": ["a", 1.0, None, ["x"], {"k": 1}]}, True),
    ({"tags": ["a"]}, False),
    ({"author": {"$eq": {"age": 36.0, "name": "Ada"}}}, True),
    ({"author": {"$eq": {"name": "Ada"}}}, False),
    ({"author.name": "Ada"}, False),
    ({"a.b": "dotted"}, True),
    ({"": "empty"}, True),
    ({"day": {"$gte": "2024-02-01", "$lt": "2024-03-01"}}, True),
    ({"day": {"$lt": "2024-02-29"}}, False),
    ({"big": 2**53}, False),
    ({"big": {"$gt": 2**53}}, True),
    ({"big": {"$gt": float(2**53)}}, True),
    ({"big": {"$lt": 10**400}}, True),
    ({"$and": [{"lang": "en"}, {"year": 2021}]}, True),
    ({"$and": [{"lang": "en"}, {"year": 1}]}, False),
    ({"$and": ({"lang": "en"},)}, True),
    ({"$or": [{"lang": "de"}, {"year": 2021}]}, True),
    ({"$or": [{"lang": "de"}, {"year": 1}]}, False),
    ({"$or": [{"lang": "de"}, {}]}, True),
    ({"$not": {"lang": "de"}}, True),
    ({"$not": {"lang": "en", "year": 2021}}, False),
    ({"$not": {}}, False),
    ({"lang": {"$not": {"$eq": "de"}}}, True),
    ({"lang": {"$not": {"$eq": "en", "$gt": "a"}}}, False),
    ({"gone": {"$not": {"$gt": 1}}}, True),
    ({"$or": [{"lang": "de"}], "year": 2021}, False),
]


@pytest.mark.parametrize(("where", "expected"), MEANINGS, ids=lambda x: str(x)[:60])
def test_meaning(where: dict[str, Any], expected: bool) -> None:
    assert parse_where(where).matches(ROW) is expected
    assert naive_filters.holds(where, ROW) is expected


def test_rows_without_metadata_have_no_fields() -> None:
    for metadata in (None, {}):
        assert parse_where({}).matches(metadata)
        assert parse_where({"a": {"$ne": 1}}).matches(metadata)
        assert not parse_where({"a": 1}).matches(metadata)


@given(wheres, rows)
@example({"a": {"$gt": 2**53}}, {"a": 2**53 + 1})
@example({"$not": {"": {"$contains": "a"}}}, {"": ["a"]})
def test_matches_is_what_the_oracle_says(where: Any, metadata: Any) -> None:
    assert parse_where(where).matches(metadata) == naive_filters.holds(where, metadata)


@given(values, values)
def test_encodings_are_equal_as_values_are(a: Any, b: Any) -> None:
    assert (canonical(a) == canonical(b)) == naive_filters.equal(a, b)
    assert (value_of(a) == value_of(b)) == naive_filters.equal(a, b)
    if value_of(a) == value_of(b):
        assert hash(value_of(a)) == hash(value_of(b))


numbers = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.integers(2**53 - 5, 2**53 + 5),
    st.integers(2**64 - 5_000, 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)


@given(numbers, numbers)
def test_split_numbers_are_in_order(a: float, b: float) -> None:
    assert (split_number(a) < split_number(b)) == (a < b)
    assert (split_number(a) == split_number(b)) == (a == b)
    assert abs(split_number(a)[1]) < REST_MAX


def test_split_number_of_what_no_row_has() -> None:
    assert split_number(10**400) == (math.inf, 0)
    assert split_number(-(10**400)) == (-math.inf, 0)
    assert split_number(2**80 + 2**20) == (2.0**80, REST_MAX)


# --- filters as values --------------------------------------------------------------------------


def test_filters_are_values() -> None:
    a, b = parse_where({"a": 1, "b": [1, "x"]}), parse_where({"a": {"$eq": 1.0}, "b": [1.0, "x"]})
    assert a == b
    assert hash(a) == hash(b)
    assert a.key == b.key
    assert a != parse_where({"a": True, "b": [1, "x"]})
    assert a != "a"
    with pytest.raises(dataclasses.FrozenInstanceError):
        a.terms = 3  # type: ignore[misc]


def test_a_filter_keeps_no_part_of_what_was_passed() -> None:
    members: list[Any] = ["x"]
    where = {"a": {"$in": [members]}, "b": members}
    compiled = parse_where(where)
    key = compiled.key
    members.append("y")
    where["a"]["$in"].append(1)  # type: ignore[call-overload,index]
    assert compiled.matches({"a": ["x"], "b": ["x"]})
    assert parse_where({"a": {"$in": [["x"]]}, "b": ["x"]}).key == key


@given(wheres, wheres, st.lists(rows, max_size=5))
def test_equal_keys_mean_the_same(a: Any, b: Any, some: list[Any]) -> None:
    first, second = parse_where(a), parse_where(b)
    if first.key == second.key:
        assert [first.matches(row) for row in some] == [second.matches(row) for row in some]


def test_keys_tell_filters_apart() -> None:
    distinct: list[dict[str, Any]] = [where for where, _ in MEANINGS]
    keys: dict[bytes, Any] = {}
    for where in distinct:
        key = parse_where(where).key
        if key in keys:
            for row in (ROW, None, {"a": 1}):
                assert naive_filters.holds(where, row) == naive_filters.holds(keys[key], row)
        keys[key] = where
    bounds = [{"a": {op: 1}} for op in ("$gt", "$gte", "$lt", "$lte", "$eq", "$ne", "$contains")]
    bounds += [{"a": {"$exists": True}}, {"a": {"$gt": "1"}}, {"b": {"$gt": 1}}]
    assert len({parse_where(where).key for where in bounds}) == len(bounds)


def test_names_are_short_and_tell_filters_apart() -> None:
    wheres = [{"a": "x" * n} for n in (1, 200, 256, 300, 4_096, 4_097)]
    wheres += [{"a": {"$in": [*range(900)]}}, {"a": {"$in": [*range(1, 901)]}}]
    names = [parse_where(where).name for where in wheres]
    assert len({*names}) == len(wheres)
    assert max(map(len, names)) <= 256
    assert names[0] == parse_where(wheres[0]).key
    assert names[-1] == parse_where({"a": {"$in": [*range(900, 0, -1)]}}).name


def test_size_counts_terms() -> None:
    sizes = {
        0: {},
        1: {"a": 1},
        2: {"a": {"$gte": 1, "$lt": 2}},
        3: {"a": {"$in": [1, 1, 1]}},
        4: {"$or": [{"a": 1}, {"b": {"$nin": [1, 2]}}, {}]},
        5: {"$and": [{"a": {"$in": []}}, {"$not": {"b": {"$not": {"$eq": 1, "$lt": 3}}}}, {}, {}]},
    }
    for terms, where in sizes.items():
        size = parse_where(where).size
        assert size.terms == terms
        assert size.bytes == len(parse_where(where).key)


def test_everything_is_the_empty_filter() -> None:
    for where in ({}, {"$and": [{}, {}]}, {"$or": [{"a": 1}, {}]}, {"$and": [{"$and": [{}]}]}):
        assert parse_where(where).everything
    for other in ({"a": 1}, {"$not": {}}, {"$or": [{"a": 1}]}, {"a": {"$nin": []}}):
        assert not parse_where(other).everything


def test_two_bounds_are_one_range() -> None:
    root = parse_where({"a": {"$gt": 1, "$lte": 2}}).root
    assert isinstance(root, Range)
    assert root.kind == ValueKind.NUMBER
    assert (root.low_open, root.high_open) == (True, False)


# --- what is refused ----------------------------------------------------------------------------


class Name(StrEnum):
    LANG = "lang"


class Liar(str):
    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash("$and")

    def __repr__(self) -> str:
        raise AssertionError("a refused value is not asked for its repr")

    def startswith(self, *_: Any) -> bool:
        return False


class Endless(dict[str, Any]):
    def items(self) -> Any:
        while True:
            yield "a", 1

    def __repr__(self) -> str:
        raise AssertionError("a refused value is not asked for its repr")


REFUSED: list[tuple[Any, str]] = [
    (None, r"where, or a clause in it, is None; use a plain dict"),
    ("lang", r"is 'lang'; use a plain dict"),
    ([], r"is an empty list; use"),
    ([{"a": 1}], r"is of type list; use"),
    (OrderedDict(a=1), r"is of type OrderedDict; use"),
    (Endless(), r"is of type Endless; use"),
    ({1: "a"}, r"a key that is 1; keys are plain str"),
    ({("a",): "a"}, r"a key that is of type tuple; keys"),
    ({Name.LANG: "en"}, r"a key that is of type Name; keys"),
    ({Liar("x"): "en"}, r"a key that is of type Liar; keys"),
    ({"\ud800": 1}, r"not valid Unicode"),
    ({"a": "\ud800"}, r"not valid Unicode"),
    ({"a": ["\ud800"]}, r"not valid Unicode"),
    ({"$nor": [{"a": 1}]}, r"unknown operator '\$nor' in place of a field; known .*\$and"),
    ({"$": 1}, r"unknown operator '\$' in"),
    ({"$eq": 1}, r"unknown operator '\$eq' in place of a field"),
    ({"$and": {"a": 1}}, r"\$and is of type dict; give it a list of at least one"),
    ({"$or": []}, r"\$or is an empty list; give it a list of at least one"),
    ({"$or": [1]}, r"a clause in it, is 1; use"),
    ({"$not": [{"a": 1}]}, r"is of type list; use a plain dict"),
    ({"$not": None}, r"is None; use a plain dict"),
    ({"a": {}}, r"Field 'a' has an empty dict; give it an operator"),
    ({"a": {"b": 1}}, r"Field 'a' has the unknown operator 'b'; known are \$eq, .*by \$eq"),
    ({"a": {"$regex": "x"}}, r"unknown operator '\$regex'"),
    ({"a": {"$and": []}}, r"unknown operator '\$and'"),
    ({"a": {"$eq": 1, "b": 2}}, r"unknown operator 'b'"),
    ({"a": {1: 2}}, r"a key that is 1;"),
    ({"a": {"$not": 1}}, r"\$not of field 'a' is 1; give it a dict of operators"),
    ({"a": {"$not": {}}}, r"Field 'a' has an empty dict"),
    ({"a": {"$in": "en"}}, r"\$in of field 'a' is 'en'; give it a list"),
    ({"a": {"$in": {"x": 1}}}, r"\$in of field 'a' is of type dict; give it a list"),
    ({"a": {"$nin": {1, 2}}}, r"\$nin of field 'a' is of type set; give it a list"),
    ({"a": {"$nin": None}}, r"\$nin of field 'a' is None"),
    ({"a": {"$exists": 1}}, r"\$exists of field 'a' is 1; use True or False"),
    ({"a": {"$exists": "yes"}}, r"\$exists of field 'a' is 'yes'"),
    ({"a": {"$gt": [1]}}, r"\$gt of field 'a' is of type list; .* have no order"),
    ({"a": {"$lte": {"x": 1}}}, r"\$lte of field 'a' is of type dict; .* have no order"),
    ({"a": math.nan}, r"\$eq of field 'a' is nan, which JSON lacks"),
    ({"a": {"$gt": math.inf}}, r"\$gt of field 'a' is inf, which JSON lacks"),
    ({"a": {"$in": [1, -math.inf]}}, r"\$in of field 'a' is -inf"),
    ({"a": {"$eq": {"x": [math.nan]}}}, r"\$eq of field 'a' is nan"),
    ({"a": b"x"}, r"\$eq of field 'a' is of type bytes; use plain JSON values"),
    ({"a": {1}}, r"of type set; use plain JSON values"),
    ({"a": object()}, r"of type object; use plain"),
    ({"a": np.float64(1)}, r"of type float64; use plain"),
    ({"a": np.int64(1)}, r"of type int64; use plain"),
    ({"a": Liar("x")}, r"of type Liar; use plain"),
    ({"a": {"$eq": Endless()}}, r"of type Endless; use plain"),
    ({"a": {"$contains": {1: 2}}}, r"\$contains of field 'a' has a key that is 1;"),
    ({"x" * 200: {"$in": 2**5_000}}, r"Field|\$in of field '" + "x" * 60 + r"'… is an int of 5001"),
]


@pytest.mark.parametrize(("where", "message"), REFUSED, ids=range(len(REFUSED)))
def test_refused(where: Any, message: str) -> None:
    with pytest.raises(FilterError, match=message) as caught:
        parse_where(where)
    assert isinstance(caught.value, InvalidArgumentError)
    assert isinstance(caught.value, VecstoreError)
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value)) < 400
    wrapped = {"$and": [{"ok": 1}, {"$not": {"$or": [where]}}]}
    with pytest.raises(FilterError, match=message):
        parse_where(wrapped)


def nested(levels: int, wrap: Any, inner: Any) -> Any:
    for _ in range(levels):
        inner = wrap(inner)
    return inner


WRAPS = {
    "$not": lambda inner: {"$not": inner},
    "$and": lambda inner: {"$and": [inner]},
    "$or": lambda inner: {"$or": [inner]},
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_depth(wrap: Any) -> None:
    parse_where(nested(FILTER_DEPTH_MAX - 1, wrap, {"a": 1}))
    for levels in (FILTER_DEPTH_MAX, 100_000):
        with pytest.raises(FilterError, match="deeper than 32 levels; write a flatter one"):
            parse_where(nested(levels, wrap, {"a": 1}))


def test_depth_within_a_field() -> None:
    parse_where({"a": nested(FILTER_DEPTH_MAX - 1, WRAPS["$not"], {"$eq": 1})})
    for levels in (FILTER_DEPTH_MAX, 100_000):
        with pytest.raises(FilterError, match="deeper than 32 levels"):
            parse_where({"a": nested(levels, WRAPS["$not"], {"$eq": 1})})


@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: {"k": x}], ids=["list", "dict"])
def test_depth_of_operands(wrap: Any) -> None:
    deepest = nested(64, wrap, 1)
    assert parse_where({"a": {"$eq": deepest}}).matches({"a": deepest})
    for levels in (65, 100_000):
        for name in ("$eq", "$ne", "$contains"):
            with pytest.raises(FilterError, match=rf"\{name} of field 'a' .* deeper than 64"):
                parse_where({"a": {name: nested(levels, wrap, 1)}})
    with pytest.raises(FilterError, match="deeper than 64"):
        parse_where({"a": {"$in": [nested(100_000, wrap, 1)]}})


def test_what_holds_itself() -> None:
    loop: dict[str, Any] = {}
    loop["$not"] = loop
    both: dict[str, Any] = {}
    both["$and"] = [both, both]
    ring: list[Any] = []
    ring += [ring, ring]
    inner: dict[str, Any] = {}
    inner["$not"] = inner
    for where in (loop, both, {"a": ring}, {"a": {"$in": ring}}, {"a": inner}):
        with pytest.raises(FilterError, match="deeper than"):
            parse_where(where)


def test_terms() -> None:
    most = FILTER_TERMS_MAX
    for fits in (
        {"a": {"$in": list(range(most))}},
        {"$or": [{"a": i} for i in range(most)]},
        {str(i): i for i in range(most)},
        {"$and": [{}] * most},
    ):
        assert parse_where(fits).terms == most
    for more in (
        {"a": {"$in": list(range(most + 1))}},
        {"a": {"$nin": [1] * (most + 1)}},
        {"$or": [{"a": i} for i in range(most + 1)]},
        {str(i): i for i in range(most + 1)},
        {"a": {"$in": list(range(most))}, "b": 1},
        {"$and": [{}] * (most + 1)},
        nested(25, lambda inner: {"$and": [inner, inner]}, {"a": 1}),
    ):
        with pytest.raises(FilterError, match=r"more than 1024 terms, .*; split it"):
            parse_where(more)


def test_bytes() -> None:
    long = "x" * (1 << 20)
    assert parse_where({"a": long}).matches({"a": long})
    bomb = nested(40, lambda inner: [inner, inner], "x")
    for where in (
        {"a": {"$eq": bomb}},
        {"a": {"$in": [long] * 17}},
        {"a": {"$eq": [0] * (FILTER_BYTES_MAX // 16)}},
        {"a": 1 << (8 * FILTER_BYTES_MAX)},
    ):
        with pytest.raises(FilterError, match=r"more than 16777216 bytes .*; use shorter ones"):
            parse_where(where)


# --- sets of rows -------------------------------------------------------------------------------


@given(wheres, st.lists(rows, max_size=8))
def test_select_is_matches(where: Any, some: list[Any]) -> None:
    asked: list[None] = []

    def leaf(condition: Condition) -> BitMap:
        return BitMap(
            i
            for i, row in enumerate(some)
            if row and condition.field in row and condition.holds(row[condition.field])
        )

    def universe() -> BitMap:
        asked.append(None)
        return BitMap(range(len(some)))

    compiled = parse_where(where)
    expected = [i for i, row in enumerate(some) if compiled.matches(row)]
    assert list(select(compiled, leaf, universe, BitMap())) == expected
    assert len(asked) <= 1
    if asked:
        assert compiled.matches(None) or not some


@pytest.mark.parametrize(
    ("where", "needs_all"),
    [
        ({"a": 1}, False),
        ({"a": {"$gt": 1}, "b": {"$ne": 1}}, False),
        ({"$not": {"a": {"$ne": 1}}}, False),
        ({"$not": {"$or": [{"a": {"$ne": 1}}, {"b": 2}]}}, False),
        ({"a": {"$in": []}}, False),
        ({}, True),
        ({"a": {"$ne": 1}}, True),
        ({"$or": [{"a": 1}, {"b": {"$exists": False}}]}, True),
    ],
)
def test_all_rows_are_asked_for_only_when_needed(where: Any, needs_all: bool) -> None:
    calls = []

    def universe() -> BitMap:
        calls.append(1)
        return BitMap([1, 2, 3])

    given_rows = BitMap([2, 3])
    select(parse_where(where), lambda _: given_rows, universe, BitMap())
    assert bool(calls) == needs_all
    assert given_rows == BitMap([2, 3])
