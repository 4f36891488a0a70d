"""What everything that writes to a collection works with, and snapshots as writers see them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vecstore.extent_set import Identity
from vecstore.layout import TENANT_NONE
from vecstore.search import Searcher
from vecstore.session import WriteLock
from vecstore.snapshot import Snapshot
from vecstore.storage import Environment
from vecstore.tenant_view import TenantView, open_tenant
from vecstore.transaction import Transaction


@dataclass(frozen=True)
class Writing:
    """Shared by the writer of a collection, its indexer and its tuner.

    Attributes
    ----------
    environment : Environment
    identity : Identity
    newest : callable
        Gives the newest committed snapshot.
    lock : WriteLock
        The store's write lock: whoever holds it sees no other commit.
    searcher : Searcher
    """

    environment: Environment
    identity: Identity
    newest: Callable[[], Snapshot]
    lock: WriteLock
    searcher: Searcher

    @property
    def collection(self) -> int:
        """Number of the collection."""
        return self.identity.record.number

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """Read what is committed."""
        transaction = self.environment.read()
        try:
            yield transaction
        finally:
            transaction.abort()

    def view(self, snapshot: Snapshot, tenant: int = TENANT_NONE) -> TenantView:
        """View a tenant in the newest snapshot; the write lock must be held."""
        with self.reading() as transaction:
            return open_tenant(snapshot, transaction, tenant)
