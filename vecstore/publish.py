"""Extents on their way: numbers for new ones, and what becomes of those that nobody names."""

from __future__ import annotations

from collections.abc import Iterable

from vecstore import layout
from vecstore.build import Built
from vecstore.extent_set import Identity
from vecstore.facts import read_store
from vecstore.layout import Kind
from vecstore.storage import Environment


class ExtentNumbers:
    """Gives out extent numbers from those that the store has not used yet.

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


def abandon(environment: Environment, identity: Identity, builts: Iterable[Built]) -> None:
    """Remove extents of a failed call, unless a commit that seemed to fail names them.

    When a commit failed, nobody knows whether it is on disk: then the next writer removes them.
    """
    if environment.refuses_writes:
        return
    transaction = environment.read()

    def is_named(number: int) -> bool:
        key = layout.key_u64(identity.record.number, Kind.EXTENT, number)
        return transaction.get(key) is not None

    try:
        for built in builts:
            built.abandon(is_named)
    finally:
        transaction.abort()
