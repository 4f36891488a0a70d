"""One column of the metadata index: the values of one type that one field has, and their rows.

A column is made by `ColumnBuilder` and read by `Column`; both sides of its bytes are here.  It
holds the distinct values in order, and for each an ascending slice of row numbers, so equality and
ranges are binary searches that end in one slice.  Parts start at multiples of 8 bytes:

numbers  near f64[distinct] | rest i16[distinct], if any is not 0 | starts | rows
texts    ends u64[distinct] | text u8[text]                       | starts | rows

starts   u32[distinct + 1], of each value's rows
rows     u32[entries]

A number is near + rest (`filters.split_number`), so 64-bit ints keep their order and identity;
null and the two bools are stored as 0 and 1.  Texts are UTF-8, or canonical encodings of lists
and objects; each is followed by a byte 0xFF, which UTF-8 never holds, so that no substring is found
across two of them.

Invariants
----------
* Distinct values are strictly ascending, and so are the rows of each.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from vecstore.filters import Range, Value, ValueKind, split_number

U8 = NDArray[np.uint8]
U32 = NDArray[np.uint32]
I64 = NDArray[np.int64]

COLUMN_DTYPE: Final = np.dtype(
    [
        ("key", "<u8"),  # 16 * place of the field among the tenant's + slot
        ("distinct", "<u8"),
        ("entries", "<u8"),
        ("text", "<u8"),  # bytes of all texts, 0 for numbers
        ("offset", "<u8"),  # from the start of the tenant's bytes
        ("has_rest", "<u4"),
        ("pad", "<u4"),
    ]
)
assert COLUMN_DTYPE.itemsize == 48

MEMBER: Final = 8
"""Added to a kind: the values are members of lists.  Kind, or kind + MEMBER, is a slot."""
SLOTS: Final = 16
ALIGN: Final = 8
SEPARATOR: Final = b"\xff"
_NUMERIC: Final = (ValueKind.NULL, ValueKind.BOOL, ValueKind.NUMBER)


def is_numeric(slot: int) -> bool:
    """Tell whether a slot's column holds numbers."""
    return slot % MEMBER in _NUMERIC


def as_number(value: Value) -> tuple[float, int]:
    """Pair under which null, a bool or a number is stored."""
    if value.kind == ValueKind.NUMBER:
        return split_number(value.payload)
    return float(bool(value.payload)), 0


def as_text(value: Value) -> bytes:
    """Bytes under which a string, list or object is stored."""
    payload = value.payload
    return payload.encode() if value.kind == ValueKind.STRING else bytes(payload)


def pack_texts(texts: list[bytes]) -> tuple[NDArray[np.uint64], bytes]:
    """Ends of texts, and the texts, each with a separator behind it."""
    lengths = np.fromiter(map(len, texts), np.uint64, len(texts))
    ends = np.cumsum(lengths + np.uint64(1), dtype=np.uint64) - np.uint64(1)
    return ends, b"".join(part for text in texts for part in (text, SEPARATOR))


class Texts:
    """Sorted texts as `pack_texts` lays them out; a sequence of bytes."""

    def __init__(self, ends: NDArray[np.uint64], text: U8) -> None:
        self.ends = ends
        self.text = text
        self._memory = text.data

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, place: int) -> bytes:
        if place >= len(self.ends):
            raise IndexError(place)
        start = int(self.ends[place - 1]) + 1 if place else 0
        return bytes(self._memory[start : int(self.ends[place])])

    def find(self, text: bytes) -> int:
        """Place of a text, or -1."""
        place = bisect_left(self, text)
        return place if place < len(self) and self[place] == text else -1

    def containing(self, part: bytes) -> I64:
        """Places of the texts that contain `part`, ascending."""
        if not part:
            return np.arange(len(self))
        # Runs on to the end of the text, so that each is found once.
        pattern = re.compile(re.escape(part) + b"[^\xff]*")
        starts = [match.start() for match in pattern.finditer(self._memory)]
        return np.searchsorted(self.ends, np.array(starts, np.uint64)).astype(np.int64)


class ColumnBuilder:
    """Gathers values and rows of one column, then lays them out."""

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self._rows = array("I")
        self._near = array("d")
        self._rest: dict[int, int] = {}
        self._codes: dict[Any, int] = {}
        self._coded = array("I")
        self.add = self._add_number if is_numeric(slot) else self._add_text

    def _add_number(self, row: int, value: Value) -> None:
        near, rest = as_number(value)
        if rest:
            self._rest[len(self._rows)] = rest
        self._near.append(near)
        self._rows.append(row)

    def _add_text(self, row: int, value: Value) -> None:
        self._coded.append(self._codes.setdefault(value.payload, len(self._codes)))
        self._rows.append(row)

    def finish(self) -> tuple[dict[str, int], list[Any]]:
        """Lay the column out.

        Returns
        -------
        figures : dict
            Fields of `COLUMN_DTYPE` but key and offset.
        parts : list of arrays or bytes
            In order; each is to start at a multiple of `ALIGN`.
        """
        rows: U32 = np.frombuffer(self._rows, np.uint32)
        assert len(rows) < 2**32, "row numbers of one column do not fit 32-bit starts"
        if is_numeric(self.slot):
            return self._finish_numbers(rows)
        return self._finish_texts(rows)

    def _finish_numbers(self, rows: U32) -> tuple[dict[str, int], list[Any]]:
        near = np.frombuffer(self._near, np.float64)
        rest = np.zeros(len(near), np.int16)
        for place, value in self._rest.items():
            rest[place] = value
        order = np.lexsort((rows, rest, near) if self._rest else (rows, near))
        near, rest = near[order], rest[order]
        first = np.flatnonzero(
            np.concatenate([[True], (near[1:] != near[:-1]) | (rest[1:] != rest[:-1])])
        )
        parts = [near[first], *([rest[first]] if self._rest else [])]
        figures = {
            "distinct": len(first),
            "entries": len(rows),
            "text": 0,
            "has_rest": int(bool(self._rest)),
        }
        return figures, [*parts, _starts(first, len(rows)), rows[order]]

    def _finish_texts(self, rows: U32) -> tuple[dict[str, int], list[Any]]:
        payloads = sorted(self._codes)  # str by code point, which is the order of UTF-8
        rank = np.empty(len(payloads), np.uint32)
        rank[[self._codes[payload] for payload in payloads]] = np.arange(len(payloads))
        ranks = rank[np.frombuffer(self._coded, np.uint32)]
        order = np.lexsort((rows, ranks))
        first = np.searchsorted(ranks[order], np.arange(len(payloads)))
        kind = ValueKind(self.slot % MEMBER)
        ends, text = pack_texts([as_text(Value(kind, payload)) for payload in payloads])
        figures = {
            "distinct": len(payloads),
            "entries": len(rows),
            "text": len(text),
            "has_rest": 0,
        }
        return figures, [ends, text, _starts(first, len(rows)), rows[order]]


