"""The row verbs of a remote collection, of one tenant, and of several read as one.

Arguments are checked by the functions that the library checks them with, before anything is sent,
so wrong ones raise the same errors with the same words.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from vecstore.client.transport import Transport
from vecstore.config import Metric
from vecstore.errors import (
    FilterError,
    InvalidArgumentError,
    ReadOnlyError,
    UnknownIdError,
)
from vecstore.filters import parse_where
from vecstore.ids import Ids, check_unique, parse_ids
from vecstore.inputs import (
    as_array,
    check_values,
    parse_documents,
    parse_include,
    parse_k,
    parse_metadata,
    parse_queries,
    parse_recall,
)
from vecstore.results import Explanation, Hit, Result
from vecstore.tenancy import parse_tenant
from vecstore.wire.bodies import CollectionInfo, HitBody, ResultBody
from vecstore.wire.encoding import array_of, read_vectors

if TYPE_CHECKING:
    from vecstore.table import EmbeddingTable

F32 = NDArray[np.float32]


class RemoteReads(ABC):
    """Reading rows.  All methods may be called from many threads; each sees one committed state."""

    _transport: Transport
    _info: CollectionInfo

    @abstractmethod
    def _tenants(self) -> tuple[str, ...] | None:
        """Tenants that a call is about."""

    def _call(self, verb: str, body: Any = None, **names: str) -> Any:
        path = {"collection": self._info.name, **names}
        return self._transport.call(verb, path, self._tenants(), body)

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return self._info.dim

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
        """Find the rows nearest to one vector; see `vecstore.Collection.query`."""
        body = self._question(vector, k, where, recall)
        body["include"] = list(parse_include(include))
        return [_hit(hit) for hit in self._call("query", body).hits]

    def explain(
        self, vector: Any, k: int = 10, where: Any = None, recall: float | None = None
    ) -> Explanation:
        """Answer a query like `query`, and tell how it was planned and what it read."""
        told = self._call("explain", self._question(vector, k, where, recall))
        fields = {name: getattr(told, name) for name in told.__struct_fields__}
        return Explanation(**{**fields, "hits": [_hit(hit) for hit in told.hits]})

    def search(
        self, vectors: Any, k: int = 10, where: Any = None, recall: float | None = None
    ) -> Result:
        """Find the rows nearest to each of many vectors; see `vecstore.Collection.search`."""
        _check_where(where)
        wanted = parse_k(k)
        queries = parse_queries(vectors, self.dim, self._info.name, False)
        check_values(queries, Metric.parse(self._info.metric), "Query")
        body = {"vectors": queries, "k": wanted, "where": where, "recall": parse_recall(recall)}
        return _result(self._call("search", body), len(queries), wanted, self._transport.packed)

    def get(self, ids: Any) -> Any:
        """Return rows by id with metadata and document; None for unknown ids."""
        parsed = parse_ids(ids)
        hits = [
            None if hit is None else _hit(hit)
            for hit in self._call("get", {"ids": parsed.plain()}).hits
        ]
        return hits[0] if parsed.scalar else hits

    def vectors(self, ids: Any) -> F32:
        """Return vectors by id, as they were given: float32 (n, dim), or (dim,) for one id."""
        parsed = parse_ids(ids)
        vectors = self._fetch(parsed)
        return vectors[0] if parsed.scalar else vectors

    def _fetch(self, ids: Ids) -> F32:
        vectors = self._call("vectors", {"ids": ids.plain()}).vectors
        found: F32 = read_vectors(vectors, self.dim).reshape(-1, self.dim)
        return found

    def table(self, missing: Any = None) -> EmbeddingTable:
        """View the collection as a table: ``table[ids]`` gives vectors in the shape of the ids."""
        from vecstore.table import EmbeddingTable

        return EmbeddingTable(
            cast("Any", _Fetcher(self)), self._tenants(), self._info.name, self.dim, missing
        )

    def count(self, where: Any = None) -> int:
        """Count live rows."""
        _check_where(where)
        counted: int = self._call("count", {"where": where}).count
        return counted

    def _question(self, vector: Any, k: Any, where: Any, recall: Any) -> dict[str, Any]:
        _check_where(where)
        query = parse_queries(vector, self.dim, self._info.name, True)
        check_values(query, Metric.parse(self._info.metric), "Query")
        return {
            "vector": query[0],
            "k": parse_k(k),
            "where": where,
            "recall": parse_recall(recall),
        }


class RemoteRows(RemoteReads):
    """Reading and writing rows."""

    def upsert(self, ids: Any, vectors: Any, metadata: Any = None, documents: Any = None) -> None:
        """Insert rows, or replace whole rows whose ids exist; see `vecstore.Collection.upsert`."""
        self._put("upsert", ids, vectors, metadata, documents)

    def add(self, ids: Any, vectors: Any, metadata: Any = None, documents: Any = None) -> None:
        """Insert rows like `upsert`, but raise `DuplicateIdError` when an id exists."""
        self._put("add", ids, vectors, metadata, documents)

    def _put(self, verb: str, ids: Any, vectors: Any, metadata: Any, documents: Any) -> None:
        parsed = parse_ids(ids)
        array = as_array(vectors, self.dim, self._info.name, parsed.scalar)
        if len(array) != len(parsed):
            raise InvalidArgumentError(
                f"{len(parsed)} ids for {len(array)} vectors; lengths must agree."
            )
        check_unique(parsed)
        body: dict[str, Any] = {
            "ids": parsed.plain(),
            "metadata": parse_metadata(metadata, len(parsed), parsed.scalar),
            "documents": parse_documents(documents, len(parsed), parsed.scalar),
        }
        check_values(array, Metric.parse(self._info.metric))
        body["vectors"] = np.ascontiguousarray(array, np.float32)
        self._call(verb, body)

    def delete(self, ids: Any = None, where: Any = None) -> int:
        """Delete rows by id, by a filter, or both; see `vecstore.Collection.delete`."""
        _check_where(where)
        parsed = None if ids is None else parse_ids(ids)
        if where == {}:
            raise FilterError(
                f"where is {where!r}, which matches all rows; name ids, or drop what is to go."
            )
        body = {"ids": None if parsed is None else parsed.plain(), "where": where}
        deleted: int = self._call("delete", body).count
        return deleted


class RemoteTenant(RemoteRows):
    """The rows of one tenant, and those that others granted to it; got from `tenant(name)`."""

    def __init__(self, transport: Transport, info: CollectionInfo, name: str) -> None:
        self._transport = transport
        self._info = info
        self.name = name

    def __repr__(self) -> str:
        """Show the names."""
        return f"RemoteTenant({self.name!r} of {self._info.name!r})"

    def _tenants(self) -> tuple[str, ...]:
        return (self.name,)

    def grant(self, ids: Any, to: str) -> int:
        """Let another tenant see rows of this one; see `vecstore.Tenant.grant`."""
        return self._change_grants("grant", "to", ids, to)

    def revoke(self, ids: Any, from_: str) -> int:
        """End grants: from the return on, no call of the other finds the rows."""
        return self._change_grants("revoke", "from", ids, from_)

    def _change_grants(self, verb: str, argument: str, ids: Any, other: Any) -> int:
        name = parse_tenant(other)
        counted: int = self._call(verb, {"ids": parse_ids(ids).plain(), argument: name}).count
        return counted


class RemoteTenantUnion(RemoteReads):
    """Several tenants read as one; a row that several see is there once."""

    def __init__(self, transport: Transport, info: CollectionInfo, names: tuple[str, ...]) -> None:
        self._transport = transport
        self._info = info
        self.names = names

    def __repr__(self) -> str:
        """Show the names."""
        shown = ", ".join(map(repr, self.names))
        return f"RemoteTenantUnion({shown} of {self._info.name!r})"

    def _tenants(self) -> tuple[str, ...]:
        return self.names

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        """Raise: a union can only be read."""
        raise ReadOnlyError(
            f"Tenants {', '.join(map(repr, self.names))} are read together; write to one of them."
        )

    upsert = add = delete = grant = revoke = _refuse


class _Fetcher:
    """What `EmbeddingTable` reads through."""

    def __init__(self, rows: RemoteReads) -> None:
        self._rows = rows

    def count(self, scope: Any, where: Any) -> int:
        return self._rows.count()

    def fetch_vectors(self, scope: Any, ids: Ids, missing: F32 | None = None) -> F32:
        if missing is None:
            return self._rows._fetch(ids)
        out = np.tile(missing, (len(ids), 1))
        hits = self._rows.get(ids.values)
        places = np.array([i for i, hit in enumerate(hits) if hit is not None], np.int64)
        while len(places):
            try:
                out[places] = self._rows._fetch(ids.part(places))
            except UnknownIdError:  # one was deleted meanwhile
                hits = self._rows.get(ids.part(places).values)
                places = places[[hit is not None for hit in hits]]
            else:
                break
        return out


def _check_where(where: Any) -> None:
    if where is not None:
        parse_where(where)


def _hit(body: HitBody) -> Hit:
    vector = None if body.vector is None else np.asarray(_floats(body.vector), np.float32)
    return Hit(body.id, body.distance, body.metadata, body.document, vector, body.tenant)


def _floats(vector: list[float] | bytes) -> Any:
    return array_of(vector, "f4") if isinstance(vector, bytes) else vector


def _result(body: ResultBody, n: int, k: int, packed: bool) -> Result:
    ids: NDArray[Any]
    if isinstance(body.ids, bytes):
        ids = array_of(body.ids, "i8")
    else:
        flat = [one for row in body.ids for one in row]
        # Packed ids are bytes if they are numbers; a JSON list without any may be of either kind.
        numbers = not packed and all(isinstance(one, int) for one in flat)
        ids = np.array(flat, np.int64) if numbers else _objects(flat)
    distances: F32
    if isinstance(body.distances, bytes):
        distances = array_of(body.distances, "f4")
    else:
        flat_distances = [np.inf if one is None else one for row in body.distances for one in row]
        distances = np.array(flat_distances, np.float32)
    tenants = None
    if body.tenants is not None:
        tenants = _objects([one for row in body.tenants for one in row]).reshape(n, k)
    return Result(ids.reshape(n, k), distances.reshape(n, k), tenants)


def _objects(values: list[Any]) -> NDArray[Any]:
    out = np.empty(len(values), object)
    out[:] = values
    return out
