"""Ids of rows: what users may pass, checked, and as LMDB keys end in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.config import ID_BYTES_MAX, INT_ID_MAX
from vecstore.errors import DuplicateIdError, InvalidArgumentError

_PIECE_IDS = 65_536


@dataclass(frozen=True)
class Ids:
    """Valid ids of one call.

    Attributes
    ----------
    values : int64 array, or list of str
    scalar : bool
        The caller passed one id, not a sequence.
    is_int : bool
    """

    values: NDArray[np.int64] | list[str]
    scalar: bool
    is_int: bool

    def __len__(self) -> int:
        """Return the number of ids."""
        return len(self.values)

    def plain(self) -> list[Any]:
        """Ids as Python objects."""
        return self.values.tolist() if isinstance(self.values, np.ndarray) else self.values

    def one(self, place: int) -> int | str:
        """Id at a place, as a Python object."""
        value = self.values[place]
        return value if isinstance(value, str) else int(value)

    def keys(self, prefix: bytes) -> Iterator[tuple[NDArray[np.int64], list[bytes]]]:
        """Places and keys, which begin with `prefix`, in the order of keys, some at a time."""
        from vecstore.layout import int_id_keys  # brings kernels, which a client does without

        order = None  # as they stand, as those of most bulk loads do
        if not isinstance(self.values, np.ndarray):
            order = np.array(sorted(range(len(self)), key=self.values.__getitem__), np.int64)
        elif not (self.values[1:] > self.values[:-1]).all():
            order = np.argsort(self.values, kind="stable")
        for start in range(0, len(self), _PIECE_IDS):
            end = min(len(self), start + _PIECE_IDS)
            places = np.arange(start, end) if order is None else order[start:end]
            if isinstance(self.values, np.ndarray):
                yield places, int_id_keys(prefix, self.values[places])
            else:
                yield places, [prefix + self.values[place].encode() for place in places.tolist()]

    def part(self, places: NDArray[np.int64]) -> Ids:
        """Take some of the ids."""
        if isinstance(self.values, np.ndarray):
            return Ids(self.values[places], False, True)
        return Ids([self.values[place] for place in places.tolist()], False, False)

    def encoded(self) -> list[bytes]:
        """Ids as they stand in keys."""
        from vecstore.layout import encode_id

        return [encode_id(value) for value in self.plain()]


def is_int(value: Any) -> bool:
    """Tell whether a value is an int of Python or numpy, and no bool."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))


def _check_id(value: Any, place: int) -> int | str:
    if isinstance(value, str):
        plain: str = str.__str__(value)  # what a subclass, such as an enum's member, holds
        try:
            size = len(plain.encode())
        except UnicodeEncodeError:
            raise InvalidArgumentError(
                f"Id number {place} ({value!r}) is not valid Unicode; ids are stored as UTF-8."
            ) from None
        if not 1 <= size <= ID_BYTES_MAX:
            raise InvalidArgumentError(
                f"Id number {place} has {size} bytes; a str id has 1 to {ID_BYTES_MAX} in UTF-8."
            )
        return plain
    if is_int(value):
        if not 0 <= int(value) <= INT_ID_MAX:
            raise InvalidArgumentError(
                f"Id number {place} is {value}; an int id lies between 0 and 2**63 - 1."
            )
        return int(value)
    raise InvalidArgumentError(
        f"Id number {place} is {value!r} ({type(value).__name__}); use str or int ids."
    )


def parse_ids(ids: Any) -> Ids:
    """Check ids: one or a sequence, all str or all int."""
    if isinstance(ids, np.ndarray) and ids.ndim == 0:
        ids = ids.item()
    if isinstance(ids, str) or is_int(ids):
        value = _check_id(ids, 0)
        if isinstance(value, int):
            return Ids(np.array([value], np.int64), True, True)
        return Ids([value], True, False)
    if isinstance(ids, np.ndarray) and ids.dtype.kind in "iu":
        if ids.ndim != 1:
            raise InvalidArgumentError(f"ids has shape {ids.shape}; pass a flat sequence.")
        wrong = np.flatnonzero((ids < 0) | (ids > INT_ID_MAX))
        if len(wrong):
            _check_id(ids[wrong[0]], int(wrong[0]))
        return Ids(ids.astype(np.int64, copy=False), False, True)
    if (
        ids is None
        or isinstance(ids, (bytes, bytearray, float, bool, dict))
        or not hasattr(ids, "__iter__")
    ):
        _check_id(ids, 0)
    plain = isinstance(ids, list) and set(map(type, ids)) == {int}
    if plain and min(ids) >= 0 and max(ids) <= INT_ID_MAX:
        return Ids(np.array(ids, np.int64), False, True)
    values = [_check_id(value, place) for place, value in enumerate(ids)]
    kinds = {type(value) for value in values}
    if len(kinds) > 1:
        raise InvalidArgumentError("ids mixes str and int; a collection has one kind of id.")
    if kinds == {int} or not values:
        return Ids(np.array(values, np.int64), False, True)
    return Ids([value for value in values if isinstance(value, str)], False, False)


def check_id_kind(ids: Ids, int_ids: bool | None, collection: str) -> None:
    """Hold the kind of ids against the collection's."""
    if int_ids is not None and len(ids) and ids.is_int != int_ids:
        have, given = ("int", "str") if int_ids else ("str", "int")
        raise InvalidArgumentError(
            f"Collection {collection!r} has {have} ids; got {given} ids ({ids.one(0)!r})."
        )


def check_unique(ids: Ids) -> None:
    """Refuse an id that occurs twice in one call."""
    if isinstance(ids.values, np.ndarray):
        ordered = np.sort(ids.values)
        twice = ordered[:-1][ordered[1:] == ordered[:-1]]
        repeated: Any = int(twice[0]) if len(twice) else None
    else:
        seen: set[str] = set()
        repeated = None
        if len(set(ids.values)) < len(ids.values):
            for value in ids.values:
                if value in seen:
                    repeated = value
                    break
                seen.add(value)
    if repeated is not None:
        raise DuplicateIdError(
            f"Id {repeated!r} occurs twice in one call; pass each id once. Nothing was written."
        )
