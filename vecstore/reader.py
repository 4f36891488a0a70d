"""Reading a collection: snapshots kept current, queries answered, rows fetched.

Each call begins one LMDB read transaction, takes the snapshot that belongs to it, and returns
only what that one committed state holds.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from itertools import repeat
from pathlib import Path
from typing import Any, TypeVar

import lmdb
import msgspec
import numpy as np
from numpy.typing import NDArray

from vecstore import layout
from vecstore.config import ANSWERS_MAX
from vecstore.disk_errors import explain
from vecstore.errors import (
    CorruptionError,
    InvalidArgumentError,
    UnknownIdError,
)
from vecstore.explain import Trace
from vecstore.extent_set import Identity
from vecstore.filters import Filter
from vecstore.ids import Ids, check_id_kind
from vecstore.inputs import check_values, parse_recall
from vecstore.kernels.encode import gather_rows
from vecstore.layout import NO_ROW, TENANT_NONE, Kind
from vecstore.lookups import find_tenant, known_tenant, refuse_dropped
from vecstore.planning import check_where_quota, make_plan, matching_rows
from vecstore.results import Explanation, Hit, Result, Tuning
from vecstore.rowsets import distinct
from vecstore.scopes import Names, Scope, count_distinct, find_ids, merge, owner_names, owner_table
from vecstore.search import Searcher
from vecstore.session import Session
from vecstore.snapshot import Snapshot, take_snapshot, tenant_names
from vecstore.stats import collection_stats
from vecstore.tenant_view import TenantView, open_tenant
from vecstore.transaction import Transaction

F = TypeVar("F", bound=Callable[..., Any])
F32 = NDArray[np.float32]
U32 = NDArray[np.uint32]
_SNAPSHOT_TRIES = 20
_NOTHING: Iterable[Any] = repeat(None)


def _typed(verb: F) -> F:
    """Let failures of LMDB and bytes that do not decode leave a verb as typed errors."""

    @wraps(verb)
    def guarded(self: Reader, *args: Any) -> Any:
        try:
            return verb(self, *args)
        except (lmdb.Error, msgspec.DecodeError, struct.error) as error:
            raise explain(error, self._session.environment.path) from error

    return guarded  # type: ignore[return-value]


def _answered(rows: U32) -> U32:
    """Rows of an answer without the places that were left over, which come last."""
    return rows if rows.item(-1) != NO_ROW else rows[rows != np.uint32(NO_ROW)]


class Reader:
    """Answers the read verbs of one collection; safe to use from many threads."""

    def __init__(self, session: Session, identity: Identity, searcher: Searcher) -> None:
        self._session = session
        self._identity = identity
        self._number = identity.record.number
        self._name = identity.name
        self._dim = identity.record.dim
        self._searcher = searcher
        self._refresh = threading.Lock()
        self._last: Snapshot | None = None
        self._losses = 0
        self._names = Names(self._number)

    @_typed
    def newest(self) -> Snapshot:
        """Return the newest committed snapshot."""
        with self._reading() as (snapshot, _):
            return snapshot

    @_typed
    def view(self) -> TenantView:
        """Return the only tenant's view of the newest committed snapshot."""
        with self._reading() as (snapshot, transaction):
            return open_tenant(snapshot, transaction)

    @_typed
    def nearest(
        self,
        scope: Scope,
        query: F32,
        k: int,
        where: Filter | None,
        recall: float | None,
        include: Sequence[str],
        trace: Trace | None = None,
    ) -> list[Hit]:
        """Answer one query (1, dim); `trace` notes how."""
        search = self._searcher.one if trace is None else trace.timed(self._searcher.one)
        with self._session as environment:
            transaction = environment.read()
            try:
                snapshot, transaction = self._current(transaction)
                found: list[tuple[TenantView, U32, F32]] = []
                for view in self._views(transaction, snapshot, scope):
                    plan = make_plan(transaction, view, where, recall, k)
                    if trace is not None:
                        trace.plans.append(plan)
                    wanted = min(k, plan.view.rows)
                    if wanted:
                        rows, distances, _ = search(plan.view, plan.settings, query, wanted)
                        found.append((view, rows, distances))
                if not found:
                    parse_recall(recall)
                    self._check_queries(query)
                    return []
                owners: list[str | None] | None
                if len(found) == 1:
                    rows = _answered(rows)
                    owners = owner_names(transaction, self._names, found[0][0], rows)
                else:
                    rows, distances, owners = merge(transaction, self._names, found, k)
                return self._hits(transaction, snapshot, rows, distances, include, owners)
            finally:
                transaction.abort()

    @_typed
    def explained(
        self, scope: Scope, query: F32, k: int, where: Filter | None, recall: float | None
    ) -> Explanation:
        """Answer one query (1, dim) and tell how."""
        trace = Trace()
        hits = self.nearest(scope, query, k, where, recall, ("metadata",), trace)
        return trace.explanation(hits)

    @_typed
    def nearest_many(
        self, scope: Scope, queries: F32, k: int, where: Filter | None, recall: float | None
    ) -> Result:
        """Answer queries (n, dim) on all cores."""
        shape = (len(queries), k)
        if shape[0] * shape[1] > ANSWERS_MAX:
            raise InvalidArgumentError(
                f"{shape[0]} queries with k = {k} have {shape[0] * shape[1]} answers; a batch "
                f"has at most {ANSWERS_MAX}. Divide it, or lower k."
            )
        rows = np.full(shape, NO_ROW, np.uint32)
        distances = np.full(shape, np.inf, np.float32)
        owners = None if scope is None else np.full(shape, None, object)
        with self._reading() as (snapshot, transaction):
            views = self._views(transaction, snapshot, scope)
            parse_recall(recall)
            found = []
            for view in views:
                plan = make_plan(transaction, view, where, recall, k)
                wanted = min(k, plan.view.rows)
                if wanted and len(queries):
                    many = self._searcher.many(plan.view, plan.settings, queries, wanted)
                    found.append((view, *many[:2]))
            if not found:
                self._check_queries(queries)
            if len(found) == 1:
                view, own_rows, own_distances = found[0]
                wanted = own_rows.shape[1]
                rows[:, :wanted], distances[:, :wanted] = own_rows, own_distances
                if owners is not None:
                    owners[:, :wanted] = owner_table(transaction, self._names, view, own_rows)
            elif found:
                for i in range(len(queries)):
                    one = [(view, r[i], d[i]) for view, r, d in found]
                    own_rows, own_distances, names = merge(transaction, self._names, one, k)
                    rows[i, : len(own_rows)] = own_rows
                    distances[i, : len(own_rows)] = own_distances
                    if owners is not None:
                        owners[i, : len(own_rows)] = names
            ids = snapshot.ids_of(rows.ravel()).reshape(shape)
            return Result(ids, distances, owners)

    def _views(
        self, transaction: Transaction, snapshot: Snapshot, scope: Scope
    ) -> list[TenantView]:
        """Views of the tenants named that exist; of the only one without names."""
        if scope is None:
            return [open_tenant(snapshot, transaction)]
        views = []
        for name in scope:
            number = find_tenant(transaction, self._number, name)
            if number is not None:
                view = open_tenant(snapshot, transaction, number)
                if view.record.name != name:
                    raise transaction.lack(layout.key_u32(self._number, Kind.TENANT, number))
                views.append(view)
        return views

    @_typed
    def count(self, scope: Scope, where: Filter | None) -> int:
        """Rows that can be found, each once."""
        with self._reading() as (snapshot, transaction):
            views = self._views(transaction, snapshot, scope)
            if where is not None:
                found = [np.zeros(0, np.uint32)]
                for view in views:
                    check_where_quota(view, where)
                    found.append(matching_rows(transaction, view, where))
                return len(distinct(np.concatenate(found)))
            if len(views) == 1:
                return views[0].rows
            return count_distinct(transaction, views)

    @_typed
    def fetch(self, scope: Scope, ids: Ids) -> list[Hit | None]:
        """Rows by id, with metadata and document."""
        with self._reading() as (snapshot, transaction):
            check_id_kind(ids, snapshot.state.int_ids, self._name)
            rows, owners = find_ids(
                transaction, self._number, self._numbers(transaction, scope), ids
            )
            known = np.flatnonzero(rows != np.uint32(NO_ROW)).tolist()
            numbers, values = rows[known].tolist(), ids.plain()
            hits: list[Hit | None] = [None] * len(values)
            for place, metadata, document, owner in zip(
                known,
                snapshot.metadata(transaction, numbers),
                snapshot.documents(transaction, numbers),
                self._names.find(transaction, [owners[place] for place in known]),
                strict=True,
            ):
                hits[place] = Hit(values[place], None, metadata, document, None, owner)
            return hits

    @_typed
    def fetch_vectors(self, scope: Scope, ids: Ids, missing: F32 | None = None) -> F32:
        """Raw vectors by id, float32 (n, dim); `missing` (dim,) stands for unknown ids."""
        with self._reading() as (snapshot, transaction):
            check_id_kind(ids, snapshot.state.int_ids, self._name)
            rows, _ = find_ids(transaction, self._number, self._numbers(transaction, scope), ids)
            known = rows != np.uint32(NO_ROW)
            if known.all():
                return self.vectors_of(snapshot, rows)
            if missing is None:
                raise UnknownIdError(
                    f"Collection {self._name!r} has no id {ids.one(int(known.argmin()))!r}; "
                    f"use get to test."
                )
            out = np.tile(missing, (len(ids), 1))
            out[known] = self.vectors_of(snapshot, rows[known])
            return out

    def _numbers(self, transaction: Transaction, scope: Scope) -> list[int]:
        """Numbers of the tenants named that exist."""
        if scope is None:
            return [TENANT_NONE]
        found = (known_tenant(transaction, self._number, name) for name in scope)
        return [number for number in found if number is not None]

    @_typed
    def tenants(self) -> list[str]:
        """Names of all tenants, sorted."""
        with self._reading() as (snapshot, transaction):
            return sorted(tenant_names(transaction, snapshot))

    @_typed
    def stats(self) -> dict[str, Any]:
        """Describe the newest committed snapshot."""
        with self._reading() as (snapshot, transaction):
            return collection_stats(snapshot, transaction)

    @_typed
    def tuning(self) -> Tuning | None:
        """Read the last tuning and its evidence."""
        with self._reading() as (_, transaction):
            raw = transaction.get(layout.key(self._number, Kind.TUNING))
            return None if raw is None else layout.unpack(raw, type=Tuning)

    def close(self) -> None:
        """Let go of the maps; no call may run any more."""
        last, self._last = self._last, None
        if last is not None:
            last.tenants.clear()
            for extent in last.extents.mapped.values():
                extent.close()

    # --- snapshots -------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[tuple[Snapshot, Transaction]]:
        """One call's snapshot and transaction; `nearest` spells it out to save a microsecond."""
        with self._session as environment:
            transaction = environment.read()
            try:
                snapshot, transaction = self._current(transaction)
                yield snapshot, transaction
            finally:
                transaction.abort()

    @contextmanager
    def opened(self, scope: Scope) -> Iterator[tuple[Snapshot, Transaction, list[TenantView]]]:
        """One committed state, and what each of some tenants finds in it, for a whole block."""
        with self._reading() as (snapshot, transaction):
            yield snapshot, transaction, self._views(transaction, snapshot, scope)

    def _current(self, transaction: Transaction) -> tuple[Snapshot, Transaction]:
        """Snapshot of a read transaction, or of a newer one when files were just replaced."""
        last = self._last
        calls = self._session.environment.calls
        if last is not None and last.transaction == transaction.id() and last.calls == calls:
            return last, transaction
        missing = ""
        replaced: list[Snapshot] = []  # let go of without the lock: files may go with them
        with self._refresh:
            for attempt in range(_SNAPSHOT_TRIES):
                losses = self._session.environment.losses
                if losses != self._losses:
                    self._last, self._losses = None, losses
                    self._names = Names(self._number)  # numbers in what was lost are given again
                last = self._last
                calls = self._session.environment.calls
                # The number of an open batch is given again when nothing came of it: a later
                # transaction may have a lower one.
                vanished = last is not None and last.calls > 0 and attempt > 0
                if last is None or last.transaction - vanished <= transaction.id():
                    try:
                        refuse_dropped(transaction, self._identity)
                        known = None if last is None else (last.transaction, last.calls)
                        if last is None or known != (transaction.id(), calls):
                            made = take_snapshot(self._identity, transaction, last, calls=calls)
                            if last is not None and last.tenants is not made.tenants:
                                replaced.append(last)
                                last.tenants.clear()
                            self._last = last = made
                        return last, transaction
                    except FileNotFoundError as error:
                        missing = str(error.filename)
                    except BaseException:
                        transaction.abort()
                        raise
                transaction.abort()
                transaction = self._session.environment.read()
        transaction.abort()
        raise CorruptionError(
            f"Collection {self._name!r} names an extent that is missing ({missing}); "
            f"restore a backup.",
            collection=self._name,
            extent=int(Path(missing).stem),
        )

    # --- rows ------------------------------------------------------------------------------

    def _check_queries(self, queries: F32) -> None:
        """Hold queries to the same rules when there is nothing to search."""
        check_values(queries, self._identity.record.metric, "Query")

    def _hits(
        self,
        transaction: Transaction,
        snapshot: Snapshot,
        rows: U32,
        distances: F32,
        include: Sequence[str],
        owners: list[str | None] | None,
    ) -> list[Hit]:
        state = snapshot.state
        metadata = documents = vectors = _NOTHING
        if state.metadata_rows and "metadata" in include:
            metadata = snapshot.metadata(transaction, rows.tolist())
        if state.document_rows and "document" in include:
            documents = snapshot.documents(transaction, rows.tolist())
        if "vector" in include:
            vectors = self.vectors_of(snapshot, rows)
        ids, values = snapshot.ids_of(rows).tolist(), distances.tolist()
        if metadata is documents is vectors is _NOTHING and owners is None:
            return list(map(Hit, ids, values))
        return list(map(Hit, ids, values, metadata, documents, vectors, owners or _NOTHING))

    def vectors_of(self, snapshot: Snapshot, rows: NDArray[np.uint32]) -> NDArray[np.float32]:
        """Vectors (n, dim) of rows that stand in a snapshot."""
        self._searcher.check_rows(snapshot, rows)
        out = np.empty((len(rows), self._dim), np.float32)
        gather_rows(self._identity.form.number, snapshot.addresses(rows), out)
        return out