def _starts(first: I64, entries: int) -> U32:
    return np.append(first, entries).astype(np.uint32)


class Column:
    """One column over a tenant's bytes; nothing is copied."""

    def __init__(self, data: U8, entry: Any) -> None:
        """Take the column apart.

        Parameters
        ----------
        data : uint8
            All bytes of the tenant, at an address that is a multiple of `ALIGN`.
        entry : COLUMN_DTYPE scalar
        """
        key, distinct, entries, text, self._at, has_rest, _ = entry.item()
        self.slot = key % SLOTS
        self.rest: NDArray[np.int16] | None = None
        if is_numeric(self.slot):
            self.near = self._take(data, np.float64, distinct)
            if has_rest:
                self.rest = self._take(data, np.int16, distinct)
        else:
            ends = self._take(data, np.uint64, distinct)
            self.texts = Texts(ends, self._take(data, np.uint8, text))
        self.starts: U32 = self._take(data, np.uint32, distinct + 1)
        self.rows: U32 = self._take(data, np.uint32, entries)

    def _take(self, data: U8, dtype: Any, count: int) -> NDArray[Any]:
        size = np.dtype(dtype).itemsize * count
        part: NDArray[Any] = data[self._at : self._at + size].view(dtype)
        self._at += -(-size // ALIGN) * ALIGN
        return part

    def find(self, value: Value) -> U32:
        """Rows with exactly this value, which is of the column's kind; ascending."""
        if is_numeric(self.slot):
            pair = as_number(value)
            return self._slice(self._place(pair, False), self._place(pair, True))
        place = self.texts.find(as_text(value))
        return self._slice(place, place + 1) if place >= 0 else self.rows[:0]

    def within(self, bounds: Range) -> U32:
        """Rows whose value lies in a range of the column's kind, in the order of values."""
        first, end = 0, len(self.starts) - 1
        if bounds.low is not None:
            first = self._bound(bounds.low, bounds.low_open)
        if bounds.high is not None:
            end = self._bound(bounds.high, not bounds.high_open)
        return self._slice(first, end)

    def containing(self, part: bytes) -> U32:
        """Rows whose text contains `part`."""
        places = self.texts.containing(part)
        starts = self.starts[places].astype(np.int64)
        counts = self.starts[places + 1] - starts
        before = np.cumsum(counts) - counts
        taken = np.repeat(starts - before, counts) + np.arange(int(counts.sum()))
        return self.rows[taken]

    def values(self) -> Iterator[tuple[Value, U32]]:
        """Every distinct value with its rows; texts of lists and objects stay encoded."""
        kind = ValueKind(self.slot % MEMBER)
        for place in range(len(self.starts) - 1):
            yield Value(kind, self._payload(kind, place)), self._slice(place, place + 1)

    def _payload(self, kind: ValueKind, place: int) -> Any:
        if kind == ValueKind.STRING:
            return self.texts[place].decode()
        if not is_numeric(self.slot):
            return self.texts[place]
        near = float(self.near[place])
        if kind == ValueKind.NUMBER:
            rest = 0 if self.rest is None else int(self.rest[place])
            return int(near) + rest if rest else near
        return bool(near) if kind == ValueKind.BOOL else None

    def _slice(self, first: int, end: int) -> U32:
        return self.rows[int(self.starts[first]) : int(self.starts[end])]

    def _bound(self, value: Value, after: bool) -> int:
        """Number of distinct values before `value`; with `after`, before it or equal."""
        if is_numeric(self.slot):
            return self._place(as_number(value), after)
        search = bisect_right if after else bisect_left
        return search(self.texts, as_text(value))

    def _place(self, pair: tuple[float, int], after: bool) -> int:
        near, rest = pair
        side: Literal["left", "right"] = "right" if after else "left"
        if self.rest is None:  # all are 0
            if rest:
                side = "right" if rest > 0 else "left"
            return int(self.near.searchsorted(near, side))
        low, high = self.near.searchsorted(near, "left"), self.near.searchsorted(near, "right")
        return int(low + self.rest[low:high].searchsorted(np.int16(rest), side))
