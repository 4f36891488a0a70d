"""Metadata filters: `where` clauses parsed, matched against metadata, evaluated with row sets.

`parse_where` checks and compiles a clause; `Filter.matches` says what it means; `select` gives
the same answer from sets of rows, wherever an index can produce them.
"""

from vecstore.filters.conditions import Condition, Contains, Exists, OneOf, Range
from vecstore.filters.parse import parse_where
from vecstore.filters.tree import Filter, FilterSize, select
from vecstore.filters.values import Value, ValueKind, split_number, value_of

__all__ = [
    "Condition",
    "Contains",
    "Exists",
    "Filter",
    "FilterSize",
    "OneOf",
    "Range",
    "Value",
    "ValueKind",
    "parse_where",
    "select",
    "split_number",
    "value_of",
]
