"""The parts of an open collection, which its verbs and those of its tenants share."""

from __future__ import annotations

from vecstore.errors import ReadOnlyError
from vecstore.extent_set import Identity
from vecstore.maintenance import Maintenance
from vecstore.reader import Reader
from vecstore.search import Searcher
from vecstore.session import Session
from vecstore.tune import Tuner
from vecstore.write import Writer
from vecstore.writing import Writing


class Core:
    """Reader, writer and tuner of one collection."""

    def __init__(self, session: Session, identity: Identity, maintenance: Maintenance) -> None:
        self.session = session
        self.identity = identity
        self.name = identity.name
        self.dim = identity.record.dim
        self.searcher = Searcher()
        self.reader = Reader(session, identity, self.searcher)
        self.writing = Writing(session, identity, self.reader.newest, self.searcher)
        self.writer = Writer(self.writing, maintenance)
        self.tuner = Tuner(self.writing)

    def refuse_read_only(self) -> None:
        """Raise unless the store is open for writing."""
        if not self.session.writable:
            raise ReadOnlyError(
                f"The store {self.session.environment.path} is open for reading; "
                f"open it with mode='w' to write."
            )

    def close(self) -> None:
        """Let go of maps and threads; no call may run any more."""
        self.searcher.close()
        self.reader.close()
