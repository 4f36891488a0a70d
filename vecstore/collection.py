"""A collection: the row verbs users call, each over one snapshot."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import lmdb
import numpy as np
from numpy.typing import NDArray

from vecstore import layout
from vecstore.calibrate import choose_effort
from vecstore.clustering import Progress
from vecstore.config import K_MAX, RECALL_DEFAULT, Metric
from vecstore.errors import (
    CollectionNotFoundError,
    CorruptionError,
    FilterError,
    InvalidArgumentError,
    InvalidVectorError,
    ReadOnlyError,
    TenantRequiredError,
    UnknownIdError,
)
from vecstore.inputs import (
    Ids,
    as_array,
    check_id_kind,
    check_unique,
    check_values,
    parse_documents,
    parse_ids,
    parse_k,
    parse_metadata,
    parse_queries,
    parse_recall,
)
from vecstore.kernels.encode import gather_rows
from vecstore.layout import NO_ROW, TENANT_NONE, Kind
from vecstore.results import Hit, Result
from vecstore.search import Searcher, effort_array
from vecstore.session import Session
from vecstore.snapshot import Identity, Snapshot, take_snapshot
from vecstore.stats import collection_stats
from vecstore.write import Batch, Writer, silent

_INCLUDABLE = frozenset({"metadata", "document", "vector"})
_SNAPSHOT_TRIES = 20


class Collection:
    """Rows of one kind: vectors of one dimension under one metric, with ids and metadata.

    Got from `Store.collection`. All methods may be called from many threads; each call sees one
    committed state.
    """

    def __init__(self, session: Session, identity: Identity) -> None:
        self._session = session
        self._identity = identity
        record = identity.record
        self._dim = record.dim
        self._number = record.number
        self._searcher = Searcher(record.dim)
        self._refresh = threading.Lock()
        self._last: Snapshot | None = None
        self._efforts: dict[tuple[float | None, int], NDArray[np.float64]] = {}
        self._writer = Writer(
            session.environment, identity, self._newest, session.write_lock, self._searcher
        )

    # --- what it is ------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Name of the collection."""
        return self._identity.name

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return self._dim

    @property
    def metric(self) -> str:
        """Distance: "l2", "cosine" or "ip"."""
        return Metric(self._identity.record.metric).label

    def __repr__(self) -> str:
        """Show name and shape."""
        return f"Collection({self.name!r}, dim={self.dim}, metric={self.metric!r})"

    def __bool__(self) -> bool:
        """Return True, even when empty."""
        return True

    def __len__(self) -> int:
        """Count live rows."""
        return self.count()

    # --- writing ---------------------------------------------------------------------------

    def upsert(
        self, ids: Any, vectors: Any, metadata: Any = None, documents: Any = None
    ) -> None:
        """Insert rows, or replace whole rows whose ids exist.

        Parameters
        ----------
        ids : str, int, or a sequence of either
            str of 1 to 256 UTF-8 bytes or int 0 to 2**63 - 1; a collection has one kind.
        vectors : array-like (n, dim), or (dim,) with a scalar id
            Stored as float32.
        metadata : sequence of (dict or None), optional
            Dicts of JSON values, returned equal.
        documents : sequence of (str or None), optional

        Raises
        ------
        InvalidVectorError, InvalidArgumentError, DuplicateIdError, ReadOnlyError, DiskFullError
            Nothing was written.
        """
        self._put(ids, vectors, metadata, documents, False, silent)

    def add(self, ids: Any, vectors: Any, metadata: Any = None, documents: Any = None) -> None:
        """Insert rows like `upsert`, but raise `DuplicateIdError` when an id exists."""
        self._put(ids, vectors, metadata, documents, True, silent)

    def load(
        self,
        vectors: Any,
        ids: Any = None,
        metadata: Any = None,
        documents: Any = None,
        progress: Progress | None = None,
    ) -> None:
        """Upsert many rows, reading a memory map in blocks and reporting progress.

        Parameters
        ----------
        vectors : array-like (n, dim)
            A `numpy.memmap` is never copied as a whole.
        ids : sequence, optional
            0 to n - 1 by default.
        metadata, documents : sequence, optional
        progress : callable, optional
            Called as `progress(stage, done, total)`.
        """
        if ids is None:
            ids = np.arange(len(vectors), dtype=np.int64)
        self._put(ids, vectors, metadata, documents, False, progress or silent)

    def _put(
        self,
        ids: Any,
        vectors: Any,
        metadata: Any,
        documents: Any,
        add: bool,
        progress: Progress,
    ) -> None:
        self._refuse_read_only()
        parsed = parse_ids(ids)
        array = as_array(vectors, self._dim, self.name, parsed.scalar)
        if len(array) != len(parsed):
            raise InvalidArgumentError(
                f"{len(parsed)} ids for {len(array)} vectors; lengths must agree."
            )
        check_unique(parsed)
        batch = Batch(
            parsed,
            array,
            parse_metadata(metadata, len(parsed), parsed.scalar),
            parse_documents(documents, len(parsed), parsed.scalar),
        )
        check_values(array, self._identity.record.metric)
        with self._session.running():
            check_id_kind(parsed, self._newest().state.int_ids, self.name)
            if len(parsed):
                self._writer.put(batch, add=add, progress=progress)

    def delete(self, ids: Any = None, where: Any = None) -> int:
        """Delete rows by id; from the return on, no call that begins later finds them.

        Parameters
        ----------
        ids : str, int, or a sequence of either
            Unknown ids are skipped.

        Returns
        -------
        int
            Rows removed.
        """
        self._refuse_read_only()
        if where is not None:
            if where == {}:
                raise FilterError("delete with an empty where would delete all; name ids.")
            _refuse_filter(where)
        if ids is None:
            raise InvalidArgumentError("delete needs ids; drop the collection to delete all.")
        parsed = parse_ids(ids)
        with self._session.running():
            check_id_kind(parsed, self._newest().state.int_ids, self.name)
            return self._writer.delete(parsed) if len(parsed) else 0

    # --- reading ---------------------------------------------------------------------------

    def query(
        self,
        vector: Any,
        k: int = 10,
        where: Any = None,
        recall: float | None = None,
        include: Sequence[str] = ("metadata",),
    ) -> list[Hit]:
        """Find the rows nearest to one vector.

        Parameters
        ----------
        vector : array-like (dim,)
        k : int
            Hits wanted; min(k, rows) are returned, nearest first, ties by insertion.
        recall : float in (0, 1], optional
            Share of the true nearest to find on average; 1.0 is exact, default 0.95.
        include : subset of {"metadata", "document", "vector"}

        Raises
        ------
        InvalidVectorError, InvalidArgumentError, FilterError, CorruptionError
        """
        if where:
            _refuse_filter(where)
        if include != ("metadata",):
            include = _parse_include(include)
        if type(k) is not int or not 0 < k <= K_MAX:
            k = parse_k(k)
        queries = parse_queries(vector, self._dim, self.name, True)
        with self._session.running() as environment:
            transaction = environment.read()
            try:
                snapshot, transaction = self._current(transaction)
                effort = self._effort(snapshot, recall, k)
                wanted = min(k, snapshot.state.live_rows)
                if wanted == 0:
                    self._check_queries(queries)
                    return []
                rows, distances, _ = self._searcher.one(snapshot, effort, queries, wanted)
                return self._hits(transaction, snapshot, rows, distances.tolist(), include)
            finally:
                transaction.abort()

    def search(
        self, vectors: Any, k: int = 10, where: Any = None, recall: float | None = None
    ) -> Result:
        """Find the rows nearest to each of many vectors, on all cores.

        Parameters
        ----------
        vectors : array-like (n, dim)
        k : int
        recall : float in (0, 1], optional

        Returns
        -------
        Result
            ids (n, k) and distances (n, k), padded with -1 or None and +inf.
        """
        if where:
            _refuse_filter(where)
        k = parse_k(k)
        queries = parse_queries(vectors, self._dim, self.name, False)
        with self._session.running() as environment:
            transaction = environment.read()
            try:
                snapshot, transaction = self._current(transaction)
                effort = self._effort(snapshot, recall, k)
                wanted = min(k, snapshot.state.live_rows)
                is_int = snapshot.state.int_ids is not False
                ids: NDArray[Any] = (
                    np.full((len(queries), k), -1, np.int64)
                    if is_int
                    else np.full((len(queries), k), None, object)
                )
                distances = np.full((len(queries), k), np.inf, np.float32)
                if wanted and len(queries):
                    rows, near, _ = self._searcher.many(snapshot, effort, queries, wanted)
                    distances[:, :wanted] = near
                    ids[:, :wanted] = snapshot.ids_of(rows.ravel()).reshape(rows.shape)
                else:
                    self._check_queries(queries)
                return Result(ids, distances)
            finally:
                transaction.abort()

    def get(self, ids: Any) -> Any:
        """Return rows by id with metadata and document; None for unknown ids.

        Returns
        -------
        list of (Hit or None), aligned with `ids`; a scalar id gives one Hit or None
        """
        parsed = parse_ids(ids)
        with self._session.running() as environment:
            transaction = environment.read()
            try:
                snapshot, transaction = self._current(transaction)
                check_id_kind(parsed, snapshot.state.int_ids, self.name)
                hits: list[Hit | None] = []
                for value, row in zip(
                    parsed.plain(), self._rows(transaction, parsed), strict=True
                ):
                    if row is None:
                        hits.append(None)
                        continue
                    metadata = self._metadata(transaction, row)
                    hits.append(Hit(value, None, metadata, self._document(transaction, row)))
                return hits[0] if parsed.scalar else hits
            finally:
                transaction.abort()

    def vectors(self, ids: Any) -> NDArray[np.float32]:
        """Return vectors by id, as they were given.

        Returns
        -------
        float32 (n, dim), or (dim,) for a scalar id

        Raises
        ------
        UnknownIdError
        """
        parsed = parse_ids(ids)
        with self._session.running() as environment:
            transaction = environment.read()
            try:
                snapshot, transaction = self._current(transaction)
                check_id_kind(parsed, snapshot.state.int_ids, self.name)
                rows = self._rows(transaction, parsed)
                for value, row in zip(parsed.plain(), rows, strict=True):
                    if row is None:
                        raise UnknownIdError(
                            f"Collection {self.name!r} has no id {value!r}; use get to test."
                        )
                vectors = self._read_vectors(snapshot, np.array(rows, np.uint32))
                return vectors[0] if parsed.scalar else vectors
            finally:
                transaction.abort()

    def count(self, where: Any = None) -> int:
        """Count live rows."""
        if where:
            _refuse_filter(where)
        return self._newest().state.live_rows

    def stats(self) -> dict[str, Any]:
        """Describe size, shape and calibration; see the README for the fields."""
        with self._session.running():
            return collection_stats(self._newest())

    def tenant(self, *names: str) -> Any:
        """Raise: this collection has no tenants."""
        raise TenantRequiredError(f"Collection {self.name!r} has no tenants; call its verbs.")

    # --- inside ----------------------------------------------------------------------------

    def _refuse_read_only(self) -> None:
        if not self._session.writable:
            raise ReadOnlyError(
                f"The store {self._session.environment.path} is open for reading; "
                f"open it with mode='w' to write."
            )

    def _newest(self) -> Snapshot:
        with self._session.running() as environment:
            transaction = environment.read()
            try:
                snapshot, transaction = self._current(transaction)
                return snapshot
            finally:
                transaction.abort()

    def _current(self, transaction: lmdb.Transaction) -> tuple[Snapshot, lmdb.Transaction]:
        """Snapshot of a read transaction, or of a newer one when files were just replaced."""
        last = self._last
        if last is not None and last.transaction == transaction.id():
            return last, transaction
        with self._refresh:
            for _ in range(_SNAPSHOT_TRIES):
                last = self._last
                try:
                    self._refuse_dropped(transaction)
                    if last is not None and last.transaction > transaction.id():
                        raise FileNotFoundError
                    if last is None or last.transaction != transaction.id():
                        self._last = last = take_snapshot(self._identity, transaction, last)
                        self._efforts = {}
                    return last, transaction
                except FileNotFoundError as error:
                    missing = error
                    transaction.abort()
                    transaction = self._session.environment.read()
        raise CorruptionError(
            f"Collection {self.name!r} names an extent that is missing ({missing.filename}); "
            f"restore a backup.",
            collection=self.name,
        )

    def _refuse_dropped(self, transaction: lmdb.Transaction) -> None:
        key = layout.key(0, Kind.CATALOGUE, self.name.encode())
        raw = transaction.get(key)
        if raw is None or layout.unpack(raw, type=layout.CollectionRecord).number != self._number:
            raise CollectionNotFoundError(f"Collection {self.name!r} was dropped.")

    def _effort(
        self, snapshot: Snapshot, recall: float | None, k: int
    ) -> NDArray[np.float64]:
        effort = self._efforts.get((recall, k))
        if effort is None:
            target = parse_recall(recall)
            chosen = choose_effort(
                snapshot.state.calibration, RECALL_DEFAULT if target is None else target, k
            )
            effort = effort_array(chosen, snapshot)
            self._efforts[(recall, k)] = effort
        return effort

    def _check_queries(self, queries: NDArray[np.float32]) -> None:
        """Hold queries to the same rules when there is nothing to search."""
        try:
            check_values(queries, self._identity.record.metric)
        except InvalidVectorError as error:
            raise InvalidVectorError(str(error).replace("; nothing was written", "")) from None

    def _hits(
        self,
        transaction: lmdb.Transaction,
        snapshot: Snapshot,
        rows: NDArray[np.uint32],
        distances: list[float],
        include: Sequence[str],
    ) -> list[Hit]:
        numbers = [row for row in rows.tolist() if row != NO_ROW]
        state = snapshot.state
        metadata = bool(state.metadata_rows) and "metadata" in include
        documents = bool(state.document_rows) and "document" in include
        vectors = None
        if "vector" in include:
            vectors = self._read_vectors(snapshot, rows[: len(numbers)])
        return [
            Hit(
                snapshot.id_of(row),
                distance,
                self._metadata(transaction, row) if metadata else None,
                self._document(transaction, row) if documents else None,
                None if vectors is None else vectors[place],
            )
            for place, (row, distance) in enumerate(zip(numbers, distances, strict=False))
        ]

    def _metadata(self, transaction: lmdb.Transaction, row: int) -> dict[str, Any] | None:
        raw = transaction.get(layout.key_u32(self._number, Kind.METADATA, row))
        return None if raw is None else layout.unpack(raw)

    def _document(self, transaction: lmdb.Transaction, row: int) -> str | None:
        raw = transaction.get(layout.key_u32(self._number, Kind.DOCUMENT, row))
        return None if raw is None else str(raw, "utf8")

    def _rows(self, transaction: lmdb.Transaction, ids: Ids) -> list[int | None]:
        prefix = layout.id_prefix(self._number, TENANT_NONE)
        found: list[int | None] = []
        for raw_id in ids.encoded():
            raw = transaction.get(prefix + raw_id)
            found.append(None if raw is None else int(layout.U32.unpack(raw)[0]))
        return found

    def _read_vectors(
        self, snapshot: Snapshot, rows: NDArray[np.uint32]
    ) -> NDArray[np.float32]:
        snapshot.verify_rows(rows)
        out = np.empty((len(rows), self._dim), np.float32)
        gather_rows(snapshot.addresses(rows), self._dim, out)
        return out

    def _close(self) -> None:
        """Let go of maps and threads; the store calls it once no call runs."""
        self._searcher.close()
        last, self._last = self._last, None
        if last is not None:
            for extent in last.extents.mapped.values():
                extent.close()


def _refuse_filter(where: Any) -> None:
    raise FilterError(
        f"where is {where!r}; this version has no metadata filters. Filter the hits, or keep "
        f"one collection per label."
    )


def _parse_include(include: Any) -> tuple[str, ...]:
    if isinstance(include, str) or not hasattr(include, "__iter__"):
        raise InvalidArgumentError(
            f"include is {include!r}; pass a sequence out of {sorted(_INCLUDABLE)}."
        )
    parts = tuple(include)
    for part in parts:
        if part not in _INCLUDABLE:
            raise InvalidArgumentError(
                f"include has {part!r}; choose out of {sorted(_INCLUDABLE)}."
            )
    return parts
