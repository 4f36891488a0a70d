"""Transactions of LMDB, and the checksum of every entry: the only way to the facts.

LMDB's 0.9 format has no checksums of pages.  So every entry ends in one of its key and payload,
added here when it is put and looked at when it is read; nothing else in vecstore sees it.  A broken
key is found when something is looked for in its place: what lies about that place must be in order
and sound, or nobody is told that nothing is there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise, repeat
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from numpy.typing import NDArray

from vecstore import layout
from vecstore.disk_errors import explain
from vecstore.errors import CorruptionError
from vecstore.layout import BULK_KEYS_MIN, SUM_BYTES, Kind, entry_sum, entry_sums
from vecstore.yielding import yielding

_NO_ROW = layout.U32.pack(layout.NO_ROW)
_ABSENT = _NO_ROW + bytes(SUM_BYTES)


class Transaction:
    """The facts as one transaction of LMDB sees them.

    Every method raises CorruptionError when what it reads is damaged, as far as that can be seen.

    Parameters
    ----------
    raw : lmdb.Transaction
        Or what reads like one.
    path : Path
        Of the store, for messages.
    """

    __slots__ = ("path", "raw")

    def __init__(self, raw: Any, path: Path) -> None:
        self.raw = raw
        self.path = path

    def id(self) -> int:
        """Number of the transaction."""
        number: int = self.raw.id()
        return number

    def abort(self) -> None:
        """End reading, or undo what was written; may be repeated."""
        self.raw.abort()

    # --- reading ---------------------------------------------------------------------------

    def get(self, key: bytes, within: bytes | None = None) -> bytes | None:
        """Payload under a key; None when there is no such key.

        Parameters
        ----------
        key : bytes
        within : bytes, optional
            How keys begin whose entries may be looked at to make sure that the key is missing.
        """
        try:
            stored: bytes | None = self.raw.get(key)
        except lmdb.Error as error:
            raise explain(error, self.path) from error
        if stored is None:
            if within is not None:
                self.confirm_missing(key, within)
            return None
        payload = stored[:-SUM_BYTES]
        if entry_sum(key, payload) != stored[-SUM_BYTES:]:
            raise self.damage(key)
        return payload

    def rows(
        self, keys: Sequence[bytes], within: bytes, *, alike: bool = False
    ) -> NDArray[np.uint32]:
        """Rows that ids of one owner lead to, NO_ROW where there is no such key.

        Parameters
        ----------
        keys : sequence of bytes
            In order.
        within : bytes
            As for `get`.
        alike : bool
            Keys are of one length.
        """
        if len(keys) < BULK_KEYS_MIN:
            heads = b"".join([self.get(key, within) or _NO_ROW for key in keys])
            return np.frombuffer(heads, ">u4").astype(np.uint32)
        try:
            values = list(map(self.raw.get, yielding(keys), repeat(_ABSENT)))
        except lmdb.Error as error:
            raise explain(error, self.path) from error
        joined = b"".join(values)
        if len(joined) != len(_ABSENT) * len(keys):
            raise self.damage(
                next(k for k, v in zip(keys, values, strict=True) if len(v) != len(_ABSENT))
            )
        pairs = np.frombuffer(joined, ">u4").reshape(len(keys), 2)
        rows: NDArray[np.uint32] = pairs[:, 0].astype(np.uint32)
        wrong = entry_sums(keys, pairs[:, 0].tobytes(), alike=alike) != pairs[:, 1]
        if wrong.any():
            gap_end: bytes | None = b""
            for place in np.flatnonzero(wrong).tolist():
                if values[place] is not _ABSENT:
                    raise self.damage(keys[place])
                if gap_end is not None and keys[place] >= gap_end:
                    gap_end = self.confirm_missing(keys[place], within)
        return rows

    def scan(self, prefix: bytes, start: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Walk all keys with a prefix, and their payloads; nothing may be written meanwhile.

        Parameters
        ----------
        prefix : bytes
        start : bytes, optional
            The first key wanted.
        """
        for key, stored in self._stored(prefix, start):
            payload = stored[:-SUM_BYTES]
            if entry_sum(key, payload) != stored[-SUM_BYTES:]:
                raise self.damage(key)
            yield key, payload

    def _stored(self, prefix: bytes, start: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        try:
            cursor = self.raw.cursor()
            if cursor.set_range(start or prefix):
                for key, stored in cursor:
                    if not key.startswith(prefix):
                        return
                    yield key, stored
        except lmdb.Error as error:
            raise explain(error, self.path) from error

    def damaged(self, prefix: bytes) -> Iterator[bytes]:
        """Walk all keys with a prefix; those whose entries do not match their checksums."""
        for key, stored in self._stored(prefix):
            if not _sound(key, stored):
                yield key

    def confirm_missing(self, key: bytes, within: bytes) -> bytes | None:
        """Raise when a key that was not found may be one that is broken.

        The keys about its place must be in order, and the entries of those that begin with `within`
        sound.  Others are not read: they may be another tenant's.

        Returns
        -------
        bytes or None
            The next key, before which all keys are missing; None when there is none.
        """
        cursor = self.raw.cursor()
        try:
            after = self._look(cursor, within, cursor.set_range(key), cursor.next)
            there = cursor.prev() if cursor.set_range(key) else cursor.last()
            before = self._look(cursor, within, there, cursor.prev)
        except lmdb.Error as error:
            raise explain(error, self.path) from error
        around = [*reversed(before), key, *after]
        if any(one >= other for one, other in pairwise(around)):
            raise CorruptionError(
                f"The facts of {self.path} are damaged (keys about the {describe(key)} are out of "
                f"order); restore a backup."
            )
        return after[0] if after else None

    def _look(self, cursor: Any, within: bytes, there: bool, on: Any) -> list[bytes]:
        """Keys on one side of a place: the nearest, and one more if that is not to be read."""
        if not there:
            return []
        near = cursor.key()
        if not near.startswith(within):
            return [near, cursor.key()] if on() else [near]
        if not _sound(near, cursor.value()):
            raise self.damage(near)
        return [near]

    def damage(self, key: bytes) -> CorruptionError:
        """Build the error for an entry that does not match its checksum."""
        name = self._collection(key)
        where = f"collection {name!r}" if name else str(self.path)
        return CorruptionError(
            f"The {describe(key)} in the facts of {where} does not match its checksum; restore a "
            f"backup.",
            collection=name,
        )

    def lack(self, key: bytes) -> CorruptionError:
        """Build the error for an entry that must be there."""
        name = self._collection(key)
        where = f"collection {name!r}" if name else str(self.path)
        return CorruptionError(
            f"The facts of {where} lack the {describe(key)}; restore a backup.", collection=name
        )

    def _collection(self, key: bytes) -> str | None:
        """Name of the collection that a key belongs to, as far as it can be read."""
        prefix = layout.key(0, Kind.CATALOGUE)
        try:
            for other, stored in self._stored(prefix):
                if _sound(other, stored):
                    record = layout.unpack(stored[:-SUM_BYTES], type=layout.CollectionRecord)
                    if layout.key(record.number, Kind.STATE)[:4] == key[:4]:
                        return other[len(prefix) :].decode()
        except CorruptionError:
            return None
        return None

    # --- writing ---------------------------------------------------------------------------

    def put(self, key: bytes, payload: bytes) -> None:
        """Store a payload under a key, in the place of what was there."""
        self.raw.put(key, payload + entry_sum(key, payload))

    def put_many(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """Store many, in the order of keys."""
        self.raw.cursor().putmulti(
            [(key, payload + entry_sum(key, payload)) for key, payload in pairs]
        )

    def put_rows(self, keys: Sequence[bytes], rows: NDArray[np.uint32]) -> None:
        """Store a row number under each key, in the order of keys."""
        if not keys:
            return
        pairs = np.empty((len(keys), 2), ">u4")
        pairs[:, 0] = rows
        pairs[:, 1] = entry_sums(keys, pairs[:, 0].tobytes())
        stored = pairs.view(f"V{pairs.itemsize * 2}").ravel().tolist()
        self.raw.cursor().putmulti(list(zip(keys, stored, strict=True)))

    def delete(self, key: bytes) -> bool:
        """Delete a key; tells whether it was there."""
        done: bool = self.raw.delete(key)
        return done

    def delete_range(self, prefix: bytes, end: bytes | None = None) -> None:
        """Delete every key with a prefix; those before `end`, if that is given."""
        cursor = self.raw.cursor()
        while cursor.set_range(prefix) and cursor.key().startswith(prefix):
            if end is not None and cursor.key() >= end:
                return
            if not cursor.delete():
                return


def _sound(key: bytes, stored: bytes) -> bool:
    return entry_sum(key, stored[:-SUM_BYTES]) == stored[-SUM_BYTES:]


def describe(key: bytes) -> str:
    """Say what a key is about."""
    try:
        collection, kind = layout.U32.unpack_from(key)[0], Kind(key[4])
    except (ValueError, IndexError, struct.error):
        return f"entry {key!r}"
    what = f"{kind.name.lower().replace('_', ' ')} entry"
    rest = key[5:]
    if kind in (Kind.METADATA, Kind.DOCUMENT, Kind.LOG, Kind.GRANTEES) and len(rest) == 4:
        what += f" of row {layout.U32.unpack(rest)[0]}"
    elif kind == Kind.TENANT and len(rest) == 4:
        what += f" {layout.U32.unpack(rest)[0]}"
    elif rest:
        what += f" {rest!r}"
    return f"{what} of collection number {collection}" if collection else what
