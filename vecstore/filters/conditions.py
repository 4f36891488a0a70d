"""Positive conditions on one field: what the leaves of a filter are.

Each says of one stored value whether it holds; on a row without the field none does.  Fields are
the plain top-level keys of metadata, with no meaning given to dots.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeAlias

from vecstore.filters.values import Value, ValueKind, kind_of, value_of


@dataclass(frozen=True, slots=True)
class OneOf:
    """The value equals one of `values`: `$eq`, `$in`; negated `$ne`, `$nin`."""

    field: str
    values: tuple[Value, ...]
    _lookup: frozenset[Value] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_lookup", frozenset(self.values))

    def holds(self, value: Any) -> bool:
        """Tell whether the condition holds for a field's value."""
        return value_of(value) in self._lookup


@dataclass(frozen=True, slots=True)
class Range:
    """The value lies within bounds of its own kind: `$gt`, `$gte`, `$lt`, `$lte`.

    Attributes
    ----------
    field : str
    low, high : Value or None
        Both numbers or both strings; None for no bound.  At least one is there.
    low_open, high_open : bool
        The bound itself is outside.
    """

    field: str
    low: Value | None
    high: Value | None
    low_open: bool = False
    high_open: bool = False

    @property
    def kind(self) -> ValueKind:
        """NUMBER or STRING."""
        bound = self.high if self.low is None else self.low
        assert bound is not None
        return bound.kind

    def holds(self, value: Any) -> bool:
        """Tell whether the condition holds for a field's value."""
        if kind_of(value) != self.kind:
            return False
        if self.low is not None:
            low = self.low.payload
            if value < low or (self.low_open and value == low):
                return False
        if self.high is not None:
            high = self.high.payload
            if value > high or (self.high_open and value == high):
                return False
        return True


@dataclass(frozen=True, slots=True)
class Exists:
    """The row has the field, be it null: `$exists`."""

    field: str

    def holds(self, value: Any) -> bool:
        """Tell whether the condition holds for a field's value."""
        return True


@dataclass(frozen=True, slots=True)
class Contains:
    """The value is a list with this member, or a string with this substring: `$contains`."""

    field: str
    value: Value

    def holds(self, value: Any) -> bool:
        """Tell whether the condition holds for a field's value."""
        kind = kind_of(value)
        if kind == ValueKind.LIST:
            return any(value_of(member) == self.value for member in value)
        if kind == ValueKind.STRING and self.value.kind == ValueKind.STRING:
            return self.value.payload in value
        return False


Condition: TypeAlias = OneOf | Range | Exists | Contains
