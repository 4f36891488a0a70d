"""Giving space back: extents that were retired, and what a crash left."""

from __future__ import annotations

from contextlib import suppress

from vecstore import layout
from vecstore.disk_errors import disk_errors
from vecstore.extents import extent_path, remove_orphans
from vecstore.layout import Kind
from vecstore.lookups import build_pieces
from vecstore.storage import Environment
from vecstore.transaction import Transaction


def numbered(transaction: Transaction, collection: int, kind: Kind) -> list[int]:
    """Extent numbers that end the keys of one kind."""
    prefix = layout.key(collection, kind)
    return [int(layout.U64.unpack(key[len(prefix) :])[0]) for key, _ in transaction.scan(prefix)]


def remove_leftovers(environment: Environment, collections: list[int]) -> None:
    """Delete files that no transaction names, and retired ones that nobody reads.

    Only a writer may call it: a file on its way to its first commit looks like a leftover.
    """
    transaction = environment.read_committed()
    try:
        named = set(numbered(transaction, 0, Kind.RETIRED))
        for collection in collections:
            named.update(numbered(transaction, collection, Kind.EXTENT))
            named.update(one.number for one in build_pieces(transaction, collection))
    finally:
        transaction.abort()
    environment.sync()
    with disk_errors(environment.extents):
        remove_orphans(environment.extents, named)
    remove_retired(environment)


def remove_retired(environment: Environment) -> int:
    """Unlink retired extents whose transaction no reader is older than; how many are left.

    The transaction must be durable.  A file that cannot be removed stays retired.
    """
    transaction = environment.read_committed()
    try:
        prefix = layout.key(0, Kind.RETIRED)
        retired = {
            int(layout.U64.unpack(key[len(prefix) :])[0]): int(layout.U64.unpack(value)[0])
            for key, value in transaction.scan(prefix)
        }
    finally:
        transaction.abort()
    if not retired:
        return 0
    oldest = environment.oldest_reader()
    gone = []
    for number, stamp in retired.items():
        if oldest is None or oldest >= stamp:
            with suppress(OSError):
                extent_path(environment.extents, number).unlink(missing_ok=True)
                gone.append(number)
    if gone:
        with environment.write() as transaction:
            for number in gone:
                transaction.delete(layout.key_u64(0, Kind.RETIRED, number))
    return len(retired) - len(gone)
