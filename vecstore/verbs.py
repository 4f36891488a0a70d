"""The row verbs: what a collection, a tenant and a union of tenants offer alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.clustering import Progress, silent
from vecstore.config import K_MAX
from vecstore.core import Core
from vecstore.errors import FilterError, InvalidArgumentError
from vecstore.filters import Filter, parse_where
from vecstore.ids import check_id_kind, check_unique, parse_ids
from vecstore.inputs import (
    as_array,
    check_values,
    parse_documents,
    parse_include,
    parse_k,
    parse_metadata,
    parse_queries,
)
from vecstore.reader import Reader
from vecstore.results import Explanation, Hit, Result
from vecstore.scopes import Scope
from vecstore.table import EmbeddingTable
from vecstore.tenancy import Tenancy, check_unique_by_tenant
from vecstore.write import Batch


class ReadVerbs(ABC):
    """Reading rows.  All methods may be called from many threads; each sees one committed state."""

    _core: Core

    @abstractmethod
    def _scope(self) -> Scope:
        """Tenants that a call is about; raises when it must name one and does not."""

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return self._core.dim

    def __bool__(self) -> bool:
        """Return True, even when empty."""
        return True

    def __len__(self) -> int:
        """Count live rows."""
        return self.count()

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
        matching = parse_filter(where)
        if include != ("metadata",):
            include = parse_include(include)
        if type(k) is not int or not 0 < k <= K_MAX:
            k = parse_k(k)
        query = parse_queries(vector, self._core.dim, self._core.name, True)
        return self._core.reader.nearest(self._scope(), query, k, matching, recall, include)

    def explain(
        self, vector: Any, k: int = 10, where: Any = None, recall: float | None = None
    ) -> Explanation:
        """Answer a query like `query`, and tell how it was planned and what it read."""
        matching = parse_filter(where)
        k = parse_k(k)
        query = parse_queries(vector, self._core.dim, self._core.name, True)
        return self._core.reader.explained(self._scope(), query, k, matching, recall)

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
        matching = parse_filter(where)
        k = parse_k(k)
        queries = parse_queries(vectors, self._core.dim, self._core.name, False)
        return self._core.reader.nearest_many(self._scope(), queries, k, matching, recall)

    def get(self, ids: Any) -> Any:
        """Return rows by id with metadata and document; None for unknown ids.

        Returns
        -------
        list of (Hit or None), aligned with `ids`; a scalar id gives one Hit or None
        """
        parsed = parse_ids(ids)
        hits = self._core.reader.fetch(self._scope(), parsed)
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
        vectors = self._core.reader.fetch_vectors(self._scope(), parsed)
        return vectors[0] if parsed.scalar else vectors

    def table(self, missing: Any = None) -> EmbeddingTable:
        """View the collection as a table: ``table[ids]`` gives vectors in the shape of the ids.

        Parameters
        ----------
        missing : array-like (dim,), optional
            Row given for unknown ids; without it they raise `UnknownIdError`.
        """
        return EmbeddingTable(
            self._core.reader, self._scope(), self._core.name, self._core.dim, missing
        )

    def count(self, where: Any = None) -> int:
        """Count live rows."""
        return self._core.reader.count(self._scope(), parse_filter(where))


def source_of(view: ReadVerbs) -> tuple[Reader, Scope]:
    """Reader of a view's collection, and the tenants that the view shows.

    Raises
    ------
    TenantRequiredError
    """
    return view._core.reader, view._scope()


class Verbs(ReadVerbs):
    """Reading and writing rows."""

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
        self._put(ids, vectors, metadata, documents, False)

    def add(self, ids: Any, vectors: Any, metadata: Any = None, documents: Any = None) -> None:
        """Insert rows like `upsert`, but raise `DuplicateIdError` when an id exists."""
        self._put(ids, vectors, metadata, documents, True)

    def _put(
        self,
        ids: Any,
        vectors: Any,
        metadata: Any,
        documents: Any,
        add: bool,
        progress: Progress = silent,
        tenants: Any = None,
    ) -> None:
        core = self._core
        core.refuse_read_only()
        parsed = parse_ids(ids)
        array = as_array(vectors, core.dim, core.name, parsed.scalar)
        if len(array) != len(parsed):
            raise InvalidArgumentError(
                f"{len(parsed)} ids for {len(array)} vectors; lengths must agree."
            )
        tenancy = self._tenancy(len(parsed), tenants)
        if tenancy is None or len(tenancy.names) <= 1:
            check_unique(parsed)
        else:
            check_unique_by_tenant(parsed, tenancy)
        batch = Batch(
            parsed,
            array,
            parse_metadata(metadata, len(parsed), parsed.scalar),
            parse_documents(documents, len(parsed), parsed.scalar),
            tenancy,
        )
        identity = core.identity
        check_values(array, identity.record.metric, check_form=identity.form.check)
        with core.session:
            check_id_kind(parsed, core.reader.newest().state.int_ids, core.name)
            if len(parsed):
                core.writer.put(batch, add=add, progress=progress)

    def _tenancy(self, n: int, tenants: Any) -> Tenancy | None:
        """Whose the rows of a call are."""
        scope = self._scope()
        return None if scope is None else Tenancy.single(scope[0], n)

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
        self._core.refuse_read_only()
        scope = self._scope()
        matching = parse_filter(where)
        if where is not None and matching is None:
            raise FilterError(
                f"where is {where!r}, which matches all rows; name ids, or drop what is to go."
            )
        if ids is None and matching is None:
            raise InvalidArgumentError("delete needs ids or where; drop what is to go as a whole.")
        parsed = None if ids is None else parse_ids(ids)
        core = self._core
        with core.session:
            tenant = None if scope is None else scope[0]
            if parsed is not None:
                check_id_kind(parsed, core.reader.newest().state.int_ids, core.name)
                if not len(parsed):
                    return 0
            return core.writer.delete(parsed, matching, tenant)


def parse_filter(where: Any) -> Filter | None:
    """Check a filter; None when it matches all rows."""
    if where is None:
        return None
    parsed = parse_where(where)
    return None if parsed.everything else parsed
