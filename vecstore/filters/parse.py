"""Checking a `where` clause and compiling it.

Anything may be passed: values nested without end, lists within themselves, subclasses whose methods
lie.  So types are taken exactly, containers are copied before they are looked at, depth is counted
going down, and whatever was refused is described without calling its methods.

Choices that the grammar leaves open:

* `{"a": v}` means `$eq` for any v but a dict; a dict holds operators (`$eq` compares with objects).
* `$eq`, `$ne`, `$in`, `$nin`, `$contains` compare with any JSON value, null, lists and objects too.
* `$ne` and `$nin` are the negations of `$eq` and `$in`: rows without the field match, and rows
  whose value has another type.
* Ordering takes a number or a string; bool and null are accepted, and nothing compares with them.
* `$in` of nothing matches nothing, `$nin` of nothing everything; `$and` and `$or` need parts.
* `$not` may also stand in a field's dict, around operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from vecstore.config import (
    FILTER_BYTES_MAX,
    FILTER_DEPTH_MAX,
    FILTER_TERMS_MAX,
    METADATA_DEPTH_MAX,
)
from vecstore.errors import FilterError
from vecstore.filters.conditions import Contains, Exists, OneOf, Range
from vecstore.filters.tree import And, Filter, Node, Not, Or, matches_all
from vecstore.filters.values import Value, ValueKind, value_of

_SHOWN: Final = 60
_VALUE_BYTES: Final = 16
_LOGIC: Final = ("$and", "$or", "$not")
_ORDERED: Final = (ValueKind.NUMBER, ValueKind.STRING)


def parse_where(where: Any) -> Filter:
    """Check a `where` clause and compile it.

    Parameters
    ----------
    where : dict
        As in `{"lang": "en", "year": {"$gte": 2020, "$lt": 2024}}`; `{}` matches every row.

    Raises
    ------
    FilterError
        Unknown operators, wrong shapes, operands that are no JSON values, more than
        `FILTER_DEPTH_MAX` levels, `FILTER_TERMS_MAX` terms or `FILTER_BYTES_MAX` bytes.
    """
    parser = _Parser()
    root = parser.clause(where, 1)
    return Filter(root, parser.terms)


def _shown(value: Any) -> str:
    """Describe a value in a message, whatever it is."""
    kind = type(value)
    if kind is str:
        cut = value if len(value) <= _SHOWN else value[:_SHOWN]
        return repr(cut) + ("…" if cut is not value else "")
    if kind is int and value.bit_length() > 256:
        return f"an int of {value.bit_length()} bits"
    if kind in (int, float, bool, type(None)):
        return repr(value)
    name = type.__getattribute__(kind, "__name__")
    is_empty = kind in (dict, list, tuple) and not value
    return f"an empty {name}" if is_empty else f"of type {name}"


class _Parser:
    """One pass over a clause, with the counts that its limits need."""

    def __init__(self) -> None:
        self.terms = 0
        self._bytes = 0

    def _count(self, terms: int) -> None:
        self.terms += terms
        if self.terms > FILTER_TERMS_MAX:
            raise FilterError(
                f"where has more than {FILTER_TERMS_MAX} terms, members of $in and $nin counted; "
                f"split it into several calls."
            )

    def _spend(self, size: int) -> None:
        self._bytes += size
        if self._bytes > FILTER_BYTES_MAX:
            raise FilterError(
                f"where has more than {FILTER_BYTES_MAX} bytes of names and values; "
                f"use shorter ones."
            )

    def clause(self, where: Any, depth: int) -> Node:
        """Compile a dict of fields and logical operators."""
        if type(where) is not dict:
            raise FilterError(
                f"where, or a clause in it, is {_shown(where)}; "
                f'use a plain dict such as {{"lang": "en"}}.'
            )
        if depth > FILTER_DEPTH_MAX:
            raise FilterError(
                f"where is nested deeper than {FILTER_DEPTH_MAX} levels; write a flatter one."
            )
        items = tuple(where.items())
        if not items and depth > 1:
            self._count(1)
        return _all([self._entry(key, value, depth) for key, value in items])

    def _entry(self, key: Any, value: Any, depth: int) -> Node:
        name = self._name(key)
        if name == "$not":
            return Not(self.clause(value, depth + 1))
        if name in _LOGIC:
            if type(value) not in (list, tuple) or not value:
                raise FilterError(
                    f"{name} is {_shown(value)}; give it a list of at least one clause."
                )
            parts = [self.clause(part, depth + 1) for part in tuple(value)]
            return _all(parts) if name == "$and" else _any(parts)
        if name.startswith("$"):
            raise FilterError(
                f"where has the unknown operator {_shown(name)} in place of a field; known there "
                f"are {', '.join(_LOGIC)}, and names of fields do not begin with $."
            )
        if type(value) is dict:
            return self._operators(name, value, depth)
        return self._equal("$eq", name, value)

    def _name(self, key: Any) -> str:
        if type(key) is not str:
            raise FilterError(f"where has a key that is {_shown(key)}; keys are plain str.")
        self._spend(_utf8_bytes(key) + _VALUE_BYTES)
        return key

    def _operators(self, field: str, operators: dict[Any, Any], depth: int) -> Node:
        """Compile the dict of one field: all of its operators hold."""
        if depth > FILTER_DEPTH_MAX:
            raise FilterError(
                f"where is nested deeper than {FILTER_DEPTH_MAX} levels; write a flatter one."
            )
        items = tuple(operators.items())
        if not items:
            raise FilterError(
                f"Field {_shown(field)} has an empty dict; give it an operator, or compare with "
                f'an empty object by {{"$eq": {{}}}}.'
            )
        parts: list[Node] = []
        for key, operand in items:
            name = self._name(key)
            if name == "$not":
                if type(operand) is not dict:
                    raise FilterError(
                        f"$not of field {_shown(field)} is {_shown(operand)}; give it a dict of "
                        f"operators."
                    )
                parts.append(Not(self._operators(field, operand, depth + 1)))
                continue
            compile_one = _OPERATORS.get(name)
            if compile_one is None:
                raise FilterError(
                    f"Field {_shown(field)} has the unknown operator {_shown(name)}; known are "
                    f"{', '.join([*_OPERATORS, '$not'])} (compare with an object by $eq)."
                )
            parts.append(compile_one(self, name, field, operand))
        return _all(_fused(parts))

    def _equal(self, name: str, field: str, operand: Any) -> Node:
        self._count(1)
        condition = OneOf(field, (self._value(name, field, operand),))
        return Not(condition) if name == "$ne" else condition

    def _member(self, name: str, field: str, operand: Any) -> Node:
        if type(operand) not in (list, tuple):
            raise FilterError(
                f"{name} of field {_shown(field)} is {_shown(operand)}; give it a list of values."
            )
        members = tuple(operand)
        self._count(max(1, len(members)))
        values = dict.fromkeys(self._value(name, field, member) for member in members)
        condition = OneOf(field, tuple(values))
        return Not(condition) if name == "$nin" else condition

    def _order(self, name: str, field: str, operand: Any) -> Node:
        self._count(1)
        if type(operand) in (list, tuple, dict):
            raise FilterError(
                f"{name} of field {_shown(field)} is {_shown(operand)}; lists and objects have no "
                f"order, give it a number or a str."
            )
        value = self._value(name, field, operand)
        if value.kind not in _ORDERED:
            return Or(())
        is_open = name in ("$gt", "$lt")
        if name in ("$gt", "$gte"):
            return Range(field, value, None, low_open=is_open)
        return Range(field, None, value, high_open=is_open)

    def _exists(self, name: str, field: str, operand: Any) -> Node:
        self._count(1)
        if type(operand) is not bool:
            raise FilterError(
                f"{name} of field {_shown(field)} is {_shown(operand)}; use True or False."
            )
        return Exists(field) if operand else Not(Exists(field))

    def _contains(self, name: str, field: str, operand: Any) -> Node:
        self._count(1)
        return Contains(field, self._value(name, field, operand))

    def _value(self, name: str, field: str, operand: Any) -> Value:
        return value_of(self._copy(operand, f"{name} of field {_shown(field)}", 1))

    def _copy(self, value: Any, what: str, depth: int) -> Any:
        """Copy a JSON value into plain ones, all of them checked."""
        kind = type(value)
        self._spend(_VALUE_BYTES)
        if value is None or kind is bool:
            return value
        if kind is str:
            self._spend(_utf8_bytes(value))
            return value
        if kind is int:
            self._spend(value.bit_length() // 8)
            return value
        if kind is float:
            if not math.isfinite(value):
                raise FilterError(f"{what} is {value!r}, which JSON lacks; use a finite number.")
            return value
        if kind not in (list, tuple, dict):
            raise FilterError(
                f"{what} is {_shown(value)}; use plain JSON values (str, int, float, bool, None, "
                f"list, dict)."
            )
        if depth > METADATA_DEPTH_MAX:
            raise FilterError(
                f"{what} is nested deeper than {METADATA_DEPTH_MAX} levels, which no metadata is; "
                f"use a flatter value."
            )
        if kind is not dict:
            return [self._copy(item, what, depth + 1) for item in tuple(value)]
        copy = {}
        for key, item in tuple(value.items()):
            if type(key) is not str:
                raise FilterError(f"{what} has a key that is {_shown(key)}; keys are plain str.")
            self._spend(_utf8_bytes(key))
            copy[key] = self._copy(item, what, depth + 1)
        return copy


_OPERATORS: Final[dict[str, Callable[[_Parser, str, str, Any], Node]]] = {
    "$eq": _Parser._equal,
    "$ne": _Parser._equal,
    "$gt": _Parser._order,
    "$gte": _Parser._order,
    "$lt": _Parser._order,
    "$lte": _Parser._order,
    "$in": _Parser._member,
    "$nin": _Parser._member,
    "$exists": _Parser._exists,
    "$contains": _Parser._contains,
}


def _utf8_bytes(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise FilterError(
            f"where has the str {_shown(text)}, which is not valid Unicode; no metadata has it."
        ) from None


def _all(parts: list[Node]) -> Node:
    """Join by and; parts that match everything are left out."""
    kept = [part for part in parts if not matches_all(part)]
    return kept[0] if len(kept) == 1 else And(tuple(kept))


def _any(parts: list[Node]) -> Node:
    """Join by or; a part that matches everything makes the whole do so."""
    if any(map(matches_all, parts)):
        return And(())
    return parts[0] if len(parts) == 1 else Or(tuple(parts))


def _fused(parts: list[Node]) -> list[Node]:
    """Join one lower and one upper bound of a kind into one range, which is one look-up."""
    if len(parts) < 2:
        return parts
    lows = [part for part in parts if isinstance(part, Range) and part.low is not None]
    highs = [part for part in parts if isinstance(part, Range) and part.high is not None]
    if len(lows) != 1 or len(highs) != 1 or lows[0].kind != highs[0].kind:
        return parts
    (low,), (high,) = lows, highs
    both = Range(low.field, low.low, high.high, low.low_open, high.high_open)
    return [*(part for part in parts if part is not low and part is not high), both]
