"""JSON values as filters see them: their kinds, when two are equal, which comes first.

Equality is that of JSON: kinds never mix (True is not 1, null is not absent), numbers are equal
by value (1 and 1.0), lists item by item, objects whatever the order of their keys.  Order exists
within numbers and within strings (by code point, which is also the order of their UTF-8 bytes).

Values are plain JSON as metadata is stored: finite numbers, str without lone surrogates, nested
no deeper than `config.METADATA_DEPTH_MAX`.
"""

from __future__ import annotations

import math
import struct
from enum import IntEnum
from typing import Any, Final, NamedTuple


class ValueKind(IntEnum):
    """Types of JSON; values of different kinds never compare.  The number is stored."""

    NULL = 1
    BOOL = 2
    NUMBER = 3
    STRING = 4
    LIST = 5
    DICT = 6


_KINDS: Final = {
    type(None): ValueKind.NULL,
    bool: ValueKind.BOOL,
    int: ValueKind.NUMBER,
    float: ValueKind.NUMBER,
    str: ValueKind.STRING,
    list: ValueKind.LIST,
    dict: ValueKind.DICT,
}


class Value(NamedTuple):
    """A JSON value that can be compared and hashed.

    Attributes
    ----------
    kind : ValueKind
    payload : None, bool, int, float, str, or bytes
        The value itself; for lists and objects their canonical encoding.
    """

    kind: ValueKind
    payload: Any


def kind_of(value: Any) -> ValueKind:
    """Kind of a JSON value."""
    kind = _KINDS.get(type(value))
    if kind is not None:
        return kind
    # Metadata that was never stored may hold subclasses of containers.
    assert isinstance(value, (list, dict)), f"{type(value).__name__} is no JSON value"
    return ValueKind.LIST if isinstance(value, list) else ValueKind.DICT


def value_of(value: Any) -> Value:
    """Make a JSON value comparable."""
    kind = kind_of(value)
    return Value(kind, canonical(value) if kind >= ValueKind.LIST else value)


_FLOAT: Final = struct.Struct("<d")


def canonical(value: Any) -> bytes:
    """Encode a JSON value so that equal values, and no others, have equal bytes."""
    parts: list[bytes] = []
    _encode(value, parts)
    return b"".join(parts)


def _encode(value: Any, parts: list[bytes]) -> None:
    kind = kind_of(value)
    if kind == ValueKind.STRING:
        raw = value.encode()
        parts += (b"s%d:" % len(raw), raw)
    elif kind == ValueKind.NUMBER:
        if type(value) is float and not value.is_integer():
            parts += (b"d", _FLOAT.pack(value))
        else:
            parts.append(b"i%x:" % int(value))
    elif kind == ValueKind.LIST:
        parts.append(b"[%d:" % len(value))
        for item in value:
            _encode(item, parts)
    elif kind == ValueKind.DICT:
        parts.append(b"{%d:" % len(value))
        for key in sorted(value):
            _encode(key, parts)
            _encode(value[key], parts)
    elif kind == ValueKind.BOOL:
        parts.append(b"t" if value else b"f")
    else:
        parts.append(b"n")


def encoded(value: Value) -> bytes:
    """Canonical encoding of a comparable value."""
    if value.kind >= ValueKind.LIST:
        return bytes(value.payload)
    return canonical(value.payload)


REST_MAX: Final = 2_048
"""Whatever `split_number` leaves over of a 64-bit int is smaller than this."""


def split_number(value: float) -> tuple[float, int]:
    """Split a number into the nearest float64 and what that leaves over.

    Rounding to the nearest is monotone, so pairs are in the order of their numbers, and two
    numbers are equal if and only if their pairs are.  An int beyond the range of float64 gives an
    infinity; a rest is cut off at `REST_MAX`, which only an int of more than 64 bits reaches.
    """
    if type(value) is float:
        return value + 0.0, 0  # -0.0 becomes 0.0
    try:
        near = float(value)
    except OverflowError:
        return (math.inf if value > 0 else -math.inf), 0
    rest = int(value) - int(near)
    return near, max(-REST_MAX, min(REST_MAX, rest))
