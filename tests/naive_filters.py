"""The oracle of metadata filters: a `where` clause interpreted as it stands, value by value.

Nothing here shares code with the engine, and nothing is compiled: the clause is walked anew for
each row. Numbers are compared as fractions, which are exact.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

ABSENT = object()


def kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    return {str: "string", list: "list", tuple: "list", dict: "object"}[type(value)]


def equal(a: Any, b: Any) -> bool:
    """JSON equality."""
    if kind(a) != kind(b):
        return False
    if kind(a) == "number":
        return Fraction(a) == Fraction(b)
    if kind(a) == "list":
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    if kind(a) == "object":
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return bool(a == b)


def sign(a: Any, b: Any) -> int | None:
    """-1, 0 or 1 as a is before, at or after b; None if they have no order."""
    if kind(a) == kind(b) == "number":
        x, y = Fraction(a), Fraction(b)
        return (x > y) - (x < y)
    if kind(a) == kind(b) == "string":
        points_a, points_b = [*map(ord, a)], [*map(ord, b)]
        return (points_a > points_b) - (points_a < points_b)
    return None


def operator_holds(name: str, value: Any, operand: Any) -> bool:
    """One operator on one value, which may be ABSENT."""
    there = value is not ABSENT
    if name == "$eq":
        return there and equal(value, operand)
    if name == "$ne":
        return not (there and equal(value, operand))
    if name == "$in":
        return there and any(equal(value, member) for member in operand)
    if name == "$nin":
        return not (there and any(equal(value, member) for member in operand))
    if name == "$exists":
        return there == operand
    if name == "$not":
        return not all(operator_holds(inner, value, x) for inner, x in operand.items())
    if not there:
        return False
    if name == "$contains":
        if kind(value) == "list":
            return any(equal(member, operand) for member in value)
        return kind(value) == kind(operand) == "string" and operand in value
    order = sign(value, operand)
    if order is None:
        return False
    return {"$gt": order > 0, "$gte": order >= 0, "$lt": order < 0, "$lte": order <= 0}[name]


def holds(where: dict[str, Any], metadata: dict[str, Any] | None) -> bool:
    """Whether a row with this metadata matches."""
    fields = metadata if metadata is not None else {}
    for key, operand in where.items():
        if key == "$and":
            good = all(holds(part, fields) for part in operand)
        elif key == "$or":
            good = any(holds(part, fields) for part in operand)
        elif key == "$not":
            good = not holds(operand, fields)
        else:
            value = fields.get(key, ABSENT)
            operators = operand if isinstance(operand, dict) else {"$eq": operand}
            good = all(operator_holds(name, value, x) for name, x in operators.items())
        if not good:
            return False
    return True
