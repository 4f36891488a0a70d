"""One function for each verb: from its decoded body to its answer, by the library's own verb.

A handler gets what its caller was handed (see `scope`), so it can do whatever its argument can.
Limits of the service are held here, before the engine is asked.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from vecstore.config import INT_ID_MAX
from vecstore.errors import CollectionNotFoundError, InvalidArgumentError, RequestTooLargeError
from vecstore.picture import picture
from vecstore.service.metrics import Metrics
from vecstore.service.options import Options
from vecstore.service.scope import Stores, rows_of, view_of
from vecstore.wire import bodies
from vecstore.wire.encoding import read_vector, read_vectors
from vecstore.wire.verbs import Verb


@dataclass(slots=True)
class Call:
    """What a handler needs to know of a call.

    Attributes
    ----------
    stores : Stores
    store : Store or BoundStore
        What the caller was handed.
    names : dict
        Names in the path.
    tenants : tuple of str, or None
    body : Request or None
    options : Options
    metrics : Metrics
    """

    stores: Stores
    store: Any
    names: dict[str, str]
    tenants: tuple[str, ...] | None
    body: Any
    options: Options
    metrics: Metrics

    @property
    def docs(self) -> Any:
        """The collection named."""
        return self.stores.docs(self.store, self.names["collection"])

    @property
    def rows(self) -> Any:
        """What the row verbs are those of."""
        return rows_of(self.docs, self.tenants)


def _hold_k(call: Call, rows: Any) -> None:
    """Hold the hits of a query against the limit; k itself may be any, as in the library."""
    k, limit = call.body.k, call.options.k_max
    if k > limit and min(k, rows.count(call.body.where)) > limit:
        raise RequestTooLargeError(f"k is {k}; this service gives at most {limit} hits a query.")


def _hold_rows(call: Call, what: str, rows: int) -> None:
    if rows > call.options.rows_max:
        raise RequestTooLargeError(
            f"The call has {rows} {what}; this service takes at most {call.options.rows_max} at "
            f"once. Divide it."
        )


def _query(call: Call) -> Any:
    body: bodies.Question = call.body
    rows = call.rows
    _hold_k(call, rows)
    vector = read_vector(body.vector)
    return {"hits": rows.query(vector, body.k, body.where, body.recall, tuple(body.include))}


def _search(call: Call) -> Any:
    body: bodies.Questions = call.body
    rows = call.rows
    _hold_k(call, rows)
    vectors = read_vectors(body.vectors, rows.dim)
    if vectors.ndim == 2 and len(vectors) * body.k > call.options.answers_max:
        raise RequestTooLargeError(
            f"{len(vectors)} queries with k = {body.k} have {len(vectors) * body.k} hits; this "
            f"service gives at most {call.options.answers_max} at once. Divide the batch."
        )
    return rows.search(vectors, body.k, body.where, body.recall)


def _explain(call: Call) -> Any:
    body: bodies.Explain = call.body
    rows = call.rows
    _hold_k(call, rows)
    return rows.explain(read_vector(body.vector), body.k, body.where, body.recall)


def _ids(call: Call, ids: bodies.Ids) -> bodies.Ids:
    if isinstance(ids, list):
        _hold_rows(call, "ids", len(ids))
    return ids


def _get(call: Call) -> Any:
    hits = call.rows.get(_ids(call, call.body.ids))
    return {"hits": hits if isinstance(call.body.ids, list) else [hits]}


def _vectors(call: Call) -> Any:
    vectors = call.rows.vectors(_ids(call, call.body.ids))
    return {"vectors": vectors.reshape(-1, vectors.shape[-1])}


def _count(call: Call) -> Any:
    return bodies.Number(call.rows.count(call.body.where))


def _upsert(call: Call) -> Any:
    return _put(call, "upsert")


def _add(call: Call) -> Any:
    return _put(call, "add")


def _put(call: Call, verb: str) -> bodies.Done:
    body: bodies.Rows = call.body
    ids = _ids(call, body.ids)
    rows = call.rows
    vectors = read_vectors(body.vectors, rows.dim, not isinstance(ids, list))
    getattr(rows, verb)(ids, vectors, body.metadata, body.documents)
    return bodies.Done()


def _load(call: Call) -> Any:
    body: bodies.LoadRows = call.body
    docs = call.docs
    ids = _ids(call, body.ids)
    vectors = read_vectors(body.vectors, docs.dim, not isinstance(ids, list))
    docs.load(vectors, ids, body.metadata, body.documents, tenants=body.tenants)
    return bodies.Done()


def _delete(call: Call) -> Any:
    return bodies.Number(call.rows.delete(call.body.ids, call.body.where))


def _grant(call: Call) -> Any:
    return bodies.Number(_tenant(call).grant(_ids(call, call.body.ids), call.body.to))


def _revoke(call: Call) -> Any:
    return bodies.Number(_tenant(call).revoke(_ids(call, call.body.ids), call.body.from_))


def _tenant(call: Call) -> Any:
    return call.docs.tenant(*(call.tenants or ()))


def _info(docs: Any) -> Any:
    return {"name": docs.name, **docs.options}


def _open(call: Call) -> Any:
    options = {name: getattr(call.body, name) for name in call.body.__struct_fields__}
    return _info(call.store.collection(call.names["collection"], **options))


def _drop(call: Call) -> Any:
    call.store.drop(call.names["collection"])
    return bodies.Done()


def _drop_tenant(call: Call) -> Any:
    call.docs.drop_tenant(call.names["name"])
    return bodies.Done()


def _set_quota(call: Call) -> Any:
    quota: bodies.Quota = call.body
    call.docs.set_quota(
        call.names["name"],
        rows=quota.rows,
        k=quota.k,
        query_bytes=quota.query_bytes,
        where=quota.where,
    )
    return bodies.Done()


def _compact(call: Call) -> Any:
    call.docs.compact()
    return bodies.Done()


def _tune(call: Call) -> Any:
    body: bodies.TuneRequest = call.body
    for name in ("ram_bytes", "disk_bytes"):
        value = getattr(body, name)
        if value is not None and not 0 <= value <= INT_ID_MAX:
            raise InvalidArgumentError(f"{name} is {value}; use 0 to 2**63 - 1, or null.")
    docs = call.docs
    queries = None if body.queries is None else read_vectors(body.queries, docs.dim)
    tuning = docs.tune(
        queries, body.recall, body.k, body.ram_bytes, body.disk_bytes, codecs=body.codecs
    )
    return {"tuning": tuning}


def _repair(call: Call) -> Any:
    return bodies.Sentences(call.store.repair(drop_damaged=call.body.drop_damaged))


def _keep_backup(call: Call) -> Any:
    back_up, folder = call.store.backup, call.options.backups  # who may not is told nothing else
    if folder is None:
        raise InvalidArgumentError(
            "This service was started without a folder for backups; fetch one as a stream."
        )
    name = time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + f"-{secrets.token_hex(3)}"
    back_up(folder / name)
    return bodies.BackupName(name)


def carry_out(verb: str, call: Call) -> Any:
    """Call the handler of a verb."""
    try:
        return HANDLERS[verb](call)
    except CollectionNotFoundError:
        if not call.stores.forget(call.names.get("collection", "")):
            raise
    return HANDLERS[verb](call)  # it was dropped and, maybe, made anew


def tell_again(verb: Verb, call: Call, result: int) -> Any:
    """Answer a call that was carried out before, by what its receipt says."""
    if verb.answer is bodies.Number:
        return bodies.Number(result)
    return _info(call.docs) if verb.answer is bodies.CollectionInfo else bodies.Done()


HANDLERS: Final[dict[str, Callable[[Call], Any]]] = {
    "query": _query,
    "search": _search,
    "explain": _explain,
    "get": _get,
    "vectors": _vectors,
    "count": _count,
    "upsert": _upsert,
    "add": _add,
    "load": _load,
    "delete": _delete,
    "grant": _grant,
    "revoke": _revoke,
    "collections": lambda call: bodies.CollectionNames(call.store.collections()),
    "collection": lambda call: _info(call.docs),
    "open": _open,
    "create": _open,
    "drop": _drop,
    "stats": lambda call: {"stats": call.docs.stats()},
    "tenants": lambda call: bodies.TenantNames(call.docs.tenants()),
    "drop_tenant": _drop_tenant,
    "set_quota": _set_quota,
    "compact": _compact,
    "tune": _tune,
    "tuning": lambda call: {"tuning": call.docs.tuning()},
    "store_stats": lambda call: {"stats": _without_path(call.store.stats())},
    "activity": lambda call: {"stats": call.store.stats() and call.metrics.recent()},
    "map": lambda call: {"stats": picture(view_of(call.rows))},
    "keep_backup": _keep_backup,
    "check": lambda call: {"violations": call.store.check()},
    "repair": _repair,
}
"""Verbs that answer with one body; those that stream are in `transfer`."""


def _without_path(stats: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in stats.items() if name != "path"}
