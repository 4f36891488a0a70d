"""A collection: the row verbs users call, each over one snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.choice import Request
from vecstore.clustering import Progress
from vecstore.config import K_MAX, Metric
from vecstore.errors import (
    FilterError,
    InvalidArgumentError,
    InvalidVectorError,
    ReadOnlyError,
    TenantRequiredError,
)
from vecstore.extent_set import Identity
from vecstore.ids import check_id_kind, check_unique, parse_ids
from vecstore.inputs import (
    as_array,
    check_values,
    parse_documents,
    parse_include,
    parse_k,
    parse_metadata,
    parse_queries,
    refuse_filter,
)
from vecstore.reader import Reader
from vecstore.results import Hit, Result, Tuning
from vecstore.search import Searcher
from vecstore.session import Session
from vecstore.stats import collection_stats
from vecstore.table import EmbeddingTable
from vecstore.tune import Tuner
from vecstore.write import Batch, Writer, silent


class Collection:
    """Rows of one kind: vectors of one dimension under one metric, with ids and metadata.

    Got from `Store.collection`. All methods may be called from many threads; each call sees one
    committed state.
    """

    def __init__(self, session: Session, identity: Identity) -> None:
        self._session = session
        self._identity = identity
        self._dim = identity.record.dim
        self._searcher = Searcher()
        self._reader = Reader(session, identity, self._searcher)
        parts = (
            session.environment,
            identity,
            self._reader.newest,
            session.write_lock,
            self._searcher,
        )
        self._writer = Writer(*parts)
        self._tuner = Tuner(*parts)

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

    def upsert(self, ids: Any, vectors: Any, metadata: Any = None, documents: Any = None) -> None:
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
            if not hasattr(vectors, "__len__"):
                raise InvalidVectorError(f"vectors is {vectors!r}; pass an array (n, {self._dim}).")
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
        identity = self._identity
        check_values(array, identity.record.metric, check_form=identity.form.check)
        with self._session:
            check_id_kind(parsed, self._reader.newest().state.int_ids, self.name)
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
            if type(where) is dict and not where:
                raise FilterError("delete with an empty where would delete all; name ids.")
            refuse_filter(where)
        if ids is None:
            raise InvalidArgumentError("delete needs ids; drop the collection to delete all.")
        parsed = parse_ids(ids)
        with self._session:
            check_id_kind(parsed, self._reader.newest().state.int_ids, self.name)
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
        if where is not None:
            refuse_filter(where)
        if include != ("metadata",):
            include = parse_include(include)
        if type(k) is not int or not 0 < k <= K_MAX:
            k = parse_k(k)
        query = parse_queries(vector, self._dim, self.name, True)
        return self._reader.nearest(query, k, recall, include)

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
        if where is not None:
            refuse_filter(where)
        k = parse_k(k)
        queries = parse_queries(vectors, self._dim, self.name, False)
        return self._reader.nearest_many(queries, k, recall)

    def get(self, ids: Any) -> Any:
        """Return rows by id with metadata and document; None for unknown ids.

        Returns
        -------
        list of (Hit or None), aligned with `ids`; a scalar id gives one Hit or None
        """
        parsed = parse_ids(ids)
        hits = self._reader.fetch(parsed)
        return hits[0] if parsed.scalar else hits

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
        vectors = self._reader.fetch_vectors(parsed)
        return vectors[0] if parsed.scalar else vectors

    def table(self, missing: Any = None) -> EmbeddingTable:
        """View the collection as a table: ``table[ids]`` gives vectors in the shape of the ids.

        Parameters
        ----------
        missing : array-like (dim,), optional
            Row given for unknown ids; without it they raise `UnknownIdError`.
        """
        return EmbeddingTable(self._reader, self.name, self._dim, missing)

    def count(self, where: Any = None) -> int:
        """Count live rows."""
        if where is not None:
            refuse_filter(where)
        return self._reader.newest().state.live_rows

    def stats(self) -> dict[str, Any]:
        """Describe size, shape and calibration; see the README for the fields."""
        with self._session:
            stats = collection_stats(self._reader.newest())
        return {**stats, "maintenance": self._writer.behind or "up to date"}

    def tenant(self, *names: str) -> Any:
        """Raise: this collection has no tenants."""
        raise TenantRequiredError(f"Collection {self.name!r} has no tenants; call its verbs.")

    # --- tuning ----------------------------------------------------------------------------

    def tune(
        self,
        queries: Any = None,
        recall: float = 0.95,
        k: int = 10,
        ram_bytes: int | None = None,
        disk_bytes: int | None = None,
        *,
        codecs: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> Tuning:
        """Choose codec and effort by measuring them on this collection.

        Every candidate codec encodes all rows; recall is measured against exact search over the
        vectors as they are stored, for a grid of probes and rerank depths. The quickest candidate
        that reaches the recall within the budgets is kept, and queries that name no recall aim at
        this one from now on. Writers wait meanwhile, readers do not.

        Parameters
        ----------
        queries : array-like (n, dim), optional
            Queries as users ask them. Without, rows of the collection serve, each without itself
            among its neighbours; the result says so.
        recall : float in (0, 1)
        k : int
        ram_bytes : int, optional
            What tables and directory of the collection may take.
        disk_bytes : int, optional
            What its extents may take.
        codecs : sequence of str, optional
            Candidates; `vecstore.choice.CODECS` by default.
        progress : callable, optional
            Called as `progress(stage, done, total)`.

        Raises
        ------
        TargetNotMetError
            Nothing was changed.
        """
        self._refuse_read_only()
        request = Request.parse(self._identity, queries, recall, k, ram_bytes, disk_bytes, codecs)
        with self._session:
            return self._tuner.tune(request, progress or silent)

    def tuning(self) -> Tuning | None:
        """Return the last decision of `tune` with its evidence; None when there was none."""
        return self._reader.tuning()

    # --- inside ----------------------------------------------------------------------------

    def _refuse_read_only(self) -> None:
        if not self._session.writable:
            raise ReadOnlyError(
                f"The store {self._session.environment.path} is open for reading; "
                f"open it with mode='w' to write."
            )

    def _close(self) -> None:
        """Let go of maps and threads; the store calls it once no call runs."""
        self._searcher.close()
        self._reader.close()
