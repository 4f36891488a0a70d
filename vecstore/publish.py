"""Extents on their way: their numbers, the commit that names them, what becomes of the others."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from vecstore import layout
from vecstore.built import Built
from vecstore.extent_set import Identity
from vecstore.facts import Edit, put_store, read_store
from vecstore.layout import Kind
from vecstore.reclaim import remove_retired
from vecstore.storage import Environment
from vecstore.writing import Writing


class ExtentNumbers:
    """Gives out extent numbers from those that the store has not used yet.

    Whoever holds the store's build lock may have one.

    Attributes
    ----------
    value : int
        The next one; the transaction that publishes stores it.
    """

    def __init__(self, environment: Environment) -> None:
        transaction = environment.read()
        try:
            self.value = read_store(transaction).next_extent
        finally:
            transaction.abort()

    def __call__(self) -> int:
        """Give a number."""
        self.value += 1
        return self.value - 1


@contextmanager
def publishing(writing: Writing, numbers: ExtentNumbers) -> Iterator[Edit]:
    """Change facts and names of extents in one synced transaction; what raises undoes it."""
    with writing.committing(), writing.environment.write() as transaction:
        store = read_store(transaction)
        store.next_extent = numbers.value
        put_store(transaction, store)
        edit = Edit(transaction, writing.identity)
        yield edit
        edit.finish()


def clear_retired(writing: Writing) -> int:
    """Unlink extents that were retired, where no reader is older; how many are left."""
    with writing.committing():
        return remove_retired(writing.environment)


def return_memory() -> None:
    """Give freed memory back to the system, where the C library does so when asked (glibc).

    It keeps what was freed in small pieces, and LMDB takes the pages of a transaction one by one.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def abandon(
    environment: Environment,
    identity: Identity,
    builts: Iterable[Built],
    kept: Callable[[int], bool] = lambda number: False,
) -> None:
    """Remove extents of a failed call, unless a commit that seemed to fail names them.

    When a commit failed, nobody knows whether it is on disk: then the next writer removes them.

    Parameters
    ----------
    kept : callable
        Tells whether an extent stays for the next attempt.
    """
    if environment.refuses_writes:
        return
    transaction = environment.read()

    def is_named(number: int) -> bool:
        if kept(number):
            return True
        key = layout.key_u64(identity.record.number, Kind.EXTENT, number)
        return transaction.get(key) is not None

    try:
        for built in builts:
            built.abandon(is_named)
    finally:
        transaction.abort()
