"""A compiled filter: conditions under and, or, not.

`Filter.matches` is the meaning; `select` computes the same from sets of rows.  Negations are
carried upward as complements, so that a set of all rows is asked for once at most, at the root.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, reduce
from hashlib import blake2b
from operator import or_
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, TypeVar

from vecstore.filters.conditions import Condition, Contains, OneOf, Range
from vecstore.filters.values import Value, canonical, encoded


@dataclass(frozen=True, slots=True)
class And:
    """All of `parts` match; without parts everything does."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Any of `parts` matches; without parts nothing does."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """`part` does not match."""

    part: Node


_NAME_BYTES_MAX: Final = 256
Node: TypeAlias = And | Or | Not | Condition


class FilterSize(NamedTuple):
    """How large a filter is: its terms, as the limit counts them, and the bytes of its key."""

    terms: int
    bytes: int


@dataclass(frozen=True)
class Filter:
    """A checked `where` clause; immutable, and equal to a filter of the same key.

    Attributes
    ----------
    root : And, Or, Not or a condition
    terms : int
        Conditions and empty clauses, the members of `$in` and `$nin` each counted.
    """

    root: Node
    terms: int

    @cached_property
    def key(self) -> bytes:
        """Canonical bytes; one filter written in two ways may have two keys."""
        parts: list[bytes] = []
        _put_node(self.root, parts)
        return b"".join(parts)

    @cached_property
    def name(self) -> bytes:
        """What the filter is remembered by: its key, or of a long one a digest."""
        if len(self.key) <= _NAME_BYTES_MAX:
            return self.key
        return b"#" + blake2b(self.key, digest_size=32).digest()  # no key begins so

    @property
    def size(self) -> FilterSize:
        """Terms, and bytes of the key."""
        return FilterSize(self.terms, len(self.key))

    @property
    def everything(self) -> bool:
        """Whether this is the empty filter, which every row matches: `{}`, or only such parts."""
        return matches_all(self.root)

    def matches(self, metadata: dict[str, Any] | None) -> bool:
        """Tell whether a row with this metadata matches; None has no fields.

        Parameters
        ----------
        metadata : dict of JSON values, or None
        """
        return _matches(self.root, metadata or {})

    def __eq__(self, other: object) -> bool:
        return self.key == other.key if isinstance(other, Filter) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.key)


def matches_all(node: Node) -> bool:
    """Tell whether a node is an And without parts."""
    return isinstance(node, And) and not node.parts


def _matches(node: Node, metadata: dict[str, Any]) -> bool:
    if isinstance(node, And):
        return all(_matches(part, metadata) for part in node.parts)
    if isinstance(node, Or):
        return any(_matches(part, metadata) for part in node.parts)
    if isinstance(node, Not):
        return not _matches(node.part, metadata)
    return node.field in metadata and node.holds(metadata[node.field])


def _put_node(node: Node, parts: list[bytes]) -> None:
    if isinstance(node, (And, Or)):
        parts.append(b"%c%d:" % (b"&" if isinstance(node, And) else b"|", len(node.parts)))
        for part in node.parts:
            _put_node(part, parts)
        return
    if isinstance(node, Not):
        parts.append(b"!")
        _put_node(node.part, parts)
        return
    field = canonical(node.field)
    if isinstance(node, OneOf):
        values = sorted(map(encoded, node.values))
        parts += (b"=", field, b"%d:" % len(values), *values)
    elif isinstance(node, Range):
        parts += (b"<", field, _bound(node.low, node.low_open), _bound(node.high, node.high_open))
    elif isinstance(node, Contains):
        parts += (b"@", field, encoded(node.value))
    else:
        parts += (b"?", field)


def _bound(value: Value | None, is_open: bool) -> bytes:
    if value is None:
        return b"-"
    return (b"(" if is_open else b"[") + encoded(value)


class Rows(Protocol):
    """A set of rows, as `vecstore.rowsets.RowSet`."""

    def __len__(self) -> int: ...
    def __and__(self, other: Any, /) -> Any: ...
    def __sub__(self, other: Any, /) -> Any: ...
    def __or__(self, other: Any, /) -> Any: ...


Set = TypeVar("Set", bound=Rows)


def select(
    filter: Filter, leaf: Callable[[Condition], Set], universe: Callable[[], Set], nothing: Set
) -> Set:
    """Rows that a filter matches, from the rows of its conditions.

    Parameters
    ----------
    filter : Filter
    leaf : callable
        `leaf(condition)` gives the rows that satisfy one positive condition.
    universe : callable
        Gives all rows; called once, and only if the filter matches rows by what they lack.
    nothing : set
        Of no rows.

    Returns
    -------
    set of rows
        Not to be modified: it may be one that `leaf` or `universe` gave.
    """
    rows, is_complement = _select(filter.root, leaf, nothing)
    if not is_complement:
        return rows
    everything = universe()
    return everything - rows if len(rows) else everything


def _select(node: Node, leaf: Callable[[Condition], Set], nothing: Set) -> tuple[Set, bool]:
    """Rows, and whether it is all others that match."""
    if isinstance(node, Not):
        rows, is_complement = _select(node.part, leaf, nothing)
        return rows, not is_complement
    if isinstance(node, And):
        return _intersect(node.parts, leaf, nothing, False)
    if isinstance(node, Or):  # any of them: not all of their negations
        rows, is_complement = _intersect(node.parts, leaf, nothing, True)
        return rows, not is_complement
    return leaf(node), False


def _intersect(
    parts: tuple[Node, ...], leaf: Callable[[Condition], Set], nothing: Set, negated: bool
) -> tuple[Set, bool]:
    """Intersect the rows of parts, or those of their negations."""
    within: Set | None = None
    without: list[Set] = []
    for part in parts:
        rows, is_complement = _select(part, leaf, nothing)
        if is_complement != negated:
            without.append(rows)
        else:
            within = rows if within is None else within & rows
            if not len(within):
                return within, False
    outside = reduce(or_, without) if without else nothing
    if within is None:
        return outside, True
    return (within - outside if len(outside) else within), False
