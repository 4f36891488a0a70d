"""What everything that writes to a collection works with, and states as builders see them.

Two locks order those who change a store.  The *write lock* is held for one transaction, a moment.
The *build lock* is held by whoever makes or replaces extents, for as long as that takes: a bulk
load, a flush, a merge, a tuning.  A builder captures a committed state, works on it while other
calls go on writing rows, and takes the write lock again to publish.  Who needs both takes the
build lock first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vecstore.config import CHUNK_ROWS
from vecstore.extent_set import Identity
from vecstore.facts import Edit
from vecstore.layout import TENANT_NONE, align
from vecstore.lookups import read_state
from vecstore.receipts import Receipts
from vecstore.search import Searcher
from vecstore.session import BuildLock, Session, WriteLock
from vecstore.snapshot import Snapshot
from vecstore.storage import Environment
from vecstore.tenant_view import TenantView, open_tenant
from vecstore.transaction import Transaction


@dataclass(frozen=True)
class Captured:
    """One committed state of a collection, held still while others go on writing.

    Attributes
    ----------
    snapshot : Snapshot
    transaction : Transaction
        The one that it belongs to.
    """

    snapshot: Snapshot
    transaction: Transaction

    def view(self, tenant: int = TENANT_NONE) -> TenantView:
        """View a tenant."""
        return open_tenant(self.snapshot, self.transaction, tenant)


@dataclass(frozen=True)
class Writing:
    """Shared by the writer of a collection, its indexer, its compactor and its tuner.

    Attributes
    ----------
    session : Session
    identity : Identity
    newest : callable
        Gives the newest snapshot.
    searcher : Searcher
    """

    session: Session
    identity: Identity
    newest: Callable[[], Snapshot]
    searcher: Searcher

    @property
    def environment(self) -> Environment:
        """LMDB's environment."""
        return self.session.environment

    @property
    def lock(self) -> WriteLock:
        """The store's write lock: while it is held nobody else commits."""
        return self.session.write_lock

    @property
    def build_lock(self) -> BuildLock:
        """The store's build lock: whoever holds it alone names and retires extents."""
        return self.session.build_lock

    @property
    def receipts(self) -> Receipts:
        """Of the store: the transaction of a call puts one beside what it writes."""
        return self.session.receipts

    @property
    def workers(self) -> int:
        """Threads of a build: all cores for a call, half of them beside calls."""
        cores = self.searcher.workers
        return max(1, cores // 2) if self.build_lock.in_background else cores

    @property
    def collection(self) -> int:
        """Number of the collection."""
        return self.identity.record.number

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """Read what was written last, by calls in an open batch too."""
        transaction = self.environment.read()
        try:
            yield transaction
        finally:
            transaction.abort()

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Have the write lock, taken here or by the caller."""
        if self.lock.held:
            yield
        else:
            with self.lock:
                yield

    @contextmanager
    def captured(self, *, seal: bool = False) -> Iterator[Captured]:
        """Capture the newest state; what a batch has open is committed before.

        Parameters
        ----------
        seal : bool
            Rows that are written from now on get numbers from the next chunk on: those that the
            row log has can become an extent of their own.
        """
        with self.committing():
            if seal:
                self._seal()
            self.environment.flush()
            snapshot = self.newest()
            transaction = self.environment.read_committed()
        try:
            yield Captured(snapshot, transaction)
        finally:
            transaction.abort()

    def _seal(self) -> None:
        with self.reading() as transaction:
            next_row = read_state(transaction, self.collection).next_row
        if next_row % CHUNK_ROWS:
            with self.environment.write() as transaction:
                edit = Edit(transaction, self.identity)
                edit.skip_to(align(edit.state.next_row, CHUNK_ROWS))
                edit.finish()
