"""Receipts: writes that are carried out once, however often they come.

Who does not learn whether a write was carried out (its process was killed, the line was cut) sends
it again under the same key.  So the transaction of the write itself holds a receipt: the key, what
was written, and the result.

Invariants
----------
* A receipt is committed with the write that it tells of, or not at all.
* The last `RECEIPTS_MAX` are there, each for `RECEIPT_S` at most: number n stands in place n modulo
  `RECEIPTS_MAX`, where the one before it ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from vecstore import layout
from vecstore.errors import CorruptionError, VecstoreError
from vecstore.layout import RECEIPTS_MAX, Kind, ReceiptRecord
from vecstore.storage import Environment
from vecstore.transaction import Transaction

RECEIPT_S = 86_400.0
"""A write that is sent again later than this is carried out again."""


class Receipts:
    """The receipts of one store, as its only writer knows them; may be used from many threads."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._lock = threading.Lock()
        self._own = threading.local()
        self._loaded = False
        self._next = 0
        self._places: dict[int, ReceiptRecord] = {}
        self._known: dict[bytes, ReceiptRecord] = {}

    def find(self, key: bytes) -> ReceiptRecord | None:
        """Find the receipt of a write that was carried out under a key.

        Raises
        ------
        CorruptionError
        """
        self._load()
        found = self._known.get(key)
        if found is None or time.time() - found.at > RECEIPT_S:
            return None
        return found

    @contextmanager
    def carrying(self, key: bytes, fingerprint: bytes) -> Iterator[None]:
        """Have the write of this thread in this block leave a receipt.

        Parameters
        ----------
        key : bytes
            Of one caller: no other may come to the same.
        fingerprint : bytes
            Tells this write from others under the same key.
        """
        self._load()
        blank = ReceiptRecord(-1, time.time(), key, fingerprint, 0)
        self._own.receipt = blank
        try:
            yield
        finally:
            written = self._own.receipt
            self._own.receipt = None
            if written is not blank:
                with suppress(VecstoreError):  # whoever writes next is told
                    self._remember_committed(written)

    def put(self, transaction: Transaction, result: int = 0) -> None:
        """Write the receipt of this thread's write, if it is to have one, beside it.

        The caller holds the store's write lock.

        Parameters
        ----------
        transaction : Transaction
            That of the write.
        result : int
            What the verb returns.
        """
        blank = getattr(self._own, "receipt", None)
        if blank is None:
            return
        number, self._next = self._next, self._next + 1
        receipt = ReceiptRecord(number, blank.at, blank.key, blank.fingerprint, result)
        transaction.put(place_of(number), layout.pack(receipt))
        self._own.receipt = receipt

    def _load(self) -> None:
        with self._lock:
            if self._loaded:
                return
            transaction = self._environment.read()
            try:
                stored = [record for _, record in read_receipts(transaction)]
            finally:
                transaction.abort()
            for record in sorted(stored, key=lambda one: one.number):
                self._remember(record)
                self._next = record.number + 1
            self._loaded = True

    def _remember_committed(self, receipt: ReceiptRecord) -> None:
        """Remember a receipt if the transaction that wrote it became one."""
        transaction = self._environment.read()
        try:
            stored = transaction.get(place_of(receipt.number))
        finally:
            transaction.abort()
        if stored == layout.pack(receipt):
            with self._lock:
                self._remember(receipt)

    def _remember(self, receipt: ReceiptRecord) -> None:
        place = receipt.number % RECEIPTS_MAX
        before = self._places.get(place)
        if before is not None and self._known.get(before.key) is before:
            del self._known[before.key]
        self._places[place] = self._known[receipt.key] = receipt


def place_of(number: int) -> bytes:
    """LMDB's key of a receipt."""
    return layout.key_u32(0, Kind.RECEIPT, number % RECEIPTS_MAX)


def read_receipts(transaction: Transaction) -> Iterator[tuple[bytes, ReceiptRecord]]:
    """Walk all receipts, with their keys in LMDB, in no particular order.

    Raises
    ------
    CorruptionError
    """
    for key, raw in transaction.scan(layout.key(0, Kind.RECEIPT)):
        yield key, layout.unpack(raw, type=ReceiptRecord)


def wrong_receipts(transaction: Transaction) -> Iterator[str]:
    """Say what is wrong with receipts: that they cannot be read, or stand in another's place."""
    try:
        for key, receipt in read_receipts(transaction):
            if key != place_of(receipt.number):
                yield f"receipt {receipt.number} stands under {key!r}"
    except CorruptionError as error:
        yield f"{error}"
